"""The script that fits thresholds of presence: what it chooses for known scores."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[1] / "weights" / "fit_presence.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("fit_presence", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def clip(rng, on, gone):
    scores = np.concatenate([rng.uniform(*on, 200), rng.uniform(*gone, 50)])
    return scores, np.concatenate([np.full(200, 0.8), np.full(50, np.nan)])


def test_the_threshold_lies_between_present_and_absent(script):
    rng = np.random.default_rng(0)
    rule = script.fit([clip(rng, (0.6, 0.9), (0.0, 0.32)), clip(rng, (0.55, 0.95), (0.0, 0.34))])
    assert rule.absent_below == 0.35 and 0.55 < rule.found_above < 0.65
    told, false = script.counts([clip(rng, (0.6, 0.9), (0.0, 0.3))], rule)
    assert told == 48 / 50 and false == 0


def test_false_alarms_bound_the_threshold(script):
    rng = np.random.default_rng(0)
    scores, overlaps = clip(rng, (0.6, 0.9), (0.0, 0.55))
    scores[50:60] = 0.3  # ten frames on target with low scores: eight would be false alarms of 200
    assert script.fit([(scores, overlaps)]).absent_below <= 0.3


def test_the_calibration_is_the_share_on_target(script):
    rng = np.random.default_rng(0)
    scores = rng.uniform(0.05, 0.95, 4000)
    true = 1 / (1 + np.exp(-2.0 * np.log(scores / (1 - scores)) + 1.0))
    slope, offset = script.calibrate([(scores, np.where(rng.random(4000) < true, 0.9, 0.1))])
    assert slope == pytest.approx(2.0, abs=0.2) and offset == pytest.approx(-1.0, abs=0.2)
