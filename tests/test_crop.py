"""Crops: the reference's pixels and parameters, and properties of the mapping."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lorat_plugin.crop import Crop, cells_on_target, crop_parameters, cut_all, mean_colour, normalize, resize_there

GREY_LEVELS = 0.01  # largest difference to the reference's pixels, 0..255


def test_crops_equal_the_reference(golden):
    data, cases = np.load(golden / "image_ops/crops.npz"), json.loads((golden / "image_ops/crops.json").read_text())
    image = data["image"]
    assert len(cases) == 48
    for case in cases:
        key, size, box = case["key"], tuple(case["output_size_wh"]), np.array(case["box"])
        scale, shift = crop_parameters(box, case["area_factor"], size)
        np.testing.assert_allclose(np.stack([scale, shift]), data[f"params_{key}"], rtol=1e-9)
        crop = Crop.around(box, case["area_factor"], size, image.shape[:2])
        fill = mean_colour(image) if case["mean"] == "image" else data[f"mean_{key}"]
        np.testing.assert_allclose(fill, data[f"mean_{key}"], atol=1e-4)
        pixels = crop.cut(image, fill).transpose(2, 0, 1)
        np.testing.assert_allclose(pixels, data[f"crop_{key}"], atol=GREY_LEVELS, err_msg=key)
        (there,) = resize_there([crop], [image], [fill], torch.device("cpu"))  # as a GPU does it
        np.testing.assert_allclose(there.permute(2, 0, 1), data[f"crop_{key}"], atol=GREY_LEVELS, err_msg=key)
        np.testing.assert_array_equal(np.stack([crop.scale, crop.shift]), data[f"adjusted_{key}"], err_msg=key)
        if case["finite_adjusted"]:
            np.testing.assert_allclose(crop.to_crop(box), data[f"boxin_{key}"], rtol=1e-9)


@pytest.mark.parametrize("key", ["t2_112", "s4_224", "t2_196", "s5_378"])
def test_wanted_parameters_equal_the_reference(golden, key):
    data = np.load(golden / "image_ops/params.npz")
    factor, size = float(key[1]), int(key[3:])
    for box, wanted in zip(data["boxes"], data[f"params_{key}"], strict=True):
        np.testing.assert_allclose(np.stack(crop_parameters(box, factor, size)), wanted, rtol=1e-9)


@pytest.mark.parametrize(("size", "grid"), [(112, 8), (196, 14)])
def test_template_masks_equal_the_reference(golden, size, grid):
    data = np.load(golden / "image_ops/template_masks.npz")
    for box, adjusted, mask in zip(data[f"boxes_{size}"], data[f"adjusted_{size}"], data[f"mask_{size}"], strict=True):
        crop = Crop.around(box, 2.0, size, (240, 320))
        np.testing.assert_array_equal(np.stack([crop.scale, crop.shift]), adjusted)
        np.testing.assert_array_equal(cells_on_target(crop.to_crop(box), size, grid), mask)


boxes = st.builds(
    lambda x, y, w, h: np.array([x, y, x + w, y + h]),
    st.floats(-40, 150), st.floats(-40, 110), st.floats(2, 90), st.floats(2, 90),
)  # fmt: skip


@given(st.lists(boxes, min_size=1, max_size=3), st.booleans())
def test_crops_resized_on_the_device_are_those_of_the_processor(found, turned):
    rng = np.random.default_rng(len(found))
    frames = [rng.integers(0, 256, (90, 120, 3), dtype=np.uint8) for _ in found]
    frames = [frame.transpose(1, 0, 2) if turned else frame for frame in frames]  # not contiguous
    crops = [Crop.around(box, 4.0, 56, frame.shape[:2]) for box, frame in zip(found, frames, strict=True)]
    fills = [mean_colour(frame) for frame in frames]
    expected = cut_all(crops, frames, fills, torch.device("cpu"))
    np.testing.assert_allclose(resize_there(crops, frames, fills, torch.device("cpu")), expected, atol=GREY_LEVELS)


@given(boxes, st.sampled_from([2.0, 4.0, 5.0]))
def test_boxes_survive_the_way_there_and_back(box, factor):
    crop = Crop.around(box, factor, 112, (120, 160))
    if np.isfinite(crop.scale).all():
        np.testing.assert_allclose(crop.to_frame(crop.to_crop(box)), box, atol=1e-3)


@given(boxes, st.integers(-30, 30), st.integers(-30, 30))
def test_a_moved_target_in_a_moved_frame_gives_the_same_crop(box, dx, dy):
    rng = np.random.default_rng(1)
    world = rng.integers(0, 255, (400, 400, 3), np.uint8)
    box = box + 150.0
    here, there = world[50:350, 50:350], world[50 + dy : 350 + dy, 50 + dx : 350 + dx]
    fill = np.zeros(3, np.float32)
    inside = (box[:2] - 60 > 60).all() and (box[2:] + 60 < 240).all()
    if inside:
        moved = box - np.array([dx, dy, dx, dy])
        a = Crop.around(box, 2.0, 56, (300, 300)).cut(here, fill)
        b = Crop.around(moved, 2.0, 56, (300, 300)).cut(there, fill)
        np.testing.assert_allclose(a, b, atol=1e-3)


def test_a_crop_far_outside_is_flat():
    crop = Crop.around(np.array([1000.0, 1000.0, 1020.0, 1020.0]), 2.0, 56, (100, 100))
    pixels = crop.cut(np.zeros((100, 100, 3), np.uint8), np.array([1, 2, 3], np.float32))
    assert np.isnan(crop.scale).all()
    np.testing.assert_array_equal(pixels, np.broadcast_to([1, 2, 3], (56, 56, 3)))


def test_normalize_removes_imagenets_mean():
    mean = torch.tensor([0.485, 0.456, 0.406]) * 255
    assert normalize(mean.expand(2, 5, 5, 3)).abs().max() < 1e-5
    assert normalize(torch.zeros(2, 5, 7, 3)).shape == (2, 3, 5, 7)
