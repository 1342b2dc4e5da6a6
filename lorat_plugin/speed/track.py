"""Speed of tracking end to end, decoding included, with the time that each stage takes, beside one engine."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lorat_plugin import tracking
from lorat_plugin.box_files import read_boxes
from lorat_plugin.boxes import clip_to_image, xywh_to_xyxy, xyxy_to_xywh
from lorat_plugin.errors import InputError
from lorat_plugin.evaluation.registry import open_benchmark
from lorat_plugin.images import read_image
from lorat_plugin.network import Prediction
from lorat_plugin.settings import SpeedTrial
from lorat_plugin.speed.model import Setup, find_setups
from lorat_plugin.speed.rounds import (
    STAGE,
    Comparison,
    Report,
    clock_for,
    compare,
    compute_threads,
    interleave,
    write_clips,
)
from lorat_plugin.variants import get_variant
from lorat_plugin.video.source import Frame, FrameSource, open_source

STAGES = ("wait", "crop", "model", "post")
Images = Callable[[], Iterator[np.ndarray]]  # a clip's frames from the first on, (H, W, 3) uint8 RGB, at each call


def benchmark_track(
    model: str,
    trial: SpeedTrial,
    source: str | None = None,
    *,
    dataset: str | None = None,
    box: Sequence[float] | None = None,
    targets: Sequence[int] = (1,),
    frames: int = 20,
    decoded: bool = False,
) -> Report:
    """Track a clip with each engine in turn. Weights are random, so every search region is cut around a known box.

    Each round runs through the clip twice: the first time as users do, the second with a clock behind each stage: wait
    for the decoder, which works ahead in a thread; crop, copied to the device and normalised; model; post, from the
    score map to the box.

    Args:
        model: variant's name.
        trial: of engines.
        source: video or folder of images, of one target in `box`; None for made-up JPEGs of 1280x720 pixels.
        dataset: NAME:FOLDER of a benchmark instead, of which the longest sequence is taken.
        box: x, y, w, h in pixels; None for a square in the middle of a source's frames.
        targets: numbers of targets in a frame; several are tracked in one pass, and by as many single trackers.
        frames: of the clip, at most.
        decoded: take the frames from memory; on one CPU thread the process's own time counts then.
    Raises InputError for unknown names, engines that cannot run here, and frames or boxes that are not there.
    """
    variant = get_variant(model)
    setups = find_setups(trial.contestants, trial.precisions, trial.device, trial.reference)
    first = next(setup for setup in setups if setup.engine == trial.reference)
    with compute_threads(trial.threads), _clip(source, dataset, box, frames) as (images, known):
        clip = list(images())
        decoding = _decoding(images)
        boxes = place_targets(known[: len(clip)], max(targets), clip[0].shape[:2])
        opened = (lambda: iter(clip)) if decoded else images
        runs: dict[Entrant, _Run] = {}
        for setup in setups:
            engine, device = setup.make(variant)
            clock = clock_for(device, own=decoded)
            for count, joint in itertools.product(dict.fromkeys(targets), (True, False)):
                if joint or count > 1:
                    contestant = Entrant(setup, count, joint)
                    runs[contestant] = _Run(engine, device, opened, boxes[:, :count], joint, clock)
        taken = interleave({str(contestant): run for contestant, run in runs.items()}, trial)
        costs = dict(zip(runs, taken.values(), strict=True))
        results = []
        for count in dict.fromkeys(targets):
            results += _beside_reference(runs, costs, [Entrant(setup, count) for setup in setups], first)
        results += _beside_single_trackers(costs)
        size = "{1}x{0}".format(*clip[0].shape)
        settings: dict[str, Any] = {"model": variant.name, "device": first.device, "frames": f"{len(clip)} of {size}"}
        settings |= {"rounds": trial.rounds, "decoded": decoded, "decoding alone": decoding}
        return Report("track", settings, results)


def place_targets(known: np.ndarray, count: int, size: tuple[int, int]) -> np.ndarray:
    """Boxes of `count` targets in each frame, (N, count, 4) float64 xyxy: the known one, and copies elsewhere.

    Args:
        known: (N, 4) float64 x, y, w, h in pixels; rows that are no box in the frame take the box of the last one.
        count: of targets.
        size: (height, width) of the frames, pixels.
    Raises InputError if there is no box at all.
    """
    own = clip_to_image(xywh_to_xyxy(known), size)
    good = np.flatnonzero(np.isfinite(own).all(1) & ((own[:, 2:] - own[:, :2]) > 1).all(1))
    if not len(good):
        raise InputError("no box of the clip lies in its frame: give another with --box X,Y,W,H")
    own = own[good[np.maximum(np.searchsorted(good, np.arange(len(own)), side="right") - 1, 0)]]
    extent = own[:, 2:] - own[:, :2]
    corners = np.random.default_rng(0).random((count, 1, 2)) * (np.array(size[::-1]) - extent)
    corners[0] = own[:, :2]
    return np.concatenate([corners, corners + extent], -1).transpose(1, 0, 2)


@dataclass(frozen=True)
class Entrant:
    """An engine with a number of targets, in one pass (`joint`) or by as many single trackers."""

    setup: Setup
    count: int
    joint: bool = True

    def __str__(self) -> str:
        targets = "1 target" if self.count == 1 else f"{self.count} {'targets' if self.joint else 'single trackers'}"
        return f"{self.setup}, {targets}"

    def details(self, **more: float) -> dict[str, Any]:
        """What it is, for the report."""
        return {"engine": self.setup.engine, "precision": self.setup.precision, "targets": self.count, **more}


class _Run:
    """One engine with its targets; a call tracks the clip twice and gives the first time's seconds a frame."""

    def __init__(
        self,
        engine: tracking.Engine,
        device: torch.device,
        images: Images,
        boxes: np.ndarray,
        joint: bool,
        clock: Callable[[], float],
    ) -> None:
        self.engine, self.device, self.variant = engine, device, engine.variant
        self.images, self.boxes, self.clock = images, boxes, clock
        self.rounds: list[np.ndarray] = []  # seconds, (frames, stages)
        frame = next(images())
        targets = [tracking.start(engine, device, frame, box) for box in xyxy_to_xywh(boxes[0])]
        self.targets = [targets] if joint else [[target] for target in targets]

    def __call__(self) -> float:
        began = self.clock()
        for number, frame in enumerate(self.images()):
            self._advance(self.engine, number, frame)
        seconds = (self.clock() - began) / (number + 1)
        self.rounds.append(self._stages())
        return seconds

    def _advance(self, engine: tracking.Engine, number: int, frame: np.ndarray) -> None:
        for group in self.targets:
            tracking.step(engine, self.device, group, [frame] * len(group))
        for target, box in zip(itertools.chain(*self.targets), self.boxes[number], strict=True):
            target.box = box.copy()  # random weights lead astray, and a crop's cost depends on its size

    def _stages(self) -> np.ndarray:
        spent = []
        images = self.images()
        for number in range(len(self.boxes)):
            self.spent, self.last = dict.fromkeys(STAGES, 0.0), self.clock()
            frame = next(images)
            self._mark("wait")
            self._advance(self, number, frame)
            self._mark("post")
            spent.append(list(self.spent.values()))
        next(images, None)  # the decoder's end
        return np.array(spent[1:] or spent)  # the first frame waits for the decoder's thread to start

    def _mark(self, stage: str) -> None:
        now = self.clock()
        self.spent[stage] += now - self.last
        self.last = now

    def encode_template(self, z: torch.Tensor, z_mask: torch.Tensor) -> torch.Tensor:
        """The engine's, see `tracking.Engine`."""
        return self.engine.encode_template(z, z_mask)

    def predict(self, memories: Sequence[Any], x: torch.Tensor) -> Prediction:
        """The engine's, with a mark before and behind it."""
        self._mark("crop")
        prediction = self.engine.predict(memories, x)
        self._mark("model")
        return prediction


def _beside_reference(
    runs: dict[Entrant, _Run], costs: dict[Entrant, np.ndarray], chosen: Sequence[Entrant], first: Setup
) -> list[Comparison]:
    """End to end, the network alone and every stage of each engine, beside the first, with one number of targets."""
    reference = str(Entrant(first, chosen[0].count))

    def rows(own: Sequence[np.ndarray], measure: str, unit: str, value: Callable[[float], float]) -> list[Comparison]:
        return compare(dict(zip(map(str, chosen), own, strict=True)), reference, measure, unit, value)

    counted = [np.array(runs[c].rounds[-len(costs[c]) :]) for c in chosen]  # (rounds, frames, stages)
    medians = [np.maximum(np.median(own, 1), 1e-7) for own in counted]
    results = rows([costs[c] for c in chosen], "end to end", "frames/s", lambda s: 1 / s)
    results += rows([own[:, STAGES.index("model")] for own in medians], "model alone", "frames/s", lambda s: 1 / s)
    results = [replace(row, details=c.details()) for row, c in zip(results, [*chosen, *chosen], strict=True)]
    for i, stage in enumerate(STAGES):
        own_rows = rows([own[:, i] for own in medians], STAGE + stage, "ms", lambda s: s * 1e3)
        for row, c, own in zip(own_rows, chosen, counted, strict=True):
            results.append(replace(row, details=c.details(p95=float(np.quantile(own[..., i], 0.95) * 1e3))))
    return results


def _beside_single_trackers(costs: dict[Entrant, np.ndarray]) -> list[Comparison]:
    """Several targets in one pass, beside as many trackers of one target with the same engine."""
    results = []
    for alone, cost in costs.items():
        if not alone.joint:
            together = replace(alone, joint=True)
            pair = {str(alone): cost, str(together): costs[together]}
            row = compare(pair, str(alone), "one pass beside single trackers", "frames/s", lambda s: 1 / s)[1]
            results.append(replace(row, details=together.details()))
    return results


def _decoding(images: Images) -> dict[str, str]:
    """What the decoder takes for a frame with nothing beside it."""
    times = [time.perf_counter(), *(time.perf_counter() for _ in images())]
    return {
        "median": f"{np.median(np.diff(times)) * 1e3:.3g} ms",
        "p95": f"{np.quantile(np.diff(times), 0.95) * 1e3:.3g} ms",
    }


@contextmanager
def _clip(
    source: str | None, dataset: str | None, box: Sequence[float] | None, count: int
) -> Iterator[tuple[Images, np.ndarray]]:
    """The frames of a clip and its target's boxes, (N, 4) x, y, w, h in pixels."""
    if source and dataset:
        raise InputError("give a source or --dataset, not both")
    if dataset:
        name, _, folder = dataset.partition(":")
        sequences = [s for s in open_benchmark(name, Path(folder) if folder else None).sequences if s.scorable]
        if not sequences:
            raise InputError(f"{dataset}: no sequence has a box for every frame; name another --dataset")
        longest = max(sequences, key=len)
        yield partial(_images, partial(_read, longest.name, list(longest.frames)[:count])), longest.boxes[:count]
    elif source:
        images = partial(_images, partial(open_source, source, 0, count))
        first, number = next(images()), sum(1 for _ in images())
        side = min(first.shape[:2]) / 4
        middle = [first.shape[1] / 2 - side / 2, first.shape[0] / 2 - side / 2, side, side]
        yield images, np.tile(np.array(box or middle, np.float64), (number, 1))
    else:
        with tempfile.TemporaryDirectory() as work:
            write_clips(Path(work), (1280, 720), clips=1, frames=count)
            made = Path(work) / "clip0"
            yield partial(_images, partial(open_source, made)), read_boxes(made / "groundtruth.txt")


def _images(opened: Callable[[], FrameSource]) -> Iterator[np.ndarray]:
    with opened() as frames:
        for frame in frames:
            yield frame.image


def _read(name: str, paths: Sequence[str]) -> FrameSource:
    return FrameSource(name, (Frame(i, path, read_image(Path(path))) for i, path in enumerate(paths)))
