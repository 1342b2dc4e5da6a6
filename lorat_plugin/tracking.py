"""The core: a batch of targets advances by one frame each. Read `step` from top to bottom: frame -> crop -> tokens ->
score map -> peak -> box -> state. One target is a batch of one; many targets may share a frame.

Source: LoRAT's tracker (arXiv 2403.05231, section 3): the template never changes; the penalised score map
(1 - w) * sigmoid(logits) + w * Hann window picks the cell, the raw score of that cell is reported.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike

from lorat_plugin.boxes import area, clip_to_image, xywh_to_xyxy, xyxy_to_xywh
from lorat_plugin.crop import Crop, cells_on_target, crop_parameters, cut_all, mean_colour, normalize
from lorat_plugin.errors import InputError
from lorat_plugin.frames import conversion
from lorat_plugin.network import Prediction
from lorat_plugin.presence import NEVER_ABSENT, Presence, PresenceRule, Status, colours
from lorat_plugin.variants import Variant

LEAST_SIDE = 1e-3  # pixels; the scale of a crop around a smaller box exceeds the range of its pixel coordinates


class Engine(Protocol):
    """Runs a network. `LoRATNetwork` itself is one; see `lorat_plugin.engines`.

    An engine decides what it remembers of a target; `Target.memory` only holds it. An engine whose memory changes
    while it tracks has one more method, `remember(targets, frames, results) -> memories`, see `_remember`.
    """

    variant: Variant

    def encode_template(self, z: torch.Tensor, z_mask: torch.Tensor) -> Any:
        """(1, 3, Ht, Wt) normalised RGB, (1, gt, gt) int64 -> memory of one target; LoRAT's is (1, Nt, dim) tokens."""
        ...

    def predict(self, memories: Sequence[Any], x: torch.Tensor) -> Prediction:
        """Memories of B targets, search regions (B, 3, Hs, Ws) -> Prediction."""
        ...


class TrackResult(NamedTuple):
    """Result for one target in one frame."""

    box: np.ndarray  # (4,) float64: x, y, w, h in frame pixels, 0-based top-left, see `Variant.clip_boxes`
    score: float  # in [0, 1]; confidence of the network at the chosen cell
    absent: bool = False  # scores are too low, see `presence`: the box is the last one that was believed
    uncertain: bool = False  # the score is low, or the target has just returned
    probability: float | None = None  # that the box is on target; None for weights without a calibration

    @property
    def status(self) -> Status:
        """Presence of the target in a word."""
        return "absent" if self.absent else "uncertain" if self.uncertain else "tracking"


@dataclass
class Target:
    """State of one target between frames."""

    box: np.ndarray  # (4,) float64 xyxy, frame pixels; always with area
    fill: np.ndarray  # (3,) float32, mean colour of its first frame
    memory: Any  # of the engine: what `Engine.encode_template` and `remember` return
    presence: Presence


@torch.inference_mode()
def start(engine: Engine, device: torch.device, frame: np.ndarray, box_xywh: ArrayLike | Iterable[float]) -> Target:
    """Begin a target in its first frame.

    Args:
        engine: with its weights on `device`.
        device: where crops are sent.
        frame: (H, W, 3) uint8 RGB.
        box_xywh: (4,) numbers, x, y, w, h in frame pixels, 0-based top-left; may reach over the border.
    Raises InputError for a frame of another type, or a box that is not finite, has no area or misses the frame.
    """
    frame = check_frame(frame)
    box = check_box(box_xywh, frame.shape[:2])
    variant, fill = engine.variant, mean_colour(frame)
    crop = Crop.around(box, variant.template_area_factor, variant.template_size, frame.shape[:2])
    cells = cells_on_target(crop.to_crop(box), variant.template_size, variant.template_grid)
    mask = torch.from_numpy(cells[None].astype(np.int64)).to(device)  # (1, gt, gt)
    z = normalize(cut_all([crop], [frame], [fill], device), variant.normalization)  # (1, 3, Ht, Wt)
    target = Target(box, fill, engine.encode_template(z, mask), Presence(box, colours(frame, box)))
    if hasattr(engine, "remember"):
        _remember(engine, [target], [frame], [TrackResult(xyxy_to_xywh(box), 1.0)])
    return target


@torch.inference_mode()
def step(
    engine: Engine,
    device: torch.device,
    targets: Sequence[Target],
    frames: Sequence[np.ndarray],
    rule: PresenceRule = NEVER_ABSENT,
) -> list[TrackResult]:
    """Advance each target by its frame; the targets' states are updated in place.

    `presence` defines which targets are absent and how they are searched for: the search region of an absent target
    grows, a second one sweeps over the frame, and both are scored without the Hann window.

    Args:
        engine: with its weights on `device`.
        device: where crops are sent.
        targets: at least one, from `start` with the same engine.
        frames: one for each target, (H, W, 3) uint8 RGB; sizes may differ and may change from frame to frame.
        rule: thresholds of the score; by default no target is ever absent.
    Returns one result for each target. Raises InputError for a frame of another type.
    """
    variant = engine.variant
    if hasattr(engine, "remember"):
        _remember(engine, targets, frames, None)
    owners, crops = _search_regions(variant, targets, frames)  # targets' numbers; one or two regions for each target
    searched = [targets[n] for n in owners]
    x = normalize(
        cut_all(crops, [frames[n] for n in owners], [t.fill for t in searched], device), variant.normalization
    )
    prediction = engine.predict([t.memory for t in searched], x)
    window = hann_window(prediction.score_map.shape[-1], device)
    weight: float | torch.Tensor = variant.window_weight
    if any(t.presence.status == "absent" for t in targets):  # a lost target may reappear anywhere
        weight = window.new_tensor(
            [[0.0 if t.presence.status == "absent" else variant.window_weight] for t in searched]
        )
    boxes, scores = peak(prediction, window, weight)  # (B, 4), (B,)
    in_crop = (boxes * variant.search_size).double().cpu().numpy()  # (B, 4) xyxy, crop pixels
    best: dict[int, tuple[float, np.ndarray]] = {}  # of each target's regions, by score: the first unless one is higher
    for number, crop, box, score in zip(owners, crops, in_crop, scores.tolist(), strict=True):
        score = score if np.isfinite(score) else 0.0
        if number not in best or score > best[number][0]:
            best[number] = score, crop.to_frame(box)
    results = []
    for number, (target, frame) in enumerate(zip(targets, frames, strict=True)):
        score, reported = best[number]
        box = clip_to_image(reported, frame.shape[:2])
        if rule.absent_below:
            target.presence = target.presence.observe(rule, frame, target.box, box, score)
        status = target.presence.status
        if status == "absent":
            target.box = reported = target.presence.believed
        elif not np.isfinite(box).all():  # the crop missed a frame that has shrunk, or fp16 overflowed
            reported = target.box
        else:
            target.box = box if (box[2:] > box[:2]).all() else target.box
            reported = box if variant.clip_boxes else reported
        probability = None if rule.calibration is None else rule.probability(score)
        xywh = xyxy_to_xywh(target.presence.limited(reported) if status == "uncertain" else reported)
        results.append(TrackResult(xywh, score, status == "absent", status == "uncertain", probability))
    if hasattr(engine, "remember"):
        _remember(engine, targets, frames, results)
    return results


def _remember(
    engine: Any, targets: Sequence[Target], frames: Sequence[np.ndarray], results: Sequence[TrackResult] | None
) -> None:
    """Let an engine update its memory of targets, before they are searched in their frames (without results) and after
    their states and results are those of `frames`.

    `engine.remember(targets, frames, results)` returns one memory for each target, the same object if nothing changes.
    It is called for a start too, with the start box and the score 1.
    """
    for target, memory in zip(targets, engine.remember(targets, frames, results), strict=True):
        target.memory = memory


def peak(
    prediction: Prediction, window: torch.Tensor, window_weight: float | torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Box and raw score at the best cell of the penalised score map.

    Args:
        prediction: of B search regions.
        window: (G, G) float32.
        window_weight: share of the window in the sum, 0 to 1; a number, or (B, 1) float32.
    Returns boxes (B, 4) xyxy in fractions of the search region, and scores (B,) in [0, 1], both float32.
    """
    scores = prediction.score_map.sigmoid().flatten(1)  # (B, G * G)
    cells = (scores * (1 - window_weight) + window.flatten() * window_weight).argmax(1)  # (B,)
    rows = torch.arange(len(cells), device=cells.device)
    return prediction.boxes.flatten(1, 2)[rows, cells], scores[rows, cells]


@lru_cache
def hann_window(grid: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """(grid, grid) float32: outer product of symmetric Hann windows, 0 on the border."""
    line = torch.hann_window(grid, periodic=False, device=device)
    return torch.outer(line, line)


def check_frame(frame: np.ndarray) -> np.ndarray:
    """The frame itself if it is (H, W, 3) uint8; else InputError says how to convert it."""
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        shape = getattr(frame, "shape", None)
        got = type(frame).__name__ if shape is None else f"{type(frame).__name__} {frame.dtype} {tuple(shape)}"
        raise InputError(f"a frame must be an (H, W, 3) uint8 RGB array; got {got}: {conversion(frame)}")
    if 0 in frame.shape:
        raise InputError(f"a frame must have pixels; got shape {frame.shape}")
    return frame


def check_box(box_xywh: ArrayLike | Iterable[float], frame_size: tuple[int, int]) -> np.ndarray:
    """A start box as (4,) float64 xyxy.

    Args:
        box_xywh: four numbers in an array, a tensor on any device, a sequence or an iterator, which is used up.
        frame_size: (height, width), pixels.
    Raises InputError if it is not finite, has no area, or misses the frame.
    """
    values: Any = box_xywh
    try:
        if isinstance(values, (str, bytes, Mapping, Set)) or len(getattr(values, "shape", (4,))) != 1:
            raise TypeError("no row of numbers")
        box = np.array([float(value) for value in (values.tolist() if hasattr(values, "tolist") else values)])
    except (TypeError, ValueError, OverflowError, RuntimeError):  # the last is torch's
        box = np.empty(0)
    if box.shape != (4,) or not np.isfinite(box).all() or min(box[2:]) < LEAST_SIDE:
        got = np.round(box, 3).tolist() if box.size else f"{values!r:.80}"
        raise InputError(f"a box must be x, y, w, h in pixels: four finite numbers, w and h above 0; got {got}")
    box = xywh_to_xyxy(box)
    if area(clip_to_image(box, frame_size)) <= 0:
        height, width = frame_size
        raise InputError(
            f"box {xyxy_to_xywh(box).tolist()} (x, y, w, h) lies outside the frame of {width}x{height} pixels"
        )
    return box


def _search_regions(
    variant: Variant, targets: Sequence[Target], frames: Sequence[np.ndarray]
) -> tuple[list[int], list[Crop]]:
    """Where targets are looked for: around their boxes, and absent ones also along a sweep over their frames.

    The area factor is the variant's, times the growth of an absent target's; the crop keeps its pixels. Returns the
    targets' numbers and their regions.
    """
    owners, crops = [], []
    for number, (target, frame) in enumerate(zip(targets, frames, strict=True)):
        size = frame.shape[:2]
        centre = (target.box[:2] + target.box[2:]) / 2
        half = np.maximum(target.box[2:] - target.box[:2], variant.min_object_size) / 2
        absent = target.presence.status == "absent"
        factor = variant.search_area_factor * (target.presence.growth if absent else 1.0)
        owners.append(number)
        crops.append(Crop.around(np.concatenate([centre - half, centre + half]), factor, variant.search_size, size))
        if absent:
            side = (
                variant.search_size / crop_parameters(np.concatenate([-half, half]), factor, variant.search_size)[0][0]
            )
            spot = target.presence.sweep(float(side), size)
            if spot is not None:
                owners.append(number)
                crops.append(Crop.around(np.concatenate([spot - half, spot + half]), factor, variant.search_size, size))
    return owners, crops
