"""Sources of frames: a video file, images, a camera or a stream.

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
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import cv2

from lorat_plugin.errors import InputError
from lorat_plugin.files import require_utf8
from lorat_plugin.images import IMAGE_NAME, list_images, pattern_images, read_image
from lorat_plugin.video.file import RATES, Frame, Incomplete, VideoFile

logger = logging.getLogger(__name__)

READ_AHEAD = 4  # decoded frames waiting: enough to even out decoding times, 100 MB of 4K frames
PATIENCE = 25  # frames of a live source that cannot be read in a row until it counts as closed
POLL_SECONDS = 0.1  # how soon a waiting thread notices that the source was stopped


class SourceClosed(Exception):
    """A live source has ended by itself."""


class FrameSource:
    """The frames of one source, decoded in a thread. Use it in a `with` block and iterate once.

    Fields: name, short, fit for a folder's name; length, number of frames to expect, None if unknown (cameras, streams,
    some videos), for videos an estimate from the duration; fps, frames per second that the source states, or None;
    live, only the newest frame is kept, and `Frame.number` counts the dropped ones too; mean_fps, by the times of the
    first and last frame, `fps` until the last is decoded; missing, frames that a file states and lacks at its end, 0
    until the last is decoded; damaged, numbers of the frames so far that cannot be decoded and are left out; closed,
    whether a live source has ended by itself. Iterating raises InputError for a frame that cannot be read or, with
    `one_size`, has another size than the frames before.
    """

    def __init__(
        self,
        name: str,
        frames: Generator[Frame, None, None],
        *,
        length: int | None = None,
        fps: float | None = None,
        live: bool = False,
        damaged: Sequence[int] = (),
        one_size: bool = True,
    ) -> None:
        """Start to decode `frames` in a thread; they may add to `damaged`, and differ in size unless `one_size`."""
        self.name, self.length, self.fps, self.live, self.damaged = name, length, fps, live, damaged
        self.mean_fps, self.missing, self.closed = fps, 0, False
        self._queue: queue.Queue[Frame | Exception | None] = queue.Queue(maxsize=1 if live else READ_AHEAD)
        self._stopped = threading.Event()
        checked = _of_one_size(frames) if one_size else frames
        self._thread = threading.Thread(target=self._decode, args=(checked,), name=f"decode {name}", daemon=True)
        self._thread.start()
        weakref.finalize(self, _end, self._stopped, self._thread)  # at exit: a thread that decodes would abort it

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

    def check_end(self, last: Frame) -> None:
        """Raise InputError if a video file lacks frames behind the last one."""
        if self.missing:
            raise InputError(
                f"{last.origin}: its last {self.missing} frames cannot be read; copy it again, or leave them out with"
                f" --end {last.number + 1}"
            )

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
                    self._put(frame, self.live)
                    if self._stopped.is_set():
                        return
            if first is not None and frame is not None and not self.live:
                self._compare_rates(first, frame)
            self._put(None)
        except (Incomplete, SourceClosed) as error:
            logger.warning("%s", error)
            self.missing = getattr(error, "missing", 0)
            self.closed = isinstance(error, SourceClosed)
            self._put(None)
        except Exception as error:  # raised again in the thread that iterates
            self._put(error)

    def _compare_rates(self, first: Frame, last: Frame) -> None:
        """Find the mean frame rate; warn if it is not the stated one."""
        steps, seconds = last.number - first.number, (last.seconds or 0) - (first.seconds or 0)
        mean = steps / seconds if seconds > 0 else 0
        stated = seconds * (self.fps or 0)
        if RATES[0] <= mean <= RATES[1] and abs(stated - steps) > max(1, steps / 50):  # times are often rounded
            self.mean_fps = mean
            logger.warning(
                "%s: its frame rate varies: %.4g a second on average, %.4g stated", last.origin, mean, self.fps or 0
            )

    def _put(self, item: Frame | Exception | None, replace: bool = False) -> None:
        """Give an item to the reader, with `replace` instead of one that waits; else wait for room."""
        while not self._stopped.is_set():
            try:
                self._queue.put(item, timeout=0 if replace else POLL_SECONDS)
                return
            except queue.Full:
                if replace:
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
    alpha is dropped. Damaged frames of a video are left out and named in a warning; the others keep their numbers. A
    video that ends early gives the frames that it has and logs a warning.

    Raises InputError if the source does not exist, cannot be opened, has no frame, or if `start` is beyond its end; the
    latter two for videos when the first frame is asked for.
    """
    if start < 0 or (end is not None and end <= start):
        raise InputError(f"frames {start} to {end}: start must be 0 or more, and end (exclusive) greater than start")
    path = Path(str(source)).expanduser()
    require_utf8(os.path.abspath(path), str(path))
    if not isinstance(source, int) and path.is_dir():
        return _open_images(path, list_images(path), start, end)
    if not isinstance(source, int) and path.exists():
        if IMAGE_NAME.fullmatch(path.name) and path.suffix.lower() != ".gif":
            raise InputError(f"{path}: is a single image; give the folder of frames or a video")
        if path.is_file():
            return _file_source(VideoFile(str(path.absolute()), str(path)), path.stem, start, end)
        return _live_source(str(path), path.stem, str(path), "may this user read it?", start, end)
    text = str(source)
    if "://" not in text and (paths := pattern_images(path)):
        return _open_images(path.parent, paths, start, end)
    if re.fullmatch("[0-9]+", text):
        shown = f"camera {text}"
        remedy = "is it connected, free, and may this user read it?"
        return _live_source(int(text), f"camera{text}", shown, remedy, start, end)
    if "://" in text:
        parts = urlsplit(text)
        if parts.scheme == "file":
            return open_source(url2pathname(parts.path), start, end)
        shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"  # neither password nor token
        name = re.sub(r"[^A-Za-z0-9.-]+", "_", shown.partition("://")[2]).strip("_.") or "stream"
        return _live_source(text, name, shown, "is the address right and reachable?", start, end)
    raise InputError(f"{text}: no such video or folder, and neither a camera's index nor a URL")


def without_gaps(frames: Iterable[Frame]) -> Iterator[Frame]:
    """The frames, and for each number that damage has left out between them the frame before, with that number."""
    before: Frame | None = None
    for frame in frames:
        if before is not None:
            for number in range(before.number + 1, frame.number):
                yield before._replace(number=number)
        yield frame
        before = frame


def _open_images(folder: Path, paths: Sequence[Path], start: int, end: int | None) -> FrameSource:
    if not paths:
        inside = sorted(path.parent.name for path in folder.glob("*/*") if IMAGE_NAME.fullmatch(path.name))
        hint = f"; its folder {inside[0]} has some" if inside else ""
        raise InputError(f"{folder}: no images in this folder{hint}")
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


def _file_source(video: VideoFile, name: str, start: int, end: int | None) -> FrameSource:
    length = video.length
    if length is not None:
        length = max(0, min(length, length if end is None else end) - start)
    frames = video.frames(start, end)
    return FrameSource(name, frames, length=length, fps=video.fps, damaged=video.damaged)


def _live_source(source: str | int, name: str, shown: str, remedy: str, start: int, end: int | None) -> FrameSource:
    capture = cv2.VideoCapture(source)
    if not capture.isOpened():
        raise InputError(f"{shown}: cannot be opened; {remedy}")
    if 0 < capture.get(cv2.CAP_PROP_FRAME_COUNT) < 1e9:  # a URL with a known number of frames is a file
        capture.release()
        return _file_source(VideoFile(str(source), shown, local=False), name, start, end)
    rate = capture.get(cv2.CAP_PROP_FPS)
    fps = rate if RATES[0] <= rate <= RATES[1] else None
    return FrameSource(name, _live_frames(capture, shown, start, end), fps=fps, live=True)


def _live_frames(capture: cv2.VideoCapture, shown: str, start: int, end: int | None) -> Generator[Frame, None, None]:
    """The frames that come, damaged ones left out but counted. Raises SourceClosed when no more come."""
    number, failures = 0, 0
    try:
        while end is None or number < end:
            good, image = capture.read()
            if good:
                if number >= start:
                    seconds = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                    yield Frame(number, shown, cv2.cvtColor(image, cv2.COLOR_BGR2RGB), seconds)
                failures = 0
            else:
                failures += 1
                if failures == PATIENCE:
                    count = number + 1 - failures
                    raise SourceClosed(f"{shown}: has ended after {count} frames: it closed, or sends nothing more")
            number += 1
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
