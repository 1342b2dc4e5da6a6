"""Draws recorded frames on a device, all frames of a batch at once: layers under their maps, then light and optics.

It gives what `rendering` gives up to small differences: a picture that shrinks is taken from a halved size instead of
being averaged to its exact size, colours are rounded once instead of after each layer, and JPEG's blocks are rounded
without being coded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch.nn.functional import avg_pool2d, conv2d, grid_sample, interpolate, pad

from lorat_plugin.synthetic.rendering import GRAIN, Look, noise_tile, streak_kernel
from lorat_plugin.training.device.pixels import gaussian, take

if TYPE_CHECKING:
    from lorat_plugin.training.device.records import FrameRecord, Layer

GREY = (0.299, 0.587, 0.114)
LUMA = (  # quantisation of JPEG at quality 50 (ITU-T T.81, annex K)
    (16, 11, 10, 16, 24, 40, 51, 61), (12, 12, 14, 19, 26, 58, 60, 55), (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62), (18, 22, 37, 56, 68, 109, 103, 77), (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101), (72, 92, 95, 98, 112, 100, 103, 99),
)  # fmt: skip
CHROMA = (
    (17, 18, 24, 47, 99, 99, 99, 99), (18, 21, 26, 66, 99, 99, 99, 99), (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99), *((99,) * 8,) * 4,
)  # fmt: skip


class Scenes(NamedTuple):
    """Recorded frames, those of one size together, and their layers, the lowest of all frames first.

    Fields: places, where each given frame stands among the frames here, and starts, its first pixel; sizes, (height,
    width, number) of each group of frames; looks and grains of the frames here; passes, (layers, pixels) of each pass;
    whole (L, 12) int64 and real (L, 22) float32, see `_whole_numbers` and `_real_numbers`; push (L, 5, 4, 2) float32,
    see `rendering.draw_push`.
    """

    places: list[int]
    starts: list[int]
    sizes: list[tuple[int, int, int]]
    looks: list[Look]
    grains: list[tuple[int, int]]
    passes: list[tuple[int, int]]
    whole: torch.Tensor
    real: torch.Tensor
    push: torch.Tensor

    @classmethod
    def of(cls, frames: Sequence[FrameRecord]) -> Scenes:
        """Stack frames."""
        order = sorted(range(len(frames)), key=lambda i: frames[i].shape)
        starts, end, sizes = [0] * len(frames), 0, list[tuple[int, int, int]]()
        for number in order:
            height, width = frames[number].shape[:2]
            starts[number], end = end, end + height * width
            count = sizes.pop()[2] if sizes and sizes[-1][:2] == (height, width) else 0
            sizes.append((height, width, count + 1))
        rows: list[tuple[int, Layer]] = []
        passes = []
        for depth in range(max(len(frame.layers) for frame in frames)):
            here = [(i, frame.layers[depth]) for i, frame in enumerate(frames) if depth < len(frame.layers)]
            areas = [layer.area for _, layer in here]
            passes.append((len(here), sum((a[2] - a[0]) * (a[3] - a[1]) for a in areas)))
            rows += here
        whole = [_whole_numbers(starts[i], frames[i].shape[1], layer) for i, layer in rows]
        real = [_real_numbers(layer) for _, layer in rows]
        still = np.zeros((5, 4, 2), np.float32)
        push = [still if layer.cutout is None or layer.cutout.push is None else layer.cutout.push for _, layer in rows]
        return cls(
            np.argsort(order).tolist(),
            starts,
            sizes,
            [frames[i].look for i in order],
            [frames[i].grain for i in order],
            passes,
            torch.tensor(whole),
            torch.tensor(np.array(real, np.float32)),
            torch.from_numpy(np.stack(push)),
        )


def _whole_numbers(start: int, width: int, layer: Layer) -> list[int]:
    """The frame's first pixel and width, area, source (first pixel, row length, width, height), margin, photo."""
    cutout, stride = layer.cutout, layer.source.shape[1]
    first = layer.source.start + layer.corner[1] * stride + layer.corner[0]
    return [start, width, *layer.area, first, stride, *layer.size, cutout.margin if cutout else 0, int(cutout is None)]


def _real_numbers(layer: Layer) -> np.ndarray:
    """Map (9), scale (2), size of the bent object (2), split, and for each band own, red, green and blue factor (8)."""
    cutout = layer.cutout
    bands = [1.0, 0.0, 0.0, 0.0] * 2
    if cutout and cutout.tints:
        bands = [v for t in cutout.tints for v in (t.gain * (1 - t.amount), *(t.tint * t.amount * t.gain))]
    size = cutout.shape[::-1] if cutout else (1, 1)
    return np.concatenate([layer.inverse.ravel(), layer.scale, size, [cutout.split if cutout else 0.0], bands])


def render(scenes: Scenes, bank: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw frames from the pictures in a bank, on its device.

    Returns (P,) int32 packed pixels of the frames, each from its start on, and (F, 3) float32 mean colours, 0..255, by
    their places.
    """
    device = bank.device
    whole, real, push = (t.to(device, non_blocking=True) for t in (scenes.whole, scenes.real, scenes.push))
    canvas = torch.zeros(3, sum(h * w * n for h, w, n in scenes.sizes), device=device)
    first = 0
    for count, pixels in scenes.passes:
        part = slice(first, first + count)
        _draw(canvas, bank, whole[part], real[part], push[part], pixels)
        first += count
    packed, means, first, number = [], [], 0, 0
    for height, width, count in scenes.sizes:
        last = first + height * width * count
        frames = canvas[:, first:last].view(3, count, height, width).transpose(0, 1).contiguous()
        chosen = slice(number, number + count)
        frames = degrade(frames, scenes.looks[chosen], scenes.grains[chosen])
        means.append(frames.mean((2, 3)))
        levels = torch.full((count, height, width, 4), 255, dtype=torch.uint8, device=device)
        levels[..., :3] = frames.permute(0, 2, 3, 1)
        packed.append(levels.view(torch.int32).flatten())
        first, number = last, number + count
    return torch.cat(packed), torch.cat(means)


def _draw(
    canvas: torch.Tensor, bank: torch.Tensor, whole: torch.Tensor, real: torch.Tensor, push: torch.Tensor, pixels: int
) -> None:
    """Blend one layer of each of several frames into their (3, P) canvas; `pixels` in all."""
    x0, y0, x1, y1 = whole[:, 2:6].unbind(1)
    counts = (x1 - x0) * (y1 - y0)
    layer = torch.repeat_interleave(torch.arange(len(counts), device=bank.device), counts, output_size=pixels)
    within = torch.arange(pixels, device=bank.device) - (counts.cumsum(0) - counts)[layer]
    x, y = x0[layer] + within % (x1 - x0)[layer], y0[layer] + within // (x1 - x0)[layer]
    # no matrix product: reduced precision would move pixels
    columns = real[layer, :9].view(-1, 3, 3)
    at = columns[:, :, 0] * (x + 0.5)[:, None] + columns[:, :, 1] * (y + 0.5)[:, None] + columns[:, :, 2]
    u, v = at[:, 0] / at[:, 2], at[:, 1] / at[:, 2]
    own_x, own_y = real[layer, 9:11].unbind(1)
    margin = whole[layer, 10]
    moved = torch.nonzero(margin)[:, 0]
    if len(moved):
        shift = _spread(push, layer[moved], u[moved] / real[layer[moved], 11], v[moved] / real[layer[moved], 12])
        u[moved] += shift[:, 0] - margin[moved]
        v[moved] += shift[:, 1] - margin[moved]
    colour = _sample(bank, u * own_x - 0.5, v * own_y - 0.5, whole[layer, 6:10], whole[layer, 11] == 1)
    grey = GREY[0] * colour[0] + GREY[1] * colour[1] + GREY[2] * colour[2]
    bands = torch.where((v < real[layer, 13])[:, None], real[layer, 14:18], real[layer, 18:22])
    alpha = colour[3]
    painted = torch.minimum(colour[:3] * bands[:, 0] + grey * bands[:, 1:].T, alpha)
    place = whole[layer, 0] + y * whole[layer, 1] + x
    below = canvas[:, place]
    canvas[:, place] = (below * (1 - alpha / 255) + painted).clamp_(0, 255)


def _sample(
    bank: torch.Tensor, x: torch.Tensor, y: torch.Tensor, source: torch.Tensor, photo: torch.Tensor
) -> torch.Tensor:
    """Pixels of pictures at places between pixel centres, (4, N) float32: photos are mirrored, others end."""
    first, stride, width, height = source.unbind(1)
    low_x, low_y = x.floor(), y.floor()
    total = torch.zeros(4, len(x), device=x.device)
    for down in (0, 1):
        for right in (0, 1):
            column, row = (low_x + right).long(), (low_y + down).long()
            share = (1 - (x - low_x - right).abs()) * (1 - (y - low_y - down).abs())
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            column, row = (_mirrored(i, n) for i, n in ((column, width), (row, height)))
            pixel = take(bank, (first + row * stride + column)[None], 4)[0]
            total += pixel * (share * (inside | photo))
    return total


def _mirrored(index: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """Indices reflected at the centres of the first and last of `count` pixels."""
    period = (2 * count - 2).clamp(min=1)
    index = index.remainder(period)
    return torch.minimum(index, period - index).minimum(count - 1)


def _spread(push: torch.Tensor, layer: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Shifts (N, 2) at (x, y), fractions of the object's width and height, by cubic interpolation of `push`."""
    rows, columns = push.shape[1:3]
    # one picture of all layers, each with room for the four neighbours of a point beyond its first or last row
    stacked = pad(push.permute(0, 3, 1, 2), (0, 0, 2, 2), "replicate").transpose(0, 1).reshape(1, 2, -1, columns)
    down = (y * rows).clamp(-0.5, rows + 0.5) + 2 + layer * (rows + 4)
    places = torch.stack([2 * x - 1, 2 * down / stacked.shape[2] - 1], -1)[None, None]
    return grid_sample(stacked, places, "bicubic", "border", align_corners=False)[0, :, 0].T


def degrade(frames: torch.Tensor, looks: Sequence[Look], grains: Sequence[tuple[int, int]]) -> torch.Tensor:
    """As `rendering.degrade` for (N, 3, H, W) float32 frames, 0..255; whole levels are returned."""
    device, (height, width) = frames.device, frames.shape[2:]

    def column(values: Sequence[float | Sequence[float]]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float32).to(device).view(len(values), -1, 1, 1)

    frames = (frames.round_() / 255) ** column([look.gamma for look in looks]) * 255
    frames = (frames * column([look.gain for look in looks])).round_().clamp_(0, 255)
    if rows := [i for i, look in enumerate(looks) if look.shadow]:
        frames[rows] = (frames[rows] * _light([looks[i] for i in rows], height, width).to(device)).floor_()
    if rows := [i for i, look in enumerate(looks) if look.defocus]:
        deviation = torch.tensor([looks[i].defocus for i in rows])
        frames[rows] = gaussian(frames[rows], deviation, "reflect").round_()
    if rows := [i for i, look in enumerate(looks) if look.streak]:
        frames[rows] = _streak(frames[rows], [looks[i] for i in rows])
    for i, look in enumerate(looks):
        if look.shrink < 1:
            small = (round(height * look.shrink), round(width * look.shrink))
            less = interpolate(frames[i : i + 1], small, mode="area").round_()
            frames[i] = interpolate(less, (height, width), mode="bilinear", align_corners=False)[0].round_()
    for i, (look, (y, x)) in enumerate(zip(looks, grains, strict=True)):
        if look.noise:
            grain = _noise(device)[:, y : y + height, x : x + width]
            frames[i] = (frames[i] + grain * look.noise).clamp_(0, 255).floor_()
    if rows := [i for i, look in enumerate(looks) if look.quality]:
        frames[rows] = _jpeg(frames[rows], [looks[i].quality for i in rows])
    return frames


@lru_cache(maxsize=2)
def _noise(device: torch.device) -> torch.Tensor:
    assert GRAIN >= 640
    return torch.from_numpy(noise_tile()).permute(2, 0, 1).contiguous().to(device)


def _light(looks: Sequence[Look], height: int, width: int) -> torch.Tensor:
    axis = torch.linspace(0, 1, 8) - 0.5
    angle, depth = (torch.tensor([getattr(look, n) for look in looks]) for n in ("shadow_angle", "shadow"))
    side = axis * torch.cos(angle)[:, None, None] + axis[:, None] * torch.sin(angle)[:, None, None]
    light = 1 - depth[:, None, None] / (1 + torch.exp(-12 * side))
    return interpolate(light[:, None], (height, width), mode="bilinear", align_corners=False)


def _streak(frames: torch.Tensor, looks: Sequence[Look]) -> torch.Tensor:
    kernels = [streak_kernel(look.streak, look.streak_angle) for look in looks]
    reach = max(len(kernel) for kernel in kernels) // 2
    padded = np.stack([np.pad(kernel, reach - len(kernel) // 2) for kernel in kernels])
    weights = torch.from_numpy(padded).to(frames.device).repeat_interleave(3, 0)[:, None]
    flat = pad(frames, (reach,) * 4, "reflect").flatten(0, 1)[None]
    return conv2d(flat, weights, groups=len(weights))[0].view_as(frames).round_()


def _jpeg(frames: torch.Tensor, qualities: Sequence[int]) -> torch.Tensor:
    """What is left of frames after JPEG with chroma of half the size; blue takes red's part, as in `rendering`."""
    height, width = frames.shape[2:]
    tall, wide = -height % 16, -width % 16
    blue, green, red = pad(frames, (0, wide, 0, tall), "replicate").unbind(1)
    luma = GREY[0] * red + GREY[1] * green + GREY[2] * blue
    chroma = torch.stack([(blue - luma) / 1.772, (red - luma) / 1.402], 1)
    scale = torch.tensor([5000 // q if q < 50 else 200 - 2 * q for q in qualities])[:, None, None]
    tables = [((torch.tensor(t) * scale + 50) // 100).clamp(1, 255).float() for t in (LUMA, CHROMA)]
    luma = _rounded_blocks((luma - 128)[:, None], tables[0].to(frames.device)) + 128
    chroma = _rounded_blocks(avg_pool2d(chroma, 2), tables[1].to(frames.device))
    cb, cr = interpolate(chroma, scale_factor=2, mode="bilinear", align_corners=False).unbind(1)
    y = luma[:, 0]
    colours = torch.stack([y + 1.772 * cb, y - 0.344136 * cb - 0.714136 * cr, y + 1.402 * cr], 1)
    return colours[:, :, :height, :width].round_().clamp_(0, 255)


def _rounded_blocks(planes: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Round the cosine coefficients of 8 x 8 blocks of (N, C, H, W) planes to multiples of (N, 8, 8) steps."""
    place, order = torch.arange(8.0), torch.arange(8.0)[:, None]
    cosine = torch.cos((2 * place + 1) * order * math.pi / 16) / 2
    cosine[0] /= math.sqrt(2)
    cosine = cosine.to(planes.device)
    count, channels, height, width = planes.shape
    blocks = planes.view(count, channels, height // 8, 8, width // 8, 8).transpose(3, 4)
    steps = table[:, None, None, None]
    blocks = cosine.T @ ((cosine @ blocks @ cosine.T / steps).round_() * steps) @ cosine
    return blocks.transpose(3, 4).reshape(planes.shape)
