"""Frame sources: every kind of image and video, made on the fly, and what is said about broken ones."""

from __future__ import annotations

import logging
import re
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from pathlib import Path

import cv2
import numpy as np
import pytest

from lorat_plugin.errors import InputError
from lorat_plugin.video.source import Frame, FrameSource, list_images, open_source, read_image


def picture(number: int = 0, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    """(H, W, 3) uint8 RGB: red grows to the right, green downwards, blue with the number."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    return np.stack([columns * 3, rows * 4, np.full(size, 10 * number)], axis=-1).clip(0, 255).astype(np.uint8)


def write_video(path: Path, count: int, size: tuple[int, int] = (48, 64), codec: str = "mp4v") -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 25, (size[1], size[0]))
    for number in range(count):
        writer.write(cv2.cvtColor(picture(number, size), cv2.COLOR_RGB2BGR))
    writer.release()
    return path


def write_folder(folder: Path, count: int, size: tuple[int, int] = (48, 64)) -> Path:
    folder.mkdir()
    for number in range(count):
        cv2.imwrite(str(folder / f"{number + 1}.png"), cv2.cvtColor(picture(number, size), cv2.COLOR_RGB2BGR))
    return folder


def read_all(*args, **options) -> list[Frame]:
    with open_source(*args, **options) as source:
        return list(source)


def test_folder_is_sorted_naturally_and_rgb(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "seq", 11)
    (folder / "groundtruth.txt").write_text("1,2,3,4\n")
    (folder / "._1.png").write_bytes(b"a file that macOS leaves")
    with open_source(folder) as source:
        frames = list(source)
    assert (source.name, source.length, source.live) == ("seq", 11, False)
    assert [Path(frame.origin).stem for frame in frames] == [str(n) for n in range(1, 12)]
    assert [frame.number for frame in frames] == list(range(11))
    for frame in frames:
        assert frame.image.dtype == np.uint8
        np.testing.assert_array_equal(frame.image, picture(frame.number))


def test_mixed_names_sort(tmp_path: Path) -> None:
    names = ["img2.jpg", "img10.JPG", "img1b.png", "img1.png", "a.tif", "10x.bmp", "9x.bmp"]
    for name in names:
        (tmp_path / name).touch()
    found = [path.name for path in list_images(tmp_path)]
    assert found == ["a.tif", "img1.png", "img1b.png", "img2.jpg", "img10.JPG", "9x.bmp", "10x.bmp"]


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp", "jpg", "ppm"])
def test_image_types(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    cv2.imwrite(str(path), cv2.cvtColor(picture(9), cv2.COLOR_RGB2BGR))
    exact = suffix in {"png", "bmp", "tif", "ppm"}
    difference = np.abs(read_image(path).astype(int) - picture(9))
    assert difference.max() == 0 if exact else difference.mean() < 6


def test_unusual_images_become_rgb(tmp_path: Path) -> None:
    rgb = picture(7)
    grey = rgb[..., 0]
    deep = rgb.astype(np.uint16) * 256 + 200
    cases = {
        "rgb16.png": (deep[..., ::-1], rgb),
        "grey16.png": (deep[..., 0], np.dstack([grey] * 3)),
        "grey16.tif": (deep[..., 0], np.dstack([grey] * 3)),
        "grey.png": (grey, np.dstack([grey] * 3)),
        "rgba.png": (np.dstack([rgb[..., ::-1], grey]), rgb),
    }
    for name, (stored, wanted) in cases.items():
        cv2.imwrite(str(tmp_path / name), stored)
        image = read_image(tmp_path / name)
        assert image.dtype == np.uint8
        np.testing.assert_array_equal(image, wanted, err_msg=name)


def test_palette_and_bilevel_images(tmp_path: Path) -> None:
    image_module = pytest.importorskip("PIL.Image")
    palette = image_module.fromarray(picture(3)).quantize(32)
    palette.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(read_image(tmp_path / "palette.png"), np.asarray(palette.convert("RGB")))
    image_module.fromarray(picture()[..., 0] > 90).save(tmp_path / "bilevel.png")
    assert set(np.unique(read_image(tmp_path / "bilevel.png"))) == {0, 255}


@pytest.mark.parametrize(
    "name, damage, words",
    [
        ("4.png", lambda data: data[: len(data) // 2], "incomplete"),
        ("4.png", lambda data: b"", "cannot be decoded"),
        ("4.png", lambda data: b"no image at all", "cannot be decoded"),
        ("4.jpg", lambda data: data[:-40], "incomplete"),
    ],
)
def test_damaged_frame_is_named(tmp_path: Path, name: str, damage, words: str) -> None:
    folder = write_folder(tmp_path / "seq", 6)
    good = cv2.imencode(Path(name).suffix, picture(3))[1].tobytes()
    (folder / "4.png").unlink()
    (folder / name).write_bytes(damage(good))
    with open_source(folder) as source, pytest.raises(InputError, match=rf"frame 3: .*{re.escape(name)}.*{words}"):
        list(source)


def test_whole_jpeg_with_a_preview_inside_is_whole(tmp_path: Path) -> None:
    data = cv2.imencode(".jpg", picture(3))[1].tobytes()
    preview = b"\xff\xe1" + struct.pack(">H", 2 + len(data)) + data  # an APP1 segment holding a complete JPEG
    whole = data[:2] + preview + data[2:]
    (tmp_path / "whole.jpg").write_bytes(whole)
    assert read_image(tmp_path / "whole.jpg").shape == (48, 64, 3)
    (tmp_path / "cut.jpg").write_bytes(whole[:-40])
    with pytest.raises(InputError, match="incomplete"):
        read_image(tmp_path / "cut.jpg")


def test_missing_frame_and_float_pixels(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.png: cannot be read"):
        read_image(tmp_path / "gone.png")
    cv2.imwrite(str(tmp_path / "float.tif"), picture().astype(np.float32))
    with pytest.raises(InputError, match="float32 pixels"):
        read_image(tmp_path / "float.tif")
    (tmp_path / "1.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "float.tif").unlink()
    with open_source(tmp_path) as source, pytest.raises(InputError, match=r"frame 0: .*1\.png: cannot be read"):
        list(source)


def test_one_pixel_frames(tmp_path: Path) -> None:
    write_folder(tmp_path / "seq", 2, size=(1, 1))
    assert [frame.image.shape for frame in read_all(tmp_path / "seq")] == [(1, 1, 3)] * 2


def test_changing_size_is_an_error(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "seq", 5)
    cv2.imwrite(str(folder / "3.png"), picture(0, (20, 30)))
    with open_source(folder) as source, pytest.raises(InputError, match=r"frame 2 .*3\.png.*30x20.*64x48"):
        list(source)


def test_video_frames(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", 20)
    with open_source(path) as source:
        frames = list(source)
    assert (source.name, source.length, source.fps, source.live) == ("clip", 20, 25, False)
    assert [frame.number for frame in frames] == list(range(20))
    for frame in frames:
        assert frame.image.dtype == np.uint8 and frame.image.shape == (48, 64, 3)
        assert np.abs(frame.image.astype(int) - picture(frame.number)).mean() < 8  # RGB, not BGR


@pytest.mark.parametrize("kind", ["folder", "video"])
def test_start_and_end(tmp_path: Path, kind: str) -> None:
    path = write_folder(tmp_path / "seq", 12) if kind == "folder" else write_video(tmp_path / "clip.mp4", 12)
    with open_source(path, start=4, end=9) as source:
        frames = list(source)
    assert source.length == 5
    assert [frame.number for frame in frames] == [4, 5, 6, 7, 8]
    assert all(np.abs(frame.image[..., 2].mean() - 10 * frame.number) < 5 for frame in frames)
    assert len(read_all(path, end=99)) == 12
    for start in (12, 40):
        with pytest.raises(InputError, match=rf"start {start} is beyond its end"):
            read_all(path, start=start)
    for start, end in ((-1, None), (5, 5), (5, 3), (0, 0)):
        with pytest.raises(InputError, match="greater than start"):
            open_source(path, start, end)


def test_truncated_videos(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_video(tmp_path / "clip.avi", 40, codec="MJPG")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    with caplog.at_level(logging.WARNING):
        frames = read_all(path)
    assert 10 < len(frames) < 35
    assert f"ends after {len(frames)} of 40 frames" in caplog.text
    path = write_video(tmp_path / "clip.mp4", 40)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])  # the index is at the end of an mp4
    with pytest.raises(InputError, match=r"clip\.mp4: cannot be opened; it is damaged, incomplete"):
        open_source(path)


def test_sources_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no images in this folder"):
        open_source(tmp_path / "empty")
    write_folder(tmp_path / "img", 1)
    for name in ("twice.jpg", "twice.png"):  # would be refused in a source
        (tmp_path / "img" / name).touch()
    with pytest.raises(InputError, match="its folder img has some"):
        open_source(tmp_path)
    (tmp_path / "notes.txt").write_text("not a video")
    with pytest.raises(InputError, match=r"notes\.txt: cannot be opened"):
        open_source(tmp_path / "notes.txt")
    with pytest.raises(InputError, match="no such video or folder"):
        open_source(tmp_path / "nothing.mp4")
    with pytest.raises(InputError, match="is a single image"):
        open_source(tmp_path / "img" / "1.png")
    with pytest.raises(InputError, match="camera 77: cannot be opened"):
        open_source(77)


def test_stream_errors_hide_the_password() -> None:
    with pytest.raises(InputError, match=r"http://127\.0\.0\.1:9/live: cannot be opened") as caught:
        open_source("http://user:secret@127.0.0.1:9/live?token=secret")
    assert "secret" not in str(caught.value)


def test_a_url_of_a_file_gives_every_frame(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", 30)
    with open_source(path.as_uri()) as source:
        assert not source.live
        numbers = []
        for frame in source:
            time.sleep(0.002)
            numbers.append(frame.number)
    assert numbers == list(range(30))


def test_path_wins_over_camera_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "0", 2)
    monkeypatch.chdir(tmp_path)
    assert len(read_all("0")) == 2


class FakeCapture:
    """A camera with 200 frames a second; each frame's pixels hold its number."""

    frames = 100

    def __init__(self, source: object) -> None:
        self.number, self.released = 0, False

    def isOpened(self) -> bool:
        return True

    def get(self, prop: int) -> float:
        return 30.0 if prop == cv2.CAP_PROP_FPS else -1.0

    def read(self) -> tuple[bool, np.ndarray | None]:
        time.sleep(0.005)
        self.number += 1
        good = self.number <= self.frames
        return good, np.full((4, 6, 3), self.number - 1, np.uint8) if good else None

    def release(self) -> None:
        self.released = True


@pytest.mark.parametrize("address", [0, "rtsp://camera.local/live"])
def test_live_source_drops_stale_frames(monkeypatch: pytest.MonkeyPatch, address: str | int) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", FakeCapture)
    numbers = []
    with open_source(address) as source:
        assert source.live and source.length is None
        for frame in source:
            assert (frame.image == frame.number).all()
            numbers.append(frame.number)
            time.sleep(0.05)  # a tracker ten times slower than the camera
    assert numbers == sorted(set(numbers))
    assert 5 <= len(numbers) <= 20 and numbers[-1] > 80  # it followed the camera instead of lagging behind


def test_stop_and_close_end_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", FakeCapture)
    before = threading.active_count()
    with open_source(0) as source:
        for frame in source:
            if frame.number > 3:
                source.stop()
    assert threading.active_count() == before


def counted(total: int, made: list[int]) -> Generator[Frame, None, None]:
    for number in range(total):
        made[0] += 1
        yield Frame(number, "made", np.zeros((480, 640, 3), np.uint8))


def test_decoding_ahead_is_bounded() -> None:
    made = [0]
    with FrameSource("made", counted(100, made)) as source:
        time.sleep(0.2)
        assert made[0] <= 6
        assert len(list(source)) == 100


def test_an_unexpected_error_reaches_the_reader() -> None:
    def failing() -> Generator[Frame, None, None]:
        yield Frame(0, "made", np.zeros((2, 2, 3), np.uint8))
        raise MemoryError("too large")

    with FrameSource("made", failing()) as source, pytest.raises(MemoryError, match="too large"):
        list(source)


@pytest.mark.slow
def test_memory_is_flat_on_ten_thousand_frames(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    path = write_video(tmp_path / "long.mp4", 10_000, size=(120, 160))

    def peak() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kilobytes on Linux, and it never falls

    with open_source(path) as source:
        frames = iter(source)
        for _ in range(1000):
            next(frames)
        early = peak()
        assert sum(1 for _ in frames) == 9000
    assert peak() - early < 16_000 * (1024 if early > 1 << 27 else 1)  # all the frames would be 576 MB


def test_what_follows_an_images_end_does_not_make_it_incomplete(tmp_path: Path) -> None:
    """Phones append films and metadata, full of bytes that look like markers."""
    noise = np.random.default_rng(0)
    for suffix in (".jpg", ".png"):
        path = tmp_path / f"image{suffix}"
        cv2.imwrite(str(path), noise.integers(0, 255, (60, 80, 3), np.uint8))
        whole = path.read_bytes()
        path.write_bytes(whole + noise.bytes(300_000))
        assert read_image(path).shape == (60, 80, 3)
        path.write_bytes(whole[: len(whole) * 2 // 3])
        with pytest.raises(InputError, match="incomplete"):
            read_image(path)


@pytest.mark.parametrize("ending", ["", "raise SystemExit(3)"])
def test_a_program_may_leave_a_video_early(tmp_path, ending):
    write_video(tmp_path / "video.mp4", 200)
    code = f"from lorat_plugin.video import open_source\nprint(next(iter(open_source('video.mp4'))).number)\n{ending}"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (3 if ending else 0, "0\n"), done.stderr
