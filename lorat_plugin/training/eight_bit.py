"""The colour operations of `augment` on (H, W, 3) uint8 RGB crops, by tables and OpenCV.

Each rounds to whole grey levels, so a crop ends about one level from the float32 result; flips of solarised pixels
around the threshold aside.
"""

from __future__ import annotations

import cv2
import numpy as np


def adjust_brightness(crop: np.ndarray, factor: float) -> np.ndarray:
    """Scale all values."""
    return cv2.LUT(crop, _table(factor, 0))


def adjust_contrast(crop: np.ndarray, factor: float) -> np.ndarray:
    """Blend with the mean grey level of the crop."""
    mean = cv2.mean(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY))[0]
    return cv2.LUT(crop, _table(factor, (1 - factor) * mean))


def adjust_saturation(crop: np.ndarray, factor: float) -> np.ndarray:
    """Blend with the grey version of the crop."""
    return cv2.addWeighted(crop, factor, to_grey(crop), 1 - factor, 0)


ADJUSTMENTS = (adjust_brightness, adjust_contrast, adjust_saturation)


def to_grey(crop: np.ndarray) -> np.ndarray:
    """The crop without colour, of the same shape."""
    return cv2.cvtColor(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def solarize(crop: np.ndarray) -> np.ndarray:
    """Levels from 128 on inverted."""
    return cv2.min(crop, cv2.bitwise_not(crop))


def blur(crop: np.ndarray, radius: float) -> np.ndarray:
    """Gaussian blur of deviation `radius`, pixels."""
    return cv2.GaussianBlur(crop, (0, 0), radius, borderType=cv2.BORDER_REPLICATE)


def _table(factor: float, offset: float) -> np.ndarray:
    return np.clip(np.rint(np.arange(256) * factor + offset), 0, 255).astype(np.uint8)
