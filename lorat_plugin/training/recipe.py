"""A training sample and a training step, read top to bottom.

pair of frames -> two crops -> augmentation -> labels -> `Pair` -> `Batch` -> loss -> step -> the loop.
Sample `index` of a run is a pure function of (seed, epoch, index), so a run that was stopped goes on with the very
pairs that come next.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple, Protocol

import cv2
import numpy as np
import torch
from numpy.random import PCG64, Generator
from torch.utils.data import DataLoader, Dataset

from lorat_plugin.crop import Crop, cells_on_target, mean_colour, normalize
from lorat_plugin.data.augment import Jitter, augment, jittered_parameters
from lorat_plugin.data.material import Material
from lorat_plugin.data.synthetic import FramePair, ObjectPairs, PatchPairs
from lorat_plugin.data.video_pairs import ClipPairs, read_clips
from lorat_plugin.devices import find_device
from lorat_plugin.errors import InputError
from lorat_plugin.files import whole_file
from lorat_plugin.network import LoRATNetwork, create_model
from lorat_plugin.saving import save_checkpoint
from lorat_plugin.training.adapters import use_merged_products
from lorat_plugin.training.config import TrainConfig
from lorat_plugin.training.losses import Losses, lorat_loss
from lorat_plugin.training.schedule import learning_rate, parameter_groups
from lorat_plugin.training.state import Journal, load_state, save_state, start_from
from lorat_plugin.training.validation import clip_success, peak_overlaps
from lorat_plugin.variants import Variant, get_variant

EPOCH = 131_072  # samples; only the numbering of samples knows epochs
REDRAWS = 100  # a source refuses some draws (flat patch, target outside); so many in a row mean bad material
UNREADABLE = 4  # files that one sample may pass over

logger = logging.getLogger(__name__)


class PairSource(Protocol):
    """Where pairs of frames come from."""

    def sample(self, rng: Generator) -> FramePair | None:
        """Draw a pair, or None if the draw is of no use."""


@dataclass(frozen=True, eq=False)
class Pair:
    """One training sample of a variant with template size T, search size S and grids gt, G.

    Fields: template (3, T, T) and search (3, S, S) float32, normalised; mask (gt, gt) int64, 1 on the target; box (4,)
    float32 xyxy, fractions of the search crop; positive (G, G) bool, cells on the target.
    """

    template: torch.Tensor
    search: torch.Tensor
    mask: torch.Tensor
    box: torch.Tensor
    positive: torch.Tensor


class Batch(NamedTuple):
    """Pairs stacked: the fields of `Pair` with a batch dimension in front."""

    template: torch.Tensor
    search: torch.Tensor
    mask: torch.Tensor
    box: torch.Tensor
    positive: torch.Tensor


def pair_sources(config: TrainConfig) -> tuple[list[PairSource], np.ndarray]:
    """Sources that have material, and their shares (n,), which add up to 1."""
    cutouts, photos = (Path(f) if f else None for f in (config.cutouts, config.photos))
    material = Material(cutouts, photos, config.exclude, seed=config.seed)
    sources: list[PairSource] = [ObjectPairs(material), PatchPairs(material)]
    weights = [config.object_weight, config.patch_weight]
    if config.clips:
        labels = Path(config.clip_labels) if config.clip_labels else None
        sources.append(ClipPairs(read_clips(Path(config.clips), config.exclude, labels), config.max_gap))
        weights.append(config.clip_weight)
    if sum(weights) <= 0:
        raise InputError("clip_weight is the only share above 0, but no clips are given: name their folder (--clips)")
    return sources, np.array(weights) / sum(weights)


class PairDataset(Dataset[Pair]):
    """Samples by index, made on the fly."""

    def __init__(self, config: TrainConfig, variant: Variant) -> None:
        """Index the material that `config` names."""
        self.config, self.variant, self.training = config, variant, True
        self.sources, self.shares = pair_sources(config)
        self.jitter = Jitter(config.scale_jitter, config.translation_jitter)

    def for_validation(self) -> PairDataset:
        """Samples from the same material that training never meets."""
        other = copy.copy(self)
        other.training = False
        return other

    def __getitem__(self, index: int) -> Pair:
        """Make sample `index` (0-based over the whole run).

        Raises InputError if several files in a row cannot be read, RuntimeError if no draw was of use.
        """
        epoch, position = divmod(index, EPOCH)
        rng = Generator(PCG64((self.config.seed, 0, epoch, int(self.training), position)))
        unreadable = 0
        for _ in range(REDRAWS):
            source = self.sources[int(rng.choice(len(self.sources), p=self.shares))]
            try:
                frames = source.sample(rng)
            except InputError as error:
                logger.warning("sample %d: %s", index, error)
                unreadable += 1
                if unreadable > UNREADABLE:
                    raise
                continue
            pair = make_pair(frames, self.variant, self.jitter, self.config, rng) if frames else None
            if pair:
                return pair
        raise RuntimeError(f"sample {index}: {REDRAWS} draws in a row gave no usable pair; check the image folders")


def make_pair(frames: FramePair, variant: Variant, jitter: Jitter, config: TrainConfig, rng: Generator) -> Pair | None:
    """Crop, augment and label two frames; None if no search crop showed enough of the target."""
    z_frame, z_box, x_frame, x_box = frames
    around = Crop.around(z_box, variant.template_area_factor, variant.template_size, z_frame.shape[:2])
    wanted = jittered_parameters(x_box, variant.search_area_factor, variant.search_size, jitter, rng)
    if wanted is None:
        return None
    beside = Crop.aligned(*wanted, variant.search_size, x_frame.shape[:2])
    z, x = _cut(around, z_frame), _cut(beside, x_frame)
    z_box, x_box = around.to_crop(z_box), beside.to_crop(x_box)
    z, z_box, x, x_box = augment(z, z_box, x, x_box, rng, config.flip_chance, config.third_chance)
    return Pair(
        template=_normalized(z),
        search=_normalized(x),
        mask=torch.from_numpy(cells_on_target(z_box, variant.template_size, variant.template_grid).astype(np.int64)),
        box=torch.from_numpy(x_box / variant.search_size).float(),
        positive=torch.from_numpy(cells_on_target(x_box, variant.search_size, variant.search_grid)),
    )


def _cut(crop: Crop, frame: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(crop.cut(frame, mean_colour(frame))).permute(2, 0, 1) / 255


def _normalized(crop: torch.Tensor) -> torch.Tensor:
    return normalize(crop.permute(1, 2, 0)[None] * 255)[0]


def collate(pairs: list[Pair]) -> Batch:
    """Stack pairs into a batch."""
    return Batch(*(torch.stack([getattr(p, f.name) for p in pairs]) for f in fields(Pair)))


def compute_loss(network: LoRATNetwork, batch: Batch, positive_count: float | None = None) -> Losses:
    """Forward pass and loss of a batch; `positive_count` as in `lorat_loss`."""
    return lorat_loss(network(batch.template, batch.search, batch.mask), batch.box, batch.positive, positive_count)


def train_step(
    network: LoRATNetwork, optimizer: torch.optim.Optimizer, batch: Batch, rate: float, config: TrainConfig
) -> Losses:
    """One update: loss, backward, clip, step. The batch may go through in parts; the update is the same."""
    count = max(float(batch.positive.sum()), 1.0)
    part = config.micro_batch or len(batch.box)
    shares = []
    for start in range(0, len(batch.box), part):
        losses = compute_loss(network, Batch(*(t[start : start + part] for t in batch)), count)
        losses.total.backward()
        shares.append(torch.stack(losses).detach())
    for group in optimizer.param_groups:
        group["lr"] = rate
    torch.nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], config.clip_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    total, cls, box, quality = torch.stack(shares).unbind(1)
    return Losses(total.sum(), cls.sum(), box.sum(), quality.mean())


def make_loader(dataset: PairDataset, config: TrainConfig, indices: range) -> DataLoader[Pair]:
    """Batches of the samples `indices`, in order."""
    return DataLoader(
        dataset,
        batch_size=config.batch_size,
        sampler=indices,
        num_workers=config.workers,
        collate_fn=collate,
        prefetch_factor=4 if config.workers else None,
        worker_init_fn=_one_thread,
    )


def _one_thread(worker: int) -> None:
    # a worker is one of many: its libraries must not start a thread for every core
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def make_optimizer(network: LoRATNetwork, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW over the trainable parameters, matrices with weight decay."""
    groups = parameter_groups(network.named_parameters(), config.weight_decay)
    return torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.999), eps=1e-8)


def train(
    config: TrainConfig,
    out: Path,
    *,
    resume: str = "auto",
    init_from: str | None = None,
    on_step: Callable[[int, str], None] = lambda done, text: None,
) -> Path:
    """Train by `config` and leave everything in the folder `out`.

    Args:
        config: settings.
        out: folder for `config.yaml`, `log.jsonl`, `state.safetensors`, `curve.png` and the merged network
            `<variant>.safetensors`, which is renewed at every checkpoint.
        resume: "auto" goes on from `out`'s state if there is one, "never" starts anew, else the path of a state.
        init_from: state of another run whose trained weights are the start of this one (at step 0).
        on_step: called after every `log_every` steps with the number of steps done and a line of figures.
    Returns the path of the merged network. Raises InputError for unusable settings, material or state.
    """
    device = _set_up(config)
    variant = get_variant(config.variant)
    dataset = PairDataset(config, variant)
    network = create_model(variant, backbone=config.backbone, lora=True).to(device)
    use_merged_products(network)
    optimizer = make_optimizer(network, config)
    done = load_state(network, optimizer, out, resume, config)
    if init_from and done:
        raise InputError(f"{out} holds a run of {done} steps: --init-from starts a new one, so give --resume never")
    if init_from:
        start_from(network, Path(init_from))
    with whole_file(out / "config.yaml") as part:
        config.save(part)
    journal = Journal(out / "log.jsonl", done)
    fixed = list(make_loader(dataset.for_validation(), config, range(config.validation_pairs)))
    clips = read_clips(Path(config.validation_clips)) if config.validation_clips else []
    weights = out / f"{variant.name}.safetensors"
    loader = make_loader(dataset, config, range(done * config.batch_size, config.steps * config.batch_size))
    clock, since = time.perf_counter(), done
    for step, batch in enumerate(loader, start=done):
        rate = learning_rate(
            step, peak=config.lr, warmup=config.warmup_steps, total=config.steps, final=config.final_lr
        )
        journal.add(train_step(network, optimizer, Batch(*(t.to(device) for t in batch)), rate, config))
        done = step + 1
        last = done == config.steps
        if done % config.log_every == 0 or last:
            speed = (done - since) * config.batch_size / (time.perf_counter() - clock)
            on_step(done, journal.write(done, rate, speed))
            clock, since = time.perf_counter(), done
        if done % config.checkpoint_every == 0 or last:
            save_state(network, optimizer, done, config, out)
            save_checkpoint(network, weights, metadata={"steps": str(done), "recipe": config.portable()})
        if done % config.validate_every == 0 or last:
            success = clip_success(network, clips, device) if clips else None
            figures = journal.write_validation(done, peak_overlaps(network, fixed, device), success)
            logger.info("step %d: %s", done, figures)
            journal.plot(out / "curve.png")
    if not weights.exists():  # the run was stopped between its last state and its weights
        save_checkpoint(network, weights, metadata={"steps": str(done), "recipe": config.portable()})
    return weights


def _set_up(config: TrainConfig) -> torch.device:
    torch.manual_seed(config.seed)
    cv2.setNumThreads(1)
    if config.threads:
        torch.set_num_threads(config.threads)
    return find_device(config.device)
