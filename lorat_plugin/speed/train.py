"""Time and memory of a training step: LoRA, peft's own LoRA, full fine-tuning and the baseline, with their options."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from accelerate import Accelerator

from lorat_plugin.crop import cells_on_target
from lorat_plugin.devices import best_precision, find_device
from lorat_plugin.errors import InputError
from lorat_plugin.models import create_model
from lorat_plugin.network import LoRATNetwork
from lorat_plugin.speed.rounds import (
    Report,
    Trial,
    clock_for,
    compare,
    in_process,
    interleave,
    peak_memory,
    synchronize,
)
from lorat_plugin.training.config import TrainConfig
from lorat_plugin.training.launch import checkpoint_activations, compiled
from lorat_plugin.training.methods import MODES, training_network, training_variant
from lorat_plugin.training.recipe import Batch, make_optimizer, train_step
from lorat_plugin.training.stochastic_depth import add_stochastic_depth
from lorat_plugin.variants import Variant

BRANCHES = "peft"  # LoRA by peft's own forward pass, W x + B (A x)
OPTIONS = ("checkpointing", "compile")


def benchmark_train(trial: Trial, variant: str = "lorat_b_224", batch: int = 8) -> Report:
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
    modes = list(trial.contestants) if trial.baseline in trial.contestants else [trial.baseline, *trial.contestants]
    for mode in modes:
        kind, *options = mode.split("+")
        if kind not in (*MODES, BRANCHES) or not set(options) <= set(OPTIONS):
            known = ", ".join((*MODES, BRANCHES))
            raise InputError(f"unknown mode '{mode}': use {known}, with +{' or +'.join(OPTIONS)} if wanted")
    place, precision = find_device(trial.device), trial.precisions[0]
    config = TrainConfig(
        variant=variant, backbone="random", batch_size=batch, device=str(place), threads=trial.threads,
        precision=best_precision(place) if precision == "auto" else precision,  # type: ignore[arg-type]
    )  # fmt: skip
    training_variant(config)
    peaks = {mode: np.array([float(in_process(step_memory, mode, config))]) for mode in modes}
    steps = {mode: make_step(mode, config) for mode in modes}
    costs = interleave(steps, trial.rounds, warmup=2, on_round=trial.on_round)
    shown = {"variant": variant, "batch": batch, "device": config.device, "precision": config.precision}
    times = compare(costs, trial.baseline, "time of a step", "ms", lambda seconds: seconds * 1e3)
    return Report("train", shown, times + compare(peaks, trial.baseline, "peak memory", "GB", lambda size: size / 1e9))


def make_step(mode: str, config: TrainConfig) -> Callable[[], float]:
    """A network in a mode; each call trains it by one step and returns the seconds."""
    torch.manual_seed(config.seed)
    if config.threads:
        torch.set_num_threads(config.threads)
    device = find_device(config.device)
    half = "no" if config.precision == "fp32" else config.precision
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision=half)
    kind, *options = mode.split("+")
    network = _with_branches(config) if kind == BRANCHES else training_network(replace(config, mode=kind))
    if "checkpointing" in options:
        checkpoint_activations(network)
    wrapped, optimizer = accelerator.prepare(network, make_optimizer(network, config))
    wrapped = compiled(wrapped) if "compile" in options else wrapped
    batch = random_batch(network.variant, config.batch_size).to(device)
    clock = clock_for(device)

    def play() -> float:
        began = clock()
        train_step(accelerator, wrapped, optimizer, batch, config.lr, config)
        synchronize(device)
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


def _with_branches(config: TrainConfig) -> LoRATNetwork:
    network = create_model(config.variant, backbone=config.backbone, lora=True)
    add_stochastic_depth(network, network.variant.drop_path)
    return network.train()
