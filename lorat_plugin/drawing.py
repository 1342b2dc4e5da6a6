"""Boxes with labels, and masks, on a frame."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import cv2
import numpy as np

from lorat_plugin.boxes import xywh_to_xyxy

if TYPE_CHECKING:
    from lorat_plugin.tracker import TrackResult

MIN_SIDE = 360  # pixels; smaller frames are enlarged so that a label can be read
FONT = cv2.FONT_HERSHEY_SIMPLEX


def object_colour(number: int) -> tuple[int, int, int]:
    """RGB colour of an object's id. Neighbouring ids get hues far apart: steps of the golden angle."""
    red, green, blue = colorsys.hsv_to_rgb((0.36 + number * 0.381966) % 1.0, 0.9, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def outline_boxes(
    image: np.ndarray, boxes: Iterable[tuple[np.ndarray, tuple[int, int, int]]], line: int, zoom: float = 1.0
) -> None:
    """Draw boxes as lines between black ones, to be seen on any ground.

    Args:
        image: (H, W, 3) uint8 RGB; it is drawn on.
        boxes: pairs of x, y, w, h (4,) and an RGB colour. A box that is not finite or has no area is left out.
        line: width of a coloured line in pixels; a thin one does not hide a small target.
        zoom: pixels of the image for a pixel of the boxes.
    """
    corners = []
    for box, colour in boxes:
        if np.isfinite(box).all() and box[2] > 0 and box[3] > 0:
            x1, y1, x2, y2 = (round(float(v)) for v in np.clip(xywh_to_xyxy(box) * zoom, -1e6, 1e6))
            corners.append(((x1, y1), (x2 - 1, y2 - 1), colour))
    for corner, opposite, _ in corners:  # first, so that no box blackens another
        cv2.rectangle(image, corner, opposite, (0, 0, 0), line + 2, cv2.LINE_AA)
    for corner, opposite, colour in corners:
        cv2.rectangle(image, corner, opposite, colour, line, cv2.LINE_AA)


def draw_results(
    image: np.ndarray, results: Mapping[int, TrackResult], masks: Mapping[int, np.ndarray] | None = None
) -> np.ndarray:
    """Draw each object's box, id and score, and its mask as a veil with an outline.

    Args:
        image: (H, W, 3) uint8 RGB; it is not changed.
        results: id -> result with box x, y, w, h in frame pixels. A box that is not finite is left out.
        masks: id -> (H, W) bool, for all objects or some.

    Returns a (k H, k W, 3) uint8 RGB picture, k >= 1 an integer: frames with a side below 360 pixels are enlarged.
    """
    zoom = max(1, -(-MIN_SIDE // min(image.shape[:2])))
    if max(image.shape[:2]) * zoom > 4096:  # thin strips stay within what video encoders take
        zoom = max(1, 4096 // max(image.shape[:2]))
    canvas = np.ascontiguousarray(image.repeat(zoom, axis=0).repeat(zoom, axis=1))
    line = max(2, round(min(canvas.shape[:2]) / 400))
    for number, mask in (masks or {}).items():
        _draw_mask(canvas, mask.repeat(zoom, axis=0).repeat(zoom, axis=1), object_colour(number))
    for number, result in results.items():
        if not np.isfinite(result.box).all():
            continue
        x, y, w, h = np.clip(np.asarray(result.box) * zoom, -1e6, 1e6)
        corner, opposite = (round(x), round(y)), (round(x + w) - 1, round(y + h) - 1)
        colour = object_colour(number)
        cv2.rectangle(canvas, corner, opposite, colour, line)
        state = "absent" if result.absent else f"{result.score:.2f}"
        _draw_label(canvas, f"{number}  {state}", corner, colour)
    return canvas


def _draw_mask(canvas: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int]) -> None:
    """A veil over the mask's pixels, through which the object stays visible, and a line around them."""
    canvas[mask] = np.round(0.6 * canvas[mask] + 0.4 * np.array(colour)).astype(np.uint8)
    outline, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(canvas, outline, -1, colour, 1)


def _draw_label(canvas: np.ndarray, text: str, corner: tuple[int, int], colour: tuple[int, int, int]) -> None:
    """Text on a filled ground above the corner of a box, or below it where the frame leaves no room."""
    scale = max(0.4, min(canvas.shape[:2]) / 1400)
    line = max(1, round(1.5 * scale))
    (width, height), base = cv2.getTextSize(text, FONT, scale, line)
    margin = max(2, height // 3)
    full_width, full_height = width + 2 * margin, height + base + margin
    left = max(0, min(corner[0], canvas.shape[1] - full_width))
    top = corner[1] - full_height if corner[1] >= full_height else corner[1]
    top = max(0, min(top, canvas.shape[0] - full_height))
    cv2.rectangle(canvas, (left, top), (left + full_width, top + full_height), colour, cv2.FILLED)
    light = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 128
    ink = (0, 0, 0) if light else (255, 255, 255)
    cv2.putText(canvas, text, (left + margin, top + height + margin // 2), FONT, scale, ink, line, cv2.LINE_AA)
