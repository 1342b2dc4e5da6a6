"""Batched crops and colours give what the operations on single crops give."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorat_plugin.crop import Crop, mean_colour, normalize
from lorat_plugin.synthetic.material import procedural_photo
from lorat_plugin.training.augment import NO_THIRD, Changes, Colours, augment
from lorat_plugin.training.device import pixels as device_pixels
from lorat_plugin.training.device.pixels import Tints, Windows, change_colours, cut, gaussian, make_crops, pack

SIZES = ((90, 120), (64, 200), (240, 320))  # height, width


@lru_cache
def _frames() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [cv2.resize(procedural_photo(rng), size[::-1]) for size in SIZES]


def _bank(frames: list[np.ndarray]) -> tuple[torch.Tensor, list[int]]:
    parts = [pack(frame) for frame in frames]
    starts = np.cumsum([0, *map(len, parts)]).tolist()[:-1]
    return torch.from_numpy(np.concatenate(parts)), starts


def _windows(crops: list[Crop], which: list[int], flips: list[bool]) -> tuple[torch.Tensor, Windows, list[np.ndarray]]:
    frames = _frames()
    pixels, starts = _bank(frames)
    fills = [mean_colour(frames[i]) for i in which]
    widths = [frames[i].shape[1] for i in which]
    windows = Windows.of(crops, [starts[i] for i in which], widths, fills, flips)
    return pixels, windows, [frames[i] for i in which]


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_gathered_crops_are_those_of_single_crops(seed: int) -> None:
    rng = np.random.default_rng(seed)
    which, crops = rng.integers(0, 3, 4).tolist(), []
    for i in which:
        height, width = SIZES[i]
        corner = rng.uniform(-10, [width, height], 2)  # some boxes reach past the frame or lie outside
        box = np.concatenate([corner, corner + rng.uniform(3, 80, 2)])
        crops.append(Crop.around(box, float(rng.uniform(1.5, 8)), 56, SIZES[i]))
    flips = (rng.random(4) < 0.5).tolist()
    pixels, windows, frames = _windows(crops, which, flips)
    made = cut(pixels, windows, 56)
    for i, (crop, frame, flip) in enumerate(zip(crops, frames, flips, strict=True)):
        wanted = torch.from_numpy(crop.cut(frame, mean_colour(frame))).permute(2, 0, 1)
        wanted = wanted.flip(-1) if flip else wanted
        torch.testing.assert_close(made[i], wanted, atol=0.02, rtol=0)


def test_a_crop_beside_the_last_frame_is_all_fill() -> None:
    crop = Crop.around(np.array([900.0, 900, 910, 910]), 2.0, 28, SIZES[2])
    pixels, windows, frames = _windows([crop], [2], [False])
    made = cut(pixels, windows, 28)
    assert torch.equal(made, torch.from_numpy(mean_colour(frames[0])).view(1, 3, 1, 1).expand_as(made))


@pytest.mark.parametrize("third", [NO_THIRD, 0, 1, 2])
@pytest.mark.parametrize("normalization", ["imagenet", "clip"])
def test_colours_change_as_those_of_single_crops(third: int, normalization: str) -> None:
    rng = np.random.default_rng(third + 5)
    images = torch.from_numpy(np.stack([cv2.resize(procedural_photo(rng), (56, 56)) for _ in range(6)]))
    images = images.permute(0, 3, 1, 2).float()
    colours = [Colours.draw(rng) for _ in images]
    radius = float(rng.uniform(0.5, 2))
    changes = [Changes((False, False), (c, c), third, radius) for c in colours]
    made = normalize(
        change_colours(images.clone(), Tints.of([(change, 0) for change in changes])).permute(0, 2, 3, 1), normalization
    )
    levels = torch.tensor([0.226]).view(1, 1, 1) * 255
    for image, change, got in zip(images, changes, made, strict=True):
        wanted = augment([image / 255, image / 255], change, normalization)[0]
        off = (got - wanted).abs() * levels
        limit = {2: 1.0, NO_THIRD: 0.01}.get(third, 0.05)  # Pillow's blur is made of three boxes
        assert off.mean() < limit, (third, float(off.mean()))


@pytest.mark.parametrize("one_by_one", [("cpu",), ()])
def test_sources_do_not_matter(monkeypatch: pytest.MonkeyPatch, one_by_one: tuple[str, ...]) -> None:
    monkeypatch.setattr(device_pixels, "ONE_BY_ONE", one_by_one)
    rng = np.random.default_rng(1)
    boxes = np.array([[30.0, 20, 60, 50], [50, 10, 90, 40], [10, 30, 40, 80]])
    crops = [Crop.around(box, 3.0, 42, size) for box, size in zip(boxes, SIZES, strict=True)]
    pixels, windows, _ = _windows(crops, [0, 1, 2], [True, False, True])
    tints = Tints.of([(Changes.draw(rng), 1) for _ in crops])
    whole = make_crops([(pixels, torch.arange(3))], windows, tints, 42, "imagenet")
    halves = [(pixels, torch.tensor([0, 2])), (pixels.clone(), torch.tensor([1]))]
    parts = make_crops(halves, windows, tints, 42, "imagenet")
    assert (whole - parts).abs().mean() < 1e-3 and whole.shape == (3, 3, 42, 42)


def test_a_blur_keeps_the_mean_and_spreads_a_point_by_its_deviation() -> None:
    image = torch.zeros(2, 1, 41, 41)
    image[:, :, 20, 20] = 1
    blurred = gaussian(image, torch.tensor([1.0, 2.0]), "replicate")
    away = torch.arange(41.0) - 20
    spread = (blurred.sum((1, 2)) * away**2).sum(1).sqrt()
    np.testing.assert_allclose(blurred.sum((1, 2, 3)), 1, atol=1e-5)
    np.testing.assert_allclose(spread, [1, 2], rtol=0.02)
