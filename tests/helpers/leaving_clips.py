"""Clips whose target leaves the frame, or vanishes, and comes back elsewhere; how trackers do on them.

`python -m tests.helpers.leaving_clips CUTOUTS PHOTOS` prints a row of measures for each threshold; without
folders: made up.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lorat_plugin.boxes import area, clip_to_image, iou, success_auc, xywh_to_xyxy, xyxy_to_xywh
from lorat_plugin.presence import PresenceRule
from lorat_plugin.synthetic.material import Material
from lorat_plugin.synthetic.rendering import Look, Pose, degrade, draw, object_box, view, warp_matrix
from lorat_plugin.tracker import LoRATTracker

SIZE = (360, 480)  # height, width
BEFORE, AFTER = 15, 40  # frames with the target, until it is gone and from when it enters again


class LeavingClip(NamedTuple):
    """frames; boxes (N, 4) xyxy clipped to the frame; seen (N,), share of the target in the frame; back, a frame."""

    frames: list[np.ndarray]
    boxes: np.ndarray
    seen: np.ndarray
    back: int


def leaving_clip(material: Material, seed: int, vanishes: bool) -> LeavingClip:
    """A target of 30 to 65 pixels before a moving photo, gone for 20 to 49 frames, beside two other objects.

    It leaves over a border and enters over another one; or, if it `vanishes`, it is hidden at once and appears at once.
    """
    rng = np.random.default_rng((seed, vanishes))
    extent, size = np.array(SIZE[::-1]), 0.12 * SIZE[0] * float(np.exp(rng.uniform(math.log(0.7), math.log(1.5))))
    gone = int(rng.integers(20, 50))
    places = _places(rng, extent, size, gone, vanishes)
    photo = material.photo(int(rng.integers(material.photo_count)))
    target, *others = (material.cutout(int(rng.integers(material.cutout_count))) for _ in range(3))
    ways = [(rng.uniform(0.3, 0.7, 2), rng.uniform(0.1, 0.3, 2), rng.uniform(0, 6, 3)) for _ in others]
    zoom, phase = 1.35 * max(np.array(SIZE) / photo.shape[:2]), rng.uniform(0, 6, 3)
    frames, boxes, seen = [], [], []
    for t, place in enumerate(places):
        turn = 2 * math.pi * t / 120
        spot = np.array(photo.shape[1::-1]) * (0.5 + 0.1 * np.sin(turn * np.array([1, 1.3]) + phase[:2]))
        frame = view(photo, warp_matrix(spot, extent / 2, np.full(2, zoom), 0.0), SIZE)
        for other, (middle, reach, start) in zip(others, ways, strict=True):
            x, y = extent * (middle + reach * np.sin(turn + start[:2]))
            draw(frame, other, Pose(float(x), float(y), size * (0.7 + start[2] / 15)))
        pose = Pose(*map(float, place), size * 1.25 ** math.sin(turn + phase[2]), angle=0.2 * math.sin(turn))
        draw(frame, target, pose)
        whole = object_box(target, pose)
        boxes.append(clip_to_image(whole, SIZE))
        seen.append(float(area(boxes[-1]) / area(whole)))
        frames.append(degrade(frame, Look(noise=2.0, quality=90), rng))
    return LeavingClip(frames, np.array(boxes), np.array(seen), BEFORE + gone)


def _places(rng: np.random.Generator, extent: np.ndarray, size: float, gone: int, vanishes: bool) -> np.ndarray:
    """Centres (N, 2) of the target, pixels; outside the frame while it is gone."""

    def way(start: np.ndarray, end: np.ndarray, frames: int) -> np.ndarray:
        return start + (end - start) * (0.5 - 0.5 * np.cos(np.linspace(0, math.pi, frames)))[:, None]

    def outside() -> np.ndarray:
        point, axis = rng.uniform(0.2, 0.8, 2) * extent, int(rng.integers(2))
        point[axis] = rng.choice([-1.2 * size, extent[axis] + 1.2 * size])
        return point

    a, b, c, d = rng.uniform(0.2, 0.8, (4, 2)) * extent
    away = np.full((gone, 2), -10.0 * size)
    if vanishes:
        return np.concatenate([way(a, b, BEFORE), away, way(c, d, AFTER)])
    return np.concatenate([way(a, b, 5), way(b, outside(), 10), away, way(outside(), c, 10), way(c, d, AFTER - 10)])


class Outcome(NamedTuple):
    """auc, success on frames that show the target; told, share of absent frames that are told so; false, number of
    frames with the target in sight that are told absent; found, whether its last 10 frames are on target; wait, frames
    until it is found, None if it never is.
    """

    auc: float
    told: float
    false: int
    found: bool
    wait: int | None


def track(tracker: LoRATTracker, clip: LeavingClip) -> Outcome:
    """Track a clip from its first box."""
    tracker.init(clip.frames[0], xyxy_to_xywh(clip.boxes[0]))
    results = [tracker.update(frame) for frame in clip.frames[1:]]
    absent, seen = np.array([r.absent for r in results]), clip.seen[1:]
    overlaps = iou(xywh_to_xyxy(np.array([r.box for r in results])), clip.boxes[1:]) * ~absent
    hits = np.flatnonzero(overlaps[clip.back - 1 :] > 0.5)
    found = bool((overlaps[-10:] > 0.5).mean() >= 0.8)
    false = int((absent & (seen > 0.5))[: BEFORE - 1].sum())
    return Outcome(success_auc(overlaps[seen > 0.3]), absent[seen == 0].mean(), false, found, next(iter(hits), None))


def main(folders: list[str], seeds: int = 6) -> None:
    """Print a row for each threshold."""
    material = Material(*(map(Path, folders) if folders else (None, None)))
    clips = [leaving_clip(material, seed, vanishes) for vanishes in (False, True) for seed in range(seeds)]
    tracker = LoRATTracker.from_pretrained("lorat_tiny", device="cpu")
    print("threshold  AUC  told absent  false alarms  found: left  vanished  median wait")
    for absent_below in (0.0, 0.5, 0.6):
        tracker.presence = PresenceRule(absent_below, absent_below)
        done = [track(tracker, clip) for clip in clips]
        left, vanished = (np.mean([o.found for o in part]) for part in (done[:seeds], done[seeds:]))
        waits = [o.wait for o in done if o.wait is not None]
        print(
            f"{absent_below:9.1f} {np.mean([o.auc for o in done]):.3f} {np.mean([o.told for o in done]):11.2f}"
            f" {sum(o.false for o in done):12d} {left:12.2f} {vanished:9.2f} {np.median(waits):8.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
