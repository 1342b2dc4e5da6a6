"""What of a data set is there, missing or malformed, found out before any training."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lorat_plugin.datasets.index import THREADS, clean, fit_to_image
from lorat_plugin.datasets.registry import BUILT_IN, make_reader, open_store, plain_name
from lorat_plugin.datasets.sequences import SIZE_STEP, Entry, FolderStore, Store, VideoSequence, frame_sizes, read_frame
from lorat_plugin.datasets.trackingnet import missing_parts
from lorat_plugin.errors import InputError
from lorat_plugin.files import walk_files


class _Examined(NamedTuple):
    sequence: VideoSequence | None
    problems: list[str]
    notes: list[str] = []  # noqa: RUF012
    outside: int = 0


@dataclass
class DatasetReport:
    """What was found in one data set.

    Fields: unused, sequences without any visible object; outside, boxes that are not used as they lie outside their
    pictures or have no area; decoded, frames that were decoded on trial; problems, sentences, each names a file and
    what is wrong with it; notes, sentences about what is unusual and can be used.
    """

    dataset: str
    root: str
    kind: str
    sequences: int = 0
    tracks: int = 0
    frames: int = 0
    present: int = 0
    unused: int = 0
    outside: int = 0
    decoded: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def recognise_dataset(folder: Path) -> str | None:
    """The data set that a folder seems to hold, by its name or its content; None if neither tells."""
    named = plain_name(folder.name)
    if named in BUILT_IN:
        return named
    store = open_store(folder)
    for name in BUILT_IN:
        mark = make_reader(name).mark
        if mark and (store.exists(mark) or mark in store.names("")):
            return name
    return None


def find_datasets(root: Path, dataset: str | None = None) -> list[tuple[str, Path]]:
    """Names and folders of the data sets at or right below `root`. Raises InputError if there is none."""
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give the folder of a data set or of several")
    if dataset:
        return [(dataset, root)]
    own = recognise_dataset(root)
    if own:
        return [(own, root)]
    below = [(recognise_dataset(folder), folder) for folder in sorted(root.iterdir()) if folder.is_dir()]
    found = [(name, folder) for name, folder in below if name]
    if not found:
        raise InputError(f"{root}: no data set is recognised in it; say which with --dataset {'|'.join(BUILT_IN)}")
    return found


def check_dataset(name: str, root: Path, images: int = 0, *, headers: bool = True, **options: object) -> DatasetReport:
    """Read all annotations of a data set, and decode `images` frames spread over its sequences.

    Args:
        name: of the data set.
        root: its folder or LMDB.
        images: frames to decode.
        headers: read the header of every image file, 10,000 a second from a fast disk; else of one in `SIZE_STEP`.
        options: as for `make_reader`.
    A damaged sequence is a line in the report and does not stop the check.
    """
    reader, store = make_reader(name, **options), open_store(root)
    report = DatasetReport(name, str(root), "LMDB" if type(store).__name__ == "LmdbStore" else "folder")
    kept: list[VideoSequence] = []
    try:
        reader.labels(store)
    except InputError as error:
        report.problems.append(str(error))
    if name == "trackingnet" and not options.get("chosen") and (missing := missing_parts(store)):
        report.problems.append(missing)
    try:  # what is there is examined even if something is missing
        if isinstance(store, FolderStore):
            deque(walk_files(root), maxlen=0)
    except InputError as error:
        report.problems.append(str(error))
    examine = partial(_examine, store, 1 if headers else SIZE_STEP)
    try:
        with ThreadPoolExecutor(THREADS) as pool:
            for found in pool.map(examine, reader.entries(store)):
                report.problems += found.problems
                report.notes += found.notes
                report.outside += found.outside
                report.unused += found.sequence is None and not found.problems
                kept += [found.sequence] if found.sequence else []
    except InputError as error:
        report.problems += [] if str(error) in report.problems else [str(error)]
    report.sequences = len(kept)
    report.tracks = sum(len(sequence.tracks) for sequence in kept)
    report.frames = sum(sequence.frames.count for sequence in kept)
    report.present = sum(int(track.present.sum()) for sequence in kept for track in sequence.tracks)
    _decode(report, store, kept, images)
    return report


def _examine(store: Store, step: int, entry: Entry) -> _Examined:
    try:
        sequence = entry.load()
    except InputError as error:
        return _Examined(None, [f"{entry.name}: {error}"])
    problems, notes = list(sequence.notes), []
    sizes = frame_sizes(store, sequence, step, problems.append)
    changes = np.flatnonzero((sizes[1:] != sizes[:-1]).any(axis=1)) + 1
    if len(changes):
        (width, height), (later_width, later_height) = sizes[0], sizes[changes[0]]
        notes.append(
            f"{entry.name}: its pictures change size, from {width}x{height} to {later_width}x{later_height} pixels at"
            f" {sequence.frames.key(int(changes[0]))}; each box is cut by its own picture"
        )
    outside = 0
    for track in sequence.tracks:
        boxes = fit_to_image(track.boxes[track.present], sizes[track.present])
        outside += int((boxes[:, 2:] <= boxes[:, :2]).any(axis=1).sum())
    return _Examined(clean(sequence, sizes), [f"{entry.name}: {problem}" for problem in problems], notes, outside)


def _decode(report: DatasetReport, store: Store, sequences: list[VideoSequence], images: int) -> None:
    if not images or not sequences:
        return
    ends = np.cumsum([sequence.frames.count for sequence in sequences])
    for place in np.unique(np.linspace(0, ends[-1] - 1, images).astype(np.int64)):
        number = int(np.searchsorted(ends, place, side="right"))
        frames = sequences[number].frames
        try:
            read_frame(store, frames.key(int(place - ends[number] + frames.count)))
            report.decoded += 1
        except InputError as error:
            problem = f"{sequences[number].name}: {error}"
            report.problems += [] if problem in report.problems else [problem]
