"""One visitor's work: a video, the objects drawn in it and their tracks; independent of the page.

An object is followed from the frame where its box was last drawn by hand to the end of the video. Drawing it anew in
any frame drops its results from there on, and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from lorat_plugin.errors import InputError
from lorat_plugin.images import read_image
from lorat_plugin.interchange import FORMATS
from lorat_plugin.tracking import Target, TrackResult, check_box
from lorat_plugin.video.drawing import draw_results, object_colour
from lorat_plugin.video.outputs import TextFile, result_outputs
from lorat_plugin.video.source import Frame, open_source

if TYPE_CHECKING:
    from lorat_plugin.tracker import MultiObjectTracker

SURELY = 10  # times the limit: a stated number of frames is several times too great if the frame rate varies
SHOWN_SIDE = 1280  # pixels; larger frames are shrunk for the page, not for the tracker
GOT10K, JSON_LINES, VIDEO = "GOT-10k text", "JSON lines", "mp4 with boxes"
OTHERS = {"COCO-video": "coco", "MOT": "mot", "CVAT": "cvat", "Label Studio": "labelstudio"}  # of `interchange.FORMATS`
_NOWHERE = TrackResult(np.full(4, np.nan), 0.0, absent=True)  # an object in frames before its first box


@dataclass
class TrackedObject:
    """One object: `results[i]` belongs to frame `first + i`; `drawn` is the frame of its last box from a hand."""

    first: int
    drawn: int
    results: list[TrackResult]

    @property
    def end(self) -> int:
        """The frame after the last result."""
        return self.first + len(self.results)

    def at(self, frame: int) -> TrackResult | None:
        """The result in a frame, None where there is none."""
        return self.results[frame - self.first] if self.first <= frame < self.end else None


class Session:
    """A visitor's video and tracks. Its methods may be called from several threads.

    Attributes:
        length: number of frames; 0 before `open`.
        size: (height, width) of the frames in pixels.
        note: a sentence about what is odd about the video; empty if nothing is.
        tracks: id -> track of an object.
    """

    def __init__(self, folder: Path, max_frames: int) -> None:
        """Keep everything in a new folder inside `folder`; refuse videos of more than `max_frames` frames."""
        self._home = Path(tempfile.mkdtemp(dir=folder, prefix="session_"))
        self._max_frames = max_frames
        self._lock = threading.Lock()
        self._run = 0  # a run of the tracker ends when this is no longer its own number
        self._source = self._shown = self._home
        self._seconds: dict[int, float] = {}
        self._scale = 1.0  # pixels of the shown picture for a pixel of the frame
        self._fps: float | None = None
        self.length, self.size, self.note = 0, (0, 0), ""
        self.tracks: dict[int, TrackedObject] = {}
        self.seen = time.monotonic()  # when the visitor's page last gave a sign of life

    def open(self, source: Path, advance: Callable[[int, int | None], None] = lambda done, total: None) -> None:
        """Take a video (or a folder of frames) instead of the one before, which stays if this one is refused.

        Args:
            source: a copy is kept for as long as the session.
            advance: called with the number of frames read and that expected, None if unknown.
        Raises InputError for what `open_source` refuses, and for too many frames.
        """
        self.stop()
        home = Path(tempfile.mkdtemp(dir=self._home))
        shown = home / "shown"
        shown.mkdir()
        try:
            kept = _keep(source, home)
            length = 0
            with open_source(kept) as frames:
                for frame in frames:
                    if frame.number >= self._max_frames or (frames.length or 0) > SURELY * self._max_frames:
                        raise InputError(
                            f"{source.name}: has more than {self._max_frames} frames: cut it,"
                            " or start the app with a greater --max-frames"
                        )
                    for number in range(length, frame.number + 1):  # damaged frames look like the one behind them
                        _write_shown(shown, frame._replace(number=number))
                    length, size = frame.number + 1, frame.image.shape[:2]
                    advance(length, frames.length)
        except BaseException as error:
            shutil.rmtree(home, ignore_errors=True)
            if isinstance(error, InputError):  # visitors know the file's name, not where it is kept
                raise InputError(str(error).replace(f"{home}{os.sep}", "")) from error
            raise
        with self._lock:
            self._source, self._shown, self._fps = kept, shown, frames.mean_fps
            self.length, self.size, self.tracks, self._seconds = length, size, {}, {}
            self.note = f"Its last {frames.missing} frames are missing: it may be damaged." if frames.missing else ""
            if frames.damaged:
                numbers = ", ".join(map(str, frames.damaged[:10])) + (", ..." if len(frames.damaged) > 10 else "")
                self.note = f"{self.note} Damaged frames are left out: {numbers}.".lstrip()
        self._scale = self.picture(0).shape[1] / size[1]

    def draw(self, frame: int, number: int | None, box: Iterable[float]) -> int:
        """Set an object's box in a frame; its results from there on are dropped.

        Args:
            frame: 0-based.
            number: the object's id; None for a new one.
            box: x, y, w, h in frame pixels.
        Returns the id. Raises InputError for a box without area or outside the frame, or if there is no video.
        """
        if not 0 <= frame < self.length:
            raise InputError("there is no video yet: upload one or take a bundled clip")
        box = list(box)
        check_box(box, self.size)
        self.stop()
        with self._lock:
            number = max(self.tracks, default=-1) + 1 if number is None else number
            track = self.tracks.get(number)
            if track is not None and frame > track.end:
                raise InputError(f"object {number} is tracked up to frame {track.end - 1}: draw it there, or a new one")
            if track is None or frame < track.first:  # nothing is followed backwards
                track = self.tracks[number] = TrackedObject(frame, frame, [])
            track.drawn = frame
            track.results[frame - track.first :] = [TrackResult(np.array(box, np.float64), 1.0)]
        return number

    def remove(self, number: int) -> None:
        """Forget an object."""
        self.stop()
        with self._lock:
            self.tracks.pop(number, None)

    def stop(self) -> None:
        """End a run of the tracker after the frame in work."""
        with self._lock:
            self._run += 1

    def close(self) -> None:
        """Stop, and remove the visitor's files."""
        self.stop()
        shutil.rmtree(self._home, ignore_errors=True)

    def due(self) -> dict[int, TrackedObject]:
        """The objects that are not yet at the end of the video, id -> track. Raises InputError if there is none."""
        tracks = list(self.tracks.items())  # a box may be drawn meanwhile
        due = {number: track for number, track in tracks if track.end < self.length}
        if not due:
            done = "every object is tracked to the end: write the files, or draw a box in an earlier frame"
            raise InputError(done if tracks else "draw a box first: click two opposite corners of an object")
        return due

    def follow(self, tracker: MultiObjectTracker, turn: threading.Lock) -> Iterator[int]:
        """Follow each object that is not yet at the end of the video, from its last box by hand.

        Args:
            tracker: starts and steps targets; it may serve several sessions.
            turn: held while the engine computes.
        Yields the number of each frame when its results are there. Raises InputError if nothing is to be done.
        """
        with self._lock:
            self._run += 1
            run = self._run
            due = self.due()
            for track in due.values():
                del track.results[track.drawn - track.first + 1 :]
        targets: dict[int, Target] = {}
        with open_source(self._source, min(track.drawn for track in due.values()), self.length) as frames:
            for frame in frames:
                began = time.perf_counter()
                with turn:
                    results = dict(zip(targets, tracker.step(frame.image, list(targets.values())), strict=True))
                    for number, track in due.items():
                        if track.drawn <= frame.number and number not in targets:
                            targets[number] = tracker.start(frame.image, track.results[-1].box)
                with self._lock:
                    if run != self._run:
                        return
                    for number, result in results.items():
                        track = due[number]
                        track.results += track.results[-1:] * (frame.number - track.end)  # damaged frames
                        track.results.append(result)
                    self._seconds[frame.number] = time.perf_counter() - began
                yield frame.number

    def results(self, frame: int) -> dict[int, TrackResult]:
        """The results in a frame, id -> result, boxes in frame pixels."""
        with self._lock:
            results = {number: track.at(frame) for number, track in self.tracks.items()}
        return {number: result for number, result in results.items() if result is not None}

    def scores(self) -> dict[str, list[float] | list[str]]:
        """The scores so far as columns `frame`, `score` and `object` (the id), for a plot."""
        with self._lock:
            rows = [
                (track.first + index, result.score, str(number))
                for number, track in self.tracks.items()
                for index, result in enumerate(track.results)
            ]
        return {name: [row[column] for row in rows] for column, name in enumerate(("frame", "score", "object"))}  # type: ignore[misc]

    def picture(self, frame: int, corner: tuple[float, float] | None = None) -> np.ndarray:
        """A frame with its results drawn, (h, w, 3) uint8 RGB, enlarged or shrunk for the page.

        Args:
            frame: 0-based.
            corner: x, y in frame pixels of the first corner of a box that is being drawn; it gets a cross.
        """
        image = read_image(self._shown / f"{frame}.jpg")
        shrink = image.shape[1] / self.size[1]
        results = {n: result._replace(box=result.box * shrink) for n, result in self.results(frame).items()}
        picture = draw_results(image, results)
        if corner is not None:
            at = (round(corner[0] * self._scale), round(corner[1] * self._scale))
            for colour, width in ((0, 0, 0), 5), ((255, 255, 255), 2):
                cv2.drawMarker(picture, at, colour, cv2.MARKER_CROSS, 24, width)
        return picture

    def to_frame(self, point: tuple[float, float]) -> tuple[float, float]:
        """A point of the picture, x, y in its pixels, in pixels of the frame."""
        return point[0] / self._scale, point[1] / self._scale

    def colours(self) -> dict[str, str]:
        """The colour of each object in pictures: id -> #rrggbb."""
        return {str(number): "#{:02x}{:02x}{:02x}".format(*object_colour(number)) for number in self.tracks}

    def write(self, formats: Sequence[str]) -> list[Path]:
        """Write result files into the session's folder; returns their paths.

        Names and contents are those of `lorat track`, from the video's first frame to the last that is tracked; an
        object has the box nan,nan,nan,nan in text rows, and nothing elsewhere, in frames before its first box. Raises
        InputError if there is nothing to write.
        """
        with self._lock:
            tracks = {
                n: TrackedObject(track.first, track.drawn, list(track.results)) for n, track in self.tracks.items()
            }
            seconds = dict(self._seconds)
        if not formats or not tracks:
            raise InputError("choose at least one format" if tracks else "there are no results yet: draw a box first")
        folder = Path(tempfile.mkdtemp(dir=self._home, prefix="results_"))
        others = {OTHERS[name]: folder / FORMATS[OTHERS[name]].file_name for name in formats if name in OTHERS}
        _, outputs = result_outputs(
            folder, list(tracks), self._source.stem, self._fps, others,
            boxes=GOT10K in formats, lines=JSON_LINES in formats, video=VIDEO in formats,
        )  # fmt: skip
        with contextlib.ExitStack() as stack:
            for output in outputs:
                stack.enter_context(output)
            following = 0
            for frame in stack.enter_context(open_source(self._source, 0, max(t.end for t in tracks.values()))):
                for number in range(following, frame.number + 1):  # damaged frames have rows of text, nothing else
                    rows = {name: track.at(number) or _NOWHERE for name, track in tracks.items()}
                    seen = {name: result for name, result in rows.items() if result is not _NOWHERE}
                    for output in outputs:
                        if isinstance(output, TextFile) and output.path.suffix == ".txt":
                            output.write(frame, rows, 0.0)
                        elif number == frame.number:
                            output.write(frame, seen, seconds.get(number, 0.0))
                following = frame.number + 1
        return sorted(folder.iterdir())


def _keep(source: Path, home: Path) -> Path:
    """The same file or folder inside `home`: the upload itself may be replaced by another visitor's of that name."""
    kept = home / source.name
    if source.is_dir():
        shutil.copytree(source, kept)
        return kept
    try:
        os.link(source, kept)  # at no cost of time or room
    except OSError:
        shutil.copyfile(source, kept)
    return kept


def _write_shown(folder: Path, frame: Frame) -> None:
    """A frame as the page shows it: a JPEG with sides of at most `SHOWN_SIDE`."""
    shrink = min(1.0, SHOWN_SIDE / max(frame.image.shape[:2]))
    small = cv2.resize(frame.image, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    _, packed = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 90])
    (folder / f"{frame.number}.jpg").write_bytes(packed.tobytes())
