"""Made frames as lists of what is drawn, for a device that draws them: `synthetic`'s pairs without a pixel.

`Recorder` has the functions of `rendering` and makes the same random draws; boxes are the same too. The pictures that
it draws from lie in a bank at several sizes, halved again and again.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator

from lorat_plugin.synthetic import rendering
from lorat_plugin.synthetic.material import Cache, Material
from lorat_plugin.synthetic.pairs import FramePair, ObjectPairs, PatchPairs
from lorat_plugin.training.device.bank import BankFrame, FrameBank, Request

MIN_SIDE = 8  # pixels: pictures are not halved below
SHRINK = 0.6  # pictures drawn below this scale are taken from a smaller size


@dataclass(frozen=True, eq=False)
class Picture:
    """A photo or cut-out in a bank.

    Fields: levels, the same picture at full size, half, a quarter ...; load, which decodes it; corner and shape, the
    part of it that is meant: (x, y) of its first pixel, and (height, width).
    """

    levels: tuple[BankFrame, ...]
    load: Callable[[], np.ndarray]
    shape: tuple[int, ...]
    corner: tuple[int, int] = (0, 0)

    def __getitem__(self, part: Any) -> np.ndarray:
        """Pixels of the whole picture, decoded here."""
        return self.load()[part]


@dataclass(frozen=True, eq=False)
class CutoutRecord:
    """An object as `rendering.Cutout`, with its changes: hull, shape and alpha after bending; split and tints; push."""

    picture: Picture
    shape: tuple[int, int]
    hull: np.ndarray
    alpha: Callable[[], np.ndarray]
    split: float = 0.0
    tints: tuple[rendering.Tint, rendering.Tint] | None = None
    margin: int = 0
    push: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Layer:
    """One picture in a frame.

    Fields: source, the picture at the size that fits, of which the part of `size` (width, height) from the pixel
    `corner` (x, y) on is meant; scale, its pixels for each pixel of the full size, x and y; inverse, (3, 3) map from
    frame pixels to pixels of the cut-out (bent, at full size); area, xyxy of the frame, that it may touch; cutout, its
    changes, None for a photo.
    """

    source: BankFrame
    corner: tuple[int, int]
    size: tuple[int, int]
    scale: tuple[float, float]
    inverse: np.ndarray
    area: tuple[int, int, int, int]
    cutout: CutoutRecord | None


@dataclass(eq=False)
class FrameRecord:
    """A made frame: layers from the ground up, then light and optics; read renders it on the host."""

    shape: tuple[int, int, int]
    layers: list[Layer] = field(default_factory=list)
    look: rendering.Look = field(default_factory=rendering.Look)
    grain: tuple[int, int] = (0, 0)
    read: Callable[[], np.ndarray] | None = None


class Recorder:
    """The functions of `rendering` that `synthetic` draws frames with."""

    def recolour(self, cutout: CutoutRecord, rng: Generator, strength: float) -> CutoutRecord:
        """As `rendering.recolour`."""
        split, tints = rendering.draw_tints(cutout.shape[0], rng, strength)
        return replace(cutout, split=split, tints=tints)

    def bend(self, cutout: CutoutRecord, rng: Generator, strength: float) -> CutoutRecord:
        """As `rendering.bend`; the outline is bent here, for the box."""
        margin, push = rendering.draw_push(cutout.shape, rng, strength)
        hull = rendering.hull_of(rendering.pushed(cutout.alpha(), margin, push))
        if hull is None:
            return cutout
        shape = (cutout.shape[0] + 2 * margin, cutout.shape[1] + 2 * margin)
        return replace(cutout, shape=shape, hull=hull, margin=margin, push=push)

    def draw(self, canvas: FrameRecord, cutout: CutoutRecord, pose: rendering.Pose) -> None:
        """As `rendering.draw`."""
        matrix = rendering.pose_matrix(cutout.shape, pose)
        area = rendering.covered(matrix, cutout.shape, canvas.shape)
        if area[2] > area[0] and area[3] > area[1]:
            canvas.layers.append(_layer(cutout.picture, matrix, area, cutout))

    def view(self, photo: Picture, matrix: np.ndarray, frame_size: tuple[int, int]) -> FrameRecord:
        """As `rendering.view`."""
        height, width = frame_size
        return FrameRecord((height, width, 3), [_layer(photo, matrix, (0, 0, width, height), None)])

    def opaque_patch(self, photo: Picture, x: int, y: int) -> CutoutRecord:
        """As `rendering.opaque_patch`."""
        shape = (min(rendering.PATCH, photo.shape[0] - y), min(rendering.PATCH, photo.shape[1] - x))
        whole = np.array([[0, 0], [shape[1], 0], [0, shape[0]], shape[::-1]], np.float64)
        part = replace(photo, levels=photo.levels[:1], corner=(x, y), shape=shape)
        return CutoutRecord(part, shape, whole, lambda: np.full(shape, 255, np.uint8))

    def degrade(self, frame: FrameRecord, look: rendering.Look, rng: Generator) -> FrameRecord:
        """As `rendering.degrade`."""
        frame.look = look
        if look.noise:
            frame.grain = rendering.draw_grain(frame.shape[:2], rng)
        return frame


def _layer(picture: Picture, matrix: np.ndarray, area: tuple[int, int, int, int], cutout: CutoutRecord | None) -> Layer:
    scale = float(np.sqrt(abs(np.linalg.det(matrix[:2, :2]))))
    level = int(np.clip(round(-np.log2(scale)), 0, len(picture.levels) - 1)) if scale < SHRINK else 0
    source, full = picture.levels[level], picture.levels[0]
    factor = (source.shape[1] / full.shape[1], source.shape[0] / full.shape[0])
    size = (round(picture.shape[1] * factor[0]), round(picture.shape[0] * factor[1]))
    return Layer(source, picture.corner, size, factor, np.linalg.inv(matrix), area, cutout)


class BankedMaterial:
    """A `Material` whose pictures lie in a bank: its cut-outs and photos are records."""

    def __init__(self, material: Material) -> None:
        """Stand for `material`; the `bank` comes before the first draw."""
        self.material, self.key = material, f"material {id(material)}"
        self.bank: FrameBank | None = None
        self.cutout_count, self.photo_count = material.cutout_count, material.photo_count
        self.people, self.relatives = material.people, material.relatives
        self.cutout = Cache(self._cutout, material.cutout_count)
        self.photo = Cache(self._photo, material.photo_count)
        self._levels: dict[tuple[str, int], int] = {}

    def requests(self) -> Iterator[Request]:
        """All pictures at all sizes. Raises InputError naming one that cannot be decoded."""
        for subject, count in (("cutout", self.cutout_count), ("photo", self.photo_count)):
            for index in range(count):
                height, width = self._whole(subject, index).shape[:2]
                self._levels[subject, index] = 1 + max(int(np.log2(max(min(height, width) / MIN_SIDE, 1))), 0)
                for level in range(self._levels[subject, index]):
                    size = _halved(width, height, level)
                    read = partial(self._read, subject, index, level)
                    yield Request((self.key, subject, index, level), lambda size=size: size, read)  # type: ignore[misc]

    def _whole(self, subject: str, index: int) -> np.ndarray:
        return self.material.photo(index) if subject == "photo" else self.material.cutout(index).rgba

    def _read(self, subject: str, index: int, level: int) -> np.ndarray:
        image = self._whole(subject, index)
        size = _halved(image.shape[1], image.shape[0], level)
        return cv2.resize(image, size, interpolation=cv2.INTER_AREA) if level else image

    def _picture(self, subject: str, index: int) -> Picture:
        assert self.bank
        levels = tuple(self.bank((self.key, subject, index, level)) for level in range(self._levels[subject, index]))
        return Picture(levels, partial(self._whole, subject, index), levels[0].shape)

    def _photo(self, index: int) -> Picture:
        return self._picture("photo", index)

    def _cutout(self, index: int) -> CutoutRecord:
        own: rendering.Cutout = self.material.cutout(index)
        picture = self._picture("cutout", index)
        return CutoutRecord(picture, own.shape, own.hull, lambda: self.material.cutout(index).rgba[..., 3])


def _halved(width: int, height: int, times: int) -> tuple[int, int]:
    return max(width >> times, 1), max(height >> times, 1)


class RecordedPairs:
    """Pairs as a source of `synthetic` draws them, with records instead of frames."""

    def __init__(self, pairs: ObjectPairs | PatchPairs, recording: ObjectPairs | PatchPairs) -> None:
        """`pairs` renders on the host what `recording`, which draws alike, records."""
        self.pairs, self.recording = pairs, recording

    @property
    def material(self) -> Material:
        """Their material."""
        return self.pairs.material

    def sample(self, rng: Generator) -> FramePair | None:
        """Draw a pair, or None as the source does."""
        before = copy.deepcopy(rng)
        pair = self.recording.sample(rng)
        if pair is not None:
            for name in ("template_frame", "search_frame"):
                getattr(pair, name).read = partial(self._render, copy.deepcopy(before), name)
        return pair

    def _render(self, rng: Generator, name: str) -> np.ndarray:
        pair = self.pairs.sample(copy.deepcopy(rng))
        assert pair
        return getattr(pair, name)
