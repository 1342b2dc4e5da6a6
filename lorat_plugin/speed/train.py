"""Speed of training: time and memory of a step in every mode, and pairs per second and core from folders and LMDB."""

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
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from lorat_plugin.crop import cells_on_target
from lorat_plugin.datasets.lmdb_build import build_lmdb
from lorat_plugin.devices import best_precision, find_device, peak_memory
from lorat_plugin.errors import InputError
from lorat_plugin.models import create_model
from lorat_plugin.settings import SpeedTrial
from lorat_plugin.speed.rounds import (
    Report,
    clock_for,
    compare,
    compute_threads,
    in_process,
    interleave,
    write_clips,
)
from lorat_plugin.training.augment import sample_generator
from lorat_plugin.training.config import TrainConfig, training_variant
from lorat_plugin.training.layers import add_stochastic_depth, checkpoint_activations, compiled
from lorat_plugin.training.methods import MODES, training_network
from lorat_plugin.training.recipe import Batch, PairDataset, make_optimizer, train_step
from lorat_plugin.training.sources import open_pairs
from lorat_plugin.variants import Variant

BRANCHES = "peft"  # LoRA by peft's own forward pass, W x + B (A x)
OPTIONS = ("checkpointing", "compile")
ON_DEVICE = {"pairs_on": "device", "device": "cpu"}
PAIRS = 8  # in a round: short, so that all contestants of a round meet the same machine


def benchmark_train(trial: SpeedTrial, variant: str = "lorat_b_224", batch: int = 8) -> Report:
    """Measure steps on random weights and images; time in this process, memory in a process for each mode.

    Args:
        trial: of modes, "lora", "peft", "full" or "baseline", with "+checkpointing" or "+compile" behind it, in one
            precision; a round is a step of each, after two for warming up.
        variant: that is trained.
        batch: pairs in a step.
    Time on a single CPU thread is that thread's own, which other processes do not lengthen, else the clock's. Memory is
    the process's largest size on a CPU, libraries included, and the largest allocation on a CUDA GPU.
    Raises InputError for unknown modes, variants or devices.
    """
    modes = list(dict.fromkeys([trial.reference, *trial.contestants]))
    for mode in modes:
        method, *options = mode.split("+")
        if method not in (*MODES, BRANCHES) or not set(options) <= set(OPTIONS):
            names = ", ".join((*MODES, BRANCHES))
            raise InputError(f"unknown mode '{mode}': use {names}, with +{' or +'.join(OPTIONS)} if wanted")
    device, precision = find_device(trial.device), trial.precisions[0]
    config = TrainConfig(
        variant=variant, backbone="random", batch_size=batch, device=str(device), threads=trial.threads,
        precision=best_precision(device) if precision == "auto" else precision,  # type: ignore[arg-type]
    )  # fmt: skip
    training_variant(config)
    peaks = {mode: np.array([float(in_process(step_memory, mode, config))]) for mode in modes}
    steps = {mode: make_step(mode, config) for mode in modes}
    costs = interleave(steps, trial, warmup=2)
    settings = {"variant": variant, "batch": batch, "device": config.device, "precision": config.precision}
    times = compare(costs, trial.reference, "time of a step", "ms", lambda seconds: seconds * 1e3)
    memory = compare(peaks, trial.reference, "peak memory", "GB", lambda size: size / 1e9)
    return Report("train", settings, times + memory)


def make_step(mode: str, config: TrainConfig) -> Callable[[], float]:
    """A network in a mode; each call trains it by one step and returns the seconds."""
    torch.manual_seed(config.seed)
    if config.threads:
        torch.set_num_threads(config.threads)
    device = find_device(config.device)
    half = "no" if config.precision == "fp32" else config.precision
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision=half)
    method, *options = mode.split("+")
    if method == BRANCHES:
        network = create_model(config.variant, backbone=config.backbone, lora=True)
        add_stochastic_depth(network, network.variant.drop_path)
        network.train()
    else:
        network = training_network(replace(config, mode=method))
    if "checkpointing" in options:
        checkpoint_activations(network)
    wrapped, optimizer = accelerator.prepare(network, make_optimizer(network, config))
    wrapped = compiled(wrapped) if "compile" in options else wrapped
    batch = random_batch(network.variant, config.batch_size).to(device)
    clock = clock_for(device)

    def play() -> float:
        began = clock()
        train_step(accelerator, wrapped, optimizer, batch, config.lr, config)
        return clock() - began

    return play


def random_batch(variant: Variant, size: int) -> Batch:
    """A batch of noise with targets in the middle."""
    box = np.array([0.3, 0.3, 0.6, 0.6])
    mask = cells_on_target(box * variant.template_size, variant.template_size, variant.template_grid)
    positive = cells_on_target(box * variant.search_size, variant.search_size, variant.search_grid)
    images = (torch.randn(size, 3, side, side) for side in (variant.template_size, variant.search_size))
    labels = (mask.astype(np.int64), box.astype(np.float32), positive)
    return Batch(*images, *(torch.from_numpy(label).expand(size, *label.shape).clone() for label in labels))


def step_memory(mode: str, config: TrainConfig) -> int:
    """Bytes that this process takes for two steps in a mode; later steps take no more."""
    play = make_step(mode, config)
    play()
    play()
    return peak_memory(torch.device(config.device))


def benchmark_data(
    trial: SpeedTrial, *, variant: str = "lorat_b_224", frame_size: tuple[int, int] = (1280, 720)
) -> Report:
    """Measure CPU time of batches of 8 pairs on one thread; waiting for a disk does not count.

    Args:
        trial: of data sets, NAME:FOLDER of folders or LMDBs, none: generated clips, as a folder and as LMDB; the
            reference is by default the first data set, and may be "decode", which takes part too, or the name of a data
            set with ", 8-bit" behind for 8-bit arithmetic, ", device" for `pairs_on: device` on this CPU, or ", device
            bank" for the same with generated clips decoded beforehand; a round is a batch of each.
        variant: whose crops are made.
        frame_size: (width, height) of generated frames, pixels.
    Raises InputError for data that cannot be opened or an unknown variant or reference.
    """
    with _data(trial.contestants, frame_size) as named, compute_threads(1):
        opened = {n: open_pairs(TrainConfig(variant=variant, datasets=(entry,))) for n, entry in named.items()}
        first = next(iter(opened.values()))
        makers: dict[str, Callable[[Sequence[int]], object]] = {}
        ways: dict[str, dict[str, Any]] = {"": {}, ", 8-bit": {"eight_bit": True}, ", device": ON_DEVICE}
        if not trial.contestants:  # others may not fit into memory
            ways[", device bank"] = {**ON_DEVICE, "bank_gb": 1}
        for name, dataset in opened.items():
            for way, changes in ways.items():
                makers[f"{name}{way}"] = partial(_batch, open_pairs(replace(dataset.config, **changes)))
        makers["decode"] = lambda indices: [
            first.source.planned(0, i, sample_generator(first.config.seed, 0, 0, first.training, i)) for i in indices
        ]
        costs = interleave({name: _timed(make) for name, make in makers.items()}, trial)
        settings = {"variant": variant, "pairs": trial.rounds * PAIRS}
        settings["datasets"] = list(trial.contestants) or f"generated, {frame_size}"
        rows = compare(
            costs, trial.reference or next(iter(opened)), "training pairs", "pairs/s per core", lambda s: 1 / s
        )
        return Report("data", settings, rows)


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
    with tempfile.TemporaryDirectory() as work:
        folder, packed = Path(work) / "clips", Path(work) / "clips_lmdb"
        write_clips(folder, frame_size)
        build_lmdb("clips", folder, packed)
        former = os.environ.get("LORAT_CACHE")
        os.environ["LORAT_CACHE"] = work  # an index of data that are gone afterwards is of no use to the user
        try:
            yield {"folder": f"clips:{folder}", "LMDB": f"clips:{packed}"}
        finally:
            os.environ.pop("LORAT_CACHE")
            if former is not None:
                os.environ["LORAT_CACHE"] = former
