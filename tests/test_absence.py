"""A target that counts as absent: its box is held, its search region grows, and a good score finds it again."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from lorat_plugin import LoRATTracker, MultiObjectTracker
from lorat_plugin.cli.main import run
from lorat_plugin.crop import Crop
from lorat_plugin.errors import InputError
from lorat_plugin.network import Prediction
from lorat_plugin.presence import GROWTH, LARGEST, PATIENCE, Presence, PresenceRule, colours
from lorat_plugin.synthetic.material import Material
from lorat_plugin.tracking import Target, step
from lorat_plugin.variants import get_variant
from tests.helpers.leaving_clips import leaving_clip, track
from tests.helpers.sequences import square_sequence, write_frames

VARIANT = get_variant("lorat_b_224")
CPU = torch.device("cpu")
FRAME = np.zeros((600, 800, 3), np.uint8)
FIRST = np.array([380.0, 280, 420, 320])


class Scripted:
    """An engine that answers each frame by a score at a cell and a box there, a quarter of the region wide."""

    variant = VARIANT

    def __init__(self, scores, cell=(8, 8), others=-20.0):
        self.scores, self.cell, self.others = list(scores), cell, others

    def predict(self, template, x):
        grid = VARIANT.search_grid
        maps = torch.full((len(x), grid, grid), self.others)
        row, column = self.cell
        maps[:, row, column] = torch.logit(torch.tensor(self.scores.pop(0)), 1e-6)
        centre = torch.tensor([column + 0.5, row + 0.5]).repeat(2) / grid
        return Prediction(maps, (centre + torch.tensor([-0.125, -0.125, 0.125, 0.125])).expand(len(x), grid, grid, 4))


def new_target(low=0, status="tracking"):
    return Target(
        FIRST, np.zeros(3, np.float32), torch.zeros(1, 1, 1), Presence(FIRST, colours(FRAME, FIRST), status, low)
    )


def rule(absent_below):
    return PresenceRule(absent_below, absent_below)


def follow(engine, absent_below):
    """Results of each frame, state boxes after it, and how often the usual search region's width was looked at."""
    target = new_target()
    results, states, widths = [], [], []
    for _ in range(len(engine.scores)):
        box, taken = target.box, []
        original = Crop.around.__func__
        usual = Crop.around(box, VARIANT.search_area_factor, VARIANT.search_size, (600, 800)).scale[0]

        def note(cls, *arguments, original=original, taken=taken):
            taken.append(original(cls, *arguments))
            return taken[-1]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Crop, "around", classmethod(note))
            results += step(engine, CPU, [target], [FRAME], rule(absent_below))
        states.append(target.box)
        widths.append(usual / taken[0].scale[0])
    return results, states, widths


def test_the_box_goes_back_and_is_held_and_the_region_grows_until_a_score_is_good_again():
    results, states, widths = follow(Scripted([0.9, 0.2, 0.3, 0.1, 0.0, 0.2, 0.8, 0.9]), 0.4)
    assert PATIENCE == 2
    assert [r.absent for r in results] == [False, False, False, True, True, True, False, False]
    assert [r.score for r in results] == pytest.approx([0.9, 0.2, 0.3, 0.1, 0.0, 0.2, 0.8, 0.9], abs=1e-5)
    assert not np.array_equal(states[2], states[0])  # followed as long as there is patience
    for i in (3, 4, 5):
        np.testing.assert_array_equal(states[i], states[0])
        np.testing.assert_array_equal(results[i].box, results[0].box)
    assert not np.array_equal(states[6], states[0])
    # a square target's region is as wide as its area factor says; pixels are whole
    assert widths == pytest.approx([1, 1, 1, 1, GROWTH, GROWTH**2, GROWTH**3, 1], rel=0.03)


def test_a_short_dip_changes_nothing():
    scores = [0.9, 0.2, 0.3, 0.8, 0.1, 0.9]
    (with_results, with_states, _), (without_results, without_states, _) = (
        follow(Scripted(scores), threshold) for threshold in (0.4, 0.0)
    )
    np.testing.assert_array_equal(with_states, without_states)
    assert [r.absent for r in with_results] == [r.absent for r in without_results] == [False] * 6


def test_the_region_stops_growing():
    _, _, widths = follow(Scripted([0.1] * 40), 0.4)
    assert widths[-1] == pytest.approx(LARGEST, rel=0.02) and max(widths) < LARGEST * 1.02
    target = new_target(10**6, "absent")
    assert step(Scripted([0.1]), CPU, [target], [FRAME], rule(0.4))[0].absent


def test_nothing_is_absent_unless_asked():
    results, states, widths = follow(Scripted([0.9, 0.0, 0.0, 0.1]), 0.0)
    assert not any(r.absent for r in results) and widths == [1] * 4
    assert not np.array_equal(states[3], states[0])


def test_who_comes_back_may_do_so_at_the_border():
    """The window would prefer the middle's 0.3 to the corner's 0.6."""
    corner = Scripted([0.6], cell=(0, 0), others=float(torch.logit(torch.tensor(0.3))))
    target = new_target()
    assert step(corner, CPU, [target], [FRAME], rule(0.2))[0].score == pytest.approx(0.3)
    corner.scores, target.presence = [0.6], new_target(5, "absent").presence
    assert step(corner, CPU, [target], [FRAME], rule(0.2))[0].score == pytest.approx(0.6)
    assert target.presence.low == 0


def test_a_prediction_that_is_no_number_is_absent():
    target = new_target(PATIENCE, "uncertain")
    result = step(Scripted([float("nan")]), CPU, [target], [FRAME], rule(0.4))[0]
    assert result.absent and result.score == 0
    np.testing.assert_array_equal(target.box, FIRST)


def test_targets_of_a_batch_are_absent_each_for_itself(tiny_network, frames):
    boxes = [[30.0, 20, 16, 16], [60, 40, 30, 20], [2, 2, 8, 5]]
    probe = MultiObjectTracker(tiny_network, device="cpu")
    probe.add(frames[0], boxes)
    means = np.mean([[r.score for r in probe.update(frame).values()] for frame in frames[1:]], axis=0)
    threshold = float((means.min() + means.max()) / 2)
    many = MultiObjectTracker(tiny_network, device="cpu", absent_below=threshold)
    ids = many.add(frames[0], boxes)
    singles = [LoRATTracker(tiny_network, device="cpu", absent_below=threshold) for _ in boxes]
    for single, box in zip(singles, boxes, strict=True):
        single.init(frames[0], box)
    seen = set()
    for frame in frames[1:]:
        together = many.update(frame)
        seen |= {r.absent for r in together.values()}
        for number, single in zip(ids, singles, strict=True):
            alone = single.update(frame)
            np.testing.assert_allclose(together[number].box, alone.box, atol=1e-3)
    assert seen == {True, False}


@pytest.mark.parametrize("threshold", [-0.1, 1.0, float("nan")])
def test_a_threshold_that_is_no_score_is_refused(tiny_network, threshold):
    with pytest.raises(InputError, match="absent_below is"):
        LoRATTracker(tiny_network, absent_below=threshold)
    with pytest.raises(InputError, match="absent_below is"):
        MultiObjectTracker.from_pretrained("lorat_tiny", absent_below=threshold)


def test_a_target_that_is_painted_over_is_told_absent_by_the_command(tmp_path):
    """With the bundled weights: a square goes, and only noise is left."""
    frames, boxes = square_sequence(3)
    noise = np.random.default_rng(1).integers(0, 120, (4, *frames[0].shape), np.uint8)
    write_frames(tmp_path / "clip", [*frames, *noise])
    box = ",".join(map(str, boxes[0]))
    given = ["track", str(tmp_path / "clip"), "--box", box, "--output", str(tmp_path / "out"), "--absent-below", "0.5"]
    assert run(given) == 0
    lines = [json.loads(line) for line in (tmp_path / "out" / "track.jsonl").read_text().splitlines()]
    assert [line["absent"] for line in lines] == [False] * 5 + [True] * 2
    assert lines[-1]["box_xywh"] == lines[2]["box_xywh"] == lines[5]["box_xywh"]


@pytest.mark.slow
def test_a_made_up_target_that_leaves_is_told_absent():
    """Procedural objects: over a third of the frames without the target are reported absent, hardly one with it."""
    tracker = LoRATTracker.from_pretrained("lorat_tiny", device="cpu", absent_below=0.5)
    outcome = track(tracker, leaving_clip(Material(None, None), 1, vanishes=False))
    assert outcome.told > 0.3 and outcome.false <= 2
