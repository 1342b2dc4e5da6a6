"""Choose device, engine and precision by name, and make a network ready to track."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch

from lorat_plugin.devices import best_precision, find_device
from lorat_plugin.errors import InputError

if TYPE_CHECKING:
    from lorat_plugin.network import LoRATNetwork
    from lorat_plugin.tracking import Engine

logger = logging.getLogger(__name__)

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def list_engines() -> list[str]:
    """Names that `engine=` takes beside "auto"."""
    return ["eager", "fused"]


def prepare(
    network: LoRATNetwork, device: str = "auto", engine: str = "auto", precision: str = "auto"
) -> tuple[Engine, torch.device]:
    """Move a network to its device and precision.

    Args:
        network: adapters merged or not; moved in place, as torch does.
        device: "auto" (CUDA, MPS or CPU, the first there is), or torch's name of one.
        engine: "eager" (the network as it stands), "fused" (the same numbers sooner, for float32 on a CPU) or "auto"
            (fused where it fits, else eager).
        precision: "auto" (fp32 on a CPU and MPS; bf16, else fp16, on a CUDA GPU), "fp32", "bf16" or "fp16".
    Returns the engine and its device. Raises InputError for a name that is unknown, a device that is not there, or a
    network, device or precision that the engine named does not run.
    """
    place = check_options(device, engine, precision)
    dtype = PRECISIONS[best_precision(place) if precision == "auto" else precision]
    network = network.to(place, dtype).eval()
    if engine == "fused" or (engine == "auto" and place.type == "cpu" and dtype == torch.float32):
        from lorat_plugin.engines.fused import FusedEngine

        try:
            return FusedEngine(network), place
        except InputError as error:
            if engine == "fused":
                raise
            logger.info("%s; eager is used", error)
    return network, place


def check_options(device: str, engine: str, precision: str) -> torch.device:
    """The device that a name stands for. Raises InputError as `prepare`, which see for the names."""
    if engine not in ("auto", *list_engines()):
        raise InputError(f"unknown engine '{engine}': use auto or {', '.join(list_engines())}")
    if precision not in ("auto", *PRECISIONS):
        raise InputError(f"unknown precision '{precision}': use auto, {', '.join(PRECISIONS)}")
    place = find_device(device)
    if engine == "fused" and (place.type != "cpu" or precision not in ("auto", "fp32")):
        raise InputError(f"engine 'fused' runs float32 on a CPU, not {precision} on {place}: use engine auto or eager")
    return place
