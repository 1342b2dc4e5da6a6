"""The data sets by name: their readers, where on this machine they lie, and what of them is there or malformed."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lorat_plugin.datasets.coco import CocoReader
from lorat_plugin.datasets.folders import LasotReader, clips_reader, tnl2k_reader, vasttrack_reader
from lorat_plugin.datasets.got10k import Got10kReader
from lorat_plugin.datasets.index import THREADS, IndexedDataset, clean, fit_to_image, index_dataset
from lorat_plugin.datasets.lmdb import LmdbStore, is_lmdb
from lorat_plugin.datasets.sequences import SIZE_STEP, Entry, Reader, Store, VideoSequence, frame_sizes, read_frame
from lorat_plugin.datasets.trackingnet import TrackingNetReader, missing_parts
from lorat_plugin.errors import InputError
from lorat_plugin.files import parse_yaml, read_plain_text, walk_files
from lorat_plugin.plugins import load_plugin, plugin_names

GROUP = "lorat_plugin.datasets"  # entry points: name = something that returns a `Reader` when called
BUILT_IN: dict[str, Callable[..., Reader]] = {
    "lasot": LasotReader,
    "got10k": Got10kReader,
    "trackingnet": TrackingNetReader,
    "coco": CocoReader,
    "vasttrack": vasttrack_reader,
    "tnl2k": tnl2k_reader,
    "clips": clips_reader,
}


def dataset_names() -> list[str]:
    """Names of all data sets, those of other packages included."""
    return sorted({*BUILT_IN, *plugin_names(GROUP)})


def make_reader(name: str, **options: Any) -> Reader:
    """The reader of a data set. Raises InputError for an unknown name, option, or a broken entry point.

    Options are e.g. `chosen`, `subset`; `reading` and `excluded` for got10k.
    """
    make: Callable[..., Reader] | None = BUILT_IN.get(name) or load_plugin(GROUP, name, "data set")
    if make is None:
        raise InputError(f"unknown data set '{name}'; known are {', '.join(dataset_names())}")
    try:
        reader = make(**options)
    except TypeError as error:
        raise InputError(f"data set '{name}' does not know this option: {error}") from error
    missing = [part for part in ("name", "layout", "mark", "labels", "entries") if not hasattr(reader, part)]
    if missing:
        raise InputError(f"data set '{name}': {type(reader).__name__} is no reader, it lacks {', '.join(missing)}")
    return reader


def config_file() -> Path:
    """The user's settings: LORAT_CONFIG, or config.yaml in the system's place for settings."""
    if os.environ.get("LORAT_CONFIG"):
        return Path(os.environ["LORAT_CONFIG"]).expanduser()
    base = os.environ.get("XDG_CONFIG_HOME") or os.environ.get("APPDATA") or "~/.config"
    return Path(base).expanduser() / "lorat_plugin" / "config.yaml"


def dataset_root(reader: Any, given: str | Path | None = None) -> Path:
    """The folder of a data set: as given, else LORAT_<NAME>_ROOT, LORAT_DATA/<name>, or the user's settings.

    `reader` is what has a name and a layout: a `Reader`, or a benchmark. Raises InputError that names these ways and
    the layout if none leads to a folder.
    """
    variable = f"LORAT_{reader.name.upper()}_ROOT"
    place = given or os.environ.get(variable)
    if not place and (shared := os.environ.get("LORAT_DATA")):
        inside = sorted(path for path in Path(shared).glob("*") if path.is_dir())
        named = [path for path in inside if plain_name(path.name) == plain_name(reader.name)]
        place = named[0] if named else Path(shared) / reader.name
    root = Path(place or _configured(reader.name) or "").expanduser()
    if (place or str(root) != ".") and os.path.isdir(root):  # Path's would raise for a name that is too long
        return root
    told = f"{root} is no folder" if place or str(root) != "." else "no folder is known"
    raise InputError(
        f"{reader.name}: {told}; give the data set's folder, set {variable} or LORAT_DATA (the folder above it), or"
        f" write 'data: {{{reader.name}: FOLDER}}' into {config_file()}; its layout is {reader.layout}"
    )


def open_store(root: Path) -> Store:
    """The files of a data set, whichever way they are kept."""
    return LmdbStore(root) if is_lmdb(root) else Store(root)


def open_dataset(name: str, root: str | Path | None = None, **options: Any) -> IndexedDataset:
    """Open a data set for training; the first time its annotations are indexed, which may take minutes.

    `root` is its folder, or LMDB; None as in `dataset_root`. Raises InputError for whatever is missing or malformed.
    """
    reader = make_reader(name, **options)
    place = dataset_root(reader, root)
    return index_dataset(reader, open_store(place), place)


def plain_name(name: str) -> str:
    """A folder's name as data sets are called: GOT-10k, got10k_lmdb -> got10k."""
    return "".join(letter for letter in name.lower().removesuffix("_lmdb") if letter.isalnum())


def _configured(name: str) -> str | None:
    path = config_file()
    if not path.is_file():
        return None
    try:
        content = parse_yaml(read_plain_text(path)) or {}
        value = (content.get("data") or {}).get(name)
    except InputError:
        raise
    except (ValueError, AttributeError) as error:
        raise InputError(f"{path}: is no valid settings file ({error}); write 'data: {{{name}: FOLDER}}'") from error
    return None if value is None else str(value)


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

    With `headers` those of all image files are read, 10,000 a second from a fast disk; else of one in `SIZE_STEP`.
    Options are those of `make_reader`. A damaged sequence is a line in the report and does not stop the check.
    """
    reader, store = make_reader(name, **options), open_store(root)
    report = DatasetReport(name, str(root), "LMDB" if isinstance(store, LmdbStore) else "folder")
    kept: list[VideoSequence] = []
    try:
        reader.labels(store)
    except InputError as error:
        report.problems.append(str(error))
    if name == "trackingnet" and not options.get("chosen") and (missing := missing_parts(store)):
        report.problems.append(missing)
    try:  # what is there is examined even if something is missing
        if not isinstance(store, LmdbStore):
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
