"""Jitter of the search crop and augmentation of a pair of crops: LoRAT's, in its order of draws.

Crops are (3, H, W) float32 tensors, RGB, 0..1; boxes are (4,) float64 xyxy in crop pixels.
Sources: LoRAT (arXiv 2403.05231), DeiT III's three-fold augmentation (arXiv 2204.07118).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator
from PIL import Image, ImageFilter, ImageOps

from lorat_plugin.boxes import area, clip_to_image
from lorat_plugin.crop import crop_parameters

_GREY = (0.2989, 0.587, 0.114)
ATTEMPTS = 12


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
        seen = clip_to_image(box_xyxy * np.tile(scale, 2) + np.tile(shift, 2), (size, size))
        if min(seen[2] - seen[0], seen[3] - seen[1]) >= jitter.min_size and area(seen) <= size * size:
            return scale, shift
    return None


def flip(crop: torch.Tensor, box: np.ndarray) -> tuple[torch.Tensor, np.ndarray]:
    """Mirror a crop and its box left to right."""
    width = crop.shape[-1]
    return crop.flip(-1), np.array([width - box[2], box[1], width - box[0], box[3]])


def _grey(crop: torch.Tensor) -> torch.Tensor:
    return (_GREY[0] * crop[0] + _GREY[1] * crop[1] + _GREY[2] * crop[2])[None]


def adjust_brightness(crop: torch.Tensor, factor: float) -> torch.Tensor:
    """Scale all values; result clamped to [0, 1]."""
    return (crop * factor).clamp(0, 1)


def adjust_contrast(crop: torch.Tensor, factor: float) -> torch.Tensor:
    """Blend with the mean grey level of the crop; result clamped to [0, 1]."""
    return (factor * crop + (1 - factor) * _grey(crop).mean()).clamp(0, 1)


def adjust_saturation(crop: torch.Tensor, factor: float) -> torch.Tensor:
    """Blend with the grey version of the crop; result clamped to [0, 1]."""
    return (factor * crop + (1 - factor) * _grey(crop)).clamp(0, 1)


def colour_jitter(crop: torch.Tensor, rng: Generator, strength: float = 0.4) -> torch.Tensor:
    """Change brightness, contrast and saturation by factors from U(1 - strength, 1 + strength), in random order."""
    order = rng.permutation(4)  # the fourth, hue, does nothing, but is drawn
    factors = [rng.uniform(1 - strength, 1 + strength) for _ in range(3)]
    operations = (adjust_brightness, adjust_contrast, adjust_saturation)
    for i in order:
        if i < 3:
            crop = operations[i](crop, factors[i])
    return crop


def to_pil(crop: torch.Tensor) -> Image.Image:
    """8-bit image; values are truncated, not rounded."""
    return Image.fromarray((crop * 255).byte().permute(1, 2, 0).contiguous().numpy())


def from_pil(image: Image.Image) -> torch.Tensor:
    """(3, H, W) float32, 0..1, of an RGB image."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def third_augmentation(crops: list[torch.Tensor], rng: Generator) -> list[torch.Tensor]:
    """One of grey, solarise and Gaussian blur, the same for all crops; never none."""
    images = [to_pil(c) for c in crops]
    choice = rng.choice(3)
    if choice == 0:
        images = [i.convert("L").convert("RGB") for i in images]
    elif choice == 1:
        images = [ImageOps.solarize(i, 128) for i in images]
    else:
        blur = ImageFilter.GaussianBlur(rng.uniform(0.1, 2.0))
        images = [i.filter(blur) for i in images]
    return [from_pil(i) for i in images]


def augment(
    template: torch.Tensor,
    template_box: np.ndarray,
    search: torch.Tensor,
    search_box: np.ndarray,
    rng: Generator,
    flip_chance: float = 0.5,
    third_chance: float = 1.0,
) -> tuple[torch.Tensor, np.ndarray, torch.Tensor, np.ndarray]:
    """Flip (each crop by itself), colour jitter (each by itself), then the third augmentation (both alike).

    Args:
        template: crop; its box comes next.
        template_box: box in the template crop.
        search: crop; its box comes next.
        search_box: box in the search crop.
        rng: draws as in the official code; where `third_chance` is below 1, one more draw decides.
        flip_chance: of each crop; the paper's is 0.5.
        third_chance: share of pairs that get the third augmentation; the paper's is 1.
    Returns crops and boxes; boxes are clipped to their crops.
    """
    if rng.random() < flip_chance:
        template, template_box = flip(template, template_box)
    if rng.random() < flip_chance:
        search, search_box = flip(search, search_box)
    template, search = colour_jitter(template, rng), colour_jitter(search, rng)
    if third_chance >= 1 or rng.random() < third_chance:
        template, search = third_augmentation([template, search], rng)
    template_box = clip_to_image(template_box, (template.shape[1], template.shape[2]))
    return template, template_box, search, clip_to_image(search_box, (search.shape[1], search.shape[2]))
