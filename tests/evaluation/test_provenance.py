"""Results belong to their data: what changed is tracked anew, what comes from elsewhere is refused, with the reason."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from lorat_plugin.cli import main
from lorat_plugin.errors import InputError
from lorat_plugin.evaluation import results as results_module
from lorat_plugin.evaluation.baselines import StaticTracker
from lorat_plugin.evaluation.compare import Contestant, missing_sequences, track
from lorat_plugin.evaluation.provenance import Reusable, settle_settings
from lorat_plugin.evaluation.registry import open_benchmark
from lorat_plugin.evaluation.results import ResultFiles, notes_folder, result_files
from lorat_plugin.evaluation.scoring import score_tracker
from lorat_plugin.harness.got10k_experiments import ExperimentClips
from lorat_plugin.video.demo_clips import calibration_digest
from tests.helpers.sequences import square_sequence, write_clip, write_frames

LENGTH = 6


@pytest.fixture(autouse=True)
def _say_again() -> None:
    results_module.note_unrecorded.cache_clear()


@pytest.fixture
def monday(tmp_path: Path) -> Path:
    for seed, name in enumerate(("cam1", "cam2")):
        write_clip(tmp_path / "monday" / name, LENGTH, seed)
    return tmp_path / "monday"


@pytest.fixture
def tuesday(tmp_path: Path) -> Path:
    """The same clip names, lengths and first boxes; other pictures."""
    for seed, name in enumerate(("cam1", "cam2")):
        write_clip(tmp_path / "tuesday" / name, LENGTH, seed + 10)
    return tmp_path / "tuesday"


def still(root: Path, results: Path, recorded: bool = True) -> ResultFiles:
    """Results of a box that never moves."""
    benchmark = open_benchmark("clips", root)
    files = result_files(benchmark, results, "Still")
    for sequence in benchmark.sequences:
        if recorded:
            files.begin(sequence)
        files.write(sequence.name, [np.tile(sequence.boxes[:1], (len(sequence), 1))], np.zeros((len(sequence), 1)))
    return files


def reusable(root: Path, results: Path, name: str = "cam1") -> bool:
    benchmark = open_benchmark("clips", root)
    return Reusable(result_files(benchmark, results, "Still"), 1, benchmark)(name)


def evaluate(root: Path, results: Path, *options: str) -> int:
    line = ["evaluate", "--dataset", f"clips:{root}", "--results", str(results), "--device", "cpu", *options]
    return main.run(line)


def rows(results: Path, clip: str) -> np.ndarray:
    return np.loadtxt(results / "clips" / "LoRAT" / f"{clip}.txt", delimiter=",")


def test_another_root_is_refused_and_nothing_is_replaced(
    monday: Path, tuesday: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(monday, tmp_path / "results") == 0
    before = rows(tmp_path / "results", "cam1")
    capsys.readouterr()
    for command in (("evaluate", "--device", "cpu"), ("compare", "--trackers", "LoRAT,static"), ("report",)):
        line = [*command, "--dataset", f"clips:{tuesday}", "--results", str(tmp_path / "results")]
        assert main.run(line) == 2, command
        said = capsys.readouterr().err
        assert "content of the frames" in said and "cam1.txt" in said and "--name" in said, said
    np.testing.assert_array_equal(rows(tmp_path / "results", "cam1"), before)


def test_a_corrected_first_box_is_tracked_anew_and_the_rest_is_kept(
    monday: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert evaluate(monday, tmp_path / "results") == 0
    kept = (tmp_path / "results" / "clips" / "LoRAT" / "cam2.txt").stat().st_mtime_ns
    boxes = np.loadtxt(monday / "cam1" / "groundtruth.txt", delimiter=",")
    boxes[0] = [31, 21, 15, 15]
    np.savetxt(monday / "cam1" / "groundtruth.txt", boxes, fmt="%.3f", delimiter=",")
    with caplog.at_level(logging.INFO):
        assert evaluate(monday, tmp_path / "results") == 0
    assert "first box [30.0, 20.0, 16.0, 16.0], now [31.0, 21.0, 15.0, 15.0]; tracked again" in caplog.text
    assert f"{LENGTH} frames to track" in caplog.text
    assert rows(tmp_path / "results", "cam1")[0].tolist() == [31, 21, 15, 15]
    assert (tmp_path / "results" / "clips" / "LoRAT" / "cam2.txt").stat().st_mtime_ns == kept
    record = json.loads((tmp_path / "results" / "lorat" / "clips" / "LoRAT" / "data" / "cam1.json").read_text())
    assert record["first box"] == [31, 21, 15, 15] and record["number of frames"] == LENGTH


def test_other_weights_under_the_same_name_are_refused(
    monday: Path, tmp_path: Path, tiny_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(monday, tmp_path / "results", "--sequences", "cam1") == 0
    assert evaluate(monday, tmp_path / "results", "--weights", str(tiny_weights)) == 2
    assert "differ from this run in weights" in capsys.readouterr().err


def test_the_case_of_two_days(shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not (shared / "faults" / "stale").is_dir():
        pytest.skip("the folder of faults is not here")
    shutil.copytree(shared / "faults" / "stale", tmp_path / "faults" / "stale")
    for file in (shared / "faults").glob("*.py"):
        shutil.copy(file, tmp_path / "faults")
    home = tmp_path / "faults" / "stale"
    subprocess.run([sys.executable, str(home / "build.py")], check=True, capture_output=True)
    assert evaluate(home / "monday", tmp_path / "results") == 0
    assert evaluate(home / "tuesday", tmp_path / "results") == 2
    assert "content of the frames" in capsys.readouterr().err
    assert evaluate(home / "tuesday", tmp_path / "results", "--name", "Tuesday", "--json") == 0
    beside = json.loads(capsys.readouterr().out)["scores"]
    assert evaluate(home / "tuesday", tmp_path / "elsewhere", "--json") == 0
    fresh = json.loads(capsys.readouterr().out)["scores"]
    assert beside[0]["auc"] == fresh[0]["auc"] > 0.8


def rename_last(clip: Path) -> None:
    frames = sorted(clip.glob("*.jpg"))
    frames[-1].rename(clip / "00000099.jpg")


def add_frame(clip: Path) -> None:
    shutil.copy(clip / "00000001.jpg", clip / "00000007.jpg")
    with open(clip / "groundtruth.txt", "a", encoding="utf-8") as file:
        file.write("1,2,3,4\n")


def replace_middle(clip: Path) -> None:
    frames, _ = square_sequence(1, 99)
    cv2.imwrite(str(clip / "00000003.jpg"), frames[0])


def turn_first(clip: Path) -> None:
    """Change one byte of a header, as a tool does that corrects the orientation."""
    data = bytearray((clip / "00000001.jpg").read_bytes())
    data[13] ^= 1
    (clip / "00000001.jpg").write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("change", "subject"),
    [
        (rename_last, "names of the frames"),
        (add_frame, "number of frames 6, now 7"),
        (replace_middle, "content of the frames"),
        (turn_first, "content of the frames"),
    ],
)
def test_a_clip_that_changed_in_place_is_tracked_again(
    monday: Path, tmp_path: Path, change: object, subject: str, caplog: pytest.LogCaptureFixture
) -> None:
    still(monday, tmp_path / "results")
    assert reusable(monday, tmp_path / "results")
    change(monday / "cam1")  # type: ignore[operator]
    assert not reusable(monday, tmp_path / "results") and reusable(monday, tmp_path / "results", "cam2")
    assert f"{subject}; tracked again" in caplog.text


def test_frames_without_compression_are_told_apart_by_their_content(tmp_path: Path) -> None:
    for day, seed in (("monday", 0), ("tuesday", 1)):
        frames, boxes = square_sequence(LENGTH, 0)
        frames[4] = square_sequence(LENGTH, seed)[0][4]
        write_frames(tmp_path / day / "cam1", frames, suffix=".bmp")
        np.savetxt(tmp_path / day / "cam1" / "groundtruth.txt", boxes, delimiter=",")
    still(tmp_path / "monday", tmp_path / "results")
    with pytest.raises(InputError, match=r"which differ from .*tuesday.* in content of the frames"):
        reusable(tmp_path / "tuesday", tmp_path / "results")


def test_data_that_moved_or_gained_later_boxes_keep_their_results(monday: Path, tmp_path: Path) -> None:
    still(monday, tmp_path / "results")
    shutil.copytree(monday, tmp_path / "elsewhere")
    boxes = np.loadtxt(tmp_path / "elsewhere" / "cam1" / "groundtruth.txt", delimiter=",")
    boxes[2] += 1  # scores change, results do not
    np.savetxt(tmp_path / "elsewhere" / "cam1" / "groundtruth.txt", boxes, delimiter=",")
    os.utime(tmp_path / "elsewhere" / "cam1" / "00000001.jpg")
    assert reusable(tmp_path / "elsewhere", tmp_path / "results")


def test_results_without_a_record_are_held_against_the_first_box(
    monday: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = still(monday, tmp_path / "results", recorded=False)
    assert reusable(monday, tmp_path / "results") and reusable(monday, tmp_path / "results", "cam2")
    assert caplog.text.count("without a record of their data") == 1
    benchmark = open_benchmark("clips", monday)
    assert score_tracker(benchmark, files).overall.auc < 1
    moved = np.loadtxt(monday / "cam1" / "groundtruth.txt", delimiter=",") + np.array([1, 0, 0, 0])
    np.savetxt(monday / "cam1" / "groundtruth.txt", moved, fmt="%.3f", delimiter=",")
    assert reusable(monday, tmp_path / "results"), "others may count pixels from 1"
    settle_settings(notes_folder(benchmark, tmp_path / "results", "Still"), {}, files)
    with pytest.raises(InputError, match=r"unknown folder.*first box \[30.0, 20.0, 16.0, 16.0\], now \[31.0, 20.0"):
        reusable(monday, tmp_path / "results")
    far = moved + np.array([60, 0, 0, 0])
    np.savetxt(monday / "cam2" / "groundtruth.txt", far, fmt="%.3f", delimiter=",")
    with pytest.raises(InputError, match="is a result of other data"):
        score_tracker(open_benchmark("clips", monday), files)


def test_a_damaged_record_is_named(monday: Path, tmp_path: Path) -> None:
    files = still(monday, tmp_path / "results")
    assert files.records is not None
    (files.records / "cam1.json").write_text("[1, 2")
    with pytest.raises(InputError, match=r"cam1\.json: cannot be read as a record"):
        reusable(monday, tmp_path / "results")


def test_compare_tracks_changed_clips_again_and_refuses_another_tracker(
    monday: Path, tuesday: Path, tmp_path: Path
) -> None:
    def contestant(root: Path, settings: dict[str, str]) -> tuple[Contestant, list[str]]:
        benchmark = open_benchmark("clips", root)
        files = result_files(benchmark, tmp_path / "results", "static")
        one = Contestant(files, StaticTracker("static"), settings)
        missing = missing_sequences(one, benchmark)
        track(one, missing, lambda count: None)
        return one, [sequence.name for sequence in missing]

    model = {"content of model.onnx": "a" * 64}
    assert contestant(monday, model)[1] == ["cam1", "cam2"]
    assert contestant(monday, model)[1] == []
    replace_middle(monday / "cam2")
    assert contestant(monday, model)[1] == ["cam2"]
    with pytest.raises(InputError, match=r"content of the frames"):
        contestant(tuesday, model)
    with pytest.raises(InputError, match=r"differ from this run in content of model\.onnx"):
        contestant(monday, {"content of model.onnx": "b" * 64})


def test_the_source_of_a_user_s_tracker_counts(
    monday: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code = "from lorat_plugin.evaluation.baselines import StaticTracker\nclass Mine(StaticTracker):\n"
    code += "    def __init__(self): super().__init__('Mine')\n"
    (tmp_path / "stale_mine.py").write_text(code)
    line = ["compare", "--dataset", f"clips:{monday}", "--trackers", "static,stale_mine:Mine", "--results", "results"]
    assert main.run(line) == 0
    (tmp_path / "stale_mine.py").write_text(code + "# another version\n")
    assert main.run(line) == 2
    assert "content of stale_mine.py" in capsys.readouterr().err


def test_our_experiments_ask_too(monday: Path, tuesday: Path, tmp_path: Path) -> None:
    places = (tmp_path / "results", tmp_path / "reports")
    ExperimentClips(monday, *places).run(StaticTracker("Still"))
    path = tmp_path / "results" / "clips" / "Still" / "cam1.txt"
    before = path.stat().st_mtime_ns
    ExperimentClips(monday, *places).run(StaticTracker("Still"))
    assert path.stat().st_mtime_ns == before
    replace_middle(monday / "cam1")
    with pytest.raises(InputError, match="content of the frames"):
        ExperimentClips(monday, *places).report(["Still"])
    ExperimentClips(monday, *places).run(StaticTracker("Still"))
    assert path.stat().st_mtime_ns > before
    with pytest.raises(InputError, match=r"which differ from .*tuesday"):
        ExperimentClips(tuesday, *places).run(StaticTracker("Still"))
    tracker = StaticTracker("Still")
    for weights in ("a", "b"):
        tracker.settings = {"content of weights": weights * 64}
        if weights == "a":
            ExperimentClips(monday, *places).run(tracker)
    with pytest.raises(InputError, match="differ from this run in content of weights"):
        ExperimentClips(monday, *places).run(tracker)


def test_a_calibration_counts_by_its_frames_and_boxes(monday: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LORAT_CALIBRATION", raising=False)
    assert calibration_digest() == "the bundled clips"
    monkeypatch.setenv("LORAT_CALIBRATION", str(monday))
    before = calibration_digest()
    assert calibration_digest() == before and len(before) == 64
    replace_middle(monday / "cam1")
    assert calibration_digest() != before
