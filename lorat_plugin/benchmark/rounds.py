"""What the benchmarks share: contestants that take turns, ratios to a baseline round by round, and the report.

A busy machine slows all contestants of a round alike, so the ratio within a round says more than two times apart.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lorat_plugin.doctor import this_installation
from lorat_plugin.errors import InputError
from lorat_plugin.files import whole_file


@dataclass(frozen=True)
class Comparison:
    """One contestant beside the baseline.

    Fields: measure, what was compared; value, the contestant's median in `unit`; ratio, median over the rounds of
    baseline's cost / contestant's cost, above 1 where the contestant is better; low and high, the quartiles.
    """

    name: str
    baseline: str
    measure: str
    value: float
    unit: str
    ratio: float
    low: float
    high: float


@dataclass(frozen=True)
class Report:
    """What one benchmark found, on what machine."""

    benchmark: str
    settings: dict[str, Any]
    comparisons: list[Comparison]
    machine: dict[str, Any] = field(default_factory=lambda: describe_machine())

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON has it."""
        return asdict(self)

    def plot(self, path: Path) -> None:
        """Draw the ratios as bars with their quartiles, a picture of the suffix's type, for each measure."""
        from matplotlib.figure import Figure

        measures = list(dict.fromkeys(c.measure for c in self.comparisons))
        figure = Figure(figsize=(7, 0.8 + 0.5 * len(self.comparisons)), layout="constrained")
        for axis, measure in zip(figure.subplots(len(measures), squeeze=False)[:, 0], measures, strict=True):
            rows = [c for c in self.comparisons if c.measure == measure][::-1]
            spread = [[c.ratio - c.low for c in rows], [c.high - c.ratio for c in rows]]
            bars = axis.barh([c.name for c in rows], [c.ratio for c in rows], xerr=spread, capsize=3)
            axis.bar_label(bars, [f"{c.ratio:.2f}x, {c.value:.4g} {c.unit}" for c in rows], padding=4)
            axis.margins(x=0.5)  # room for the labels
            axis.axvline(1, color="black", linewidth=0.8, linestyle="--")
            axis.set_xlabel(f"{measure}: times as good as {rows[0].baseline}")
        with whole_file(path) as part:
            figure.savefig(part, format=path.suffix.removeprefix("."), dpi=150)


def interleave(
    contestants: Mapping[str, Callable[[], float]],
    rounds: int,
    *,
    warmup: int = 1,
    on_round: Callable[[], None] = lambda: None,
) -> dict[str, np.ndarray]:
    """Let contestants take turns, A B A B and so on.

    Args:
        contestants: by name; a call does one round and returns its cost, such as seconds for each pair.
        rounds: that count.
        warmup: rounds before them, which do not.
        on_round: called after each.
    Returns the costs of each, (rounds,) float64.
    """
    costs: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(warmup + rounds):
        for name, play in contestants.items():
            cost = play()
            if number >= warmup:
                costs[name].append(cost)
        on_round()
    return {name: np.array(values) for name, values in costs.items()}


def compare(
    costs: Mapping[str, np.ndarray], baseline: str, measure: str, unit: str, value: Callable[[float], float]
) -> list[Comparison]:
    """Compare each contestant's costs with the baseline's, round by round; `value` turns a cost into `unit`."""
    found = []
    for name, own in costs.items():
        low, ratio, high = (float(q) for q in np.quantile(costs[baseline] / own, (0.25, 0.5, 0.75)))
        found.append(Comparison(name, baseline, measure, value(float(np.median(own))), unit, ratio, low, high))
    return found


def check_baseline(baseline: str, contestants: Mapping[str, object] | list[str]) -> None:
    """Raise InputError unless the baseline is one of the contestants."""
    if baseline not in contestants:
        raise InputError(f"baseline '{baseline}' does not take part; use one of {', '.join(contestants)}")


def describe_machine() -> dict[str, Any]:
    """Processor, cores, threads, GPU, system and versions of what matters for speed."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.platform(),
        "versions": {"python": platform.python_version(), **this_installation().versions},
    }
