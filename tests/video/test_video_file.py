"""Every picture of a video file comes with its number and time, whatever the container, coding or damage."""

from __future__ import annotations

import logging
import os
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from lorat_plugin.errors import InputError
from lorat_plugin.video.source import Frame, FrameSource, open_source
from tests.helpers.numbered_videos import copy_damaged, numbered, shown_number, write_numbered

VIDEOS = Path(__file__).parents[1] / "videos"


def read(path: Path, *span: int) -> tuple[FrameSource, list[Frame]]:
    with open_source(path, *span) as source:
        return source, list(source)


def numbers(frames: list[Frame]) -> list[tuple[int, int]]:
    """Number in the file and number in the picture."""
    return [(frame.number, shown_number(frame.image)) for frame in frames]


def same(*wanted: int) -> list[tuple[int, int]]:
    return [(number, number) for number in wanted]


@pytest.mark.parametrize(
    ("name", "codec", "pixels", "options"),
    [
        ("h264.mp4", "libx264", "yuv420p", {"flags": "+ildct+ilme", "bf": "2"}),
        ("mpeg2.mpg", "mpeg2video", "yuv420p", {"flags": "+ildct+ilme", "b": "2000000"}),
        ("mpeg2.mkv", "mpeg2video", "yuv422p", {"flags": "+ildct+ilme", "b": "2000000"}),
    ],
)
def test_interlaced_pictures_come_as_they_are(
    tmp_path: Path, name: str, codec: str, pixels: str, options: dict[str, str]
) -> None:
    path = write_numbered(tmp_path / name, codec=codec, pixels=pixels, options=options)
    with av.open(str(path)) as file:
        assert next(file.decode(video=0)).interlaced_frame
    source, frames = read(path)
    assert numbers(frames) == same(*range(30))
    assert not source.missing and not source.damaged
    for frame in frames[::10]:
        assert np.abs(frame.image.astype(int) - numbered(frame.number)).mean() < 16


def test_the_reported_interlaced_video(shared: Path) -> None:
    for name in ("interlaced.mp4", "inter_mpeg2.mpg"):
        _, frames = read(shared / "faults" / "interlaced" / name)
        assert [frame.number for frame in frames] == list(range(120))
        assert frames[1].image.mean() == pytest.approx(114.4, abs=0.2)


@pytest.mark.parametrize("mode", ["zero", "trunc", "random"])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_a_damaged_picture_is_named_and_the_others_keep_their_numbers(
    tmp_path: Path, suffix: str, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    codec, pixels = ("mjpeg", "yuvj420p") if suffix == ".avi" else ("libx264", "yuv420p")
    whole = write_numbered(tmp_path / f"whole{suffix}", codec=codec, pixels=pixels, options={"g": "1"})
    path = copy_damaged(whole, tmp_path / f"bad{suffix}", {12}, mode)
    source, frames = read(path)
    assert numbers(frames) == same(*range(12), *range(13, 30))
    assert (list(source.damaged), source.missing) == ([12], 0)
    assert frames[12].seconds == pytest.approx(13 / 30, abs=0.001)
    assert f"{path}: frame 12 is damaged and left out" in caplog.text
    caplog.clear()
    again = read(path)[1]
    assert all((one.image == two.image).all() for one, two in zip(frames, again, strict=True))
    assert not caplog.text  # named once a run
    assert numbers(read(path, 12)[1]) == numbers(read(path, 13)[1]) == same(*range(13, 30))
    assert numbers(read(path, 0, 13)[1]) == same(*range(12))


def test_damage_amid_pictures_that_are_made_from_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = write_numbered(tmp_path / "whole.mp4", codec="libx264", options={"g": "10", "bf": "2"})
    with av.open(str(whole)) as file:
        shown = [packet.pts for packet in file.demux(video=0) if packet.size]
    lost = sorted(shown).index(shown[14])
    source, frames = read(copy_damaged(whole, tmp_path / "bad.mp4", {14}, "zero"))
    assert [frame.number for frame in frames] == [number for number in range(30) if number != lost]
    assert list(source.damaged) == [lost] and "damaged and left out" in caplog.text
    assert numbers(frames)[-9:] == same(*range(21, 30))  # the next scene is whole again


def test_the_first_and_the_last_picture_damaged(tmp_path: Path) -> None:
    whole = write_numbered(tmp_path / "whole.mkv", options={"g": "1"})
    source, frames = read(copy_damaged(whole, tmp_path / "bad.mkv", {0, 1, 29}, "zero"))
    assert numbers(frames) == same(*range(2, 29))
    assert list(source.damaged) == [0, 1, 29]


def test_streams_without_times(tmp_path: Path) -> None:
    whole = write_numbered(tmp_path / "whole.h264", options={"g": "1"})
    assert numbers(read(whole)[1]) == same(*range(30))
    source, frames = read(copy_damaged(whole, tmp_path / "bad.h264", {12}, "trunc"))
    assert numbers(frames) == same(*range(12), *range(13, 30))
    assert list(source.damaged) == [12]
    between = write_numbered(tmp_path / "between.avi", options={"bf": "2"})  # AVI has no times of pictures
    assert numbers(read(between)[1]) == same(*range(30))


@pytest.mark.parametrize("options", [{"g": "10"}, {"g": "10", "bf": "2"}])
def test_a_hole_in_a_transport_stream_shifts_no_number(tmp_path: Path, options: dict[str, str]) -> None:
    path = write_numbered(tmp_path / "whole.ts", options=options)
    content = path.read_bytes()
    place = content.index(b"\x47", len(content) // 2)
    path.write_bytes(content[:place] + content[place + 1000 :])  # no whole number of packets of 188 bytes
    source, frames = read(path)
    assert numbers(frames)[-10:] == same(*range(20, 30)) and numbers(frames)[:8] == same(*range(8))
    assert sorted([*source.damaged, *(frame.number for frame in frames)]) == list(range(30)) and source.damaged


@pytest.mark.parametrize(("name", "codec"), [("part.ts", "libx264"), ("part.mpg", "mpeg2video")])
def test_recordings_that_were_joined_are_one_after_the_other(
    tmp_path: Path, name: str, codec: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_numbered(tmp_path / name, codec=codec, options={"bf": "2"})
    path.write_bytes(3 * path.read_bytes())
    source, frames = read(path)
    assert numbers(frames) == [(number, number % 30) for number in range(90)]
    assert (list(source.damaged), caplog.text) == ([], "")
    assert [frame.seconds for frame in frames] == pytest.approx(np.arange(90) / 30, abs=0.01)


def test_a_picture_of_half_a_packet_is_damaged(tmp_path: Path) -> None:
    path = write_numbered(tmp_path / "cut.mpg", codec="mpeg2video")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])  # amid picture 15
    source, frames = read(path)
    assert numbers(frames) == same(*range(14))
    assert list(source.damaged) == [14, 15]


def test_the_reported_damaged_video(shared: Path, caplog: pytest.LogCaptureFixture) -> None:
    source, frames = read(shared / "faults" / "corrupt_frame" / "bad_intra_zero.mp4")
    assert [frame.number for frame in frames] == [*range(100), *range(101, 240)]
    assert list(source.damaged) == [100] and "frame 100 is damaged" in caplog.text


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sound.mkv", {"sound": 3.0}),
        ("sound.ts", {"sound": 3.0}),
        ("sound.mp4", {"sound": 3.0, "container": {"movflags": "frag_keyframe+empty_moov"}}),
        ("two.mp4", {"videos": 2}),
        ("two.mkv", {"videos": 2}),
    ],
)
def test_whole_files_raise_no_alarm(tmp_path: Path, name: str, options: dict, caplog: pytest.LogCaptureFixture) -> None:
    source, frames = read(write_numbered(tmp_path / name, **options))
    assert numbers(frames) == same(*range(30))
    assert (source.missing, list(source.damaged), caplog.text) == (0, [], "")


def test_a_clock_that_starts_late_raises_no_alarm(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with av.open(str(write_numbered(tmp_path / "whole.mp4"))) as file, av.open(str(tmp_path / "late.mkv"), "w") as copy:
        stream = copy.add_stream_from_template(file.streams.video[0])
        for packet in file.demux(video=0):
            if packet.size:
                packet.pts, packet.dts = (
                    time + 100 * packet.time_base.denominator for time in (packet.pts, packet.dts)
                )
                packet.stream = stream
                copy.mux(packet)
    source, frames = read(tmp_path / "late.mkv")
    assert numbers(frames) == same(*range(30))
    assert (source.length, source.missing, caplog.text) == (30, 0, "")


def test_the_reported_false_alarms(shared: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, count in {"cut_copy.mp4": 62, "audio_longer.ts": 240}.items():
        source, frames = read(shared / "faults" / "false_damage" / name)
        assert [frame.number for frame in frames] == list(range(count))
        assert (source.length, source.missing, caplog.text) == (count, 0, "")


@pytest.mark.parametrize(
    ("name", "container"), [("cut.mkv", None), ("cut.mp4", {"movflags": "faststart"}), ("cut.flv", None)]
)
def test_a_file_without_its_end_says_so(
    tmp_path: Path, name: str, container: dict[str, str] | None, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_numbered(tmp_path / name, count=60, container=container, options={"crf": "5"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    source, frames = read(path)
    assert numbers(frames) == same(*range(len(frames)))
    assert 20 < len(frames) < 45 and len(frames) + source.missing == pytest.approx(60, abs=2)
    assert "it is damaged or incomplete" in caplog.text
    assert not read(path, 0, 10)[0].missing


def test_texts_and_playlists_are_no_videos(tmp_path: Path) -> None:
    write_numbered(tmp_path / "other.ts")
    texts = {
        "list.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1,\nother.ts\n#EXT-X-ENDLIST\n",
        "list.ffconcat": "ffconcat version 1.0\nfile other.ts\n",
        "notes.txt": "no video " * 1000,
        "notes.nfo": "no video " * 1000,
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match=f"{name}: cannot be opened"):
            open_source(tmp_path / name)


@pytest.mark.parametrize("name", ["hevc10.mp4", "variable_rate.webm"])
def test_pixels_are_those_of_opencv(name: str) -> None:
    frames, capture = read(VIDEOS / name)[1], cv2.VideoCapture(str(VIDEOS / name))
    for frame in frames:
        good, image = capture.read()
        assert good and np.abs(frame.image.astype(int) - image[..., ::-1]).mean() <= 1


def test_av1_is_decoded() -> None:
    source, frames = read(VIDEOS / "av1.mp4")
    assert [frame.number for frame in frames] == list(range(10)) and source.length == 10


@pytest.mark.parametrize(
    ("matrix", "turned"),
    [((-1, 0, 0, 1), np.fliplr), ((1, 0, 0, -1), np.flipud), ((0, 1, 1, 0), lambda x: x.swapaxes(0, 1))],
)
def test_mirrored_videos_come_as_they_are_seen(tmp_path: Path, matrix: tuple[int, ...], turned) -> None:
    path = write_numbered(tmp_path / "mirrored.mp4", 3)
    straight = read(path)[1]
    data = bytearray(path.read_bytes())
    place = data.find(b"tkhd") + 4 + 4 + 20 + 16  # version and flags, five fields, then layer, group and volume
    a, b, c, d = (value << 16 for value in matrix)
    data[place : place + 36] = b"".join(n.to_bytes(4, "big", signed=True) for n in (a, b, 0, c, d, 0, 0, 0, 1 << 30))
    path.write_bytes(data)
    for one, two in zip(read(path)[1], straight, strict=True):
        np.testing.assert_array_equal(one.image, turned(two.image))


def test_names_that_look_like_addresses_and_patterns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("concat:a.mp4", "%03d.mp4", "-.mp4"):
        write_numbered(tmp_path / "made.mp4", 2).rename(tmp_path / name)
        assert len(read(Path(name))[1]) == 2
    if sys.platform == "linux":
        odd = tmp_path / os.fsdecode(b"\xff.mp4")
        write_numbered(tmp_path / "made.mp4", 2).rename(odd)
        with pytest.raises(InputError, match="is no UTF-8 name; rename it"):
            read(odd)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in Linux's /proc")
def test_a_source_that_is_left_early_ends_its_threads(tmp_path: Path) -> None:
    path = write_numbered(tmp_path / "long.mp4", 200)
    read(path)  # OpenCV may start threads of its own once
    before = len(os.listdir("/proc/self/task"))
    for _ in range(3):
        with open_source(path) as source:
            next(iter(source))
    deadline = time.monotonic() + 20
    while len(os.listdir("/proc/self/task")) > before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(os.listdir("/proc/self/task")) <= before


def test_times_of_a_varying_rate_are_exact(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    source, frames = read(VIDEOS / "variable_rate.webm")
    assert source.mean_fps == pytest.approx(2.25, abs=0.01) and frames[-1].seconds == pytest.approx(4.0, abs=0.05)
    assert "varies" in caplog.text


@pytest.mark.parametrize("rate", [Fraction(1, 10), Fraction(24000, 1001), Fraction(1000)])
def test_every_rate_from_a_tenth_to_a_thousand_a_second_is_believed(
    tmp_path: Path, rate: Fraction, caplog: pytest.LogCaptureFixture
) -> None:
    source, frames = read(write_numbered(tmp_path / "a.mp4", 6, rate=rate))
    assert source.fps == source.mean_fps == float(rate)
    assert frames[-1].seconds == pytest.approx(5 / float(rate)) and not caplog.text
