"""Drawing: boxes fit what is drawn, geometry is exact, light and optics keep sizes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorat_plugin.errors import InputError
from lorat_plugin.synthetic import rendering as r


def _square(side: int = 40) -> r.Cutout:
    return r.make_cutout(np.full((side, side, 4), 255, np.uint8))


@given(st.floats(30, 90), st.floats(30, 70), st.floats(8, 60), st.floats(0.5, 2), st.floats(-3, 3), st.booleans())
@settings(max_examples=60, deadline=None)
def test_box_fits_the_drawn_pixels(x: float, y: float, size: float, aspect: float, angle: float, flip: bool) -> None:
    canvas = np.zeros((100, 120, 3), np.uint8)
    pose = r.Pose(x, y, size, aspect, angle, flip, (0.1, -0.1))
    r.draw(canvas, _square(), pose)
    ys, xs = np.nonzero(canvas[..., 0] >= 128)
    drawn = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
    box = np.clip(r.object_box(_square(), pose), 0, [120, 100, 120, 100])
    np.testing.assert_allclose(box, drawn, atol=1.6 + 0.05 * size)  # sharp corners fade before they end


def test_an_unturned_object_is_drawn_to_the_pixel() -> None:
    canvas = np.zeros((50, 60, 3), np.uint8)
    r.draw(canvas, _square(20), r.Pose(30, 25, 20))
    assert (canvas[15:35, 20:40] == 255).all()
    assert int((canvas > 0).sum()) == 20 * 20 * 3


def test_drawing_outside_changes_nothing() -> None:
    canvas = np.full((20, 20, 3), 7, np.uint8)
    r.draw(canvas, _square(), r.Pose(200, 10, 15))
    assert (canvas == 7).all()


def test_transparent_pixels_do_not_count() -> None:
    rgba = np.zeros((30, 30, 4), np.uint8)
    rgba[10:20, 5:15] = 255
    cutout = r.make_cutout(rgba)
    assert r.bounding_box(cutout.hull).tolist() == [5, 10, 15, 20]


@pytest.mark.parametrize("bad", [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 4), np.float32)])
def test_arrays_that_are_no_cutouts_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(InputError, match="uint8 RGBA"):
        r.make_cutout(bad)


def test_an_invisible_cutout_is_refused() -> None:
    with pytest.raises(InputError, match="transparent everywhere"):
        r.make_cutout(np.zeros((4, 4, 4), np.uint8))


def test_view_places_the_point_in_the_middle() -> None:
    photo = np.zeros((80, 80, 3), np.uint8)
    photo[20:24, 30:34] = 255
    matrix = r.warp_matrix(np.array([32.0, 22.0]), np.array([20.0, 15.0]), np.ones(2), 0.0)
    frame = r.view(photo, matrix, (30, 40))
    assert frame.shape == (30, 40, 3)
    assert (frame[13:17, 18:22] == 255).all()


def test_recoloured_and_bent_objects_stay_premultiplied() -> None:
    rng = np.random.default_rng(0)
    rgba = rng.integers(0, 256, (40, 30, 4), np.uint8)
    for cutout in (r.recolour(r.make_cutout(rgba), rng, 1.0), r.bend(_square(), rng, 0.1)):
        assert (cutout.rgba[..., :3].max(axis=2) <= cutout.rgba[..., 3]).all()


def test_recolouring_keeps_the_shape_and_changes_the_colours() -> None:
    rng = np.random.default_rng(1)
    before = r.make_cutout(np.dstack([rng.integers(0, 256, (40, 30, 3), np.uint8), np.full((40, 30), 255, np.uint8)]))
    after = r.recolour(before, rng, 1.0)
    assert np.array_equal(after.rgba[..., 3], before.rgba[..., 3])
    assert np.abs(after.rgba.astype(int) - before.rgba).mean() > 3


@pytest.mark.parametrize("size", [(40, 50), (400, 330)])
def test_every_look_keeps_size_and_type(size: tuple[int, int]) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    look = r.Look((0.9, 1.0, 1.1), 1.2, 0.4, 1.0, 0.8, 6.0, 0.5, 0.6, 5.0, 50)
    out = r.degrade(frame, look, np.random.default_rng(0))
    assert out.shape == frame.shape and out.dtype == np.uint8
    assert np.array_equal(r.degrade(frame, r.Look(), np.random.default_rng(0)), frame)
    assert not np.array_equal(out, frame)
