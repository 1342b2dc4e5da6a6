"""Videos that are not as they should be, by `lorat track` and by the session behind the app's page.

tests/videos holds what OpenCV cannot write: ten frames of `square_sequence` encoded by ffmpeg.
"""

from __future__ import annotations

import json
import struct
import threading
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from lorat_plugin import MultiObjectTracker
from lorat_plugin.apps.session import GOT10K, JSON_LINES, VIDEO, Session
from lorat_plugin.boxes import iou, xywh_to_xyxy
from lorat_plugin.cli.main import run
from lorat_plugin.errors import InputError
from lorat_plugin.video.source import open_source, read_image
from tests.helpers.numbered_videos import SIZE as NUMBERED
from tests.helpers.numbered_videos import copy_damaged, shown_number, write_numbered
from tests.helpers.sequences import SIZE, square_sequence

VIDEOS = Path(__file__).parents[1] / "videos"
LENGTH = 10
START = [30.0, 20.0, 16.0, 16.0]
FRAMES, BOXES = square_sequence(LENGTH)


def write_video(path: Path, codec: str = "mp4v", count: int = LENGTH) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 10, SIZE[::-1])
    for frame in FRAMES[:count]:
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    writer.release()
    return path


def overlap(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(iou(xywh_to_xyxy(found), xywh_to_xyxy(wanted)).min())


def turn(path: Path, degrees: int) -> Path:
    """Turn an mp4 clockwise by the matrix of its track header, as phones do."""
    data = bytearray(path.read_bytes())
    matrix = data.find(b"tkhd") + 4 + 4 + 20 + 16  # version and flags, five fields, then layer, group and volume
    cosine, sine = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    rows = cosine << 16, sine << 16, 0, -sine << 16, cosine << 16, 0, 0, 0, 1 << 30
    data[matrix : matrix + 36] = struct.pack(">9i", *rows)
    path.write_bytes(data)
    return path


def cut(path: Path, share: float) -> Path:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return path


@pytest.fixture(scope="module")
def tracker() -> MultiObjectTracker:
    return MultiObjectTracker.from_pretrained(device="cpu", engine="eager")


@pytest.fixture
def session(tmp_path: Path) -> Session:
    (tmp_path / "app").mkdir()
    return Session(tmp_path / "app", max_frames=30)


def both(path: Path, box: list[float], session: Session, tracker: MultiObjectTracker, folder: Path) -> np.ndarray:
    """Track by the command and by the session, hold that they agree; returns the boxes, (frames, 4)."""
    text = ",".join(map(str, box))
    arguments = ["--box", text, "--output", str(folder), "--save", "--absent-below", "0"]
    arguments += ["--device", "cpu", "--engine", "eager"]
    assert run(["track", str(path), *arguments]) == 0
    found = np.loadtxt(folder / "boxes.txt", delimiter=",", ndmin=2)
    session.open(path)
    session.draw(0, None, box)
    for _ in session.follow(tracker, threading.Lock()):
        pass
    np.testing.assert_allclose([result.box for result in session.tracks[0].results], found, atol=1e-3)
    assert cv2.VideoCapture(str(folder / "video.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == len(found) == session.length
    return found


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_boxes_of_a_turned_video_are_those_of_what_is_seen(
    degrees: int, session: Session, tracker: MultiObjectTracker, tmp_path: Path
) -> None:
    path = turn(write_video(tmp_path / "phone.mp4"), degrees)
    height, width = SIZE
    x, y, w, h = BOXES.T
    seen = {90: (height - y - h, x), 180: (width - x - w, height - y - h), 270: (y, width - x - w)}[degrees]
    wanted = np.stack([*seen, w, h], axis=1)
    found = both(path, wanted[0].tolist(), session, tracker, tmp_path / "out")
    assert session.size == ((width, height) if degrees != 180 else SIZE)
    assert len(found) == LENGTH and overlap(found, wanted) > 0.5


def test_a_variable_frame_rate_is_no_damage(
    session: Session, tracker: MultiObjectTracker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its container states a duration of 4 s and a rate of 10, which is less than what its ten frames tell."""
    path = VIDEOS / "variable_rate.webm"
    found = both(path, START, session, tracker, tmp_path / "out")
    assert len(found) == LENGTH and overlap(found, BOXES) > 0.5
    assert "varies: 2.25 a second on average, 10 stated" in caplog.text and "damaged" not in caplog.text
    assert not session.note
    (video, coco) = sorted(session.write([VIDEO, "COCO-video"]), reverse=True)
    capture = cv2.VideoCapture(str(video))
    assert (capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FPS)) == (LENGTH, 2.25)
    assert len(json.loads(coco.read_text())["annotations"]) == LENGTH
    assert Session(session._home, max_frames=LENGTH).open(path) is None  # the estimate of 41 frames is no reason


@pytest.mark.parametrize("name", ["hevc10.mp4", "av1.mp4"])
def test_odd_codecs_are_tracked(name: str, session: Session, tracker: MultiObjectTracker, tmp_path: Path) -> None:
    assert overlap(both(VIDEOS / name, START, session, tracker, tmp_path / "out"), BOXES) > 0.5


def test_one_frame_and_one_pixel(session: Session, tracker: MultiObjectTracker, tmp_path: Path) -> None:
    path, pixel = write_video(tmp_path / "one.mp4", count=1), [119.0, 89.0, 1.0, 1.0]
    assert run(["track", str(path), "--box", "119,89,1,1", "--output", str(tmp_path / "out")]) == 0
    session.open(path)
    session.draw(0, None, pixel)
    with pytest.raises(InputError, match="tracked to the end: write the files"):
        next(session.follow(tracker, threading.Lock()))
    for boxes in tmp_path / "out" / "boxes.txt", session.write([GOT10K])[0]:
        np.testing.assert_array_equal(np.loadtxt(boxes, delimiter=","), pixel)
    found = both(write_video(tmp_path / "ten.mp4"), [60, 45, 1, 1], session, tracker, tmp_path / "more")
    assert len(found) == LENGTH and np.isfinite(found).all() and (found[:, 2:] > 0).all()


def test_a_file_that_announces_more_frames(
    session: Session, tracker: MultiObjectTracker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = cut(write_video(tmp_path / "cut.avi", "MJPG"), 0.6)
    session.open(path)
    assert 2 < session.length < LENGTH
    assert f"of {LENGTH} frames; it is damaged" in caplog.text
    assert "frames are missing: it may be damaged." in session.note
    session.draw(0, None, START)
    assert list(session.follow(tracker, threading.Lock())) == list(range(session.length))
    arguments = ["--box", "30,20,16,16", "--output", str(tmp_path / "out")]
    assert run(["track", str(path), *arguments]) == 2  # no half result with exit code 0
    assert not (tmp_path / "out").exists()


def test_a_damaged_frame_does_not_shift_the_others(
    session: Session, tracker: MultiObjectTracker, tmp_path: Path
) -> None:
    whole = write_numbered(tmp_path / "whole.mp4", 8, options={"g": "1"})
    bad = copy_damaged(whole, tmp_path / "bad.mp4", {0, 3}, "zero")
    session.open(bad)
    assert session.length == 8 and session.note == "Damaged frames are left out: 0, 3."
    pages = [read_image(session._shown / f"{number}.jpg") for number in range(8)]
    assert list(map(shown_number, pages)) == [1, 1, 2, 4, 4, 5, 6, 7]
    number = session.draw(3, None, [23, 16, 16, 16])
    list(session.follow(tracker, threading.Lock()))
    other = session.draw(0, None, [20, 16, 16, 16])
    list(session.follow(tracker, threading.Lock()))
    for track, length in ((session.tracks[number], 5), (session.tracks[other], 8)):
        assert track.end == 8 and len(track.results) == length
    texts, lines = session.write([GOT10K])[:2], session.write([JSON_LINES])[0].read_text().splitlines()
    assert all(len(text.read_text().splitlines()) == 8 for text in texts)
    assert [json.loads(line)["frame"] for line in lines if json.loads(line)["id"] == other] == [1, 2, 4, 5, 6, 7]


def test_nobody_sees_another_visitors_video(tmp_path: Path, tracker: MultiObjectTracker) -> None:
    """The second video cannot be decoded, or is interlaced, which decoders may answer with what is in the memory."""
    secret = write_numbered(tmp_path / "secret.mp4", 12, options={"g": "1"})
    with av.open(str(secret), "r") as file:
        assert len(list(file.decode(video=0))) == 12
    empty = copy_damaged(secret, tmp_path / "empty.mp4", range(12), "random")
    black = tmp_path / "black.mp4"
    with av.open(str(black), "w") as file:
        stream = file.add_stream("libx264", rate=30)
        (stream.height, stream.width), stream.pix_fmt = NUMBERED, "yuv420p"
        stream.options = {"flags": "+ildct+ilme"}
        for _ in range(12):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((*NUMBERED, 3), 40, np.uint8), "rgb24")))
        file.mux(stream.encode(None))
    owner, visitor = (Session(tmp_path, max_frames=30) for _ in range(2))
    owner.open(secret)
    with pytest.raises(InputError, match="no frame can be decoded"):
        visitor.open(empty)
    assert visitor.length == 0 and not list(visitor._home.rglob("*.jpg"))
    owner.open(secret)
    visitor.open(black)
    for number in range(visitor.length):
        assert np.abs(visitor.picture(number).astype(int) - 40).max() < 12
    visitor.draw(0, None, [20, 16, 16, 16])
    list(visitor.follow(tracker, threading.Lock()))
    with open_source(visitor.write([VIDEO])[0], 1) as source:
        assert all(np.median(np.abs(frame.image.astype(int) - 40)) < 12 for frame in source)


def broken_videos(folder: Path) -> dict[Path, str]:
    """Path -> the sentence about it."""
    opened = "cannot be opened; it is damaged, incomplete, without pictures"
    (folder / "empty.mp4").touch()
    (folder / "text.mkv").write_text("no video " * 1000)
    return {
        VIDEOS / "sound_only.mp4": opened,
        VIDEOS / "header_only.mp4": "no frame can be decoded",
        cut(write_video(folder / "cut.mp4"), 0.5): opened,  # the index is at its end
        folder / "empty.mp4": opened,
        folder / "text.mkv": opened,
    }


def test_what_holds_no_frame_gets_a_sentence(
    session: Session, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    session.open(write_video(tmp_path / "good.mp4"))
    for path, sentence in broken_videos(tmp_path).items():
        assert run(["track", str(path), "--box", "1,1,9,9", "--output", str(tmp_path / "out")]) == 2
        said = capsys.readouterr().err
        assert f"{path}: {sentence}" in said and said.count("\n") == 1, said
        with pytest.raises(InputError, match=f"^{path.name}: {sentence}"):
            session.open(path)
    assert not (tmp_path / "out").exists()
    assert session.length == LENGTH and len(list(session._home.iterdir())) == 1  # that before stays, nothing else
