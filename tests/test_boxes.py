"""Box arithmetic: properties, and numpy against torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lorat_plugin.boxes import area, clip_to_image, giou, iou, rasterize, xywh_to_xyxy, xyxy_to_xywh

coordinates = st.floats(-500, 500, width=32)
boxes = arrays(np.float64, (5, 4), elements=coordinates)
sizes = st.floats(0.5, 300, width=32)
good_boxes = st.builds(lambda x, y, w, h: np.array([x, y, x + w, y + h]), coordinates, coordinates, sizes, sizes)


@given(boxes)
def test_xywh_and_xyxy_are_inverse(values):
    np.testing.assert_allclose(xyxy_to_xywh(xywh_to_xyxy(values)), values, atol=1e-9)


@given(good_boxes, good_boxes)
def test_iou_is_symmetric_and_between_0_and_1(a, b):
    assert iou(a, b) == pytest.approx(iou(b, a))
    assert 0 <= iou(a, b) <= 1
    assert iou(a, a) == pytest.approx(1)


@given(good_boxes, good_boxes)
def test_giou_never_exceeds_iou(a, b):
    assert -1 <= giou(a, b) <= iou(a, b) + 1e-12


@given(good_boxes, good_boxes, coordinates, coordinates)
def test_iou_does_not_change_when_both_boxes_move(a, b, dx, dy):
    shift = np.array([dx, dy, dx, dy])
    assert iou(a + shift, b + shift) == pytest.approx(iou(a, b), abs=1e-6)


@given(boxes, boxes)
def test_numpy_and_torch_agree(a, b):
    ta, tb = torch.from_numpy(a), torch.from_numpy(b)
    for function in (iou, giou):
        np.testing.assert_allclose(function(a, b), function(ta, tb).numpy(), atol=1e-12)
    np.testing.assert_allclose(clip_to_image(a, (40, 60)), clip_to_image(ta, (40, 60)).numpy())


@given(boxes)
def test_clipped_boxes_lie_in_the_image(values):
    clipped = clip_to_image(values, (40, 60))
    assert (clipped >= 0).all() and (clipped[:, 0::2] <= 60).all() and (clipped[:, 1::2] <= 40).all()
    np.testing.assert_array_equal(clip_to_image(clipped, (40, 60)), clipped)


@given(good_boxes)
def test_rasterized_boxes_cover_the_box(box):
    cells = rasterize(box)
    assert (cells[:2] <= box[:2]).all() and (cells[2:] >= box[2:] - 2e-4).all()


def test_rasterize_equals_the_reference(golden):
    data = np.load(golden / "image_ops/params.npz")
    np.testing.assert_array_equal(rasterize(data["raster_in"]), data["raster_out"])


def test_area_of_an_inverted_box_is_0():
    assert area(np.array([10.0, 10.0, 5.0, 20.0])) == 0
