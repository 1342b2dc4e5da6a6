"""Crops and colours of many training pairs at once, on the device that holds the frames.

Frames lie one behind the other in a flat int32 tensor, one number a pixel, whose four bytes are red, green, blue and
alpha: `pack` makes them. Crops are those that `crop.Crop.cut` and `training.augment` make in float32, up to rounding;
on a CPU they are those with eight bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch.nn.functional import pad

from lorat_plugin.crop import NORMALIZATIONS, Crop
from lorat_plugin.training.augment import Changes, Colours, augment

GREY = (0.2989, 0.587, 0.114)
GREY_BYTES = (19595.0, 38470.0, 7471.0)  # of 65,536: the weights of 8-bit grey levels
ONE_BY_ONE = ("cpu",)  # devices whose crops OpenCV makes in a third of the time
NOWHERE = np.full(2, np.nan)


def pack(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) RGB or (H, W, 4) RGBA uint8 -> (H * W,) int32."""
    if image.shape[2] == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2RGBA)
    return np.ascontiguousarray(image).view(np.int32).reshape(-1)


def take(pixels: torch.Tensor, index: torch.Tensor, channels: int = 3) -> torch.Tensor:
    """Packed pixels at `index` (N, ...) int64 as (N, channels, ...) float32, 0..255."""
    levels = pixels.index_select(0, index.flatten()).view(*index.shape, 1).view(torch.uint8)
    return torch.stack([levels[..., i] for i in range(channels)], 1).float()


class Windows(NamedTuple):
    """Where N crops come from.

    Fields: start (N,) int64, index of the source window's first pixel; shape (N, 3) int64, the frame's width and the
    window's width and height, pixels; target (N, 4) int64 xyxy, the part of the crop that the window fills; fill
    (N, 3) float32, 0..255, the colour of the rest; flip (N,) bool, whether the crop is mirrored.
    """

    start: torch.Tensor
    shape: torch.Tensor
    target: torch.Tensor
    fill: torch.Tensor
    flip: torch.Tensor

    @classmethod
    def of(
        cls,
        crops: Sequence[Crop],
        starts: Sequence[int],
        widths: Sequence[int],
        fills: Sequence[np.ndarray],
        flips: Sequence[bool],
    ) -> Windows:
        """Windows of `crops` in frames that start at pixel `starts` and have rows of `widths` pixels."""
        start, shape = [], []
        for crop, first, width in zip(crops, starts, widths, strict=True):
            left, top, right, bottom = crop.source if crop.target[2] > crop.target[0] else (0, 0, 1, 1)
            start.append(first + top * width + left)
            shape.append((width, max(right - left, 1), max(bottom - top, 1)))
        return cls(
            torch.tensor(start),
            torch.tensor(shape),
            torch.tensor([crop.target for crop in crops]),
            torch.from_numpy(np.stack(fills)).float(),
            torch.tensor(flips),
        )


def cut(pixels: torch.Tensor, windows: Windows, size: int) -> torch.Tensor:
    """Cut and mirror crops of `size` pixels a side out of packed frames, as `Crop.cut` does, by the four neighbours.

    Returns (N, 3, size, size) float32, 0..255.
    """
    x1, y1, x2, y2 = windows.target.unbind(1)
    pixel = torch.arange(size, device=pixels.device).expand(len(x1), size)
    columns = torch.where(windows.flip[:, None], size - 1 - pixel, pixel)
    left, right, x_share, x_inside = _neighbours(columns, x1, x2, windows.shape[:, 1])
    top, bottom, y_share, y_inside = _neighbours(pixel, y1, y2, windows.shape[:, 2])
    rows = [(windows.start[:, None] + row * windows.shape[:, :1])[:, :, None] for row in (top, bottom)]
    corners = [[take(pixels, row + column[:, None]) for column in (left, right)] for row in rows]
    upper, lower = (torch.lerp(ends[0], ends[1], x_share[:, None, None]) for ends in corners)
    crops = torch.lerp(upper, lower, y_share[:, None, :, None])
    inside = (y_inside[:, :, None] & x_inside[:, None])[:, None]
    return torch.where(inside, crops, windows.fill[:, :, None, None])


def _neighbours(
    pixel: torch.Tensor, first: torch.Tensor, last: torch.Tensor, extent: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The two source pixels of each crop pixel along one axis, the share of the second, and which have any, (N, S)."""
    first, last, extent = first[:, None], last[:, None], extent[:, None]
    scale = extent / (last - first).clamp(min=1)
    at = ((pixel - first + 0.5) * scale - 0.5).clamp(min=0).minimum(extent - 1.0)
    low = at.long()
    return low, torch.minimum(low + 1, extent - 1), at - low, (pixel >= first) & (pixel < last)


class Tints(NamedTuple):
    """The colour changes of N crops.

    Fields: order (N, 3) int64 and factors (N, 3) float32, in this order, as in `Colours`; third (N,) int64 and radius
    (N,) float32 as in `Changes`, both on the CPU.
    """

    order: torch.Tensor
    factors: torch.Tensor
    third: torch.Tensor
    radius: torch.Tensor

    @classmethod
    def of(cls, changes: Sequence[tuple[Changes, int]]) -> Tints:
        """The colour changes of crops, each with its number in its pair: 0 template, 1 search crop."""
        colours: list[Colours] = [change.colours[which] for change, which in changes]
        return cls(
            torch.tensor([c.order for c in colours]),
            torch.tensor([[c.factors[i] for i in c.order] for c in colours]),
            torch.tensor([change.third for change, _ in changes]),
            torch.tensor([change.radius for change, _ in changes]),
        )


def change_colours(crops: torch.Tensor, tints: Tints) -> torch.Tensor:
    """Jitter and third augmentation of (N, 3, S, S) float32 crops, 0..255, in place."""
    for order, factor in zip(tints.order.T, tints.factors.T, strict=True):
        _adjust(crops, order[:, None, None, None], factor[:, None, None, None])
    for choice, change in enumerate((_grey, _solarize, _blur)):
        chosen = torch.nonzero(tints.third == choice)[:, 0]
        if len(chosen):  # whole grey levels first
            rows = chosen.to(crops.device)
            crops.index_copy_(0, rows, change(crops.index_select(0, rows).floor_(), tints.radius[chosen]))
    return crops


def _weighted(crops: torch.Tensor, weights: Sequence[float]) -> torch.Tensor:
    red, green, blue = crops.unbind(1)
    return (red * weights[0]).add_(green, alpha=weights[1]).add_(blue, alpha=weights[2])[:, None]


def _adjust(crops: torch.Tensor, operation: torch.Tensor, factor: torch.Tensor) -> None:
    # all three blend with something: black, the mean grey level, or the grey version
    grey = _weighted(crops, GREY)
    mean = grey.mean((2, 3), keepdim=True)
    other = grey.mul_(operation == 2).add_(mean * (operation == 1)).mul_(1 - factor)
    crops.mul_(factor).add_(other).clamp_(0, 255)


def _grey(crops: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    return _weighted(crops, GREY_BYTES).add_(32768).div_(65536).floor_().expand_as(crops).contiguous()


def _solarize(crops: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    return torch.minimum(crops, 255 - crops)


def _blur(crops: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    return gaussian(crops, radius, "replicate").round_()


def gaussian(images: torch.Tensor, deviation: torch.Tensor, border: str) -> torch.Tensor:
    """Blur (N, C, H, W) float32 images by Gaussians, cut off after three times the largest deviation.

    Args:
        images: of any device.
        deviation: (N,) float32, pixels, on the CPU.
        border: mode of `torch.nn.functional.pad`.
    """
    reach = max(round(3 * float(deviation.max())), 1)
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / deviation[:, None]) ** 2)
    weights = (weights / weights.sum(1, keepdim=True)).to(images.device)
    for axis in (2, 3):
        wide = pad(images, (reach, reach, 0, 0) if axis == 3 else (0, 0, reach, reach), border)
        images = torch.zeros_like(images)
        for i, weight in enumerate(weights.T):  # two operations, since torch vectorises none of three operands
            images.add_(wide.narrow(axis, i, images.shape[axis]) * weight[:, None, None, None])
    return images


def make_crops(
    sources: Sequence[tuple[torch.Tensor, torch.Tensor]], windows: Windows, tints: Tints, size: int, normalization: str
) -> torch.Tensor:
    """Cut N crops, change their colours and normalise them; on a CPU one by one, as `augment` does with eight bits.

    Args:
        sources: packed pixels, each with the rows (n,) int64 of `windows` that lie in them, on the CPU.
        windows: on the device of the pixels.
        tints: likewise, but for `third` and `radius`.
        size: side of the crops, pixels.
        normalization: as in `crop.normalize`.
    Returns (N, 3, size, size) float32 on the device.
    """
    device = windows.start.device
    made = torch.empty(len(windows.start), 3, size, size, device=device)
    mean, std = (made.new_tensor(values)[:, None, None] for values in NORMALIZATIONS[normalization])
    for pixels, rows in sources:
        if device.type in ONE_BY_ONE:
            for row in rows.tolist():
                made[row] = _make_crop(pixels.numpy(), windows, tints, row, size, normalization)
        elif len(rows):
            there = rows.to(device)
            crops = cut(pixels, Windows(*(t[there] for t in windows)), size)
            chosen = Tints(tints.order[there], tints.factors[there], tints.third[rows], tints.radius[rows])
            made[there] = change_colours(crops, chosen).mul_(1 / (255 * std)).sub_(mean / std)
    return made


def _make_crop(
    pixels: np.ndarray, windows: Windows, tints: Tints, row: int, size: int, normalization: str
) -> torch.Tensor:
    stride, width, height = windows.shape[row].tolist()
    window: np.ndarray = np.ndarray(
        (height, width, 4), np.uint8, pixels, offset=4 * int(windows.start[row]), strides=(4 * stride, 4, 1)
    )
    window = cv2.cvtColor(window, cv2.COLOR_RGBA2RGB)
    target = tuple(windows.target[row].tolist())
    crop = Crop((size, size), (0, 0, width, height), target, NOWHERE, NOWHERE)
    cut_out = crop.cut(window, windows.fill[row].numpy(), rounded=True)
    order = tuple(tints.order[row].tolist())
    factors = dict(zip(order, tints.factors[row].tolist(), strict=True))
    colours = Colours(order, (factors[0], factors[1], factors[2]))
    changes = Changes((bool(windows.flip[row]),), (colours,), int(tints.third[row]), float(tints.radius[row]))
    return augment([cut_out], changes, normalization)[0]
