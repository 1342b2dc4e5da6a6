"""What all formats hold: a video, and for each frame and object a box."""

from __future__ import annotations

import logging
import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from lorat_plugin.boxes import clip_to_image, xywh_to_xyxy
from lorat_plugin.errors import InputError, first_line
from lorat_plugin.files import parse_json, read_plain_text

logger = logging.getLogger(__name__)

LABEL = "object"  # of tracks that have no name
UNBOUNDED = range(sys.maxsize)  # frames of a video whose length is not known
UPLOAD_PREFIX = re.compile(r"[0-9a-f]{6,8}-")  # Label Studio puts it before the names of uploaded files


class VideoInfo(NamedTuple):
    """The video that tracks belong to.

    Fields: name, such as its file's without suffix; width and height, pixels; frames, numbers (0-based) of those that
    were looked at; fps, frames per second; file_names, of the images if it is a folder, one for each of `frames`.
    """

    name: str
    width: int
    height: int
    frames: range
    fps: float = 30.0
    file_names: tuple[str, ...] = ()

    def file_name(self, frame: int) -> str:
        """Name of a frame's image; 000012.jpg for frame 12 of a video file."""
        return self.file_names[frame - self.frames.start] if self.file_names else f"{frame:06d}.jpg"


class Row(NamedTuple):
    """One object in one frame. An object has no row in a frame where it is absent.

    Fields: frame, 0-based; id, of the object; box, x, y, w, h in pixels, 0-based top-left; score, 0 to 1; label, what
    the object is; key, False for a box that a tool has filled in between those that a person drew.
    """

    frame: int
    id: int
    box: tuple[float, float, float, float]
    score: float = 1.0
    label: str = LABEL
    key: bool = True


@dataclass(frozen=True)
class Tracks:
    """Rows of a video, by frame, then by id; `gone`: (frame, id) from which on a person says that an object is absent.

    It is so until its next row.
    """

    video: VideoInfo
    rows: tuple[Row, ...]
    gone: tuple[tuple[int, int], ...] = ()

    @classmethod
    def checked(
        cls,
        video: VideoInfo,
        rows: Iterable[Row],
        shown: str,
        gone: Iterable[tuple[int, int]] = (),
        losses: Counter[str] | None = None,
    ) -> Tracks:
        """Sort and check rows that were read; where an object has a row, it is not gone.

        `losses` counts what the file holds and `Tracks` does not, by a phrase that says what becomes of it; one line
        of the log lists them. Raises InputError naming `shown` for a box that is not finite or has no area, a score
        outside [0, 1], a frame that the video does not have, or two boxes of an object in a frame.
        """
        if losses:
            logger.warning("%s: holds %s", shown, ", ".join(f"{count} {what}" for what, count in losses.items()))
        ordered = tuple(sorted(rows, key=lambda row: row[:2]))
        before = None
        for row in ordered:
            what = f"{shown}: frame {row.frame} (counted from 0), object {row.id}:"
            if not np.isfinite(row.box).all() or min(row.box[2:]) <= 0:
                raise InputError(f"{what} box {row.box} must be finite, w and h above 0")
            if not 0 <= row.score <= 1:
                raise InputError(f"{what} has the score {row.score}; it must lie between 0 and 1")
            if row.frame not in video.frames:
                raise InputError(f"{what} {video.name} has frames {video.frames.start} to {video.frames.stop - 1}")
            if row[:2] == before:
                raise InputError(f"{what} has two boxes; leave one")
            before = row[:2]
        return cls(video, ordered, tuple(sorted({*gone} - {row[:2] for row in ordered})))

    def objects(self) -> dict[int, list[Row]]:
        """Rows of each object, by id."""
        found: dict[int, list[Row]] = {}
        for row in self.rows:
            found.setdefault(row.id, []).append(row)
        return dict(sorted(found.items()))

    def labels(self) -> list[str]:
        """Labels in the order in which they first appear."""
        return list(dict.fromkeys(row.label for row in self.rows))


def clipped(box: Sequence[float], video: VideoInfo) -> np.ndarray:
    """A box x, y, w, h cut at the frame's border, as (4,) float64 xyxy, for formats that hold nothing beyond it."""
    return clip_to_image(xywh_to_xyxy(np.asarray(box, np.float64)), (video.height, video.width))


def upright(box: Sequence[float], degrees: float, pivot: Sequence[float]) -> tuple[float, float, float, float]:
    """The upright bounds x, y, w, h of a box x, y, w, h that is turned clockwise about `pivot`; all in pixels."""
    x, y, w, h = box
    if not degrees:
        return x, y, w, h
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    corners = np.array([[x, y], [x + w, y], [x, y + h], [x + w, y + h]]) - pivot
    turned = corners @ np.array([[cosine, sine], [-sine, cosine]]) + pivot
    left, top, right, bottom = np.concatenate([turned.min(axis=0), turned.max(axis=0)]).round(6).tolist()
    return left, top, right - left, bottom - top


def whole(value: float) -> int:
    """A number as int. Raises ValueError if it has a fraction or is not finite."""
    if not math.isfinite(value) or value != int(value):
        raise ValueError(f"{value} is no whole number")
    return int(value)


def check_size(video: VideoInfo, width: int, height: int, shown: str) -> None:
    """Raise InputError if a file is about frames of another size, in pixels."""
    if (width, height) != (video.width, video.height):
        raise InputError(
            f"{shown}: is for frames of {width}x{height}, {video.name} has {video.width}x{video.height}: labels of "
            "another video, or of another size of it"
        )


@contextmanager
def reading(path: Path, wanted: str) -> Iterator[None]:
    """Turn what goes wrong inside the block into an InputError that names the file and what was wanted."""
    try:
        yield
    except InputError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, SyntaxError) as error:
        detail = f"no {error}" if isinstance(error, KeyError) else first_line(error)
        raise InputError(f"{path}: cannot be read as {wanted} ({detail})") from error


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises InputError if it cannot be read or is no JSON."""
    try:
        return parse_json(read_plain_text(path))
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: is no JSON ({first_line(error)})") from error


def frames_by_stem(video: VideoInfo) -> dict[str, int]:
    """Frame numbers of a folder's images by their names without suffix; empty for a video file."""
    return {Path(name).stem: frame for frame, name in enumerate(video.file_names, video.frames.start)}


def only(things: Sequence[Any], texts: Callable[[Any], Sequence[str]], video: VideoInfo, path: Path) -> Any:
    """The entry of a file about `video`: the one that names it in its `texts`, or the only one; else InputError."""
    named = [thing for thing in things if any(video.name in _names(text) for text in texts(thing))] or things
    if len(named) != 1:
        listed = ", ".join(next(iter(texts(thing)), "?") for thing in things) or "none"
        raise InputError(f"{path}: holds {len(things)} videos ({listed:.200}), none or several of them {video.name}")
    return named[0]


def _names(text: str) -> set[str]:
    """Names that a video may have by its name, path or URL: with and without suffix, and prefix of an upload."""
    try:
        url = urlsplit(text)
        texts = [text, url.path, *parse_qs(url.query).get("d", ())]  # Label Studio's local files are ?d=PATH
    except ValueError:
        texts = [text]
    paths = [Path(unquote(entry).replace("\\", "/")) for entry in texts]
    names = {name for path in paths for name in (path.name, path.stem)}
    return names | {UPLOAD_PREFIX.sub("", name, count=1) for name in names if UPLOAD_PREFIX.match(name)}
