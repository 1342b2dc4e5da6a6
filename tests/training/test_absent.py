"""Pairs without their target: what they show, how they are labelled, and what they cost the loss."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.random import Generator

from lorat_plugin.errors import InputError
from lorat_plugin.network import Prediction
from lorat_plugin.synthetic.pairs import FramePair
from lorat_plugin.training.config import load_config
from lorat_plugin.training.pairs import WithAbsent, moved_elsewhere, paint_over
from lorat_plugin.training.recipe import collate, lorat_loss
from lorat_plugin.training.sources import open_pairs
from tests.helpers.sequences import write_clip


class Videos:
    """Two videos of grey noise with a white target; each pair is of one of them."""

    def sample(self, rng: Generator) -> FramePair:
        number = int(rng.integers(2))
        frame = np.full((90, 120, 3), 60 + 40 * number, np.uint8)
        frame += rng.integers(0, 10, frame.shape, np.uint8)
        box = np.array([50.0, 30.0, 70.0, 50.0])
        frame[30:50, 50:70] = 255
        return FramePair(frame, box, frame, box, f"video {number}")

    def planned(self, epoch: int, index: int, rng: Generator) -> FramePair:
        return self.sample(rng)


def test_a_share_of_pairs_searches_where_the_target_is_not() -> None:
    source, rng = WithAbsent(Videos(), 0.4), np.random.default_rng(0)
    pairs = [pair for index in range(600) if (pair := source.planned(0, index, rng))]
    absent = [pair for pair in pairs if not pair.present]
    # half of the draws from another video meet the same one and give no pair
    assert len(absent) / len(pairs) == pytest.approx(0.3 / 0.9, abs=0.05)
    other = [p for p in absent if (p.search_frame.mean() < 85) != (p.template_frame.mean() < 85)]
    same = [p for p in absent if (p.search_frame.mean() < 85) == (p.template_frame.mean() < 85)]
    assert other and same
    assert all(p.search_frame.max() < 255 for p in same)  # the white target is gone
    assert any((p.search_box != p.template_box).any() for p in same)
    assert all(p.template_frame[40, 60].min() == 255 for p in pairs)  # templates keep it


@pytest.mark.parametrize("box", [(0, 0, 20, 20), (100, 70, 120, 90), (50, 30, 70, 50), (10, 40, 100, 50)])
def test_a_target_is_painted_over_and_nothing_else(box: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    frame = rng.integers(0, 100, (90, 120, 3), np.uint8)
    x1, y1, x2, y2 = box
    frame[y1:y2, x1:x2] = 255
    painted = paint_over(frame, np.array(box, float), rng)
    assert painted is not None
    assert painted.max() < 255
    reach = [math.ceil((x2 - x1) * 0.15) + 2, math.ceil((y2 - y1) * 0.15) + 2]
    outside = np.ones(frame.shape[:2], bool)
    outside[max(y1 - reach[1], 0) : y2 + reach[1], max(x1 - reach[0], 0) : x2 + reach[0]] = False
    np.testing.assert_array_equal(painted[outside], frame[outside])
    assert frame.max() == 255


def test_a_target_without_room_beside_it_cannot_be_painted_over() -> None:
    rng = np.random.default_rng(0)
    assert paint_over(np.zeros((50, 50, 3), np.uint8), np.array([5.0, 5.0, 45.0, 45.0]), rng) is None


def test_boxes_move_within_the_frame_and_keep_their_size() -> None:
    rng = np.random.default_rng(0)
    boxes = np.array([moved_elsewhere(np.array([10.0, 20.0, 40.0, 30.0]), (100, 200), rng) for _ in range(200)])
    np.testing.assert_allclose(boxes[:, 2:] - boxes[:, :2], [[30, 10]] * 200)
    assert boxes.min() >= 0 and boxes[:, 2].max() <= 200 and boxes[:, 3].max() <= 100
    assert boxes[:, 0].max() > 150 and boxes[:, 1].max() > 80


def test_samples_without_target_have_no_positive_cell(tmp_path: Path) -> None:
    for seed in range(3):
        write_clip(tmp_path / f"clip{seed}", 6, seed)
    changes = {"clips": str(tmp_path), "clip_weight": 1.0, "object_weight": 0.0, "patch_weight": 0.0}
    without = open_pairs(load_config("smoke", changes))
    dataset = open_pairs(load_config("smoke", {**changes, "absent_share": 0.5}))
    assert all(bool(without[i].positive.any()) for i in range(20))
    absent = [not bool(dataset[i].positive.any()) for i in range(60)]
    assert 8 < sum(absent) < 45
    batch = collate([dataset[absent.index(True)], dataset[absent.index(False)]])
    assert batch.positive.flatten(1).any(1).tolist() == [False, True]


def test_a_pair_without_target_costs_score_but_no_box() -> None:
    positive = torch.zeros(2, 4, 4, dtype=torch.bool)
    positive[1, 1, 1] = True
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.25, 0.25, 0.5, 0.5]])
    far, scores = torch.full((2, 4, 4, 4), 0.9), torch.zeros(2, 4, 4)
    exact = far.clone()
    exact[1] = boxes[1]
    losses = lorat_loss(Prediction(scores, exact), boxes, positive)
    assert float(losses.box) == pytest.approx(0, abs=1e-6)
    assert float(losses.cls) == pytest.approx(32 * math.log(2), rel=1e-5)


@pytest.mark.parametrize("name", ["absent_share", "ema_decay"])
@pytest.mark.parametrize(("value", "bound"), [(1.0, "below 1"), (2, "below 1"), (-0.1, "at least 0")])
def test_shares_and_decays_out_of_range_are_named(name: str, value: float, bound: str) -> None:
    with pytest.raises(InputError, match=f"setting {name} must be {bound}"):
        load_config("smoke", {name: value})
