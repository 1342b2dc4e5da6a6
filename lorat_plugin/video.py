"""Where frames come from: a video file, images, a camera or a stream.

`open_source` gives a `FrameSource`, which decodes in a thread of its own. A file or folder is decoded a few frames
ahead and every frame is delivered; of a camera or stream only the newest frame is kept, so that a slow tracker skips
frames instead of falling behind. Memory does not grow with the length of the source.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import re
import threading
import weakref
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import cv2
import numpy as np

from lorat_plugin.errors import InputError
from lorat_plugin.files import require_utf8
from lorat_plugin.images import IMAGE_NAME, list_images, pattern_images, read_image

logger = logging.getLogger(__name__)

READ_AHEAD = 4  # decoded frames waiting: enough to even out decoding times, 100 MB of 4K frames
POLL_SECONDS = 0.1  # how soon a waiting thread notices that the source was stopped


class Frame(NamedTuple):
    """One decoded frame: its number in the source (0-based), where it came from, (H, W, 3) uint8 RGB, when it shows."""

    number: int
    origin: str
    image: np.ndarray
    seconds: float | None = None  # from the video's beginning


class FrameSource:
    """The frames of one source, decoded in a thread. Use it in a `with` block and iterate once.

    Attributes:
        name: short name of the source, fit for a folder's name.
        length: number of frames to expect, or None if unknown (cameras, streams, some videos). Some containers state
            none; then it is an estimate, too great if the frame rate varies.
        fps: frames per second that the source states, or None if unknown.
        live: only the newest frame is kept; `Frame.number` counts the dropped ones too.
        mean_fps: frames per second by the times of the first and last frame; `fps` until the last is decoded.
        missing: number of frames that a file states and lacks at its end; 0 until the last is decoded.

    Iterating raises InputError for a frame that cannot be read or, with `one_size`, that has another size than the
    frames before.
    """

    def __init__(
        self,
        name: str,
        frames: Generator[Frame, None, None],
        *,
        length: int | None = None,
        fps: float | None = None,
        live: bool = False,
        one_size: bool = True,
    ) -> None:
        """Start to decode `frames` in a thread; pictures may differ in size unless `one_size`."""
        self.name, self.length, self.fps, self.live = name, length, fps, live
        self.mean_fps, self.missing = fps, 0
        self._queue: queue.Queue[Frame | Exception | None] = queue.Queue(maxsize=1 if live else READ_AHEAD)
        self._stopped = threading.Event()
        checked = _of_one_size(frames) if one_size else frames
        self._thread = threading.Thread(target=self._decode, args=(checked,), name=f"decode {name}", daemon=True)
        self._thread.start()
        weakref.finalize(self, _end, self._stopped, self._thread)  # at exit: a thread amid decoding would abort it

    def __iter__(self) -> Iterator[Frame]:
        """Frames in order, until the source ends or `stop` is called."""
        while not self._stopped.is_set():
            try:
                item = self._queue.get(timeout=POLL_SECONDS)
            except queue.Empty:
                continue
            if item is None:
                return
            if isinstance(item, Exception):
                raise item
            yield item

    def stop(self) -> None:
        """End the iteration before its next frame. Safe to call from a signal handler or another thread."""
        self._stopped.set()

    def close(self) -> None:
        """Stop decoding and wait for the thread, at most two seconds: a camera may block."""
        _end(self._stopped, self._thread)

    def __enter__(self) -> FrameSource:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    def _decode(self, frames: Generator[Frame, None, None]) -> None:
        try:
            first = frame = None
            with contextlib.closing(frames):
                for frame in frames:
                    first = first or frame._replace(image=frame.image[:0, :0].copy())  # its pixels need not stay
                    self._put(frame)
                    if self._stopped.is_set():
                        return
            if first is not None and frame is not None and not self.live:
                self._take_stock(first, frame)
            self._put(None)
        except Exception as error:  # raised again in the thread that iterates
            self._put(error)

    def _take_stock(self, first: Frame, last: Frame) -> None:
        """Compare the frames that came with what the file states."""
        count, seconds = last.number - first.number + 1, (last.seconds or 0) - (first.seconds or 0)
        mean = (count - 1) / seconds if seconds > 0 else 0
        stated = seconds * (self.fps or 0) + 1  # frames in this time; the stated number may be duration times rate
        missing = (self.length or 0) - max(count, round(stated))
        if missing > max(2, (self.length or 0) // 100):
            self.missing = missing
            expected = last.number + 1 + missing
            logger.warning(
                "%s: ends after %d of %d frames; it is damaged or incomplete", last.origin, last.number + 1, expected
            )
        elif 1 <= mean <= 240 and abs(stated - count) > max(1, count / 50):  # times are often rounded
            self.mean_fps = mean
            logger.warning(
                "%s: its frame rate varies: %.4g a second on average, %.4g stated", last.origin, mean, self.fps or 0
            )

    def _put(self, item: Frame | Exception | None) -> None:
        while not self._stopped.is_set():
            try:
                self._queue.put(item, timeout=0 if self.live else POLL_SECONDS)
                return
            except queue.Full:
                if self.live:
                    with contextlib.suppress(queue.Empty):
                        self._queue.get_nowait()


def _end(stopped: threading.Event, thread: threading.Thread) -> None:
    stopped.set()
    if thread is not threading.current_thread():  # which may be the last to know a source that nobody closed
        thread.join(timeout=2)


def open_source(source: str | int | Path, start: int = 0, end: int | None = None) -> FrameSource:
    """Open a video file, a folder of images, a camera or a stream.

    Args:
        source: path of a video; path of a folder, whose images are taken in natural order (2 before 10); a printf
            pattern of images such as img_%04d.png; a camera's index; a URL (rtsp, http, ...). A path that exists wins
            over a pattern or a camera's index of the same name.
        start: first frame, 0-based.
        end: frame to stop before (exclusive); None for all.

    Videos with rotation metadata come upright. 16-bit images keep their high byte, grey and palette images become RGB,
    alpha is dropped. A video that ends early gives the frames that it has and logs a warning.

    Raises InputError if the source does not exist, cannot be opened, has no frame, or if `start` is beyond its end; the
    latter two for videos when the first frame is asked for.
    """
    if start < 0 or (end is not None and end <= start):
        raise InputError(f"frames {start} to {end}: start must be 0 or more, and end (exclusive) greater than start")
    path = Path(str(source)).expanduser()
    require_utf8(os.path.abspath(path), str(path))
    if not isinstance(source, int) and path.is_dir():
        return _open_images(path, _folder_images(path), start, end)
    if not isinstance(source, int) and path.exists():
        if IMAGE_NAME.fullmatch(path.name) and path.suffix.lower() != ".gif":
            raise InputError(f"{path}: is a single image; give the folder of frames or a video")
        remedy = "it is damaged, incomplete, without pictures or of an unknown format"
        capture = _open_capture(str(path), str(path), remedy)
        return _capture_source(capture, path.stem, str(path), start, end, live=not path.is_file())
    text = str(source)
    if "://" not in text and (paths := pattern_images(path)):
        return _open_images(path.parent, paths, start, end)
    if re.fullmatch("[0-9]+", text):
        shown = f"camera {text}"
        capture = _open_capture(int(text), shown, "is it connected, free, and may this user read it?")
        return _capture_source(capture, f"camera{text}", shown, start, end, live=True)
    if "://" in text:
        parts = urlsplit(text)
        shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"  # neither password nor token
        name = re.sub(r"[^A-Za-z0-9.-]+", "_", shown.partition("://")[2]).strip("_.") or "stream"
        capture = _open_capture(text, shown, "is the address right and reachable?")
        return _capture_source(capture, name, shown, start, end, live=True)
    raise InputError(f"{text}: no such video or folder, and neither a camera's index nor a URL")


def _folder_images(folder: Path) -> list[Path]:
    paths = list_images(folder)
    if not paths:
        inside = sorted(path.name for path in folder.iterdir() if path.is_dir() and list_images(path))
        hint = f"; its folder {inside[0]} has some" if inside else ""
        raise InputError(f"{folder}: no images in this folder{hint}")
    return paths


def _open_images(folder: Path, paths: Sequence[Path], start: int, end: int | None) -> FrameSource:
    if start >= len(paths):
        raise InputError(f"{folder}: start {start} is beyond its end, it has {len(paths)} frames")
    end = min(len(paths), len(paths) if end is None else end)
    return FrameSource(folder.resolve().name, _folder_frames(paths, start, end), length=end - start)


def _folder_frames(paths: Sequence[Path], start: int, end: int) -> Generator[Frame, None, None]:
    for number in range(start, end):
        try:
            yield Frame(number, str(paths[number]), read_image(paths[number]))
        except InputError as error:
            raise InputError(f"frame {number}: {error}") from error


def _open_capture(source: str | int, shown: str, remedy: str) -> cv2.VideoCapture:
    capture = cv2.VideoCapture(source)
    if not capture.isOpened():
        raise InputError(f"{shown}: cannot be opened; {remedy}")
    return capture


def _capture_source(
    capture: cv2.VideoCapture, name: str, shown: str, start: int, end: int | None, *, live: bool
) -> FrameSource:
    announced = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    count = int(announced) if 0 < announced < 1e9 else None  # containers without an index announce absurd numbers
    rate = capture.get(cv2.CAP_PROP_FPS)
    fps = rate if 1 <= rate <= 240 else None
    length = None
    if count is not None and fps is not None:  # without a rate the number means nothing: it may be duration times rate
        length = max(0, min(count, count if end is None else end) - start)
    return FrameSource(
        name,
        _capture_frames(capture, shown, start, end),
        length=length,
        fps=fps,
        live=live and count is None,  # a URL with a known number of frames is a file: deliver them all
    )


def _capture_frames(capture: cv2.VideoCapture, shown: str, start: int, end: int | None) -> Generator[Frame, None, None]:
    try:
        for skipped in range(start):  # seeking is inexact in many formats, decoding is not
            if not capture.grab():
                raise InputError(f"{shown}: start {start} is beyond its end, it has {skipped} frames")
        number = start
        while end is None or number < end:
            good, image = capture.read()
            if not good:
                break
            seconds = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            yield Frame(number, shown, cv2.cvtColor(image, cv2.COLOR_BGR2RGB), seconds)
            number += 1
        if number == start:
            nothing = "no frame can be decoded; convert it, for example to H.264 with ffmpeg"
            raise InputError(f"{shown}: {f'start {start} is beyond its end' if start else nothing}")
    finally:
        capture.release()


def _of_one_size(frames: Generator[Frame, None, None]) -> Generator[Frame, None, None]:
    """The same frames; raises InputError at the first whose size differs, as boxes would lose their meaning."""
    size = None
    with contextlib.closing(frames):
        for frame in frames:
            height, width = frame.image.shape[:2]
            if size is not None and size != (width, height):
                raise InputError(
                    f"frame {frame.number} ({frame.origin}): is {width}x{height} pixels, the frames before are"
                    f" {size[0]}x{size[1]}; frames of one source must have one size"
                )
            size = (width, height)
            yield frame
