"""Tiny sequences on disk for tests of toolkits: a red square that moves over noise."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

SIZE = (90, 120)  # height, width


def square_sequence(length: int, seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    """Frames (90, 120, 3) uint8 RGB and boxes (length, 4) float64 x, y, w, h; the square moves by 3, 2 pixels each."""
    background = np.random.default_rng(seed).integers(0, 120, (*SIZE, 3), np.uint8)
    boxes = np.array([(30.0 + 3 * i, 20.0 + 2 * i, 16.0, 16.0) for i in range(length)])
    frames = []
    for x, y, w, h in boxes.astype(int):
        frame = background.copy()
        frame[y : y + h, x : x + w] = (220, 40, 30)
        frames.append(frame)
    return frames, boxes


def write_frames(folder: Path, frames: list[np.ndarray], digits: int = 8, suffix: str = ".jpg") -> None:
    """Write RGB frames as 00000001.jpg, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(frames, start=1):
        cv2.imwrite(str(folder / f"{number:0{digits}d}{suffix}"), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))


def write_clip(home: Path, length: int = 6, seed: int = 0) -> np.ndarray:
    """A clip in plain layout, frames beside groundtruth.txt; returns its boxes."""
    frames, boxes = square_sequence(length, seed)
    write_frames(home, frames)
    np.savetxt(home / "groundtruth.txt", boxes, fmt="%.3f", delimiter=",")
    return boxes


def write_video(path: Path, length: int = 8) -> None:
    """A video (240, 320) of a red box that starts at x, y, w, h = 120, 80, 64, 48 and moves by 2, 1 pixels."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 25, (320, 240))
    background = np.random.default_rng(0).integers(0, 120, (240, 320, 3), np.uint8)
    for i in range(length):
        frame = background.copy()
        frame[80 + i : 128 + i, 120 + 2 * i : 184 + 2 * i] = (40, 60, 220)
        writer.write(frame)
    writer.release()
