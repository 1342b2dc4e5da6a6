"""Speed of networks alone: every variant, batch, engine and precision beside one engine, on random weights."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from lorat_plugin.devices import PRECISIONS, best_precision, find_device, peak_memory
from lorat_plugin.engines import check_options, list_engines, prepare
from lorat_plugin.engines.select import choose_precision
from lorat_plugin.errors import InputError
from lorat_plugin.models import create_model
from lorat_plugin.networks import make_network
from lorat_plugin.settings import SpeedTrial
from lorat_plugin.speed.rounds import (
    Comparison,
    Report,
    clock_for,
    compare,
    compute_threads,
    in_process,
    interleave,
)
from lorat_plugin.tracking import Engine
from lorat_plugin.variants import Variant, get_variant, list_variants
from lorat_plugin.video.demo_clips import calibration_tracks

ROUND_SECONDS = 0.25  # at least, for each contestant: long beside the clock's and the scheduler's grain
AUTOCAST = "autocast"  # takes part like an engine
PRODUCT = "matrix product"  # the contestant that shows what the machine can do


@dataclass(frozen=True)
class Setup:
    """How a network is run: names of engine, precision and device, see `lorat_plugin.engines.prepare`."""

    engine: str
    precision: str
    device: str

    def __str__(self) -> str:
        return f"{self.engine} {self.precision}"

    def make(self, variant: Variant) -> tuple[Engine, torch.device]:
        """An engine with random weights, and its device."""
        torch.manual_seed(0)
        if self.engine != AUTOCAST:
            return prepare(create_model(variant), self.device, self.engine, self.precision, calibration_tracks)
        engine, device = prepare(create_model(variant), self.device, "eager", "fp32")
        return _Autocast(engine, torch.autocast(device.type, PRECISIONS[self.precision])), device


class _Autocast:
    """Float32 weights that autocast makes half as it goes, as the official code does: a reference to measure."""

    def __init__(self, engine: Engine, autocast: torch.autocast) -> None:
        self.variant = engine.variant
        self.encode_template, self.predict = autocast(engine.encode_template), autocast(engine.predict)
        if engine.variant.reference_size:
            self.encode_reference = autocast(engine.encode_reference)  # type: ignore[attr-defined]


def benchmark_model(
    models: Sequence[str], trial: SpeedTrial, *, batches: Sequence[int] = (1,), memory: bool = True
) -> Report:
    """Measure `predict`, which is what a tracker runs for each frame; crops are on the device already.

    Args:
        models: variants' names, or "all" for every one.
        trial: of engines; the reference counts with its first precision.
        batches: search regions in one call.
        memory: measure it too, in a process for each contestant; on a CPU its libraries count.
    Raises InputError for unknown names, engines that cannot run here and a GPU without memory for a batch.
    """
    variants = [get_variant(name) for name in (list_variants() if list(models) == ["all"] else models)]
    setups = find_setups(trial.contestants, trial.precisions, trial.device, trial.reference)
    first = next(setup for setup in setups if setup.engine == trial.reference)
    results: list[Comparison] = []
    counts = {}
    with compute_threads(trial.threads):
        for variant in variants:
            counts[variant.name] = count(variant)
            for batch in batches:
                operations = 2 * batch * counts[variant.name]["multiply-accumulates"]
                rows = _compare_setups(variant, batch, setups, first, operations, trial)
                results += rows + (_compare_memory(variant, batch, setups, first) if memory else [])
        settings = {"device": first.device, "rounds": trial.rounds, "counts": counts}
        return Report("model", settings, results)


def find_setups(
    engines: Sequence[str], precisions: Sequence[str], device: str, reference: str | None = None
) -> list[Setup]:
    """Pairs of engine and precision that run on a device; of "all" engines those that have one of the precisions.

    The engine `reference` takes part even if it is not named, first and with "auto" if it has none of the precisions.
    Raises InputError for an engine that has none of them.
    """
    host, every = find_device(device), list(engines) == ["all"]
    setups: list[Setup] = []
    for engine in list_engines() if every else engines:
        found, obstacle = _setups_of(engine, precisions, host)
        if obstacle and not found and not every:
            raise obstacle
        setups += found
    if reference and all(setup.engine != reference for setup in setups):
        found, obstacle = _setups_of(reference, [*precisions, "auto"], host)
        if obstacle and not found:
            raise obstacle
        setups = found[:1] + setups
    return list(dict.fromkeys(setups))


def _setups_of(engine: str, precisions: Sequence[str], device: torch.device) -> tuple[list[Setup], InputError | None]:
    """An engine with each of the precisions that it has, and why it lacks another."""
    setups, obstacle = [], None
    for precision in precisions:
        try:
            if engine != AUTOCAST:
                check_options(str(device), engine, precision)
                chosen = choose_precision(engine, device, precision)
            else:
                chosen = best_precision(device) if precision == "auto" else precision
                if chosen not in ("bf16", "fp16"):
                    raise InputError(f"autocast on {device} needs --precision bf16 or fp16, not {precision}")
            setups.append(Setup(engine, chosen, str(device)))
        except InputError as error:
            obstacle = obstacle or error
    return setups, obstacle


def count(variant: Variant) -> dict[str, int]:
    """Parameters of a network, and multiply-accumulates of one `predict`; of a template, once for each target."""
    with torch.device("meta"), torch.inference_mode():
        network = make_network(variant).eval()
        memory = encoded(network, 1, torch.device("meta"))
        with FlopCounterMode(display=False) as counter:
            network.predict([memory], torch.empty(1, 3, variant.search_size, variant.search_size))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return {"parameters": parameters, "multiply-accumulates": counter.get_total_flops() // 2}


@torch.inference_mode()
def encoded(engine: Any, batch: int, device: torch.device) -> Any:
    """An engine's memory of targets, with a reference where its variant has one."""
    v = engine.variant
    z, reference = (torch.randn(batch, 3, side, side, device=device) for side in (v.template_size, v.reference_size))
    mask = torch.ones(batch, v.template_grid, v.template_grid, dtype=torch.int64, device=device)
    memory = engine.encode_template(z, mask)
    return engine.encode_reference(memory, reference) if v.reference_size else memory


def player(variant: Variant, batch: int, setup: Setup) -> Callable[[], float]:
    """An engine, warmed up; each call runs it for a while and returns the seconds of one `predict`.

    On a single CPU thread they are that thread's own, which other processes do not lengthen, else the clock's.
    Raises InputError if the device's memory is too small.
    """
    engine, device = setup.make(variant)
    x = torch.randn(batch, 3, variant.search_size, variant.search_size, device=device)
    memory = encoded(engine, batch, device)
    return timed(lambda: engine.predict([memory], x), device, f"{variant.name}, batch {batch}, {setup}")


def timed(call: Callable[[], object], device: torch.device, shown: str) -> Callable[[], float]:
    """Warm a call up and find how often it makes a round; each call of what is returned gives its mean seconds."""
    clock = clock_for(device)

    @torch.inference_mode()
    def play(repetitions: int) -> float:
        began = clock()
        try:
            for _ in range(repetitions):
                call()
            return (clock() - began) / repetitions
        except torch.cuda.OutOfMemoryError as error:
            raise InputError(f"{shown}: {device} has no memory left: use a smaller batch") from error

    play(1)  # compiles and allocates
    repetitions = max(math.ceil(ROUND_SECONDS / max(play(1), 1e-5)), 1)
    return lambda: play(repetitions)


def memory_of(variant: Variant, batch: int, setup: Setup, threads: int) -> int:
    """Peak bytes of a process that runs the engine, libraries included, making it left out."""
    with compute_threads(threads):
        play, device = player(variant, batch, setup), torch.device(setup.device)
        gc.collect()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        with suppress(OSError):  # Linux alone forgets the peak so far
            Path("/proc/self/clear_refs").write_text("5")
        play()
        return peak_memory(device)


def _compare_setups(
    variant: Variant, batch: int, setups: Sequence[Setup], first: Setup, operations: int, trial: SpeedTrial
) -> list[Comparison]:
    device = torch.device(first.device)
    side = 1536 if device.type == "cpu" else 8192
    a = torch.randn(side, side, device=device, dtype=PRECISIONS.get(first.precision, torch.float32))
    plays = {str(setup): player(variant, batch, setup) for setup in setups}
    plays[PRODUCT] = timed(lambda: a @ a, device, PRODUCT)
    costs = interleave(plays, trial)
    product = costs.pop(PRODUCT) / (2 * side**3)
    rates = {name: own / operations for name, own in costs.items()} | {PRODUCT: product}
    speed = compare(costs, str(first), "network alone", "frames/s", lambda s: batch / s)
    speed = [replace(row, details={"ms a frame": 1e3 / row.value}) for row in speed]
    share = compare(rates, PRODUCT, "share of the peak", "GFLOP/s", lambda s: 1e-9 / s)[:-1]
    return _named(speed, variant, batch, setups) + _named(share, variant, batch, setups)


def _compare_memory(variant: Variant, batch: int, setups: Sequence[Setup], first: Setup) -> list[Comparison]:
    threads = torch.get_num_threads()
    peaks = {str(setup): np.array([float(in_process(memory_of, variant, batch, setup, threads))]) for setup in setups}
    return _named(compare(peaks, str(first), "peak memory", "GB", lambda size: size / 1e9), variant, batch, setups)


def _named(rows: Sequence[Comparison], variant: Variant, batch: int, setups: Sequence[Setup]) -> list[Comparison]:
    named = []
    for row, setup in zip(rows, setups, strict=True):
        details = {"model": variant.name, "batch": batch, "engine": setup.engine, "precision": setup.precision}
        named.append(replace(row, name=f"{variant.name} x{batch} {setup}", details=details | row.details))
    return named
