"""What of a data set's annotations is of use for training; the rules and their order are LoRAT's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from lorat_plugin.datasets.sequences import Sequence, Track


def fit_to_image(boxes_xyxy: np.ndarray, size: ArrayLike) -> np.ndarray:
    """Move the outer edges of boxes (..., 4) xyxy into images of (width, height) pixels, `size` (2,) or (..., 2).

    Left and top only grow, right and bottom only shrink: a box outside the image turns inside out.
    """
    fitted = np.array(boxes_xyxy, np.float64)
    fitted[..., :2] = np.maximum(fitted[..., :2], 0)
    fitted[..., 2:] = np.minimum(fitted[..., 2:], size)
    return fitted


def clean(sequence: Sequence, sizes: np.ndarray | None = None) -> Sequence | None:
    """Clip boxes, drop what shows no object, and trim the ends; None if nothing is left.

    `sizes` (n, 2) are width and height of each frame in pixels, those of the first if left out.

    Boxes of absent objects are left as they are. An object is present where it is flagged so and its clipped box has
    area. Objects that are never present go; so do frames without any object, but only at the head and the tail.
    """
    if min(sequence.size) <= 0:
        return None
    limits = np.array(sequence.size) if sizes is None else sizes
    tracks = []
    for track in sequence.tracks:
        boxes = np.where(track.present[:, None], fit_to_image(track.boxes, limits), track.boxes)
        present = track.present & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        if present.any():
            tracks.append(Track(boxes, present))
    if not tracks:
        return None
    shown = np.flatnonzero(np.any([track.present for track in tracks], axis=0))
    start, stop = int(shown[0]), int(shown[-1]) + 1
    trimmed = tuple(Track(track.boxes[start:stop], track.present[start:stop]) for track in tracks)
    return replace(sequence, frames=sequence.frames.part(start, stop), tracks=trimmed)
