"""Turns, ratios and the report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lorat_plugin.errors import InputError
from lorat_plugin.settings import SpeedTrial
from lorat_plugin.speed.rounds import Report, compare, interleave


def test_contestants_take_turns_and_warm_up() -> None:
    calls: list[str] = []
    costs = interleave({n: lambda n=n: calls.append(n) or len(calls) for n in "ab"}, SpeedTrial(rounds=2))  # type: ignore[misc]
    assert "".join(calls) == "ababab"
    assert costs["a"].tolist() == [3, 5] and costs["b"].tolist() == [4, 6]


def test_ratios_are_taken_round_by_round() -> None:
    costs = {"slow": np.array([2.0, 20, 200]), "fast": np.array([1.0, 5, 100])}
    slow, fast = compare(costs, "slow", "time", "ms", lambda seconds: seconds * 1e3)
    assert (slow.ratio, slow.low, slow.high) == (1, 1, 1)
    assert (fast.ratio, fast.low, fast.high, fast.value) == (2, 2, 3, 5000)


def test_a_reference_takes_part() -> None:
    with pytest.raises(InputError, match="'b' does not take part; use one of a"):
        compare({"a": np.ones(1)}, "b", "time", "s", float)


def test_the_report_names_the_machine_and_draws_the_ratios(tmp_path: Path) -> None:
    costs = {"x": np.array([1.0, 2]), "y": np.array([2.0, 2])}
    found = compare(costs, "x", "time", "ms", float) + compare(costs, "x", "memory", "GB", float)
    report = Report("toy", {"batch": 2}, found)
    assert report.as_dict()["machine"]["versions"]["torch"] and report.as_dict()["machine"]["cores"] >= 1
    report.plot(tmp_path / "ratios.png")
    assert Image.open(tmp_path / "ratios.png").size[0] > 500
