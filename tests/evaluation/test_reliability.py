"""Reliability of the score: ranking and calibration against hand computations and brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorat_plugin.boxes import auroc
from lorat_plugin.evaluation.scoring import measure_reliability

NAN = np.nan


def frames(*rows: tuple[float, float]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Overlaps and scores of one sequence; the given first frame comes before these."""
    overlap, score = np.array([(1.0, 1.0), *rows]).T
    return {"a": overlap}, {"a": score}


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0]), st.booleans()), min_size=1, max_size=40))
def test_auroc_is_the_share_of_pairs_in_the_right_order(rows: list[tuple[float, bool]]) -> None:
    score, positive = np.array([s for s, _ in rows]), np.array([p for _, p in rows])
    pairs = [np.sign(a - b) / 2 + 0.5 for a in score[positive] for b in score[~positive]]
    found = auroc(score, positive)
    if not pairs:
        assert found is None
        return
    assert found == pytest.approx(np.mean(pairs))
    assert auroc(score**3 + 2, positive) == pytest.approx(found)  # only the order matters
    assert auroc(-score, positive) == pytest.approx(1 - found)


def test_a_hand_computation() -> None:
    found = measure_reliability(*frames((0.9, 0.95), (0.8, 0.85), (0.5, 0.85), (0.2, 0.35), (NAN, 0.0), (0.6, 1.0)))
    assert found is not None
    assert found.frames == 5 and found.share == pytest.approx(3 / 5)  # an overlap of 0.5 is not above it
    assert found.auroc == pytest.approx(5.5 / 6)
    assert found.score_on_target == pytest.approx(2.8 / 3) and found.score_lost == pytest.approx(0.6)
    assert found.counts.tolist() == [0, 0, 0, 1, 0, 0, 0, 0, 2, 2]  # a score of 1 is in the last bin
    np.testing.assert_allclose(found.bin_shares[[3, 8, 9]], [0, 0.5, 1])
    np.testing.assert_allclose(found.bin_scores[[3, 8, 9]], [0.35, 0.85, 0.975])
    assert np.isnan(found.bin_shares[[0, 1, 2, 4, 5, 6, 7]]).all()
    assert found.error == pytest.approx((0.35 + 2 * 0.35 + 2 * 0.025) / 5)


@given(st.integers(0, 2**32 - 1))
def test_bounds_and_the_bins_hold_every_frame(seed: int) -> None:
    rng = np.random.default_rng(seed)
    overlaps = {str(n): np.where(rng.random(20) < 0.2, NAN, rng.random(20)) for n in range(3)}
    scores = {name: rng.random(20) for name in overlaps}
    found = measure_reliability(overlaps, scores)
    assert found is not None
    assert found.counts.sum() == found.frames == sum(np.isfinite(values[1:]).sum() for values in overlaps.values())
    assert 0 <= found.error <= 1 and found.auroc is not None and 0 <= found.auroc <= 1
    for name in overlaps:  # neither the given frame nor one without truth counts
        scores[name][np.isnan(overlaps[name])] = 0.5
        overlaps[name][0], scores[name][0] = 0.0, 1.0
    again = measure_reliability(overlaps, scores)
    assert again is not None and (again.auroc, again.error) == (found.auroc, found.error)


def test_a_calibrated_score_has_no_error() -> None:
    found = measure_reliability(*frames(*[(1.0, 0.75)] * 3, (0.0, 0.75), (1.0, 0.25), *[(0.0, 0.25)] * 3))
    assert found is not None and found.error == pytest.approx(0) and found.auroc == pytest.approx(0.75)


@pytest.mark.parametrize("overlap", [0.9, 0.1])
def test_always_on_target_or_always_lost_has_no_auroc(overlap: float) -> None:
    found = measure_reliability(*frames((overlap, 0.7), (overlap, 0.3)))
    assert found is not None and found.auroc is None and found.share == (overlap > 0.5)
    present, absent = (found.score_on_target, found.score_lost)[:: 1 if overlap > 0.5 else -1]
    assert present == pytest.approx(0.5) and absent is None


def test_without_scores_or_frames_there_is_nothing_to_say() -> None:
    overlaps, scores = frames((0.9, 0.7))
    assert measure_reliability(overlaps, {}) is None
    assert measure_reliability({"a": np.array([1.0, NAN])}, scores) is None
    assert measure_reliability({"a": np.array([1.0])}, {"a": np.array([1.0])}) is None
    found = measure_reliability({**overlaps, "b": np.ones(9)}, scores)
    assert found is not None and found.frames == 1
