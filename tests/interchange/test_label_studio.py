"""Label Studio's exports: whose annotation counts, which boxes a person drew, and frames at another rate."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from lorat_plugin.errors import InputError
from lorat_plugin.interchange import VideoInfo, read_tracks

VIDEO = VideoInfo("base", 320, 240, range(240), 30.0)


def key(frame: int, x: float = 10.0, **more: Any) -> dict[str, Any]:
    return {"frame": frame, "enabled": True, "x": x, "y": 20, "width": 15, "height": 25, "rotation": 0, **more}


def region(*keys: dict[str, Any], count: float | None = 240, seconds: float | None = 8.0) -> dict[str, Any]:
    value = {"framesCount": count, "duration": seconds, "sequence": list(keys), "labels": ["car"]}
    return {"id": "aB3x", "type": "videorectangle", "value": value}


def annotation(*regions: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"was_cancelled": False, "result": list(regions), **more}


def export(tmp_path: Path, *annotations: dict[str, Any], **more: Any) -> Path:
    path = tmp_path / "export.json"
    task = {"data": {"video": "/data/upload/1/0a1b2c3d-base.mp4"}, "annotations": list(annotations), **more}
    path.write_text(json.dumps([task]))
    return path


def frames(path: Path, video: VideoInfo = VIDEO) -> list[int]:
    return [row.frame for row in read_tracks(path, video).rows]


def test_boxes_that_label_studio_filled_in_are_no_keys(tmp_path: Path) -> None:
    keys = [key(1), *(key(i, auto=True) for i in range(2, 61)), key(61)]
    rows = read_tracks(export(tmp_path, annotation(region(*keys))), VIDEO).rows
    assert len(rows) == 61 and [row.frame for row in rows if row.key] == [0, 60]


@pytest.mark.parametrize(
    ("number", "count", "seconds", "frame"),
    [
        (49, 192, 8.0, 60),  # 24 a second, Label Studio's own rate
        (61, 240, 8.0, 60),
        (61, 241, 8.03, 60),  # counted a little too far
        (51, 200, 8.0, 60),
        (121, 480, 8.0, 60),
        (61, 251, 8.35, 60),  # sound that is longer than the pictures, at the video's rate
        (50, 193, 8.03, 61),  # 24 a second, rounded up
        (61, None, 8.0, 60),
        (61, 192, None, 60),  # no rate is stated
    ],
)
def test_frames_are_converted_to_the_videos_rate(
    tmp_path: Path, number: int, count: float | None, seconds: float | None, frame: int
) -> None:
    assert frames(export(tmp_path, annotation(region(key(1), key(number), count=count, seconds=seconds)))) == [0, frame]


@pytest.mark.parametrize(("count", "seconds"), [(None, None), (None, 8.0), (192, None), (192, 0)])
def test_times_of_boxes_give_the_rate_where_the_file_states_none(
    tmp_path: Path, count: float | None, seconds: float | None
) -> None:
    keys = key(1, time=1 / 24), key(49, time=49 / 24)
    assert frames(export(tmp_path, annotation(region(*keys, count=count, seconds=seconds)))) == [0, 60]
    keys = key(1, time=0), key(61, time=2.0)  # counted from 0
    assert frames(export(tmp_path, annotation(region(*keys, count=None, seconds=None)))) == [0, 60]


def test_an_object_is_gone_after_its_last_enabled_box_at_any_rate(tmp_path: Path) -> None:
    for count, last in ((240, 31), (192, 25)):
        path = export(tmp_path, annotation(region(key(1), key(last, enabled=False), count=count)))
        assert read_tracks(path, VIDEO).gone == ((31, 0),)


def test_of_two_boxes_in_one_frame_of_a_slower_video_the_persons_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys = [key(1), key(2, 11, auto=True), key(3, 12), key(4, 13)]
    with caplog.at_level(logging.WARNING):
        rows = read_tracks(export(tmp_path, annotation(region(*keys, count=480))), VIDEO).rows
    assert [(row.frame, round(row.box[0], 6), row.key) for row in rows] == [
        (0, 32, True),
        (1, 38.4, True),
        (2, 41.6, True),
    ]
    assert "1 boxes between two frames of the video (not read)" in caplog.text


def test_a_folder_has_no_rate_so_another_number_of_frames_is_refused(tmp_path: Path) -> None:
    folder = VIDEO._replace(file_names=tuple(f"{i}.jpg" for i in range(240)))
    assert frames(export(tmp_path, annotation(region(key(1), key(61)))), folder) == [0, 60]
    with pytest.raises(InputError, match="it has 192 frames, not 240: set frameRate"):
        read_tracks(export(tmp_path, annotation(region(key(1), count=192))), folder)


def test_a_cancelled_annotation_is_not_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cancelled = annotation(region(key(5)), was_cancelled=True)
    with caplog.at_level(logging.WARNING):
        assert frames(export(tmp_path, cancelled, annotation(region(key(1))))) == [0]
    assert "1 cancelled annotations (not read)" in caplog.text
    prediction = {"result": [region(key(9))]}
    assert frames(export(tmp_path, cancelled, predictions=[prediction])) == [8]
    with pytest.raises(InputError, match="holds no box"):
        read_tracks(export(tmp_path, cancelled, drafts=[prediction]), VIDEO)
    assert "1 drafts (not read: submit them first)" in caplog.text


def test_of_several_annotations_the_ground_truth_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    both = [annotation(region(key(5)), ground_truth=False), annotation(region(key(1)), ground_truth=True)]
    with caplog.at_level(logging.WARNING):
        assert frames(export(tmp_path, *both)) == [0]
    assert "1 annotations that are not marked as ground truth (not read)" in caplog.text
    for marks in ((False, False), (True, True)):
        two = [{**entry, "ground_truth": mark} for entry, mark in zip(both, marks, strict=True)]
        with pytest.raises(InputError, match=f"has 2 annotations, {sum(marks)} of them marked as ground truth: mark"):
            read_tracks(export(tmp_path, *two), VIDEO)
    with pytest.raises(InputError, match="has 2 predictions"):
        read_tracks(export(tmp_path, predictions=[{"result": []}] * 2), VIDEO)


def test_a_rotated_box_is_read_as_its_upright_bounds(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        (row,) = read_tracks(export(tmp_path, annotation(region(key(1, 50, rotation=90)))), VIDEO).rows
    assert row.box == pytest.approx((160 - 60, 48, 60, 48))  # 48 x 60 at (160, 48), turned about that corner
    assert "1 rotated boxes (read as their upright bounds)" in caplog.text


def test_other_results_and_labels_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    car = region(key(1))
    car["value"]["labels"] = ["car", "red"]
    others = [{"type": "choices", "id": "x", "value": {}}, {"type": "relation", "from_id": "x", "to_id": "y"}]
    with caplog.at_level(logging.WARNING):
        (row,) = read_tracks(export(tmp_path, annotation(car, *others)), VIDEO).rows
    assert row.label == "car"
    for part in ("1 results of type 'choices'", "1 results of type 'relation'", "1 further labels of an object"):
        assert part in caplog.text


@pytest.mark.parametrize("change", [{"x": 120}, {"y": 101}, {"width": 160}, {"height": 240}])
def test_boxes_in_pixels_are_refused(tmp_path: Path, change: dict[str, float]) -> None:
    with pytest.raises(InputError, match="in frame 1 is not in percents of the frame, 0 to 100"):
        read_tracks(export(tmp_path, annotation(region({**key(1), **change}))), VIDEO)


def test_boxes_in_fractions_are_refused(tmp_path: Path) -> None:
    sides = {"x": 0.1, "y": 0.2, "width": 0.3, "height": 0.4}
    with pytest.raises(InputError, match="are fractions of the frame, not percents"):
        read_tracks(export(tmp_path, annotation(region({**key(1), **sides}, {**key(9), **sides}))), VIDEO)
    rows = read_tracks(export(tmp_path, annotation(region({**key(1), **sides}, key(9)))), VIDEO).rows
    assert rows[0].box == pytest.approx((0.32, 0.48, 0.96, 0.96))  # of an object that comes in at the corner


@pytest.mark.parametrize(
    "address",
    [
        "/data/upload/1/0a1b2c3d-base.mp4", "s3://bucket/base.mp4", "/data/local-files/?d=clips/base.mp4",
        "https://host/base.mp4?sig=a.b", "base", "C:\\clips\\base.mp4", "/data/upload/1/0a1b2c3d-b%61se.mp4",
    ],
)  # fmt: skip
def test_a_task_is_found_by_its_video(tmp_path: Path, address: str) -> None:
    path = tmp_path / "export.json"
    other = {"data": {"video": "/data/upload/1/0a1b2c3d-other.mp4"}, "annotations": [annotation(region(key(5)))]}
    mine = {"data": {"clip": address, "id": 3}, "annotations": [annotation(region(key(1)))]}
    path.write_text(json.dumps([other, mine]))
    assert frames(path) == [0]
    path.write_text(json.dumps(mine))  # one task, as the server's address of a task gives it
    assert frames(path) == [0]
    path.write_text(json.dumps([other, other]))
    with pytest.raises(InputError, match="holds 2 videos"):
        read_tracks(path, VIDEO)


def test_the_short_export_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "export.json"
    path.write_text(json.dumps([{"video": "/data/base.mp4", "box": [region(key(1))["value"]]}]))
    with pytest.raises(InputError, match=r"\(not JSON_MIN\).*no 'data'"):
        read_tracks(path, VIDEO)


def test_a_region_with_two_boxes_in_a_frame_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="region aB3x has two boxes in frame 4"):
        read_tracks(export(tmp_path, annotation(region(key(4), key(4)))), VIDEO)
