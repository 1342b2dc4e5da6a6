"""Frames made on the fly: cut-outs moving over photos, and patches of photos under a warp.

A pair is a pure function of the generator handed in. Frames are small (240 x 320 or so): the crops taken from them are
no larger, and rendering more pixels than the network sees would only cost time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
from numpy.random import Generator

from lorat_plugin.boxes import clip_to_image
from lorat_plugin.synthetic import rendering
from lorat_plugin.synthetic.material import Material

FRAME_SIZES = ((240, 320), (192, 336), (320, 240), (256, 256))  # (h, w)
_CIRCLE = np.column_stack([f(np.linspace(0, 2 * math.pi, 24, endpoint=False)) for f in (np.cos, np.sin)]) / 2


class FramePair(NamedTuple):
    """Two frames with one target: template_frame, search_frame (H, W, 3) uint8 RGB; boxes (4,) float64 xyxy,
    frame pixels, clipped to the frame and with area.

    third is another frame with its box, from which LoRATv2 cuts the template of a sample with a reference.
    origin names the video, picture or object: pairs of one origin may show the same target. Where present is False
    the search frame does not show the target, and search_box says where it is looked for.
    """

    template_frame: np.ndarray
    template_box: np.ndarray
    search_frame: np.ndarray
    search_box: np.ndarray
    origin: str = ""
    present: bool = True
    third: tuple[np.ndarray, np.ndarray] | None = None


class PairSource(Protocol):
    """Where pairs come from; whatever a call draws depends on its arguments alone.

    A pair of no use is None; a file that cannot be decoded is an InputError that names it.
    """

    def planned(self, epoch: int, index: int, rng: Generator) -> FramePair | None:
        """The pair meant for sample `index` of an epoch, both 0-based."""

    def sample(self, rng: Generator) -> FramePair | None:
        """Another pair for a sample whose planned one was of no use."""


@dataclass(frozen=True, eq=False)
class _Actor:
    """One object of a scene: how it looks and lies in the template frame and in the search frame."""

    cutouts: tuple[rendering.Cutout, rendering.Cutout]
    poses: tuple[rendering.Pose, rendering.Pose]

    def box(self, moment: int) -> np.ndarray:
        return rendering.object_box(self.cutouts[moment], self.poses[moment])


def _log_uniform(rng: Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(math.log(low), math.log(high))))


def _camera(point: tuple[float, float], zoom: float, angle: float, frame_size: tuple[int, int]) -> np.ndarray:
    """(3, 3) map from photo pixels to frame pixels that brings `point` to the middle of the frame."""
    return rendering.warp_matrix(np.array(point), np.array([frame_size[1], frame_size[0]]) / 2, np.full(2, zoom), angle)


def _coin(rng: Generator, chance: float) -> bool:
    return bool(rng.random() < chance)


def _moved(rng: Generator, pose: rendering.Pose, x: float, y: float, size: float) -> rendering.Pose:
    """The same object a while later, elsewhere: it turns, stretches (a changed pose) and tilts."""
    turn = rng.normal(0, 0.15) if _coin(rng, 0.8) else rng.uniform(-math.pi, math.pi) * 0.6
    return rendering.Pose(
        x,
        y,
        size,
        aspect=pose.aspect * _log_uniform(rng, 0.7, 1.4),
        angle=pose.angle + float(turn),
        flip=pose.flip != _coin(rng, 0.15),
        tilt=(float(rng.normal(0, 0.12)), float(rng.normal(0, 0.12))),
    )


class RenderedPairs:
    """Pairs of rendered frames."""

    tools: Any = rendering  # of the class, since a module cannot be sent to worker processes

    def __init__(self, material: Material, tools: object = None) -> None:
        """Draw from `material`'s cut-outs and photos, by `rendering` or by something with the same functions."""
        self.material = material
        if tools:
            self.tools = tools


class ObjectPairs(RenderedPairs):
    """Cut-outs on photos: a target, look-alikes and other objects around it, occluders before it."""

    def sample(self, rng: Generator) -> FramePair | None:
        """Render one pair; None if the target came to lie (nearly) outside a frame."""
        frame_size = FRAME_SIZES[int(rng.integers(len(FRAME_SIZES)))]
        target, index = self._target(rng, frame_size)
        others = self._others(rng, target, index, frame_size)
        frames, boxes = [], []
        views = self._backgrounds(rng, frame_size)
        look = rendering.random_look(rng, target.poses[0].size)
        for moment in (0, 1):
            canvas = views[moment]
            passing = rng.random(len(others)) < 0.12  # now and then a neighbour passes before the target
            behind = [a for a, before in zip(others, passing, strict=True) if not before]
            front = [a for a, before in zip(others, passing, strict=True) if before]
            for actor in [*behind, target, *front]:
                self.tools.draw(canvas, actor.cutouts[moment], actor.poses[moment])
            box = clip_to_image(target.box(moment), frame_size)
            if min(box[2] - box[0], box[3] - box[1]) < 4:
                return None
            if moment == 1 and _coin(rng, 0.3):
                self._occlude(rng, canvas, box)
            if moment == 1 and _coin(rng, 0.7):
                look = rendering.random_look(rng, target.poses[1].size)
            frames.append(self.tools.degrade(canvas, look, rng))
            boxes.append(box)
        return FramePair(frames[0], boxes[0], frames[1], boxes[1], f"cutout {index}")

    def _later(self, rng: Generator, cutout: rendering.Cutout) -> tuple[rendering.Cutout, rendering.Cutout]:
        """An object now and a while later, when it has often moved its limbs."""
        bent = self.tools.bend(cutout, rng, float(rng.uniform(0.02, 0.12))) if _coin(rng, 0.5) else cutout
        return cutout, bent

    def _pick(self, rng: Generator) -> int:
        people = self.material.people
        if people and _coin(rng, 0.25):  # what is tracked most in videos
            return int(people[int(rng.integers(len(people)))])
        return int(rng.integers(self.material.cutout_count))

    def _target(self, rng: Generator, frame_size: tuple[int, int]) -> tuple[_Actor, int]:
        index = self._pick(rng)
        cutout = self.material.cutout(index)
        if _coin(rng, 0.5):
            cutout = self.tools.recolour(cutout, rng, 0.7)
        size = _log_uniform(rng, 9.0, 100.0)
        tall = float(rng.uniform(0.75, 1.3))
        spot = [self._spot(rng, frame_size, size) for _ in range(2)]
        first = rendering.Pose(*spot[0], size, aspect=tall, angle=float(rng.normal(0, 0.1)), flip=_coin(rng, 0.5))
        scale = min(_log_uniform(rng, 0.6, 1.6), 130 / size)
        return _Actor(self._later(rng, cutout), (first, _moved(rng, first, *spot[1], size * scale))), index

    def _spot(self, rng: Generator, frame_size: tuple[int, int], size: float) -> tuple[float, float]:
        height, width = frame_size
        margin = 0.35 * size if _coin(rng, 0.9) else 0.0  # some targets are leaving the frame
        return (
            float(rng.uniform(margin, max(width - margin, margin + 1))),
            float(rng.uniform(margin, max(height - margin, margin + 1))),
        )

    def _others(self, rng: Generator, target: _Actor, index: int, frame_size: tuple[int, int]) -> list[_Actor]:
        """0 to 5 more objects near the target: copies in other colours, others of its kind, anything."""
        crowd = _coin(rng, 0.35)  # a team, a herd, a car park: all alike
        count = int(rng.integers(2, 6)) if crowd else int(rng.choice(5, p=[0.2, 0.3, 0.25, 0.15, 0.1]))
        return [self._other(rng, target, index, frame_size, crowd) for _ in range(count)]

    def _other(self, rng: Generator, target: _Actor, index: int, frame_size: tuple[int, int], crowd: bool) -> _Actor:
        kind = float(rng.random()) * (0.7 if crowd else 1.0)
        relatives = self.material.relatives(index)
        if kind < 0.35:
            cutout = self.tools.recolour(self.material.cutout(index), rng, 1.0)
        elif kind < 0.7 and len(relatives) > 1:
            cutout = self.material.cutout(relatives[int(rng.integers(len(relatives)))])
            cutout = self.tools.recolour(cutout, rng, 0.8)
        else:
            cutout = self.material.cutout(self._pick(rng))
        scale = _log_uniform(rng, 0.75, 1.35) if kind < 0.7 else _log_uniform(rng, 0.5, 2.0)
        flip, aspect = _coin(rng, 0.5), _log_uniform(rng, 0.8, 1.25)
        poses: list[rendering.Pose] = []
        for own in target.poses:
            direction, distance = rng.uniform(0, 2 * math.pi), own.size * rng.uniform(0.7, 3.0)
            x, y = own.x + distance * math.cos(direction), own.y + 0.7 * distance * math.sin(direction)
            if not poses:
                first = rendering.Pose(x, y, own.size * scale, own.aspect * aspect, float(rng.normal(0, 0.15)), flip)
                poses.append(first)
            else:
                poses.append(_moved(rng, poses[0], x, y, own.size * scale))
        return _Actor(self._later(rng, cutout), (poses[0], poses[1]))

    def _backgrounds(self, rng: Generator, frame_size: tuple[int, int]) -> list[np.ndarray]:
        """Two frames without objects: mostly one photo under a moved camera, sometimes two photos."""
        photo = self.material.photo(int(rng.integers(self.material.photo_count)))
        fit = max(frame_size[0] / photo.shape[0], frame_size[1] / photo.shape[1])
        zoom = fit * _log_uniform(rng, 0.9, 2.2)
        x, y = rng.uniform(0.25, 0.75, 2) * (photo.shape[1], photo.shape[0])
        views = [self.tools.view(photo, _camera((x, y), zoom, 0.0, frame_size), frame_size)]
        if _coin(rng, 0.15):
            photo = self.material.photo(int(rng.integers(self.material.photo_count)))
        shift = rng.normal(0, 40, 2) / zoom
        zoom, turn = zoom * _log_uniform(rng, 0.8, 1.25), float(rng.normal(0, 0.05))
        later = _camera((x + shift[0], y + shift[1]), zoom, turn, frame_size)
        return [*views, self.tools.view(photo, later, frame_size)]

    def _occlude(self, rng: Generator, canvas: np.ndarray, box: np.ndarray) -> None:
        """Hide a part of the target: by another object, or by an upright or flat strip of a photo."""
        width, height = box[2] - box[0], box[3] - box[1]
        x = float(rng.uniform(box[0], box[2]))
        y = float(rng.uniform(box[1], box[3]))
        size = math.sqrt(width * height) * float(rng.uniform(0.3, 0.8))
        if _coin(rng, 0.5):
            cutout = self.material.cutout(int(rng.integers(self.material.cutout_count)))
            self.tools.draw(canvas, cutout, rendering.Pose(x, y, size, angle=float(rng.uniform(-1, 1))))
            return
        photo = self.material.photo(int(rng.integers(self.material.photo_count)))
        patch_y = int(rng.integers(max(1, photo.shape[0] - rendering.PATCH)))
        patch_x = int(rng.integers(max(1, photo.shape[1] - rendering.PATCH)))
        pose = rendering.Pose(x, y, size, aspect=_log_uniform(rng, 0.1, 8.0), angle=float(rng.normal(0, 0.1)))
        self.tools.draw(canvas, self.tools.opaque_patch(photo, patch_x, patch_y), pose)


class PatchPairs(RenderedPairs):
    """A patch of a photo is the target, the rest of the photo the distractor; the photo moves under a warp."""

    def sample(self, rng: Generator) -> FramePair | None:
        """Render one pair; None if the patch is flat or left the frame."""
        index = int(rng.integers(self.material.photo_count))
        photo = self.material.photo(index)
        height, width = photo.shape[:2]
        size = _log_uniform(rng, 24.0, 0.35 * min(height, width))
        aspect = float(np.exp(rng.normal(0, 0.45)))
        extent = np.array([size * math.sqrt(aspect), size / math.sqrt(aspect)])
        centre = rng.uniform(extent / 2, np.array([width, height]) - extent / 2)
        low, high = np.maximum(centre - extent / 2, 0).astype(int), np.ceil(centre + extent / 2).astype(int)
        if not _has_structure(photo[low[1] : high[1], low[0] : high[0]]):
            return None
        outline = centre + _CIRCLE * extent  # things are round rather than rectangular
        frame_size = FRAME_SIZES[int(rng.integers(len(FRAME_SIZES)))]
        limits = np.array([frame_size[1], frame_size[0]])
        fit = float((limits / (width, height)).max())  # below this zoom the photo does not fill the frame
        wanted = float(np.clip(_log_uniform(rng, 12.0, 100.0), fit * size, 1.5 * size))
        frames, boxes = [], []
        for moment in (0, 1):
            zoom = np.full(2, max(fit, wanted / size * (_log_uniform(rng, 0.65, 1.5) if moment else 1.0)))
            zoom[0] *= _log_uniform(rng, 0.85, 1.18) if moment else 1.0
            # where the patch may lie in the frame without the frame reaching past the photo
            reach = np.sort([limits - (np.array([width, height]) - centre) * zoom, centre * zoom], axis=0)
            spot = np.clip(rng.uniform(0.1, 0.9, 2) * limits, *reach)
            matrix = rendering.warp_matrix(centre, spot, zoom, float(rng.normal(0, 0.1)) * moment)
            tilt = np.eye(3)
            tilt[2, :2] = rng.normal(0, 0.1, 2) * moment / max(frame_size)
            matrix = rendering.shift_matrix(*spot) @ tilt @ rendering.shift_matrix(*-spot) @ matrix
            frame = self.tools.view(photo, matrix, frame_size)
            box = clip_to_image(rendering.bounding_box(rendering.map_points(matrix, outline)), frame_size)
            if min(box[2] - box[0], box[3] - box[1]) < 4:
                return None
            frames.append(self.tools.degrade(frame, rendering.random_look(rng, wanted), rng))
            boxes.append(box)
        return FramePair(frames[0], boxes[0], frames[1], boxes[1], f"photo {index}")


def _has_structure(patch: np.ndarray) -> bool:
    """True if a patch holds enough edges to be recognised."""
    if min(patch.shape[:2]) < 8:
        return False
    grey = cv2.resize(cv2.cvtColor(patch, cv2.COLOR_RGB2GRAY), (24, 24), interpolation=cv2.INTER_AREA)
    gx, gy = cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)
    # edges in both directions: along a straight edge a patch could slide unnoticed
    return bool(min(np.abs(gx).mean(), np.abs(gy).mean()) > 18)
