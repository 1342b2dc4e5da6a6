"""What the benchmarks share: contestants that take turns, ratios to a reference round by round, and the report.

A busy machine slows all contestants of a round alike, so the ratio within a round says more than two times apart.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import torch

from lorat_plugin.apps.doctor import this_installation
from lorat_plugin.boxes import clip_to_image, xyxy_to_xywh
from lorat_plugin.errors import InputError
from lorat_plugin.files import whole_file
from lorat_plugin.settings import SpeedTrial
from lorat_plugin.synthetic.material import procedural_cutout, procedural_photo
from lorat_plugin.synthetic.rendering import Look, Pose, degrade, draw, object_box

STAGE = "stage: "  # begins the measure of a part of the whole, which plots leave out
Result = TypeVar("Result")


def interleave(
    contestants: Mapping[str, Callable[[], float]], trial: SpeedTrial, warmup: int = 1
) -> dict[str, np.ndarray]:
    """Let contestants take turns, A B A B and so on; a call does one round and returns its cost, such as seconds.

    Returns the costs of each, (rounds,) float64, without those of the rounds for warming up.
    """
    costs: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(warmup + trial.rounds):
        for name, play in contestants.items():
            costs[name].append(play())
        trial.on_round()
    return {name: np.array(values[warmup:]) for name, values in costs.items()}


@dataclass(frozen=True)
class Comparison:
    """One contestant beside the reference.

    Fields: measure, what was compared; value, the contestant's median in `unit`; ratio, median over the rounds of
    reference's cost / contestant's cost, above 1 where the contestant is better; low and high, the quartiles; details,
    what the contestant is, and further numbers.
    """

    name: str
    reference: str
    measure: str
    value: float
    unit: str
    ratio: float
    low: float
    high: float
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """Result of one benchmark, and the machine."""

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

        selected = [c for c in self.comparisons if not c.measure.startswith(STAGE)]
        measures = list(dict.fromkeys(c.measure for c in selected))
        figure = Figure(figsize=(7, 0.8 + 0.5 * len(selected)), layout="constrained")
        for axis, measure in zip(figure.subplots(len(measures), squeeze=False)[:, 0], measures, strict=True):
            rows = [c for c in selected if c.measure == measure][::-1]
            spread = [[c.ratio - c.low for c in rows], [c.high - c.ratio for c in rows]]
            bars = axis.barh([c.name for c in rows], [c.ratio for c in rows], xerr=spread, capsize=3)
            axis.bar_label(bars, [f"{c.ratio:.2f}x, {c.value:.4g} {c.unit}" for c in rows], padding=4)
            axis.margins(x=0.6)  # room for the labels
            axis.axvline(1, color="black", linewidth=0.8, linestyle="--")
            axis.set_xlabel(f"{measure}: times as good as {rows[0].reference}")
        with whole_file(path) as part:
            figure.savefig(part, format=path.suffix.removeprefix("."), dpi=150)


def compare(
    costs: Mapping[str, np.ndarray], reference: str, measure: str, unit: str, value: Callable[[float], float]
) -> list[Comparison]:
    """Compare each contestant's costs with the reference's, round by round; `value` turns a cost into `unit`.

    Raises InputError unless the reference is one of the contestants.
    """
    if reference not in costs:
        raise InputError(f"reference '{reference}' does not take part; use one of {', '.join(costs)}")
    rows = []
    for name, own in costs.items():
        low, ratio, high = (float(q) for q in np.quantile(costs[reference] / own, (0.25, 0.5, 0.75)))
        rows.append(Comparison(name, reference, measure, value(float(np.median(own))), unit, ratio, low, high))
    return rows


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


@contextmanager
def compute_threads(count: int) -> Iterator[None]:
    """Let torch and OpenCV compute with so many threads; 0: as many as they do already."""
    former = cv2.getNumThreads(), torch.get_num_threads()
    if count:
        cv2.setNumThreads(count)
        torch.set_num_threads(count)
    try:
        yield
    finally:
        cv2.setNumThreads(former[0])
        torch.set_num_threads(former[1])


def clock_for(device: torch.device, own: bool = True) -> Callable[[], float]:
    """A clock in seconds that waits until the device has done all its work.

    With `own`, it is the process's own time on a single CPU thread, which other processes do not lengthen.
    """
    if device.type == "cpu":
        return time.process_time if own and torch.get_num_threads() == 1 else time.perf_counter
    wait = getattr(torch, device.type).synchronize

    def clock() -> float:
        wait()
        return time.perf_counter()

    return clock


def in_process(function: Callable[..., Result], *arguments: object) -> Result:
    """Call a function in a process of its own, whose memory is its own too."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def write_clips(folder: Path, size: tuple[int, int], clips: int = 4, frames: int = 8) -> None:
    """Write clips of an object that crosses a noisy scene, `size` (width, height) pixels.

    A frame of 1280x720 takes about 80 kB as JPEG.
    """
    rng = np.random.default_rng(0)
    for clip in range(clips):
        home = folder / f"clip{clip}"
        home.mkdir(parents=True)
        scene = cv2.resize(procedural_photo(rng), size, interpolation=cv2.INTER_CUBIC)
        cutout, extent = procedural_cutout(rng), rng.uniform(0.08, 0.35) * size[1]
        start, end = rng.uniform(0.25, 0.75, (2, 2)) * size
        boxes = []
        for number, (x, y) in enumerate(np.linspace(start, end, frames)):
            canvas, pose = scene.copy(), Pose(x, y, extent)
            draw(canvas, cutout, pose)
            canvas = degrade(canvas, Look(noise=2.0), rng)
            _, packed = cv2.imencode(".jpg", canvas, [cv2.IMWRITE_JPEG_QUALITY, 85])
            (home / f"{number:04d}.jpg").write_bytes(packed.tobytes())
            boxes.append(xyxy_to_xywh(clip_to_image(object_box(cutout, pose), size[::-1])))
        np.savetxt(home / "groundtruth.txt", boxes, fmt="%.3f", delimiter=",")
