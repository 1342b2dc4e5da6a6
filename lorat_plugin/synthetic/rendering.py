"""Draw cut-out objects over photographs: geometry of one object, of the camera, and what a camera does to pixels.

Coordinates are continuous frame pixels, x right and y down, pixel edges at integers (a frame spans [0, W] x [0, H]).
Boxes are xyxy. Every random choice comes from the generator that the caller hands in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from numpy.random import Generator

from lorat_plugin.errors import InputError

PATCH = 64  # side of an opaque patch, pixels
GRAIN = 640  # side of the noise tile, pixels
HULL_ALPHA = 128  # what is at least half opaque belongs to the object


@dataclass(frozen=True, eq=False)
class Cutout:
    """An object without its background.

    Fields: rgba (h, w, 4) uint8 with colours premultiplied by alpha; hull (n, 2) float64, convex hull of the
    opaque pixels' corners, cut-out pixels.
    """

    rgba: np.ndarray
    hull: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width), pixels."""
        return self.rgba.shape[:2]


class Tint(NamedTuple):
    """New colours of a band of an object: gain times (own colour (1 - amount) + grey level * tint * amount)."""

    tint: np.ndarray  # (3,) float32
    amount: float
    gain: float


@dataclass(frozen=True)
class Pose:
    """Where and how an object lies in a frame.

    Fields: x, y centre and size (geometric mean of the upright width and height), frame pixels; aspect multiplies
    width / height; angle in radians; flip mirrors left and right; tilt is the perspective foreshortening
    (x, y) across one object size, no unit.
    """

    x: float
    y: float
    size: float
    aspect: float = 1.0
    angle: float = 0.0
    flip: bool = False
    tilt: tuple[float, float] = (0.0, 0.0)


def make_cutout(rgba: np.ndarray) -> Cutout:
    """Prepare a straight-alpha (h, w, 4) uint8 RGBA image for drawing.

    Raises InputError if the array is no RGBA image or has no opaque pixel.
    """
    if rgba.ndim != 3 or rgba.shape[2] != 4 or rgba.dtype != np.uint8:
        raise InputError(f"a cut-out must be an (h, w, 4) uint8 RGBA array; got {rgba.shape} {rgba.dtype}")
    alpha = rgba[..., 3:].astype(np.uint16)
    colour = ((rgba[..., :3] * alpha + 127) // 255).astype(np.uint8)
    hull = hull_of(rgba[..., 3])
    if hull is None:
        raise InputError("a cut-out needs at least one pixel with alpha >= 128; this one is transparent everywhere")
    return Cutout(np.concatenate([colour, rgba[..., 3:]], axis=2), hull)


def hull_of(alpha: np.ndarray) -> np.ndarray | None:
    """(n, 2) float64 convex hull of the opaque pixels' corners; None if no pixel is opaque."""
    opaque = alpha >= HULL_ALPHA
    rows = np.flatnonzero(opaque.any(axis=1))
    if not len(rows):
        return None
    first = opaque[rows].argmax(axis=1)
    last = alpha.shape[1] - opaque[rows, ::-1].argmax(axis=1)  # exclusive
    # a row's outermost pixels are the only ones that can lie on the hull
    ends = np.concatenate([np.column_stack([x, y]) for x in (first, last) for y in (rows, rows + 1)])
    return cv2.convexHull(ends.astype(np.int32)).reshape(-1, 2).astype(np.float64)


def _scaling(sx: float, sy: float) -> np.ndarray:
    return np.diag([sx, sy, 1.0])


def shift_matrix(tx: float, ty: float) -> np.ndarray:
    """(3, 3) map that adds (tx, ty)."""
    return np.array([[1.0, 0.0, tx], [0.0, 1.0, ty], [0.0, 0.0, 1.0]])


def _rotation(angle: float) -> np.ndarray:
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def pose_matrix(shape: tuple[int, ...], pose: Pose) -> np.ndarray:
    """(3, 3) float64 map from the pixels of an (h, w, ...) cut-out to frame pixels under `pose`."""
    height, width = shape[:2]
    scale = pose.size / math.sqrt(width * height)
    sx, sy = scale * math.sqrt(pose.aspect), scale / math.sqrt(pose.aspect)
    tilt = np.eye(3)
    tilt[2, :2] = np.array(pose.tilt) / pose.size
    centred = _scaling(-sx if pose.flip else sx, sy) @ shift_matrix(-width / 2, -height / 2)
    return shift_matrix(pose.x, pose.y) @ tilt @ _rotation(pose.angle) @ centred


def warp_matrix(source: np.ndarray, target: np.ndarray, scale: np.ndarray, angle: float) -> np.ndarray:
    """(3, 3) map that scales by (x, y), turns by `angle` (radians) and brings point `source` to point `target`."""
    return shift_matrix(*target) @ _rotation(angle) @ _scaling(*scale) @ shift_matrix(*-source)


def map_points(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Map (n, 2) points by a (3, 3) homography."""
    mapped = np.column_stack([points, np.ones(len(points))]) @ matrix.T
    return mapped[:, :2] / mapped[:, 2:]


def bounding_box(points: np.ndarray) -> np.ndarray:
    """(4,) xyxy box around (n, 2) points."""
    return np.concatenate([points.min(axis=0), points.max(axis=0)])


def object_box(cutout: Cutout, pose: Pose) -> np.ndarray:
    """(4,) xyxy tight box of the whole object, as if nothing hid it and the frame had no border."""
    return bounding_box(map_points(pose_matrix(cutout.shape, pose), cutout.hull))


def _warp(image: np.ndarray, matrix: np.ndarray, size: tuple[int, int], border: int) -> np.ndarray:
    """Warp by a map between continuous coordinates; first shrink by area averaging where a warp would alias."""
    scale = math.sqrt(abs(float(np.linalg.det(matrix[:2, :2]))))
    if scale < 0.6:
        height, width = image.shape[:2]
        small = (max(1, round(width * scale)), max(1, round(height * scale)))
        image = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
        matrix = matrix @ _scaling(width / small[0], height / small[1])
    # OpenCV puts coordinates at pixel centres, everything here puts them at pixel edges
    matrix = shift_matrix(-0.5, -0.5) @ matrix @ shift_matrix(0.5, 0.5)
    if abs(matrix[2, 0]) + abs(matrix[2, 1]) < 1e-12:
        return cv2.warpAffine(image, matrix[:2], size, flags=cv2.INTER_LINEAR, borderMode=border)
    return cv2.warpPerspective(image, matrix, size, flags=cv2.INTER_LINEAR, borderMode=border)


def draw(canvas: np.ndarray, cutout: Cutout, pose: Pose) -> None:
    """Blend the object into the (H, W, 3) uint8 canvas in place; what lies outside the canvas is cut off."""
    matrix = pose_matrix(cutout.shape, pose)
    x0, y0, x1, y1 = covered(matrix, cutout.shape, canvas.shape)
    if x1 <= x0 or y1 <= y0:
        return
    patch = _warp(cutout.rgba, shift_matrix(-x0, -y0) @ matrix, (x1 - x0, y1 - y0), cv2.BORDER_CONSTANT)
    below = canvas[y0:y1, x0:x1]
    kept = below * (255 - patch[..., 3:].astype(np.uint16)) // 255
    np.minimum(kept + patch[..., :3], 255, out=kept)
    canvas[y0:y1, x0:x1] = kept.astype(np.uint8)


def covered(matrix: np.ndarray, shape: tuple[int, int], canvas: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Pixels xyxy, end exclusive, of a (height, width, ...) canvas that an image of (height, width) may touch."""
    height, width = shape
    outline = map_points(matrix, np.array([[0, 0], [width, 0], [0, height], [width, height]], dtype=np.float64))
    limits = np.array([canvas[1], canvas[0]])
    x0, y0 = np.clip(np.floor(outline.min(axis=0)) - 1, 0, limits).astype(int)
    x1, y1 = np.clip(np.ceil(outline.max(axis=0)) + 1, 0, limits).astype(int)
    return int(x0), int(y0), int(x1), int(y1)


def opaque_patch(photo: np.ndarray, x: int, y: int) -> Cutout:
    """The 64 x 64 pixels of a photo from (x, y) on, as far as they lie in it, as an object."""
    patch = photo[y : y + PATCH, x : x + PATCH]
    return make_cutout(np.dstack([patch, np.full(patch.shape[:2], 255, np.uint8)]))


def view(photo: np.ndarray, matrix: np.ndarray, frame_size: tuple[int, int]) -> np.ndarray:
    """(h, w, 3) uint8 frame of an (H, W, 3) photo under a (3, 3) map; beyond its borders the photo is mirrored."""
    height, width = frame_size
    return _warp(photo, matrix, (width, height), cv2.BORDER_REFLECT_101)


def recolour(cutout: Cutout, rng: Generator, strength: float) -> Cutout:
    """Another individual of the same shape: two bands of the object, split at a random line, take other tints.

    Args:
        cutout: the object.
        rng: source of randomness.
        strength: 0..1, how far colours move from the object's own.
    """
    rgba = cutout.rgba
    grey = cv2.cvtColor(np.ascontiguousarray(rgba[..., :3]), cv2.COLOR_RGB2GRAY)[..., None].astype(np.float32)
    own = rgba[..., :3].astype(np.float32)
    painted = np.empty_like(own)
    split, tints = draw_tints(rgba.shape[0], rng, strength)
    for band, (tint, amount, gain) in zip((slice(0, split), slice(split, None)), tints, strict=True):
        painted[band] = (own[band] * (1 - amount) + grey[band] * tint * amount) * gain
    colour = np.minimum(painted, rgba[..., 3:]).astype(np.uint8)  # premultiplied colour never exceeds alpha
    return replace(cutout, rgba=np.concatenate([colour, rgba[..., 3:]], axis=2))


def draw_tints(height: int, rng: Generator, strength: float) -> tuple[int, tuple[Tint, Tint]]:
    """The row at which an object of `height` rows is split, and the tints above and below, as `recolour` draws them."""
    split = int(height * rng.uniform(0.25, 0.75))
    tints = []
    for _ in range(2):
        tint = rng.uniform(0.3, 1.9, 3).astype(np.float32)
        tints.append(Tint(tint, float(strength * rng.uniform(0.3, 1.0)), float(rng.uniform(0.7, 1.3))))
    return split, (tints[0], tints[1])


def bend(cutout: Cutout, rng: Generator, strength: float) -> Cutout:
    """The same object in another pose: its parts are pushed about smoothly by up to about `strength` of its size."""
    margin, push = draw_push(cutout.shape, rng, strength)
    rgba = pushed(cutout.rgba, margin, push)
    hull = hull_of(rgba[..., 3])
    return cutout if hull is None else Cutout(rgba, hull)


def draw_push(shape: tuple[int, int], rng: Generator, strength: float) -> tuple[int, np.ndarray]:
    """How `bend` moves the pixels of an object of (height, width) pixels.

    Returns the margin that it grows by on each side, pixels, and (5, 4, 2) float32 shifts (x, y) in pixels, to be
    spread over the grown object by cubic interpolation.
    """
    margin = int(strength * max(shape)) + 1  # room for parts that stick out afterwards
    return margin, rng.normal(0, strength / 2, (5, 4, 2)).astype(np.float32) * max(shape)


def pushed(image: np.ndarray, margin: int, push: np.ndarray) -> np.ndarray:
    """An (h, w, ...) image grown by `margin` and moved by `push`, see `draw_push`."""
    height, width = image.shape[:2]
    shift = cv2.resize(push, (width + 2 * margin, height + 2 * margin), interpolation=cv2.INTER_CUBIC)
    ys, xs = np.mgrid[-margin : height + margin, -margin : width + margin].astype(np.float32)
    return cv2.remap(image, xs + shift[..., 0], ys + shift[..., 1], cv2.INTER_LINEAR)


@dataclass(frozen=True)
class Look:
    """Light and optics of a frame; `degrade` applies them in the order of the fields.

    Fields: gain (3,) and gamma: light and colour cast; shadow: 0..1 darkening of one side, along shadow_angle;
    defocus: Gaussian sigma in pixels; streak: length of motion blur in pixels along streak_angle; shrink: the frame
    is taken at this fraction of its size; noise: standard deviation in grey levels; quality: JPEG quality or 0.
    """

    gain: tuple[float, float, float] = (1.0, 1.0, 1.0)
    gamma: float = 1.0
    shadow: float = 0.0
    shadow_angle: float = 0.0
    defocus: float = 0.0
    streak: float = 0.0
    streak_angle: float = 0.0
    shrink: float = 1.0
    noise: float = 0.0
    quality: int = 0


def random_look(rng: Generator, target_size: float) -> Look:
    """Draw a frame's light and optics; blur stays small against a target of `target_size` pixels."""
    angle = rng.uniform(0, 2 * math.pi, 2)
    chance = rng.random(6)
    reach = min(target_size, 60.0)
    gain = rng.uniform(0.7, 1.25) * rng.uniform(0.92, 1.08, 3)
    return Look(
        gain=(float(gain[0]), float(gain[1]), float(gain[2])),
        gamma=float(np.exp(rng.uniform(-0.3, 0.3))),
        shadow=float(rng.uniform(0.2, 0.6)) if chance[0] < 0.15 else 0.0,
        shadow_angle=float(angle[0]),
        defocus=float(rng.uniform(0.4, 0.04 * reach + 0.5)) if chance[1] < 0.2 else 0.0,
        streak=float(rng.uniform(2.0, 0.25 * reach + 2.0)) if chance[2] < 0.2 else 0.0,
        streak_angle=float(angle[1]),
        shrink=float(rng.uniform(0.5, 0.9)) if chance[3] < 0.15 else 1.0,
        noise=float(rng.uniform(2.0, 10.0)) if chance[4] < 0.3 else 0.0,
        quality=int(rng.integers(20, 90)) if chance[5] < 0.5 else 0,
    )


@lru_cache(maxsize=1)
def noise_tile() -> np.ndarray:
    """(GRAIN, GRAIN, 3) float32 normal noise of deviation 1, always the same."""
    # one fixed tile read at random offsets: drawing fresh normals for every pixel would cost more than all the rest
    return np.random.default_rng(0).standard_normal((GRAIN, GRAIN, 3)).astype(np.float32)


def draw_grain(frame_size: tuple[int, int], rng: Generator) -> tuple[int, int]:
    """Row and column of the noise tile at which the noise of a (height, width) frame starts."""
    if max(frame_size) > GRAIN // 2:
        return 0, 0
    y, x = rng.integers(0, GRAIN // 2, 2)
    return int(y), int(x)


def streak_kernel(length: float, angle: float) -> np.ndarray:
    """(n, n) float32 kernel of motion blur, n odd: a line of `length` pixels at `angle` radians that adds up to 1."""
    side = math.ceil(length) | 1
    kernel = np.zeros((side, side), np.float32)
    middle = side // 2
    reach = np.array([math.cos(angle), math.sin(angle)]) * length / 2
    start, end = np.rint(middle - reach).astype(int), np.rint(middle + reach).astype(int)
    cv2.line(kernel, (int(start[0]), int(start[1])), (int(end[0]), int(end[1])), 1.0)
    return kernel / kernel.sum()


def degrade(frame: np.ndarray, look: Look, rng: Generator) -> np.ndarray:
    """Apply light and optics to an (H, W, 3) uint8 RGB frame; returns a new frame of the same size."""
    height, width = frame.shape[:2]
    levels = np.linspace(0, 1, 256) ** look.gamma * 255
    table = np.clip(np.rint(levels[:, None] * np.array(look.gain)), 0, 255).astype(np.uint8)
    frame = cv2.LUT(frame, table[None])
    if look.shadow:
        ys, xs = np.mgrid[0:1:8j, 0:1:8j]
        side = (xs - 0.5) * math.cos(look.shadow_angle) + (ys - 0.5) * math.sin(look.shadow_angle)
        light = 1 - look.shadow / (1 + np.exp(-12 * side))
        frame = (frame * cv2.resize(light.astype(np.float32), (width, height))[..., None]).astype(np.uint8)
    if look.defocus:
        frame = cv2.GaussianBlur(frame, (0, 0), look.defocus)
    if look.streak:
        frame = cv2.filter2D(frame, -1, streak_kernel(look.streak, look.streak_angle))
    if look.shrink < 1:
        small = cv2.resize(frame, None, fx=look.shrink, fy=look.shrink, interpolation=cv2.INTER_AREA)
        frame = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    if look.noise:
        y, x = draw_grain((height, width), rng)
        grain = noise_tile()[y : y + height, x : x + width]
        if grain.shape != frame.shape:
            grain = np.resize(noise_tile(), frame.shape)
        frame = np.clip(frame + grain * look.noise, 0, 255).astype(np.uint8)
    if look.quality:
        _, packed = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, look.quality])
        frame = np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR))
    return frame
