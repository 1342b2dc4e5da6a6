"""From a frame to the network's input: a square, pixel-aligned crop around a box, and boxes back again.

The requested crop is crop = scale * frame + shift. Nothing is warped: the window of frame pixels and the window of crop
pixels that it covers are both rounded outwards to whole pixels, and the first is resized to the second, so the applied
scale and shift differ slightly. Boxes are mapped with the applied ones. Source: LoRAT, official crops.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch.nn.functional import interpolate

from lorat_plugin.boxes import clip_to_image, rasterize

NORMALIZATIONS = {  # of a backbone's training images: mean and deviation of red, green and blue in [0, 1]
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "symmetric": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}

Size = int | tuple[int, int]  # side of a square, or (width, height), pixels


def crop_parameters(box_xyxy: np.ndarray, area_factor: float, size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Requested scale and shift of the crop centred on a box: crop = scale * frame + shift.

    The crop covers (w + p) * (h + p) frame pixels with p = (area_factor - 1) * (w + h) / 2.

    Args:
        box_xyxy: (4,) float64, frame pixels, with area.
        area_factor: no unit, see above; 2 for the template, 4 or 5 for the search region.
        size: side of the crop, or (width, height), pixels.
    Returns scale (2,) and shift (2,), float64, order x, y; the two scales are equal.
    Source: SiamFC's context margin (arXiv 1606.09549) with LoRAT's factor.
    """
    extent = np.array(size if isinstance(size, tuple) else (size, size), np.float64)  # (2,) width, height
    width, height = box_xyxy[2] - box_xyxy[0], box_xyxy[3] - box_xyxy[1]
    pad = (area_factor - 1) * (width + height) / 2
    scale = np.full(2, np.sqrt(extent.prod() / ((width + pad) * (height + pad))))
    return scale, extent / 2 - scale * (box_xyxy[:2] + box_xyxy[2:]) / 2


@dataclass(frozen=True, eq=False)
class Crop:
    """A crop of one frame: its window of whole frame pixels, their position in the crop, applied scale and shift."""

    size: tuple[int, int]  # (width, height) of the crop, pixels
    source: tuple[int, int, int, int]  # xyxy in the frame, end exclusive
    target: tuple[int, int, int, int]  # xyxy in the crop, end exclusive
    scale: np.ndarray  # (2,) float64, crop pixels per frame pixel along x and y; NaN if the crop misses the frame
    shift: np.ndarray  # (2,) float64, crop pixels

    @classmethod
    def around(
        cls,
        box_xyxy: np.ndarray,
        area_factor: float,
        size: Size,
        frame_size: tuple[int, int],
        least_side: float = 0.0,
    ) -> Crop:
        """Crop centred on a box (xyxy, float64, frame pixels) in a frame of (height, width) pixels.

        A side of the box below `least_side` pixels is raised to it about the centre.
        """
        if least_side:
            centre = (box_xyxy[:2] + box_xyxy[2:]) / 2
            half = np.maximum(box_xyxy[2:] - box_xyxy[:2], least_side) / 2
            box_xyxy = np.concatenate([centre - half, centre + half])
        return cls.aligned(*crop_parameters(box_xyxy, area_factor, size), size, frame_size)

    @classmethod
    def aligned(cls, scale: np.ndarray, shift: np.ndarray, size: Size, frame_size: tuple[int, int]) -> Crop:
        """Crop closest to a requested scale (2,) and shift (2,) that maps whole pixels to whole pixels."""
        width, height = size if isinstance(size, tuple) else (size, size)
        frame_height, frame_width = frame_size
        wanted = np.array([0.0, 0.0, frame_width, frame_height]) * np.tile(scale, 2) + np.tile(
            shift, 2
        )  # the whole frame
        target = rasterize(clip_to_image(wanted, (height, width)))  # (4,) int64 xyxy, crop pixels
        inverse = target * np.tile(1 / scale, 2) + np.tile(-shift / scale, 2)  # (4,) float64 xyxy, frame pixels
        source = clip_to_image(rasterize(inverse), frame_size)  # (4,) int64 xyxy, frame pixels
        # The official code rounds the applied parameters to float32, and its boxes follow from the rounded values.
        with np.errstate(divide="ignore", invalid="ignore"):
            source32, target32 = source.astype(np.float32), target.astype(np.float32)
            applied = (target32[2:] - target32[:2]) / (source32[2:] - source32[:2])  # (2,) along x, y
            offset = target32[:2] - source32[:2] * applied  # (2,)
        if min(target[2:] - target[:2]) <= 0 or min(source[2:] - source[:2]) <= 0:
            applied = offset = np.full(2, np.nan)
            target = np.zeros(4, np.int64)
        pixels = (tuple(int(v) for v in source), tuple(int(v) for v in target))
        return cls((width, height), *pixels, applied.astype(np.float64), offset.astype(np.float64))  # type: ignore[arg-type]

    @property
    def inside(self) -> bool:
        """True if the crop lies inside the frame, without any fill colour."""
        return self.target == (0, 0, *self.size)

    def cut(self, frame: np.ndarray, fill: np.ndarray, *, rounded: bool = False) -> np.ndarray:
        """Cut the crop out of a frame.

        Args:
            frame: (H, W, 3) uint8 RGB.
            fill: (3,) float32, the colour outside the frame, 0..255.
            rounded: return uint8 grey levels, three times as fast.
        Returns (height, width, 3) float32 RGB, 0..255; bilinear, half-pixel centres, no antialias.
        """
        width, height = self.size
        dtype = np.uint8 if rounded else np.float32
        x1, y1, x2, y2 = self.target
        if x2 <= x1 or y2 <= y1:
            return np.full((height, width, 3), fill, dtype)
        left, top, right, bottom = self.source
        window = frame[top:bottom, left:right].astype(dtype, copy=False)
        window = cv2.resize(window, (x2 - x1, y2 - y1), interpolation=cv2.INTER_LINEAR)
        if (x1, y1, x2, y2) == (0, 0, width, height):
            return window
        colour = fill.tolist()
        return cv2.copyMakeBorder(window, y1, height - y2, x1, width - x2, cv2.BORDER_CONSTANT, value=colour)

    def to_crop(self, boxes_xyxy: np.ndarray) -> np.ndarray:
        """Boxes (..., 4) xyxy in frame pixels -> crop pixels, float64."""
        return boxes_xyxy * np.tile(self.scale, 2) + np.tile(self.shift, 2)

    def to_frame(self, boxes_xyxy: np.ndarray) -> np.ndarray:
        """Boxes (..., 4) xyxy in crop pixels -> frame pixels, float64."""
        return boxes_xyxy * np.tile(1 / self.scale, 2) + np.tile(-self.shift / self.scale, 2)


def cut_all(
    crops: Sequence[Crop], frames: Sequence[np.ndarray], fills: Sequence[np.ndarray], device: torch.device
) -> torch.Tensor:
    """`Crop.cut` of each crop, on a device; on a CUDA GPU the device resizes.

    Args:
        crops: at least one, all of one size.
        frames: (H, W, 3) uint8 RGB, one for each crop.
        fills: (3,) float32, 0..255, one for each crop.
        device: of the result.
    Returns (N, height, width, 3) float32 RGB, 0..255.
    """
    if device.type == "cuda":
        return resize_there(crops, frames, fills, device)
    cut = [crop.cut(frame, fill) for crop, frame, fill in zip(crops, frames, fills, strict=True)]
    return torch.from_numpy(np.stack(cut)).to(device)


def resize_there(
    crops: Sequence[Crop], frames: Sequence[np.ndarray], fills: Sequence[np.ndarray], device: torch.device
) -> torch.Tensor:
    """As `cut_all`, but the uint8 pixels of each crop's window are copied to the device and resized there.

    Page-locked memory lets a GPU copy one window while the processor gathers the next.
    """
    width, height = crops[0].size
    cut = torch.from_numpy(np.stack(fills)).to(device)[:, None, None].repeat(1, height, width, 1)
    for canvas, crop, frame in zip(cut, crops, frames, strict=True):  # canvas: (height, width, 3)
        (left, top, right, bottom), (x1, y1, x2, y2) = crop.source, crop.target
        if x2 > x1 and y2 > y1:
            window = torch.empty(bottom - top, right - left, 3, dtype=torch.uint8, pin_memory=device.type == "cuda")
            window.numpy()[:] = frame[top:bottom, left:right]
            window = window.to(device, non_blocking=True).permute(2, 0, 1)[None].float()
            window = interpolate(window, (y2 - y1, x2 - x1), mode="bilinear", align_corners=False)
            canvas[y1:y2, x1:x2] = window[0].permute(1, 2, 0)
    return cut


def mean_colour(frame: np.ndarray) -> np.ndarray:
    """Mean of each channel of an (H, W, 3) uint8 frame: (3,) float32, 0..255; the fill colour outside the frame."""
    return np.array(cv2.mean(frame)[:3], np.float32)


def cells_on_target(box_xyxy: np.ndarray, size: int, grid: int) -> np.ndarray:
    """Cells of a crop's grid that the target touches, (grid, grid) bool.

    They are the foreground cells of a template and the positive cells of a search region.

    Args:
        box_xyxy: (4,) float64, crop pixels.
        size: side of the crop, pixels.
        grid: cells along a side.
    Source: LoRAT (arXiv 2403.05231).
    """
    x1, y1, x2, y2 = clip_to_image(rasterize(box_xyxy / (size / grid)), (grid, grid))
    cells = np.zeros((grid, grid), bool)
    cells[y1:y2, x1:x2] = True
    return cells


def normalize(crops: torch.Tensor, normalization: str = "imagenet") -> torch.Tensor:
    """(B, H, W, 3) float, 0..255 -> (B, 3, H, W), (x / 255 - mean) / deviation with a row of `NORMALIZATIONS`."""
    mean, std = map(crops.new_tensor, NORMALIZATIONS[normalization])
    return ((crops / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()
