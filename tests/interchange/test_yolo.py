"""YOLO's text as ultralytics and CVAT write it: track ids, confidences, names of files; other lines are refused."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from lorat_plugin.errors import InputError
from lorat_plugin.interchange import VideoInfo, read_tracks

VIDEO = VideoInfo("base", 320, 240, range(240), 30.0)
BOX = "0.5 0.5 0.25 0.5"  # 120, 60, 80, 120


def folder(tmp_path: Path, files: dict[str, str], below: str = "labels", **others: str) -> Path:
    (tmp_path / below).mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (tmp_path / below / name).write_text(text)
    for name, text in others.items():
        (tmp_path / name.replace("_", ".")).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("tails", "ids", "scores"),
    [
        (("4", "9"), [4, 9], [1, 1]),  # save_txt of a tracker
        (("0.75 4", "0.5 9"), [4, 9], [0.75, 0.5]),  # with save_conf
        (("0.75", "0.5"), [2, 3], [0.75, 0.5]),  # of a detector: a class is an object
        (("", ""), [2, 3], [1, 1]),
        (("0.75 4", "0.5"), [4], [0.75]),  # the second had no id yet
        (("4", ""), [4], [1]),
    ],
)
def test_ids_and_confidences_of_ultralytics_are_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, tails: tuple[str, str], ids: list[int], scores: list[float]
) -> None:
    home = folder(tmp_path, {"base_1.txt": f"2 {BOX} {tails[0]}\n3 {BOX} {tails[1]}\n", "base_61.txt": ""})
    for path in (home, home / "labels"):
        with caplog.at_level(logging.WARNING):
            rows = read_tracks(path, VIDEO).rows
        assert {(row.frame, row.box) for row in rows} == {(0, (120, 60, 80, 120))}  # it counts frames from 1
        assert [row.id for row in rows] == ids and [row.score for row in rows] == scores
        assert [row.label for row in rows] == ["class 2", "class 3"][: len(ids)]
    assert ("1 boxes without a track id (not read)" in caplog.text) == (len(ids) == 1)


def test_cvats_exports_are_read(tmp_path: Path) -> None:
    tracks = folder(tmp_path / "a", {"frame_000012.txt": f"0 {BOX} 7\n"}, "labels/train", data_yaml="names: {0: car}")
    (row,) = read_tracks(tracks, VIDEO).rows
    assert (row.frame, row.id, row.label) == (12, 7, "car")
    old = folder(tmp_path / "b", {"frame_000012.txt": f"0 {BOX}\n"}, "obj_train_data", obj_names="car\n", train_txt="x")
    (row,) = read_tracks(old, VIDEO).rows
    assert (row.frame, row.id, row.label) == (12, 0, "car")


@pytest.mark.parametrize("place", ["classes.txt", "labels/classes.txt"])  # Label Studio, labelImg
def test_classes_are_named_by_a_list(tmp_path: Path, place: str) -> None:
    home = folder(tmp_path, {"base_1.txt": f"1 {BOX}\n"})
    (home / place).write_text("car\nbus\n")
    assert [row.label for row in read_tracks(home, VIDEO).rows] == ["bus"]


def test_files_of_a_folder_are_named_after_its_images(tmp_path: Path) -> None:
    video = VIDEO._replace(frames=range(2), file_names=("base_1.jpg", "base_7.jpg"))
    (row,) = read_tracks(folder(tmp_path, {"base_7.txt": f"0 {BOX}"}), video).rows
    assert row.frame == 1


@pytest.mark.parametrize(
    ("name", "line", "says"),
    [
        ("base_1.txt", "0 0.1 0.1 0.2 0.1 0.2 0.2 0.1 0.2", "a line of 9 numbers, a segment"),
        ("base_1.txt", "0 0.1 0.1 0.2 0.1 0.2 0.25", "a track id as last number (0.25 is no whole number)"),
        ("base_1.txt", f"0 {BOX} 1.5", "has the score 1.5"),
        ("base_1.txt", "0 160 120 80 120", "has the box [160.0, 120.0, 80.0, 120.0], in pixels"),
        ("base_1.txt", f"1 {BOX}", "has class 1, which the list of names lacks"),
        ("base_1.txt", "0 0.1 0.1", "cannot be read as YOLO text"),
        ("base_0.txt", f"0 {BOX}", "base has frames 0 to 239"),
        ("other_1.txt", f"0 {BOX}", "named after no frame of base"),
    ],
)
def test_other_lines_and_files_are_refused(tmp_path: Path, name: str, line: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        read_tracks(folder(tmp_path, {name: line}, data_yaml="names: [car]"), VIDEO)
    assert says in str(caught.value)
