"""What of a data set is there, missing or malformed, found out before any training."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lorat_plugin.data.catalogue import BUILT_IN, make_reader, open_store, plain_name
from lorat_plugin.data.cleaning import clean
from lorat_plugin.data.index import THREADS
from lorat_plugin.data.sequences import Entry, Sequence, Store, read_frame
from lorat_plugin.data.trackingnet import missing_parts
from lorat_plugin.errors import InputError


@dataclass
class Report:
    """What was found in one data set. `problems` are sentences, each names a file and what is wrong with it.

    `unused` counts sequences without any visible object, `decoded` the frames that were decoded on trial.
    """

    dataset: str
    root: str
    kind: str
    sequences: int = 0
    tracks: int = 0
    frames: int = 0
    present: int = 0
    unused: int = 0
    decoded: int = 0
    problems: list[str] = field(default_factory=list)


def recognise(folder: Path) -> str | None:
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
    own = recognise(root)
    if own:
        return [(own, root)]
    below = [(recognise(folder), folder) for folder in sorted(root.iterdir()) if folder.is_dir()]
    found = [(name, folder) for name, folder in below if name]
    if not found:
        raise InputError(f"{root}: no data set is recognised in it; say which with --dataset {'|'.join(BUILT_IN)}")
    return found


def check_dataset(name: str, root: Path, images: int = 0, **options: object) -> Report:
    """Read all annotations of a data set, and decode `images` frames spread over its sequences.

    Args:
        name: of the data set.
        root: its folder or LMDB.
        images: frames to decode.
        options: as for `make_reader`.
    A damaged sequence is a line in the report and does not stop the check.
    """
    reader, store = make_reader(name, **options), open_store(root)
    report = Report(name, str(root), "LMDB" if type(store).__name__ == "LmdbStore" else "folder")
    kept: list[Sequence] = []
    try:
        reader.labels(store)
    except InputError as error:
        report.problems.append(str(error))
    if name == "trackingnet" and not options.get("chosen") and (missing := missing_parts(store)):
        report.problems.append(missing)
    try:  # what is there is examined even if something is missing
        with ThreadPoolExecutor(THREADS) as pool:
            for result in pool.map(_examine, reader.entries(store)):
                if isinstance(result, str):
                    report.problems.append(result)
                elif result is None:
                    report.unused += 1
                else:
                    kept.append(result)
    except InputError as error:
        report.problems += [] if str(error) in report.problems else [str(error)]
    report.sequences = len(kept)
    report.tracks = sum(len(sequence.tracks) for sequence in kept)
    report.frames = sum(sequence.frames.count for sequence in kept)
    report.present = sum(int(track.present.sum()) for sequence in kept for track in sequence.tracks)
    _decode(report, store, kept, images)
    return report


def _examine(entry: Entry) -> Sequence | str | None:
    try:
        return clean(entry.load())
    except InputError as error:
        return f"{entry.name}: {error}"


def _decode(report: Report, store: Store, sequences: list[Sequence], images: int) -> None:
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
            report.problems.append(f"{sequences[number].name}: {error}")
