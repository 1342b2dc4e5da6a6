"""Results in a VOT workspace belong to its trackers, experiments and sequences as they were."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lorat_plugin.errors import InputError
from lorat_plugin.harness.vot_tools import run as vot_run
from lorat_plugin.harness.vot_tools.records import describe_tracker
from lorat_plugin.harness.vot_tools.run import open_workspace, run_steps
from lorat_plugin.harness.vot_tools.stacks import local_stack
from lorat_plugin.harness.vot_tools.workspace import create_workspace
from lorat_plugin.settings import TrackerSettings
from tests.helpers.sequences import write_clip

TRACKERS = ["LoRATPython", "LoRATTraX"]


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two sequences and results of both entries, by a toolkit that is not run."""
    for seed, name in enumerate(("one", "two")):
        write_clip(tmp_path / "clips" / name, 6, seed)
    (tmp_path / "weights.bin").write_bytes(b"first")
    settings = TrackerSettings(weights=str(tmp_path / "weights.bin"), device="cpu")
    create_workspace(tmp_path / "ws", tmp_path / "clips", settings)

    def toolkit(arguments: list[str], show: Callable[[str], None], *, repair: bool) -> list[str]:
        for name in ("one", "two"):
            path = tmp_path / "ws" / "results" / arguments[-1] / "baseline" / name / f"{name}_001.txt"
            if not path.is_file():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text((tmp_path / "weights.bin").read_text())
        return ["Evaluation concluded successfuly"]

    monkeypatch.setattr(vot_run, "run_toolkit", toolkit)
    run(tmp_path / "ws")
    return tmp_path / "ws"


def run(folder: Path, *, steps: tuple[str, ...] = ("evaluate",), force: bool = False) -> None:
    list(run_steps(open_workspace(folder), TRACKERS, steps, lambda line: None, force=force))


def result(folder: Path) -> str:
    return (folder / "results" / "LoRATPython" / "baseline" / "one" / "one_001.txt").read_text()


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "entry": (lambda f: edit(f / "trackers.ini", "arg_device = cpu", "arg_device = auto"), "arg_device cpu, now auto"),
    "command": (lambda f: edit(f / "trackers.ini", "--device cpu", "--device auto"), "--device cpu, now auto"),
    "weights": (lambda f: (f.parent / "weights.bin").write_bytes(b"other"), "content of arg_weights"),
    "start": (lambda f: edit(f / "sequences" / "one" / "groundtruth.txt", "30", "31"), "annotation of sequence one"),
    "frame": (
        lambda f: (f.parent / "clips" / "two" / "00000002.jpg").write_bytes(b"other"),
        "content of the frames of sequence two",
    ),
    "stack": (lambda f: (f / "stack.yaml").write_text(local_stack("realtime")), ""),
}


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize("steps", [("evaluate",), ("pack",)])
def test_results_of_a_changed_workspace_are_refused(workspace: Path, what: str, steps: tuple[str, ...]) -> None:
    change, words = CHANGES[what]
    if what == "stack":
        edit(workspace / "stack.yaml", "repetitions: 1", "repetitions: 3")
        words = "settings"
    else:
        change(workspace)
    with pytest.raises(InputError, match=words) as refused:
        run(workspace, steps=steps)
    assert "--force" in str(refused.value)
    assert result(workspace) == "first"


def test_force_evaluates_anew_and_drops_derived_sequences(workspace: Path) -> None:
    (workspace / "cache" / "transformer").mkdir(parents=True)
    (workspace.parent / "weights.bin").write_text("second")
    run(workspace, force=True)
    assert result(workspace) == "second" and not (workspace / "cache").exists()
    run(workspace)


def test_what_changes_no_result_is_allowed(workspace: Path) -> None:
    edit(workspace / "trackers.ini", "timeout = 120", "timeout = 900")
    edit(workspace / "trackers.ini", "label = LoRATPython", "label = Ours")
    (workspace / "trackers.ini").write_text(
        (workspace / "trackers.ini").read_text() + "\n[Other]\nprotocol = trax\ncommand = other\n"
    )
    edit(workspace / "sequences" / "list.txt", "one\ntwo\n", "two\none\n")
    run(workspace)
    assert result(workspace) == "first"


def test_results_without_a_record_are_named_and_then_recorded(
    workspace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (workspace / "lorat" / "LoRATPython.json").unlink()
    (workspace / "lorat" / "LoRATTraX.json").write_text("{")
    run(workspace)
    assert caplog.text.count("without a record of what they were made from") == 2
    edit(workspace / "trackers.ini", "arg_device = cpu", "arg_device = auto")
    with pytest.raises(InputError, match="arg_device"):
        run(workspace)


def test_bundled_weights_count() -> None:
    entry = {"protocol": "python", "command": "lorat_plugin.harness.vot:LoRATPython", "arg_model": "lorat_tiny"}
    assert len(describe_tracker(entry)["content of bundled weights"]) == 64
    trax = {"protocol": "trax", "command": "/usr/bin/python -m lorat_plugin.harness.vot --model lorat_tiny"}
    found = describe_tracker(trax)
    assert found["--model"] == "lorat_tiny" and "content of bundled weights" in found
    assert not any("python" in str(value) for key, value in found.items() if key not in ("-m", "protocol"))
