"""Devices by name."""

from __future__ import annotations

import torch

from lorat_plugin.errors import InputError, first_line

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}  # of weights


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


def slow_precision(device: torch.device, precision: str) -> bool:
    """Whether a device computes in a half precision without hardware for it, which takes several times as long."""
    if device.type == "cpu":
        able = cpu_capabilities()
        half = able.get("amx_bf16") or able.get("avx512_bf16")
        return precision == "fp16" or (precision == "bf16" and not half)
    return device.type == "cuda" and precision == "bf16" and torch.cuda.get_device_capability(device) < (8, 0)


def cpu_capabilities() -> dict[str, bool]:
    """Extensions of the processor by torch's names, e.g. "avx512_vnni"; empty where torch does not name them (2.6)."""
    return getattr(torch.cpu, "get_capabilities", dict[str, bool])()
