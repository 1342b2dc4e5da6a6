"""The benchmarks by name: what their folders look like, how they are read, how their results are kept.

GOT-10k, LaSOT and its extension, TrackingNet, TNL2K, VastTrack, VOT and plain clips are read by the readers of
`datasets`; OTB, UAV123, NfS, DTB70 and TColor128 by the GOT-10k toolkit's classes, which know the frames that count.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lorat_plugin.box_files import read_boxes
from lorat_plugin.datasets import folders
from lorat_plugin.datasets.clips import LAYOUT as CLIPS_LAYOUT
from lorat_plugin.datasets.clips import read_scorable_clip, scorable_homes
from lorat_plugin.datasets.got10k import Got10kReader, read_list
from lorat_plugin.datasets.lmdb import is_lmdb
from lorat_plugin.datasets.registry import dataset_root
from lorat_plugin.datasets.sequences import LISTED, Frames, Reader, Store, VideoSequence, box_sequence, image_size
from lorat_plugin.datasets.trackingnet import TrackingNetReader
from lorat_plugin.errors import InputError, first_line
from lorat_plugin.evaluation.benchmarks import UAV_ATTRIBUTES, Benchmark, Choice, Layout, flagged
from lorat_plugin.files import decode_text, read_plain_text
from lorat_plugin.images import IMAGE_NAME

logger = logging.getLogger(__name__)

LASOT_EXT_CLASSES = (
    "atv badminton cosplay dancingshoe footbag frisbee jianzi lantern misc opossum paddle raccoon rhino skatingshoe"
    " wingsuit"
)
LASOT_EXT = [f"{kind}-{number}" for kind in LASOT_EXT_CLASSES.split() for number in range(1, 11)]
WITH_MORE_FRAMES = ("monkey-17",)  # LaSOT published more frames of it than boxes; its toolkit takes as many as boxes

Read = Callable[[Path, str, Choice], Iterable[VideoSequence]]


@dataclass(frozen=True)
class Published:
    """A benchmark before its files are opened.

    Fields: name, as users write it; layout, its folders and files in words; folder, of results, where {} stands for the
    subset; subsets, name -> number of sequences that were published, 0 if that is open; the first one is the default,
    and "" the only one; read, its reader, called with the folder, a subset and the sequences to open, None for the
    GOT-10k toolkit's class; toolkit, what the toolkit's experiment is called, empty if it has none; the others as
    in `Benchmark`.
    """

    name: str
    layout: str
    folder: str
    subsets: dict[str, int]
    read: Read | None = None
    style: Layout = "flat"
    origin: int = 0
    rasterize: bool = False
    protocol: str = "lorat"
    toolkit: str = ""


def open_benchmark(
    name: str,
    root: str | Path | None = None,
    subset: str | None = None,
    sequences: Sequence[str] | None = None,
    skip: Sequence[str] = (),
) -> Benchmark:
    """Open a benchmark and check it: the first box, and that there is a file for every frame.

    A frame that is there but cannot be decoded is found when it is read. A sequence of one frame is taken, except as a
    clip and where the toolkit reads: a tracker has nothing to do on it, and it is refused when scores are asked for.
    `root` is the folder, None as in `dataset_root`; `subset` None is the first in `BENCHMARKS`; `sequences` are those
    to open, in the order of the data set (of LaSOT and its extension: as given), and files of those in `skip` are not
    looked at. Raises InputError, one sentence that names all bad sequences, for an unknown name, subset or sequence,
    another layout, an LMDB, annotation rows that do not match the frames, a missing frame, or a first frame without a
    box.
    """
    if name not in BENCHMARKS:
        raise InputError(f"unknown benchmark '{name}': use one of {', '.join(BENCHMARKS)}")
    row = BENCHMARKS[name]
    subset = next(iter(row.subsets)) if subset is None else subset
    if subset not in row.subsets:
        remedy = f"use {' or '.join(row.subsets)}" if "" not in row.subsets else "it has one only, leave it out"
        raise InputError(f"{name} has no subset '{subset}': {remedy}")
    if sequences is not None and not sequences:
        raise InputError(f"{name}: no sequences were given; leave the choice out for all")
    # one folder has both of UAV123 and UAV20L
    data_root = dataset_root(BENCHMARKS["uav123"] if name == "uav20l" else row, root).resolve()
    if is_lmdb(data_root):
        raise InputError(
            f"{data_root}: is an LMDB, and evaluation reads images by their paths; give the data set's folder"
        )
    choice = Choice(tuple(dict.fromkeys(sequences or ())), tuple(dict.fromkeys(skip)))
    read = row.read or partial(_by_toolkit, name)
    found = tuple(read(data_root, subset, choice))
    if not found:
        raise InputError(f"{data_root}: no sequence of {name} there; wanted {row.layout}")
    there = len(found) + len(choice.skipped)
    if not choice.names and there < row.subsets[subset]:
        logger.warning("%s: %d of %s's %d sequences are there", data_root, there, name, row.subsets[subset])
    folder = row.folder.format(subset)
    return Benchmark(name, folder, found, row.style, row.origin, row.rasterize, row.protocol, subset, choice.skipped)


def _checked(root: Path, sequence: VideoSequence) -> VideoSequence:
    """The sequence with paths below `root`, after a check that every frame has a file and the first a box."""
    name, frames = sequence.name, sequence.frames
    folder = root / frames.folder
    there = set(os.listdir(folder)) if folder.is_dir() else set()
    missing = next((name for name in frames.file_names() if os.path.basename(name) not in there), None)
    counted = frames.first != LISTED and name not in WITH_MORE_FRAMES
    images = sum(bool(IMAGE_NAME.fullmatch(file)) for file in there) if missing or counted else 0
    if missing:
        raise InputError(
            f"{folder / missing}: is missing among the {images} images of {name}; extract the sequence again"
        )
    if counted and images > len(frames):
        raise InputError(
            f"{folder.parent}: {images} frames in {folder.name} but {len(frames)} rows of boxes; restore the annotation"
        )
    # a box is what a tracker starts from, whatever the flags say of the frame: so do the published evaluations
    box = sequence.boxes[0]
    if not (np.isfinite(box).all() and (box[2:] > 0).all()):
        raise InputError(
            f"{folder}: the target of {name} is absent in the first frame, and a tracker starts from it; leave the"
            " sequence out or correct its annotation"
        )
    size = image_size(Store(root), frames.key(0))
    return replace(sequence, frames=replace(frames, root=str(root)), size=size)


def _open_all(names: Iterable[str], read: Callable[[str], VideoSequence]) -> list[VideoSequence]:
    """Read sequences. Raises InputError that says what is wrong with the first bad one, and names all."""
    found, bad = [], {}
    for name in names:
        try:
            found.append(read(name))
        except InputError as error:
            bad[name] = error
    if bad:
        first = next(iter(bad.values()))
        number = f"{len(bad)} sequences are bad; the first: " if len(bad) > 1 else ""
        raise InputError(f"{number}{first} (to go on without: --skip {','.join(bad)})")
    return found


def _by_reader(
    reader: Reader,
    root: Path,
    subset: str,
    choice: Choice,
    finish: Callable[[VideoSequence], VideoSequence] = lambda sequence: sequence,
) -> list[VideoSequence]:
    entries = {entry.name: entry for entry in reader.entries(Store(root))}

    def read(name: str) -> VideoSequence:
        return finish(_checked(root, entries[name].load()))

    return _open_all(choice.of(list(entries), str(root)), read)


def _got10k(root: Path, subset: str, choice: Choice) -> list[VideoSequence]:
    reader = Got10kReader(subset=subset, layout=GOT10K_LAYOUT)
    return _by_reader(reader, root, "", choice, lambda s: _with_cover(root / subset / s.name / "cover.label", s))


def _with_cover(path: Path, sequence: VideoSequence) -> VideoSequence:
    """Visible where the cover label is greater than 0, as the toolkit's report has it."""
    if not path.is_file():
        return sequence
    cover = read_plain_text(path).split()
    if len(cover) != len(sequence.boxes) or not all(value.isdecimal() for value in cover):
        raise InputError(f"{path}: wanted {len(sequence.boxes)} numbers 0 to 8, one per frame; got {len(cover)} values")
    return replace(sequence, tracks=(replace(sequence.tracks[0], present=np.array(cover, int) > 0),))


def _lasot(root: Path, subset: str, choice: Choice) -> list[VideoSequence]:
    """LaSOT's split `subset`, or its extension, which has no subsets and is read with pixels counted from 0."""
    published = folders.lasot_split(subset) if subset else LASOT_EXT
    names = Choice(skipped=choice.skipped).of(choice.names or published, str(root))
    name = "lasot" if subset else "lasot_ext"
    reader = folders.LasotReader(tuple(names), name=name, layout=BENCHMARKS[name].layout, one_based=bool(subset))
    reader.labels(Store(root))  # says how many are missing
    return _by_reader(reader, root, "", Choice())


def _tnl2k(root: Path, subset: str, choice: Choice) -> list[VideoSequence]:
    def without_flags(sequence: VideoSequence) -> VideoSequence:  # protocols look at the boxes themselves
        return replace(sequence, tracks=(replace(sequence.tracks[0], present=np.ones(len(sequence.boxes), bool)),))

    return _by_reader(folders.tnl2k_reader(), root, "", choice, without_flags)


def _vot(root: Path, subset: str, choice: Choice) -> list[VideoSequence]:
    root = root / "sequences" if (root / "sequences").is_dir() else root  # of a workspace
    listed = read_list(root / "list.txt") if (root / "list.txt").is_file() else ()
    positions = {name: position for position, name in enumerate(listed)}
    found = _by_reader(folders.vot_reader(), root, "", replace(choice, names=choice.names or listed))
    return sorted(found, key=lambda sequence: positions.get(sequence.name, len(positions)))


def _clips(root: Path, subset: str, choice: Choice) -> list[VideoSequence]:
    homes = scorable_homes(root)

    def read(name: str) -> VideoSequence:
        clip = read_scorable_clip(homes[name])
        return _checked(Path(clip.frames.root), clip)

    return _open_all(choice.of(list(homes), str(root)), read)


def _by_toolkit(name: str, root: Path, subset: str, choice: Choice) -> list[VideoSequence]:
    dataset = toolkit_dataset(name, root, subset, BENCHMARKS[name].layout)

    def read(sequence: str) -> VideoSequence:
        files, boxes = toolkit_item(dataset, sequence)
        folder = Path(os.path.relpath(os.path.dirname(files[0]), root)).as_posix()
        frames = Frames.listed(folder, [os.path.basename(file) for file in files])
        attributes: tuple[str, ...] = ()
        if name in ("uav123", "uav20l"):
            attributes = flagged(root / "anno" / name.upper() / "att" / f"{sequence}.txt", UAV_ATTRIBUTES)
        return _checked(root, box_sequence(sequence, frames, boxes, np.ones(len(boxes), bool), (0, 0), attributes))

    return _open_all(choice.of(dataset.seq_names, str(root)), read)


def toolkit_dataset(name: str, root: Path, subset: str, layout: str) -> Any:
    """The GOT-10k toolkit's object for one of its data sets in a folder of the given layout; its print goes to the log.

    Raises InputError if the toolkit is not installed or finds another layout.
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


def toolkit_item(dataset: Any, name: str) -> tuple[list[str], np.ndarray]:
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


GOT10K_LAYOUT = (
    "ROOT/val/list.txt and ROOT/val/GOT-10k_Val_000001/ with 00000001.jpg ..., groundtruth.txt, absence.label,"
    " cover.label; ROOT/test/ with list.txt, frames and one line in each groundtruth.txt"
)
TRACKINGNET_LAYOUT = "ROOT/TEST/ with frames/<video>/0.jpg ... and anno/<video>.txt (one line)"
UAV_LAYOUT = "ROOT/data_seq/UAV123/bike1/000001.jpg ... and ROOT/anno/{}/bike1.txt"
NFS_LAYOUT = "ROOT/airboard_1/30/airboard_1/00001.jpg ... and ROOT/airboard_1/30/airboard_1.txt (240 likewise)"
TCOLOR_LAYOUT = "ROOT/Airport_ce/ with img/0001.jpg ..., Airport_ce_gt.txt, Airport_ce_frames.txt"
BOXES_LAYOUT = "ROOT/{}/ with img/{}.jpg ... and groundtruth_rect.txt"
_vasttrack = partial(_by_reader, folders.vasttrack_reader())
_trackingnet = partial(_by_reader, TrackingNetReader(subset="test", layout=TRACKINGNET_LAYOUT))
_ROWS = (
    Published(
        "got10k", GOT10K_LAYOUT, "GOT-10k", {"val": 180, "test": 180}, _got10k, "nested", 0, True, "got10k", "GOT10k"
    ),
    Published("lasot", folders.LASOT_LAYOUT, "LaSOT", {"test": 280, "train": 1120}, _lasot, origin=1),
    Published("lasot_ext", folders.LASOT_LAYOUT.replace("airplane", "atv"), "LaSOT_ext", {"": 150}, _lasot),
    Published("trackingnet", TRACKINGNET_LAYOUT, "TrackingNet", {"": 511}, _trackingnet, rasterize=True),
    Published("tnl2k", folders.tnl2k_reader().layout, "TNL2K", {"": 700}, _tnl2k),
    Published("vasttrack", folders.vasttrack_reader().layout, "VastTrack", {"": 0}, _vasttrack, origin=1),
    Published("uav123", UAV_LAYOUT.format("UAV123"), "UAV123", {"": 123}, toolkit="UAV123"),
    Published("uav20l", UAV_LAYOUT.format("UAV20L"), "UAV20L", {"": 20}, toolkit="UAV123"),
    Published("nfs", NFS_LAYOUT, "NfS/{}", {"30": 100, "240": 100}, toolkit="NfS"),
    Published(
        "otb", BOXES_LAYOUT.format("Basketball", "0001"), "OTB{}", {"2015": 100, "2013": 51, "tb50": 50}, toolkit="OTB"
    ),
    Published("dtb70", BOXES_LAYOUT.format("Animal1", "00001"), "DTB70", {"": 70}, toolkit="DTB70"),
    Published("tcolor128", TCOLOR_LAYOUT, "TColor128", {"": 128}, toolkit="TColor128"),
    Published("vot", folders.vot_reader().layout, "VOT", {"": 0}, _vot),
    Published("clips", CLIPS_LAYOUT.replace("DIR", "ROOT"), "clips", {"": 0}, _clips),
)
BENCHMARKS = {row.name: row for row in _ROWS}
