"""The training loop, on accelerate: the same on one CPU core and on many machines.

Started by itself, by torchrun or by `accelerate launch`; these choose processes, DDP or FSDP. The batch of a step is
the same however many processes share it, and so is the update, up to rounding.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path

import cv2
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, InitProcessGroupKwargs, ProjectConfiguration
from safetensors.torch import save_file

from lorat_plugin.checkpoints.adapters import merge
from lorat_plugin.checkpoints.saving import save_checkpoint
from lorat_plugin.devices import best_precision, find_device
from lorat_plugin.errors import InputError
from lorat_plugin.files import whole_file
from lorat_plugin.network import LoRATNetwork
from lorat_plugin.training import state
from lorat_plugin.training.config import TrainConfig
from lorat_plugin.training.journal import Journal, Validation, check_loggers
from lorat_plugin.training.layers import checkpoint_activations, compiled
from lorat_plugin.training.methods import check_method, save_trained, starts_from_weights, training_network
from lorat_plugin.training.pairs import read_clips
from lorat_plugin.training.recipe import Batch, NotFinite, learning_rate, make_optimizer, step_seed, train_step
from lorat_plugin.training.sources import data_record, make_loader, open_pairs, validation_batches

logger = logging.getLogger(__name__)

PATIENCE = timedelta(hours=3)  # the others wait while the first process validates


def train(
    config: TrainConfig,
    out: Path,
    *,
    resume: str = "auto",
    on_step: Callable[[int, str], None] = lambda done, text: None,
) -> Path:
    """Train by `config` and leave everything in the folder `out`.

    Args:
        config: settings.
        out: folder for `config.yaml`, `data.json`, `log.jsonl`, `curve.png`, `tensorboard/`, `checkpoints/` (see
            `training.state`), `best/` (the weights that validated best) and, at the end, the merged network
            `<variant>.safetensors`. Many machines need it on a disk that they share.
        resume: "auto" goes on from `out`'s newest checkpoint if there is one, "never" starts anew, else the path of a
            state, checkpoint or run.
        on_step: called on the first process after every `log_every` steps with the number of steps done and a line
            of figures.
    Returns the path of the merged network. Raises InputError for unusable settings, material or state, and for a
    loss that is not finite (after writing what reproduces it).
    """
    check_method(config)
    with _accelerator(config, out) as accelerator:
        run = _Run(config, out, accelerator, resume)
        first = accelerator.is_main_process
        weights = out / f"{run.variant.name}.safetensors"
        loader = make_loader(run.dataset, config, run.done, accelerator.process_index, accelerator.num_processes)
        clock, since = time.perf_counter(), run.done
        for batch in loader:
            run.step(batch.to(accelerator.device))
            done, last = run.done, run.done == config.steps
            if first and (done % config.log_every == 0 or last):
                speed = (done - since) * config.batch_size / (time.perf_counter() - clock)
                on_step(done, run.journal.write(done, run.rate, speed))
                clock, since = time.perf_counter(), done
            paused = time.perf_counter()
            if done % config.validate_every == 0 or last:
                run.validate()
            if done % config.checkpoint_every == 0 or last:
                run.save()
            clock += time.perf_counter() - paused
        if message := loader.unreadable.summary():
            logger.warning("process %d: %s", accelerator.process_index, message)
        with run.average.applied():
            network = run.plain_network()
            if first and network is not None:
                save_checkpoint(merge(network), weights, metadata=run.metadata())
        accelerator.wait_for_everyone()
        accelerator.end_training()
        return weights


class _Run:
    """One run on one process."""

    def __init__(self, config: TrainConfig, out: Path, accelerator: Accelerator, resume: str) -> None:
        self.config, self.out, self.accelerator = config, out, accelerator
        newest = state.find_state(out, resume)
        with accelerator.local_main_process_first():  # it makes the index that the others open
            self.dataset = open_pairs(config)
        if accelerator.is_main_process:  # before anything is written: its data may be missing
            clips = read_clips(Path(config.validation_clips)) if config.validation_clips else []
            self.validation = Validation(validation_batches(config, self.dataset), clips)
        torch.manual_seed(config.seed)  # the same start values on every process
        network = training_network(config)
        self.variant = network.variant
        if config.checkpointing:
            checkpoint_activations(network)
        trained = list(state.trained_parameters(network).values())
        if accelerator.is_main_process:
            size = sum(p.numel() for p in (network.parameters() if config.mode != "lora" else trained)) * 4
            state.check_room(out, sum(p.numel() for p in trained), config, size)
        optimizer = make_optimizer(network, config)
        plugin = getattr(accelerator.state, "fsdp_plugin", None)
        if plugin and plugin.fsdp_version == 2:
            from torch.distributed.fsdp import MixedPrecisionPolicy

            # autocast works as without FSDP; accelerate's own policy would round the boxes to half precision
            plugin.mixed_precision_policy = MixedPrecisionPolicy()
        self.network, self.optimizer = accelerator.prepare(network, optimizer)
        if accelerator.distributed_type == DistributedType.FSDP and config.batch_size % accelerator.num_processes:
            raise InputError(
                f"batch_size {config.batch_size} must be a multiple of the {accelerator.num_processes} processes"
            )
        if accelerator.distributed_type == DistributedType.FSDP and config.ema_decay:
            raise InputError("FSDP shards the weights, which ema_decay averages: set ema_decay to 0, or leave FSDP out")
        self.compiled = compiled(self.network) if config.compile else self.network
        tensors: dict[str, torch.Tensor] = {}
        self.progress: dict[str, float] = {"steps_done": 0, "from_weights": starts_from_weights(config)}
        if config.init_from and not newest and not starts_from_weights(config):
            start = state.find_state(out, config.init_from)
            assert start  # a path: found, or an error
            tensors, progress, former = state.read_state(start)
            if progress.get("from_weights", former["init_from"]):
                raise InputError(f"{start} is of a run that started from weights; start from its merged weights")
            state.spread_state(self.network, None, tensors, start)
        if newest:
            tensors, self.progress, former = state.read_state(newest)
            state.spread_state(self.network, self.optimizer.optimizer, tensors, newest)
            if accelerator.scaler and "loss_scale" in self.progress:
                accelerator.scaler.update(self.progress["loss_scale"])
            state.check_data(newest, data_record(config, self.dataset.source))
            changes = state.changed_settings(former, config)
            message = "; changed: " + ", ".join(changes) if changes else ""
            logger.info("%s: going on after %d steps%s", newest, self.done, message)
        self.average = state.WeightAverage(
            accelerator.unwrap_model(self.network), config.ema_decay, tensors if newest else {}
        )
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            with whole_file(out / "config.yaml") as part:
                config.save(part)
            with whole_file(out / state.DATA_NAME) as part:
                part.write_text(json.dumps(data_record(config, self.dataset.source), indent=2) + "\n", encoding="utf-8")
            self.journal = Journal(out, self.done, config, accelerator)

    @property
    def done(self) -> int:
        """Steps done."""
        return int(self.progress["steps_done"])

    def step(self, batch: Batch) -> None:
        """Do the next update."""
        step, config = self.done, self.config
        self.rate = learning_rate(
            step, peak=config.lr, warmup=config.warmup_steps, total=config.steps, final=config.final_lr
        )
        torch.manual_seed(step_seed(config.seed, step, self.accelerator.process_index))
        try:
            losses = train_step(self.accelerator, self.compiled, self.optimizer, batch, self.rate, config)
        except NotFinite as error:
            folder = self._dump(error, batch)
            raise InputError(f"step {step}: {error}; {folder} reproduces it: lorat train --replay {folder}") from error
        self.average.update(step)
        self.progress["steps_done"] = step + 1
        if self.accelerator.is_main_process:
            self.journal.add(losses)

    def _dump(self, error: NotFinite, batch: Batch) -> Path:
        """Write the weights before a step and every process's share of its batch; every process must call it."""
        folder = self.out / f"not_finite_step_{self.done:07d}"
        tensors = state.gather_state(self.network, self.optimizer.optimizer)
        if self.accelerator.is_main_process:
            with whole_file(folder / "config.yaml") as part:
                self.config.save(part)
            state.save_tensors(folder / state.STATE_NAME, tensors, {"steps_done": self.done}, self.config)
        self.accelerator.wait_for_everyone()
        values = {name: value.cpu().contiguous() for name, value in batch.tensors().items()}
        precision = str(self.accelerator.mixed_precision)
        metadata = {"step": str(self.done), "count": repr(error.count), "precision": precision}
        with whole_file(folder / f"batch_{self.accelerator.process_index:04d}.safetensors") as part:
            save_file(values, part, metadata=metadata)
        self.accelerator.wait_for_everyone()
        return folder

    def validate(self) -> None:
        """Measure the network, and keep the best weights."""
        with self.average.applied():
            network = self.plain_network()
            if self.accelerator.is_main_process and network is not None:
                figures = self.validation.measure(network, self.accelerator.device)
                logger.info("step %d: %s", self.done, self.journal.write_validation(self.done, figures))
                if figures.score > self.progress.get("best", float("-inf")):
                    self.progress |= {"best": figures.score, "best_step": self.done}
                    self.save_weights(network, self.out / "best")
        self.accelerator.wait_for_everyone()

    def save(self) -> None:
        """Write a checkpoint."""
        if self.accelerator.scaler:
            self.progress["loss_scale"] = self.accelerator.scaler.get_scale()
        tensors = state.gather_state(self.network, self.optimizer.optimizer) | self.average.tensors()
        with self.average.applied():
            network = self.plain_network()
            if self.accelerator.is_main_process and network is not None:
                save = partial(self.save_weights, network)
                state.save_state(self.out, tensors, self.progress, self.config, lambda folder: save(folder / "weights"))
        self.accelerator.wait_for_everyone()

    def plain_network(self) -> LoRATNetwork | None:
        """The network without wrappers; under FSDP a whole copy on the first process, None on the others."""
        network = self.accelerator.unwrap_model(self.network)
        if self.accelerator.distributed_type != DistributedType.FSDP:
            return network
        tensors = state.gather_state(self.network, self.optimizer.optimizer)
        if not self.accelerator.is_main_process:
            return None
        torch.manual_seed(self.config.seed)
        whole = training_network(self.config)
        state.spread_state(whole, None, tensors, self.out)
        return whole.to(self.accelerator.device)

    def save_weights(self, network: LoRATNetwork, path: Path) -> None:
        """Write weights for users."""
        save_trained(network, path, self.metadata(), whole=starts_from_weights(self.config))

    def metadata(self) -> dict[str, str]:
        """Strings for the header of weights."""
        return {"steps": str(self.done), "recipe": self.config.portable()}


@contextmanager
def _accelerator(config: TrainConfig, out: Path) -> Iterator[Accelerator]:
    """Accelerate set up by the settings, and forgotten afterwards so that another run in this process may differ."""
    check_loggers(config.loggers)
    if torch.cuda.is_available() and "LOCAL_RANK" in os.environ:  # set by torchrun and accelerate launch
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    device = find_device(config.device)
    precision = best_precision(device) if config.precision == "auto" else config.precision
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # accelerate takes the current one
    cv2.setNumThreads(1)
    if config.threads:
        torch.set_num_threads(config.threads)
    accelerator = Accelerator(
        cpu=device.type == "cpu",
        mixed_precision="no" if precision == "fp32" else precision,
        log_with=list(config.loggers) or None,
        project_config=ProjectConfiguration(project_dir=str(out), logging_dir=str(out)),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
    )
    try:
        yield accelerator
    finally:
        AcceleratorState._reset_state()
