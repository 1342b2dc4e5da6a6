"""The core: how a batch of targets advances by one frame each. Read `step` from top to bottom: frame -> crop ->
tokens -> score map -> peak -> box -> state. One target is a batch of one; the same frame may serve many targets.

Source: LoRAT's tracker (arXiv 2403.05231, section 3): the template never changes; the penalised score map
(1 - w) * sigmoid(logits) + w * Hann window picks the cell, the raw score of that cell is reported.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike

from lorat_plugin.boxes import area, clip_to_image, xywh_to_xyxy, xyxy_to_xywh
from lorat_plugin.crop import Crop, cells_on_target, cut_all, mean_colour, normalize
from lorat_plugin.errors import InputError
from lorat_plugin.frames import conversion
from lorat_plugin.network import Prediction
from lorat_plugin.variants import Variant

PATIENCE = 2  # frames in a row with a low score before a target counts as absent
LEAST_SIDE = 1e-3  # pixels; a crop around a smaller box has a scale past what its pixels can be numbered with
GROWTH, LARGEST = 1.05, 2.0  # of an absent target's search region: area factor for each frame, and in all


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
    """What is reported for one target in one frame."""

    box: np.ndarray  # (4,) float64: x, y, w, h in frame pixels, 0-based top-left, clipped to the frame
    score: float  # in [0, 1]; how sure the network is at the chosen cell
    absent: bool = False  # scores are too low, see `step`: the box is the last one that was believed


@dataclass
class Target:
    """State of one target between frames."""

    box: np.ndarray  # (4,) float64 xyxy, frame pixels; always with area
    fill: np.ndarray  # (3,) float32, mean colour of its first frame
    memory: Any  # of the engine: what `Engine.encode_template` and `remember` return
    low: int = 0  # frames in a row whose score was below the threshold, see `step`
    believed: np.ndarray = field(init=False)  # (4,) float64 xyxy, the box before them

    def __post_init__(self) -> None:
        """Believe the given box."""
        self.believed = self.box


@torch.inference_mode()
def start(engine: Engine, device: torch.device, frame: np.ndarray, box_xywh: ArrayLike | Iterable[float]) -> Target:
    """Begin a target in its first frame.

    Args:
        engine: with its weights on `device`.
        device: where crops are sent.
        frame: (H, W, 3) uint8 RGB.
        box_xywh: (4,) numbers, x, y, w, h in frame pixels, 0-based top-left; may reach over the border.
    Raises InputError for a frame of another kind, or a box that is not finite, has no area or misses the frame.
    """
    frame = check_frame(frame)
    box = check_box(box_xywh, frame.shape[:2])
    variant, fill = engine.variant, mean_colour(frame)
    crop = Crop.around(box, variant.template_area_factor, variant.template_size, frame.shape[:2])
    cells = cells_on_target(crop.to_crop(box), variant.template_size, variant.template_grid)
    mask = torch.from_numpy(cells[None].astype(np.int64)).to(device)
    z = normalize(cut_all([crop], [frame], [fill], device), variant.normalization)
    target = Target(box, fill, engine.encode_template(z, mask))
    if hasattr(engine, "remember"):
        _remember(engine, [target], [frame], [TrackResult(xyxy_to_xywh(box), 1.0)])
    return target


@torch.inference_mode()
def step(
    engine: Engine,
    device: torch.device,
    targets: Sequence[Target],
    frames: Sequence[np.ndarray],
    absent_below: float = 0.0,
) -> list[TrackResult]:
    """Advance each target by its frame; the targets' states are updated in place.

    A target is absent after more than `PATIENCE` frames in a row with a score below `absent_below`. Its box goes back
    to where it was before them and is held, and its search region grows (`_search_region`), where the window has no
    say, until a score reaches the threshold again.

    Args:
        engine: with its weights on `device`.
        device: where crops are sent.
        targets: at least one, from `start` with the same engine.
        frames: one for each target, (H, W, 3) uint8 RGB; sizes may differ and may change from frame to frame.
        absent_below: score in [0, 1); 0 means that no target is ever absent.
    Returns one result for each target. Raises InputError for a frame of another kind.
    """
    variant = engine.variant
    crops = [_search_region(variant, t, f.shape[:2]) for t, f in zip(targets, frames, strict=True)]
    x = normalize(cut_all(crops, frames, [t.fill for t in targets], device), variant.normalization)
    prediction = engine.predict([t.memory for t in targets], x)
    window = hann_window(prediction.score_map.shape[-1], device)
    weight: float | torch.Tensor = variant.window_weight
    if any(t.low > PATIENCE for t in targets):  # who comes back may do so anywhere
        weight = window.new_tensor([[0.0 if t.low > PATIENCE else variant.window_weight] for t in targets])
    boxes, scores = peak(prediction, window, weight)
    in_crop = (boxes * variant.search_size).double().cpu().numpy()
    results = []
    for target, frame, crop, box, score in zip(targets, frames, crops, in_crop, scores.tolist(), strict=True):
        box = clip_to_image(crop.to_frame(box), frame.shape[:2])
        score = score if np.isfinite(score) else 0.0
        if target.low == 0:
            target.believed = target.box
        target.low = target.low + 1 if score < absent_below else 0
        absent = target.low > PATIENCE
        if absent:
            target.box = box = target.believed
        elif not np.isfinite(box).all():  # the crop missed a frame that has shrunk, or fp16 overflowed
            box = target.box
        elif (box[2:] > box[:2]).all():
            target.box = box
        results.append(TrackResult(xyxy_to_xywh(box), score, absent))
    if hasattr(engine, "remember"):
        _remember(engine, targets, frames, results)
    return results


def _remember(
    engine: Any, targets: Sequence[Target], frames: Sequence[np.ndarray], results: Sequence[TrackResult]
) -> None:
    """Let an engine renew what it remembers of targets, after their states and results are those of `frames`.

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
    scores = prediction.score_map.sigmoid().flatten(1)
    cells = (scores * (1 - window_weight) + window.flatten() * window_weight).argmax(1)
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


def check_threshold(absent_below: float) -> float:
    """The threshold itself if it is in [0, 1); else InputError says what to do."""
    if not 0 <= absent_below < 1:
        raise InputError(f"absent_below is {absent_below}: give a score from 0 (never absent) to below 1, e.g. 0.5")
    return absent_below


def _search_region(variant: Variant, target: Target, frame_size: tuple[int, int]) -> Crop:
    """Where a target is looked for in a frame of (height, width) pixels: around its box.

    The area factor is the variant's, times `GROWTH` for each frame of absence, at most times `LARGEST`; the crop keeps
    its pixels.
    """
    centre = (target.box[:2] + target.box[2:]) / 2
    half = np.maximum(target.box[2:] - target.box[:2], variant.min_object_size) / 2
    growth = GROWTH ** min(max(target.low - PATIENCE, 0), 99)  # no overflow
    factor = variant.search_area_factor * min(growth, LARGEST)
    return Crop.around(np.concatenate([centre - half, centre + half]), factor, variant.search_size, frame_size)
