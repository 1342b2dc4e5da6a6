"""The annotated video of the demonstration: ground truth and two trackers on every sequence, one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from lorat_plugin.boxes import iou, xywh_to_xyxy
from lorat_plugin.errors import InputError
from lorat_plugin.files import whole_file
from lorat_plugin.images import read_image
from lorat_plugin.video.drawing import FONT, outline_boxes

FPS = 20
MAX_FRAMES = 1500  # later sequences are left out of the video
MAX_SIDE = 960  # larger frames are shrunk
MIN_WIDTH = 480  # room for the line of text
TRUTH, COLOURS = (255, 255, 255), ((60, 230, 60), (255, 140, 0))  # RGB
BAND = 26  # height in pixels of the line of text below the frame


def write_video(
    path: Path,
    sequences: Mapping[str, tuple[Sequence[str], np.ndarray]],
    shown: Mapping[str, Mapping[str, np.ndarray]],
) -> None:
    """Write an mp4 (MPEG-4 part 2, which every OpenCV wheel writes).

    Args:
        path: file to write; it appears only when complete.
        sequences: name -> (frame files, ground truth (N, 4) x, y, w, h in pixels; no area means absent).
        shown: tracker -> name of a sequence -> boxes (N, 4). The first tracker is green, the second orange.
    Raises InputError if this OpenCV cannot write the file.
    """
    sizes = np.array([read_image(Path(frames[0])).shape[:2] for frames, _ in sequences.values()])
    zoom = min(1.0, MAX_SIDE / float(sizes.max()))
    height, width = (int(side * zoom) // 2 * 2 for side in sizes.max(axis=0))  # encoders want even sizes
    width = max(width, MIN_WIDTH)
    with whole_file(path) as part:
        writer = cv2.VideoWriter(str(part), cv2.VideoWriter.fourcc(*"mp4v"), FPS, (width, height + BAND))
        if not writer.isOpened():
            raise InputError(f"{path}: this OpenCV cannot write mp4; install opencv-python from the package index")
        try:
            written = 0
            for name, (frames, truth) in sequences.items():
                if written and written + len(frames) > MAX_FRAMES:
                    break
                boxes = {tracker: by_sequence[name] for tracker, by_sequence in shown.items()}
                for index, frame in enumerate(frames[:MAX_FRAMES]):
                    at = {tracker: rows[index] for tracker, rows in boxes.items()}
                    canvas = np.zeros((height + BAND, width, 3), np.uint8)
                    _draw(canvas, read_image(Path(frame)), zoom, truth[index], at)
                    _write_legend(canvas, f"{name}  {index + 1}/{len(frames)}", truth[index], at)
                    writer.write(cv2.cvtColor(canvas, cv2.COLOR_RGB2BGR))
                written += len(frames)
        finally:
            writer.release()


def _draw(
    canvas: np.ndarray, image: np.ndarray, zoom: float, truth: np.ndarray, boxes: Mapping[str, np.ndarray]
) -> None:
    """Put the frame into the upper left of the canvas and the boxes on it."""
    if zoom < 1:
        image = cv2.resize(image, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_AREA)
    height, width = min(image.shape[0], canvas.shape[0] - BAND), min(image.shape[1], canvas.shape[1])
    canvas[:height, :width] = image[:height, :width]
    line = max(1, round(min(height, width) / 300))
    outline_boxes(canvas[:height, :width], [(truth, TRUTH), *zip(boxes.values(), COLOURS, strict=False)], line, zoom)


def _write_legend(canvas: np.ndarray, title: str, truth: np.ndarray, boxes: Mapping[str, np.ndarray]) -> None:
    """One line below the frame: sequence and frame number, then each tracker with its overlap in its colour."""
    words = [(title, (200, 200, 200)), ("ground truth", TRUTH)]
    for (name, box), colour in zip(boxes.items(), COLOURS, strict=False):
        words.append((f"{name} {float(iou(xywh_to_xyxy(box), xywh_to_xyxy(truth))):.2f}", colour))
    x = 6
    for word, colour in words:
        cv2.putText(canvas, word, (x, canvas.shape[0] - 8), FONT, 0.45, colour, 1, cv2.LINE_AA)
        x += cv2.getTextSize(word, FONT, 0.45, 1)[0][0] + 16
