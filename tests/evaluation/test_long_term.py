"""Long-term measures: by hand on small runs, and in the tables and page of trackers whose targets leave."""

from __future__ import annotations

import numpy as np
import pytest

from lorat_plugin.evaluation.scoring import LongTermRun, long_term_run, measure_long_term, precision_recall

SIZE = (100, 80)
BOX = [10.0, 10.0, 20.0, 20.0]
GONE = [np.nan] * 4


def run(truth: list[list[float]], boxes: list[list[float]], confidences: list[float]) -> LongTermRun:
    rows = np.array(truth)
    return long_term_run(rows, np.isfinite(rows).all(axis=1), np.array(boxes), np.array(confidences), SIZE)


def test_a_perfect_tracker_has_ones() -> None:
    found = measure_long_term([run([BOX, BOX, GONE, BOX], [BOX] * 4, [1, 0.9, 0, 0.9])])
    assert (found.f_score, found.precision, found.recall) == (1, 1, 1)
    assert (found.tpr, found.tnr, found.geometric_mean, found.max_geometric_mean) == (1, 1, 1, 1)
    assert (found.returns, found.found_soon, found.wait, found.largest) == (1, 1, 0, 1)


def test_a_tracker_that_never_says_absent() -> None:
    truth = [BOX, BOX, GONE, GONE, BOX]
    grown = [0.0, 0.0, 40.0, 40.0]
    found = measure_long_term([long_term_run(np.array(truth), np.isfinite(np.array(truth)[:, 0]),
                                             np.array([BOX, BOX, BOX, grown, BOX]), None, SIZE)])  # fmt: skip
    assert found.precision == pytest.approx(0.5) and found.recall == 1
    assert found.tnr == 0 and found.geometric_mean == 0 and found.max_geometric_mean == pytest.approx(0.5)
    assert found.largest == 4


def test_waits_are_counted_from_each_return() -> None:
    away = [60.0, 50.0, 20.0, 20.0]
    truth = [BOX, GONE, BOX, BOX, BOX, GONE, BOX, GONE]
    boxes = [BOX, away, away, away, BOX, BOX, away, away]
    found = measure_long_term([run(truth, boxes, [1, 0, 0.5, 0.5, 0.5, 0, 0.5, 0])])
    assert (found.returns, found.wait, found.found_soon) == (2, 2, 0.5)
    late = [GONE, *[BOX] * 31]
    slow = measure_long_term([run([BOX, *late], [*[away] * 32, BOX], [0.5] * 33)])
    assert (slow.wait, slow.found_soon) == (30, 0)


def test_precision_and_recall_at_thresholds() -> None:
    made = run([BOX, BOX, GONE, BOX], [BOX, BOX, BOX, [20.0, 10, 20, 20]], [1, 0.9, 0.5, 0.2])
    values = precision_recall(made, np.array([0.2, 0.5, 0.9, 0.95]))
    third = 1 / 3
    np.testing.assert_allclose(values, [[(1 + third) / 3, 0.5, 1, 1], [(1 + third) / 2, 0.5, 0.5, 0]])
