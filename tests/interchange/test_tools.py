"""The tools' own libraries read what is written here, and theirs is read here: Datumaro, cvat-sdk, label-studio-sdk.

They clash with this package's requirements, so they run in an environment of their own (see with_tools.py).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from lorat_plugin.errors import InputError
from lorat_plugin.interchange import FORMATS, Row, Tracks, VideoInfo, read_tracks, write_tracks

SCRIPT = Path(__file__).with_name("with_tools.py")
VIDEO = VideoInfo("walk", 120, 90, range(8), 25.0)
ROWS = (  # object 0 moves along a line until frame 4; object 2 is gone in frames 3 and 4, and after 5
    *(Row(i, 0, (10.0 + 2 * i, 20.0 + i, 30.0, 40.0), 0.5, "person") for i in range(5)),
    Row(2, 2, (60.0, 5.0, 20.0, 10.0), 0.25, "car"),
    Row(5, 2, (62.0, 6.0, 20.0, 10.0), 0.875, "car"),
)
TRACKS = Tracks(VIDEO, tuple(sorted(ROWS)))


def run(mode: str, folder: Path) -> str:
    python = os.environ.get("LORAT_LABEL_TOOLS")
    if not python:
        pytest.skip("LORAT_LABEL_TOOLS names no Python with cvat-sdk, label-studio-sdk and datumaro")
    done = subprocess.run([python, SCRIPT, mode, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1] if mode == "read" else done.stdout


def test_the_tools_read_what_is_written(tmp_path: Path) -> None:
    for name in ("cvat", "labelstudio", "coco", "mot"):
        write_tracks(TRACKS, tmp_path / FORMATS[name].file_name, name)
    (tmp_path / "coco" / "images").mkdir(parents=True)  # Datumaro looks for it
    for name, home in (("track_mot.txt", "mot/gt/gt.txt"), ("track_coco.json", "coco/annotations/instances_walk.json")):
        (tmp_path / home).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / name, tmp_path / home)
    found = json.loads(run("read", tmp_path))
    seen = [box for box in found["cvat"]["boxes"] if not box[2]]
    assert [(frame, number, tuple(box)) for frame, number, _, _, *box in seen] == [row[:3] for row in TRACKS.rows]
    assert [box[:2] for box in found["cvat"]["boxes"] if box[2]] == [[3, 2], [5, 0], [6, 2]]
    assert found["cvat"]["imported"] == [[0, 4, 5], [2, 3, 5, 6]]  # a line has key frames at its ends
    studio = found["labelstudio"]
    assert studio["valid"] and studio["keys"] == {
        "0": [[i + 1, i < 4] for i in range(5)], "2": [[3, False], [6, False]],
    }  # fmt: skip
    assert studio["filled"] == {"0": 5, "2": 2}  # nothing where an object is gone
    assert found["coco"] == sorted([*row.box] for row in TRACKS.rows)
    assert found["mot"] == sorted([r.frame + 1, r.box[0] + 1, r.box[1] + 1, *r.box[2:]] for r in TRACKS.rows)


def test_what_the_tools_write_is_read(tmp_path: Path) -> None:
    run("write", tmp_path)
    video = VIDEO._replace(frames=range(3))
    wanted = [(0, (10.0, 20.0, 30.0, 40.0), "car"), (2, (14.0, 22.0, 30.0, 40.0), "car")]
    for file in ("mot_seq_gt/gt/gt.txt", "coco_instances/annotations/instances_train.json", "yolo", "labelstudio.json"):
        rows = [row for row in read_tracks(tmp_path / file, video).rows if row.key]
        found = [(row.frame, tuple(round(side, 3) for side in row.box), row.label) for row in rows]
        if file != "yolo":
            assert found == wanted, file
        else:  # of six decimals
            assert [box for box in found if box[2] == "car"] == found and len(found) == 2
            assert rows[1].box == pytest.approx(wanted[1][1], abs=1e-3)
    assert len(read_tracks(tmp_path / "labelstudio.json", video).rows) == 3  # one is filled in
    for file, says in (("cvat/train.xml", "not 'for images'"), ("datumaro/annotations/train.json", "Datumaro's own")):
        with pytest.raises(InputError, match=says):
            read_tracks(tmp_path / file, video)
