"""Devices by name."""

from __future__ import annotations

import torch

from lorat_plugin.errors import InputError, first_line


def find_device(name: str) -> torch.device:
    """The device that "auto" (CUDA, MPS or CPU, the first there is) or torch's name stands for.

    Raises InputError if it cannot be used.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"device '{name}' cannot be used here ({first_line(error)}): use auto or cpu") from error
    return device


def best_precision(device: torch.device) -> str:
    """What the precision "auto" stands for: "bf16", else "fp16", on a CUDA GPU; "fp32" elsewhere."""
    return "fp32" if device.type != "cuda" else "bf16" if torch.cuda.is_bf16_supported() else "fp16"
