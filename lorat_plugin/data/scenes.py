"""The short clips that the package renders from its own images, for whoever has no video at hand."""

from __future__ import annotations

from importlib.resources import files

import numpy as np

from lorat_plugin.data.synthetic import render_sequence
from lorat_plugin.images import decode_image

FRAME_SIZE = (270, 480)  # height, width
LENGTH = 75
SCENES: dict[str, tuple[str, str, tuple[str, ...]]] = {  # name: photo, target, what else moves about
    "dog_coffee": ("coffee.jpg", "dog.png", ()),
    "car_gravel": ("gravel.jpg", "car.png", ()),
    "cat_rocket": ("rocket.jpg", "cat.png", ("dog.png",)),
    "dog_chelsea": ("chelsea.jpg", "dog.png", ("cat.png", "car.png")),
    "cat_coffee": ("coffee.jpg", "cat.png", ("dog.png", "car.png")),
}


def render_scene(name: str, length: int = LENGTH, *, alone: bool = False) -> tuple[list[np.ndarray], np.ndarray]:
    """Frames (270, 480, 3) uint8 RGB and boxes (length, 4) x, y, w, h of a clip of `SCENES`, always the same ones.

    `alone` leaves out what else moves about.
    """
    photo, target, others = SCENES[name]
    return render_sequence(
        _image(photo),
        _image(target),
        distractors=[] if alone else [_image(other) for other in others],
        length=length,
        frame_size=FRAME_SIZE,
        seed=list(SCENES).index(name),
    )


def _image(name: str) -> np.ndarray:
    """A bundled image as uint8 RGB (JPEG) or RGBA (PNG)."""
    data = (files("lorat_plugin") / "assets" / "demo" / name).read_bytes()
    return decode_image(data, f"the package's image {name}", alpha=name.endswith(".png"))
