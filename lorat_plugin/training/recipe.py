"""A training sample and a training step, read top to bottom.

pair of frames -> two crops -> augmentation -> labels -> `Pair` -> `Batch` -> loss -> step; the loop is in `launch`.
Sample `index` of a run is a pure function of (seed, epoch, index), so a run that was stopped goes on with the very
pairs that come next.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from numpy.random import Generator
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import Dataset

from lorat_plugin.boxes import giou, iou
from lorat_plugin.crop import Crop, cells_on_target, mean_colour
from lorat_plugin.errors import InputError
from lorat_plugin.network import LoRATNetwork, Prediction
from lorat_plugin.synthetic.pairs import FramePair, PairSource
from lorat_plugin.training.augment import Changes, Jitter, augment, jittered_parameters, sample_generator
from lorat_plugin.training.config import TrainConfig, training_variant
from lorat_plugin.variants import Variant

REDRAWS = 100  # draws may be of no use (flat patch, target outside the crop); so many in a row mean bad material


@dataclass(frozen=True, eq=False)
class Pair:
    """One training sample of a variant with template size T, search size S and grids gt, G.

    Fields: template (3, T, T), search (3, S, S) and, of a variant with one, reference, float32, normalised; mask
    (gt, gt) int64, 1 on the target; box (4,) float32 xyxy, fractions of the search crop; positive (G, G) bool, cells on
    the target, none where the crop does not show it; unreadable, sentences that name files which were passed over
    because they cannot be decoded.
    """

    template: torch.Tensor
    search: torch.Tensor
    mask: torch.Tensor
    box: torch.Tensor
    positive: torch.Tensor
    unreadable: tuple[str, ...] = ()
    reference: torch.Tensor | None = None


class Batch(NamedTuple):
    """Pairs stacked: the tensors of `Pair` with a batch dimension in front."""

    template: torch.Tensor
    search: torch.Tensor
    mask: torch.Tensor
    box: torch.Tensor
    positive: torch.Tensor
    reference: torch.Tensor | None = None

    def part(self, start: int, stop: int) -> Batch:
        """Pairs `start` to `stop`, exclusive."""
        return Batch(*(None if tensor is None else tensor[start:stop] for tensor in self))  # type: ignore[arg-type]

    def tensors(self) -> dict[str, torch.Tensor]:
        """Its tensors by name; a batch of two images has no reference."""
        return {name: tensor for name, tensor in self._asdict().items() if tensor is not None}

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""
        return Batch(*(None if t is None else t.to(device, non_blocking=True) for t in self))  # type: ignore[arg-type]


class PairDataset(Dataset[Pair]):
    """Samples by index, made on the fly."""

    def __init__(
        self,
        config: TrainConfig,
        source: PairSource,
        held_out: PairSource | None = None,
        variant: Variant | None = None,
    ) -> None:
        """Make the pairs of `source`, and of `held_out` for validation; for the variant of `config` or another one."""
        self.config, self.variant, self.training = config, variant or training_variant(config), True
        self.source, self.held_out = source, held_out
        self.jitter = Jitter(config.scale_jitter, config.translation_jitter)

    def for_validation(self) -> PairDataset:
        """Samples that training never meets: of held-out splits if the settings name any, else of the same data."""
        other = copy.copy(self)
        other.source, other.training = self.held_out or self.source, False
        return other

    def __getitem__(self, index: int) -> Pair:
        """Make sample `index` (0-based over the whole run), the same whichever process does it.

        A pair of no use, or with a file that cannot be decoded, gives way to another, drawn by the same generator.
        Raises InputError if no draw is of use.
        """
        epoch, position = divmod(index, self.config.epoch_size)
        rng = sample_generator(self.config.seed, 0, epoch, self.training, position)
        unreadable: list[str] = []
        for attempt in range(REDRAWS):
            try:
                frames = self.source.sample(rng) if attempt else self.source.planned(epoch, position, rng)
            except InputError as error:
                unreadable.append(str(error))
                continue
            pair = self.make(frames, rng) if frames else None
            if pair:
                return replace(pair, unreadable=tuple(unreadable)) if unreadable else pair
        reason = unreadable[-1] if unreadable else "check the data (lorat data check)"
        raise InputError(f"sample {index}: {REDRAWS} draws in a row gave no usable pair: {reason}")

    def make(self, frames: FramePair, rng: Generator) -> Pair | None:
        """The pair of two frames; None if no search crop showed enough of the target."""
        return make_pair(frames, self.variant, self.jitter, self.config, rng)

    def collate(self, pairs: list[Pair]) -> Batch:
        """Stack pairs, in the process that made them."""
        return collate(pairs)

    def receive(self, batch: Batch) -> Batch:
        """Finish a stacked batch in the training process."""
        return batch


def make_pair(frames: FramePair, variant: Variant, jitter: Jitter, config: TrainConfig, rng: Generator) -> Pair | None:
    """Crop, augment and label two frames; None if no search crop showed enough of the target."""
    crops = choose_crops(frames, variant, jitter, rng)
    if crops is None:
        return None
    images = images_of(frames, variant)
    cuts = [_cut(crop, frame, config.eight_bit) for crop, (frame, _) in zip(crops, images, strict=True)]
    changes = Changes.draw(rng, config.flip_chance, config.third_chance, len(crops))
    in_crops = [crop.to_crop(box) for crop, (_, box) in zip(crops, images, strict=True)]
    boxes = changes.boxes(in_crops, [crop.size[0] for crop in crops])
    z, *reference, x = augment(cuts, changes, variant.normalization)
    pair = label(z, boxes[0], x, boxes[-1], variant, frames.present)
    return replace(pair, reference=reference[0]) if reference else pair


def images_of(frames: FramePair, variant: Variant) -> list[tuple[np.ndarray, np.ndarray]]:
    """Frames and boxes of template and search region, or of template, reference and search region.

    With a reference, the template is of the third frame, or of the reference's where there is none.
    """
    z, x = (frames.template_frame, frames.template_box), (frames.search_frame, frames.search_box)
    return [frames.third or z, z, x] if variant.reference_size else [z, x]


def choose_crops(frames: FramePair, variant: Variant, jitter: Jitter, rng: Generator) -> tuple[Crop, ...] | None:
    """Where template and jittered search region lie in their frames, with the reference, jittered too, between them.

    None if no draw showed enough of the target.
    """
    (z_frame, z_box), *others = images_of(frames, variant)
    crops = [Crop.around(z_box, variant.template_area_factor, variant.template_size, z_frame.shape[:2])]
    wanted = [(variant.reference_area_factor, variant.reference_size)] if variant.reference_size else []
    wanted.append((variant.search_area_factor, variant.search_size))
    for (frame, box), (factor, size) in zip(others, wanted, strict=True):
        parameters = jittered_parameters(box, factor, size, jitter, rng)
        if parameters is None:
            return None
        crops.append(Crop.aligned(*parameters, size, frame.shape[:2]))
    return tuple(crops)


def label(
    z: torch.Tensor, z_box: np.ndarray, x: torch.Tensor, x_box: np.ndarray, variant: Variant, present: bool = True
) -> Pair:
    """A pair of normalised crops (3, S, S) and boxes (4,) xyxy in crop pixels; no positive cells unless `present`."""
    positive = cells_on_target(x_box, variant.search_size, variant.search_grid)
    return Pair(
        template=z,
        search=x,
        mask=torch.from_numpy(cells_on_target(z_box, variant.template_size, variant.template_grid).astype(np.int64)),
        box=torch.from_numpy(x_box / variant.search_size).float(),
        positive=torch.from_numpy(positive & present),
    )


def _cut(crop: Crop, frame: np.ndarray, eight_bit: bool) -> torch.Tensor | np.ndarray:
    fill = np.zeros(3, np.float32) if crop.inside else mean_colour(frame)  # the mean of a large frame takes long
    if eight_bit:
        return crop.cut(frame, fill, rounded=True)
    return torch.from_numpy(crop.cut(frame, fill)).permute(2, 0, 1).contiguous().div_(255)


def collate(pairs: list[Pair]) -> Batch:
    """Stack pairs into a batch."""
    names = [name for name in Batch._fields if getattr(pairs[0], name) is not None]
    return Batch(**{name: torch.stack([getattr(p, name) for p in pairs]) for name in names})


class Losses(NamedTuple):
    """Scalars, differentiable: total = cls + box. `iou` is the mean IoU of the positive cells' boxes, detached."""

    total: torch.Tensor
    cls: torch.Tensor
    box: torch.Tensor
    iou: torch.Tensor


def lorat_loss(
    prediction: Prediction, boxes: torch.Tensor, positive: torch.Tensor, positive_count: float | None = None
) -> Losses:
    """Loss of a batch.

    Args:
        prediction: score_map (B, G, G) logits and boxes (B, G, G, 4) xyxy, fractions of the search crop.
        boxes: (B, 4) float32, true boxes, xyxy, fractions of the search crop.
        positive: (B, G, G) bool, cells on the target.
        positive_count: what the sums are divided by (at least 1); the batch's own number of positive cells if left
            out. A part of a batch is given the count of the whole.
    Source: LoRAT (arXiv 2403.05231): sum of BCE(score, IoU) over all cells / P + sum of (1 - GIoU) over positives / P.
    """
    count = max(float(positive.sum()) if positive_count is None else positive_count, 1.0)
    score_map, all_boxes = prediction.score_map.float(), prediction.boxes.float()  # FSDP may hand on half precision
    predicted = all_boxes[positive]
    true = boxes[:, None, None].expand_as(all_boxes)[positive]
    quality = iou(predicted.detach(), true)
    target = torch.zeros_like(score_map)
    target[positive] = quality
    cls = binary_cross_entropy_with_logits(score_map, target, reduction="sum") / count
    box = (1 - giou(predicted, true)).sum() / count
    mean_iou = quality.sum() / count
    return Losses(cls + box, cls, box, mean_iou)


def compute_loss(network: nn.Module, batch: Batch, positive_count: float | None = None) -> Losses:
    """Forward pass and loss of a batch; `positive_count` as in `lorat_loss`."""
    reference = [] if batch.reference is None else [batch.reference]
    prediction = network(batch.template, batch.search, batch.mask, *reference)
    return lorat_loss(prediction, batch.box, batch.positive, positive_count)


class NotFinite(RuntimeError):
    """A loss or gradient that is not finite; the weights are still those before the step."""

    def __init__(self, message: str, count: float) -> None:
        """`count` is what the step's losses were divided by."""
        super().__init__(message)
        self.count = count


def train_step(
    accelerator: Accelerator,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    rate: float,
    config: TrainConfig,
) -> Losses:
    """One update: loss, backward, clip, step.

    The batch may go through in parts and be shared by several processes, each with its own share in `batch`: the
    losses are divided by the positive cells of all (their mean over processes, at least 1), so the
    update is the same. Returns the losses of the whole batch. Raises NotFinite before the weights change.
    """
    count = max(float(accelerator.reduce(batch.positive.sum().float(), "mean")), 1.0)
    size = len(batch.box)
    part = config.micro_batch or size
    shares = []
    for start in range(0, size, part):
        with nullcontext() if start + part >= size else accelerator.no_sync(network):
            with accelerator.autocast():
                losses = compute_loss(network, batch.part(start, start + part), count)
            accelerator.backward(losses.total)
        shares.append(torch.stack(losses).detach())
    for group in optimizer.param_groups:
        group["lr"] = rate
    norm = accelerator.clip_grad_norm_(network.parameters(), config.clip_norm)
    whole = accelerator.reduce(torch.stack(shares).sum(0), "mean")
    if not math.isfinite(float(whole[0])):
        raise NotFinite(f"the loss is {float(whole[0])}", count)
    if accelerator.scaler is None and not math.isfinite(float(norm)):  # a scaler skips such steps by itself
        raise NotFinite(f"the gradient's norm is {float(norm)}", count)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return Losses(*whole.unbind())


def step_seed(seed: int, step: int, rank: int) -> int:
    """Seed of torch's generator for one step of one process, so that a resumed run draws what it would have drawn."""
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0] >> 1)


def learning_rate(
    update: int, *, peak: float, warmup: int, total: int, start: float = 1e-7, final: float = 1e-6
) -> float:
    """Learning rate of the 0-based `update`: linear warm-up from `start` to `peak`, then half a cosine to `final`.

    As in LoRAT's official training the rate lags one update behind (updates 0 and 1 share a rate), and the warm-up is
    put before a cosine of the full length `total`, which therefore stops a little before its end.
    """
    t = max(update - 1, 0)
    if t < warmup:
        return start + t * (peak - start) / warmup
    return final + 0.5 * (peak - final) * (1 + math.cos(math.pi * (t - warmup) / total))


def parameter_groups(
    named: Iterable[tuple[str, nn.Parameter]], weight_decay: float
) -> list[dict[str, list[nn.Parameter] | list[str] | float]]:
    """Group the trainable parameters for AdamW: matrices decay, vectors and embeddings do not.

    Args:
        named: (name, parameter) in the network's order; frozen parameters are left out.
        weight_decay: of the first group.
    Returns up to three groups in order: matrices; parameters with at most one dimension longer than 1; names holding
    "embed" that are no single token type. Each has `params`, `names` and `weight_decay`. Source: LoRAT's settings.
    """
    matrices: list[tuple[str, nn.Parameter]] = []
    vectors: list[tuple[str, nn.Parameter]] = []
    embeddings: list[tuple[str, nn.Parameter]] = []
    for name, parameter in named:
        if not parameter.requires_grad:
            continue
        long_dimensions = sum(n > 1 for n in parameter.shape)
        single = parameter.ndim == 2 and len(parameter) == 1  # one token type
        group = embeddings if "embed" in name and not single else matrices if long_dimensions > 1 else vectors
        group.append((name, parameter))
    return [
        {"params": [p for _, p in group], "names": [n for n, _ in group], "weight_decay": decay}
        for group, decay in ((matrices, weight_decay), (vectors, 0.0), (embeddings, 0.0))
        if group
    ]


def make_optimizer(network: LoRATNetwork, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW over the trainable parameters, matrices with weight decay."""
    groups = parameter_groups(network.named_parameters(), config.weight_decay)
    return torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.999), eps=1e-8)
