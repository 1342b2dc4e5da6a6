"""A target that is gone for 2,000 frames: its box stays sane, and a frame costs the same memory and time."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Iterator

import cv2
import numpy as np
import pytest

from lorat_plugin import LoRATTracker
from tests.helpers.sequences import square_sequence

SIZE = (240, 320)  # height, width
SCALE = 320 / 120


def without_target(count: int) -> Iterator[np.ndarray]:
    """A blank picture, then noise, then another scene that moves, a third of the frames each."""
    noise = np.random.default_rng(1)
    patches = np.random.default_rng(5).integers(0, 255, (6, 8, 3), np.uint8)
    scene = cv2.resize(patches, SIZE[::-1], interpolation=cv2.INTER_CUBIC)
    for number in range(count):
        if number < count // 3:
            yield np.full((*SIZE, 3), 90, np.uint8)
        elif number < 2 * count // 3:
            yield noise.integers(0, 255, (*SIZE, 3), np.uint8)
        else:
            yield np.roll(scene, 2 * number, axis=1)


@pytest.mark.slow
def test_a_target_that_is_gone_costs_nothing_and_comes_back() -> None:
    """With the default of `lorat track` the box stays near its size."""
    small, boxes = square_sequence(20)
    seen = [cv2.resize(frame, SIZE[::-1]) for frame in small]
    tracker = LoRATTracker.from_pretrained("lorat_tiny", device="cpu", engine="eager", absent_below=None)
    tracker.init(seen[0], boxes[0] * SCALE)
    for frame in seen[1:]:
        before = tracker.update(frame).box
    areas, seconds, memory = [], [], []
    tracemalloc.start()
    for number, frame in enumerate(without_target(2000)):
        began = time.thread_time()  # not the time that other processes take
        x, y, w, h = tracker.update(frame).box
        seconds.append(time.thread_time() - began)
        areas.append(w * h)
        assert 0 <= x <= x + w <= SIZE[1] + 1e-6 and 0 <= y <= y + h <= SIZE[0] + 1e-6
        if number % 50 == 49:
            memory.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert max(areas) <= 4 * before[2] * before[3]
    assert memory[-1] - memory[1] < 1 << 20
    assert np.median(seconds[-50:]) < 3 * np.median(seconds[:50]) + 0.01
    for frame in seen[::-1]:
        result = tracker.update(frame)
    assert result.score > 0.5 and not result.absent
