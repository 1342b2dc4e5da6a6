"""The protocols against official numbers, the real toolkit and hand computations."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorat_plugin.errors import InputError
from lorat_plugin.evaluation.protocols import PROTOCOLS, Score, combine, evaluate

SIZE = (300, 200)
SETS = {
    "GOT-10k": "got10k",
    "LaSOT": "lasot",
    "LaSOT_Extension": "lasot_ext",
    "TNL2K": "tnl2k",
    "UAV123": "uav123",
    "VastTrack": "vasttrack",
    "TrackingNet": "trackingnet",
}
CURVES = {"success": "success", "precision": "precision", "norm_precision": "normalized_precision"}
TREES = ("pytracking", "stark", "lorat")  # the family of pytracking's rule


@pytest.fixture(scope="module")
def official(golden: Path) -> dict[str, np.ndarray]:
    with np.load(golden / "ope" / "ope_metrics.npz", allow_pickle=False) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def official_scores(golden: Path) -> dict[str, dict[str, float]]:
    rows = json.loads((golden / "ope" / "ope_metrics.json").read_text())
    return {row.pop("key"): row for row in rows}


def case(official: dict[str, np.ndarray], name: str, origin: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    def boxes(key: str) -> np.ndarray:
        x1y1x2y2 = official[f"{name}_{key}"]
        return np.concatenate([x1y1x2y2[:, :2] + origin, x1y1x2y2[:, 2:] - x1y1x2y2[:, :2]], axis=1)

    return boxes("pred"), boxes("gt"), official[f"{name}_visible"]


def assert_official(score: Score, key: str, official: dict[str, np.ndarray], scores: dict) -> None:
    for theirs, ours in CURVES.items():
        np.testing.assert_allclose(getattr(score, ours), official[f"{key}__{theirs}"], atol=1e-7, rtol=1e-6)
    got = {
        "auc": score.auc,
        "precision20": score.precision_score,
        "norm_precision20": score.normalized_precision_score,
        "sr50": score.sr50,
        "sr75": score.sr75,
        "ao": score.ao,
    }
    assert {name: got[name] for name in scores[key]} == pytest.approx(scores[key], rel=1e-6)


@pytest.mark.parametrize("stark", [1, 0])
@pytest.mark.parametrize("excluded", [0, 1])
@pytest.mark.parametrize("data_set", SETS)
@pytest.mark.parametrize("name", ["clean", "absent_zero", "absent_nan"])
def test_lorat_gives_the_official_numbers(
    name: str, data_set: str, excluded: int, stark: int, official: dict, official_scores: dict
) -> None:
    key = f"{name}__{data_set}__stark{stark}__excl{excluded}"
    origin = int(data_set in ("LaSOT", "VastTrack"))
    score, overlaps = evaluate(
        "lorat", SETS[data_set], *case(official, name, origin), SIZE, all_four=not stark, valid_only=bool(excluded)
    )
    assert_official(score, key, official, official_scores)
    assert score.ao is None
    if f"{key}__err_overlap" in official:
        np.testing.assert_allclose(np.nan_to_num(overlaps, nan=-1.0), official[f"{key}__err_overlap"], atol=1e-12)


@pytest.mark.parametrize("name", ["clean", "absent_zero", "absent_nan"])
def test_lorat_plain_gives_the_official_numbers(name: str, official: dict, official_scores: dict) -> None:
    score, overlaps = evaluate("lorat_plain", "got10k", *case(official, name), SIZE)
    assert_official(score, f"{name}__plain", official, official_scores)
    np.testing.assert_allclose(np.nan_to_num(overlaps), official[f"{name}__plain__frames_iou"], atol=1e-12)


def test_shipped_settings_are_the_default(official: dict) -> None:
    boxes = case(official, "absent_zero")
    score, _ = evaluate("lorat", "tnl2k", *boxes, SIZE)
    np.testing.assert_allclose(score.success, official["absent_zero__TNL2K__stark1__excl0__success"], atol=1e-7)
    assert score.frames == 90


# Six frames, 0-based. IoU and centre error in pixels: given box; 1/3, 5; without a true box; the same with x = 0 ... 4;
# absent by the flag though annotated; no overlap, 50
TRUTH = np.array(
    [[10, 20, 20, 10], [10, 20, 20, 10], [0, 0, 0, 0], [0, 20, 20, 10], [10, 20, 20, 10], [10, 20, 20, 10]]
)
FOUND = np.array(
    [[9, 9, 5, 5], [10, 25, 20, 10], [10, 20, 20, 10], [0, 20, 20, 10], [10, 20, 20, 10], [60, 20, 20, 10]]
)
VISIBLE = np.array([1, 1, 1, 1, 0, 1], bool)


def by(protocol: str, benchmark: str = "otb", found: np.ndarray = FOUND, truth: np.ndarray = TRUTH, **rest) -> Score:
    return evaluate(protocol, benchmark, found, truth, VISIBLE, SIZE, **rest)[0]


def test_denominators_differ() -> None:
    assert by("stark").success[0] * 6 == pytest.approx(4)  # frames 0, 1, 3, 4; the flag does not matter on OTB
    assert by("pytracking").success[0] * 5 == pytest.approx(4)
    assert by("pytracking", valid_only=False).success[0] == by("stark").success[0]
    for benchmark, frames in (("lasot", 6), ("uav123", 6), ("lasot_ext", 4), ("otb", 5), ("got10k", 5)):
        assert by("pytracking", benchmark).frames == frames
        assert by("stark", benchmark).frames == 6
    assert by("stark", "lasot").success[0] == pytest.approx(3 / 6)
    assert by("lorat_plain").frames == 4


def test_first_frame_is_forced_to_the_truth_by_the_trees_alone() -> None:
    assert by("stark").precision[0] == pytest.approx(3 / 6)  # frames 0, 3, 4 exactly
    assert by("lorat").precision[0] == pytest.approx(2 / 6)
    assert by("lorat_plain").success[0] == pytest.approx(2 / 4)  # 1 and 3, not 0


def test_invalid_frames_count_as_hits_where_the_rules_have_it_so() -> None:
    hits = {  # benchmark: frames within 0 sizes, within 0 pixels; by stark, of six
        "otb": (4, 3),  # frame 2, which has no box, is a hit in normalised precision
        "uav123": (4, 4),  # and in precision
        "lasot_ext": (4, 2),  # frame 4, absent, is a hit in its place
        "lasot": (3, 2),  # absent is infinitely far, without a box is not
        "vasttrack": (4, 2),
    }
    for benchmark, (relative, pixels) in hits.items():
        score = by("stark", benchmark)
        assert score.normalized_precision[0] * 6 == pytest.approx(relative), benchmark
        assert score.precision[0] * 6 == pytest.approx(pixels), benchmark
    assert by("lorat", "vasttrack").normalized_precision[0] * 6 == pytest.approx(2)  # frame 0 missed, 4 infinitely far


def test_all_four_leaves_out_boxes_on_the_border() -> None:
    assert by("stark", all_four=True).success[0] * 6 == pytest.approx(3)
    shifted = [1, 1, 0, 0]  # a set that counts from 1 has no such boxes
    assert by("stark", found=FOUND + shifted, truth=TRUTH + shifted, all_four=True).success[0] * 6 == pytest.approx(4)


def test_zero_size_predictions_copy_the_frame_before() -> None:
    found = FOUND.astype(float)
    found[3:5] = 0
    for protocol in ("pytracking", "stark"):
        overlaps = evaluate(protocol, "otb", found, TRUTH, VISIBLE, SIZE)[1]
        np.testing.assert_allclose(overlaps[[3, 4]], [1 / 3, 1], atol=1e-12)  # both copy frame 2: x 10, shifted by 10
    assert evaluate("lorat", "otb", found, TRUTH, VISIBLE, SIZE)[1][3:5].tolist() == [0, 0]
    assert found[3].tolist() == [0, 0, 0, 0]  # the caller's array stays


def test_zero_size_predictions_stay_where_the_truth_is_unknown() -> None:
    found, truth = FOUND.astype(float), TRUTH.astype(float)
    found[2:4] = 0
    truth[2] = np.nan
    overlaps = evaluate("stark", "uav123", found, truth, VISIBLE, SIZE)[1]
    assert np.isnan(overlaps[2]) and overlaps[3] == 0  # copies the empty box of frame 2, not the one before


def test_average_overlap_is_over_valid_frames() -> None:
    for protocol in ("pytracking", "stark"):
        assert by(protocol).ao == pytest.approx((1 + 1 / 3 + 1 + 1 + 0) / 5)
    assert by("lorat_plain").ao == pytest.approx((0 + 1 / 3 + 1 + 0) / 4)
    assert by("lorat").ao is None


@pytest.mark.parametrize("row", [[np.nan] * 4, [1, 1, -2, 5]])
def test_bad_predictions_are_refused_or_missed(row: list[float]) -> None:
    found = FOUND.astype(float)
    found[3] = row
    for protocol in ("pytracking", "stark"):
        with pytest.raises(InputError, match=r"frame 4: .* is no box.*score by lorat"):
            by(protocol, found=found)
    for protocol in ("lorat", "lorat_plain"):
        assert np.isfinite(by(protocol, found=found).auc)
        assert by(protocol, found=found).success[0] < by(protocol).success[0]


def test_nan_annotations_go_by_protocol() -> None:
    truth = TRUTH.astype(float)
    truth[2] = np.nan
    for protocol in ("pytracking", "stark"):
        with pytest.raises(InputError, match=r"frame 3: nan,nan,nan,nan is annotated.*UAV123 only"):
            by(protocol, truth=truth)
        assert by(protocol, "uav123", truth=truth).auc == pytest.approx(by(protocol, "uav123").auc)
    for protocol in ("lorat", "lorat_plain"):
        assert by(protocol, truth=truth).auc == by(protocol).auc
    with pytest.raises(InputError, match="no frame has a box"):
        by("lorat", truth=truth * np.nan)
    with pytest.raises(InputError, match="unknown protocol 'otb': use one of got10k, pytracking"):
        by("otb")


boxes = st.tuples(*[st.integers(-20, 200)] * 2, *[st.integers(1, 90)] * 2)
sequences = st.lists(st.tuples(boxes, boxes, st.booleans()), min_size=2, max_size=8)


@settings(max_examples=60)
@given(sequences, st.sampled_from((*TREES, "lorat_plain")), st.sampled_from(["lasot", "otb", "uav123", "vasttrack"]))
def test_curves_are_fractions_and_monotone(rows: list, protocol: str, benchmark: str) -> None:
    found, truth = (np.array([row[i] for row in rows], float) for i in (0, 1))
    visible = np.array([True] + [row[2] for row in rows[1:]])
    score, overlaps = evaluate(protocol, benchmark, found, truth, visible, SIZE, valid_only=False)
    assert ((overlaps >= 0) & (overlaps <= 1) | np.isnan(overlaps)).all()
    for curve, sign in ((score.success, -1), (score.precision, 1), (score.normalized_precision, 1)):
        assert (curve >= 0).all() and (curve <= 1).all() and (sign * np.diff(curve) >= 0).all()
    perfect, _ = evaluate(protocol, benchmark, truth, truth, np.ones(len(truth), bool), SIZE)
    assert perfect.success[:-1].tolist() == [1] * 20 and perfect.success[-1] == (protocol == "lorat_plain")
    assert perfect.precision[0] == perfect.normalized_precision[0] == 1
    both = combine(protocol, benchmark, [score, perfect], [overlaps, overlaps])
    assert both.auc == pytest.approx((score.auc + perfect.auc) / 2)
    assert both.frames == score.frames + perfect.frames


def test_every_protocol_is_described() -> None:
    assert list(PROTOCOLS) == ["got10k", "pytracking", "stark", "lorat", "lorat_plain"]
    assert all(len(text) > 40 and not text.endswith(".") for text in PROTOCOLS.values())
