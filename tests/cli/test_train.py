"""`lorat train` on procedural pairs, and how it refuses bad input."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from lorat_plugin.cli.train import train_command
from lorat_plugin.errors import InputError
from tests.helpers.datasets import write_clips, write_got10k

app = typer.Typer()
app.command()(train_command)


def test_smoke_recipe_runs_and_says_where_the_weights_are(tmp_path: Path) -> None:
    arguments = ["--recipe", "smoke", "--steps", "1", "--set", "validation_pairs=2", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert "step 1/1" in result.output
    assert (tmp_path / "lorat_tiny.safetensors").is_file()


def test_a_dry_run_says_what_a_run_on_data_sets_would_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAT_CACHE", str(tmp_path / "cache"))
    roots = [f"got10k:{write_got10k(tmp_path / 'got10k')}", f"clips:{write_clips(tmp_path / 'clips')}"]
    arguments = ["--recipe", "smoke", "--dataset", roots[0], "--dataset", roots[1], "--out", str(tmp_path / "run")]
    arguments += ["--rank", "8", "--micro-batch", "1", "--dry-run"]
    text = CliRunner().invoke(app, arguments, catch_exceptions=False).output
    assert "training: got10k in" in text and "50% of the pairs, 2 sequences, 14 frames, 14 boxes" in text
    plan = json.loads(CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False).stdout)
    assert plan["micro_batch"] == 1 and plan["sources"][0]["sequences"] == 4
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["first_batch.png"]
    with pytest.raises(InputError, match="leave out datasets clips:"):
        CliRunner().invoke(app, [*arguments, "--protocol", "got10k"], catch_exceptions=False)


def test_other_processes_than_the_first_say_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr("lorat_plugin.training.launch.train", lambda *a, **k: tmp_path / "weights")
    level = logging.getLogger().level
    try:
        result = CliRunner().invoke(app, ["--recipe", "smoke", "--out", str(tmp_path)], catch_exceptions=False)
    finally:
        logging.getLogger().setLevel(level)
    assert result.exit_code == 0 and result.output == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "flip_chance"], "must read NAME=VALUE"),
        (["--recipe", "none"], "unknown recipe"),
        (["--recipe", "smoke", "--replay", "/no/such/folder"], "holds no step to replay"),
        (["--recipe", "smoke", "--mode", "other"], "unknown mode .other."),
        (["--recipe", "smoke", "--photos", "/no/such/folder"], "is not a folder"),
    ],
)
def test_bad_input_is_named(tmp_path: Path, arguments: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "run")], catch_exceptions=False)
    assert not (tmp_path / "run").exists()
