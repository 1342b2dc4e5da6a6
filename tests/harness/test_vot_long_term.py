"""Precision and recall over the score threshold equal the VOT toolkit's."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from lorat_plugin.evaluation.long_term import long_term_run, precision_recall

longterm = pytest.importorskip("vot.analysis.longterm")
SIZE = (120, 90)


def test_precision_and_recall_are_those_of_the_toolkit() -> None:
    from vot.region import Rectangle, Special

    rng = np.random.default_rng(0)
    count = 60
    truth = np.concatenate([rng.integers(0, 60, (count, 2)), rng.integers(15, 45, (count, 2))], 1).astype(float)
    boxes = truth + rng.integers(-8, 9, (count, 4))
    present = rng.random(count) > 0.3
    confidences = rng.random(count).round(2)
    thresholds = np.unique(confidences[1:])
    ours = precision_recall(long_term_run(truth, present, boxes, confidences, SIZE), thresholds)
    sequence = SimpleNamespace(
        size=SIZE,
        groundtruth=lambda: [
            Rectangle(*row) if seen else Special(0) for row, seen in zip(truth[1:], present[1:], strict=True)
        ],
    )
    theirs = longterm.compute_tpr_curves([Rectangle(*row) for row in boxes[1:]], confidences[1:], sequence, thresholds)
    np.testing.assert_allclose(ours, np.array(theirs), atol=0.02)
