"""LoRAT's loss: IoU-aware binary cross-entropy on the score map and GIoU on the boxes of positive cells."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from lorat_plugin.boxes import giou, iou
from lorat_plugin.network import Prediction


class Losses(NamedTuple):
    """Scalars, differentiable: total = cls + box. `iou` is the mean IoU of the positive cells' boxes, detached."""

    total: torch.Tensor
    cls: torch.Tensor
    box: torch.Tensor
    iou: torch.Tensor


def lorat_loss(
    prediction: Prediction, boxes: torch.Tensor, positive: torch.Tensor, positive_count: float | None = None
) -> Losses:
    """Loss of a batch.

    Args:
        prediction: score_map (B, G, G) logits and boxes (B, G, G, 4) xyxy, fractions of the search crop.
        boxes: (B, 4) float32, true boxes, xyxy, fractions of the search crop.
        positive: (B, G, G) bool, cells on the target.
        positive_count: what the sums are divided by (at least 1); the batch's own number of positive cells if left
            out. A part of a batch is given the count of the whole.
    Source: LoRAT (arXiv 2403.05231): sum of BCE(score, IoU) over all cells / P + sum of (1 - GIoU) over positives / P.
    """
    count = max(float(positive.sum()) if positive_count is None else positive_count, 1.0)
    score_map, all_boxes = prediction.score_map.float(), prediction.boxes.float()  # FSDP may hand on half precision
    predicted = all_boxes[positive]
    true = boxes[:, None, None].expand_as(all_boxes)[positive]
    quality = iou(predicted.detach(), true)
    target = torch.zeros_like(score_map)
    target[positive] = quality
    cls = binary_cross_entropy_with_logits(score_map, target, reduction="sum") / count
    box = (1 - giou(predicted, true)).sum() / count
    mean_iou = quality.sum() / count
    return Losses(cls + box, cls, box, mean_iou)
