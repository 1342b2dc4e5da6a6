"""How good the network is by now: boxes on fixed pairs, and tracking through labelled clips."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch

from lorat_plugin.boxes import iou, success_auc, xywh_to_xyxy
from lorat_plugin.data.clips import Clip
from lorat_plugin.data.material import read_image
from lorat_plugin.network import LoRATNetwork
from lorat_plugin.tracking import start, step

if TYPE_CHECKING:
    from lorat_plugin.training.recipe import Batch


@torch.no_grad()
def peak_overlaps(network: LoRATNetwork, batches: Iterable[Batch], device: torch.device) -> np.ndarray:
    """IoU (N,) between the true box and the box at the score map's peak, over all pairs of the batches."""
    overlaps = []
    for batch in batches:
        score_map, boxes = network(batch.template.to(device), batch.search.to(device), batch.mask.to(device))
        cell = score_map.flatten(1).argmax(1)
        overlaps.append(iou(boxes.flatten(1, 2)[torch.arange(len(cell)), cell], batch.box.to(device)))
    return torch.cat(overlaps).cpu().numpy()


def clip_success(network: LoRATNetwork, clips: Sequence[Clip], device: torch.device) -> float:
    """Mean over clips of the area under the success curve (21 thresholds, strict), tracked from the first frame.

    Each is tracked from its first frame with a box; that frame and those where the target is absent do not count.
    All clips advance together, one frame a step.
    """
    begins = [int(np.argmax(c.present)) for c in clips]
    targets = [start(network, device, _read(c, t), c.boxes[t]) for c, t in zip(clips, begins, strict=True)]
    overlaps: list[list[float]] = [[] for _ in clips]
    for t in range(1, max(len(c.frames) for c in clips)):
        live = [i for i, c in enumerate(clips) if begins[i] < t < len(c.frames)]
        if not live:
            continue
        results = step(network, device, [targets[i] for i in live], [_read(clips[i], t) for i in live])
        for i, result in zip(live, results, strict=True):
            if clips[i].present[t]:
                overlaps[i].append(float(iou(xywh_to_xyxy(result.box), xywh_to_xyxy(clips[i].boxes[t]))))
    return float(np.mean([success_auc(np.array(o)) for o in overlaps if o]))


def _read(clip: Clip, index: int) -> np.ndarray:
    return read_image(clip.frames[index], cv2.IMREAD_COLOR, longest=1 << 30)
