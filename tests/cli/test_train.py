"""`lorat train` on procedural pairs, and how it refuses bad input."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from lorat_plugin.cli.train import train_command
from lorat_plugin.errors import InputError

app = typer.Typer()
app.command()(train_command)


def test_smoke_recipe_runs_and_says_where_the_weights_are(tmp_path: Path) -> None:
    arguments = ["--recipe", "smoke", "--steps", "1", "--set", "validation_pairs=2", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert "step 1/1" in result.output
    assert (tmp_path / "lorat_tiny.safetensors").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "flip_chance"], "must read NAME=VALUE"),
        (["--recipe", "none"], "unknown recipe"),
        (["--recipe", "smoke", "--photos", "/no/such/folder"], "is not a folder"),
    ],
)
def test_bad_input_is_named(tmp_path: Path, arguments: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "run")], catch_exceptions=False)
    assert not (tmp_path / "run").exists()
