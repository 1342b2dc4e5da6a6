"""Devices by name, and the precisions that they compute in."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import torch

from lorat_plugin.errors import InputError, first_line

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}  # dtype of weights


def find_device(name: str) -> torch.device:
    """The device with torch's name `name`; "auto" is the first available of CUDA, MPS and CPU.

    Raises InputError if the device cannot be used.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        raise InputError(f"device '{name}' cannot be used here ({first_line(error)}): use auto or cpu") from error
    return device


def best_precision(device: torch.device) -> str:
    """The precision of "auto": "bf16" or else "fp16" on a CUDA GPU; "fp32" on other devices."""
    return "fp32" if device.type != "cuda" else "bf16" if torch.cuda.is_bf16_supported() else "fp16"


def slow_precision(device: torch.device, precision: str) -> bool:
    """True if a device has no hardware for a half precision and computes in it several times as slowly."""
    if device.type == "cpu":
        extensions = cpu_capabilities()
        half = extensions.get("amx_bf16") or extensions.get("avx512_bf16")
        return precision == "fp16" or (precision == "bf16" and not half)
    return device.type == "cuda" and precision == "bf16" and torch.cuda.get_device_capability(device) < (8, 0)


def cpu_capabilities() -> dict[str, bool]:
    """Extensions of the processor by torch's names, e.g. "avx512_vnni"; empty where torch lacks them (2.6)."""
    return getattr(torch.cpu, "get_capabilities", dict[str, bool])()


def sums_in_16_bits() -> bool:
    """Whether the processor adds pairs of 8-bit products in 16 bits, which may overflow: x86 without VNNI."""
    able = cpu_capabilities()
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    return x86 and not (able.get("avx512_vnni") or able.get("avx_vnni"))


def peak_memory(device: torch.device) -> int:
    """Bytes: the largest allocation on a CUDA GPU, else the process's largest size so far; 0 if it is unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage also counts what the parent process had before this one started
        return next(int(s.split()[1]) << 10 for s in status.read_text().splitlines() if s.startswith("VmHWM"))
    if sys.platform == "win32":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << (0 if sys.platform == "darwin" else 10)
