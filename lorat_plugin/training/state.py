"""What a run leaves on the disk: its state for resuming, its journal of figures, its curve."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from lorat_plugin.errors import CheckpointError
from lorat_plugin.files import whole_file
from lorat_plugin.training.config import TrainConfig
from lorat_plugin.training.losses import Losses

logger = logging.getLogger(__name__)

STATE_NAME = "state.safetensors"
_MOMENTS = ("exp_avg", "exp_avg_sq")


def trained_parameters(network: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are trained, by name."""
    return {n: p for n, p in network.named_parameters() if p.requires_grad}


def save_state(network: nn.Module, optimizer: torch.optim.Optimizer, done: int, config: TrainConfig, out: Path) -> Path:
    """Write trained weights, AdamW's moments, the number of steps done and the settings as one safetensors file.

    One file, written under another name and renamed: a run that is killed leaves the old state or the new one.
    """
    tensors: dict[str, torch.Tensor] = {}
    for name, parameter in trained_parameters(network).items():
        tensors[f"weight.{name}"] = parameter.detach().contiguous()
        for moment in _MOMENTS:
            tensors[f"{moment}.{name}"] = optimizer.state[parameter][moment].contiguous()
    with whole_file(out / STATE_NAME) as part:
        save_file(tensors, part, metadata={"steps_done": str(done), "config": json.dumps(asdict(config))})
    return out / STATE_NAME


def load_state(
    network: nn.Module, optimizer: torch.optim.Optimizer, out: Path, resume: str, config: TrainConfig
) -> int:
    """Put back a saved state; returns the number of steps done, 0 for a fresh start.

    Settings that differ from those of the state are logged; they hold from here on.

    Args:
        network: its trained parameters are filled.
        optimizer: AdamW over the same parameters.
        out: the run's folder.
        resume: "auto", "never", or the path of a state.
        config: settings of this run.
    Raises CheckpointError if the state is absent (for a path), unreadable, or of another network.
    """
    path = out / STATE_NAME if resume in ("auto", "never") else Path(resume)
    if resume == "never" or (resume == "auto" and not path.is_file()):
        return 0
    tensors, metadata = _read(path)
    done = int(metadata["steps_done"])
    _fill(network, tensors, path)
    former = json.loads(metadata["config"])
    now = json.loads(json.dumps(asdict(config)))  # tuples become lists, as in the file
    changed = [f"{name} {former.get(name)} -> {value}" for name, value in now.items() if former.get(name) != value]
    logger.info("%s: going on after %d steps%s", path, done, "; changed: " + ", ".join(changed) if changed else "")
    for name, parameter in trained_parameters(network).items():
        moments = {m: tensors[f"{m}.{name}"].to(parameter) for m in _MOMENTS}
        optimizer.state[parameter] = {"step": torch.tensor(float(done)), **moments}
    return done


def start_from(network: nn.Module, path: Path) -> None:
    """Fill the trained parameters from another run's state. Raises CheckpointError as `load_state`."""
    _fill(network, _read(path)[0], path)


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    if not path.is_file():
        raise CheckpointError(f"{path} is no file; give the state.safetensors of a run")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
    except SafetensorError as error:
        raise CheckpointError(f"{path} cannot be read ({error}); start anew with --resume never") from error
    if "steps_done" not in metadata:
        raise CheckpointError(f"{path} is no training state (a state.safetensors says how many steps are done)")
    return tensors, metadata


def _fill(network: nn.Module, tensors: dict[str, torch.Tensor], path: Path) -> None:
    saved = {n.removeprefix("weight."): t for n, t in tensors.items() if n.startswith("weight.")}
    wanted = trained_parameters(network)
    if {n: t.shape for n, t in saved.items()} != {n: p.shape for n, p in wanted.items()}:
        raise CheckpointError(f"{path} belongs to another variant or rank; use its config.yaml or --resume never")
    with torch.no_grad():
        for name, parameter in wanted.items():
            parameter.copy_(saved[name])


class Journal:
    """Figures of a run: means over the steps since the last line, one JSON object a line."""

    def __init__(self, path: Path, done: int) -> None:
        """Go on with the file after step `done`; lines of steps that were lost with a killed run are dropped."""
        self.path = path
        rows = read_journal(path) if done else []
        kept = [json.dumps(r) + "\n" for r in rows if r["step"] <= done]
        with whole_file(path) as part:
            part.write_text("".join(kept), encoding="utf-8")
        self._recent: list[torch.Tensor] = []

    def add(self, losses: Losses) -> None:
        """Note one step's losses."""
        self._recent.append(torch.stack(losses).detach())

    def write(self, step: int, rate: float, speed: float) -> str:
        """Write the means since the last line; returns them as text. `speed` is in pairs per second."""
        total, cls, box, quality = torch.stack(self._recent).mean(0).tolist()
        self._recent.clear()
        row = {"loss": total, "cls": cls, "giou": box, "iou": quality, "lr": rate, "pairs_per_second": speed}
        self._append({"step": step, **{k: float(f"{v:.5g}") for k, v in row.items()}})
        return f"loss {total:.3f} (cls {cls:.3f}, giou {box:.3f})  IoU {quality:.3f}  {speed:.1f} pairs/s"

    def write_validation(self, step: int, overlaps: np.ndarray, success: float | None) -> str:
        """Write IoU (N,) at the peak on fixed pairs, and success AUC on clips if there is one; returns them as text."""
        row = {"step": step, "val_iou": round(float(overlaps.mean()), 4)}
        row["val_success"] = round(float((overlaps > 0.5).mean()), 4)
        text = f"validation IoU at the peak {row['val_iou']:.3f}, above 0.5 in {row['val_success']:.1%}"
        if success is not None:
            row["clip_auc"] = round(success, 4)
            text += f", AUC on clips {success:.3f}"
        self._append(row)
        return text

    def _append(self, row: dict[str, float]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def plot(self, path: Path) -> None:
        """Draw loss, IoU and learning rate over the steps as a PNG."""
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        rows = read_journal(self.path)
        figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4))
        for name in ("loss", "cls", "giou"):
            left.plot(*_series(rows, name), label=name)
        right.plot(*_series(rows, "iou"), label="positive cells, training pairs")
        right.plot(*_series(rows, "val_iou"), "o-", label="peak, fresh pairs")
        if any("clip_auc" in row for row in rows):
            right.plot(*_series(rows, "clip_auc"), "s-", label="AUC, clips")
        for axes, title in ((left, "loss"), (right, "IoU")):
            axes.set(xlabel="step", title=title)
            axes.grid(alpha=0.3)
            axes.legend()
        figure.tight_layout()
        figure.savefig(path, dpi=110)
        pyplot.close(figure)


def read_journal(path: Path) -> list[dict[str, float]]:
    """Rows of a journal; a last line cut short by a kill is left out."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def _series(rows: list[dict[str, float]], name: str) -> tuple[list[float], list[float]]:
    pairs = [(r["step"], r[name]) for r in rows if math.isfinite(r.get(name, math.nan))]
    return [s for s, _ in pairs], [v for _, v in pairs]
