"""`lorat annotate` and `lorat track --format`: files, exit codes, sentences."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from lorat_plugin.cli.main import run
from lorat_plugin.interchange import VideoInfo, read_tracks

LINES = """{"frame": 0, "box_xywh": [30, 20, 16, 16], "label": "square"}
{"frame": 4, "box_xywh": [42, 28, 16, 16], "label": "square"}
"""
VIDEO = VideoInfo("clip", 120, 90, range(6), 10.0)


@pytest.fixture
def clip(tmp_path: Path, frames: list[np.ndarray], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The frames as a video, and boxes in two of them, in the working folder."""
    monkeypatch.chdir(tmp_path)
    writer = cv2.VideoWriter(str(tmp_path / "clip.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10, (120, 90))
    for frame in frames:
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    writer.release()
    (tmp_path / "keys.jsonl").write_text(LINES)
    return tmp_path / "clip.mp4"


def test_annotate_as_a_process(clip: Path, tiny_weights: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "lorat_plugin",
        "annotate",
        clip,
        "--labels",
        "keys.jsonl",
        "--weights",
        tiny_weights,
    ]
    command += ["--format", "cvat", "--format", "coco", "--save"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "6 boxes of 1 objects from 2 drawn ones in 6 frames" in done.stdout
    for name in ("track_cvat.xml", "track_coco.json"):
        rows = read_tracks(Path("lorat_annotate") / "clip" / name, VIDEO).rows
        assert [row.frame for row in rows] == list(range(6)) and {row.label for row in rows} == {"square"}
        assert rows[4].box == pytest.approx((42, 28, 16, 16)) and rows[4].score == 1 > rows[3].score
    video = cv2.VideoCapture("lorat_annotate/clip/video.mp4")
    assert (video.get(cv2.CAP_PROP_FRAME_COUNT), video.get(cv2.CAP_PROP_FPS)) == (6, 10)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nothing.mp4", "--labels", "keys.jsonl"], "nothing.mp4: no such video"),
        (["clip.mp4", "--labels", "nothing.json"], "nothing.json: cannot be read"),
        (["clip.mp4", "--labels", "late.jsonl"], "clip has frames 0 to 5"),
        (["clip.mp4", "--labels", "late.jsonl", "--end", "9"], "clip has frames 0 to 5"),
        (["clip.mp4", "--labels", "late.jsonl", "--end", "5"], "no box is drawn in frames 0 to 4"),
        (["clip.mp4", "--labels", "keys.jsonl", "--start", "1", "--end", "4"], "no box is drawn in frames 1 to 3"),
        (["clip.mp4", "--labels", "keys.jsonl", "--start", "6"], "--start 6: clip.mp4 is read up to frame 5"),
        (["clip.mp4", "--labels", "off.jsonl"], "off.jsonl: frame 2 (counted from 0), object 7: box [130.0"),
        (["0", "--labels", "keys.jsonl"], "a camera or stream cannot be annotated"),
        (["rtsp://user:secret@host/live", "--labels", "keys.jsonl"], "lorat: a camera or stream cannot"),
        (["clip.mp4", "--labels", "keys.jsonl", "--format", "xls"], "format 'xls' is unknown"),
        (["clip.mp4", "--labels", "track_cvat.xml", "--output", "."], "would be overwritten"),
    ],
)
def test_bad_input_gets_a_sentence_and_writes_nothing(
    clip: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    Path("off.jsonl").write_text('{"frame": 2, "id": 7, "box_xywh": [130, 2, 3, 4]}')
    Path("late.jsonl").write_text('{"frame": 6, "box_xywh": [1, 2, 3, 4]}')
    Path("track_cvat.xml").write_text("<annotations/>")
    before = sorted(Path().rglob("*"))
    assert run(["annotate", *arguments]) == 2
    assert says in capsys.readouterr().err and sorted(Path().rglob("*")) == before


def test_part_of_a_video_whose_objects_come_and_go(
    clip: Path, tiny_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Object 0 is gone in frames 2 and 3, object 5, of one pixel, after 4; frames 0 and 9 are not asked for."""
    gone = (
        '{"frame": 2, "absent": true}\n{"frame": 5, "id": 5, "absent": true}\n{"frame": 9, "box_xywh": [1, 2, 3, 4]}\n'
    )
    first = '{"frame": 1, "box_xywh": [33, 22, 16, 16], "label": "square"}\n'
    dot = '{"frame": 3, "id": 5, "box_xywh": [40, 40, 1, 1], "label": "dot"}\n'
    Path("keys.jsonl").write_text(LINES + first + dot + gone)
    options = ["--weights", str(tiny_weights), "--output", "out", "--save", "--start", "1", "--end", "6"]
    assert run(["annotate", str(clip), "--labels", "keys.jsonl", *options]) == 0
    assert "of 2 objects from 3 drawn ones in 5 frames" in capsys.readouterr().out
    written = read_tracks(Path("out/track_cvat.xml"), VIDEO)
    assert [row.frame for row in written.rows if row.id == 0] == [1, 4, 5] and (2, 0) in written.gone
    assert [row.frame for row in written.rows if row.id == 5] == [1, 2, 3, 4] and (5, 5) in written.gone
    assert next(row.box for row in written.rows if row[:2] == (3, 5)) == (40, 40, 1, 1)
    assert cv2.VideoCapture("out/video.mp4").get(cv2.CAP_PROP_FRAME_COUNT) == 5
    options = ["--weights", str(tiny_weights), "--output", "again", "--end", "6"]
    assert run(["annotate", str(clip), "--labels", "out/track_cvat.xml", *options]) == 0
    again = read_tracks(Path("again/track_cvat.xml"), VIDEO)
    assert set(again.rows) == {row._replace(score=1.0) for row in written.rows} and again.gone == written.gone
    assert {(0, 0), (0, 5)} <= set(again.gone)  # a track of CVAT begins with its first box, in frame 1


def test_boxes_that_label_studio_filled_in_are_tracked_anew(
    clip: Path, tiny_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file counts 24 frames a second, the video 10: its frames 1 and 10 are frames 0 and 4; 5 is filled in."""
    sides = {"x": 25, "y": 20, "width": 15, "height": 20, "rotation": 0, "enabled": True}
    keys = [{"frame": 1, **sides}, {"frame": 5, **sides, "auto": True}, {"frame": 10, **sides, "x": 35}]
    value = {"framesCount": 14, "duration": 0.6, "sequence": keys, "labels": ["square"]}
    task = {
        "data": {"video": "clip.mp4"},
        "annotations": [{"result": [{"id": "a", "type": "videorectangle", "value": value}]}],
    }
    Path("keys.json").write_text(json.dumps([task]))
    options = ["--weights", str(tiny_weights), "--output", "out", "--format", "labelstudio"]
    assert run(["annotate", str(clip), "--labels", "keys.json", *options]) == 0
    assert "6 boxes of 1 objects from 2 drawn ones in 6 frames" in capsys.readouterr().out
    written = json.loads(Path("out/track_labelstudio.json").read_text())[0]["predictions"][0]["result"][0]["value"]
    assert written["framesCount"] / written["duration"] == pytest.approx(10)  # the video's rate
    assert [written["sequence"][i]["x"] for i in (0, 4)] == [25, 35]


def test_labels_of_a_folder_may_lie_behind_the_end(
    tmp_path: Path, frames: list[np.ndarray], tiny_weights: Path
) -> None:
    for number, frame in enumerate(frames):
        cv2.imwrite(str(tmp_path / f"shot_{number}.png"), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    (tmp_path / "labels").mkdir()
    for number in (0, 5):
        (tmp_path / "labels" / f"shot_{number}.txt").write_text("0 0.3 0.3 0.1 0.2 7\n")
    options = ["--weights", str(tiny_weights), "--output", str(tmp_path / "out"), "--end", "3"]
    assert run(["annotate", str(tmp_path), "--labels", str(tmp_path / "labels"), *options]) == 0
    rows = read_tracks(tmp_path / "out" / "track_cvat.xml", VIDEO).rows
    assert [(row.frame, row.id) for row in rows] == [(0, 7), (1, 7), (2, 7)]


def test_track_writes_formats_and_a_later_run_takes_them_away(clip: Path, tiny_weights: Path) -> None:
    track = ["track", str(clip), "--weights", str(tiny_weights), "--output", "out", "--box", "30,20,16,16"]
    track += ["--absent-below", "0"]  # random weights: a row for every frame
    formats = ("mot", "coco", "cvat", "labelstudio", "yolo", "got10k")
    assert run([*track, *(word for name in formats for word in ("--format", name))]) == 0
    boxes = np.loadtxt("out/boxes.txt", delimiter=",")
    written = sorted(Path("out").glob("track_*"))
    assert len(written) == 6
    for path in written:
        found = [row.box for row in read_tracks(path, VIDEO).rows]
        np.testing.assert_allclose(found, boxes, atol=1e-3, err_msg=str(path))
    assert run(track) == 0
    assert sorted(path.name for path in Path("out").iterdir()) == ["boxes.txt", "track.jsonl"]
