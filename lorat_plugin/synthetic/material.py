"""Material of made pairs: folders of cut-outs and photographs, or procedural stand-ins where no folder is given."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Generic, TypeVar

import cv2
import numpy as np
from numpy.random import Generator

from lorat_plugin.errors import InputError
from lorat_plugin.images import read_image
from lorat_plugin.synthetic.rendering import Cutout, make_cutout

CUTOUT_TYPES = (".png", ".webp", ".tif", ".tiff")
PHOTO_TYPES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


def list_images(folder: Path, types: Sequence[str], exclude: Sequence[str]) -> list[Path]:
    """Image files of a folder, sorted by name, without names that start with one of `exclude`.

    Raises InputError if the folder is absent or nothing is left.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; name a folder of images or leave the option out")
    names = sorted(p for p in folder.iterdir() if p.suffix.lower() in types)
    kept = [p for p in names if not p.name.startswith(tuple(exclude))]
    if not kept:
        raise InputError(f"{folder} holds no usable image ({', '.join(types)}; {len(names)} before exclusion)")
    return kept


def _shrunk(image: np.ndarray, longest: int) -> np.ndarray:
    """The image with no side longer than `longest` pixels."""
    scale = longest / max(image.shape[:2])
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else image


Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Cache(Generic[Key, Value]):
    """A function that keeps its last results. Pickled without them, so that worker processes start small anywhere."""

    def __init__(self, load: Callable[[Key], Value], size: int) -> None:
        """Keep the `size` most recently used results of `load`."""
        self._load, self._size = load, size
        self._held: OrderedDict[Key, Value] = OrderedDict()

    def __call__(self, key: Key) -> Value:
        """The result for `key`, made at the first call."""
        value = self._held.get(key)
        if value is None:
            value = self._held[key] = self._load(key)
        with suppress(KeyError):  # another thread may have dropped it
            self._held.move_to_end(key)
        if len(self._held) > self._size:
            self._held.popitem(last=False)
        return value

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_held": OrderedDict()}


class Material:
    """Cut-outs and photos by index; decoded files stay in memory, the least recently used ones give way.

    Objects whose names agree up to the last underscores' numbers (`coco_person_1_2`, `coco_person_3_4`) are of one
    kind: `relatives(i)` lists them. `people` are kinds whose name holds "person".
    """

    def __init__(
        self,
        cutouts: Path | None,
        photos: Path | None,
        exclude: Sequence[str] = (),
        cached: int = 1024,
        seed: int = 0,
    ) -> None:
        """Index two folders; None stands for 64 procedural cut-outs or photos made from `seed`."""
        self._cutout_files = list_images(cutouts, CUTOUT_TYPES, exclude) if cutouts else []
        self._photo_files = list_images(photos, PHOTO_TYPES, exclude) if photos else []
        self._seed = seed
        self.cutout_count = len(self._cutout_files) or 64
        self.photo_count = len(self._photo_files) or 64
        self.cutout = Cache(self._load_cutout, cached)
        self.photo = Cache(self._load_photo, cached)
        kinds = [p.stem.rstrip("0123456789_-") for p in self._cutout_files] or ["shape"] * self.cutout_count
        members: dict[str, list[int]] = {}
        for index, kind in enumerate(kinds):
            members.setdefault(kind, []).append(index)
        self._relatives = [members[kind] for kind in kinds]
        self.people = [i for i, kind in enumerate(kinds) if "person" in kind]

    def relatives(self, index: int) -> list[int]:
        """Indices of the cut-outs of the same kind, `index` included."""
        return self._relatives[index]

    def _load_cutout(self, index: int) -> Cutout:
        if not self._cutout_files:
            return procedural_cutout(np.random.default_rng((self._seed, 1, index)))
        path = self._cutout_files[index]
        try:
            return make_cutout(_shrunk(read_image(path, alpha=True), 256))
        except InputError as error:
            raise InputError(f"{path.name}: {error}") from error

    def _load_photo(self, index: int) -> np.ndarray:
        if not self._photo_files:
            return procedural_photo(np.random.default_rng((self._seed, 2, index)))
        return _shrunk(read_image(self._photo_files[index]), 640)


def _texture(rng: Generator, height: int, width: int) -> np.ndarray:
    """(height, width, 3) uint8 coloured noise of three octaves over a colour ramp."""
    total = np.zeros((height, width, 3), np.float32)
    for cells, weight in ((3, 60.0), (9, 35.0), (33, 25.0)):
        grid = rng.normal(0, weight, (cells, cells, 3)).astype(np.float32)
        grid = 0.6 * grid.mean(axis=2, keepdims=True) + 0.4 * grid  # mostly light and dark, less colour
        total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(total + rng.uniform(60, 200, 3), 0, 255).astype(np.uint8)


def _paint_shape(rng: Generator, mask: np.ndarray, value: int) -> None:
    """Fill one random ellipse, rectangle or star-like polygon in a (h, w) uint8 mask."""
    height, width = mask.shape
    kind = rng.integers(0, 3)
    centre = (float(width / 2), float(height / 2))
    if kind == 0:
        axes = (int(width * rng.uniform(0.3, 0.48)), int(height * rng.uniform(0.3, 0.48)))
        cv2.ellipse(mask, (int(centre[0]), int(centre[1])), axes, 0, 0, 360, value, -1, cv2.LINE_AA)
        return
    corners = 4 if kind == 1 else int(rng.integers(5, 12))
    turns = np.sort(rng.uniform(0, 2 * math.pi, corners)) if kind == 2 else np.arange(4) * math.pi / 2 + math.pi / 4
    reach = rng.uniform(0.25, 0.48, corners) if kind == 2 else np.full(4, 0.48)
    points = np.column_stack([centre[0] + np.cos(turns) * reach * width, centre[1] + np.sin(turns) * reach * height])
    cv2.fillPoly(mask, [np.rint(points).astype(np.int32)], value, cv2.LINE_AA)


def procedural_cutout(rng: Generator) -> Cutout:
    """A textured random shape on a transparent ground, long side at most 160 pixels."""
    height, width = rng.integers(70, 160, 2)
    mask = np.zeros((int(height), int(width)), np.uint8)
    while not (mask >= 128).any():
        _paint_shape(rng, mask, 255)
    colour = _texture(rng, int(height), int(width))
    for _ in range(int(rng.integers(1, 5))):  # a few flat patches give the object parts
        part = np.zeros_like(mask)
        _paint_shape(rng, part, 255)
        shift = np.array([[0.4, 0, rng.uniform(0, 0.6) * width], [0, 0.4, rng.uniform(0, 0.6) * height]])
        part = cv2.warpAffine(part, shift, (int(width), int(height)))
        colour[part > 128] = rng.integers(0, 256, 3)
    return make_cutout(np.dstack([colour, mask]))


def procedural_photo(rng: Generator) -> np.ndarray:
    """A (360, 480, 3) uint8 scene: coloured noise with shapes of many sizes lying on it."""
    scene = _texture(rng, 360, 480)
    for _ in range(int(rng.integers(15, 40))):
        size = int(rng.uniform(10, 120))
        part = np.zeros((size, size), np.uint8)
        _paint_shape(rng, part, 255)
        y, x = int(rng.integers(0, 360 - size)), int(rng.integers(0, 480 - size))
        scene[y : y + size, x : x + size][part > 128] = rng.integers(0, 256, 3)
    return scene
