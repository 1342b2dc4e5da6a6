"""Checkpoints of a run: what it needs to go on, and the weights that others use. Only the newest few stay.

`RUN/checkpoints/step_0001024/` holds `state.safetensors` (trained weights, AdamW's moments, counters, settings; no
pickles) and what `save_trained` writes. A checkpoint appears whole or not at all. Samples and random draws of a step
are functions of seed and step, so the number of steps done is the position of the data and of every generator.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from lorat_plugin.digests import Record, difference
from lorat_plugin.errors import CheckpointError, InputError
from lorat_plugin.files import parse_json, whole_folder
from lorat_plugin.training.config import RENAMED, TrainConfig

logger = logging.getLogger(__name__)

STATE_NAME = "state.safetensors"
DATA_NAME = "data.json"  # digests of the data, in a run's folder
_AVERAGE = "ema."  # prefix of the averaged weights
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")
# full: sharded parameters are gathered on the first process; trained parameters and buffers only
_GATHERED = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
_SHARED = StateDictOptions(ignore_frozen_params=True)  # every process sees its part
_SPREAD = StateDictOptions(full_state_dict=True, ignore_frozen_params=True, strict=False)


def trained_parameters(network: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are trained, by name."""
    return {n: p for n, p in network.named_parameters() if p.requires_grad}


def gather_state(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Trained weights, buffers and moments on the CPU; under FSDP whole on the first process, empty on the others.

    Names are `weight.<parameter>`, `exp_avg.<parameter>` and so on. Every process must call it.
    """
    weights: dict[str, Any] = get_model_state_dict(network, options=_GATHERED)
    states: Any = get_optimizer_state_dict(network, optimizer, options=_GATHERED).get("state", {})
    tensors = {f"weight.{name}": tensor for name, tensor in weights.items()}
    for name, state in states.items():
        tensors |= {f"{moment}.{name}": torch.as_tensor(state[moment]) for moment in _MOMENTS}
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def spread_state(
    network: nn.Module, optimizer: torch.optim.Optimizer | None, tensors: dict[str, torch.Tensor], path: Path
) -> None:
    """Put a gathered state into a network, sharded or not, and its optimiser. `path` is named in errors.

    Raises CheckpointError if the names or shapes of the trained parameters differ.
    """
    weights: dict[str, Any] = {n.removeprefix("weight."): t for n, t in tensors.items() if n.startswith("weight.")}
    wanted: dict[str, Any] = get_model_state_dict(network, options=_SHARED)
    if {n: t.shape for n, t in weights.items()} != {n: t.shape for n, t in wanted.items()}:
        raise CheckpointError(f"{path} belongs to another variant, mode or rank; use its config.yaml or a new --out")
    set_model_state_dict(network, weights, options=_SPREAD)
    if optimizer is not None:
        whole: dict[str, Any] = get_optimizer_state_dict(network, optimizer, options=_SHARED)
        names = [n.removeprefix("exp_avg.") for n in tensors if n.startswith("exp_avg.")]
        whole["state"] = {n: {moment: tensors[f"{moment}.{n}"] for moment in _MOMENTS} for n in names}
        set_optimizer_state_dict(network, optimizer, whole, options=_SPREAD)


def save_state(
    out: Path,
    tensors: dict[str, torch.Tensor],
    progress: dict[str, float],
    config: TrainConfig,
    save_weights: Callable[[Path], object],
) -> Path:
    """Write a checkpoint and delete those beyond `config.keep`.

    Args:
        out: the run's folder.
        tensors: from `gather_state`.
        progress: numbers to go on from; `steps_done` among them.
        config: settings of the run.
        save_weights: writes the weights for users into the folder it is given.
    Returns the checkpoint's folder. Raises InputError if the disk is full; older checkpoints stay as they were.
    """
    folder = out / "checkpoints" / f"step_{int(progress['steps_done']):07d}"
    try:
        with whole_folder(folder) as part:
            save_tensors(part / STATE_NAME, tensors, progress, config)
            save_weights(part)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{folder}: cannot be written ({error}); make room and start the command again") from error
    for old in _checkpoints(out)[: -config.keep]:
        shutil.rmtree(old, ignore_errors=True)
    return folder


def save_tensors(path: Path, tensors: dict[str, torch.Tensor], progress: dict[str, float], config: TrainConfig) -> None:
    """Write a state's file."""
    save_file(tensors, path, metadata={"progress": json.dumps(progress), "config": json.dumps(asdict(config))})


def find_state(out: Path, resume: str) -> Path | None:
    """The state to go on from, or None for a fresh start.

    Args:
        out: the run's folder.
        resume: "auto" (the newest checkpoint in `out`), "never", or the path of a state, a checkpoint or a run.
    Raises CheckpointError if a path holds none, and for "never" if `out` holds checkpoints already.
    """
    if resume == "never":
        if _checkpoints(out):
            raise CheckpointError(f"{out} holds checkpoints of another run; give a new --out, or delete them")
        return None
    if resume == "auto":
        newest = _checkpoints(out)
        return newest[-1] / STATE_NAME if newest else None
    path = Path(resume)
    if path.is_dir():
        path = next((f / STATE_NAME for f in [path, *reversed(_checkpoints(path))] if (f / STATE_NAME).is_file()), path)
    if not path.is_file():
        raise CheckpointError(f"{resume} holds no {STATE_NAME}; name a run's folder, a checkpoint or the file itself")
    return path


def read_state(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, float], dict[str, Any]]:
    """Tensors, progress and settings of a state. Raises CheckpointError if it is unreadable or something else."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
        progress, config = parse_json(metadata["progress"]), parse_json(metadata["config"])
        int(progress["steps_done"]), dict(config)
        return tensors, progress, config
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}); name an older one by --resume, or start anew"
        ) from error
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise CheckpointError(f"{path} is no training state; give the {STATE_NAME} of a checkpoint") from error


def check_data(state: Path, record: Record) -> None:
    """Compare the data of a run with those that a state was trained on, as far as both settings name them.

    Args:
        state: file of the state; the record lies in its run's folder.
        record: from `sources.data_record`.
    Raises CheckpointError if they differ. A run without a record is named in a warning.
    """
    path = state.resolve().parent.parent.parent / DATA_NAME
    if not path.is_file():
        logger.warning("%s: has no record of the data that it was trained on, which are not checked", state)
        return
    try:
        former = dict(parse_json(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} is no record of data ({error}); remove it to go on without") from error
    if changed := difference({key: former[key] for key in record if key in former}, record, record.keys() - former):
        raise CheckpointError(
            f"{state.parent}: the data have changed since, in {changed}; restore them, start anew in a new --out, or"
            f" remove {path} to go on with the new data"
        )


def changed_settings(former: dict[str, Any], config: TrainConfig) -> list[str]:
    """Settings that differ from a state's, as "name old -> new"."""
    now = json.loads(json.dumps(asdict(config)))  # tuples become lists, as in the file
    former = {RENAMED.get(name, name): value for name, value in former.items()}
    return [f"{name} {former.get(name)} -> {value}" for name, value in now.items() if former.get(name) != value]


def check_room(out: Path, trained: int, config: TrainConfig, weights: int) -> None:
    """Raise InputError if the disk cannot hold a run's checkpoints.

    Args:
        out: the run's folder; the nearest existing one above it is asked.
        trained: parameters that are trained; a state has three float32 numbers for each.
        config: tells how many checkpoints stay.
        weights: bytes of one file of weights for users.
    """
    there = next(folder for folder in [out.absolute(), *out.absolute().parents] if folder.exists())
    needed = (config.keep + 1) * (trained * 12 + weights) + weights
    free = shutil.disk_usage(there).free
    if free < needed:
        raise InputError(
            f"{out}: {free / 1e9:.1f} GB are free, but the run's checkpoints take {needed / 1e9:.1f} GB; make room, "
            "choose another --out, or keep fewer (--set keep=1)"
        )


def _checkpoints(out: Path) -> list[Path]:
    return sorted(p for p in (out / "checkpoints").glob("step_*") if (p / STATE_NAME).is_file())


class WeightAverage:
    """Average of a network's trained parameters; buffers are not averaged. A decay of 0 averages nothing.

    The decay of step t (0-based) is at most (1 + t) / (10 + t), so that the first steps do not linger
    (torch.optim.swa_utils leaves this to its caller, as does timm).
    """

    def __init__(self, network: nn.Module, decay: float, tensors: dict[str, torch.Tensor]) -> None:
        """Begin with a network's weights, or go on with those of a state."""
        self.decay = decay
        self.parameters = trained_parameters(network) if decay else {}
        self.average = {
            name: tensors.get(_AVERAGE + name, parameter).detach().clone().to(parameter.device)
            for name, parameter in self.parameters.items()
        }

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after the 0-based `step`."""
        if self.decay:
            weight = 1 - min(self.decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(list(self.average.values()), list(self.parameters.values()), weight)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within this the network has the average for its weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self.parameters.items():
            kept = parameter.clone()
            parameter.copy_(self.average[name])
            self.average[name].copy_(kept)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The average as a state keeps it."""
        return {_AVERAGE + name: tensor.cpu() for name, tensor in self.average.items()}
