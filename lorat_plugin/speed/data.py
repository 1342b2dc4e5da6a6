"""Training pairs per second and core: from folders and LMDB, by each way of making them, beside decoding alone."""

from __future__ import annotations

import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch

from lorat_plugin.boxes import clip_to_image, xyxy_to_xywh
from lorat_plugin.datasets.lmdb_build import build_lmdb
from lorat_plugin.speed.rounds import Report, check_baseline, compare, compute_threads, interleave
from lorat_plugin.synthetic.material import procedural_cutout, procedural_photo
from lorat_plugin.synthetic.rendering import Look, Pose, degrade, draw, object_box
from lorat_plugin.training.config import TrainConfig
from lorat_plugin.training.device.pairs import DevicePairs
from lorat_plugin.training.pairs import sample_generator
from lorat_plugin.training.recipe import Batch, PairDataset

PAIRS = 8  # in a round: short, so that all contestants of a round meet the same machine


def benchmark_data(
    datasets: Sequence[str] = (),
    *,
    variant: str = "lorat_b_224",
    pairs: int = 160,
    baseline: str = "",
    frame_size: tuple[int, int] = (1280, 720),
    on_round: Callable[[], None] = lambda: None,
) -> Report:
    """Measure CPU time of batches of 8 pairs on one thread; waiting for a disk does not count.

    Args:
        datasets: NAME:FOLDER of folders or LMDBs; empty: generated clips, as a folder and as LMDB.
        variant: whose crops are made.
        pairs: made by each contestant, after 8 for warming up.
        baseline: a contestant, by default the first data set: "decode" takes that too; the others have the data sets'
            names, with ", 8-bit" behind for 8-bit arithmetic, ", device" for `pairs_on: device` on this CPU, and
            ", device bank" for the same with generated clips decoded beforehand.
        frame_size: (width, height) of generated frames, pixels.
        on_round: called after every 8 pairs of each contestant.
    Raises InputError for data that cannot be opened or an unknown variant or baseline.
    """
    with _data(datasets, frame_size) as named, compute_threads(1):
        opened = {n: PairDataset(TrainConfig(variant=variant, datasets=(entry,))) for n, entry in named.items()}
        first = next(iter(opened.values()))
        baseline = baseline or next(iter(opened))
        makers: dict[str, Callable[[Sequence[int]], object]] = {}
        for name, dataset in opened.items():
            on_device = replace(dataset.config, pairs_on="device", device="cpu")
            makers[name] = partial(_batch, dataset)
            makers[f"{name}, 8-bit"] = partial(_batch, PairDataset(replace(dataset.config, eight_bit=True)))
            makers[f"{name}, device"] = partial(_batch, DevicePairs(on_device))
            if not datasets:  # others may not fit into memory
                makers[f"{name}, device bank"] = partial(_batch, DevicePairs(replace(on_device, bank_gb=1)))
        makers["decode"] = lambda indices: [first.source.planned(0, i, _generator(first, i)) for i in indices]
        check_baseline(baseline, makers)
        costs = interleave({n: _timed(make) for n, make in makers.items()}, max(pairs // PAIRS, 1), on_round=on_round)
        shown = {"variant": variant, "pairs": pairs, "datasets": list(datasets) or f"generated, {frame_size}"}
        return Report("data", shown, compare(costs, baseline, "training pairs", "pairs/s per core", lambda s: 1 / s))


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


def _generator(dataset: PairDataset, index: int) -> np.random.Generator:
    return sample_generator(dataset.config.seed, 0, 0, dataset.training, index)


def _batch(dataset: PairDataset, indices: Sequence[int]) -> Batch:
    return dataset.receive(dataset.collate([dataset[i] for i in indices])).to(torch.device("cpu"))


def _timed(make: Callable[[Sequence[int]], object]) -> Callable[[], float]:
    rounds = itertools.count()

    def play() -> float:
        first = next(rounds) * PAIRS
        began = time.process_time()
        make(range(first, first + PAIRS))
        return (time.process_time() - began) / PAIRS

    return play


@contextmanager
def _data(datasets: Sequence[str], frame_size: tuple[int, int]) -> Iterator[dict[str, str]]:
    """Name of each contestant -> its data set as settings write it."""
    if datasets:
        yield {entry: entry for entry in datasets}
        return
    with tempfile.TemporaryDirectory() as place:
        folder, packed = Path(place) / "clips", Path(place) / "clips_lmdb"
        write_clips(folder, frame_size)
        build_lmdb("clips", folder, packed)
        former = os.environ.get("LORAT_CACHE")
        os.environ["LORAT_CACHE"] = place  # an index of data that are gone afterwards is of no use to the user
        try:
            yield {"folder": f"clips:{folder}", "LMDB": f"clips:{packed}"}
        finally:
            os.environ.pop("LORAT_CACHE")
            if former is not None:
                os.environ["LORAT_CACHE"] = former
