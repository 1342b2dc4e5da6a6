"""How good the network is by now: boxes on fixed pairs, and tracking through labelled clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from lorat_plugin.boxes import auroc, iou, success_auc, xywh_to_xyxy
from lorat_plugin.datasets.sequences import VideoSequence
from lorat_plugin.errors import InputError
from lorat_plugin.evaluation.runner import Run, track_sequences
from lorat_plugin.network import LoRATNetwork
from lorat_plugin.training.config import TrainConfig
from lorat_plugin.training.pairs import read_clips
from lorat_plugin.training.recipe import Batch, PairDataset, lorat_loss, make_loader


class ValidationResult(NamedTuple):
    """Scores of one validation."""

    loss: float
    iou: float  # mean over pairs, of the box at the score map's peak
    success: float  # share of these above 0.5
    clip_auc: float | None  # mean success AUC over clips, if there are any
    auroc: float | None  # of the peak's score, pairs with target against pairs without, if there are both

    @property
    def score(self) -> float:
        """Score that chooses the best checkpoint: success AUC where clips are tracked, else IoU."""
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

    def measure(self, network: LoRATNetwork, device: torch.device) -> ValidationResult:
        """Loss and boxes on the pairs, then tracking through the clips; the network is left in train mode."""
        network.eval()
        losses, measured = [], []
        for batch in self.batches:
            loss, *peaks = _measure_batch(network, batch.to(device))
            losses.append(loss)
            measured.append(peaks)
        overlaps, scores, present = (torch.cat(column) for column in zip(*measured, strict=True))
        everything = overlaps[present]
        auc = clip_success(network, self.clips, device) if self.clips else None
        network.train()
        success = (everything > 0.5).float().mean()
        separation = auroc(scores.numpy(), present.numpy())
        return ValidationResult(sum(losses) / len(losses), float(everything.mean()), float(success), auc, separation)


@torch.no_grad()
def _measure_batch(network: LoRATNetwork, batch: Batch) -> tuple[float, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Loss of a batch; for each pair (B,) IoU and logit at the peak, and whether the search region shows the target."""
    reference = [] if batch.reference is None else [batch.reference]
    prediction = network(batch.template, batch.search, batch.mask, *reference)
    loss = lorat_loss(prediction, batch.box, batch.positive).total
    score, cell = prediction.score_map.flatten(1).max(1)
    overlap = iou(prediction.boxes.flatten(1, 2)[torch.arange(len(cell)), cell], batch.box)
    return float(loss), overlap.cpu(), score.cpu(), batch.positive.flatten(1).any(1).cpu()


def clip_success(network: LoRATNetwork, clips: Sequence[VideoSequence], device: torch.device) -> float:
    """Mean over clips of the area under the success curve (21 thresholds, strict).

    Each is tracked from its first frame with a box; that frame and those where the target is absent do not count.
    """
    waiting = iter([clip.part(int(np.argmax(clip.present)), len(clip)) for clip in clips])
    scores: list[float] = []

    def note(sequence: VideoSequence, runs: list[Run]) -> None:
        visible = sequence.present[1:]
        if visible.any():
            boxes = (xywh_to_xyxy(rows[1:][visible]) for rows in (runs[0].boxes, sequence.boxes))
            scores.append(success_auc(iou(*boxes)))

    def fail(sequence: VideoSequence, error: InputError) -> None:
        raise error

    track_sequences(network, device, lambda: next(waiting, None), len(clips), note, fail)
    return float(np.mean(scores))
