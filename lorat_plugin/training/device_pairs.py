"""Training pairs whose pixels are made on the device that trains: `pairs_on: device`.

A worker process draws what `recipe.make_pair` draws, in the same order, but makes no pixels: it hands on where the two
crops lie, which changes their colours take, and the labels. The device cuts, jitters, blurs and normalises the crops of
a whole batch. Frames lie in a bank on the device (`bank_gb`), or their windows travel with the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.random import Generator

from lorat_plugin.crop import Crop, mean_colour
from lorat_plugin.data.augment import Changes
from lorat_plugin.data.device_pixels import Tints, Windows, make_crops, pack
from lorat_plugin.data.frame_bank import BankedDataset, BankFrame, FrameBank, Request, clip_requests
from lorat_plugin.data.pairs import DatasetPairs
from lorat_plugin.data.synthetic import FramePair
from lorat_plugin.data.video_pairs import ClipPairs
from lorat_plugin.devices import find_device
from lorat_plugin.training.absent import WithAbsent
from lorat_plugin.training.config import TrainConfig
from lorat_plugin.training.recipe import Batch, Pair, PairDataset, choose_crops, label
from lorat_plugin.training.sources import MadePairs, Mix, PairSource
from lorat_plugin.variants import Variant

NO_FILL = np.zeros(3, np.float32)


class PlannedCrop(NamedTuple):
    """A crop to be cut on the device.

    Fields: crop; start and width, index of the frame's first pixel and its width, pixels; fill, (3,) float32, the
    colour outside the frame; pixels (P,) int32, the packed window if the frame lies in no bank, else None.
    """

    crop: Crop
    start: int
    width: int
    fill: np.ndarray
    pixels: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class PlannedPair:
    """One pair without pixels: template and search crop, their changes, and the labels (crops left out)."""

    crops: tuple[PlannedCrop, PlannedCrop]
    changes: Changes
    labels: Pair
    unreadable: tuple[str, ...] = ()


class PlannedBatch(NamedTuple):
    """Planned pairs stacked.

    Fields: pixels (P,) int32, the windows that travel; for templates and search crops their windows and tints, and
    banked (N,) bool, whether they lie in the bank; mask, box and positive as in `Batch`.
    """

    pixels: torch.Tensor
    windows: tuple[Windows, Windows]
    tints: tuple[Tints, Tints]
    banked: tuple[torch.Tensor, torch.Tensor]
    mask: torch.Tensor
    box: torch.Tensor
    positive: torch.Tensor

    @classmethod
    def of(cls, pairs: Sequence[PlannedPair]) -> PlannedBatch:
        """Stack pairs."""
        parts, end, windows, banked = [np.zeros(0, np.int32)], 0, [], []
        for which in (0, 1):
            crops = [pair.crops[which] for pair in pairs]
            starts = []
            for crop in crops:
                starts.append(crop.start if crop.pixels is None else crop.start + end)
                if crop.pixels is not None:
                    parts.append(crop.pixels)
                    end += len(crop.pixels)
            cuts, _, widths, fills, _ = zip(*crops, strict=True)
            windows.append(Windows.of(cuts, starts, widths, fills, [pair.changes.flips[which] for pair in pairs]))
            banked.append(torch.tensor([crop.pixels is None for crop in crops]))
        changes = [pair.changes for pair in pairs]
        labels = [torch.stack([getattr(p.labels, name) for p in pairs]) for name in ("mask", "box", "positive")]
        return cls(
            torch.from_numpy(np.concatenate(parts)),
            (windows[0], windows[1]),
            (Tints.of(changes, 0), Tints.of(changes, 1)),
            (banked[0], banked[1]),
            *labels,
        )


@dataclass(frozen=True, eq=False)
class DeviceBatch:
    """A planned batch and the bank that its frames lie in."""

    planned: PlannedBatch
    variant: Variant
    bank: FrameBank | None

    def to(self, device: torch.device) -> Batch:
        """Make the batch, on the device of the bank if there is one, and hand it over on `device`."""
        plan, variant = self.planned, self.variant
        bank = self.bank.pixels if self.bank else None
        there = device if bank is None else bank.device
        sent = plan.pixels.to(there, non_blocking=True)
        crops = []
        for which, size in enumerate((variant.template_size, variant.search_size)):
            banked = plan.banked[which]
            sources = [(sent, torch.nonzero(~banked)[:, 0])]
            if bank is not None:
                sources.append((bank, torch.nonzero(banked)[:, 0]))
            windows = Windows(*(t.to(there, non_blocking=True) for t in plan.windows[which]))
            tints = plan.tints[which]
            tints = tints._replace(order=tints.order.to(there), factors=tints.factors.to(there))
            crops.append(make_crops(sources, windows, tints, size, variant.normalization))
        return Batch(crops[0], crops[1], plan.mask, plan.box, plan.positive).to(device)


class DevicePairs(PairDataset):
    """Samples by index, as `PairDataset` has them, with pixels made on the device."""

    def __init__(self, config: TrainConfig, variant: Variant | None = None) -> None:
        """Open the data, and fill the bank if there is to be one.

        Errors: `training_source`; InputError for frames that take more memory than `bank_gb`, or than the device has.
        """
        super().__init__(config, variant)
        self.device = find_device(config.device)
        self.bank: FrameBank | None = None
        if config.bank_gb:
            banked = list(_banked_sources(self.source))
            requests = (request for source in banked for request in _requests(source))
            self.bank = FrameBank(requests, config.bank_gb, self.device)
            for source in banked:
                _draw_from(source, self.bank)

    def make(self, frames: FramePair, rng: Generator) -> PlannedPair | None:  # type: ignore[override]
        """Draw all of a pair; None if no search crop showed enough of the target."""
        crops = choose_crops(frames, self.variant, self.jitter, rng)
        if crops is None:
            return None
        changes = Changes.draw(rng, self.config.flip_chance, self.config.third_chance)
        boxes = [crops[0].to_crop(frames.template_box), crops[1].to_crop(frames.search_box)]
        z_box, x_box = changes.boxes(boxes, [crop.size[0] for crop in crops])
        planned = plan_crop(crops[0], frames.template_frame), plan_crop(crops[1], frames.search_frame)
        none = torch.empty(0)
        return PlannedPair(planned, changes, label(none, z_box, none, x_box, self.variant, frames.present))

    def make_one(self, index: int) -> Batch:
        """Sample `index` with its pixels, a batch of one on the device of the settings."""
        return self.receive(self.collate([self[index]])).to(self.device)  # type: ignore[list-item]

    def collate(self, pairs: list[PlannedPair]) -> PlannedBatch:  # type: ignore[override]
        """Stack pairs."""
        return PlannedBatch.of(pairs)

    def receive(self, batch: PlannedBatch) -> DeviceBatch:  # type: ignore[override]
        """A batch of a worker process, ready to be made."""
        return DeviceBatch(batch, self.variant, self.bank)


def plan_crop(crop: Crop, frame: np.ndarray | BankFrame) -> PlannedCrop:
    """How to cut a crop out of a frame: from the bank, from its window, or as it is where that takes fewer bytes."""
    if isinstance(frame, BankFrame):
        return PlannedCrop(crop, frame.start, frame.shape[1], frame.mean)
    fill = NO_FILL if crop.inside else mean_colour(frame)
    left, top, right, bottom = crop.source
    width, height = crop.size
    if (right - left) * (bottom - top) > width * height:  # it shrinks: eight-bit rounding costs half a grey level
        frame, crop = crop.cut(frame, fill, rounded=True), _whole(crop)
        left, top, right, bottom = crop.source
    window = pack(frame[top:bottom, left:right]) if right > left and bottom > top else np.zeros(1, np.int32)
    return PlannedCrop(crop, -top * (right - left) - left, right - left, fill, window)


def _whole(crop: Crop) -> Crop:
    width, height = crop.size
    everything = (0, 0, width, height)
    return Crop(crop.size, everything, everything, crop.scale, crop.shift)


def open_pairs(config: TrainConfig) -> PairDataset:
    """The samples of a run, made where its settings say. Errors: `PairDataset`, `DevicePairs`."""
    return DevicePairs(config) if config.pairs_on == "device" else PairDataset(config)


def _banked_sources(source: PairSource | MadePairs) -> Iterator[DatasetPairs | ClipPairs]:
    """The sources within a source whose frames come from files."""
    if isinstance(source, Mix):
        for part in source.sources:
            yield from _banked_sources(part)
    elif isinstance(source, WithAbsent):
        yield from _banked_sources(source.source)
    elif isinstance(source, DatasetPairs | ClipPairs):
        yield source


def _requests(source: DatasetPairs | ClipPairs) -> Iterator[Request]:
    """The frames that a source draws; its data sets are replaced by such as draw from a bank."""
    if isinstance(source, ClipPairs):
        yield from clip_requests(source.clips)
        return
    banked = [BankedDataset(dataset, (id(source), i)) for i, dataset in enumerate(source.datasets)]
    source.datasets = [*banked]
    for dataset in banked:
        yield from dataset.requests()


def _draw_from(source: DatasetPairs | ClipPairs, bank: FrameBank) -> None:
    if isinstance(source, ClipPairs):
        source.read = bank
        return
    for dataset in source.datasets:
        dataset.bank = bank  # type: ignore[attr-defined]
