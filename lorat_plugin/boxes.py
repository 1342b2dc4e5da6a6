"""Box arithmetic for numpy arrays and torch tensors.

Coordinates are continuous pixel edges: an image spans [0, width] x [0, height]. `xyxy` is left, top, right, bottom;
`xywh` is left, top, width, height. Every function of boxes takes (..., 4) and works element by element.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import torch

Boxes = TypeVar("Boxes", np.ndarray, torch.Tensor)

# A right or bottom edge less than this past a pixel border does not touch the next pixel (LoRAT's rule).
RASTER_TOLERANCE = 1e-4


def xywh_to_xyxy(boxes: Boxes) -> Boxes:
    """Left, top, width, height -> left, top, right, bottom; (..., 4) -> (..., 4) of the same dtype."""
    tools: Any = torch if isinstance(boxes, torch.Tensor) else np
    return tools.concatenate((boxes[..., :2], boxes[..., 2:] + boxes[..., :2]), -1)


def xyxy_to_xywh(boxes: Boxes) -> Boxes:
    """Left, top, right, bottom -> left, top, width, height; (..., 4) -> (..., 4) of the same dtype."""
    tools: Any = torch if isinstance(boxes, torch.Tensor) else np
    return tools.concatenate((boxes[..., :2], boxes[..., 2:] - boxes[..., :2]), -1)


def clip_to_image(boxes: Boxes, image_size: tuple[int, int]) -> Boxes:
    """Clip xyxy boxes (..., 4) to an image of (height, width) pixels; a box outside becomes empty on the border."""
    edges = (image_size[1], image_size[0]) * 2
    if isinstance(boxes, torch.Tensor):
        return boxes.clip(0).minimum(boxes.new_tensor(edges))
    return np.minimum(np.maximum(boxes, 0), np.array(edges, boxes.dtype))  # three times as fast as np.clip here


def rasterize(boxes: np.ndarray) -> np.ndarray:
    """Integer cells that xyxy boxes touch, rounded outwards, ends exclusive: (..., 4) float -> (..., 4) int64.

    Source: LoRAT (left and top are floored, right and bottom are floor(v + 1 - 1e-4)).
    """
    return np.floor(boxes + np.array([0.0, 0.0, 1.0 - RASTER_TOLERANCE, 1.0 - RASTER_TOLERANCE])).astype(np.int64)


def area(boxes: Boxes) -> Boxes:
    """Area of xyxy boxes: (..., 4) -> (...,), square pixels; 0 for an empty or inverted box."""
    return (boxes[..., 2] - boxes[..., 0]).clip(0) * (boxes[..., 3] - boxes[..., 1]).clip(0)


def iou(a: Boxes, b: Boxes, eps: float = 1e-6) -> Boxes:
    """Intersection over union of xyxy boxes, element by element: (..., 4), (..., 4) -> (...,) in [0, 1].

    `eps` is the smallest union, so the IoU of two empty boxes is 0. Source of eps: LoRAT's loss.
    """
    intersection, union = _intersection_and_union(a, b)
    return intersection / union.clip(eps)


def giou(a: Boxes, b: Boxes, eps: float = 1e-6) -> Boxes:
    """Generalised IoU of xyxy boxes, element by element: (..., 4), (..., 4) -> (...,) in [-1, 1].

    Source: Rezatofighi et al., CVPR 2019 (arXiv 1902.09630); `eps` is the smallest union and enclosing area.
    """
    xp = _namespace(a)
    intersection, union = _intersection_and_union(a, b)
    low, high = xp.minimum(a[..., :2], b[..., :2]), xp.maximum(a[..., 2:], b[..., 2:])  # (..., 2) corners x, y
    sides = (high - low).clip(0)  # (..., 2) width, height of the enclosing box
    enclosing = (sides[..., 0] * sides[..., 1]).clip(eps)
    return intersection / union.clip(eps) - (enclosing - union) / enclosing


def success_auc(overlaps: np.ndarray) -> float:
    """Area under the success curve: mean over the 21 thresholds 0, 0.05 ... 1 of the share of overlaps above each.

    Args:
        overlaps: (N,), N > 0, IoU of each scored frame.
    Source: OTB (Wu et al., CVPR 2013); strict, as in the GOT-10k and STARK toolkits.
    """
    return float((overlaps[:, None] > np.linspace(0, 1, 21)).mean())


def _intersection_and_union(a: Boxes, b: Boxes) -> tuple[Boxes, Boxes]:
    xp = _namespace(a)
    low, high = xp.maximum(a[..., :2], b[..., :2]), xp.minimum(a[..., 2:], b[..., 2:])  # (..., 2) corners x, y
    sides = (high - low).clip(0)  # (..., 2) width, height of the intersection
    intersection = sides[..., 0] * sides[..., 1]
    return intersection, area(a) + area(b) - intersection


def _namespace(boxes: Boxes) -> Any:
    return torch if isinstance(boxes, torch.Tensor) else np


def auroc(score: np.ndarray, positive: np.ndarray) -> float | None:
    """Area under the ROC curve by the rank statistic of Mann and Whitney; ties count half.

    Args:
        score: (N,) finite.
        positive: (N,) bool.
    Returns None unless some are positive and some are not.
    """
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if not positives or not negatives:
        return None
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]  # from 1; equal scores share their mean rank
    return float((ranks[positive].sum() - positives * (positives + 1) / 2) / (positives * negatives))
