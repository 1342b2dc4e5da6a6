"""The short real clips in the package, for users without a video at hand."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np

from lorat_plugin.box_files import read_boxes
from lorat_plugin.errors import InputError
from lorat_plugin.video.source import open_source

CLIPS = {  # name: mp4 file; beside each lie its boxes, see assets/SOURCES.md
    name: Path(str(files("lorat_plugin"))) / "assets" / "demo" / f"{name}.mp4"
    for name in ("davis_camel", "davis_bmx-trees")
}


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
