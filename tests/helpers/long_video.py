"""A long video of small frames in which the target comes and goes: `python -m tests.helpers.long_video FILE FRAMES`."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np

SIZE = (96, 128)  # height, width
SIDE = 18
BOX = "20,30,18,18"  # of the target in the first frame
SEEN, GONE = 60, 20  # frames


def write_long_video(path: Path, count: int) -> None:
    """A red square on noise swings over the frame for `SEEN` frames and is gone for `GONE`, over and over."""
    background = np.random.default_rng(0).integers(0, 120, (*SIZE, 3), np.uint8)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25, SIZE[::-1])
    for number in range(count):
        frame = background.copy()
        if number % (SEEN + GONE) < SEEN:
            x = round(20 + 30 * (1 - np.cos(number / 40)))
            frame[30 : 30 + SIDE, x : x + SIDE] = (40, 50, 220)
        writer.write(frame)
    writer.release()


if __name__ == "__main__":
    write_long_video(Path(sys.argv[1]), int(sys.argv[2]))
