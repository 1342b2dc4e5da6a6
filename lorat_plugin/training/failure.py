"""A step whose loss or gradient is not finite: what reproduces it is written down, and can be replayed."""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from lorat_plugin.errors import InputError
from lorat_plugin.files import whole_file
from lorat_plugin.training.config import TrainConfig, load_config
from lorat_plugin.training.methods import training_network
from lorat_plugin.training.recipe import Batch, NotFinite, compute_loss, step_seed
from lorat_plugin.training.state import STATE_NAME, read_state, save_tensors, spread_state


def write_dump(
    out: Path,
    error: NotFinite,
    step: int,
    batch: Batch,
    tensors: dict[str, torch.Tensor],
    config: TrainConfig,
    accelerator: Accelerator,
) -> Path:
    """Write the weights before a step and every process's share of its batch; every process must call it.

    Args:
        out: the run's folder.
        error: what was not finite.
        step: 0-based.
        batch: this process's share.
        tensors: from `gather_state`, on the first process.
        config: settings of the run.
        accelerator: of the run.
    Returns the folder, `not_finite_step_<step>`.
    """
    folder = out / f"not_finite_step_{step:07d}"
    if accelerator.is_main_process:
        with whole_file(folder / "config.yaml") as part:
            config.save(part)
        save_tensors(folder / STATE_NAME, tensors, {"steps_done": step}, config)
    accelerator.wait_for_everyone()
    values = {name: value.cpu().contiguous() for name, value in batch._asdict().items()}
    metadata = {"step": str(step), "count": repr(error.count), "precision": str(accelerator.mixed_precision)}
    with whole_file(folder / f"batch_{accelerator.process_index:04d}.safetensors") as part:
        save_file(values, part, metadata=metadata)
    accelerator.wait_for_everyone()
    return folder


def replay(folder: Path, device: str = "cpu") -> list[str]:
    """Do a written step again, on one process, and say where it goes wrong.

    Args:
        folder: from `write_dump`.
        device: torch's name of the device.
    Returns one line for each share of the batch: its loss, and the first input, layer or gradient that is not finite.
    Raises InputError if the folder is none of `write_dump`.
    """
    shares = sorted(folder.glob("batch_*.safetensors"))
    if not shares or not (folder / STATE_NAME).is_file():
        raise InputError(f"{folder} holds no step to replay; name a not_finite_step_* folder of a run")
    config = load_config(str(folder / "config.yaml"))
    network = training_network(config)
    spread_state(network, None, read_state(folder / STATE_NAME)[0], folder)
    network.to(device)
    lines = []
    for rank, path in enumerate(shares):
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata()
            step, count = int(metadata["step"]), float(metadata["count"])
            batch = Batch(**load_file(path, device=device))
        except (OSError, SafetensorError, TypeError, KeyError, ValueError) as error:
            raise InputError(f"{path} cannot be read ({error}); it belongs to a step that was not finite") from error
        torch.manual_seed(step_seed(config.seed, step, rank))
        half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(metadata.get("precision"))
        with torch.autocast(torch.device(device).type, dtype=half, enabled=half is not None):
            lines.append(f"share {rank}: {_inspect(network, batch, count)}")
    return lines


def _inspect(network: nn.Module, batch: Batch, count: float) -> str:
    for field, value in batch._asdict().items():
        if not torch.isfinite(value).all():
            return f"the {field} of pair {int((~torch.isfinite(value)).nonzero()[0, 0])} is not finite"
    found: list[str] = []

    def watch(name: str) -> None:
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            parts = output if isinstance(output, tuple) else (output,)
            if not found and any(isinstance(t, torch.Tensor) and not torch.isfinite(t).all() for t in parts):
                found.append(name)

        handles.append(network.get_submodule(name).register_forward_hook(hook))

    handles: list[torch.utils.hooks.RemovableHandle] = []
    for name, module in network.named_modules():
        if name and not any(module.children()):
            watch(name)
    losses = compute_loss(network, batch, count)
    for handle in handles:
        handle.remove()
    total, cls, box = (float(loss.detach()) for loss in losses[:3])
    text = f"loss {total:.6g} (cls {cls:.6g}, giou {box:.6g})"
    if found:
        return f"{text}; the first layer whose output is not finite is {found[0]}"
    network.zero_grad(set_to_none=True)
    losses.total.backward()
    for name, parameter in network.named_parameters():
        if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
            return f"{text}; the gradient of {name} is not finite"
    return f"{text}; everything is finite here"
