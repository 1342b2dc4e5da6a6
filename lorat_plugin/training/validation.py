"""How good the network is by now: boxes on fixed pairs, and tracking through labelled clips."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch

from lorat_plugin.boxes import iou, xywh_to_xyxy, xyxy_to_xywh
from lorat_plugin.data.material import read_image
from lorat_plugin.data.video_pairs import Clip
from lorat_plugin.network import LoRATNetwork
from lorat_plugin.tracking import start, step

if TYPE_CHECKING:
    from lorat_plugin.training.recipe import Batch

THRESHOLDS = np.linspace(0, 1, 21)


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

    Frames where the target is absent, and the first one, do not count. All clips advance together, one frame a step.
    """
    targets = [start(network, device, _read(c, 0), xyxy_to_xywh(c.boxes[0])) for c in clips]
    overlaps: list[list[float]] = [[] for _ in clips]
    for t in range(1, max(len(c.frames) for c in clips)):
        live = [i for i, c in enumerate(clips) if t < len(c.frames)]
        results = step(network, device, [targets[i] for i in live], [_read(clips[i], t) for i in live])
        for i, result in zip(live, results, strict=True):
            if clips[i].present[t]:
                overlaps[i].append(float(iou(xywh_to_xyxy(result.box), clips[i].boxes[t])))
    curves = [(np.array(o)[:, None] > THRESHOLDS).mean() for o in overlaps if o]
    return float(np.mean(curves))


def _read(clip: Clip, index: int) -> np.ndarray:
    return read_image(clip.frames[index], cv2.IMREAD_COLOR, longest=1 << 30)
