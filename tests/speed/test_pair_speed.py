"""The contestants, and the ratios that the command reports."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lorat_plugin.cli.main import run
from lorat_plugin.errors import InputError
from lorat_plugin.settings import SpeedTrial
from lorat_plugin.speed.rounds import write_clips
from lorat_plugin.speed.train import benchmark_data
from lorat_plugin.training.config import TrainConfig
from lorat_plugin.training.recipe import PairDataset
from lorat_plugin.training.sources import open_pairs


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PairDataset:
    folder = tmp_path_factory.mktemp("generated")
    write_clips(folder / "clips", (320, 180), clips=2, frames=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORAT_CACHE", str(folder))
        return open_pairs(TrainConfig(variant="lorat_b_224", datasets=(f"clips:{folder / 'clips'}",)))


def test_benchmark_of_generated_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAT_CACHE", "untouched")
    report = benchmark_data(SpeedTrial((), "decode", rounds=1), variant="lorat_tiny", frame_size=(160, 90))
    names = [c.name for c in report.comparisons]
    setups = ("", ", 8-bit", ", device", ", device bank")
    assert names == [*(f"{n}{w}" for n in ("folder", "LMDB") for w in setups), "decode"]
    assert all(c.ratio > 0 and c.value > 0 and c.reference == "decode" for c in report.comparisons)
    assert not Path("untouched").exists()


def test_bad_input_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["benchmark", "data", "--plot", "ratios.txt"]) == 2
    assert "must end in .png" in capsys.readouterr().err
    with pytest.raises(InputError, match="absent is no folder"):
        benchmark_data(SpeedTrial(["clips:absent"], ""))


def test_the_command_prints_json(dataset: PairDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entry = dataset.config.datasets[0]
    command = ["benchmark", "data", "--dataset", entry, "--pairs", "8", "--variant", "lorat_tiny", "--json"]
    assert run([*command, "--plot", str(tmp_path / "a.png")]) == 0
    rows = json.loads(capsys.readouterr().out)["comparisons"]
    assert [row["name"] for row in rows] == [entry, f"{entry}, 8-bit", f"{entry}, device", "decode"]
    assert all(isinstance(row["ratio"], float) for row in rows)
    assert {row["reference"] for row in rows} == {entry}
    assert (tmp_path / "a.png").is_file()
