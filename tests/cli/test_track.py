"""`lorat track` as users run it: a process, its files, its exit code and what it says."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest

from lorat_plugin.cli.main import run
from lorat_plugin.cli.options import parse_box
from lorat_plugin.errors import InputError
from lorat_plugin.tracker import MultiObjectTracker
from lorat_plugin.tracking import TrackResult
from tests.helpers.numbered_videos import copy_damaged, write_numbered

BOX = "30,20,16,16"  # of the square in the fixture `frames`


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def lorat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Run `lorat ...` in an empty working folder."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")

    def invoke(*arguments: object) -> Done:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        return Done(code, *capsys.readouterr())

    return invoke


def lorat_process(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `lorat ...` as a process of its own in a folder."""
    command = [sys.executable, "-c", "from lorat_plugin.cli.main import main; main()", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def folder(tmp_path: Path, frames: list[np.ndarray]) -> Path:
    """The frames as images."""
    (tmp_path / "seq").mkdir()
    for number, frame in enumerate(frames):
        cv2.imwrite(str(tmp_path / "seq" / f"{number:04d}.png"), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    return tmp_path / "seq"


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_one_object_in_a_video_as_a_process(tmp_path: Path, frames: list[np.ndarray], tiny_weights: Path) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "clip.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10, (120, 90))
    for frame in frames:
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    writer.release()
    (tmp_path / "work").mkdir()
    arguments = [tmp_path / "clip.mp4", "--box", BOX, "--weights", tiny_weights, "--save"]
    done = lorat_process(tmp_path / "work", "track", *arguments)
    assert done.returncode == 0, done.stderr
    output = tmp_path / "work" / "lorat_track" / "clip"
    assert files_below(tmp_path / "work" / "lorat_track") == ["clip/boxes.txt", "clip/track.jsonl", "clip/video.mp4"]
    assert "6 frames" in done.stdout and "lorat_track/clip/boxes.txt" in done.stdout
    boxes = np.loadtxt(output / "boxes.txt", delimiter=",")
    assert boxes.shape == (6, 4) and boxes[0].tolist() == [30, 20, 16, 16]
    lines = [json.loads(line) for line in (output / "track.jsonl").read_text().splitlines()]
    assert [line["frame"] for line in lines] == list(range(6))
    np.testing.assert_allclose([line["box_xywh"] for line in lines], boxes, atol=1e-4)
    assert lines[0]["score"] == 1 and all(0 <= line["score"] <= 1 and line["time_ms"] > 0 for line in lines)
    video = cv2.VideoCapture(str(output / "video.mp4"))
    assert (video.get(cv2.CAP_PROP_FRAME_COUNT), video.get(cv2.CAP_PROP_FPS)) == (6, 10)


def test_several_objects_in_a_part_of_a_folder(lorat, tmp_path: Path, folder: Path, tiny_weights: Path) -> None:
    options = ["--start", 1, "--end", 5, "--output", tmp_path / "out", "--json"]
    done = lorat("track", folder, "--box", BOX, "--box", "60.5,40,30,20", "--weights", tiny_weights, *options)
    assert done.returncode == 0, done.stderr
    assert files_below(tmp_path / "out") == ["boxes_0.txt", "boxes_1.txt", "track.jsonl"]
    summary = json.loads(done.stdout)
    assert (summary["frames"], summary["objects"], summary["interrupted"]) == (4, [0, 1], False)
    assert sorted(Path(path).name for path in summary["files"]) == files_below(tmp_path / "out")
    assert np.loadtxt(tmp_path / "out" / "boxes_1.txt", delimiter=",").shape == (4, 4)
    lines = [json.loads(line) for line in (tmp_path / "out" / "track.jsonl").read_text().splitlines()]
    assert [(line["frame"], line["id"]) for line in lines] == [(n, i) for n in range(1, 5) for i in (0, 1)]


def test_masks_of_rectangles_replace_those_of_an_earlier_run(
    lorat, tmp_path: Path, folder: Path, tiny_weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    common = [folder, "--weights", tiny_weights, "--output", tmp_path / "out", "--start", 2, "--end", 5]
    done = lorat("track", *common, "--box", "36,24,16,16", "--masks", "box", "--save", "--json")
    assert done.returncode == 0, done.stderr
    assert "rectangles" in caplog.text
    names = [f"{number:06d}.png" for number in (2, 3, 4)]
    assert files_below(tmp_path / "out") == ["boxes.txt", *(f"masks/{n}" for n in names), "track.jsonl", "video.mp4"]
    assert str(tmp_path / "out" / "masks") in json.loads(done.stdout)["files"]
    first = cv2.imread(str(tmp_path / "out" / "masks" / names[0]), cv2.IMREAD_UNCHANGED)
    assert first.shape == (90, 120) and first.dtype == np.uint8
    assert (first[24:40, 36:52] == 255).all() and (first > 0).sum() == 256

    done = lorat("track", *common, "--box", "36,24,16,16", "--box", "60,40,30,20", "--masks", "box")
    assert done.returncode == 0, done.stderr
    folders = {path.name for path in (tmp_path / "out").iterdir() if path.is_dir()}
    assert folders == {"masks_0", "masks_1"}
    (tmp_path / "out" / "masks_7").mkdir()
    (tmp_path / "out" / "masks_7" / "mine.png").touch()  # not of a run: stays
    assert lorat("track", *common, "--box", "36,24,16,16").returncode == 0
    assert files_below(tmp_path / "out") == ["boxes.txt", "masks_7/mine.png", "track.jsonl"]


def test_masks_never_replace_a_users_folder_and_their_model_must_exist(
    lorat, tmp_path: Path, folder: Path, tiny_weights: Path
) -> None:
    (tmp_path / "out" / "masks").mkdir(parents=True)
    (tmp_path / "out" / "masks" / "000002.png").touch()  # no track.jsonl beside it: not of a run
    common = [folder, "--weights", tiny_weights, "--box", BOX, "--output", tmp_path / "out"]
    done = lorat("track", *common, "--masks", "box")
    assert done.returncode == 2 and "not of an earlier run" in done.stderr
    assert lorat("track", *common).returncode == 0
    assert files_below(tmp_path / "out") == ["boxes.txt", "masks/000002.png", "track.jsonl"]
    done = lorat("track", *common, "--masks", tmp_path / "out" / "boxes.txt")
    assert done.returncode == 2 and "cannot be read as a checkpoint" in done.stderr


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["seq", "--box", "nan,20,16,16"], "finite"),
        (["seq", "--box", "30,20,-16,16"], "greater than 0"),
        (["seq", "--box", "30,20,16"], "four numbers"),
        (["seq"], "where the object is"),
        (["nowhere.mp4", "--box", BOX], "nowhere.mp4: no such video"),
        (["seq", "--box", BOX, "--start", "6"], "start 6 is beyond its end"),
        (["seq", "--box", BOX, "--start", "3", "--end", "2"], "frames 3 to 2"),
    ],
)
def test_bad_input_is_one_sentence(lorat, tmp_path: Path, folder: Path, arguments: list[str], words: str) -> None:
    source = [str(tmp_path / arguments[0]), *arguments[1:]]
    done = lorat("track", *source)
    assert done.returncode == 2
    assert words in done.stderr and len(done.stderr.splitlines()) == 1 and not done.stdout
    assert files_below(tmp_path / "work") == []


def test_box_outside_and_bad_frame_write_nothing(lorat, tmp_path: Path, folder: Path, tiny_weights: Path) -> None:
    done = lorat("track", folder, "--box", "500,20,16,16", "--weights", tiny_weights)
    assert done.returncode == 2
    assert "frame 0" in done.stderr and "0000.png" in done.stderr and "outside" in done.stderr
    (folder / "0004.png").write_bytes(b"damaged")
    done = lorat("track", folder, "--box", BOX, "--weights", tiny_weights, "--save")
    assert done.returncode == 2
    assert "frame 4" in done.stderr and "0004.png" in done.stderr and "--end 4 tracks up to there" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list((tmp_path / "work").iterdir()) == []


def test_save_never_overwrites_the_source(lorat, tmp_path: Path, frames: list[np.ndarray], tiny_weights: Path) -> None:
    path = tmp_path / "video.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (120, 90))
    for frame in frames:
        writer.write(frame)
    writer.release()
    before = path.read_bytes()
    done = lorat("track", path, "--box", BOX, "--weights", tiny_weights, "--save", "--output", tmp_path)
    assert done.returncode == 2 and "overwrite" in done.stderr
    assert path.read_bytes() == before


@pytest.mark.skipif(sys.platform == "win32", reason="os.kill ends the process there")
def test_ctrl_c_keeps_what_is_done(
    lorat, tmp_path: Path, folder: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update, calls = MultiObjectTracker.update, []

    def interrupted(self: MultiObjectTracker, frame: np.ndarray) -> dict[int, TrackResult]:
        calls.append(frame)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return update(self, frame)

    monkeypatch.setattr(MultiObjectTracker, "update", interrupted)
    before = signal.getsignal(signal.SIGINT)
    done = lorat("track", folder, "--box", BOX, "--weights", tiny_weights, "--output", "out", "--save", "--json")
    assert done.returncode == 130, done.stderr
    assert json.loads(done.stdout)["interrupted"]
    assert files_below(tmp_path / "work" / "out") == ["boxes.txt", "track.jsonl", "video.mp4"]
    assert len((tmp_path / "work" / "out" / "boxes.txt").read_text().splitlines()) == 4  # the given box and three
    assert len((tmp_path / "work" / "out" / "track.jsonl").read_text().splitlines()) == 4
    assert cv2.VideoCapture("out/video.mp4").get(cv2.CAP_PROP_FRAME_COUNT) == 4
    assert signal.getsignal(signal.SIGINT) is before


def test_boxes_drawn_with_the_mouse(
    lorat, tmp_path: Path, folder: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lorat_plugin.video.outputs.require_display", lambda: None)
    monkeypatch.setattr("lorat_plugin.video.outputs.select_boxes", lambda image: [(30.0, 20.0, 16.0, 16.0)])
    done = lorat("track", folder, "--select", "--weights", tiny_weights)
    assert done.returncode == 0, done.stderr
    assert files_below(tmp_path / "work") == ["lorat_track/seq/boxes.txt", "lorat_track/seq/track.jsonl"]
    assert lorat("track", folder, "--select", "--box", BOX).returncode == 2


def test_a_failing_tracker_is_exit_code_one(
    lorat, tmp_path: Path, folder: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(self: MultiObjectTracker, frame: np.ndarray) -> dict[int, TrackResult]:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(MultiObjectTracker, "update", failing)
    done = lorat("track", folder, "--box", BOX, "--weights", tiny_weights, "--save")
    assert done.returncode == 1 and "out of memory" in done.stderr
    assert files_below(tmp_path / "work") == []


def test_help_has_an_example(tmp_path: Path) -> None:
    done = lorat_process(tmp_path, "track", "--help")
    assert done.returncode == 0
    assert "lorat track video.mp4 --box" in done.stdout


def test_no_display_ends_before_anything_else(lorat, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise InputError("no window can be opened")

    monkeypatch.setattr("lorat_plugin.video.outputs.require_display", missing)
    done = lorat("track", folder, "--box", BOX, "--show")
    assert done.returncode == 2 and "no window can be opened" in done.stderr


def test_import_is_light() -> None:
    code = "import sys, lorat_plugin.cli.track, lorat_plugin.cli.toolkits; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "cv2", "numpy", "timm"} & set(loaded)


def test_a_damaged_frame_keeps_its_row(
    lorat, tmp_path: Path, tiny_weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = write_numbered(tmp_path / "whole.mp4", 10, options={"g": "1"})
    bad = copy_damaged(whole, tmp_path / "bad.mp4", {4, 9}, "zero")
    done = lorat("track", bad, "--box", "20,16,16,16", "--weights", tiny_weights, "--output", "out", "--save")
    assert done.returncode == 0, done.stderr
    assert "2 frames (4, 9) are damaged and left out" in caplog.text
    rows = (tmp_path / "work" / "out" / "boxes.txt").read_text().splitlines()
    lines = [json.loads(line) for line in (tmp_path / "work" / "out" / "track.jsonl").read_text().splitlines()]
    assert len(rows) == 10 and rows[4] == rows[3] and rows[9] == rows[8]
    assert [line["frame"] for line in lines] == [0, 1, 2, 3, 5, 6, 7, 8]
    for line in lines[1:]:
        assert rows[line["frame"]] == ",".join(f"{value:.4f}" for value in line["box_xywh"])


def test_boxes_for_a_damaged_first_frame_are_refused(lorat, tmp_path: Path, tiny_weights: Path) -> None:
    whole = write_numbered(tmp_path / "whole.mp4", 10, options={"g": "1"})
    bad = copy_damaged(whole, tmp_path / "bad.mp4", {0, 1}, "zero")
    arguments = ("--box", "20,16,16,16", "--weights", tiny_weights, "--output", "out")
    done = lorat("track", bad, *arguments)
    assert done.returncode == 2 and "frame 0 is damaged; give the boxes in frame 2, and --start 2" in done.stderr
    done = lorat("track", bad, *arguments, "--start", 2, "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["frames"] == 8


def test_a_file_without_its_end_is_refused_with_the_remedy(lorat, tmp_path: Path, tiny_weights: Path) -> None:
    path = write_numbered(tmp_path / "cut.mkv", 60, options={"crf": "5"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    arguments = ("--box", "20,16,16,16", "--weights", tiny_weights, "--output", "out")
    done = lorat("track", path, *arguments)
    found = re.search(
        r"its last \d+ frames cannot be read; copy it again, or leave them out with --end (\d+)", done.stderr
    )
    assert done.returncode == 2 and found, done.stderr
    assert files_below(tmp_path / "work") == []
    done = lorat("track", path, *arguments, "--end", found[1], "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["frames"] == int(found[1])


def test_parse_box() -> None:
    assert parse_box("-1.5,0,1e2, 4") == (-1.5, 0.0, 100.0, 4.0)
    for text in ("", "1,2,3", "1,2,3,4,5", "a,b,c,d", "1 2 3 4", "1,2,0,4", "1,2,3,-4", "inf,2,3,4", "1,2,3,nan"):
        with pytest.raises(InputError, match="--box"):
            parse_box(text)
