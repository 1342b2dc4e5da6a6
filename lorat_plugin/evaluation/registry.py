"""The benchmarks by name: what their folders look like, how they are read, how their results are kept.

GOT-10k, LaSOT and its extension, TrackingNet, TNL2K, VastTrack, VOT and plain clips are read by the readers of `data`;
OTB, UAV123, NfS, DTB70 and TColor128 by the GOT-10k toolkit's classes, which know the frames that count.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from lorat_plugin.datasets.clips import LAYOUT as CLIPS_LAYOUT
from lorat_plugin.datasets.clips import read_scorable_clip, scorable_homes
from lorat_plugin.datasets.folders import tnl2k_reader, vasttrack_reader, vot_reader
from lorat_plugin.datasets.got10k import Got10kReader, read_list
from lorat_plugin.datasets.lasot import LAYOUT as LASOT_LAYOUT
from lorat_plugin.datasets.lasot import LasotReader, lasot_split
from lorat_plugin.datasets.lmdb import is_lmdb
from lorat_plugin.datasets.registry import dataset_root
from lorat_plugin.datasets.sequences import LISTED, FolderStore, Frames, Reader, VideoSequence, box_sequence, image_size
from lorat_plugin.datasets.trackingnet import TrackingNetReader
from lorat_plugin.errors import InputError
from lorat_plugin.evaluation.benchmarks import UAV_ATTRIBUTES, Benchmark, Choice, Layout, flagged
from lorat_plugin.evaluation.toolkit_sets import toolkit_dataset, toolkit_item
from lorat_plugin.files import read_plain_text
from lorat_plugin.images import IMAGE_NAME

logger = logging.getLogger(__name__)

LASOT_EXT_CLASSES = (  # of 10 sequences each
    "atv badminton cosplay dancingshoe footbag frisbee jianzi lantern misc opossum paddle raccoon rhino skatingshoe"
    " wingsuit"
)
WITH_MORE_FRAMES = ("monkey-17",)  # LaSOT published more frames of it than boxes; its toolkit takes as many as boxes


Read = Callable[[Path, str, Choice], Iterable[VideoSequence]]


@dataclass(frozen=True)
class Published:
    """A benchmark before its files are opened.

    Fields: name, as users write it; layout, its folders and files in words; folder, of results, where {} stands for the
    subset; read, its reader, called with the folder, a subset and the sequences to open; subsets, name -> number of
    sequences that were published, 0 if that is open; the first one is the default, and "" the only one; toolkit, what
    the GOT-10k toolkit's experiment is called, empty if it has none; prefix, of result files in pytracking's tree; the
    others as in `Benchmark`.
    """

    name: str
    layout: str
    folder: str
    read: Read
    subsets: dict[str, int]
    style: Layout = "flat"
    origin: int = 0
    rasterize: bool = False
    protocol: str = "lorat"
    toolkit: str = ""
    prefix: str = ""


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

    Args:
        name: a key of `BENCHMARKS`.
        root: its folder; None as in `data.catalogue.dataset_root` (LORAT_<NAME>_ROOT, LORAT_DATA, the settings).
        subset: such as "val"; None for the first in `BENCHMARKS`.
        sequences: names of those to open, in the order of the data set (of LaSOT and its extension: as given); None
            for all. Fewer sequences on disk than were published are told in a warning.
        skip: names of sequences to leave out; their files are not looked at.
    Raises InputError, one sentence, for an unknown name, subset or sequence, another layout, an LMDB, annotation rows
    that do not match the frames, a missing frame, or a first frame without a box; it names all sequences that are bad.
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
    found = tuple(row.read(data_root, subset, choice))
    if not found:
        raise InputError(f"{data_root}: no sequence of {name} there; wanted {row.layout}")
    there = len(found) + len(choice.skipped)
    if not choice.names and there < row.subsets[subset]:
        logger.warning("%s: %d of %s's %d sequences are there", data_root, there, name, row.subsets[subset])
    return Benchmark(
        name,
        row.folder.format(subset),
        found,
        row.style,
        row.origin,
        row.rasterize,
        row.protocol,
        subset,
        choice.skipped,
    )


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
    size = image_size(FolderStore(root), frames.key(0))
    return replace(sequence, frames=replace(frames, root=str(root)), size=size)


def _with_flags(sequence: VideoSequence, present: np.ndarray) -> VideoSequence:
    """The sequence with other flags, (N,) bool, of the frames that show its object."""
    return replace(sequence, tracks=(replace(sequence.tracks[0], present=present),))


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
    choice: Choice,
    finish: Callable[[VideoSequence], VideoSequence] = lambda sequence: sequence,
) -> list[VideoSequence]:
    entries = {entry.name: entry for entry in reader.entries(FolderStore(root))}

    def read(name: str) -> VideoSequence:
        return finish(_checked(root, entries[name].load()))

    return _open_all(choice.of(list(entries), str(root)), read)


def _got10k(root: Path, subset: str, choice: Choice) -> list[VideoSequence]:
    reader = Got10kReader(subset=subset, layout=BENCHMARKS["got10k"].layout)
    return _by_reader(reader, root, choice, lambda s: _with_cover(root / subset / s.name / "cover.label", s))


def _with_cover(path: Path, sequence: VideoSequence) -> VideoSequence:
    """Visible where the cover label is greater than 0, as the toolkit's report has it."""
    if not path.is_file():
        return sequence
    cover = read_plain_text(path).split()
    if len(cover) != len(sequence.boxes) or not all(value.isdecimal() for value in cover):
        raise InputError(f"{path}: wanted {len(sequence.boxes)} numbers 0 to 8, one per frame; got {len(cover)} values")
    return _with_flags(sequence, np.array(cover, int) > 0)


def _lasot(root: Path, subset: str, choice: Choice) -> list[VideoSequence]:
    names = Choice(skipped=choice.skipped).of(choice.names or lasot_split(subset), str(root))
    return _checked_lasot(LasotReader(tuple(names)), root)


def _lasot_ext(root: Path, subset: str, choice: Choice) -> list[VideoSequence]:
    published = [f"{kind}-{number}" for kind in LASOT_EXT_CLASSES.split() for number in range(1, 11)]
    names = Choice(skipped=choice.skipped).of(choice.names or published, str(root))
    layout = BENCHMARKS["lasot_ext"].layout
    return _checked_lasot(LasotReader(tuple(names), name="lasot_ext", layout=layout, one_based=False), root)


def _checked_lasot(reader: LasotReader, root: Path) -> list[VideoSequence]:
    reader.labels(FolderStore(root))  # says how many are missing
    return _by_reader(reader, root, Choice())


def _trackingnet(root: Path, subset: str, choice: Choice) -> list[VideoSequence]:
    return _by_reader(TrackingNetReader(subset="test", layout=BENCHMARKS["trackingnet"].layout), root, choice)


def _tnl2k(root: Path, subset: str, choice: Choice) -> list[VideoSequence]:
    # it has no flags; protocols look at the boxes themselves
    return _by_reader(tnl2k_reader(), root, choice, lambda s: _with_flags(s, np.ones(len(s.boxes), bool)))


def _vasttrack(root: Path, subset: str, choice: Choice) -> list[VideoSequence]:
    return _by_reader(vasttrack_reader(), root, choice)


def _vot(root: Path, subset: str, choice: Choice) -> list[VideoSequence]:
    root = root / "sequences" if (root / "sequences").is_dir() else root  # of a workspace
    listed = read_list(root / "list.txt") if (root / "list.txt").is_file() else ()
    positions = {name: position for position, name in enumerate(listed)}
    found = _by_reader(vot_reader(), root, replace(choice, names=choice.names or listed))
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


BENCHMARKS = {
    item.name: item
    for item in (
        Published(
            "got10k",
            "ROOT/val/list.txt and ROOT/val/GOT-10k_Val_000001/ with 00000001.jpg ..., groundtruth.txt, absence.label,"
            " cover.label; ROOT/test/ with list.txt, frames and one line in each groundtruth.txt",
            "GOT-10k",
            _got10k,
            {"val": 180, "test": 180},
            style="nested",
            rasterize=True,
            protocol="got10k",
            toolkit="GOT10k",
        ),
        Published("lasot", LASOT_LAYOUT, "LaSOT", _lasot, {"test": 280, "train": 1120}, origin=1),
        Published("lasot_ext", LASOT_LAYOUT.replace("airplane", "atv"), "LaSOT_ext", _lasot_ext, {"": 150}),
        Published(
            "trackingnet",
            "ROOT/TEST/ with frames/<video>/0.jpg ... and anno/<video>.txt (one line)",
            "TrackingNet",
            _trackingnet,
            {"": 511},
            rasterize=True,
        ),
        Published("tnl2k", tnl2k_reader().layout, "TNL2K", _tnl2k, {"": 700}),
        Published("vasttrack", vasttrack_reader().layout, "VastTrack", _vasttrack, {"": 0}, origin=1),
        Published(
            "uav123",
            "ROOT/data_seq/UAV123/bike1/000001.jpg ... and ROOT/anno/UAV123/bike1.txt",
            "UAV123",
            partial(_by_toolkit, "uav123"),
            {"": 123},
            toolkit="UAV123",
            prefix="uav_",
        ),
        Published(
            "uav20l",
            "ROOT/data_seq/UAV123/bike1/000001.jpg ... and ROOT/anno/UAV20L/bike1.txt",
            "UAV20L",
            partial(_by_toolkit, "uav20l"),
            {"": 20},
            toolkit="UAV123",
            prefix="uav_",
        ),
        Published(
            "nfs",
            "ROOT/airboard_1/30/airboard_1/00001.jpg ... and ROOT/airboard_1/30/airboard_1.txt (240 likewise)",
            "NfS/{}",
            partial(_by_toolkit, "nfs"),
            {"30": 100, "240": 100},
            toolkit="NfS",
            prefix="nfs_",
        ),
        Published(
            "otb",
            "ROOT/Basketball/ with img/0001.jpg ... and groundtruth_rect.txt",
            "OTB{}",
            partial(_by_toolkit, "otb"),
            {"2015": 100, "2013": 51, "tb50": 50},
            toolkit="OTB",
        ),
        Published(
            "dtb70",
            "ROOT/Animal1/ with img/00001.jpg ... and groundtruth_rect.txt",
            "DTB70",
            partial(_by_toolkit, "dtb70"),
            {"": 70},
            toolkit="DTB70",
        ),
        Published(
            "tcolor128",
            "ROOT/Airport_ce/ with img/0001.jpg ..., Airport_ce_gt.txt, Airport_ce_frames.txt",
            "TColor128",
            partial(_by_toolkit, "tcolor128"),
            {"": 128},
            toolkit="TColor128",
            prefix="tpl_",
        ),
        Published("vot", vot_reader().layout, "VOT", _vot, {"": 0}),
        Published("clips", CLIPS_LAYOUT.replace("DIR", "ROOT"), "clips", _clips, {"": 0}),
    )
}
