"""ValidationResult of a run: one JSON object a line, TensorBoard or wandb beside it, a curve as a picture."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path

import torch
from accelerate import Accelerator

from lorat_plugin.devices import peak_memory
from lorat_plugin.errors import InputError
from lorat_plugin.files import parse_json, whole_file
from lorat_plugin.training.config import TrainConfig
from lorat_plugin.training.recipe import Losses
from lorat_plugin.training.validation import ValidationResult

LOGGERS = ("tensorboard", "wandb")


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
        row = {"val_loss": figures.loss, "val_iou": figures.iou, "val_success": figures.success}
        text = (
            f"validation loss {figures.loss:.3f}, IoU at the peak {figures.iou:.3f}, above 0.5 in {figures.success:.1%}"
        )
        if figures.clip_auc is not None:
            row["clip_auc"] = figures.clip_auc
            text += f", success AUC on clips {figures.clip_auc:.3f}"
        if figures.auroc is not None:
            row["val_auroc"] = figures.auroc
            text += f", present against absent {figures.auroc:.3f}"
        self._append(step, row)
        self._plot()
        return text

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
