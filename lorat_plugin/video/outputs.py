"""Outputs of tracking results: box files, JSON lines, formats of other tools, masks, an annotated video, a window.

Every output is a context manager with `write(frame, results, seconds, masks)`. Files are written under a temporary
name in their own folder and get their name at the end of the `with` block; if the block raises, nothing stays.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import IO, TYPE_CHECKING, Any, Protocol

import cv2
import numpy as np
from PIL import Image

from lorat_plugin.errors import InputError
from lorat_plugin.files import whole_file, whole_folder
from lorat_plugin.images import IMAGE_NAME
from lorat_plugin.interchange import Row, Tracks, VideoInfo, write_tracks
from lorat_plugin.video.drawing import draw_results
from lorat_plugin.video.source import Frame

if TYPE_CHECKING:
    from lorat_plugin.tracker import TrackResult

Masks = Mapping[int, np.ndarray]
Lines = Callable[[Frame, Mapping[int, "TrackResult"], float], Iterable[str]]
NO_MASKS: Masks = MappingProxyType({})
DEFAULT_FPS = 30.0
WINDOW = "lorat track (q stops)"


class Output(Protocol):
    """Something that takes the results of one frame after the other."""

    def write(self, frame: Frame, results: Mapping[int, TrackResult], seconds: float, masks: Masks = NO_MASKS) -> None:
        """Take one frame's results: id -> result; `seconds` is the time that it took; id -> (H, W) bool, if wanted."""

    def __enter__(self) -> Output: ...

    def __exit__(self, kind: type[BaseException] | None, *details: object) -> None: ...


@contextlib.contextmanager
def output_folder(folder: Path) -> Iterator[Path]:
    """Make a folder; if the block raises, remove again what was made, unless something is in it.

    Raises InputError if it cannot be made.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made: {error.strerror}; choose another output folder") from error
    try:
        yield folder
    except BaseException:
        with contextlib.suppress(OSError):  # not empty
            for path in missing:
                path.rmdir()
        raise


class TextFile:
    """A text file to which each frame adds the lines that `lines(frame, results, seconds)` gives."""

    def __init__(self, path: Path, lines: Lines) -> None:
        self.path, self._lines = path, lines
        self._stack = contextlib.ExitStack()
        self._stream: IO[str] | None = None

    def __enter__(self) -> TextFile:
        with contextlib.ExitStack() as stack:
            part = stack.enter_context(whole_file(self.path))
            # by line: a killed run leaves its rows
            self._stream = stack.enter_context(part.open("w", 1, "utf-8", newline="\n"))
            self._stack = stack.pop_all()
        return self

    def write(self, frame: Frame, results: Mapping[int, TrackResult], seconds: float, masks: Masks = NO_MASKS) -> None:
        """Add one frame's lines."""
        assert self._stream is not None, "write inside the with block"
        self._stream.writelines(line + "\n" for line in self._lines(frame, results, seconds))

    def __exit__(self, *details: Any) -> None:
        self._stack.__exit__(*details)  # closing raises an error on a full disk: then no file appears


def box_lines(object_id: int) -> Lines:
    """GOT-10k text of one object: a row `x,y,w,h` a frame, pixels with four decimals; the first is the given box."""
    return lambda frame, results, seconds: [",".join(f"{value:.4f}" for value in results[object_id].box)]


def json_lines(frame: Frame, results: Mapping[int, TrackResult], seconds: float) -> Iterator[str]:
    """One JSON object for each object in a frame; every line can be read by itself.

    Keys: `frame` (0-based number in the source), `id`, `box_xywh` (pixels), `score` (0 to 1; 1 for the given box),
    `absent` and `status` (see `presence`) and `time_ms` (tracking of this frame, all its objects together).
    """
    for object_id, result in results.items():
        line = {
            "frame": frame.number,
            "id": object_id,
            "box_xywh": [round(float(value), 4) for value in result.box],
            "score": round(float(result.score), 6),
            "absent": result.absent,
            "status": result.status,
            "time_ms": round(1000 * seconds, 3),
        }
        yield json.dumps(line)


class TrackFiles:
    """An output that keeps all results and writes them at the end, or none if it fails."""

    def __init__(self, paths: Mapping[str, Path], name: str, fps: float | None) -> None:
        """Write to `paths`, format -> path, the tracks of a video of this name and rate (None: 30 frames/s)."""
        self.paths, self.name, self.fps = paths, name, fps or DEFAULT_FPS
        self._rows: list[Row] = []
        self._seen: list[tuple[int, str]] = []
        self._size = (0, 0)

    def write(self, frame: Frame, results: Mapping[int, TrackResult], seconds: float, masks: Masks = NO_MASKS) -> None:
        """Take one frame's results; absent objects, and boxes without area, get no row."""
        self._size = frame.image.shape[:2]
        self._seen.append((frame.number, Path(frame.origin).name))
        for number, result in results.items():
            if not result.absent and np.isfinite(result.box).all() and min(result.box[2:]) > 0:
                x, y, w, h = (round(float(value), 4) for value in result.box)
                self._rows.append(Row(frame.number, number, (x, y, w, h), round(float(result.score), 6)))

    def tracks(self) -> Tracks:
        """The tracks of the frames so far, at least one."""
        (first, name), (last, _) = self._seen[0], self._seen[-1]
        names = tuple(name for _, name in self._seen)
        own_files = IMAGE_NAME.fullmatch(name) and len({*names}) == len(names)  # all frames of a video have its name
        height, width = self._size
        video = VideoInfo(self.name, width, height, range(first, last + 1), self.fps, names if own_files else ())
        return Tracks(video, tuple(self._rows))

    def __enter__(self) -> TrackFiles:
        return self

    def __exit__(self, kind: type[BaseException] | None, *details: object) -> None:
        if kind is None:
            for format, path in self.paths.items():
                write_tracks(self.tracks(), path, format)


class MaskFolder:
    """A folder of one object's masks: `000012.png`, 8 bit, 255 on the object, for frame 12 of the source.

    It takes the place of an earlier run's.
    """

    def __init__(self, path: Path, object_id: int) -> None:
        self.path = path
        self.object_id = object_id
        self._whole = whole_folder(path)
        self._part: Path | None = None

    def __enter__(self) -> MaskFolder:
        if self.path.exists() and self.path not in former_masks(self.path.parent):
            raise InputError(f"{self.path}: is not of an earlier run; move it away or choose another output folder")
        self._part = self._whole.__enter__()
        return self

    def write(self, frame: Frame, results: Mapping[int, TrackResult], seconds: float, masks: Masks = NO_MASKS) -> None:
        """Write the object's mask in one frame."""
        assert self._part is not None, "write inside the with block"
        Image.fromarray(masks[self.object_id].astype(np.uint8) * 255).save(self._part / f"{frame.number:06d}.png")

    def __exit__(self, kind: type[BaseException] | None, *details: Any) -> None:
        self._whole.__exit__(kind, *details)


def former_masks(folder: Path) -> list[Path]:
    """Mask folders of an earlier run: beside a track.jsonl, and with nothing else in them; others are the user's."""
    return [
        path
        for path in folder.glob("masks*")
        if (folder / "track.jsonl").is_file()
        and path.is_dir()
        and all(re.fullmatch(r"\d{6,}\.png", inside.name) for inside in path.iterdir())
    ]


class AnnotatedVideo:
    """An mp4 (MPEG-4 part 2, which every OpenCV wheel writes) of the frames with boxes, ids and scores.

    Frames that a live source dropped are filled with the frame after them, so that the video keeps its pace.
    """

    def __init__(self, path: Path, fps: float | None, names: Mapping[int, str] | None = None) -> None:
        """Write to `path`; `names`, id -> label, the id itself for those left out."""
        self.path, self.fps, self.names = path, fps or DEFAULT_FPS, names
        self._stack, self._part = contextlib.ExitStack(), path
        self._writer: cv2.VideoWriter | None = None
        self._last: int | None = None

    def write(self, frame: Frame, results: Mapping[int, TrackResult], seconds: float, masks: Masks = NO_MASKS) -> None:
        """Draw and encode one frame. Raises InputError if this OpenCV cannot write videos."""
        picture = cv2.cvtColor(draw_results(frame.image, results, masks, self.names), cv2.COLOR_RGB2BGR)
        if self._writer is None:
            size = (picture.shape[1], picture.shape[0])
            self._part = self._stack.enter_context(whole_file(self.path))
            self._writer = cv2.VideoWriter(str(self._part), cv2.VideoWriter.fourcc(*"mp4v"), self.fps, size)
            if not self._writer.isOpened():
                raise InputError(
                    f"{self.path}: this OpenCV cannot write mp4 of {size[0]}x{size[1]}; leave out the video"
                )
        for _ in range(1 if self._last is None else frame.number - self._last):
            self._writer.write(picture)
        self._last = frame.number

    def __enter__(self) -> AnnotatedVideo:
        return self

    def __exit__(self, kind: type[BaseException] | None, *details: Any) -> None:
        if self._writer is not None:
            self._writer.release()
            self._stack.callback(self._check, kind)
        self._stack.__exit__(kind, *details)

    def _check(self, kind: type[BaseException] | None) -> None:
        """Raise InputError if the video cannot be read: the writer reports no error, on a full disk for one."""
        if kind is None and not cv2.VideoCapture(str(self._part)).read()[0]:
            raise InputError(f"{self.path}: the video could not be written; is the disk full? make room")


def result_outputs(
    folder: Path,
    ids: Sequence[int],
    name: str,
    fps: float | None,
    formats: Mapping[str, Path],
    *,
    boxes: bool = True,
    lines: bool = True,
    masks: bool = False,
    video: bool = False,
) -> tuple[list[Path], list[Output]]:
    """Files and folders of a run's results, and the outputs that write them, in the order in which they are opened.

    Wanted may be GOT-10k text, JSON lines, folders of masks, the annotated video, and by `formats` the paths of files
    for other tools. One object's files have no number in their names; without fps 30 frames/s are assumed.
    """
    suffixes = {number: "" if len(ids) == 1 else f"_{number}" for number in ids}
    written: list[TextFile | MaskFolder] = []
    if boxes:
        written += [TextFile(folder / f"boxes{suffix}.txt", box_lines(n)) for n, suffix in suffixes.items()]
    if lines:
        written.append(TextFile(folder / "track.jsonl", json_lines))
    if masks:
        written += [MaskFolder(folder / f"masks{suffix}", n) for n, suffix in suffixes.items()]
    files = [*(output.path for output in written), *formats.values()]
    outputs: list[Output] = [*written]
    if formats:
        outputs.append(TrackFiles(formats, name, fps))
    if video:
        files.append(folder / "video.mp4")
        outputs.append(AnnotatedVideo(files[-1], fps))
    return files, outputs


class Window:
    """A window that shows each frame with its boxes; the key q, Escape or closing it calls `stop`.

    Call `require_display` before: without a display OpenCV may end the process.
    """

    def __init__(self, stop: Callable[[], None]) -> None:
        self.stop = stop
        self._shown = False

    def __enter__(self) -> Window:
        return self

    def write(self, frame: Frame, results: Mapping[int, TrackResult], seconds: float, masks: Masks = NO_MASKS) -> None:
        """Show one frame."""
        closed = self._shown and cv2.getWindowProperty(WINDOW, cv2.WND_PROP_VISIBLE) < 1
        if closed:
            return self.stop()
        if not self._shown:
            cv2.namedWindow(WINDOW, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
        cv2.imshow(WINDOW, cv2.cvtColor(draw_results(frame.image, results, masks), cv2.COLOR_RGB2BGR))
        self._shown = True
        if cv2.waitKey(1) & 0xFF in (ord("q"), 27):
            self.stop()

    def __exit__(self, kind: type[BaseException] | None, *details: object) -> None:
        if self._shown:
            cv2.destroyAllWindows()


def require_display() -> None:
    """Raise InputError unless OpenCV can open a window here.

    Tried in a process of its own, because OpenCV's Qt ends the process where there is no display.
    """
    code = "import cv2; cv2.namedWindow('lorat'); cv2.destroyAllWindows()"
    if subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode:
        raise InputError(
            "no window can be opened: there is no display, or this OpenCV is a headless build;"
            " give --box and use --save instead of --select and --show, or install opencv-python without -headless"
        )


def select_boxes(image: np.ndarray) -> list[tuple[float, float, float, float]]:
    """Let the user draw boxes in an (H, W, 3) uint8 RGB image with the mouse: Space or Enter takes one, Escape ends.

    Returns boxes x, y, w, h in frame pixels. Raises InputError if none was drawn. Call `require_display` before.
    """
    zoom = min(1.0, 1280 / max(image.shape[:2]))  # so that a 4K frame fits the screen
    small = cv2.resize(image, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_AREA)
    title = "draw a box and press Enter; Escape when done"
    drawn = cv2.selectROIs(title, cv2.cvtColor(small, cv2.COLOR_RGB2BGR), showCrosshair=False)
    cv2.destroyAllWindows()
    boxes = [tuple(float(value) / zoom for value in box) for box in drawn if box[2] > 0 and box[3] > 0]
    if not boxes:
        raise InputError("no box was drawn; draw one with the mouse and press Enter, or give --box")
    return boxes
