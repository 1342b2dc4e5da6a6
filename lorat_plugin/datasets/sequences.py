"""Labelled videos, for training and for evaluation: frames with tracks of boxes, read from a folder or an LMDB.

`Reader` knows a data set's files; `Store` hides whether they lie in a folder or in an LMDB, under the same relative
paths; `Dataset` is what pairs are drawn from. Boxes are float64 xyxy in frame pixels.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np

from lorat_plugin import images
from lorat_plugin.boxes import xywh_to_xyxy, xyxy_to_xywh
from lorat_plugin.digests import Record, describe_frames
from lorat_plugin.errors import InputError
from lorat_plugin.files import decode_text, require_utf8
from lorat_plugin.images import decode_image

SIZE_STEP = 32  # of frames whose header is read when a data set is indexed; reading all takes too long on millions
LISTED = -1  # `Frames.first` of frames whose names follow no counter


@dataclass(frozen=True)
class Frames:
    """Where the frames of a sequence lie.

    Fields: folder, the path below the data set's root; names, a counter such as "%08d.jpg", or one name a line;
    first, the number of the first frame, or LISTED if `names` is a list; count, the number of frames; root, the data
    set's root, empty for keys of a store. Items are paths, composed on demand: a benchmark has millions of frames.
    """

    folder: str
    names: str
    first: int
    count: int
    root: str = ""

    @classmethod
    def listed(cls, folder: str, names: list[str], root: str = "") -> Frames:
        """Frames whose names follow no counter."""
        return cls(folder, "\n".join(names), LISTED, len(names), root)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> str:
        if not -self.count <= index < self.count:
            raise IndexError(index)
        return os.path.join(self.root, self.key(index % self.count))

    def __iter__(self) -> Iterator[str]:
        home = os.path.join(self.root, self.folder, "") if self.root or self.folder else ""
        return (home + name for name in self.file_names())

    def file_names(self) -> list[str]:
        """The frames' names in their folder."""
        if self.first == LISTED:
            return self.names.split("\n") if self.count else []
        return [self.names % (self.first + index) for index in range(self.count)]

    def key(self, index: int) -> str:
        """Path of frame `index` (0-based) below the data set's root, parts joined by "/"."""
        name = self.names.split("\n")[index] if self.first == LISTED else self.names % (self.first + index)
        return f"{self.folder}/{name}" if self.folder else name

    def part(self, start: int, stop: int) -> Frames:
        """Frames `start` to `stop`, exclusive."""
        if self.first == LISTED:
            return Frames.listed(self.folder, self.file_names()[start:stop], self.root)
        return replace(self, first=self.first + start, count=stop - start)


@dataclass(frozen=True, eq=False)
class Track:
    """One object in every frame of its sequence.

    Fields: boxes, (n, 4) float64 xyxy in frame pixels; present, (n,) bool; annotated, (n, 4) float64 x, y, w, h, from
    which the boxes were computed, None if they have been changed since.
    """

    boxes: np.ndarray
    present: np.ndarray
    annotated: np.ndarray | None = None

    def part(self, start: int, stop: int) -> Track:
        """The object in frames `start` to `stop`, exclusive."""
        annotated = None if self.annotated is None else self.annotated[start:stop]
        return Track(self.boxes[start:stop], self.present[start:stop], annotated)


@dataclass(frozen=True, eq=False)
class VideoSequence:
    """A labelled video, or an image as a video of one frame.

    Fields: size, (width, height) of its first frame in pixels; tracks, its objects, one for an evaluation, with a row
    for each frame, or one row where only the first box is public; notes, sentences about annotation that does not fit;
    attributes, names of the data set's challenges that it has, such as "Fast Motion"; offset, number of frames of the
    data set's sequence before the first one here, and parent, that whole sequence, None if this is it: see `part`.
    """

    name: str
    frames: Frames
    size: tuple[int, int]
    tracks: tuple[Track, ...]
    notes: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    offset: int = 0
    parent: VideoSequence | None = None

    def __len__(self) -> int:
        return self.frames.count

    @property
    def boxes(self) -> np.ndarray:
        """Boxes of the first object, (N, 4) float64 x, y, w, h in pixels counted from 0, as annotated."""
        track = self.tracks[0]
        return xyxy_to_xywh(track.boxes) if track.annotated is None else track.annotated

    @property
    def present(self) -> np.ndarray:
        """Frames that show the first object, (N,) bool, by the data set's flags."""
        return self.tracks[0].present

    @property
    def scorable(self) -> bool:
        """Whether there is a box for every frame."""
        return len(self.boxes) == len(self)

    @property
    def whole(self) -> int:
        """Number of frames of the sequence that this one is a part of, or its own."""
        return len(self.parent or self)

    def part(self, start: int, stop: int) -> VideoSequence:
        """Frames `start` to `stop`, exclusive. Result files still have a row for every frame of the whole."""
        return replace(
            self,
            frames=self.frames.part(start, stop),
            tracks=tuple(track.part(start, stop) for track in self.tracks),
            offset=self.offset + start,
            parent=self.parent or self,
        )

    @cached_property
    def record(self) -> Record:
        """What a result depends on, of the whole sequence: its frames (`describe_frames`), their folder, the first box.

        Read from the disk when it is first asked for. Raises InputError if a frame cannot be read.
        """
        whole = self.parent or self
        # four digits, as files of annotation have them after a shift by a pixel
        start = [round(float(value), 4) for value in whole.boxes[0]]
        folder = os.path.dirname(os.path.abspath(whole.frames[0]))
        return {"folder": folder, **describe_frames(list(whole.frames)), "first box": start}


def box_sequence(
    name: str,
    frames: Iterable[str] | Frames,
    boxes_xywh: np.ndarray,
    present: np.ndarray,
    size: tuple[int, int],
    attributes: tuple[str, ...] = (),
) -> VideoSequence:
    """A video of one object from paths, boxes (N, 4) x, y, w, h in pixels counted from 0, and present (N,) bool."""
    frames = frames if isinstance(frames, Frames) else Frames.listed("", list(frames))
    boxes_xywh = np.asarray(boxes_xywh, np.float64)
    track = Track(xywh_to_xyxy(boxes_xywh), present, boxes_xywh)
    return VideoSequence(name, frames, size, (track,), attributes=attributes)


class Store:
    """A data set's plain files, under relative paths with "/" between the parts; `LmdbStore` has them in an LMDB."""

    def __init__(self, root: Path) -> None:
        """Read below `root`."""
        self.root = root

    def open(self, key: str) -> BinaryIO:
        """The file `key`, opened for reading. Raises InputError if it cannot be."""
        try:
            return open(self.root / key, "rb")
        except (OSError, ValueError) as error:  # ValueError: a name with a null byte
            reason = getattr(error, "strerror", error)
            raise InputError(f"{self.shown(key)}: cannot be read: {reason}; restore the file") from error

    def exists(self, key: str) -> bool:
        """Whether there is a file `key`."""
        return (self.root / key).is_file()

    def names(self, folder: str) -> list[str]:
        """Names of the files and folders in a folder, sorted, hidden ones left out; none if it is absent.

        Raises InputError for a name that is no UTF-8.
        """
        path = self.root / folder
        names = sorted(name for name in os.listdir(path) if not name.startswith(".")) if path.is_dir() else []
        for name in names:
            require_utf8(name, str(path))
        return names

    def stamp(self, key: str) -> str:
        """What changes when the file does: its size and time, empty if there is none."""
        try:
            status = (self.root / key).stat()
        except OSError:
            return ""
        return f"{status.st_size} {status.st_mtime_ns}"

    def shown(self, key: str) -> str:
        """The file as messages name it: its path."""
        return str(self.root / key)


@dataclass(frozen=True)
class Entry:
    """A sequence that a reader found; `load` reads its annotations, and raises InputError if they are malformed."""

    name: str
    load: Callable[[], VideoSequence]


class Reader(Protocol):
    """A data set's layout. Its `repr` tells its options: it is part of what an index depends on."""

    @property
    def name(self) -> str:
        """The data set as users write it."""

    @property
    def layout(self) -> str:
        """The folders and files, in words."""

    @property
    def mark(self) -> str:
        """A file or folder that only this data set has, or empty."""

    def labels(self, store: Store) -> list[str]:
        """Annotation files, found without opening many. Raises InputError if the layout is another."""

    def entries(self, store: Store) -> Iterator[Entry]:
        """The sequences, in an order that does not depend on the kind of store."""


class Dataset(Protocol):
    """What pairs are drawn from. Other packages register theirs as a `Reader`, and get a `Dataset` by the index."""

    name: str

    def __len__(self) -> int:
        """Number of sequences."""

    def __getitem__(self, index: int) -> VideoSequence:
        """A sequence after cleaning; every track is present at least once."""

    def frame(self, sequence: VideoSequence, index: int) -> np.ndarray:
        """Decode frame `index`: (H, W, 3) uint8 RGB. Raises InputError if that fails."""


def read_bytes(store: Store, key: str) -> bytes:
    """The content of a file."""
    with store.open(key) as file:
        return file.read()


def read_text(store: Store, key: str) -> str:
    """The content of a text file as `files.decode_text` gives it. Raises InputError if it is no text."""
    return decode_text(read_bytes(store, key), store.shown(key))


def read_frame(store: Store, key: str) -> np.ndarray:
    """Decode an image as (H, W, 3) uint8 RGB. Raises InputError naming it if it is missing or damaged."""
    return decode_image(read_bytes(store, key), store.shown(key))


def image_size(store: Store, key: str) -> tuple[int, int]:
    """Width and height of an image in pixels as `read_frame` decodes it. Raises InputError if it is none."""
    with store.open(key) as file:
        return images.image_size(file, store.shown(key))


def frame_sizes(
    store: Store,
    sequence: VideoSequence,
    step: int = SIZE_STEP,
    unreadable: Callable[[str], None] = lambda sentence: None,
) -> np.ndarray:
    """Width and height of each frame in pixels, (n, 2) int64, from the headers of the image files.

    Every `step`-th header is read, the last, and those of frames in which a box leaves the first picture; all if one of
    these has another size than the first. A frame that is not read has the first one's size, and so has one whose
    header cannot be: `unreadable` gets the sentence.
    """
    count = sequence.frames.count
    sizes = np.tile(np.array(sequence.size, np.int64), (count, 1))
    todo = np.zeros(count, bool)
    todo[::step] = todo[-1] = True
    for track in sequence.tracks:
        todo |= track.present & (track.boxes[:, 2:] > sequence.size).any(axis=1)
    for part in (todo, ~todo):
        for number in np.flatnonzero(part):
            try:
                sizes[number] = image_size(store, sequence.frames.key(int(number)))
            except InputError as error:
                unreadable(str(error))
        if (sizes == sequence.size).all():
            break
    return sizes


def single_track(
    store: Store,
    name: str,
    frames: Frames,
    boxes_xywh: np.ndarray,
    present: np.ndarray,
    *,
    one_based: bool = False,
    first_only: bool = False,
) -> VideoSequence:
    """A video of one object, whose first frame tells the size; the last must be there.

    There are as many frames as boxes, or InputError is raised; with `first_only` one box may be for them all. With
    `one_based` the top left pixel of `boxes_xywh`, (n, 4) float64, is 1, 1 and not 0, 0. `present` is (n,) bool.
    """
    if frames.count != len(boxes_xywh) and not (first_only and frames.count and len(boxes_xywh) == 1):
        raise InputError(
            f"{store.shown(frames.folder)}: {frames.count} frames but {len(boxes_xywh)} boxes; they must agree"
        )
    if not store.exists(frames.key(frames.count - 1)):
        raise InputError(
            f"{store.shown(frames.key(frames.count - 1))}: is missing, but there are {len(boxes_xywh)} boxes for"
            f" sequence {name}; extract the frames again"
        )
    shift = np.array([1.0, 1.0, 0.0, 0.0]) if one_based else 0.0
    present = present & np.isfinite(boxes_xywh).all(axis=1)
    return box_sequence(name, frames, boxes_xywh - shift, present, image_size(store, frames.key(0)))


def select(names: list[str], chosen: tuple[str, ...], shown: str) -> list[str]:
    """Those of `names` that are chosen, all if none are. Raises InputError if one that is chosen is not there."""
    if not chosen:
        return names
    wanted = set(chosen)
    absent = sorted(wanted - set(names))
    if absent:
        raise InputError(
            f"{shown}: {len(absent)} of {len(chosen)} sequences in the list are missing, first {absent[0]}"
        )
    return [name for name in names if name in wanted]
