"""The script that tries everything on a GPU runs through on a CPU, in small, and keeps what it finds."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "tools" / "on_gpu.sh"
pytestmark = pytest.mark.skipif(os.name != "posix", reason="a bash script")


def _run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run([str(SCRIPT), *arguments], capture_output=True, text=True, env=environment)


@pytest.mark.slow
def test_every_part_runs_on_a_cpu(tmp_path: Path) -> None:
    done = _run("--cpu", "--seconds", "3000", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out"
    found = json.loads((out / "gpu.json").read_text())
    log = (out / "run.log").read_text()
    assert list(found) == [
        "tests", "networks", "track_lorat_tiny", "step_lorat_tiny", "step_lorat_tiny_giant", "data_bank", "data_stream",
        "training",
    ]  # fmt: skip
    assert {name: part["exit"] for name, part in found.items()} == dict.fromkeys(found, 0), log
    assert "skipped" in found["tests"]["result"]
    assert found["networks"]["result"]["benchmark"] == "model"
    assert {row["measure"] for row in found["step_lorat_tiny"]["result"]["comparisons"]} == {
        "time of a step", "peak memory",
    }  # fmt: skip
    for name in ("data_bank", "data_stream", "training"):
        assert any(row.get("pairs_per_second", 0) > 0 for row in found[name]["result"])
    state = b"".join(path.read_bytes() for path in sorted(out.glob("state.safetensors.*")))
    assert hashlib.sha256(state).hexdigest() == (out / "state.sha256").read_text().split()[0]
    assert '"step": 4' in (out / "train.jsonl").read_text()
    assert len(list(out.iterdir())) <= 8


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "usage: tools/on_gpu.sh [options] OUT [WHEELS]"),
        (("--gpu", "out"), "unknown option --gpu"),
        (("--seconds", "soon", "out"), "--seconds must be a whole number; got soon"),
        (("--cpu", "out", "absent_wheels"), "absent_wheels is no folder"),
        (("--material", "absent", "out"), "absent is no folder"),
        (("--start", "absent.safetensors", "out"), "absent.safetensors does not exist"),
    ],
)
def test_wrong_arguments_are_named(arguments: tuple[str, ...], sentence: str) -> None:
    done = _run(*arguments)
    assert done.returncode == 2 and sentence in done.stderr and "line " not in done.stderr


@pytest.mark.skipif(not shutil.which("shellcheck", path=str(Path(sys.executable).parent)), reason="no shellcheck")
def test_the_script_passes_shellcheck() -> None:
    checker = shutil.which("shellcheck", path=str(Path(sys.executable).parent))
    assert checker
    done = subprocess.run([checker, str(SCRIPT)], capture_output=True, text=True)
    assert not done.stdout
