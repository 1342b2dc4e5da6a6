"""Jitter of the search crop and augmentation of a pair of crops: LoRAT's, in its order of draws.

Crops are (3, H, W) float32 tensors, RGB, 0..1, contiguous, or (H, W, 3) uint8 arrays. `eight_bit` arithmetic rounds to
whole grey levels in less time: a crop ends about one level from the float32 result, solarised pixels around the
threshold aside. Boxes are (4,) float64 xyxy in crop pixels.
Sources: LoRAT (arXiv 2403.05231), DeiT III's three-fold augmentation (arXiv 2204.07118).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.random import Generator
from PIL import Image, ImageFilter

from lorat_plugin.boxes import area, clip_to_image
from lorat_plugin.crop import crop_parameters, normalize

Pixels = torch.Tensor | np.ndarray

_GREY = (0.2989, 0.587, 0.114)
ATTEMPTS = 12
NO_THIRD = -1


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


def flip(crop: Pixels) -> Pixels:
    """Mirror a crop left to right."""
    return crop.flip(-1) if isinstance(crop, torch.Tensor) else cv2.flip(crop, 1)


def _grey(crop: torch.Tensor) -> torch.Tensor:
    return (_GREY[0] * crop[0]).add_(_GREY[1] * crop[1]).add_(_GREY[2] * crop[2])


def _grey_bytes(crop: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def _scaled_bytes(crop: np.ndarray, factor: float, offset: float) -> np.ndarray:
    return cv2.LUT(crop, np.clip(np.rint(np.arange(256) * factor + offset), 0, 255).astype(np.uint8))


def adjust_brightness(crop: Pixels, factor: float) -> Pixels:
    """Scale all values; a tensor in place, clamped to [0, 1]."""
    if isinstance(crop, torch.Tensor):
        return crop.mul_(factor).clamp_(0, 1)
    return _scaled_bytes(crop, factor, 0)


def adjust_contrast(crop: Pixels, factor: float) -> Pixels:
    """Blend with the mean grey level of the crop; a tensor in place, clamped to [0, 1]."""
    if isinstance(crop, torch.Tensor):
        mean = _grey(crop).mean()
        return crop.mul_(factor).add_((1 - factor) * mean).clamp_(0, 1)
    return _scaled_bytes(crop, factor, (1 - factor) * cv2.mean(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY))[0])


def adjust_saturation(crop: Pixels, factor: float) -> Pixels:
    """Blend with the grey version of the crop; a tensor in place, clamped to [0, 1]."""
    if isinstance(crop, torch.Tensor):
        grey = _grey(crop)
        return crop.mul_(factor).add_(grey.mul_(1 - factor)).clamp_(0, 1)
    return cv2.addWeighted(crop, factor, _grey_bytes(crop), 1 - factor, 0)


ADJUSTMENTS = (adjust_brightness, adjust_contrast, adjust_saturation)


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


def colour_jitter(crop: Pixels, colours: Colours) -> Pixels:
    """Change brightness, contrast and saturation.

    A tensor in place, which halves the time: a search crop is larger than the cache of a processor core.
    """
    for i in colours.order:
        crop = ADJUSTMENTS[i](crop, colours.factors[i])
    return crop


def to_bytes(crop: torch.Tensor) -> np.ndarray:
    """(3, H, W) uint8; values are truncated, not rounded."""
    return (crop * 255).numpy().astype(np.uint8)  # torch's own conversion takes three times as long


def third_augmentation(crop: Pixels, choice: int, radius: float) -> np.ndarray:
    """0 grey, 1 solarised or 2 blurred by a Gaussian of deviation `radius`, pixels. Returns (H, W, 3) uint8."""
    if choice == 1:
        levels = cv2.merge(list(to_bytes(crop))) if isinstance(crop, torch.Tensor) else crop
        return cv2.min(levels, cv2.bitwise_not(levels))
    if not isinstance(crop, torch.Tensor):
        return cv2.GaussianBlur(crop, (0, 0), radius, borderType=cv2.BORDER_REPLICATE) if choice else _grey_bytes(crop)
    planes = list(to_bytes(crop))
    if choice == 0:
        return cv2.merge([np.asarray(Image.fromarray(cv2.merge(planes)).convert("L"))] * 3)
    blur = ImageFilter.GaussianBlur(radius)  # Pillow takes longer for an image of three colours
    return cv2.merge([np.asarray(Image.fromarray(plane).filter(blur)) for plane in planes])


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
        changed = colour_jitter(flip(crop) if flipped else crop, colours)
        if changes.third != NO_THIRD:
            changed = third_augmentation(changed, changes.third, changes.radius)
        if isinstance(changed, torch.Tensor):
            done.append(normalize(changed.permute(1, 2, 0)[None] * 255, normalization)[0])
        else:
            done.append(normalize_bytes(changed, normalization))
    return done
