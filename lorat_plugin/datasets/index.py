"""Annotations of a data set, read once and kept as memory-mapped arrays in the user's cache folder.

An index is a folder of .npy files named after the data set and two hashes of what it was made from: of the root and
the reader's options, and of the size and time of every annotation file. It also records the state of the frames: of
each video's first picture, whose size cuts the boxes, and of every folder of frames. A new index replaces those of
former states of the same files. Processes share its pages.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lorat_plugin.datasets.sequences import Entry, Frames, Reader, Store, Track, VideoSequence, frame_sizes, read_frame
from lorat_plugin.digests import Record, difference, digest
from lorat_plugin.errors import InputError
from lorat_plugin.files import parse_json, whole_folder

FORMAT = 2  # raise it when the arrays or the rules of cleaning change
THREADS = 8  # they wait for the disk, most of the time
# columns of `sequences`: rows of `boxes` and `text` at which a sequence starts, its tracks and frames, their numbering
COLUMNS = ("row", "text", "tracks", "frames", "first", "width", "height")
RECORD = "record.json"  # digests of the frames' state and of the arrays
ARRAYS = ("boxes", "present", "text", "sequences")

logger = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Where indices are kept: LORAT_CACHE, or the system's place for caches."""
    if os.environ.get("LORAT_CACHE"):
        return Path(os.environ["LORAT_CACHE"]).expanduser()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "lorat_plugin"


class IndexedDataset:
    """A `Dataset` whose annotations are memory-mapped; frames are decoded from the store. Pickles as its paths."""

    def __init__(self, name: str, store: Store, folder: Path) -> None:
        """Map the index in `folder`."""
        self.name, self.store, self.folder = name, store, folder
        self._arrays = _map(folder)

    def __len__(self) -> int:
        return len(self._arrays["sequences"]) - 1

    def __getitem__(self, index: int) -> VideoSequence:
        """Sequence `index` after cleaning; its arrays are views of the map."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        row, _, tracks, count, _, width, height = (int(v) for v in self._arrays["sequences"][index])
        name, frames = self._frames(index)
        parts = [slice(row + i * count, row + (i + 1) * count) for i in range(tracks)]
        found = tuple(Track(self._arrays["boxes"][p].astype(np.float64), self._arrays["present"][p]) for p in parts)
        return VideoSequence(name, frames, (width, height), found)

    def _frames(self, index: int) -> tuple[str, Frames]:
        """Name and frames of sequence `index`."""
        table = self._arrays["sequences"]
        _, text, _, count, first, _, _ = (int(v) for v in table[index])
        try:
            words = self._arrays["text"][text : int(table[index + 1][1])].tobytes().decode()
            name, folder, names = words.split("\n", 2)
        except ValueError as error:
            raise _damaged(self.folder, error) from error
        return name, Frames(folder, names, first, count)

    def frames_digest(self) -> str:
        """Digest of the state of the frames on the disk: size and time of each video's first and of each folder."""
        stamps: dict[str, str] = {}
        for index in range(len(self)):
            frames = self._frames(index)[1]
            keys = (frames.folder, frames.key(0)) if frames.count > 1 else (frames.folder,)
            stamps |= {key: self.store.stamp(key) for key in keys if key not in stamps}
        return digest(f"{key} {stamp}" for key, stamp in stamps.items())

    @property
    def record(self) -> Record:
        """The digests that were taken when the index was made. Raises InputError if they cannot be read."""
        try:
            return dict(parse_json((self.folder / RECORD).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise _damaged(self.folder, error) from error

    def frame(self, sequence: VideoSequence, index: int) -> np.ndarray:
        """Decode frame `index`: (H, W, 3) uint8 RGB. Raises InputError naming it if that fails."""
        try:
            key = sequence.frames.key(index)
        except (TypeError, ValueError, IndexError) as error:
            raise _damaged(self.folder, error) from error
        return read_frame(self.store, key)

    @property
    def frame_count(self) -> int:
        """Frames of all sequences."""
        return int(self._arrays["sequences"][:-1, COLUMNS.index("frames")].sum())

    @property
    def box_count(self) -> int:
        """Boxes of objects that are to be seen, over all frames and tracks."""
        return int(self._arrays["present"].sum())

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_arrays": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._arrays = _map(self.folder)


def index_dataset(reader: Reader, store: Store, root: Path) -> IndexedDataset:
    """The data set that `reader` finds in `store`, from its index, which is made first if there is none.

    Raises InputError for a data set of another layout, missing or malformed annotations, or an unusable cache folder.
    """
    # these change when the root, the reader's options or the format do, and when its files do
    source = hashlib.sha256(f"{FORMAT} {reader!r} {root.resolve()} {type(store).__name__}".encode())
    files = hashlib.sha256("".join(f"\n{key} {store.stamp(key)}" for key in reader.labels(store)).encode())
    place, state = source.hexdigest()[:8], files.hexdigest()[:16]
    folder = cache_folder() / f"{reader.name}-{place}-{state}"
    if folder.is_dir():
        dataset = IndexedDataset(reader.name, store, folder)
        changed = difference(dataset.record, {"frames": dataset.frames_digest()}, ignored=("annotation",))
        if not changed:
            return dataset
        logger.info("%s: the frames in %s have changed since they were indexed", reader.name, root)
        del dataset  # some systems keep files that are mapped
    logger.info("%s: indexing the annotations in %s", reader.name, root)
    with whole_folder(folder) as part:
        _write(part, store, reader.entries(store), f"{reader.name} in {root}")
        made = IndexedDataset(reader.name, store, part)
        annotation = digest(np.ascontiguousarray(made._arrays[name]).tobytes() for name in ARRAYS)
        record = {"frames": made.frames_digest(), "annotation": annotation}
        (part / RECORD).write_text(json.dumps(record), encoding="utf-8")
        del made
    for former in cache_folder().glob(f"{reader.name}-{place}-*"):
        if former != folder:
            shutil.rmtree(former, ignore_errors=True)
    return IndexedDataset(reader.name, store, folder)


def _write(folder: Path, store: Store, entries: Iterable[Entry], shown: str) -> None:
    boxes, present, text = [], [], []
    notes: list[str] = []
    table = [np.zeros(len(COLUMNS), np.int64)]
    row = place = dropped = 0
    with ThreadPoolExecutor(THREADS) as pool:
        for sequence in pool.map(partial(_load, store), entries):
            if sequence is None:
                dropped += 1
                continue
            frames, tracks = sequence.frames, sequence.tracks
            notes += sequence.notes
            words = f"{sequence.name}\n{frames.folder}\n{frames.names}".encode()
            values = (row, place, len(tracks), frames.count, frames.first, *sequence.size)
            table[-1:] = [np.array(values, np.int64), np.zeros(len(COLUMNS), np.int64)]
            boxes += [track.boxes for track in tracks]
            present += [track.present for track in tracks]
            text.append(np.frombuffer(words, np.uint8))
            row, place = row + len(tracks) * frames.count, place + len(words)
            table[-1][:2] = row, place
    if not text:
        raise InputError(f"{shown}: no sequence is left after cleaning; check the annotations with lorat data check")
    if dropped:
        logger.info("%s: %d sequences show no object and are left out", shown, dropped)
    if notes:
        logger.warning("%s: %d sentences by lorat data check, such as: %s", shown, len(notes), notes[0])
    exact = np.concatenate(boxes)
    short = exact.astype(np.float32)
    # half the size where nothing is lost, as for annotations in whole pixels
    packed = short if np.array_equal(short, exact, equal_nan=True) else exact
    arrays = (packed, np.concatenate(present), np.concatenate(text), np.stack(table))
    try:
        for name, array in zip(ARRAYS, arrays, strict=True):
            np.save(folder / f"{name}.npy", array)
    except OSError as error:
        raise InputError(f"{folder.parent.parent}: the index cannot be written ({error}); set LORAT_CACHE") from error


def _load(store: Store, entry: Entry) -> VideoSequence | None:
    sequence = entry.load()
    return clean(sequence, frame_sizes(store, sequence))


def _map(folder: Path) -> dict[str, np.ndarray]:
    try:
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS}
        boxes, present, text, table = (arrays[name] for name in ARRAYS)
        ends = np.array([[0, 0], [len(boxes), len(text)]])
        shapes = [boxes.shape[1:], present.shape, text.dtype, table.dtype]
        if shapes != [(4,), (len(boxes),), np.uint8, np.int64] or not np.array_equal(table[[0, -1], :2], ends):
            raise ValueError("its arrays do not belong together")
        steps, counts = np.diff(table[:, :2], axis=0), table[:-1, 2:4]
        if (counts < 1).any() or (steps < 1).any() or (steps[:, 0] != counts.prod(axis=1)).any():
            raise ValueError("its table does not fit the arrays")
        return arrays
    except Exception as error:  # a damaged .npy makes numpy raise many kinds
        raise _damaged(folder, error) from error


def _damaged(folder: Path, error: Exception) -> InputError:
    return InputError(f"{folder}: the index is damaged ({error}); delete the folder, it is made again")


def fit_to_image(boxes_xyxy: np.ndarray, size: ArrayLike) -> np.ndarray:
    """Move the outer edges of boxes (..., 4) xyxy into images of (width, height) pixels, `size` (2,) or (..., 2).

    Left and top only grow, right and bottom only shrink: a box outside the image turns inside out.
    """
    fitted = np.array(boxes_xyxy, np.float64)
    fitted[..., :2] = np.maximum(fitted[..., :2], 0)
    fitted[..., 2:] = np.minimum(fitted[..., 2:], size)
    return fitted


def clean(sequence: VideoSequence, sizes: np.ndarray | None = None) -> VideoSequence | None:
    """Clip boxes, drop what shows no object, and trim the ends; None if nothing is left.

    `sizes` (n, 2) are width and height of each frame in pixels, those of the first if left out. Boxes of absent objects
    are left as they are. An object is present where it is flagged so and its clipped box has area. Objects that are
    never present go; so do frames without any object, but only at the head and the tail.
    """
    if min(sequence.size) <= 0:
        return None
    limits = np.array(sequence.size) if sizes is None else sizes
    tracks = []
    for track in sequence.tracks:
        boxes = np.where(track.present[:, None], fit_to_image(track.boxes, limits), track.boxes)
        present = track.present & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        if present.any():
            tracks.append(Track(boxes, present))
    if not tracks:
        return None
    shown = np.flatnonzero(np.any([track.present for track in tracks], axis=0))
    start, stop = int(shown[0]), int(shown[-1]) + 1
    trimmed = tuple(track.part(start, stop) for track in tracks)
    return replace(sequence, frames=sequence.frames.part(start, stop), tracks=trimmed)
