"""`lorat vot run` and `doctor`: judged by the toolkit's words and files; every kind of experiment with the real one."""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from lorat_plugin.errors import InputError
from lorat_plugin.harness.vot_tools import run as vot_run
from lorat_plugin.harness.vot_tools.run import (
    Workspace,
    choose_trackers,
    open_workspace,
    run_steps,
    try_tracker,
    workspace_problems,
)
from lorat_plugin.harness.vot_tools.stacks import local_stack
from lorat_plugin.harness.vot_tools.workspace import create_workspace
from lorat_plugin.settings import TrackerSettings
from tests.helpers.sequences import write_clip

STATIC = Path(__file__).parents[2] / "integration" / "vot" / "static_tracker.py"
BROKEN = "print('loading'); raise KeyError('no such layer')"


def add_tracker(workspace: Path, name: str, **entry: str) -> None:
    """Append an entry to trackers.ini."""
    entries = configparser.ConfigParser(interpolation=None)
    entries[name] = {"label": name, "protocol": "trax", **entry}
    with open(workspace / "trackers.ini", "a", encoding="utf-8") as file:
        entries.write(file)


def make_workspace(folder: Path, weights: Path, stack: str = "unsupervised", length: int = 6) -> Path:
    """A workspace with two sequences, LoRAT by both protocols and the static tracker."""
    for seed, name in enumerate(["one", "two"]):
        write_clip(folder / "clips" / name, length, seed)
    if stack == "multiobject":
        rows = (folder / "clips" / "one" / "groundtruth.txt").read_text().splitlines()
        (folder / "clips" / "one" / "groundtruth_early.txt").write_text("\n".join(rows))
        (folder / "clips" / "one" / "groundtruth_late.txt").write_text("\n".join(["0,0,0,0", *rows[1:]]))
    create_workspace(folder / "ws", folder / "clips", TrackerSettings(weights=str(weights), device="cpu"), stack=stack)
    add_tracker(folder / "ws", "Static", command=f"{sys.executable} {STATIC}")
    return folder / "ws"


@pytest.fixture
def workspace(tmp_path: Path, tiny_weights: Path) -> Workspace:
    return open_workspace(make_workspace(tmp_path, tiny_weights))


# --- without the toolkit ---------------------------------------------------------------------------------------------


def test_workspace_is_read(workspace: Workspace) -> None:
    assert list(workspace.trackers) == ["LoRATPython", "LoRATTraX", "Static"]
    assert workspace.sequences == ["one", "two"]
    assert [experiment.name for experiment in workspace.experiments] == ["baseline"]
    assert choose_trackers(workspace, [], "0.7.4") == ["LoRATTraX", "Static"]
    assert choose_trackers(workspace, ["LoRATPython"], "0.9.0") == ["LoRATPython"]
    with pytest.raises(InputError, match="has no protocol python"):
        choose_trackers(workspace, ["LoRATPython", "Static"], "0.7.4")
    with pytest.raises(InputError, match=r"no tracker LoRAT in trackers\.ini: it has LoRATPython"):
        choose_trackers(workspace, ["LoRAT"], "0.9.0")


def test_late_objects_and_masks_are_seen(workspace: Workspace) -> None:
    assert workspace_problems(workspace, ["LoRATPython"], "0.9.0") == []
    workspace.trackers["LoRATPython"]["arg_masks"] = "box"
    (problem,) = workspace_problems(workspace, ["LoRATPython"], "0.9.0")
    assert "masks" in problem.what
    assert workspace_problems(workspace, ["LoRATTraX"], "0.9.0") == []


@pytest.mark.parametrize(
    ("file", "text", "sentence"),
    [
        ("config.yaml", "registry: []", "is no workspace"),
        ("config.yaml", "stack: ./other.yaml", "stack ./other.yaml does not exist"),
        ("trackers.ini", "", "has no tracker"),
        ("trackers.ini", "label = LoRAT", "cannot be read"),
        ("stack.yaml", "experiments: 3", "names no experiments"),
    ],
)
def test_a_workspace_that_cannot_be_read(workspace: Workspace, file: str, text: str, sentence: str) -> None:
    (workspace.folder / file).write_text(text)
    with pytest.raises(InputError, match=sentence):
        open_workspace(workspace.folder)


def pretend(lines: Sequence[str], *files: Path) -> Callable[..., list[str]]:
    """A toolkit that prints these lines and writes these files."""

    def toolkit(arguments: Sequence[str], show: Callable[[str], None], *, repair: bool) -> list[str]:
        for file in files:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("content")
        return list(lines)

    return toolkit


@pytest.mark.parametrize(
    ("step", "lines", "files", "text"),
    [
        ("evaluate", ["Evaluation concluded successfuly"], ["one/one_001.bin", "two/two_001.txt"], ""),
        ("evaluate", ["Evaluation concluded successfuly"], ["one/one_001.bin"], "results for 1 of 2 sequences"),
        (
            "evaluate",
            ["50 %", "Tracker Static encountered an error at sequence one: why", "Evaluation interrupted"],
            ["one/one_001.bin", "two/two_001.bin"],
            "encountered an error at sequence one: why",
        ),
        ("analysis", ["Analysis successful, report available as lorat"], [], "lorat.json is missing"),
        ("report", [], [], "the toolkit said nothing"),
        ("pack", ["Result packaging successful, archive available in a.zip"], [], "a.zip: "),
    ],
)
def test_words_and_files_must_agree(
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    lines: list[str],
    files: list[str],
    text: str,
) -> None:
    results = workspace.folder / "results" / "Static" / "baseline"
    monkeypatch.setattr(vot_run, "run_toolkit", pretend(lines, *(results / file for file in files)))
    (outcome,) = run_steps(workspace, ["Static"], [step], lambda line: None)
    assert outcome.good == (not text)
    assert text in outcome.text


def test_the_first_failure_ends_the_run(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vot_run, "run_toolkit", pretend(["gone wrong"]))
    outcomes = list(run_steps(workspace, ["Static", "LoRATTraX"], ["evaluate", "pack"], lambda line: None))
    assert [(outcome.good, outcome.text) for outcome in outcomes] == [(False, "gone wrong")]


# --- with the toolkit ------------------------------------------------------------------------------------------------


def lorat(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lorat_plugin", "vot", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


@pytest.mark.toolkit
@pytest.mark.slow
@pytest.mark.parametrize("stack", ["multistart", "supervised", "realtime", "longterm", "multiobject"])
def test_every_kind_of_stack(tmp_path: Path, tiny_weights: Path, stack: str) -> None:
    pytest.importorskip("vot")
    workspace = make_workspace(tmp_path, tiny_weights, stack)
    ours = ["LoRATPython", "LoRATTraX"]
    trackers = [*ours, "Static"] if stack == "multiobject" else ours  # another's once: each takes processes
    done = lorat("run", workspace, *([] if "Static" in trackers else ours))
    assert done.returncode == 0, done.stdout + done.stderr
    for tracker in trackers:
        assert f"done: vot pack {tracker}" in done.stdout
        assert len(list(workspace.glob(f"{tracker}_*.zip"))) == 1
    assert (workspace / "reports" / "lorat" / "report.html").is_file()
    scored = (workspace / "analysis" / "lorat.json").read_text()
    assert all(f'"{tracker}"' in scored for tracker in trackers)
    if "Static" in trackers:
        again = lorat("run", workspace, "Static", "--steps", "evaluate")  # finds its results
        assert again.returncode == 0, again.stderr


@pytest.mark.toolkit
@pytest.mark.slow
def test_exit_codes_and_the_real_traceback(tmp_path: Path, tiny_weights: Path) -> None:
    pytest.importorskip("vot")
    workspace = make_workspace(tmp_path, tiny_weights)
    add_tracker(workspace, "Broken", command=f'{sys.executable} -c "{BROKEN}"')
    failed = lorat("run", workspace, "Broken", "--steps", "evaluate")
    assert failed.returncode == 1
    assert "FAILED: vot evaluate" in failed.stdout
    assert "Unable to connect to tracker" in failed.stderr  # all that the toolkit says
    trial = try_tracker(open_workspace(workspace), "Broken")
    assert not trial.good
    assert trial.traceback[-1] == "KeyError: 'no such layer'"
    assert try_tracker(open_workspace(workspace), "Static").good


@pytest.mark.toolkit
@pytest.mark.slow
def test_doctor(tmp_path: Path, tiny_weights: Path) -> None:
    pytest.importorskip("vot")
    workspace = make_workspace(tmp_path, tiny_weights)
    sound = lorat("doctor", workspace, "--no-repair")  # the toolkit's own `vot test` of all trackers
    assert sound.returncode == 0, sound.stdout + sound.stderr
    (workspace / "stack.yaml").write_text(local_stack("multistart"))
    entries = configparser.ConfigParser()
    entries.read(workspace / "trackers.ini")
    entries["LoRATPython"]["arg_weights"] = "nowhere.safetensors"
    del entries["LoRATTraX"]
    with open(workspace / "trackers.ini", "w", encoding="utf-8") as file:
        entries.write(file)
    found = lorat("doctor", workspace)
    assert found.returncode == 1
    assert "warning  stack: vot-toolkit" in found.stdout
    assert "broken   LoRATPython" in found.stdout
    assert "Traceback (most recent call last):" in found.stdout
    assert "nowhere.safetensors" in found.stdout
    assert "ms a frame" in found.stdout


def test_bad_input_is_one_sentence(workspace: Workspace, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    from lorat_plugin.cli.main import run
    from lorat_plugin.harness.vot_tools import stacks as vot_stacks

    monkeypatch.setattr(vot_stacks, "version", lambda _: "0.9.0")
    folder = str(workspace.folder)
    (workspace.folder / "stack.yaml").write_text("experiments: {baseline: {type: multistart}}")
    for arguments, sentence in [
        (["run", str(workspace.folder.parent)], "is no workspace"),
        (["run", folder, "--steps", "evaluate,score"], "score is none of evaluate, analysis, report, pack"),
        (["run", folder, "--no-repair"], "vot-toolkit 0.7.4 can"),
        (["doctor", str(workspace.folder.parent)], "is no workspace"),
    ]:
        assert run(["vot", *arguments]) == 2
        error = capsys.readouterr().err
        assert sentence in error
        assert len(error.strip().splitlines()) == 1
