"""Crop jitter and augmentation against the official implementation's numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorat_plugin.crop import normalize
from lorat_plugin.training import augment as aug
from lorat_plugin.training.augment import ATTEMPTS, Jitter, jittered_parameters


class Replay:
    """A generator that gives recorded draws back."""

    def __init__(self, normals: np.ndarray, uniforms: np.ndarray) -> None:
        self.normals, self.uniforms = list(normals), list(uniforms)

    def standard_normal(self, size: int) -> np.ndarray:
        return self.normals.pop(0)

    def uniform(self, low: float, high: float, size: int) -> np.ndarray:
        return self.uniforms.pop(0)


def test_crop_jitter_matches_the_recorded_draws(golden: Path) -> None:
    data = np.load(golden / "training" / "crop_jitter.npz")
    offsets = data["draw_offsets"]
    for i, box in enumerate(data["boxes"]):
        draws = slice(offsets[i], offsets[i + 1])
        rng = Replay(data["normal_draws"][draws], data["uniform_draws"][draws])
        got = jittered_parameters(box, float(data["area_factor"][i]), int(data["output_size"][i]), Jitter(), rng)  # type: ignore[arg-type]
        assert (got is not None) == bool(data["ok"][i])
        assert not rng.normals, "as many attempts as recorded"
        if got is not None:
            np.testing.assert_allclose(np.stack(got), data["params"][i], rtol=1e-12, atol=1e-9)


def test_crop_jitter_gives_up_after_all_attempts() -> None:
    rng = Replay(np.zeros((ATTEMPTS, 2)), np.zeros((ATTEMPTS, 2)))
    box = np.array([10.0, 10, 20, 20])
    assert jittered_parameters(box, 4.0, 224, Jitter(min_size=500), rng) is None  # type: ignore[arg-type]
    assert not rng.normals and not rng.uniforms


def test_colour_operations_match(golden: Path) -> None:
    data = np.load(golden / "training" / "augment_ops.npz")
    image = torch.from_numpy(data["image"])
    for operation, name in enumerate(("brightness", "contrast", "saturation")):
        for factor in (0.6, 1.37):
            changed = aug.blended(image.clone(), operation, factor).numpy()
            np.testing.assert_allclose(changed, data[f"{name}_{factor}"], atol=2e-6)


@pytest.mark.parametrize(("choice", "name"), [(0, "gray"), (1, "solarize"), (2, "blur_0.7")])
def test_third_augmentation_matches(golden: Path, choice: int, name: str) -> None:
    data = np.load(golden / "training" / "augment_ops.npz")
    image = torch.from_numpy(data["image"])
    assert np.array_equal(aug.to_bytes(image).transpose(1, 2, 0), data["to_pil"])
    first = aug.third_augmentation(image, choice, 0.7)
    assert np.array_equal(first, data[name])
    wanted = normalize(torch.from_numpy(first)[None].float(), "clip")[0]
    assert torch.equal(aug.normalize_bytes(first, "clip"), wanted)


@given(st.lists(st.floats(0, 60), min_size=4, max_size=4))
@settings(max_examples=40, deadline=None)
def test_flip_twice_changes_nothing(numbers: list[float]) -> None:
    crop, box = torch.rand(3, 5, 60), np.array(numbers)
    colours = aug.Colours((0, 1, 2), (1.0, 1.0, 1.0))
    changes = aug.Changes((True, False), (colours, colours), aug.NO_THIRD, 0.0)
    mirror = aug.ARITHMETIC[torch.Tensor][0]
    assert torch.equal(mirror(mirror(crop)), crop)
    once = changes.boxes([box, box], [60, 60])
    assert np.array_equal(once[1], box)
    np.testing.assert_allclose(changes.boxes(once, [60, 60])[0], box, atol=1e-9)


def test_augment_without_chances_only_jitters_colours() -> None:
    crop, box = torch.full((3, 20, 20), 0.5), np.array([-3.0, 2, 8, 30])
    changes = aug.Changes.draw(np.random.default_rng(1), 0.0, 0.0)
    z_box, x_box = changes.boxes([box, box], [20, 20])
    assert z_box.tolist() == x_box.tolist() == [0, 2, 8, 20]
    _, x = aug.augment([crop, crop.clone()], changes, "none")
    assert x.shape == crop.shape and 0 <= float(x.min()) <= float(x.max()) <= 1
