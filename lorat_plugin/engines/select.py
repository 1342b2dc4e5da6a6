"""The one table of inference engines, and how device, engine and precision are chosen by name."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from lorat_plugin.errors import InputError
from lorat_plugin.plugins import load_plugin, plugin_names

if TYPE_CHECKING:  # torch is loaded late: the command line's help is made from this table
    import numpy as np
    import torch

    from lorat_plugin.network import LoRATNetwork
    from lorat_plugin.tracking import Engine

logger = logging.getLogger(__name__)

Calibration = Callable[[], "Iterable[tuple[Iterable[np.ndarray], np.ndarray]]"]  # tracks: frames, boxes (N, 4) xywh


@dataclass(frozen=True)
class EngineKind:
    """One inference engine: how it is made and where it runs.

    Fields: make, (network on its device with float32 weights; precision; calibration as for `prepare`) -> engine, which
    raises InputError for a network that it cannot run; runs, type of device ("any": all not named) -> precisions, the
    first of which stands for "auto" where the device's best one is not among them; package, to be imported, that it
    needs beside the package's own (several with spaces between); extra, that brings it.
    """

    make: Callable[[LoRATNetwork, str, Calibration | None], Engine]
    runs: Mapping[str, tuple[str, ...]]
    package: str = ""
    extra: str = ""

    def precisions(self, place: torch.device) -> tuple[str, ...]:
        """Precisions that it runs on a device, none if it does not run there."""
        return self.runs.get(place.type, self.runs.get("any", ()))

    @property
    def missing(self) -> str:
        """What to install, empty if nothing is missing."""
        lacking = [package for package in self.package.split() if not find_spec(package)]
        return f"needs {lacking[0]}: pip install 'lorat_plugin[{self.extra}]'" if lacking else ""


def _eager(network: LoRATNetwork, precision: str, calibration: Calibration | None) -> LoRATNetwork:
    from lorat_plugin.devices import PRECISIONS

    return network.to(PRECISIONS[precision])


def _own(module: str, name: str) -> Callable[[LoRATNetwork, str, Calibration | None], Engine]:
    """A class of an engine in a module of this folder, which is imported when the engine is made."""

    def make(network: LoRATNetwork, precision: str, calibration: Calibration | None) -> Engine:
        engine: Engine = getattr(import_module(f"{__package__}.{module}"), name)(network, precision, calibration)
        return engine

    return make


GROUP = "lorat_plugin.engines"  # entry points: name = an `EngineKind`
ENGINES: dict[str, EngineKind] = {
    "eager": EngineKind(_eager, {"any": ("fp32", "bf16", "fp16")}),
    "fused": EngineKind(_own("fused_v2", "fused_engine"), {"cpu": ("fp32", "bf16")}),
    "compiled": EngineKind(_own("compiled", "CompiledEngine"), {"cuda": ("bf16", "fp16", "fp32")}),
    "onnxruntime": EngineKind(
        _own("graphs", "OnnxRuntimeEngine"), {"cpu": ("fp32",)}, "onnxruntime onnxscript", "onnx"
    ),
    "openvino": EngineKind(
        _own("graphs", "OpenVINOEngine"), {"cpu": ("fp32", "bf16", "fp16", "int8")}, "openvino", "openvino"
    ),
}
AUTO = ("fused", "eager")  # what "auto" tries: exact and without extras, the fastest first
_WORDS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
_WORDS |= {"cpu": "a CPU", "cuda": "a CUDA GPU", "mps": "MPS", "any": "every device"}


def list_engines() -> list[str]:
    """Names that `engine=` takes beside "auto", those of other packages included."""
    return list(dict.fromkeys([*ENGINES, *plugin_names(GROUP)]))


def list_precisions() -> list[str]:
    """Names that `precision=` takes beside "auto"."""
    return list(dict.fromkeys(p for kind in ENGINES.values() for row in kind.runs.values() for p in row))


def engine_kind(name: str) -> EngineKind:
    """The engine of that name. Raises InputError for an unknown one or a broken entry point."""
    kind = ENGINES.get(name) or load_plugin(GROUP, name, "engine")
    if kind is None:
        raise InputError(f"unknown engine '{name}': use auto or {', '.join(list_engines())}")
    if not isinstance(kind, EngineKind):
        raise InputError(f"engine '{name}': {kind!r:.80} is no EngineKind")
    ENGINES[name] = kind
    return kind


def prepare(
    network: LoRATNetwork,
    device: str = "auto",
    engine: str = "auto",
    precision: str = "auto",
    calibration: Calibration | None = None,
) -> tuple[Engine, torch.device]:
    """Move a network to its device and precision.

    Args:
        network: adapters merged or not; moved in place, as torch does.
        device: "auto" (CUDA, MPS or CPU, the first there is), or torch's name of one.
        engine: a name from `list_engines()`: "eager" is the network as it stands, "fused" the same numbers sooner, on
            a CPU. "auto" is the fastest exact one that needs no extras and runs the network.
        precision: "auto" (fp32 on a CPU and MPS; bf16, else fp16, on a CUDA GPU), or a name from `list_precisions()`.
        calibration: called for int8, gives the tracks to calibrate on; see `lorat_plugin.video.demo_clips`.
    Returns the engine and its device. Raises InputError for a name that is unknown, a device that is not there, or a
    network, device or precision that the engine named does not run; what "auto" chose instead is logged.
    """
    from lorat_plugin.processes import check_process

    place = check_options(device, engine, precision)
    check_process(place, os.getpid())
    names = [n for n in AUTO if not _obstacle(n, place, precision)] if engine == "auto" else [engine]
    for name, after in zip(names, [*names[1:], ""], strict=True):
        try:
            return _make(name, network, place, precision, calibration), place
        except InputError as error:
            if after:
                logger.info("%s; %s is used", error, after)
            elif device == "auto" and place.type != "cpu" and isinstance(error, _NoMemory):
                logger.warning("%s; the CPU is used", error)
                return prepare(network, "cpu", engine, precision, calibration)
            else:
                raise
    raise AssertionError("check_options leaves an engine to try")


def check_options(device: str, engine: str, precision: str) -> torch.device:
    """The device that a name stands for. Raises the same errors as `prepare`."""
    from lorat_plugin.devices import find_device

    if engine != "auto":
        engine_kind(engine)
    if precision not in ("auto", *list_precisions()):
        raise InputError(f"unknown precision '{precision}': use auto, {', '.join(list_precisions())}")
    place = find_device(device)
    if engine == "auto" and all(_obstacle(name, place, precision) for name in AUTO):
        able = [name for name, kind in ENGINES.items() if precision in kind.precisions(place)]
        raise InputError(f"engine 'auto' has no {precision} on {place}: name one ({', '.join(able) or 'none has it'})")
    if engine != "auto" and (obstacle := _obstacle(engine, place, precision)):
        raise InputError(obstacle)
    return place


def choose_precision(engine: str, place: torch.device, precision: str) -> str:
    """What the precision "auto" stands for with an engine that runs on the device; another stands for itself."""
    from lorat_plugin.devices import best_precision

    if precision != "auto":
        return precision
    best, known = best_precision(place), engine_kind(engine).precisions(place) if engine != "auto" else ()
    return best if best in known or not known else known[0]


class _NoMemory(InputError):
    """A GPU without room for the network."""


def _obstacle(name: str, place: torch.device, precision: str) -> str:
    """Why an engine cannot be used here; empty if it can."""
    kind, known = engine_kind(name), engine_kind(name).precisions(place)
    if not known or precision not in ("auto", *known):
        able = [" or ".join(_WORDS.get(p, p) for p in row) + f" on {_WORDS[d]}" for d, row in kind.runs.items()]
        return f"engine '{name}' runs {', '.join(able)}, not {precision} on {place}: use engine auto or eager"
    return f"engine '{name}' {kind.missing}" if kind.missing else ""


def _make(
    name: str, network: LoRATNetwork, place: torch.device, precision: str, calibration: Calibration | None
) -> Engine:
    import torch

    from lorat_plugin.devices import slow_precision

    asked, precision = precision, choose_precision(name, place, precision)
    if asked != "auto" and slow_precision(place, precision):
        logger.warning("%s has no fast arithmetic for %s: fp32 may be faster", place, precision)
    try:
        network = network.to(place).float().eval()
        return engine_kind(name).make(network, precision, calibration)
    except torch.cuda.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        raise _NoMemory(f"{place} has no memory left for engine '{name}': use a smaller model or device cpu") from error
