"""How time and memory grow with the batch, the tokens and the targets in a frame, with a fitted law for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from lorat_plugin import tracking
from lorat_plugin.benchmark.model import Way, find_ways, peak_of, player, timed
from lorat_plugin.benchmark.rounds import (
    Comparison,
    Report,
    compare,
    compute_threads,
    in_process,
    interleave,
)
from lorat_plugin.benchmark.track import place_targets
from lorat_plugin.boxes import xyxy_to_xywh
from lorat_plugin.files import whole_file
from lorat_plugin.variants import Variant, get_variant

DEGREES = {"batch": 1, "tokens": 2, "targets": 1}  # of time; attention is what grows with the tokens' square
FRAME = (720, 1280)  # height and width of the frame in which targets are tracked, pixels


@dataclass(frozen=True)
class Point:
    """A network at work: `amount` search regions in a call, tokens of one region, or targets in a frame."""

    kind: str
    amount: int
    variant: Variant
    way: Way

    def __str__(self) -> str:
        return f"{self.kind} {self.amount}"

    def player(self) -> Callable[[], float]:
        """What gives the seconds of one call or frame, see `model.timed`."""
        if self.kind != "targets":
            return player(self.variant, self.amount if self.kind == "batch" else 1, self.way)
        engine, place = self.way.make(self.variant)
        frame = np.random.default_rng(0).integers(0, 255, (*FRAME, 3), np.uint8)
        boxes = place_targets(np.array([[550.0, 270, 180, 180]]), self.amount, FRAME)[0]
        targets = [tracking.start(engine, place, frame, box) for box in xyxy_to_xywh(boxes)]

        def call() -> None:
            for target, box in zip(targets, boxes, strict=True):
                target.box = box.copy()  # random weights would lead it astray
            tracking.step(engine, place, targets, [frame] * len(targets))

        return timed(call, place, f"{self.variant.name}, {self}")

    def memory(self, threads: int) -> int:
        """Peak bytes of a process that does nothing else."""
        with compute_threads(threads):
            return peak_of(self.player(), self.way)


class Growth(Report):
    """Comparisons of each amount with the smallest; `settings["laws"]` has the fitted polynomials."""

    def plot(self, path: Path) -> None:
        """Draw frames/s and memory against each amount, with the laws as curves."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 5), layout="constrained")
        axes = figure.subplots(2, len(DEGREES))
        for column, kind in enumerate(DEGREES):
            for row, what in enumerate(("time", "memory")):
                points = [c for c in self.comparisons if c.measure == f"{what} with {kind}"]
                if not points:
                    continue
                x, y = np.array([(c.details["amount"], c.value) for c in points]).T
                line = np.linspace(x[0], x[-1], 100)
                law = np.polyval(fit(x, y, DEGREES[kind] if what == "time" else 1), line)
                if what == "time":  # ms of a call -> frames/s
                    y, law = 1e3 * (x if kind == "batch" else 1) / y, 1e3 * (line if kind == "batch" else 1) / law
                axis = axes[row, column]
                axis.plot(x, y, "o")
                axis.plot(line, law)
                shown = "frames/s" if what == "time" else "peak memory, GB"
                axis.set(xlabel=kind, ylabel=shown, ylim=(0, 1.15 * max(y.max(), law.max())))
        figure.suptitle(f"{self.settings['model']}, {self.settings['way']}, {self.machine['processor']}")
        with whole_file(path) as part:
            figure.savefig(part, format=path.suffix.removeprefix("."), dpi=80)


def benchmark_growth(
    model: str = "lorat_b_224",
    *,
    batches: Sequence[int] = (1, 2, 4, 8),
    sides: Sequence[int] = (112, 168, 224, 280, 336, 378),
    targets: Sequence[int] = (1, 2, 4, 8),
    engine: str = "auto",
    precision: str = "auto",
    rounds: int = 5,
    device: str = "auto",
    threads: int = 0,
    memory: bool = True,
    on_round: Callable[[], None] = lambda: None,
) -> Growth:
    """Measure one engine on random weights; the amounts of a kind take turns.

    Args:
        model: variant's name.
        batches: search regions in one call.
        sides: of the search region, pixels, multiples of the patch; the template's is half as long. Batch 1.
        targets: in one frame of 1280x720 pixels, crops included.
        engine, precision, rounds, device, threads, memory, on_round: as for `benchmark_model`.
    Raises InputError for unknown names and sides that do not fit.
    """
    variant, way = get_variant(model), find_ways([engine], [precision], device)[0]
    resized = {side: _at(variant, side) for side in sorted(sides)}
    points = {
        "batch": [Point("batch", n, variant, way) for n in sorted(batches)],
        "tokens": [Point("tokens", v.template_grid**2 + v.search_grid**2, v, way) for v in resized.values()],
        "targets": [Point("targets", n, variant, way) for n in sorted(targets)],
    }
    found: list[Comparison] = []
    laws = {}
    with compute_threads(threads):
        for kind, row in points.items():
            amounts = [point.amount for point in row]
            costs = interleave({str(p): p.player() for p in row}, rounds, on_round=on_round)
            times = compare(costs, str(row[0]), f"time with {kind}", "ms", lambda s: s * 1e3)
            laws[f"ms with {kind}"] = _law(amounts, times, DEGREES[kind])
            sizes = []
            if memory:
                peaks = {str(p): np.array([float(in_process(p.memory, torch.get_num_threads()))]) for p in row}
                sizes = compare(peaks, str(row[0]), f"memory with {kind}", "GB", lambda size: size / 1e9)
                laws[f"GB with {kind}"] = _law(amounts, sizes, 1)
            for c, n in zip(times + sizes, amounts * 2, strict=False):
                found.append(replace(c, details={"amount": n}))
        settings = {"model": model, "way": str(way), "device": way.device, "rounds": rounds, "laws": laws}
        return Growth("growth", settings, found)


def fit(x: np.ndarray, y: np.ndarray, degree: int) -> np.ndarray:
    """Coefficients of the polynomial, highest power first, with the least sum of squared relative errors."""
    return np.polyfit(x, y, min(degree, len(x) - 1), w=1 / np.asarray(y))


def _law(amounts: Sequence[int], rows: Sequence[Comparison], degree: int) -> str:
    x, y = np.array(amounts, np.float64), np.array([row.value for row in rows])
    law = fit(x, y, degree)
    terms = [f"{c:.3g}" + ("", " n", " n^2")[power] for power, c in enumerate(law[::-1])]
    worst = np.abs(np.polyval(law, x) / y - 1).max()
    return " + ".join(terms).replace("+ -", "- ") + f" (within {worst:.0%} of each point)"


def _at(variant: Variant, side: int) -> Variant:
    half = max(round(side / 2 / variant.patch_size), 1) * variant.patch_size
    return replace(variant, name=f"{variant.name} at {side}", search_size=side, template_size=half)
