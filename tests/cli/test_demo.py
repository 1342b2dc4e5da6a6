"""`lorat demo` through the real GOT-10k toolkit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from lorat_plugin.cli.main import run
from lorat_plugin.datasets.clips import write_sequences
from tests.helpers.sequences import write_clip

pytest.importorskip("got10k.experiments")
from lorat_plugin.apps import demo
from lorat_plugin.evaluation.registry import open_benchmark
from lorat_plugin.evaluation.results import result_files

pytestmark = pytest.mark.toolkit

SIZES = {"small": (41, 61), "wide": (60, 1301), "tall": (1500, 30)}


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    for number in range(2):
        write_clip(tmp_path / "my clips" / f"clip{number}", length=5, seed=number)
    return tmp_path / "my clips"


def test_the_users_clips_as_json(
    clips: Path, tiny_weights: Path, capsys: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
) -> None:
    arguments = ["demo", "--data", str(clips), "--weights", str(tiny_weights), "--device", "cpu", "--json"]
    assert run([*arguments, "--trackers", "static,MIL"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert "sequences are there" not in caplog.text  # nothing is missing: it is no GOT-10k
    assert "without a record" not in caplog.text  # the results are of this very run
    assert set(report["trackers"]) == {"LoRAT", "static", "MIL"}
    assert report["sequences"] == {"clip0": 5, "clip1": 5}
    # the square is 16 wide and moves by 3, 2 pixels a frame: after i frames a still box overlaps (16-3i)(16-2i)
    inter = np.array([(16 - 3 * i) * (16 - 2 * i) for i in range(1, 5)])
    overlaps = inter / (2 * 256 - inter)
    still = report["trackers"]["static"]
    assert still["sequence_auc"]["clip0"] == pytest.approx(demo.success_auc(overlaps))
    assert still["ao"] == pytest.approx(overlaps.mean(), abs=1e-4)
    assert still["sr50"] == pytest.approx((overlaps > 0.5).mean())
    assert still["sr75"] == pytest.approx((overlaps > 0.75).mean())
    assert report["trackers"]["LoRAT"]["fps"] > 0
    assert Path(report["success_plot"]).stat().st_size > 1000
    capture = cv2.VideoCapture(report["video"])
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 10
    assert json.loads(Path("lorat_demo/results.json").read_text())["trackers"] == report["trackers"]
    assert not list(Path("lorat_demo").glob(".*"))


def test_a_second_run_replaces_the_first(clips: Path, tiny_weights: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = [
        "demo",
        "--data",
        str(clips),
        "--weights",
        str(tiny_weights),
        "--device",
        "cpu",
        "--trackers",
        "static",
    ]
    assert run(arguments) == 0
    times = Path("lorat_demo/results/GOT-10k/static/clip0/clip0_time.txt")
    before = times.stat().st_mtime_ns
    (clips / "clip1" / "groundtruth.txt").rename(clips / "clip1" / "old.txt")  # one clip less
    assert run(arguments) == 0
    assert times.stat().st_mtime_ns > before
    assert np.loadtxt(times, ndmin=2).shape == (5, 1)  # no second column: the records were deleted
    assert not Path("lorat_demo/results/GOT-10k/static/clip1").exists()
    shown = capsys.readouterr().out
    assert "success AUC" in shown and "clip0" in shown and "demo.mp4" in shown
    scores = json.loads(Path("lorat_demo/results.json").read_text())["trackers"]
    best = max(scores, key=lambda name: scores[name]["auc"])
    assert f"best success AUC on these frames: {best}\n" in shown


def test_the_packages_clips_are_written_as_jpegs_with_boxes(tmp_path: Path) -> None:
    lengths = demo.prepare_sequences(tmp_path / "lorat_demo")
    assert lengths == {"davis_camel": 90, "davis_bmx-trees": 80}
    for name, length in lengths.items():
        home = tmp_path / "lorat_demo/sequences/val" / name
        boxes = np.loadtxt(home / "groundtruth.txt", delimiter=",")
        assert len(boxes) == length == len(list(home.glob("*.jpg")))
        assert cv2.imread(str(home / "00000001.jpg")).shape[:2] == (224, 400)


@pytest.mark.slow
def test_the_demo_without_data(tiny_weights: Path, capsys: pytest.CaptureFixture) -> None:
    assert run(["demo", "--weights", str(tiny_weights), "--device", "cpu"]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("davis_camel", "VitTrack", "MIL", "static", "NanoTrack left out"))
    scores = json.loads(Path("lorat_demo/results.json").read_text())["trackers"]
    assert list(scores) == sorted(scores, key=lambda name: -scores[name]["auc"])  # the winner first, whoever it is
    assert scores["VitTrack"]["sequence_auc"]["davis_camel"] > 0.7  # 0.777 on the frames before H.264


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere"], "nowhere: no such folder"),
        (["--trackers", "SORT"], "unknown baseline 'SORT'"),
        (["--trackers", "NanoTrack"], "NanoTrack cannot run: needs nanotrack"),
        (["--baseline-models", "nowhere"], "nowhere: no such folder of model files"),
        (["--weights", "missing.safetensors"], "missing.safetensors"),
    ],
)
def test_bad_input_is_one_sentence_and_code_2(
    arguments: list[str], message: str, tiny_weights: Path, capsys: pytest.CaptureFixture
) -> None:
    weights = [] if "--weights" in arguments else ["--weights", str(tiny_weights)]
    assert run(["demo", "--device", "cpu", *weights, *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "Traceback" not in error
    assert not Path("lorat_demo").exists()


def test_a_file_in_the_way_is_reported(tiny_weights: Path, capsys: pytest.CaptureFixture) -> None:
    Path("lorat_demo").write_text("mine")
    assert run(["demo", "--weights", str(tiny_weights), "--device", "cpu", "--trackers", "static"]) == 2
    assert "in the way" in capsys.readouterr().err
    assert Path("lorat_demo").read_text() == "mine"


def test_clips_in_the_demos_own_folder_are_refused(tiny_weights: Path, capsys: pytest.CaptureFixture) -> None:
    write_clip(Path("lorat_demo/sequences/val/mine"))
    arguments = ["--weights", str(tiny_weights), "--device", "cpu", "--trackers", "static"]
    assert run(["demo", "--data", "lorat_demo/sequences/val", *arguments]) == 2
    assert "move them elsewhere" in capsys.readouterr().err
    assert Path("lorat_demo/sequences/val/mine/00000001.jpg").is_file()


def test_the_video_holds_frames_of_different_sizes(tmp_path: Path) -> None:
    boxes = np.array([[5.0, 5, 20, 20], [6, 6, 20, 20], [np.nan] * 4])
    images = {name: [np.full((*size, 3), 90, np.uint8)] * 3 for name, size in SIZES.items()}
    write_sequences({name: (frames, boxes) for name, frames in images.items()}, tmp_path / "sequences")
    benchmark = open_benchmark("got10k", tmp_path / "sequences", "val")
    files = result_files(benchmark, tmp_path / "results", "LoRAT")
    for name in SIZES:
        files.write(name, [np.nan_to_num(boxes)], np.full((3, 1), 0.1))
    demo.write_video(tmp_path / "out.mp4", benchmark, {"LoRAT": files})
    capture = cv2.VideoCapture(str(tmp_path / "out.mp4"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 9
    assert capture.get(cv2.CAP_PROP_FRAME_HEIGHT) % 2 == 0
    assert [path.name for path in tmp_path.glob("*.mp4")] == ["out.mp4"]


def test_help_has_an_example_and_imports_little(capsys: pytest.CaptureFixture) -> None:
    assert run(["demo", "--help"]) == 0
    assert "lorat demo --data my_clips" in capsys.readouterr().out
    code = (
        "import sys, lorat_plugin.cli.toolkits;"
        "bad = {'torch', 'cv2', 'numpy', 'got10k', 'matplotlib', 'rich'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
