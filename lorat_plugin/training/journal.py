"""How well a run goes: boxes on fixed pairs, tracking through labelled clips, and its log and curve.

The log has one JSON object a line; TensorBoard or wandb beside it, the curve as a picture.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator

from lorat_plugin.boxes import auroc, iou, success_auc, xywh_to_xyxy
from lorat_plugin.datasets.sequences import VideoSequence
from lorat_plugin.devices import peak_memory
from lorat_plugin.errors import InputError
from lorat_plugin.evaluation.runner import Run, track_sequences
from lorat_plugin.files import parse_json, whole_file
from lorat_plugin.network import LoRATNetwork
from lorat_plugin.training.config import TrainConfig
from lorat_plugin.training.recipe import Batch, Losses, lorat_loss

LOGGERS = ("tensorboard", "wandb")


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

    def __str__(self) -> str:
        """The scores in one line."""
        text = f"validation loss {self.loss:.3f}, IoU at the peak {self.iou:.3f}, above 0.5 in {self.success:.1%}"
        if self.clip_auc is not None:
            text += f", success AUC on clips {self.clip_auc:.3f}"
        return text if self.auroc is None else f"{text}, present against absent {self.auroc:.3f}"


class Validation:
    """The same pairs and clips each time."""

    def __init__(self, batches: Sequence[Batch], clips: Sequence[VideoSequence]) -> None:
        """Measure on batches of pairs, and on clips if there are any."""
        self.batches, self.clips = batches, clips

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


class Journal:
    """Log of a run: means over the steps since the last line, and scores of validation."""

    def __init__(self, out: Path, done: int, config: TrainConfig, accelerator: Accelerator) -> None:
        """Go on with `out/log.jsonl` after step `done`; lines of steps that were lost with a killed run are dropped."""
        self.path, self.picture = out / "log.jsonl", out / "curve.png"
        self.config, self.accelerator = config, accelerator
        rows = read_journal(self.path) if done else []
        with whole_file(self.path) as part:
            part.write_text("".join(json.dumps(r) + "\n" for r in rows if r["step"] <= done), encoding="utf-8")
        settings = asdict(config) if "wandb" in config.loggers else None  # TensorBoard would make folders of them
        accelerator.init_trackers("tensorboard", settings, {"tensorboard": {"purge_step": done or None}})
        self._recent: list[torch.Tensor] = []

    def add(self, losses: Losses) -> None:
        """Note one step's losses."""
        self._recent.append(torch.stack(losses).detach())

    def write(self, step: int, rate: float, speed: float) -> str:
        """Write the means since the last line; returns them as text. `speed` is in pairs per second."""
        total, cls, box, quality = torch.stack(self._recent).mean(0).tolist()
        self._recent.clear()
        memory = peak_memory(self.accelerator.device) / 1e9
        row = {"loss": total, "cls": cls, "giou": box, "iou": quality, "lr": rate}
        self._append(step, {**row, "pairs_per_second": speed, "memory_gb": memory})
        left = timedelta(seconds=round((self.config.steps - step) * self.config.batch_size / speed))
        return (
            f"loss {total:.3f} (cls {cls:.3f}, giou {box:.3f})  IoU {quality:.3f}  lr {rate:.2e}  "
            f"{speed:.1f} pairs/s  {memory:.1f} GB  {left} left"
        )

    def write_validation(self, step: int, figures: ValidationResult) -> str:
        """Write the result of a validation and draw the curve; returns it as text."""
        names = ("val_loss", "val_iou", "val_success", "clip_auc", "val_auroc")
        self._append(step, {name: value for name, value in zip(names, figures, strict=True) if value is not None})
        self._plot()
        return str(figures)

    def _append(self, step: int, row: dict[str, float]) -> None:
        row = {name: float(f"{value:.5g}") for name, value in row.items()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **row}) + "\n")
        self.accelerator.log(row, step=step)

    def _plot(self) -> None:
        """Draw losses and IoU over the steps."""
        from matplotlib.figure import Figure

        rows, figure = read_journal(self.path), Figure(figsize=(11, 4), layout="tight")
        left, right = figure.subplots(1, 2)
        for name in ("loss", "cls", "giou"):
            left.plot(*_series(rows, name), label=name)
        left.plot(*_series(rows, "val_loss"), "o-", label="validation loss")
        right.plot(*_series(rows, "iou"), label="positive cells, training pairs")
        right.plot(*_series(rows, "val_iou"), "o-", label="peak, validation pairs")
        if any("clip_auc" in row for row in rows):
            right.plot(*_series(rows, "clip_auc"), "s-", label="success AUC, clips")
        for axes, title in ((left, "loss"), (right, "IoU")):
            axes.set(xlabel="step", title=title)
            axes.grid(alpha=0.3)
            axes.legend()
        with whole_file(self.picture) as part:
            figure.savefig(part, dpi=110, format="png")


def check_loggers(names: tuple[str, ...]) -> None:
    """Raise InputError for a logger that is unknown or not installed."""
    for name in names:
        if name not in LOGGERS:
            raise InputError(f"unknown logger '{name}'; use {' or '.join(LOGGERS)}")
        if find_spec(name) is None:
            raise InputError(f"{name} is not installed; pip install {name}, or leave it out of the setting loggers")


def read_journal(path: Path) -> list[dict[str, float]]:
    """Rows of a journal; a last line cut short by a kill is left out."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = parse_json(line)
        except ValueError:
            continue
        rows += [row] if isinstance(row, dict) else []
    return rows


def _series(rows: list[dict[str, float]], name: str) -> tuple[list[float], list[float]]:
    pairs = [(r["step"], r[name]) for r in rows if math.isfinite(r.get(name, math.nan))]
    return [s for s, _ in pairs], [v for _, v in pairs]
