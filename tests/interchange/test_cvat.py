"""CVAT for video: what its exports hold beside boxes, the task of a project that is read, and written key frames."""

from __future__ import annotations

import logging
import math
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from lorat_plugin.errors import InputError
from lorat_plugin.interchange import Row, Tracks, VideoInfo, read_tracks, write_tracks
from lorat_plugin.interchange.cvat import LEAST_TOLERANCE, TOLERANCE, key_frames

VIDEO = VideoInfo("base", 320, 240, range(240), 30.0)
META = "<task><id>5</id><name>base</name>{}<original_size><width>320</width><height>240</height></original_size></task>"
BOX = '<box frame="0" keyframe="1" outside="0" occluded="0" xtl="20" ytl="40" xbr="68" ybr="80"/>'


def export(tmp_path: Path, *tracks: str, meta: str = META.format(""), rest: str = "") -> Path:
    """A file of CVAT's with these tracks, each the inside of its element."""
    inside = "".join(f'<track id="{i}" label="car"{content}</track>' for i, content in enumerate(tracks))
    path = tmp_path / "annotations.xml"
    path.write_text(f"<annotations><version>1.1</version><meta>{meta}</meta>{inside}{rest}</annotations>")
    return path


def project(tmp_path: Path, *names: str) -> Path:
    """A project's file: a track in each of tasks 11, 12, 13, of which the first have names."""
    tasks = "".join(f"<task><id>{11 + i}</id>{name}</task>" for i, name in enumerate(names))
    tracks = [f' task_id="{11 + i}">{BOX.replace("20", str(20 + i))}' for i in range(3)]
    return export(tmp_path, *tracks, meta=f"<project><id>3</id><name>base</name><tasks>{tasks}</tasks></project>")


def test_a_rotated_box_is_read_as_its_upright_bounds(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    turned = '<box frame="{}" xtl="24" ytl="50" xbr="64" ybr="70" rotation="{}"/>'
    path = export(tmp_path, ">" + "".join(turned.format(i, a) for i, a in enumerate((90, 0, 180, 45, -90))))
    with caplog.at_level(logging.WARNING):
        boxes = [row.box for row in read_tracks(path, VIDEO).rows]
    assert boxes[:3] == [(34, 40, 20, 40), (24, 50, 40, 20), (24, 50, 40, 20)] and boxes[4] == boxes[0]
    side = 60 / math.sqrt(2)
    assert boxes[3] == pytest.approx((44 - side / 2, 60 - side / 2, side, side), abs=1e-5)
    assert "4 rotated boxes (read as their upright bounds)" in caplog.text


@pytest.mark.parametrize(
    ("shape", "box"),
    [
        ('<polygon frame="0" points="10.5,20;40,25;30,60.5"/>', (10.5, 20, 29.5, 40.5)),
        ('<ellipse frame="0" cx="100" cy="50" rx="30" ry="10"/>', (70, 40, 60, 20)),
        ('<ellipse frame="0" cx="100" cy="50" rx="30" ry="10" rotation="90"/>', (90, 20, 20, 60)),
        ('<mask frame="0" rle="3, 2, 1" left="12" top="8" width="3" height="2"/>', (12, 8, 3, 2)),
    ],
)
def test_an_outline_is_read_as_its_upright_bounds(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, shape: str, box: tuple[float, ...]
) -> None:
    with caplog.at_level(logging.WARNING):
        (row,) = read_tracks(export(tmp_path, f">{shape}"), VIDEO).rows
    assert row.box == pytest.approx(box) and "shapes (read as their upright bounds)" in caplog.text


def test_what_is_not_read_is_counted_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    attributes = '<attribute name="colour">red</attribute><attribute name="score">0.5</attribute>'
    path = export(
        tmp_path,
        f">{BOX}",
        '><polyline frame="0" points="1,2;3,4"/><polyline frame="9" outside="1" points="1,2;3,4"/>',
        '><points frame="0" points="1,2;3,4"/><points frame="1" points="1,2;3,4"/>',
        '><skeleton frame="0"><points label="1" outside="0" points="1,2"/></skeleton>',
        '><cuboid frame="0" xtl1="1"/>',
        f'><box frame="4" occluded="1" xtl="2" ytl="4" xbr="6" ybr="8">{attributes}</box>',
        rest='<image id="3" name="frame_000003"/>',
    )
    with caplog.at_level(logging.WARNING):
        rows = read_tracks(path, VIDEO).rows
    assert rows == (Row(0, 0, (20, 40, 48, 40), 1.0, "car"), Row(4, 5, (2, 4, 4, 4), 0.5, "car"))
    (line,) = [record.getMessage() for record in caplog.records]
    for part in (
        "1 'image' elements (not read)", "1 'polyline' shapes (not read: no outline", "2 'points' shapes (not read",
        "1 'skeleton' shapes (not read", "1 'cuboid' shapes (not read", "1 marks 'occluded' (not kept)",
        "1 values of the attribute 'colour' (not kept)",
    ):  # fmt: skip
        assert part in line


def test_a_plain_file_is_read_without_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert len(read_tracks(export(tmp_path, f">{BOX}"), VIDEO).rows) == 1 and not caplog.records


@pytest.mark.parametrize(
    "names",
    [
        ["<name>other</name>", "<name>base</name>", "<name>base 2</name>"],
        ["<name>a</name>", "<name>b</name><source>clips/base.mp4</source>", "<name>c</name>"],
        ["<name>a</name>", "<name>base.mp4</name>"],
    ],
)
def test_of_a_project_this_videos_task_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, names: list[str]
) -> None:
    with caplog.at_level(logging.WARNING):
        rows = read_tracks(project(tmp_path, *names), VIDEO).rows
    assert [(row.id, row.box[0]) for row in rows] == [(1, 21)] and "2 tracks of other tasks (not read)" in caplog.text


@pytest.mark.parametrize("names", [["<name>other</name>"], ["<name>base</name>", "<name>base</name>"], []])
def test_a_project_of_which_no_single_task_is_meant_is_refused(tmp_path: Path, names: list[str]) -> None:
    with pytest.raises(InputError, match=r"annotations\.xml: holds 3 videos .* none or several of them base"):
        read_tracks(project(tmp_path, *names), VIDEO)


def test_a_project_whose_tracks_name_no_task_is_refused(tmp_path: Path) -> None:
    path = project(tmp_path, "<name>other</name>", "<name>base</name>")
    path.write_text(path.read_text().replace('task_id="11"', ""))
    with pytest.raises(InputError, match="has 3 tasks and tracks without a task_id"):
        read_tracks(path, VIDEO)


def test_the_size_that_counts_is_the_chosen_tasks(tmp_path: Path) -> None:
    sizes = [f"<original_size><width>{w}</width><height>240</height></original_size>" for w in (640, 320)]
    named = [f"<name>{name}</name>{size}" for name, size in zip(("other", "base"), sizes, strict=True)]
    assert len(read_tracks(project(tmp_path, *named), VIDEO).rows) == 1
    with pytest.raises(InputError, match="is for frames of 640x240"):
        read_tracks(project(tmp_path, *named), VIDEO._replace(name="other"))


def test_frames_of_a_task_that_begins_later_are_the_videos(tmp_path: Path) -> None:
    limits = "<start_frame>100</start_frame><stop_frame>150</stop_frame><frame_filter>step=5</frame_filter>"
    boxes = "".join(BOX.replace('frame="0" k', f'frame="{frame}" k') for frame in (100, 105))
    path = export(tmp_path, f">{boxes}", meta=META.format(limits))
    assert [row.frame for row in read_tracks(path, VIDEO).rows] == [100, 105]
    with pytest.raises(InputError, match="track 0 has frame 0, its task has 100 to 150"):
        read_tracks(export(tmp_path, f">{BOX}", meta=META.format(limits)), VIDEO)


def test_two_tracks_of_one_id_are_refused(tmp_path: Path) -> None:
    path = export(tmp_path, f">{BOX}", f">{BOX}")
    path.write_text(path.read_text().replace('id="1"', 'id="0"'))
    with pytest.raises(InputError, match="two tracks have the id 0"):
        read_tracks(path, VIDEO)


def moving(count: int, speed: float = 2.0) -> list[Row]:
    return [Row(i, 0, (10 + speed * i, 20.0, 30.0, 40.0), 0.5) for i in range(count)]


def test_a_line_has_key_frames_at_its_ends_only() -> None:
    assert key_frames(moving(50)) == {0, 49}
    assert key_frames(moving(1)) == {0}
    assert key_frames([row for row in moving(50) if row.frame not in (20, 21)]) == {0, 19, 22, 49}
    bent = [*moving(10), *(row._replace(frame=row.frame + 10, box=(28.0, 20.0, 30.0, 40.0)) for row in moving(10))]
    assert key_frames(bent) == {0, 9, 19}


def test_hand_boxes_among_filled_in_ones_stay_key_frames() -> None:
    rows = [row._replace(key=row.frame in (0, 7)) for row in moving(10)]
    assert key_frames(rows) == {0, 7, 9}


def test_interpolation_between_key_frames_stays_within_the_tolerance() -> None:
    steps = np.random.default_rng(0).normal(0, 1.5, (300, 4)).cumsum(axis=0)
    rows = [Row(i, 0, (*(100 + step[:2]), *(60 + np.abs(step[2:])))) for i, step in enumerate(steps)]
    kept = sorted(key_frames(rows))
    boxes = np.array([row.box for row in rows])
    edges = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    filled = np.stack([np.interp(range(300), kept, edges[kept, i]) for i in range(4)], axis=1)
    allowed = np.maximum(LEAST_TOLERANCE, TOLERANCE * np.sqrt(boxes[:, 2] * boxes[:, 3]))[:, None]
    assert (np.abs(filled - edges) <= allowed + 1e-9).all() and len(kept) < 250


def test_what_cvat_imports_is_the_key_frames_and_the_end(tmp_path: Path) -> None:
    path = tmp_path / "annotations.xml"
    write_tracks(Tracks(VIDEO, tuple(moving(50))), path, "cvat")
    boxes = [box.attrib for box in ET.parse(path).iter("box")]
    imported = [(box["frame"], box["outside"]) for box in boxes if box["keyframe"] == "1"]
    assert imported == [("0", "0"), ("49", "0"), ("50", "1")] and len(boxes) == 51
    read = read_tracks(path, VIDEO)
    assert [row.box for row in read.rows] == [row.box for row in moving(50)]
    assert [row.frame for row in read.rows if row.key] == [0, 49] and (50, 0) in read.gone
