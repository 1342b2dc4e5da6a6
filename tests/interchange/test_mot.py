"""MOT-challenge text: truth and results, classes, detections, and CVAT's way of counting pixels."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from lorat_plugin.errors import InputError
from lorat_plugin.interchange import Row, VideoInfo, read_tracks

VIDEO = VideoInfo("walk", 120, 90, range(8), 25.0)


def read(tmp_path: Path, text: str, labels: str | None = None) -> tuple[Row, ...]:
    path = tmp_path / "gt.txt"
    path.write_text(text)
    if labels is not None:
        (tmp_path / "labels.txt").write_text(labels)
    return read_tracks(path, VIDEO).rows


@pytest.mark.parametrize("tail", [",1,1,0.5\n2,3,11,21,5,6,0,1,0.5\n", ",1,-1,-1,-1\n2,3,11,21,5,6,0,-1,-1,-1\n"])
def test_truth_with_flag_0_does_not_count(tmp_path: Path, caplog: pytest.LogCaptureFixture, tail: str) -> None:
    with caplog.at_level(logging.WARNING):
        assert read(tmp_path, f"1,3,11,21,5,6{tail}") == (Row(0, 2, (10, 20, 5, 6), 1.0),)
    assert "1 boxes whose flag is 0 (not read)" in caplog.text


def test_the_seventh_column_of_results_is_a_score(tmp_path: Path) -> None:
    rows = read(tmp_path, "\n1,3,11,21,5,6,0,-1,-1,-1\n2,3,11,21,5,6,0.25,-1,-1,-1\n3,3,11,21,5,6,-1,-1,-1,-1\n")
    assert [row.score for row in rows] == [0, 0.25, 1]
    rows = read(tmp_path, "1,3,11,21,5,6,0.75,2,-1\n1,4,11,21,5,6,0.5,0,-1\n")  # nine columns, as BoxMOT writes results
    assert [(row.score, row.label) for row in rows] == [(0.75, "class 2"), (0.5, "class 0")]


def test_classes_of_cvat_are_named_and_its_pixels_count_from_0(tmp_path: Path) -> None:
    rows = read(tmp_path, "1,1,10,20,5,6,1,2,1\n2,1,10,20,5,6,1,1,1\n", "car\nperson\n")
    assert rows == (Row(0, 0, (10, 20, 5, 6), 1.0, "person"), Row(1, 0, (10, 20, 5, 6), 1.0, "car"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1,-1,10,20,5,6,0.9,-1,-1,-1\n", "boxes whose id is -1: these are detections"),
        ("1.5,1,10,20,5,6,1,1,1\n", "line 1 (1.5 is no whole number)"),
        ("1,1.5,10,20,5,6,1,1,1\n", "line 1 (1.5 is no whole number)"),
        ("0,1,10,20,5,6,1,1,1\n", "walk has frames 0 to 7"),
        ("1,1,10,20,5,6,1,3,1\n", "has class 3"),
        ("1,1,10,20,5,6,97.5,-1,-1,-1\n", "has the score 97.5; it must lie between 0 and 1"),
        ("1,2,30,2,30,8,1,8\n2,3,31,3,31,9,2,9\n", "has the score 2.0"),  # VOT's polygons
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, text, "car\nperson")
    assert "gt.txt" in str(caught.value) and says in str(caught.value)
