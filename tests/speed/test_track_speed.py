"""Speed of tracking: stages, several targets, clips, and wrong sources."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from lorat_plugin.cli.main import run
from lorat_plugin.errors import InputError
from lorat_plugin.settings import SpeedTrial
from lorat_plugin.speed.rounds import STAGE, Report
from lorat_plugin.speed.track import STAGES, benchmark_track, place_targets
from lorat_plugin.variants import get_variant
from tests.helpers.sequences import write_clip

SMALL = replace(get_variant("lorat_tiny"), name="speed", dim=64, depth=1, heads=1, ffn_dim=128)
EAGER = SpeedTrial(["eager"], rounds=1, device="cpu")


@pytest.fixture(autouse=True)
def _small_variant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(get_variant.__globals__["_VARIANTS"], SMALL.name, SMALL)


@pytest.fixture
def folder(frames: list[np.ndarray], tmp_path: Path) -> Path:
    for i, frame in enumerate(frames):
        cv2.imwrite(str(tmp_path / f"{i}.jpg"), frame)
    return tmp_path


def measures(report: Report, name: str) -> dict[str, float]:
    return {c.measure: c.value for c in report.comparisons if c.name == name}


def test_stages_sum_up_and_targets_are_tracked_in_one_pass(folder: Path) -> None:
    report = benchmark_track(
        "speed", SpeedTrial(rounds=2, device="cpu"), str(folder), box=[30, 20, 16, 16], targets=(1, 3), frames=5
    )
    assert report.settings["frames"] == "5 of 120x90" and report.settings["decoding alone"]["median"].endswith(" ms")
    expected = {"end to end", "model alone", *(STAGE + stage for stage in STAGES)}
    for setup in ("eager fp32", "fused fp32"):
        assert set(measures(report, f"{setup}, 1 target")) == expected
        assert set(measures(report, f"{setup}, 3 targets")) == expected | {"one pass beside single trackers"}
    values = measures(report, "eager fp32, 1 target")
    assert values[STAGE + "model"] == pytest.approx(1e3 / values["model alone"], rel=1)
    assert values["model alone"] > values["end to end"] * 0.5
    for c in report.comparisons:
        assert c.ratio > 0 and c.details["targets"] in (1, 3)
        if c.measure.startswith(STAGE):
            assert c.details["p95"] >= 0 and c.unit == "ms"
    (together,) = [c for c in report.comparisons if "single" in c.measure and c.details["engine"] == "fused"]
    assert together.reference == "fused fp32, 3 single trackers"


def test_made_up_frames_from_memory() -> None:
    report = benchmark_track("speed", EAGER, decoded=True, frames=2)
    assert report.settings["frames"] == "2 of 1280x720" and report.comparisons[0].ratio == 1


def test_the_longest_clip_of_a_dataset(tmp_path: Path) -> None:
    write_clip(tmp_path / "short", length=3)
    write_clip(tmp_path / "long", length=5)
    report = benchmark_track("speed", EAGER, dataset=f"clips:{tmp_path}", frames=20)
    assert report.settings["frames"].startswith("5 of")


def test_absent_targets_leave_the_last_box() -> None:
    known = np.array([[np.nan] * 4, [10, 10, 20, 30], [np.nan] * 4, [50, 50, 10, 10], [500, 0, 10, 10]])
    boxes = place_targets(known, 3, (90, 120))
    assert boxes.shape == (5, 3, 4)
    assert boxes[:, 0].tolist() == [[10, 10, 30, 40]] * 3 + [[50, 50, 60, 60]] * 2
    assert (boxes >= 0).all() and (boxes <= [120, 90, 120, 90]).all()
    np.testing.assert_allclose(boxes[:, 1, 2:] - boxes[:, 1, :2], boxes[:, 0, 2:] - boxes[:, 0, :2])


def test_wrong_sources_are_named(folder: Path) -> None:
    for options, message in [
        ({"source": "nowhere"}, "nowhere: no such video"),
        ({"source": str(folder), "dataset": "clips:x"}, "not both"),
        ({"source": str(folder), "box": [900, 900, 5, 5]}, "no box of the clip lies in its frame"),
        ({"dataset": "nothing:x"}, "unknown benchmark 'nothing'"),
    ]:
        with pytest.raises(InputError, match=message):
            benchmark_track("speed", EAGER, **options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="unknown engine 'warp'"):
        benchmark_track("speed", replace(EAGER, reference="warp"))


def test_the_command_prints_both_tables(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = f"benchmark track {folder} --model speed --rounds 1 --frames 3 --device cpu --engine eager --box 30,20,16,16"
    assert run(line.split()) == 0
    told = capsys.readouterr().out
    assert "end to end" in told and "stage: crop" in told and "decoding alone" in told
    assert run([*line.split(), "--targets", "1,x"]) == 2
    assert "numbers above 0" in capsys.readouterr().err
