"""Jitter of the search crop and augmentation of a pair of crops: LoRAT's, in its order of draws.

Crops are (3, H, W) float32 tensors, RGB, 0..1, contiguous, or (H, W, 3) uint8 arrays. `eight_bit` arithmetic rounds to
whole grey levels in less time: a crop ends about one level from the float32 result, solarised pixels around the
threshold aside. Boxes are (4,) float64 xyxy in crop pixels.
Sources: LoRAT (arXiv 2403.05231), DeiT III's three-fold augmentation (arXiv 2204.07118).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.random import PCG64, Generator
from PIL import Image, ImageFilter

from lorat_plugin.boxes import area, clip_to_image
from lorat_plugin.crop import crop_parameters, normalize

Pixels = torch.Tensor | np.ndarray

_GREY = (0.2989, 0.587, 0.114)
ATTEMPTS = 12
NO_THIRD = -1


def sample_generator(seed: int, rank: int, epoch: int, training: bool, index: int) -> Generator:
    """The random generator of one sample.

    With rank 0 and samples numbered over all ranks, pairs are the same whatever the number of ranks and workers.
    """
    return Generator(PCG64((seed, rank, epoch, int(training), index)))


@dataclass(frozen=True)
class Jitter:
    """How far a search crop strays: deviation of its log scale, and largest shift either way in mean target sides."""

    scale: float = 0.25
    translation: float = 3.0
    min_size: float = 10.0


def jittered_parameters(
    box_xyxy: np.ndarray, area_factor: float, size: int, jitter: Jitter, rng: Generator
) -> tuple[np.ndarray, np.ndarray] | None:
    """Scale (2,) and shift (2,) of a randomly scaled and shifted search crop; the aspect ratio changes too.

    Args:
        box_xyxy: (4,) float64, frame pixels.
        area_factor: as in `crop_parameters`.
        size: side of the crop, pixels.
        jitter: strengths; `min_size` is the least side of the visible target, crop pixels.
        rng: each attempt draws two normals, then two uniforms.
    Returns None after 12 attempts without a crop that shows enough of the target.
    """
    base, _ = crop_parameters(box_xyxy, area_factor, size)
    extent = box_xyxy[2:] - box_xyxy[:2]
    for _ in range(ATTEMPTS):
        scale = base / np.exp(jitter.scale * rng.standard_normal(2))
        shift = size / 2 - scale * (box_xyxy[:2] + box_xyxy[2:]) / 2
        shift = shift + rng.uniform(-1, 1, 2) * ((extent * scale).sum() * 0.5 * jitter.translation)
        seen = clip_to_image(box_xyxy * np.concatenate((scale, scale)) + np.concatenate((shift, shift)), (size, size))
        if min(seen[2] - seen[0], seen[3] - seen[1]) >= jitter.min_size and area(seen) <= size * size:
            return scale, shift
    return None


def blended(crop: torch.Tensor, operation: int, factor: float) -> torch.Tensor:
    """Change brightness (0), contrast (1) or saturation (2) of a crop in place, clamped to [0, 1].

    All three blend it with something: black, its mean grey level, or its grey version.
    """
    if operation:
        grey = (_GREY[0] * crop[0]).add_(_GREY[1] * crop[1]).add_(_GREY[2] * crop[2])
        other = grey.mean() if operation == 1 else grey
        crop.mul_(factor).add_(other * (1 - factor))
    else:
        crop.mul_(factor)
    return crop.clamp_(0, 1)


def blended_bytes(crop: np.ndarray, operation: int, factor: float) -> np.ndarray:
    """As `blended`, of whole grey levels."""
    if operation == 2:
        return cv2.addWeighted(crop, factor, _grey_bytes(crop), 1 - factor, 0)
    other = cv2.mean(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY))[0] if operation else 0.0
    levels = np.clip(np.rint(np.arange(256) * factor + (1 - factor) * other), 0, 255)
    return cv2.LUT(crop, levels.astype(np.uint8))


def to_bytes(crop: torch.Tensor) -> np.ndarray:
    """(3, H, W) uint8; values are truncated, not rounded."""
    return (crop * 255).numpy().astype(np.uint8)  # torch's own conversion takes three times as long


def third_augmentation(crop: torch.Tensor, choice: int, radius: float) -> np.ndarray:
    """0 grey, 1 solarised or 2 blurred by a Gaussian of deviation `radius`, pixels. Returns (H, W, 3) uint8."""
    planes = list(to_bytes(crop))
    if choice == 1:
        return third_of_bytes(cv2.merge(planes), choice, radius)
    if choice == 0:
        return cv2.merge([np.asarray(Image.fromarray(cv2.merge(planes)).convert("L"))] * 3)
    blur = ImageFilter.GaussianBlur(radius)  # Pillow takes longer for an image of three colours
    return cv2.merge([np.asarray(Image.fromarray(plane).filter(blur)) for plane in planes])


def third_of_bytes(crop: np.ndarray, choice: int, radius: float) -> np.ndarray:
    """As `third_augmentation`, by OpenCV."""
    if choice == 1:
        return cv2.min(crop, cv2.bitwise_not(crop))
    return cv2.GaussianBlur(crop, (0, 0), radius, borderType=cv2.BORDER_REPLICATE) if choice else _grey_bytes(crop)


def _grey_bytes(crop: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


ARITHMETIC: dict[type, tuple[Callable[..., Any], ...]] = {  # mirror left to right, blend, third augmentation
    torch.Tensor: (lambda crop: crop.flip(-1), blended, third_augmentation),
    np.ndarray: (lambda crop: cv2.flip(crop, 1), blended_bytes, third_of_bytes),
}


class Colours(NamedTuple):
    """Colour jitter of one crop: 0 brightness, 1 contrast and 2 saturation in `order`, with the `factors` of each."""

    order: tuple[int, int, int]
    factors: tuple[float, float, float]

    @classmethod
    def draw(cls, rng: Generator, strength: float = 0.4) -> Colours:
        """Factors from U(1 - strength, 1 + strength), in random order."""
        order = [int(i) for i in rng.permutation(4) if i < 3]  # the fourth, hue, does nothing, but is drawn
        factors = [rng.uniform(1 - strength, 1 + strength) for _ in range(3)]
        return cls(tuple(order), tuple(factors))  # type: ignore[arg-type]


class Changes(NamedTuple):
    """Random draws of the augmentation of one pair, template first.

    Fields: flips, colours; third, the choice 0 grey, 1 solarise, 2 Gaussian blur, NO_THIRD none; radius of the blur,
    pixels.
    """

    flips: tuple[bool, ...]
    colours: tuple[Colours, ...]
    third: int
    radius: float

    @classmethod
    def draw(cls, rng: Generator, flip_chance: float = 0.5, third_chance: float = 1.0, crops: int = 2) -> Changes:
        """Draw in the order of the official code; where `third_chance` is below 1, one more draw decides.

        Args:
            rng: source of the draws.
            flip_chance: of each crop; the paper's is 0.5.
            third_chance: share of pairs that get the third augmentation; the paper's is 1.
            crops: their number; the third augmentation is the same for all.
        """
        flips = tuple(bool(rng.random() < flip_chance) for _ in range(crops))
        colours = tuple(Colours.draw(rng) for _ in range(crops))
        third, radius = NO_THIRD, 0.0
        if third_chance >= 1 or rng.random() < third_chance:
            third = int(rng.choice(3))
            radius = float(rng.uniform(0.1, 2.0)) if third == 2 else 0.0
        return cls(flips, colours, third, radius)

    def boxes(self, boxes: Sequence[np.ndarray], sizes: Sequence[int]) -> list[np.ndarray]:
        """Boxes (4,) xyxy of the crops, flipped with their crops of `sizes` pixels a side and clipped to them."""
        flipped = [
            np.array([size - box[2], box[1], size - box[0], box[3]]) if flip else box
            for box, size, flip in zip(boxes, sizes, self.flips, strict=True)
        ]
        return [clip_to_image(box, (size, size)) for box, size in zip(flipped, sizes, strict=True)]


@lru_cache
def _levels(normalization: str) -> np.ndarray:
    """(3, 256) float32, the normalised values of 8-bit red, green and blue."""
    levels = torch.arange(256.0).view(1, 256, 1, 1).expand(-1, -1, -1, 3)
    return normalize(levels, normalization)[0, :, :, 0].numpy()


def normalize_bytes(crop: np.ndarray, normalization: str) -> torch.Tensor:
    """(3, H, W) float32 of (H, W, 3) uint8, as `normalize` does it, by a table of the 256 levels."""
    normalized = np.empty((3, *crop.shape[:2]), np.float32)
    for plane, levels, out in zip(cv2.split(crop), _levels(normalization), normalized, strict=True):
        cv2.LUT(plane, levels, out)
    return torch.from_numpy(normalized)


def augment(crops: Sequence[Pixels], changes: Changes, normalization: str = "imagenet") -> list[torch.Tensor]:
    """Flip, colour jitter, then the third augmentation of crops, which are overwritten.

    Returns (3, S, S) float32 crops, normalised as in `crop.normalize`.
    """
    done = []
    for crop, flipped, colours in zip(crops, changes.flips, changes.colours, strict=True):
        mirror, blend, third = ARITHMETIC[type(crop)]
        changed = mirror(crop) if flipped else crop
        for operation in colours.order:  # in place: a search crop is larger than the cache of a processor core
            changed = blend(changed, operation, colours.factors[operation])
        if changes.third != NO_THIRD:
            changed = third(changed, changes.third, changes.radius)
        if isinstance(changed, torch.Tensor):
            done.append(normalize(changed.permute(1, 2, 0)[None] * 255, normalization)[0])
        else:
            done.append(normalize_bytes(changed, normalization))
    return done
