"""Result files, the annotated video, drawing and the window."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from lorat_plugin.errors import InputError
from lorat_plugin.tracker import TrackResult
from lorat_plugin.video import outputs
from lorat_plugin.video.drawing import draw_results, object_colour
from lorat_plugin.video.outputs import (
    AnnotatedVideo,
    MaskFolder,
    TextFile,
    TrackFiles,
    Window,
    box_lines,
    json_lines,
    output_folder,
)
from lorat_plugin.video.source import Frame, open_source

GREY = np.full((90, 120, 3), 128, np.uint8)


def result(x: float = 10.0, y: float = 30.0, w: float = 20.0, h: float = 15.0, score: float = 0.75) -> TrackResult:
    return TrackResult(np.array([x, y, w, h]), score)


def test_text_and_json_files(tmp_path: Path) -> None:
    with TextFile(tmp_path / "boxes.txt", box_lines(1)) as boxes, TextFile(tmp_path / "t.jsonl", json_lines) as lines:
        for number in range(3):
            results = {0: result(), 1: result(x=1 / 3, score=0.5)}
            boxes.write(Frame(number + 7, "made", GREY), results, 0.0125)
            lines.write(Frame(number + 7, "made", GREY), results, 0.0125)
        assert not (tmp_path / "boxes.txt").exists()  # the name comes at the end
    np.testing.assert_array_equal(np.loadtxt(tmp_path / "boxes.txt", delimiter=","), [[0.3333, 30, 20, 15]] * 3)
    rows = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    box = [0.3333, 30.0, 20.0, 15.0]
    assert rows[3] == {
        "frame": 8,
        "id": 1,
        "box_xywh": box,
        "score": 0.5,
        "absent": False,
        "status": "tracking",
        "time_ms": 12.5,
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["boxes.txt", "t.jsonl"]


def test_nothing_stays_after_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "deeper"
    with pytest.raises(RuntimeError), ExitStack() as stack:
        stack.enter_context(output_folder(folder))
        boxes = stack.enter_context(TextFile(folder / "boxes.txt", box_lines(0)))
        video = stack.enter_context(AnnotatedVideo(folder / "video.mp4", 25))
        for output in (boxes, video):
            output.write(Frame(0, "made", GREY), {0: result()}, 0.01)
        assert len(list(folder.iterdir())) == 2
        raise RuntimeError("the tracker failed")
    assert list(tmp_path.iterdir()) == []


def test_an_older_file_survives_an_error(tmp_path: Path) -> None:
    (tmp_path / "boxes.txt").write_text("older\n")
    with pytest.raises(RuntimeError), output_folder(tmp_path), TextFile(tmp_path / "boxes.txt", box_lines(0)) as boxes:
        boxes.write(Frame(0, "made", GREY), {0: result()}, 0.01)
        raise RuntimeError
    assert (tmp_path / "boxes.txt").read_text() == "older\n"
    assert len(list(tmp_path.iterdir())) == 1


def test_folders_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(InputError, match=r"file/below: cannot be made.*another output folder"),
        output_folder(tmp_path / "file" / "below"),
    ):
        pass
    with pytest.raises(InputError, match="cannot be written"), TextFile(tmp_path / "file" / "a.txt", box_lines(0)):
        pass


@pytest.mark.parametrize("size", [(90, 120), (241, 321), (1, 1), (2, 3000), (720, 1280)])
def test_video_can_be_read_back(tmp_path: Path, size: tuple[int, int]) -> None:
    with AnnotatedVideo(tmp_path / "video.mp4", None) as video:
        for number in (0, 1, 2, 5):  # 3 and 4 were dropped by a camera
            video.write(Frame(number, "made", np.full((*size, 3), 90, np.uint8)), {0: result()}, 0.01)
    with open_source(tmp_path / "video.mp4") as source:
        frames = list(source)
    assert (len(frames), source.fps) == (6, 30)
    assert frames[0].image.shape[0] % size[0] == frames[0].image.shape[1] % size[1] == 0
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("rate", [0.1, 0.5, 24000 / 1001, 240.0, 999.5, 1000.0])
def test_a_frame_rate_is_kept_wherever_it_is_written(tmp_path: Path, rate: float) -> None:
    paths = {"coco": tmp_path / "coco.json", "labelstudio": tmp_path / "labels.json"}
    with AnnotatedVideo(tmp_path / "video.mp4", rate) as video, TrackFiles(paths, "made", rate) as tracks:
        for number in range(6):
            frame = Frame(number, "made", GREY)
            video.write(frame, {0: result()}, 0.01)
            tracks.write(frame, {0: result()}, 0.01)
    with open_source(tmp_path / "video.mp4") as source:
        times = [frame.seconds for frame in source]
    assert source.fps == pytest.approx(rate, rel=1e-3) and len(times) == source.length == 6
    assert times[5] == pytest.approx(5 / rate, rel=1e-3)
    assert json.loads(paths["coco"].read_text())["videos"][0]["fps"] == rate
    value = json.loads(paths["labelstudio"].read_text())[0]["predictions"][0]["result"][0]["value"]
    assert value["duration"] == pytest.approx(6 / rate)


def test_a_video_that_did_not_get_written_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unreadable = SimpleNamespace(read=lambda: (False, None))
    monkeypatch.setattr("lorat_plugin.video.outputs.cv2.VideoCapture", lambda path: unreadable)
    with pytest.raises(InputError, match="is the disk full"), AnnotatedVideo(tmp_path / "video.mp4", 25) as video:
        video.write(Frame(0, "made", GREY), {0: result()}, 0.01)
    assert list(tmp_path.iterdir()) == []


def test_drawing_shows_box_and_label_and_leaves_the_frame_alone() -> None:
    frame = GREY.copy()
    drawn = draw_results(frame, {0: result(), 1: result(x=70, y=2)})
    assert (frame == 128).all()
    assert drawn.shape == (360, 480, 3)  # enlarged four times so that labels can be read
    for number, (x, y) in {0: (10, 30), 1: (70, 2)}.items():
        colour = np.array(object_colour(number))
        assert (drawn[4 * (y + 15) - 1, 4 * x + 20] == colour).all()  # lower edge
        labels = (drawn == colour).all(-1).sum(axis=1)
        assert labels.max() > 30
    assert draw_results(np.zeros((720, 1280, 3), np.uint8), {}).shape == (720, 1280, 3)


def test_drawing_shows_masks_as_a_veil_with_an_outline() -> None:
    mask = np.zeros((90, 120), bool)
    mask[40:60, 50:80] = True
    drawn = draw_results(GREY, {0: result(x=5, y=5)}, {0: mask})
    veil = np.round(0.6 * 128 + 0.4 * np.array(object_colour(0))).astype(np.uint8)
    assert (drawn[164:236, 204:316] == veil).all()
    assert (drawn[160, 200:320] == object_colour(0)).all() and (drawn[150, 200:320] == 128).all()
    assert (GREY == 128).all()


def test_a_folder_of_masks_is_whole_or_not_there(tmp_path: Path) -> None:
    mask = np.zeros((90, 120), bool)
    mask[3, 4] = True
    with pytest.raises(RuntimeError), MaskFolder(tmp_path / "masks", 3) as masks:
        masks.write(Frame(7, "made", GREY), {}, 0.01, {3: mask})
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with MaskFolder(tmp_path / "masks", 3) as masks:
        masks.write(Frame(7, "made", GREY), {}, 0.01, {3: mask, 4: ~mask})
    written = cv2.imread(str(tmp_path / "masks" / "000007.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(written, mask * np.uint8(255))


def test_drawing_takes_any_box() -> None:
    for box in (np.nan, 1, 2, 3), (-50, -50, 400, 300), (119, 89, 1, 1), (500, 500, 9, 9), (0, 0, 1e9, 1):
        draw_results(GREY, {0: TrackResult(np.array(box, float), 0.5)})


@pytest.mark.parametrize("size", [(64, 64), (240, 320), (720, 1280), (854, 480)])
def test_a_label_is_whole_wherever_the_box_is(size: tuple[int, int]) -> None:
    height, width = size
    frame, colour = np.full((*size, 3), 128, np.uint8), np.array(object_colour(0))

    def coloured(x: float, y: float, absent: bool = False) -> int:
        drawn = draw_results(frame, {0: TrackResult(np.array([x, y, 1.0, 1.0]), 0.75, absent)})
        return int((drawn == colour).all(-1).sum())

    middle = coloured(width // 2, height // 2)
    for x, y in (0, 0), (width - 1, 0), (0, height - 1), (width - 1, height - 1), (width + 500, -500):
        assert 0.85 * middle < coloured(x, y) < 1.15 * middle  # a box of one pixel: its outline hardly counts
    assert coloured(width // 2, height // 2, absent=True) > 1.1 * middle  # the word takes more ground than a score


def test_labels_of_objects_in_one_place_do_not_hide_each_other() -> None:
    boxes = {0: result(x=50, w=1, h=1), -7: result(x=52, w=1, h=1)}
    together = draw_results(GREY, boxes)
    for number, found in boxes.items():
        colour = object_colour(number)
        alone = (draw_results(GREY, {number: found}) == colour).all(-1).sum()
        assert (together == colour).all(-1).sum() > 0.9 * alone


def test_neighbouring_ids_have_distinct_colours() -> None:
    colours = np.array([object_colour(number) for number in range(8)])
    distances = np.linalg.norm(colours[:, None] - colours[None], axis=-1) + 1e3 * np.eye(8)
    assert distances.min() > 60


def test_window_stops_at_q_and_when_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    keys, shown, stops = iter([-1, ord("q"), -1]), [], []
    visible = [1.0]
    monkeypatch.setattr(cv2, "namedWindow", lambda *a: None)
    monkeypatch.setattr(cv2, "imshow", lambda name, picture: shown.append(picture.shape))
    monkeypatch.setattr(cv2, "waitKey", lambda delay: next(keys))
    monkeypatch.setattr(cv2, "getWindowProperty", lambda name, prop: visible[0])
    monkeypatch.setattr(cv2, "destroyAllWindows", lambda: shown.append("closed"))
    with Window(lambda: stops.append(len(shown))) as window:
        window.write(Frame(0, "made", GREY), {0: result()}, 0.01)
        window.write(Frame(1, "made", GREY), {0: result()}, 0.01)
        assert stops == [2]
        visible[0] = 0.0
        window.write(Frame(2, "made", GREY), {0: result()}, 0.01)
    assert stops == [2, 2] and shown[-1] == "closed"


def test_selected_boxes_are_in_frame_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = [(10, 20, 30, 40), (5, 5, 0, 0)]
    monkeypatch.setattr(cv2, "selectROIs", lambda title, picture, **options: np.array(drawn))
    monkeypatch.setattr(cv2, "destroyAllWindows", lambda: None)
    assert outputs.select_boxes(np.zeros((1440, 2560, 3), np.uint8)) == [(20.0, 40.0, 60.0, 80.0)]
    drawn[:] = [(0, 0, 0, 0)]
    with pytest.raises(InputError, match="no box was drawn"):
        outputs.select_boxes(GREY)


def test_no_display_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([sys.executable], -6)  # how Qt ends a process without a display
    monkeypatch.setattr(subprocess, "run", lambda *a, **options: failed)
    with pytest.raises(InputError, match="no window can be opened"):
        outputs.require_display()
