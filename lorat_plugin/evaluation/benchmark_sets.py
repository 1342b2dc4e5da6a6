"""The benchmarks by name: what their folders look like, how they are read, how their results are kept.

GOT-10k, LaSOT and its extension, TrackingNet, TNL2K, VastTrack, VOT and plain clips are read by the readers of `data`;
OTB, UAV123, NfS, DTB70 and TColor128 by the GOT-10k toolkit's classes, which know the frames that count.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lorat_plugin.box_files import read_boxes
from lorat_plugin.boxes import xyxy_to_xywh
from lorat_plugin.data.catalogue import dataset_root
from lorat_plugin.data.clips import LAYOUT as CLIPS_LAYOUT
from lorat_plugin.data.folders import tnl2k_reader, vasttrack_reader, vot_reader
from lorat_plugin.data.got10k import Got10kReader, read_list
from lorat_plugin.data.lasot import LAYOUT as LASOT_LAYOUT
from lorat_plugin.data.lasot import LasotReader
from lorat_plugin.data.lmdb import is_lmdb
from lorat_plugin.data.sequences import LISTED, FolderStore, Frames, Reader, image_size, select
from lorat_plugin.data.trackingnet import TrackingNetReader
from lorat_plugin.errors import InputError, first_line
from lorat_plugin.evaluation.attributes import UAV_ATTRIBUTES, flagged
from lorat_plugin.evaluation.benchmarks import Benchmark, EvaluationSequence, FramePaths, Layout
from lorat_plugin.evaluation.clips import find_scorable_clips
from lorat_plugin.files import decode_text, read_plain_text
from lorat_plugin.images import IMAGE_NAME

logger = logging.getLogger(__name__)

LASOT_EXT_CLASSES = (  # of 10 sequences each
    "atv badminton cosplay dancingshoe footbag frisbee jianzi lantern misc opossum paddle raccoon rhino skatingshoe"
    " wingsuit"
)
WITH_MORE_FRAMES = ("monkey-17",)  # LaSOT published more frames of it than boxes; its toolkit takes as many as boxes


@dataclass(frozen=True)
class Published:
    """A benchmark before its files are opened.

    Fields: name, as users write it; layout, its folders and files in words; folder, of results, where {} stands for the
    subset; subsets, name -> number of sequences that were published, 0 if that is open; the first one is the default,
    and "" the only one; the others as in `Benchmark`.
    """

    name: str
    layout: str
    folder: str
    subsets: dict[str, int]
    style: Layout = "flat"
    origin: int = 0
    rasterize: bool = False
    protocol: str = "lorat"


BENCHMARKS = {
    item.name: item
    for item in (
        Published(
            "got10k",
            "ROOT/val/list.txt and ROOT/val/GOT-10k_Val_000001/ with 00000001.jpg ..., groundtruth.txt, absence.label,"
            " cover.label; ROOT/test/ with list.txt, frames and one line in each groundtruth.txt",
            "GOT-10k",
            {"val": 180, "test": 180},
            style="nested",
            rasterize=True,
            protocol="got10k",
        ),
        Published("lasot", LASOT_LAYOUT, "LaSOT", {"test": 280, "train": 1120}, origin=1),
        Published("lasot_ext", LASOT_LAYOUT.replace("airplane", "atv"), "LaSOT_ext", {"": 150}),
        Published(
            "trackingnet",
            "ROOT/TEST/ with frames/<video>/0.jpg ... and anno/<video>.txt (one line)",
            "TrackingNet",
            {"": 511},
            rasterize=True,
        ),
        Published("tnl2k", tnl2k_reader().layout, "TNL2K", {"": 700}),
        Published("vasttrack", vasttrack_reader().layout, "VastTrack", {"": 0}, origin=1),
        Published(
            "uav123",
            "ROOT/data_seq/UAV123/bike1/000001.jpg ... and ROOT/anno/UAV123/bike1.txt",
            "UAV123",
            {"": 123},
        ),
        Published(
            "uav20l",
            "ROOT/data_seq/UAV123/bike1/000001.jpg ... and ROOT/anno/UAV20L/bike1.txt",
            "UAV20L",
            {"": 20},
        ),
        Published(
            "nfs",
            "ROOT/airboard_1/30/airboard_1/00001.jpg ... and ROOT/airboard_1/30/airboard_1.txt (240 likewise)",
            "NfS/{}",
            {"30": 100, "240": 100},
        ),
        Published(
            "otb",
            "ROOT/Basketball/ with img/0001.jpg ... and groundtruth_rect.txt",
            "OTB{}",
            {"2015": 100, "2013": 51, "tb50": 50},
        ),
        Published("dtb70", "ROOT/Animal1/ with img/00001.jpg ... and groundtruth_rect.txt", "DTB70", {"": 70}),
        Published(
            "tcolor128",
            "ROOT/Airport_ce/ with img/0001.jpg ..., Airport_ce_gt.txt, Airport_ce_frames.txt",
            "TColor128",
            {"": 128},
        ),
        Published("vot", vot_reader().layout, "VOT", {"": 0}),
        Published("clips", CLIPS_LAYOUT.replace("DIR", "ROOT"), "clips", {"": 0}),
    )
}


def open_benchmark(
    name: str, root: str | Path | None = None, subset: str | None = None, sequences: Sequence[str] | None = None
) -> Benchmark:
    """Open a benchmark and check it: the first box, and that there is a file for every frame.

    A frame that is there but cannot be decoded is found when it is read. A sequence of one frame is taken, except as a
    clip and where the toolkit reads: a tracker has nothing to do on it, and it is refused when scores are asked for.

    Args:
        name: a key of `BENCHMARKS`.
        root: its folder; None as in `data.catalogue.dataset_root` (LORAT_<NAME>_ROOT, LORAT_DATA, the settings).
        subset: such as "val"; None for the first in `BENCHMARKS`.
        sequences: names of those to open, in the order of the data set (of LaSOT and its extension: as given); None
            for all. Fewer sequences on disk than were published are told in a warning.
    Raises InputError, one sentence, for an unknown name, subset or sequence, another layout, an LMDB, annotation rows
    that do not match the frames, a missing frame, or a first frame without a box.
    """
    if name not in BENCHMARKS:
        raise InputError(f"unknown benchmark '{name}': use one of {', '.join(BENCHMARKS)}")
    known = BENCHMARKS[name]
    chosen_subset = next(iter(known.subsets)) if subset is None else subset
    if chosen_subset not in known.subsets:
        remedy = f"use {' or '.join(known.subsets)}" if "" not in known.subsets else "it has one only, leave it out"
        raise InputError(f"{name} has no subset '{chosen_subset}': {remedy}")
    if sequences is not None and not sequences:
        raise InputError(f"{name}: no sequences were given; leave the choice out for all")
    # one folder has both of UAV123 and UAV20L
    place = dataset_root(BENCHMARKS["uav123"] if name == "uav20l" else known, root).resolve()
    if is_lmdb(place):
        raise InputError(f"{place}: is an LMDB, and evaluation reads images by their paths; give the data set's folder")
    chosen = tuple(dict.fromkeys(sequences or ()))
    found = tuple(_READ[name](place, chosen_subset, chosen))
    if not found:
        raise InputError(f"{place}: no sequence of {name} there; wanted {known.layout}")
    if not chosen and len(found) < known.subsets[chosen_subset]:
        logger.warning("%s: %d of %s's %d sequences are there", place, len(found), name, known.subsets[chosen_subset])
    return Benchmark(
        name,
        known.folder.format(chosen_subset),
        found,
        known.style,
        known.origin,
        known.rasterize,
        known.protocol,
        chosen_subset,
    )


def toolkit_dataset(name: str, root: Path, subset: str = "") -> Any:
    """The GOT-10k toolkit's data set class for OTB, UAV123, UAV20L, NfS, DTB70 or TColor128, made for a folder.

    What the toolkit prints goes to the log at debug level. Raises InputError if it is not installed or finds another
    layout.
    """
    try:
        from got10k import datasets
    except ImportError as error:
        raise InputError(f"{name} is read by the GOT-10k toolkit; pip install got10k") from error
    # its check wants more than three entries in the folder, and a good one may have two
    uav123 = type("UAV123", (datasets.UAV123,), {"_check_integrity": lambda *_: None})
    makers: dict[str, Callable[[str], Any]] = {
        "otb": lambda place: datasets.OTB(place, int(subset) if subset.isdecimal() else subset, download=False),
        "uav123": lambda place: uav123(place, "UAV123"),
        "uav20l": lambda place: uav123(place, "UAV20L"),
        "nfs": lambda place: datasets.NfS(place, int(subset)),
        "dtb70": datasets.DTB70,
        "tcolor128": lambda place: datasets.TColor128(place, download=False),
    }
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            dataset = makers[name](str(root))
    except UnicodeDecodeError as error:  # OTB's looks into every file of boxes
        for path in sorted(root.glob("*/groundtruth_rect*.txt")):
            read_plain_text(path)
        raise InputError(f"{root}: a file of boxes is no UTF-8 text ({error}); save it as UTF-8") from error
    except Exception as error:  # it raises bare Exception, IndexError and KeyError
        layout = BENCHMARKS[name].layout
        raise InputError(f"{root}: cannot be read as {name} ({first_line(error)}); wanted {layout}") from error
    logger.debug("%s", printed.getvalue())
    _plain_copies(dataset)
    return dataset


def _plain_copies(dataset: Any) -> None:
    """Let the toolkit read copies of text files that it cannot: it knows neither byte order marks nor CR alone."""
    folder = tempfile.TemporaryDirectory()
    dataset.copies = {}  # copy -> the user's file
    dataset.copies_folder = folder  # goes with the data set
    for files in (dataset.anno_files, getattr(dataset, "range_files", [])):
        for number, file in enumerate(files):
            try:
                data = Path(file).read_bytes()
                text = decode_text(data, file)
            except (OSError, InputError):  # told when the sequence is read
                continue
            if text.encode() != data.replace(b"\r\n", b"\n"):
                copy = Path(folder.name) / f"{len(dataset.copies)}.txt"
                copy.write_text(text, encoding="utf-8")
                dataset.copies[str(copy)] = file
                files[number] = str(copy)


def _sequence(
    root: Path,
    name: str,
    frames: Frames,
    boxes: np.ndarray,
    visible: np.ndarray,
    attributes: tuple[str, ...] = (),
) -> EvaluationSequence:
    """Check that every frame has a file and the first a box."""
    folder = root / frames.folder
    there = set(os.listdir(folder)) if folder.is_dir() else set()
    paths = FramePaths(root, frames)
    missing = next((file for file in map(os.path.basename, paths) if file not in there), None)
    images = sum(bool(IMAGE_NAME.fullmatch(file)) for file in there)
    if missing:
        raise InputError(
            f"{folder / missing}: is missing among the {images} images of {name}; extract the sequence again"
        )
    if frames.first != LISTED and images > len(paths) and name not in WITH_MORE_FRAMES:
        raise InputError(
            f"{folder.parent}: {images} frames in {folder.name} but {len(paths)} rows of boxes; restore the annotation"
        )
    # a box is what a tracker starts from, whatever the flags say of the frame: so do the published evaluations
    if not (np.isfinite(boxes[0]).all() and (boxes[0, 2:] > 0).all()):
        raise InputError(
            f"{folder}: the target of {name} is absent in the first frame, and a tracker starts from it; leave the"
            " sequence out or correct its annotation"
        )
    return EvaluationSequence(name, paths, boxes, visible, image_size(FolderStore(root), frames.key(0)), attributes)


def _by_reader(reader: Reader, root: Path, chosen: tuple[str, ...]) -> list[EvaluationSequence]:
    entries = {entry.name: entry for entry in reader.entries(FolderStore(root))}
    found = []
    for name in select(list(entries), chosen, str(root)):
        content = entries[name].load()
        track = content.tracks[0]
        found.append(_sequence(root, name, content.frames, xyxy_to_xywh(track.boxes), track.present))
    return found


def _got10k(root: Path, subset: str, chosen: tuple[str, ...]) -> list[EvaluationSequence]:
    found = _by_reader(Got10kReader(subset=subset, layout=BENCHMARKS["got10k"].layout), root, chosen)
    return [_with_cover(root / subset / sequence.name / "cover.label", sequence) for sequence in found]


def _with_cover(path: Path, sequence: EvaluationSequence) -> EvaluationSequence:
    """Visible where the cover label is greater than 0, as the toolkit's report has it."""
    if not path.is_file():
        return sequence
    cover = read_plain_text(path).split()
    if len(cover) != len(sequence.boxes) or not all(value.isdecimal() for value in cover):
        raise InputError(f"{path}: wanted {len(sequence.boxes)} numbers 0 to 8, one per frame; got {len(cover)} values")
    return replace(sequence, visible=np.array(cover, int) > 0)


def _lasot(root: Path, subset: str, chosen: tuple[str, ...]) -> list[EvaluationSequence]:
    reader = LasotReader(chosen, subset)
    reader.labels(FolderStore(root))  # says how many are missing
    return _by_reader(reader, root, ())


def _lasot_ext(root: Path, subset: str, chosen: tuple[str, ...]) -> list[EvaluationSequence]:
    names = chosen or tuple(f"{kind}-{number}" for kind in LASOT_EXT_CLASSES.split() for number in range(1, 11))
    reader = LasotReader(names, name="lasot_ext", layout=BENCHMARKS["lasot_ext"].layout, one_based=False)
    reader.labels(FolderStore(root))
    return _by_reader(reader, root, ())


def _trackingnet(root: Path, subset: str, chosen: tuple[str, ...]) -> list[EvaluationSequence]:
    return _by_reader(TrackingNetReader(subset="test", layout=BENCHMARKS["trackingnet"].layout), root, chosen)


def _tnl2k(root: Path, subset: str, chosen: tuple[str, ...]) -> list[EvaluationSequence]:
    # it has no flags; protocols look at the boxes themselves
    return [replace(s, visible=np.ones(len(s.boxes), bool)) for s in _by_reader(tnl2k_reader(), root, chosen)]


def _vot(root: Path, subset: str, chosen: tuple[str, ...]) -> list[EvaluationSequence]:
    root = root / "sequences" if (root / "sequences").is_dir() else root  # of a workspace
    listed = read_list(root / "list.txt") if (root / "list.txt").is_file() else ()
    places = {name: place for place, name in enumerate(listed)}
    found = _by_reader(vot_reader(), root, chosen or listed)
    return sorted(found, key=lambda sequence: places.get(sequence.name, len(places)))


def _clips(root: Path, subset: str, chosen: tuple[str, ...]) -> Iterable[EvaluationSequence]:
    clips = {clip.name: clip for clip in find_scorable_clips(root)}
    for name in select(list(clips), chosen, str(root)):
        clip = clips[name]
        frames = Frames.listed("", [path.name for path in clip.frames])
        yield _sequence(clip.frames[0].parent, name, frames, clip.boxes, clip.present)


def _by_toolkit(name: str, root: Path, subset: str, chosen: tuple[str, ...]) -> Iterable[EvaluationSequence]:
    dataset = toolkit_dataset(name, root, subset)
    for sequence in select(dataset.seq_names, chosen, str(root)):
        files, boxes = _toolkit_item(dataset, sequence)
        folder = Path(os.path.relpath(os.path.dirname(files[0]), root)).as_posix()
        frames = Frames.listed(folder, [os.path.basename(file) for file in files])
        attributes: tuple[str, ...] = ()
        if name in ("uav123", "uav20l"):
            attributes = flagged(root / "anno" / name.upper() / "att" / f"{sequence}.txt", UAV_ATTRIBUTES)
        yield _sequence(root, sequence, frames, boxes, np.ones(len(boxes), bool), attributes)


def _toolkit_item(dataset: Any, name: str) -> tuple[list[str], np.ndarray]:
    """Frame files and boxes (N, 4) float64 of a sequence, the toolkit's complaints put into words."""
    index = dataset.seq_names.index(name)
    try:
        files, boxes = dataset[index]
        if type(dataset).__name__ == "OTB":  # it takes an empty field for none
            boxes = read_boxes(Path(dataset.anno_files[index]))
        return files, boxes.astype(np.float64)
    except Exception as error:  # a bare assertion for lengths, whatever numpy says for what is no number
        file, folder = dataset.anno_files[index], Path(dataset.seq_dirs[index])
        path = Path(dataset.copies.get(file, file))
        folder = folder / "img" if (folder / "img").is_dir() else folder
        images = sum(bool(IMAGE_NAME.fullmatch(file)) for file in os.listdir(folder)) if folder.is_dir() else 0
        rows = sum(bool(line.strip()) for line in read_plain_text(path).splitlines())
        told = f" ({first_line(error)})" if str(error) else ""
        problem = f"the {rows} rows of {name} do not fit the {images} images in {folder}{told}; restore them"
        if rows == 1 == images:
            problem = f"{name} has one frame, which the toolkit cannot read; leave it out"
        raise InputError(f"{path}: {problem}") from error


_Read = Callable[[Path, str, tuple[str, ...]], Iterable[EvaluationSequence]]


def _toolkit_read(name: str) -> _Read:
    return lambda root, subset, chosen: _by_toolkit(name, root, subset, chosen)


_READ: dict[str, _Read] = {
    "got10k": _got10k,
    "lasot": _lasot,
    "lasot_ext": _lasot_ext,
    "trackingnet": _trackingnet,
    "tnl2k": _tnl2k,
    "vasttrack": lambda root, _, chosen: _by_reader(vasttrack_reader(), root, chosen),
    "vot": _vot,
    "clips": _clips,
    **{name: _toolkit_read(name) for name in ("otb", "uav123", "uav20l", "nfs", "dtb70", "tcolor128")},
}
