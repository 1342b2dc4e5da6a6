"""`lorat doctor`: what it prints and its exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lorat_plugin.apps import doctor
from lorat_plugin.apps.doctor import Answer, Installation
from lorat_plugin.cli.main import run


def pretend(monkeypatch: pytest.MonkeyPatch, versions: dict[str, str], failing: str = "-") -> None:
    """Let the command see an installation in which every probe succeeds but those with a given word."""
    good, bad = Answer(True, '[{"device": "cpu", "threads": 2}]'), Answer(False, "no")
    monkeypatch.setattr(
        doctor, "this_installation", lambda: Installation(versions, [], lambda code: bad if failing in code else good)
    )


def test_usable(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pretend(monkeypatch, {"torch": "2.14.1", "numpy": "2.4.6"})
    assert run(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert "torch  " in printed and "2.14.1" in printed and "threads 2" in printed and "broken" not in printed


def test_broken(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pretend(monkeypatch, {"vot-toolkit": "0.9.0", "attributee": "0.1.10"}, "import vot")
    assert run(["doctor"]) == 1
    assert 'remedy: pip install --upgrade vot-toolkit "attributee!=0.1.10"' in capsys.readouterr().out
    assert run(["doctor", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["versions"]["attributee"] == "0.1.10" and not report["usable"]
    assert [finding["subject"] for finding in report["findings"] if finding["level"] == "broken"] == ["vot-toolkit"]


@pytest.mark.slow
def test_this_machine_as_a_process(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from lorat_plugin.cli.main import main; main()", "doctor", "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    report = json.loads(done.stdout)
    assert done.returncode == (0 if report["usable"] else 1), done.stderr
    assert report["devices"][0]["device"] == "cpu"
    levels = {finding["subject"]: finding["level"] for finding in report["findings"]}
    assert levels["torch"] == levels["torchvision"] == "ok" and "bundled weights" in levels
    assert not list(tmp_path.iterdir())
