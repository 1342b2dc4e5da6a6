"""COCO with tracks: CVAT's export, YouTube-VIS, absent boxes, and ids that lead nowhere."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from lorat_plugin.errors import InputError
from lorat_plugin.interchange import Row, Tracks, VideoInfo, read_tracks

VIDEO = VideoInfo("base", 320, 240, range(3), 30.0)
SIZE = {"width": 320, "height": 240}
NAMES = [{"id": 1, "name": "car"}]


def read(tmp_path: Path, content: dict[str, Any], video: VideoInfo = VIDEO) -> Tracks:
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    return read_tracks(path, video)


def cvat(*annotations: dict[str, Any], name: str = "frame_{:06d}.PNG") -> dict[str, Any]:
    """CVAT's COCO 1.0: images without videos, ids among attributes; an annotation in each image in turn."""
    images = [{"id": i + 1, "file_name": name.format(i), **SIZE} for i in range(3)]
    entries = [
        {"id": i + 1, "image_id": i + 1, "category_id": 1, "bbox": [20, 40, 48, 40], **entry}
        for i, entry in enumerate(annotations)
    ]
    return {"images": images, "annotations": entries, "categories": NAMES}


def vis(*names: str, boxes: list[Any] | None = None) -> dict[str, Any]:
    """YouTube-VIS: an annotation an object, with a box or null a frame."""
    videos = [
        {"id": i, "file_names": [f"{name}/{frame:05d}.jpg" for frame in range(3)], "length": 3, **SIZE}
        for i, name in enumerate(names)
    ]
    boxes = boxes or [[20, 40, 48, 40], None, [26, 40, 48, 40]]
    return {
        "videos": videos,
        "annotations": [{"id": 5 + i, "video_id": i, "category_id": 1, "bboxes": boxes} for i in range(len(names))],
        "categories": NAMES,
    }


def test_cvats_coco_is_read_by_its_attributes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    about = {"track_id": 4, "keyframe": True, "occluded": False, "rotation": 0.0}
    content = cvat(
        {"attributes": about},
        {"attributes": {**about, "keyframe": False, "occluded": True, "colour": "red"}},
        {"attributes": {**about, "rotation": 90.0}},
    )
    with caplog.at_level(logging.WARNING):
        rows = read(tmp_path, content).rows
    box = (20.0, 40.0, 48.0, 40.0)
    assert rows == (
        Row(0, 4, box, 1.0, "car"), Row(1, 4, box, 1.0, "car", key=False), Row(2, 4, (24, 36, 40, 48), 1.0, "car"),
    )  # fmt: skip
    for part in ("1 marks 'occluded'", "1 values of the attribute 'colour'", "1 rotated boxes (read as their upright"):
        assert part in caplog.text


def test_boxes_without_an_id_and_crowds_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = cvat({"attributes": {}}, {"attributes": {"track_id": 1}}, {"track_id": 1, "iscrowd": 1})
    with caplog.at_level(logging.WARNING):
        assert [row.frame for row in read(tmp_path, content).rows] == [1]
    assert "1 boxes without a track id (not read), 1 crowds (not read)" in caplog.text


def test_an_object_whose_box_is_null_is_absent(tmp_path: Path) -> None:
    tracks = read(tmp_path, cvat({"track_id": 1}, {"track_id": 1, "bbox": None}))
    assert [row.frame for row in tracks.rows] == [0] and tracks.gone == ((1, 1),)


@pytest.mark.parametrize("names", [("base",), ("other", "base"), ("another name",)])
def test_youtube_vis_is_read(tmp_path: Path, names: tuple[str, ...]) -> None:
    tracks = read(tmp_path, vis(*names))
    assert [(row.frame, row.id, row.box[0]) for row in tracks.rows] == [
        (0, 4 + len(names), 20), (2, 4 + len(names), 26),
    ]  # fmt: skip
    assert tracks.gone == ((1, 4 + len(names)),) and tracks.labels() == ["car"]


def test_frames_of_youtube_vis_are_those_of_their_names(tmp_path: Path) -> None:
    folder = VIDEO._replace(frames=range(4), file_names=("00000.jpg", "00001.jpg", "x.jpg", "00002.jpg"))
    assert [row.frame for row in read(tmp_path, vis("base"), folder).rows] == [0, 3]
    with pytest.raises(InputError, match="it lists 3 frames, base has 15: which ones is not said"):
        read(tmp_path, vis("base"), VIDEO._replace(frames=range(15)))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (cvat({"track_id": 1, "image_id": 99}), "annotation 1 is of image 99, which is not listed"),
        (cvat({"track_id": 1}, name="shot_{}.png"), "shot_0.png has no video and is named after no frame of base"),
        (cvat({"track_id": 1}, name="frame_000001.png"), "two of its images are the same frame"),
        (vis("a", "b"), "holds 2 videos"),
        (vis("base", boxes=[None]), "cannot be read as COCO-video"),
        (cvat({"track_id": 1}, {"track_id": 1, "bbox": []}), "annotation 2 has the box []"),
        (cvat({"track_id": 1, "category_id": 7}), "annotation 1 has category 7, not listed"),
        (cvat({"track_id": 1.5}), "1.5 is no whole number"),
        ({"info": {}, "categories": {}, "items": []}, "it is Datumaro's own JSON: export as"),
        ({**cvat(), "images": [{"id": 1, "file_name": "frame_000000.png", "width": 9, "height": 9}]}, "frames of 9x9"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, content)
    assert "instances.json" in str(caught.value) and says in str(caught.value)
