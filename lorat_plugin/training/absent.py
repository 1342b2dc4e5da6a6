"""Training pairs whose search region does not show the target, so that the score learns to say so."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.random import Generator

from lorat_plugin.synthetic.pairs import FramePair

if TYPE_CHECKING:
    from lorat_plugin.training.sources import PairSource

MARGIN = 0.15  # how far beyond its box a target is painted over, in box sides
FEATHER = 5  # pixels over which the painted region fades into the frame


class WithAbsent:
    """Pairs of a source, of which a share has lost its target.

    Half of these search in another video or picture, a quarter where the target was painted over, a quarter elsewhere
    in that frame, where look-alikes of the target may be.
    """

    def __init__(self, source: PairSource, share: float) -> None:
        """`share` of the pairs is without target, 0 to below 1."""
        self.source, self.share = source, share

    def planned(self, epoch: int, index: int, rng: Generator) -> FramePair | None:
        """The planned pair of the source, or one made of it."""
        return self._absent_by_chance(self.source.planned(epoch, index, rng), rng)

    def sample(self, rng: Generator) -> FramePair | None:
        """Any pair of the source, or one made of it."""
        return self._absent_by_chance(self.source.sample(rng), rng)

    def _absent_by_chance(self, pair: FramePair | None, rng: Generator) -> FramePair | None:
        if pair is None or rng.random() >= self.share:
            return pair
        if rng.random() < 0.5:
            other = self.source.sample(rng)
            if other is None or other.origin == pair.origin:
                return None
            return pair._replace(search_frame=other.search_frame, search_box=other.search_box, present=False)
        frame = pair.search_frame if isinstance(pair.search_frame, np.ndarray) else pair.search_frame.read()
        painted = paint_over(frame, pair.search_box, rng)
        if painted is None:
            return None
        box = pair.search_box if rng.random() < 0.5 else moved_elsewhere(pair.search_box, painted.shape[:2], rng)
        return pair._replace(search_frame=painted, search_box=box, present=False)


def paint_over(frame: np.ndarray, box_xyxy: np.ndarray, rng: Generator) -> np.ndarray | None:
    """A copy of a frame in which a neighbouring region of the same size covers a target.

    Args:
        frame: (H, W, 3) uint8 RGB.
        box_xyxy: (4,) float64, frame pixels, inside the frame.
        rng: draws the side that the region is taken from.
    Returns None if no region of that size lies beside the target.
    """
    height, width = frame.shape[:2]
    pad = (box_xyxy[2:] - box_xyxy[:2]) * MARGIN + 1
    x1, y1 = np.maximum(np.floor(box_xyxy[:2] - pad), 0).astype(int)
    x2, y2 = np.minimum(np.ceil(box_xyxy[2:] + pad), (width, height)).astype(int)
    across, down = x2 - x1, y2 - y1
    sides = [(-across, 0), (across, 0), (0, -down), (0, down)]
    inside = [(dx, dy) for dx, dy in sides if 0 <= x1 + dx <= width - across and 0 <= y1 + dy <= height - down]
    if not inside:
        return None
    dx, dy = inside[int(rng.integers(len(inside)))]
    cover = frame[y1 + dy : y2 + dy, x1 + dx : x2 + dx].astype(np.float32)
    weight = np.zeros((down, across), np.float32)
    weight[1:-1, 1:-1] = 1
    weight = np.minimum(cv2.blur(weight, (FEATHER, FEATHER), borderType=cv2.BORDER_REPLICATE) * 2, 1)[..., None]
    painted = frame.copy()
    painted[y1:y2, x1:x2] = (cover * weight + painted[y1:y2, x1:x2] * (1 - weight)).round()
    return painted


def moved_elsewhere(box_xyxy: np.ndarray, frame_size: tuple[int, int], rng: Generator) -> np.ndarray:
    """A box of the same size anywhere in a frame of (height, width) pixels: (4,) float64 xyxy."""
    extent = box_xyxy[2:] - box_xyxy[:2]
    corner = rng.uniform(0, 1, 2) * np.maximum(np.array(frame_size[::-1]) - extent, 0)
    return np.concatenate([corner, corner + extent])
