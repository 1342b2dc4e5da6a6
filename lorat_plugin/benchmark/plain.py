"""The steps of a training pair as they are usually written: whole frames become float tensors, the rest is torchvision.

It is the baseline that our own pipeline is measured against. Draws, geometry, labels and decoder are shared, so both
make the same pair.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.random import Generator
from PIL import ImageFilter, ImageOps
from torch.nn.functional import interpolate
from torchvision.transforms.v2 import functional as tv

from lorat_plugin.boxes import clip_to_image
from lorat_plugin.crop import NORMALIZATIONS, Crop
from lorat_plugin.data.augment import Jitter
from lorat_plugin.data.synthetic import FramePair
from lorat_plugin.training.config import TrainConfig
from lorat_plugin.training.recipe import Pair, choose_crops, label
from lorat_plugin.variants import Variant


def plain_pair(frames: FramePair, variant: Variant, jitter: Jitter, config: TrainConfig, rng: Generator) -> Pair | None:
    """The pair that `training.recipe.make_pair` makes, up to rounding."""
    crops = choose_crops(frames, variant, jitter, rng)
    if crops is None:
        return None
    images = [_cut(_to_tensor(frame), crop) for frame, crop in zip(frames[:4:2], crops, strict=True)]
    boxes = [crop.to_crop(box) for crop, box in zip(crops, frames[1:4:2], strict=True)]
    for i, image in enumerate(images):
        if rng.random() < config.flip_chance:
            width, box = image.shape[-1], boxes[i]
            images[i], boxes[i] = tv.horizontal_flip(image), np.array([width - box[2], box[1], width - box[0], box[3]])
    images = [_colour_jitter(image, rng) for image in images]
    if config.third_chance >= 1 or rng.random() < config.third_chance:
        images = _third_augmentation(images, rng)
    z_box, x_box = (clip_to_image(b, (i.shape[1], i.shape[2])) for b, i in zip(boxes, images, strict=True))
    mean, std = (list(values) for values in NORMALIZATIONS[variant.normalization])
    template, search = (tv.normalize(image, mean, std) for image in images)
    return label(template, z_box, search, x_box, variant)


def _to_tensor(frame: np.ndarray) -> torch.Tensor:
    return tv.to_dtype(tv.to_image(frame), torch.float32, scale=True)


def _cut(image: torch.Tensor, crop: Crop) -> torch.Tensor:
    left, top, right, bottom = crop.source
    x1, y1, x2, y2 = crop.target
    canvas = image.mean((1, 2), keepdim=True).repeat(1, crop.size[1], crop.size[0])
    if x2 > x1 and y2 > y1:
        window = image[None, :, top:bottom, left:right]
        canvas[:, y1:y2, x1:x2] = interpolate(window, (y2 - y1, x2 - x1), mode="bilinear", align_corners=False)[0]
    return canvas


def _colour_jitter(image: torch.Tensor, rng: Generator) -> torch.Tensor:
    order = rng.permutation(4)
    factors = [rng.uniform(0.6, 1.4) for _ in range(3)]
    for i in order:
        if i < 3:
            image = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation)[i](image, factors[i])
    return image


def _third_augmentation(images: list[torch.Tensor], rng: Generator) -> list[torch.Tensor]:
    pictures = [tv.to_pil_image(image) for image in images]
    choice = rng.choice(3)
    if choice == 0:
        pictures = [picture.convert("L").convert("RGB") for picture in pictures]
    elif choice == 1:
        pictures = [ImageOps.solarize(picture, 128) for picture in pictures]
    else:
        blur = ImageFilter.GaussianBlur(rng.uniform(0.1, 2.0))
        pictures = [picture.filter(blur) for picture in pictures]
    return [tv.to_dtype(tv.pil_to_tensor(picture), torch.float32, scale=True) for picture in pictures]
