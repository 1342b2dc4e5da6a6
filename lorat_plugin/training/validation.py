"""How good the network is by now: boxes on fixed pairs, and tracking through labelled clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from lorat_plugin.boxes import iou, success_auc, xywh_to_xyxy
from lorat_plugin.data.clips import Clip
from lorat_plugin.data.video_pairs import read_clips
from lorat_plugin.network import LoRATNetwork
from lorat_plugin.tracking import start, step
from lorat_plugin.training.config import TrainConfig
from lorat_plugin.training.losses import lorat_loss
from lorat_plugin.training.recipe import Batch, PairDataset, make_loader
from lorat_plugin.video import read_image


class Figures(NamedTuple):
    """What validation found."""

    loss: float
    iou: float  # mean over pairs, of the box at the score map's peak
    success: float  # share of these above 0.5
    clip_auc: float | None  # mean success AUC over clips, if there are any

    @property
    def score(self) -> float:
        """What the best checkpoint has most of: success AUC where clips are tracked, else IoU."""
        return self.iou if self.clip_auc is None else self.clip_auc


class Validation:
    """The same pairs and clips each time."""

    def __init__(self, config: TrainConfig, dataset: PairDataset) -> None:
        """Make the pairs, from held-out splits if the settings name any, and index the clips."""
        held_out = dataset.for_validation()
        size = min(config.micro_batch or config.batch_size, config.validation_pairs)
        steps = -(-config.validation_pairs // size)
        self.batches = list(make_loader(held_out, replace(config, steps=steps, batch_size=size)))
        self.clips = read_clips(Path(config.validation_clips)) if config.validation_clips else []

    def measure(self, network: LoRATNetwork, device: torch.device) -> Figures:
        """Loss and boxes on the pairs, then tracking through the clips; the network is left in train mode."""
        network.eval()
        losses, overlaps = [], []
        for batch in self.batches:
            loss, found = _measure_batch(network, batch.to(device))
            losses.append(loss)
            overlaps.append(found)
        everything = torch.cat(overlaps)
        auc = clip_success(network, self.clips, device) if self.clips else None
        network.train()
        success = (everything > 0.5).float().mean()
        return Figures(sum(losses) / len(losses), float(everything.mean()), float(success), auc)


@torch.no_grad()
def _measure_batch(network: LoRATNetwork, batch: Batch) -> tuple[float, torch.Tensor]:
    prediction = network(batch.template, batch.search, batch.mask)
    loss = lorat_loss(prediction, batch.box, batch.positive).total
    cell = prediction.score_map.flatten(1).argmax(1)
    return float(loss), iou(prediction.boxes.flatten(1, 2)[torch.arange(len(cell)), cell], batch.box).cpu()


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
    return read_image(clip.frames[index])
