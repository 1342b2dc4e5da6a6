"""Decodes a video file with FFmpeg's libraries: every picture with its number and time.

A picture's number is its place among the file's pictures in the order in which they are shown. Damaged pictures are
left out but counted, so those behind them keep their numbers.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Generator, Iterator
from typing import Any, NamedTuple

import av
import cv2
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from lorat_plugin.errors import InputError

logger = logging.getLogger(__name__)

RATES = 0.1, 1000.0  # frames per second that are believed
THREADS = 4  # of the decoder; each holds a frame or more
ATTEMPTS = 10  # to read on behind damage in a container
TOLERANCE = 0.3  # seconds between a stated end and the last packet; the last packet of sound may state no duration
LATEST = 10.0  # seconds; times that go back further are of a clock that was set anew
LASTING = 2.0  # seconds around a sign of damage in which a gap in time is a loss
LONGEST_GAP = 10_000  # frames; a longer one is a clock that was set anew
CONVERT = "no frame can be decoded; convert it, for example to H.264 with ffmpeg"
# Formats that name other files, which may be another user's, or that take any text for a picture.
REFUSED = {"concat", "dash", "hls", "imf", "tty"}
# Formats that state their duration; of others it is estimated from the file's end.
STATED = {"asf", "flv", "matroska", "mov"}
_named: dict[str, set[int]] = {}  # damaged pictures that a warning has named, by file


class Frame(NamedTuple):
    """One decoded frame: its number in the source (0-based), where it came from, (H, W, 3) uint8 RGB, when it shows."""

    number: int
    origin: str
    image: np.ndarray
    seconds: float | None = None  # from the video's beginning


class Incomplete(Exception):
    """A file lacks its end: `missing` frames by its own statement."""

    def __init__(self, text: str, missing: int) -> None:
        super().__init__(text)
        self.missing = missing


class _Damaged(Exception):
    """Something in the file cannot be decoded."""


class VideoFile:
    """The pictures of a video file's first video stream; a cover picture is none.

    Attributes:
        fps: frames per second that the file states, or None if unknown.
        length: number of frames to expect, estimated from the duration, or None if unknown.
        damaged: numbers of the damaged pictures that `frames` has left out.

    Raises InputError if the file cannot be opened, or has no pictures.
    """

    def __init__(self, address: str, shown: str, *, local: bool = True) -> None:
        """Open a path, or with `local` False the URL of a file; errors name it `shown`."""
        self._address, self._shown, self._local = address, shown, local
        self.damaged: list[int] = []
        container, stream = self._open()
        with container:
            rate = float(stream.guessed_rate or stream.average_rate or 0)  # 1/10 as a fraction is less than 0.1
            self.fps = rate if RATES[0] <= rate <= RATES[1] else None
            seconds = None if container.duration is None else container.duration / av.time_base
            if stream.duration is not None and stream.time_base:
                seconds = float(stream.duration * stream.time_base)  # without the sound
            elif seconds and _states_end(container):
                seconds -= (container.start_time or 0) / av.time_base
            average = float(stream.average_rate or rate)
            self.length = round(seconds * average) if seconds and average else None

    def frames(self, start: int = 0, end: int | None = None) -> Generator[Frame, None, None]:
        """Decode the pictures from number `start` to before `end`; damaged ones are left out and named in a warning.

        Raises InputError if there is none, and Incomplete behind the last one of a file that lacks its end.
        """
        following = start
        try:
            for threads in THREADS, 1:
                try:
                    container, stream = self._open()
                    with container:
                        for frame in self._decode(container, stream, threads, start, end, following):
                            if end is not None and frame.number >= end:
                                break
                            yield frame
                            following = frame.number + 1
                            if following == end:
                                break
                    if following == start:
                        raise InputError(f"{self._shown}: no frame from {start} on can be decoded; it is damaged")
                    return
                except _Damaged:  # several threads do not make the same of it each time: once more with one
                    self.damaged.clear()
        finally:
            self.damaged[:] = [number for number in self.damaged if number < (end or math.inf)]
            self._name_damaged()

    def _decode(
        self, container: InputContainer, stream: VideoStream, threads: int, start: int, end: int | None, following: int
    ) -> Iterator[Frame]:
        """The pictures from number `following` on; raises _Damaged at damage unless there is one thread."""
        context = stream.codec_context
        context.thread_type, context.thread_count = "AUTO", threads
        if context.name == "mjpeg":
            context.options = {"err_detect": "explode"}  # incomplete pictures would be grey at the bottom
        numbering = _Numbering(stream, self.damaged, start)
        reached, packets, given = 0.0, 0, 0
        orientation: tuple[bool, bool, bool] | None = None
        for packet in _packets(container, stream, self._shown):
            time = packet.dts if packet.pts is None else packet.pts
            if time is not None:
                reached = max(reached, float((time + (packet.duration or 0)) * packet.time_base))
            if packet.stream.index != stream.index or (packet.size == 0 and time is not None):  # empty: no picture
                continue
            packets += time is not None
            numbering.sent(packet)
            try:
                pictures = stream.decode(packet)
            except av.FFmpegError:
                numbering.failed(packet)
                pictures = []
            for picture in pictures:
                number = numbering.place(picture)
                given = given if number is None else number + 1
                if number is not None and number >= following and not (numbering.trouble and threads > 1):
                    orientation = orientation or _orientation(picture)
                    yield Frame(number, self._shown, _rgb(picture, orientation), numbering.seconds(picture))
            if numbering.trouble and threads > 1:
                raise _Damaged
        numbering.finish()
        if numbering.trouble and threads > 1:
            raise _Damaged
        count = numbering.number
        if not given:
            raise InputError(f"{self._shown}: {CONVERT}")
        if count <= start:
            raise InputError(f"{self._shown}: start {start} is beyond its end, it has {count} frames")
        if end is None or end > count:
            self._check_end(container, stream, packets, reached, given, count - given)

    def _check_end(
        self, container: InputContainer, stream: VideoStream, packets: int, reached: float, count: int, damaged: int
    ) -> None:
        """Raise Incomplete if the file states more pictures than it has: `count`, and `damaged` ones behind them."""
        missing = 0
        if container.format.name == "avi":  # its duration is that of the file's part
            missing = stream.frames - packets
        elif STATED & {*container.format.name.split(",")} and container.duration is not None:
            start = 0 if _states_end(container) else container.start_time or 0
            end = (container.duration + start) / av.time_base
            missing = round((end - reached) * float(stream.average_rate or self.fps or 0))
        tolerance = max(2, TOLERANCE * float(stream.average_rate or 0), (count + damaged + missing) / 100)
        if missing > tolerance:
            missing += damaged  # the last packet may be cut
            self.damaged[:] = [number for number in self.damaged if number < count]
            text = f"{self._shown}: ends after {count} of {count + missing} frames; it is damaged or incomplete"
            raise Incomplete(text, missing)

    def _open(self) -> tuple[InputContainer, VideoStream]:
        """Open the file anew, as its pictures are read from the beginning each time, and choose its video stream."""
        refusal = (
            f"{self._shown}: cannot be opened; it is damaged, incomplete, without pictures or of an unknown format"
        )
        options = {"protocol_whitelist": "file"} if self._local else {}
        try:
            container = av.open(self._address, options=options, metadata_errors="replace")
        except (av.FFmpegError, OSError) as error:
            raise InputError(refusal) from error
        streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
        if not streams or (self._local and REFUSED & {*container.format.name.split(",")}):
            container.close()
            raise InputError(refusal)
        if streams[0].codec_context is None:
            container.close()
            raise InputError(f"{self._shown}: {CONVERT}")
        return container, streams[0]

    def _name_damaged(self) -> None:
        """Warn of damaged pictures that no warning has named yet."""
        named = _named.setdefault(self._shown, set()) if self.damaged else set()
        new = [number for number in self.damaged if number not in named]
        if new:
            named.update(new)
            numbers = ", ".join(map(str, new[:10])) + (", ..." if len(new) > 10 else "")
            what = f"frame {numbers} is" if len(new) == 1 else f"{len(new)} frames ({numbers}) are"
            logger.warning("%s: %s damaged and left out; the others keep their numbers", self._shown, what)


class _Numbering:
    """Numbers the pictures of a stream in the order shown, and finds those that went in and did not come out."""

    def __init__(self, stream: VideoStream, damaged: list[int], start: int) -> None:
        """Add the numbers of damaged pictures from `start` on to `damaged`."""
        self.number = 0  # of the next picture
        self._from = start
        self.trouble = False
        self._damaged = damaged
        self._unit = float(stream.time_base or 0)
        self._start = stream.start_time
        formats = {*stream.container.format.name.split(",")}
        self._timed = "avi" not in formats or not stream.codec_context.has_b_frames  # AVI has no times
        self._whole = bool(formats & {"avi", *STATED})  # its first picture can be decoded; other files may be cut amid
        self._hidden = stream.codec_context.name == "vp8"  # some of its packets are never shown
        self._first: float | None = None  # time of the first picture that can be decoded without others
        self._waiting: set[int] = set()  # times of pictures that the decoder has
        self._refused: set[int | None] = set()  # times of packets with errors; pictures may come of their parts
        self._sent = self._errors = 0
        self._gaps: set[int] = set()  # numbers of lost pictures in streams without times
        self._last: int | None = None  # time of the last picture that has one
        self._untimed = 0  # pictures without a time since then
        self._damaged_at = -math.inf  # time of the last sign of damage
        self._steps: tuple[int, int, int, int] = (0, 0, 0, 0)  # least, greatest, sum and number of steps in time

    def sent(self, packet: av.Packet) -> None:
        """Note a packet that goes to the decoder."""
        if packet.is_discard or packet.size == 0:  # before the cut of an edit list
            return
        self._mark(packet.pts, packet.is_corrupt)  # a hole in a transport stream may show nowhere else
        if self._first is None and (packet.is_keyframe or self._whole):
            self._first = -math.inf if packet.pts is None else packet.pts
        self._sent += 1
        if packet.pts is not None and self._first is not None and packet.pts >= self._first:
            self._waiting.add(packet.pts)

    def failed(self, packet: av.Packet) -> None:
        """Note a packet that the decoder has refused; those before the first key frame tell nothing."""
        self.trouble = True
        self._mark(packet.pts)
        self._refused.add(packet.pts)
        if not self._timed or packet.pts is None:
            self._gaps.add(self._sent - 1)
        elif packet.pts in self._waiting:
            self._errors += 1

    def place(self, picture: av.VideoFrame) -> int | None:
        """The number of the decoder's next picture, None if it is damaged."""
        if picture.is_corrupt and self._last is None and (picture.pts or 0) < (self._first or -math.inf):
            return None  # what a cut has left of the scene before
        if self.trouble and self._is_late(picture):
            self._mark(picture.pts)
            return None
        lost = self._lost_before(picture)
        damaged = picture.is_corrupt or (picture.pts is not None and picture.pts in self._refused)
        number = self.number + lost
        self._note(number + damaged)
        self.number = number + 1
        self._mark(picture.pts, damaged or lost > 0)
        self.trouble = self.trouble or lost > 0 or damaged
        return None if damaged else number

    def finish(self) -> None:
        """Count the lost pictures behind the last one."""
        self.trouble = self.trouble or bool(self._waiting) or (not self._timed and self.number < self._sent)
        lost = min(len(self._waiting), self._errors)
        self._note(self.number + lost)
        self.number += lost

    def seconds(self, picture: av.VideoFrame) -> float | None:
        """When a picture is shown, from the beginning of the stream."""
        return None if picture.pts is None else (picture.pts - (self._start or 0)) * self._unit

    def _mark(self, time: int | None, damage: bool = True) -> None:
        """Note the time of a sign of damage."""
        if damage and time is not None:
            self._damaged_at = time

    def _note(self, end: int) -> None:
        """The pictures from the next one to before `end` are damaged."""
        self._damaged += range(max(self.number, self._from), end)

    def _is_late(self, picture: av.VideoFrame) -> bool:
        """Whether a picture comes behind one that is shown after it, as one that it is made from is missing."""
        if not self._timed or self._last is None or picture.pts is None:
            return False
        return 0 <= (self._last - picture.pts) * self._unit < LATEST

    def _lost_before(self, picture: av.VideoFrame) -> int:
        """How many pictures are missing between the one before and this."""
        lost = 0
        if not self._timed or picture.pts is None:
            self._untimed += 1
            while self.number + lost in self._gaps:
                lost += 1
            return lost
        late = {time for time in self._waiting if time < picture.pts}
        self._waiting -= late | {picture.pts}
        lost = len(late)
        if self._hidden or picture.interlaced_frame:  # a packet may hold one of a picture's two fields
            lost = min(lost, self._errors)
        damage = lost > 0 or self._errors > 0 or picture.is_corrupt
        self._errors = max(0, self._errors - lost)
        if self._last is not None:
            damage = damage or abs(self._last - self._damaged_at) * self._unit < LASTING
            lost = max(lost, self._skipped(picture.pts - self._last, damage) - self._untimed)
        self._last, self._untimed = picture.pts, 0
        return lost

    def _skipped(self, step: int, damage: bool) -> int:
        """Pictures that a container lost at damage: those that a constant frame rate has in a step of time."""
        least, greatest, total, count = self._steps
        if not damage:
            self._steps = (min(least or step, step), max(greatest, step), total + step, count + 1)
            return 0
        if count == 0 or least <= 0 or (greatest - least) * self._unit > 0.002:  # times may be rounded to 1 ms
            return 0
        frames = round(step * count / total)
        return frames - 1 if 1 <= frames <= LONGEST_GAP else 0


def _states_end(container: InputContainer) -> bool:
    """Whether the duration that a container states counts from zero, not from its first picture."""
    return "matroska" in container.format.name


def _packets(container: InputContainer, stream: VideoStream, shown: str) -> Iterator[av.Packet]:
    """The packets of all streams; damage between packets is skipped where the container can be read on.

    Where recordings were joined and the clock of `stream` goes back, its times go on.
    """
    attempts, shift, latest = 0, 0, -math.inf
    while True:
        try:
            for packet in container.demux():
                attempts = 0
                if packet.stream.index == stream.index and packet.dts is not None and packet.pts is not None:
                    if packet.is_keyframe and packet.dts + shift < latest:
                        shift = int(latest) + (packet.duration or 1) - packet.dts
                    packet.dts, packet.pts = packet.dts + shift, packet.pts + shift
                    latest = max(latest, packet.dts)
                yield packet
            return
        except (av.FFmpegError, OSError) as error:
            attempts += 1
            if attempts == ATTEMPTS:
                raise InputError(f"{shown}: cannot be read to its end ({error}); copy it again") from error


def _orientation(picture: av.VideoFrame) -> tuple[bool, bool, bool]:
    """Whether a picture is to be transposed, then mirrored from left to right, then upside down, to be upright."""
    # Of a copy, as a frame and its side data hold each other, and the decoder with its threads.
    matrix: Any = picture.reformat(format="gray", width=16, height=16).side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False, False, False
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()  # to x = a x + c y, y = b x + d y
    transposed = abs(b) > abs(a)
    return transposed, (c if transposed else a) < 0, (b if transposed else d) < 0


def _rgb(picture: av.VideoFrame, orientation: tuple[bool, bool, bool]) -> np.ndarray:
    """(H, W, 3) uint8 RGB, upright."""
    image = picture.to_ndarray(format="bgr24", interpolation="BICUBIC")  # the values that OpenCV gives, to the bit
    transposed, mirrored, upside_down = orientation
    if transposed:
        image = cv2.transpose(image)
    if mirrored:
        image = cv2.flip(image, 1)
    if upside_down:
        image = cv2.flip(image, 0)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
