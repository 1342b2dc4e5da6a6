"""The short real clips in the package, and the frames that eight-bit engines are calibrated on.

These are the frames that LORAT_CALIBRATION names, else those of the clips.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

import numpy as np

from lorat_plugin.box_files import read_boxes
from lorat_plugin.datasets.clips import find_clips
from lorat_plugin.digests import digest
from lorat_plugin.errors import InputError
from lorat_plugin.images import read_image
from lorat_plugin.video.source import open_source

CLIPS = {  # name: mp4 file; beside each lie its boxes, see assets/SOURCES.md
    name: Path(str(files("lorat_plugin"))) / "assets" / "demo" / f"{name}.mp4"
    for name in ("davis_camel", "davis_bmx-trees")
}
VARIABLE = "LORAT_CALIBRATION"  # names the frames where no option does
CROPS = 32  # more change the ranges little, and each costs a forward pass before tracking starts
BUNDLED = "the bundled clips"  # frames used where the user names none

BoxedFrames = tuple[Iterable[np.ndarray], np.ndarray]  # frames, and boxes (N, 4) xywh as far as they are known


def read_demo_clip(name: str) -> tuple[list[np.ndarray], np.ndarray]:
    """Decode a clip of `CLIPS`.

    Returns the frames, (224, 400, 3) uint8 RGB, and boxes (N, 4) float64, x, y, w, h in pixels, 0-based.
    Raises InputError if the video cannot be decoded, or not into as many frames as there are boxes.
    """
    path = CLIPS[name]
    boxes = read_boxes(path.with_suffix(".txt"))
    with open_source(path) as source:
        frames = [frame.image for frame in source]
    if len(frames) != len(boxes):
        raise InputError(f"{path}: {len(frames)} frames were decoded but {len(boxes)} have a box; install it again")
    return frames, boxes


def calibration_tracks() -> list[BoxedFrames]:
    """Tracks of the frames that LORAT_CALIBRATION names, else of the package's clips. Errors are of `boxed_frames`."""
    return boxed_frames(os.environ.get(VARIABLE) or None, CROPS)


def calibration_digest() -> str:
    """Digest of the frames and boxes that LORAT_CALIBRATION names, or the words `BUNDLED` if it names none.

    Raises the errors of `boxed_frames`.
    """
    if not os.environ.get(VARIABLE):
        return BUNDLED
    return digest(array.tobytes() for frames, boxes in calibration_tracks() for array in (boxes, *frames))


def boxed_frames(source: str | Path | None, crops: int) -> list[BoxedFrames]:
    """Frames with boxes for `engines.graphs.cut_crops`, which give at most `crops` search regions.

    Of clips with a groundtruth.txt (see `find_clips`) frames spread over each; of a folder of images or a video the
    first ones, with a box in the middle of the first; of None the package's clips. Raises InputError for a source that
    cannot be read, or has no two frames with a target.
    """
    tracks: list[BoxedFrames] = []
    if source is None:
        for images, boxes in map(read_demo_clip, CLIPS):
            chosen = _spread(len(images), -(-crops // len(CLIPS)) + 1)
            tracks.append(([images[i] for i in chosen], boxes[chosen]))
        return tracks
    source = Path(source)
    folders = [source, source / "val", *(source.iterdir() if source.is_dir() else ())]
    if not any((folder / "groundtruth.txt").is_file() or (folder / "list.txt").is_file() for folder in folders):
        with open_source(source, end=crops + 1) as opened:
            frames = [frame.image for frame in opened]
        if len(frames) < 2:
            raise InputError(f"{source}: needs two frames with a target; name clips with more frames")
        height, width = frames[0].shape[:2]
        return [(frames, np.array([[width / 3, height / 3, width / 3, height / 3]]))]
    clips = [clip for clip in find_clips(source) if clip.present.sum() > 1]
    pairs = -(-crops // max(min(len(clips), crops), 1))
    for clip in clips[:: max(1, len(clips) // crops)][:crops]:
        present = np.flatnonzero(clip.present)
        chosen = present[_spread(len(present), pairs + 1)][: crops + 1]
        crops -= len(chosen) - 1
        tracks.append((map(read_image, [clip.frames[i] for i in chosen]), clip.boxes[chosen]))
    if not tracks:
        raise InputError(f"{source}: no clip with two boxes; name another folder")
    return tracks


def _spread(length: int, count: int) -> np.ndarray:
    """At most `count` indices from 0 to `length` - 1, evenly spaced, in order."""
    return np.unique(np.linspace(0, length - 1, count).round().astype(int))
