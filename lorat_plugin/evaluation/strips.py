"""Overlay strips: a sequence at a glance, a few frames with the truth and the trackers' boxes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from lorat_plugin.evaluation.benchmarks import EvaluationSequence
from lorat_plugin.images import read_image
from lorat_plugin.video.drawing import outline_boxes

TRUTH = (255, 255, 255)  # RGB
MAX_SIZE = (400, 200)  # width and height of a picture
LINE = 2  # pixels, width of a box's
JPEG = [  # colours at full resolution, for thin lines
    cv2.IMWRITE_JPEG_QUALITY, 85, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
]  # fmt: skip


def choose_frames(overlaps: np.ndarray, count: int = 8) -> list[int]:
    """Numbers of evenly spaced frames, the first among them, the nearest of the others moved to the worst.

    Args:
        overlaps: (N,) IoU of each frame, NaN where it does not count. The worst is the first of the least overlap.
        count: of frames, at least 2; fewer if the sequence is shorter.
    """
    chosen = np.unique(np.linspace(0, len(overlaps) - 1, count).round().astype(int))
    if np.isfinite(overlaps[1:]).any():
        worst = 1 + int(np.nanargmin(overlaps[1:]))
        chosen[1 + int(np.abs(chosen[1:] - worst).argmin())] = worst
    return [int(number) for number in chosen]


def draw_strip(
    sequence: EvaluationSequence,
    tracked: Sequence[tuple[np.ndarray, tuple[int, int, int]]],
    numbers: Sequence[int],
) -> list[tuple[int, bytes]]:
    """Draw frames with the truth in white and boxes in their colours, at most 400 x 200 pixels each.

    Args:
        sequence: with a box for every frame.
        tracked: pairs of boxes (N, 4) x, y, w, h in pixels counted from 0, or fewer rows, and an RGB colour.
        numbers: of the frames to draw, counted from 0.
    Returns the frames' numbers and JPEG files. Raises InputError if a frame cannot be read.
    """
    strip = []
    for number in numbers:
        image = read_image(Path(sequence.frames[number]))
        zoom = min(MAX_SIZE[0] / image.shape[1], MAX_SIZE[1] / image.shape[0])
        image = cv2.resize(image, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_AREA)
        shown = [(boxes[number], colour) for boxes, colour in reversed(tracked) if number < len(boxes)]  # first on top
        outline_boxes(image, [(sequence.boxes[number], TRUTH), *shown], LINE, zoom)
        _, packed = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), JPEG)
        strip.append((number, packed.tobytes()))
    return strip
