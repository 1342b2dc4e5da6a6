"""Each format is written, read back, and read by the tool's own library where one is installed."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import supervision
from hypothesis import given
from hypothesis import strategies as st

from lorat_plugin.errors import InputError
from lorat_plugin.interchange import FORMATS, Row, Tracks, VideoInfo, read_tracks, write_tracks
from lorat_plugin.interchange.formats import track_paths
from lorat_plugin.tracking import TrackResult
from lorat_plugin.video.outputs import TrackFiles
from lorat_plugin.video.source import Frame

VIDEO = VideoInfo("walk", 120, 90, range(8), 25.0)
ROWS = (  # object 2 is gone in frames 3 and 4 and after 5; the last box of object 0 reaches over the border
    Row(0, 0, (10.5, 20.25, 30.0, 40.0), 1.0, "person"),
    Row(1, 0, (12.0, 21.0, 30.5, 40.0), 0.75, "person"),
    Row(2, 0, (14.0, 22.0, 31.0, 39.5), 0.5, "person"),
    Row(2, 2, (60.0, 5.0, 20.0, 10.0), 0.25, "car"),
    Row(3, 0, (16.0, 23.0, 31.0, 39.5), 0.5, "person"),
    Row(5, 2, (62.0, 6.0, 20.0, 10.0), 0.875, "car"),
    Row(7, 0, (100.0, 23.0, 31.0, 39.5), 0.5, "person"),
)
TRACKS = Tracks(VIDEO, ROWS)
LOST = {  # what a format does not hold: (labels, scores, what lies beyond the border, ids)
    "mot": (True, False, False, False),
    "coco": (False, False, False, False),
    "cvat": (False, False, False, False),
    "labelstudio": (False, True, True, False),
    "yolo": (False, True, True, True),
    "got10k": (True, True, False, False),
}


def write(tmp_path: Path, format: str, tracks: Tracks = TRACKS) -> Path:
    path = tmp_path / FORMATS[format].file_name
    write_tracks(tracks, path, format)
    return path


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_written_is_read_back(tmp_path: Path, format: str) -> None:
    read = read_tracks(write(tmp_path, format), VIDEO)
    labels, scores, border, ids = LOST[format]
    assert [row.frame for row in read.rows] == [row.frame for row in ROWS]
    boxes = np.array([row.box for row in ROWS])
    if border:
        boxes[-1, 2] = 20
    np.testing.assert_allclose([row.box for row in read.rows], boxes, atol=1e-4)
    if not ids:
        assert [row.id for row in read.rows] == [row.id for row in ROWS]
    if not labels:
        assert [row.label for row in read.rows] == [row.label for row in ROWS]
    if not scores:
        assert [row.score for row in read.rows] == [row.score for row in ROWS]


@given(
    st.dictionaries(
        st.tuples(st.integers(0, 7), st.integers(0, 3)),
        st.tuples(st.floats(0, 60), st.floats(0, 40), st.floats(1, 60), st.floats(1, 50), st.floats(0.001, 1)),
        min_size=1,
        max_size=12,
    )
)
def test_any_boxes_survive_a_round_trip(tmp_path_factory: pytest.TempPathFactory, drawn: dict) -> None:
    rows = tuple(Row(frame, number, values[:4], values[4]) for (frame, number), values in sorted(drawn.items()))
    folder = tmp_path_factory.mktemp("formats")
    for format in ("mot", "coco", "cvat", "labelstudio", "got10k"):
        read = read_tracks(write(folder, format, Tracks(VIDEO, rows)), VIDEO)
        assert [row[:2] for row in read.rows] == [row[:2] for row in rows], format
        np.testing.assert_allclose([row.box for row in read.rows], [row.box for row in rows], atol=1e-3)


def test_pycocotools_reads_coco(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coco = pytest.importorskip("pycocotools.coco").COCO(str(write(tmp_path, "coco")))
    assert len(coco.getImgIds()) == 8 and [c["name"] for c in coco.loadCats(coco.getCatIds())] == ["person", "car"]
    image = next(image for image in coco.dataset["images"] if image["frame_index"] == 2)
    found = coco.loadAnns(coco.getAnnIds(imgIds=[image["id"]]))
    assert [(a["track_id"], a["bbox"]) for a in found] == [(row.id, [*row.box]) for row in ROWS if row.frame == 2]
    assert coco.getAnnIds(areaRng=[150, 250]) == [4, 6]  # the car, 20 x 10


def test_motmetrics_reads_mot(tmp_path: Path) -> None:
    motmetrics = pytest.importorskip("motmetrics")
    table = motmetrics.io.loadtxt(write(tmp_path, "mot"), fmt="mot15-2D")  # takes 1 off left and top, as MATLAB counts
    boxes = table[["X", "Y", "Width", "Height"]].to_numpy()
    np.testing.assert_allclose(boxes, [row.box for row in ROWS], atol=1e-4)
    assert list(table.index) == [(row.frame + 1, row.id + 1) for row in ROWS]
    assert table["Confidence"].tolist() == [row.score for row in ROWS]


def test_supervision_reads_yolo(tmp_path: Path) -> None:
    path = write(tmp_path, "yolo")
    (path / "images").mkdir()
    for frame in VIDEO.frames:
        cv2.imwrite(str(path / "images" / VIDEO.file_name(frame)), np.zeros((90, 120, 3), np.uint8))
    found = supervision.DetectionDataset.from_yolo(str(path / "images"), str(path / "labels"), str(path / "data.yaml"))
    assert found.classes == ["person", "car"] and len(found) == 8
    detections = found.annotations[str(path / "images" / VIDEO.file_name(2))]
    assert detections.class_id.tolist() == [0, 1]
    np.testing.assert_allclose(detections.xyxy, [[14, 22, 45, 61.5], [60, 5, 80, 15]], atol=1e-3)


def test_label_studios_own_annotation_comes_before_a_prediction(tmp_path: Path) -> None:
    box = {"x": 25, "y": 10, "width": 50, "height": 20, "rotation": 0, "enabled": True, "time": 0.08, "frame": 3}
    regions = [
        {"id": name, "type": "videorectangle", "value": {"sequence": [box], "labels": [label]}}
        for name, label in (("aB1", "dog"), ("xY2", "cat"))
    ]
    task = {"data": {"video": "/data/upload/walk.mp4"}, "annotations": [{"result": regions}], "predictions": []}
    path = tmp_path / "export.json"
    path.write_text(json.dumps([task]))
    rows = read_tracks(path, VIDEO).rows
    assert [(row.frame, row.id, row.box, row.label) for row in rows] == [
        (2, 0, (30.0, 9.0, 60.0, 18.0), "dog"),
        (2, 1, (30.0, 9.0, 60.0, 18.0), "cat"),
    ]


def test_lines_by_hand_are_read(tmp_path: Path) -> None:
    lines = tmp_path / "keys.jsonl"
    lines.write_text('{"frame": 4, "box_xywh": [1, 2, 3, 4], "label": "dog"}\n\n{"frame": 1, "absent": true}\n')
    assert read_tracks(lines, VIDEO).rows == (Row(4, 0, (1, 2, 3, 4), 1.0, "dog"),)


@pytest.mark.parametrize("format", ["cvat", "labelstudio"])
def test_where_an_object_is_gone_is_read_back(tmp_path: Path, format: str) -> None:
    gone = read_tracks(write(tmp_path, format), VIDEO).gone
    assert [entry for entry in gone if entry[0] in VIDEO.frames] == [(0, 2), (3, 2), (4, 0), (6, 2)]


def test_lines_say_where_an_object_is_gone(tmp_path: Path) -> None:
    lines = tmp_path / "keys.jsonl"
    lines.write_text(
        '{"frame": 4, "box_xywh": [1, 2, 3, 4]}\n{"frame": 6, "absent": true}\n{"frame": 4, "absent": 1}\n'
    )
    assert read_tracks(lines, VIDEO) == Tracks(VIDEO, (Row(4, 0, (1, 2, 3, 4)),), ((6, 0),))  # a box outweighs it


def test_boxes_that_cvat_filled_in_are_no_keys(tmp_path: Path) -> None:
    path = write(tmp_path, "cvat")
    before = [row.key for row in read_tracks(path, VIDEO).rows]
    path.write_text(path.read_text().replace('keyframe="1"', 'keyframe="0"', 1))
    assert before[0] and [row.key for row in read_tracks(path, VIDEO).rows] == [False, *before[1:]]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.xml", "<annotations>", "cannot be read as CVAT"),
        ("a.xml", "<annotations><image id='0'/></annotations>", "not 'for images'"),
        ("a.xml", '<a><track id="0"><box frame="0" xtl="1"/></track></a>', "no 'ytl'"),
        ("a.json", "[1", "is no JSON"),
        ("a.json", "{}", "no 'videos'"),
        ("a.json", "[]", "holds 0 videos"),
        ("a.json", '[{"data": {"video": "walk.mp4"}, "annotations": [{"result": [4]}]}]', "cannot be read as Label"),
        ("a.jsonl", '{"frame": 0}', "line 1 (no 'box_xywh')"),
        ("a.jsonl", '{"absent": true}', "line 1 (no 'frame')"),
        ("a.jsonl", '{"frame": 8, "box_xywh": [1, 2, 3, 4]}', "walk has frames 0 to 7"),
        ("a.jsonl", '{"frame": 0, "box_xywh": [1, 2, 0, 4]}', "w and h above 0"),
        ("a.jsonl", '{"frame": 0.5, "box_xywh": [1, 2, 3, 4]}', "line 1 (0.5 is no whole number)"),
        ("a.jsonl", '{"frame": 0, "box_xywh": [1, 2, 3, 4], "score": NaN}', "has the score nan"),
        ("a.jsonl", '{"frame": 0, "box_xywh": [1, 2, 3, 4]}\n' * 2, "has two boxes"),
        ("a.txt", "1,2,3,4,5,x", "line 1"),
        ("a.txt", "nan,nan,nan,nan\n", "holds no box"),
        ("a.mp4", "", "is no file of tracks"),
        ("missing.json", None, "cannot be read"),
        ("missing.xml", None, "cannot be read"),
    ],
)
def test_files_that_are_wrong_get_a_sentence(tmp_path: Path, name: str, content: str | None, says: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(InputError) as caught:
        read_tracks(tmp_path / name, VIDEO)
    assert name in str(caught.value) and says in str(caught.value)


def test_labels_of_another_size_are_refused(tmp_path: Path) -> None:
    for format in ("coco", "cvat"):
        with pytest.raises(InputError, match="is for frames of 120x90, walk has 240x180"):
            read_tracks(write(tmp_path, format), VIDEO._replace(width=240, height=180))


def test_results_are_kept_until_the_end(tmp_path: Path) -> None:
    image = np.zeros((90, 120, 3), np.uint8)
    paths = track_paths(tmp_path, ["mot", "yolo"])
    with TrackFiles(paths, "walk", None) as files:
        for number in (5, 6, 7):
            box = np.array([1.0, 2.0, 3.0, 4.0 if number != 7 else 0.0])
            results = {0: TrackResult(box, 0.5), 1: TrackResult(box, 0.1, absent=True)}
            files.write(Frame(number, f"frames/{number}.png", image), results, 0.01)
    assert files.tracks().video == VideoInfo("walk", 120, 90, range(5, 8), 30.0, ("5.png", "6.png", "7.png"))
    assert (tmp_path / "track_mot.txt").read_text().count("\n") == 2
    assert sorted(path.name for path in (tmp_path / "track_yolo" / "labels").iterdir()) == ["5.txt", "6.txt", "7.txt"]
    assert track_paths(tmp_path, ["yolo"]) == {"yolo": tmp_path / "track_yolo"}
    (tmp_path / "track_yolo" / "photo.jpg").touch()
    with pytest.raises(InputError, match="is not of an earlier run"):
        track_paths(tmp_path, ["yolo"])
    with pytest.raises(InputError, match="format 'xls' is unknown; there are mot, coco"):
        track_paths(tmp_path, ["xls"])
