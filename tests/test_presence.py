"""Presence of a target: hysteresis, verification by colours, sweep, and what weights store of it."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from lorat_plugin import LoRATTracker, load_checkpoint, save_checkpoint
from lorat_plugin.errors import InputError
from lorat_plugin.presence import FOUND, LARGEST, TRIAL, USUAL, Presence, PresenceRule, colours

RULE = PresenceRule(0.4, 0.6, (2.0, -0.5))
RED, BLUE = (np.full((100, 120, 3), colour, np.uint8) for colour in ((200, 30, 30), (30, 30, 200)))
BOX = np.array([20.0, 20.0, 60.0, 70.0])


def statuses(scores: list[float], frame: np.ndarray = RED) -> tuple[str, Presence]:
    """The first letters of the statuses that a target in red has by its scores, and its last presence."""
    presence = Presence(BOX, colours(RED, BOX))
    letters = ""
    for score in scores:
        presence = presence.observe(RULE, frame, BOX, BOX + 1, score)
        letters += presence.status[0]
    return letters, presence


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.9, 0.4, 0.9], "ttt"),
        ([0.9, 0.1, 0.1, 0.5], "tuut"),  # patience; 0.5 is enough for a target that is not absent
        ([0.1, 0.1, 0.1, 0.5, 0.5], "uuaaa"),  # an absent one needs 0.6
        ([0.1, 0.1, 0.1, 0.6] + [0.6] * TRIAL, "uuau" + "u" * (TRIAL - 1) + "t"),
        ([0.1, 0.1, 0.1, 0.6, 0.5, 0.6], "uuauau"),  # fails its trial, returns again
    ],
)
def test_status_follows_the_scores(scores: list[float], expected: str) -> None:
    assert statuses(scores)[0] == expected


def test_a_look_alike_in_another_colour_is_not_believed() -> None:
    assert statuses([0.1, 0.1, 0.1, 0.9, 0.9], BLUE)[0] == "uuaaa"
    assert statuses([0.9, 0.9], BLUE)[0] == "tt"  # a target that is followed may change its colours


def test_an_uncertain_box_is_not_reported_to_swell() -> None:
    wide = np.array([0.0, 0.0, 100.0, 100.0])
    _, low = statuses([0.1])
    np.testing.assert_allclose(low.limited(wide), [20, 12.5, 80, 87.5])
    np.testing.assert_allclose(low.limited(BOX + 3), BOX + 3)
    _, good = statuses([0.9])
    np.testing.assert_allclose(good.limited(wide), wide)


def test_the_believed_box_is_the_one_before_the_low_scores() -> None:
    presence = Presence(BOX, colours(RED, BOX))
    for number, score in enumerate([0.9, 0.1, 0.1, 0.1, 0.1]):
        presence = presence.observe(RULE, RED, BOX + number, BOX + number + 1, score)
    assert presence.status == "absent"
    np.testing.assert_array_equal(presence.believed, BOX + 1)


def test_the_sweep_covers_the_frame_nearest_regions_first() -> None:
    _, presence = statuses([0.0] * 4)
    assert presence.growth < LARGEST and presence.sweep(40, (100, 120)) is None
    seen, centres = np.zeros((100, 120), bool), []
    for _ in range(20):
        presence = presence.observe(RULE, RED, BOX, BOX, 0.0)
    assert presence.growth == LARGEST
    for _ in range(20):
        centre = presence.sweep(40, (100, 120))
        assert centre is not None
        centres.append(centre)
        (x1, y1), (x2, y2) = (centre - 20).astype(int).clip(0), (centre + 20).astype(int)
        seen[y1:y2, x1:x2] = True
        presence = presence.observe(RULE, RED, BOX, BOX, 0.0)
    assert seen.all()
    whole = presence.sweep(500, (100, 120))
    np.testing.assert_allclose(whole, [60, 50])  # a region larger than the frame lies in its middle


@pytest.mark.parametrize("box", [[-50.0, -50.0, -10.0, -10.0], [5.0, 5.0, 5.0, 5.0], [np.nan] * 4])
def test_a_box_without_pixels_has_no_colours(box: list[float]) -> None:
    assert colours(RED, np.array(box)).sum() == 0


def test_colours_are_a_histogram_that_tells_red_from_blue() -> None:
    red, blue = colours(RED, BOX), colours(BLUE, BOX)
    assert red.sum() == pytest.approx(1) and np.sqrt(red * red).sum() == pytest.approx(1)
    assert np.sqrt(red * blue).sum() == 0


def test_probability_is_the_calibrated_score() -> None:
    assert RULE.probability(0.5) == pytest.approx(1 / (1 + np.exp(0.5)))
    assert RULE.probability(0.0) == pytest.approx(0, abs=1e-9) and RULE.probability(1.0) == pytest.approx(1, abs=1e-9)
    assert PresenceRule(0.4).probability(0.5) is None


def test_weights_store_the_rule(tiny_network, tmp_path) -> None:
    network = copy.copy(tiny_network)
    network.presence = RULE
    path = save_checkpoint(network, tmp_path / "lorat_tiny.safetensors")
    assert load_checkpoint(path).presence == RULE
    frame = np.random.default_rng(0).integers(0, 255, (100, 120, 3), np.uint8)
    for given, threshold in ((0.0, 0.0), (None, 0.4), (0.7, 0.7)):
        tracker = LoRATTracker(load_checkpoint(path), device="cpu", absent_below=given)
        assert tracker.presence.absent_below == threshold and tracker.presence.found_above >= threshold
        tracker.init(frame, [20, 20, 40, 50])
        result = tracker.update(frame)
        assert result.probability == RULE.probability(result.score)


def test_weights_that_store_none_have_the_usual_threshold_and_no_probability(tiny_network) -> None:
    tracker = LoRATTracker(tiny_network, device="cpu", absent_below=None)
    assert tracker.presence == PresenceRule(USUAL, FOUND)
    frame = np.full((100, 120, 3), 90, np.uint8)
    tracker.init(frame, [20, 20, 40, 50])
    result = tracker.update(frame)
    assert result.probability is None and result.status == ("tracking" if result.score >= USUAL else "uncertain")


@pytest.mark.parametrize("text", ["{", '{"absent_below": "x"}', '{"absent_below": 2}', '{"calibration": [1]}', "[]"])
def test_a_damaged_entry_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        PresenceRule.from_header({"presence": text})
