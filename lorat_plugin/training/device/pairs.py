"""Training pairs whose pixels are made on the device that trains: `pairs_on: device`.

A worker process draws what `recipe.make_pair` draws, in the same order, but makes no pixels: it hands on where the two
crops lie, which changes their colours take, and the labels. The device cuts, jitters, blurs and normalises the crops of
a whole batch. Frames lie in a bank on the device (`bank_gb`), or their windows travel with the batch. A CUDA GPU with a
bank draws made frames too; elsewhere workers do, and these travel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.random import Generator

from lorat_plugin.crop import Crop, mean_colour
from lorat_plugin.devices import find_device
from lorat_plugin.synthetic.pairs import FramePair, ObjectPairs, PairSource, PatchPairs
from lorat_plugin.training.augment import Changes
from lorat_plugin.training.config import TrainConfig
from lorat_plugin.training.device.bank import BankedDataset, BankedFiles, BankFrame, FrameBank, Request
from lorat_plugin.training.device.pixels import Tints, Windows, make_crops, pack
from lorat_plugin.training.device.records import BankedMaterial, FrameRecord, RecordedPairs, Recorder
from lorat_plugin.training.device.scenes import Scenes, render
from lorat_plugin.training.pairs import ClipPairs, DatasetPairs, Mix, WithAbsent
from lorat_plugin.training.recipe import Batch, Pair, PairDataset, choose_crops, label
from lorat_plugin.variants import Variant

DRAWING = ("cuda",)  # devices that draw made frames in less time than worker processes
NO_FILL = np.zeros(3, np.float32)
TRAVELS, BANKED, DRAWN = 0, 1, 2  # where a frame's pixels come from


class Banked(Protocol):
    """A reader of a bank."""

    bank: FrameBank | None

    def requests(self) -> Iterator[Request]:
        """The frames that it may ask for."""


class PlannedCrop(NamedTuple):
    """A crop to be cut on the device.

    Fields: crop; start and width, index of the frame's first pixel and its width, pixels; fill, (3,) float32, the
    colour outside the frame; frame, what the device draws first, or (P,) int32, the packed window that travels, or None
    for a frame in the bank.
    """

    crop: Crop
    start: int
    width: int
    fill: np.ndarray
    frame: FrameRecord | np.ndarray | None


@dataclass(frozen=True, eq=False)
class PlannedPair:
    """One pair without pixels: template and search crop, their changes, and the labels (crops left out)."""

    crops: tuple[PlannedCrop, PlannedCrop]
    changes: Changes
    labels: Pair
    unreadable: tuple[str, ...] = ()


class PlannedBatch(NamedTuple):
    """N planned pairs stacked, the templates of all before the search crops.

    Fields: pixels (P,) int32, the windows that travel; scenes, the frames that are to be drawn, if any; windows and
    tints of the 2 N crops, and their origin (2 N,) int64: TRAVELS, BANKED, or from DRAWN on the frame's place among
    the scenes; mask, box and positive as in `Batch`.
    """

    pixels: torch.Tensor
    scenes: Scenes | None
    windows: Windows
    tints: Tints
    origin: torch.Tensor
    mask: torch.Tensor
    box: torch.Tensor
    positive: torch.Tensor

    @classmethod
    def of(cls, pairs: Sequence[PlannedPair]) -> PlannedBatch:
        """Stack pairs."""
        order = [(which, pair) for which in (0, 1) for pair in pairs]
        crops = [pair.crops[which] for which, pair in order]
        records = [crop.frame for crop in crops if isinstance(crop.frame, FrameRecord)]
        scenes = Scenes.of(records) if records else None
        drawn = iter(zip(scenes.places, scenes.starts, strict=True)) if scenes else iter(())
        parts, end = [np.zeros(0, np.int32)], 0
        starts, origin = [], []
        for crop in crops:
            pixels_in, start = BANKED, 0
            if isinstance(crop.frame, FrameRecord):
                pixels_in, start = next(drawn)
                pixels_in += DRAWN
            elif crop.frame is not None:
                pixels_in, start = TRAVELS, end
                parts.append(crop.frame)
                end += len(crop.frame)
            starts.append(crop.start + start)
            origin.append(pixels_in)
        cuts, _, widths, fills, _ = zip(*crops, strict=True)
        flips = [pair.changes.flips[which] for which, pair in order]
        return cls(
            torch.from_numpy(np.concatenate(parts)),
            scenes,
            Windows.of(cuts, starts, widths, fills, flips),
            Tints.of([(pair.changes, which) for which, pair in order]),
            torch.tensor(origin),
            *(torch.stack([getattr(p.labels, name) for p in pairs]) for name in ("mask", "box", "positive")),
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
        pixels = {TRAVELS: plan.pixels.to(there, non_blocking=True)}
        windows = Windows(*(t.to(there, non_blocking=True) for t in plan.windows))
        tints = plan.tints._replace(order=plan.tints.order.to(there), factors=plan.tints.factors.to(there))
        if bank is not None:
            pixels[BANKED] = bank
            if plan.scenes:
                pixels[DRAWN], means = render(plan.scenes, bank)
                drawn = torch.nonzero(plan.origin >= DRAWN)[:, 0]
                fill = windows.fill.index_copy(0, drawn.to(there), means[(plan.origin[drawn] - DRAWN).to(there)])
                windows = windows._replace(fill=fill)
        crops, count = [], len(plan.mask)
        for half, size in ((slice(count), variant.template_size), (slice(count, None), variant.search_size)):
            origin = plan.origin[half].clamp(max=DRAWN)
            sources = [(p, torch.nonzero(origin == code)[:, 0]) for code, p in pixels.items()]
            parts = Windows(*(t[half] for t in windows)), Tints(*(t[half] for t in tints))
            crops.append(make_crops(sources, *parts, size, variant.normalization))
        return Batch(crops[0], crops[1], plan.mask, plan.box, plan.positive).to(device)


class DevicePairs(PairDataset):
    """Samples by index, as `PairDataset` has them, with pixels made on the device."""

    def __init__(
        self,
        config: TrainConfig,
        source: PairSource,
        held_out: PairSource | None = None,
        variant: Variant | None = None,
    ) -> None:
        """Fill the bank if there is to be one. Raises InputError for more frames than `bank_gb` or the device holds."""
        super().__init__(config, source, held_out, variant)
        self.device = find_device(config.device)
        self.bank: FrameBank | None = None
        if config.bank_gb:
            users: list[Banked] = []
            self.source = _banked(self.source, users, self.device.type in DRAWING)
            requests = (request for user in users for request in user.requests())
            self.bank = FrameBank(requests, config.bank_gb, self.device)
            for user in users:
                user.bank = self.bank

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

    def collate(self, pairs: list[PlannedPair]) -> PlannedBatch:  # type: ignore[override]
        """Stack pairs."""
        return PlannedBatch.of(pairs)

    def receive(self, batch: PlannedBatch) -> DeviceBatch:  # type: ignore[override]
        """A batch of a worker process, ready to be made."""
        return DeviceBatch(batch, self.variant, self.bank)


def plan_crop(crop: Crop, frame: np.ndarray | BankFrame | FrameRecord) -> PlannedCrop:
    """How a crop is cut: from the bank, from a frame yet to be drawn, or from what travels, the fewer bytes of
    its window and itself.
    """
    if isinstance(frame, BankFrame):
        return PlannedCrop(crop, frame.start, frame.shape[1], frame.mean, None)
    if isinstance(frame, FrameRecord):
        return PlannedCrop(crop, 0, frame.shape[1], NO_FILL, frame)
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


def _banked(source: Any, users: list[Banked], drawn: bool) -> Any:
    """The source with everything that it decodes read from a bank, made frames being drawn on the device or not.

    `users` gets what needs to know the bank.
    """
    if isinstance(source, Mix):
        source.sources = [
            _banked(part, users, drawn) if share else part
            for part, share in zip(source.sources, source.shares, strict=True)
        ]
    elif isinstance(source, WithAbsent):
        source.source = _banked(source.source, users, drawn)
    elif isinstance(source, DatasetPairs):
        banked = [BankedDataset(dataset, (id(source), i)) for i, dataset in enumerate(source.datasets)]
        users += banked
        source.datasets = [*banked]
    elif isinstance(source, ClipPairs):
        source.read = BankedFiles(source.clips)
        users.append(source.read)
    elif isinstance(source, (ObjectPairs, PatchPairs)) and drawn:
        same = [u for u in users if isinstance(u, BankedMaterial) and u.material is source.material]
        material = same[0] if same else BankedMaterial(source.material)
        users += [] if same else [material]
        return RecordedPairs(source, type(source)(material, Recorder()))  # type: ignore[arg-type]
    return source
