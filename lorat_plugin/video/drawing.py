"""Boxes with labels, and masks, on a frame."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import cv2
import numpy as np

from lorat_plugin.boxes import xywh_to_xyxy
from lorat_plugin.interchange.tracks import LABEL

if TYPE_CHECKING:
    import supervision

    from lorat_plugin.tracker import TrackResult

MIN_SIDE = 360  # pixels; smaller frames are enlarged so that a label can be read


def object_colour(number: int) -> tuple[int, int, int]:
    """RGB colour of an object's id. Neighbouring ids get hues far apart: steps of the golden angle."""
    red, green, blue = colorsys.hsv_to_rgb((0.36 + number * 0.381966) % 1.0, 0.9, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def outline_boxes(
    image: np.ndarray, boxes: Iterable[tuple[np.ndarray, tuple[int, int, int]]], line: int, zoom: float = 1.0
) -> None:
    """Draw boxes on an (H, W, 3) uint8 RGB image as coloured lines between black ones, to be seen on any ground.

    `boxes` are pairs of x, y, w, h (4,) and an RGB colour; one that is not finite or has no area is left out. Lines are
    `line` pixels wide; a pixel of the boxes is `zoom` pixels of the image.
    """
    corners = []
    for box, colour in boxes:
        if np.isfinite(box).all() and box[2] > 0 and box[3] > 0:
            x1, y1, x2, y2 = (round(float(v)) for v in np.clip(xywh_to_xyxy(box) * zoom, -1e6, 1e6))
            corners.append(((x1, y1), (x2 - 1, y2 - 1), colour))
    for corner, opposite, _ in corners:  # first, so that no box blackens another
        cv2.rectangle(image, corner, opposite, (0, 0, 0), line + 2)
    for corner, opposite, colour in corners:
        cv2.rectangle(image, corner, opposite, colour, line)


def to_detections(
    results: Mapping[int, TrackResult],
    labels: Mapping[int, str] | None = None,
    masks: Mapping[int, np.ndarray] | None = None,
) -> supervision.Detections:
    """One frame's results as `supervision.Detections`, for its annotators and tools; absent objects are left out.

    `results` are by id, as `MultiObjectTracker.update` returns them, of `LoRATTracker` `{0: result}`; `labels` id ->
    what the object is, else "object"; `masks` id -> (H, W) bool, for all objects or none. Returns detections with xyxy
    in pixels, confidence, tracker_id, class_id (the label's index among the labels) and class_name.
    """
    import supervision

    seen = {number: result for number, result in results.items() if not result.absent}
    names = [(labels or {}).get(number, LABEL) for number in seen]
    classes = list(dict.fromkeys((labels or {}).values())) or [LABEL]
    classes += [LABEL] if LABEL not in classes else []
    return supervision.Detections(
        xyxy=xywh_to_xyxy(np.array([result.box for result in seen.values()], np.float64).reshape(-1, 4)),
        mask=np.stack([masks[number] for number in seen]) if masks and seen else None,
        confidence=np.array([result.score for result in seen.values()], np.float64),
        class_id=np.array([classes.index(name) for name in names], np.int64),
        tracker_id=np.array(list(seen), np.int64),
        data={"class_name": np.array(names, str)},
    )


def draw_results(
    image: np.ndarray,
    results: Mapping[int, TrackResult],
    masks: Mapping[int, np.ndarray] | None = None,
    names: Mapping[int, str] | None = None,
) -> np.ndarray:
    """Draw each object's box, label and score, and its mask as a veil with an outline, by supervision's annotators.

    `image` is (H, W, 3) uint8 RGB and is not changed; `results` are by id, left out where the box is not finite;
    `masks` id -> (H, W) bool, for all or some; `names` id -> label, else the id. Returns a (k H, k W, 3) uint8 RGB
    picture, k >= 1 an integer: frames with a side below 360 pixels are enlarged.
    """
    import supervision

    zoom = max(1, -(-MIN_SIDE // min(image.shape[:2])))
    if max(image.shape[:2]) * zoom > 4096:  # thin strips stay within what video encoders take
        zoom = max(1, 4096 // max(image.shape[:2]))
    size = (image.shape[1] * zoom, image.shape[0] * zoom)
    canvas = cv2.resize(image, size, interpolation=cv2.INTER_NEAREST)  # a copy, also if nothing is enlarged
    shown = {number: result for number, result in results.items() if np.isfinite(result.box).all()}
    if not shown:
        return canvas
    colours = [object_colour(number) for number in shown]
    # the annotators take a picture for BGR: blue and red change places
    ground = supervision.ColorPalette([supervision.Color(blue, green, red) for red, green, blue in colours])
    light = [0.299 * red + 0.587 * green + 0.114 * blue > 128 for red, green, blue in colours]
    ink = supervision.ColorPalette([supervision.Color.BLACK if bright else supervision.Color.WHITE for bright in light])
    index = supervision.ColorLookup.INDEX  # not TRACK, which takes colours modulo the palette and no id below 0
    line, scale = supervision.calculate_optimal_line_thickness(size), max(0.4, min(size) / 1400)
    detections = to_detections({number: result._replace(absent=False) for number, result in shown.items()})
    detections.xyxy = np.clip(detections.xyxy * zoom, -1e6, 1e6).round() - (0, 0, 1, 1)
    if masks:
        veils = [masks.get(number, np.zeros(image.shape[:2], bool)).astype(np.uint8) for number in shown]
        veils = [cv2.resize(veil, size, interpolation=cv2.INTER_NEAREST) for veil in veils]
        detections.mask = np.stack(veils).astype(bool)
        canvas = supervision.MaskAnnotator(ground, 0.4, index).annotate(canvas, detections)
        canvas = supervision.PolygonAnnotator(ground, 1, index).annotate(canvas, detections)
    outline_boxes(canvas, zip((result.box for result in shown.values()), colours, strict=True), line, zoom)
    labels = supervision.LabelAnnotator(
        color=ground, color_lookup=index, text_color=ink, text_scale=scale, text_thickness=max(1, round(1.5 * scale)),
        text_padding=round(8 * scale), smart_position=True,
    )  # fmt: skip
    scores = {n: "absent" if result.absent else format(result.score, ".2f") for n, result in shown.items()}
    return labels.annotate(canvas, detections, [f"{(names or {}).get(n, n)}  {score}" for n, score in scores.items()])
