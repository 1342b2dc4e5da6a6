"""What a visitor of the app does, without the page: draw, follow, correct, write."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from lorat_plugin import MultiObjectTracker
from lorat_plugin.apps.session import GOT10K, JSON_LINES, OTHERS, VIDEO, Session
from lorat_plugin.box_files import read_boxes
from lorat_plugin.errors import InputError
from lorat_plugin.network import LoRATNetwork
from lorat_plugin.video.source import open_source
from tests.helpers.sequences import square_sequence, write_frames

LENGTH = 8


@pytest.fixture(scope="module")
def tracker(tiny_network: LoRATNetwork) -> MultiObjectTracker:
    return MultiObjectTracker(tiny_network, device="cpu")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    write_frames(tmp_path / "clip", square_sequence(LENGTH)[0])
    return tmp_path / "clip"


@pytest.fixture
def session(tmp_path: Path, clip: Path) -> Session:
    (tmp_path / "app").mkdir()
    made = Session(tmp_path / "app", max_frames=LENGTH)
    made.open(clip)
    return made


def follow(session: Session, tracker: MultiObjectTracker) -> list[int]:
    return list(session.follow(tracker, threading.Lock()))


def boxes(session: Session, number: int) -> np.ndarray:
    return np.array([result.box for result in session.tracks[number].results])


def test_following_is_what_the_tracker_does(session: Session, tracker: MultiObjectTracker, clip: Path) -> None:
    for box in ([30, 20, 16, 16], [60.5, 40, 20, 10]):
        session.draw(0, None, box)
    assert follow(session, tracker) == list(range(LENGTH))
    with open_source(clip) as source:
        images = [frame.image for frame in source]
    ids = tracker.add(images[0], [[30, 20, 16, 16], [60.5, 40, 20, 10]])
    wanted = [tracker.update(image) for image in images[1:]]
    for number, own in enumerate(ids):
        np.testing.assert_array_equal(boxes(session, number)[1:], [row[own].box for row in wanted])
        tracker.drop(own)
    with pytest.raises(InputError, match="every object is tracked to the end"):
        follow(session, tracker)


def test_a_correction_changes_its_object_from_there_on(session: Session, tracker: MultiObjectTracker) -> None:
    for box in ([30, 20, 16, 16], [60, 40, 20, 10]):
        session.draw(0, None, box)
    follow(session, tracker)
    before = boxes(session, 0), boxes(session, 1)
    assert session.draw(4, 0, [42, 28, 8, 8]) == 0
    assert len(boxes(session, 0)) == 5 and len(boxes(session, 1)) == LENGTH
    assert follow(session, tracker) == [4, 5, 6, 7]
    np.testing.assert_array_equal(boxes(session, 0)[:4], before[0][:4])
    np.testing.assert_array_equal(boxes(session, 0)[4], [42, 28, 8, 8])
    assert (boxes(session, 0)[5:] != before[0][5:]).any()
    np.testing.assert_array_equal(boxes(session, 1), before[1])


def test_stopping_keeps_what_is_done_and_going_on_ends_alike(session: Session, tracker: MultiObjectTracker) -> None:
    session.draw(0, None, [30, 20, 16, 16])
    for frame in session.follow(tracker, threading.Lock()):
        if frame == 3:
            session.stop()
    assert len(boxes(session, 0)) == 4
    with pytest.raises(InputError, match="tracked up to frame 3: draw it there"):
        session.draw(6, 0, [30, 20, 16, 16])
    begun = boxes(session, 0)
    follow(session, tracker)
    np.testing.assert_array_equal(boxes(session, 0)[:4], begun)
    assert len(boxes(session, 0)) == LENGTH


@pytest.mark.parametrize(
    ("box", "match"),
    [([0, 0, 0, 5], "w and h above 0"), ([500, 0, 5, 5], "outside the frame"), ([1, 2, 3], "x, y, w, h"),
     ([0, 0, float("nan"), 5], "finite")],
)  # fmt: skip
def test_boxes_that_are_none_are_refused(session: Session, box: list[float], match: str) -> None:
    with pytest.raises(InputError, match=match):
        session.draw(0, None, box)
    assert not session.tracks


def test_a_box_of_one_pixel_is_followed(session: Session, tracker: MultiObjectTracker) -> None:
    session.draw(0, None, [119, 89, 1, 1])
    follow(session, tracker)
    assert np.isfinite(boxes(session, 0)).all() and len(boxes(session, 0)) == LENGTH


def test_files_hold_all_frames_and_nothing_before_an_object_was_drawn(
    session: Session, tracker: MultiObjectTracker
) -> None:
    session.draw(0, None, [30, 20, 16, 16])
    session.draw(3, None, [60, 40, 20, 10])
    follow(session, tracker)
    files = {path.name: path for path in session.write([GOT10K, JSON_LINES, VIDEO, *OTHERS])}
    assert {*files} == {"boxes_0.txt", "boxes_1.txt", "track.jsonl", "video.mp4", "track_coco.json", "track_cvat.xml",
                        "track_labelstudio.json", "track_mot.txt"}  # fmt: skip
    late = read_boxes(files["boxes_1.txt"])
    assert late.shape == (LENGTH, 4) and np.isnan(late[:3]).all()
    np.testing.assert_allclose(late[3:], boxes(session, 1), atol=1e-4)
    lines = [json.loads(line) for line in files["track.jsonl"].read_text().splitlines()]
    assert [line["frame"] for line in lines if line["id"] == 1] == [3, 4, 5, 6, 7]
    assert len(files["track_mot.txt"].read_text().splitlines()) == LENGTH + 5
    capture = cv2.VideoCapture(str(files["video.mp4"]))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == LENGTH
    assert session.scores()["object"].count("1") == 5


def test_a_refused_video_leaves_the_one_before(session: Session, tmp_path: Path) -> None:
    session.draw(0, None, [30, 20, 16, 16])
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video" * 1000)
    write_frames(tmp_path / "long", square_sequence(LENGTH + 1)[0])
    for path, sentence in (broken, "^broken.mp4: cannot be opened"), (tmp_path / "long", "more than 8 frames"):
        with pytest.raises(InputError, match=sentence):
            session.open(path)
    assert session.length == LENGTH and len(session.tracks) == 1
    assert session.picture(LENGTH - 1).shape == (360, 480, 3)
    session.close()
    assert not list((tmp_path / "app").iterdir())


def test_pictures_of_large_frames_are_shrunk_and_points_mapped_back(session: Session, tmp_path: Path) -> None:
    frames = [np.full((200, 2560, 3), 90, np.uint8)]
    write_frames(tmp_path / "wide", frames)
    session.open(tmp_path / "wide")
    session.draw(0, None, [1280, 100, 640, 50])
    picture = session.picture(0, corner=(100, 50))
    height, width = picture.shape[:2]
    assert width / height == pytest.approx(12.8)
    x, y = (round(value) for value in (1280 * width / 2560, 100 * height / 200))
    assert np.ptp(picture[y + 5, x].astype(int)) > 100  # the box's coloured edge
    assert session.to_frame((width / 2, height / 2)) == pytest.approx((1280, 100))


def test_nothing_works_without_a_video(tmp_path: Path, tracker: MultiObjectTracker) -> None:
    session = Session(tmp_path, max_frames=5)
    with pytest.raises(InputError, match="no video yet"):
        session.draw(0, None, [0, 0, 5, 5])
    with pytest.raises(InputError, match="draw a box first"):
        follow(session, tracker)
    with pytest.raises(InputError, match="no results yet"):
        session.write([GOT10K])
