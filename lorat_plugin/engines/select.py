"""Choose device, engine and precision by name, and make a network ready to track."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lorat_plugin.devices import find_device
from lorat_plugin.errors import InputError

if TYPE_CHECKING:
    from lorat_plugin.network import LoRATNetwork
    from lorat_plugin.tracking import Engine

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def list_engines() -> list[str]:
    """Names that `engine=` takes beside "auto"."""
    return ["eager"]


def prepare(
    network: LoRATNetwork, device: str = "auto", engine: str = "auto", precision: str = "auto"
) -> tuple[Engine, torch.device]:
    """Move a network to its device and precision.

    Args:
        network: adapters merged or not; moved in place, as torch does.
        device: "auto" (CUDA, MPS or CPU, the first there is), or torch's name of one.
        engine: "auto" or one of `list_engines()`.
        precision: "auto" (fp32 on a CPU and MPS; bf16, else fp16, on a CUDA GPU), "fp32", "bf16" or "fp16".
    Returns the engine and its device. Raises InputError for a name that is unknown or a device that is not there.
    """
    place = check_options(device, engine, precision)
    dtype = _best_precision(place) if precision == "auto" else PRECISIONS[precision]
    return network.to(place, dtype).eval(), place


def check_options(device: str, engine: str, precision: str) -> torch.device:
    """The device that a name stands for. Raises InputError as `prepare`, which see for the names."""
    if engine not in ("auto", *list_engines()):
        raise InputError(f"unknown engine '{engine}': use auto or {', '.join(list_engines())}")
    if precision not in ("auto", *PRECISIONS):
        raise InputError(f"unknown precision '{precision}': use auto, {', '.join(PRECISIONS)}")
    return find_device(device)


def _best_precision(device: torch.device) -> torch.dtype:
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
