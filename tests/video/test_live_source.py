"""Cameras and streams: damaged pictures are skipped, an end is said, nothing that waits is lost."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest

from lorat_plugin.cli.main import run
from lorat_plugin.video.source import FrameSource, open_source
from tests.helpers.numbered_videos import numbered, shown_number

Camera = Callable[[int, str], str]


@pytest.fixture
def camera() -> Iterator[Camera]:
    """Start an HTTP camera; returns its address."""
    servers = []

    def start(count: int, mode: str) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=b")
                self.end_headers()
                for number in range(count):
                    data = cv2.imencode(".jpg", numbered(number)[..., ::-1])[1].tobytes()
                    if mode == "corrupt" and number == 5:
                        data = data[:2] + bytes(len(data) - 2)
                    head = b"--b\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(data)
                    self.wfile.write(head + data + b"\r\n")
                    time.sleep(0.03)
                self.connection.shutdown(socket.SHUT_RDWR)

            def log_message(self, *details: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}/"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def read_all(address: str) -> tuple[FrameSource, list[int]]:
    with open_source(address) as source:
        return source, [shown_number(frame.image) for frame in source]


def test_a_damaged_picture_of_a_camera_is_skipped(camera: Camera) -> None:
    source, seen = read_all(camera(20, "corrupt"))
    assert 5 not in seen and len(seen) >= 5 and seen[-1] >= 18  # FFmpeg may keep the last one for itself
    assert seen == sorted(seen) and source.closed


def test_the_end_of_a_camera_is_said_and_its_last_frame_is_kept(
    camera: Camera, caplog: pytest.LogCaptureFixture
) -> None:
    with open_source(camera(20, "drop")) as source:
        while not source.closed:  # as if the model loads
            time.sleep(0.02)
            assert source._thread.is_alive()
            if "has ended" in caplog.text:
                break
        seen = [shown_number(frame.image) for frame in source]
    assert len(seen) == 1 and seen[0] >= 18
    assert source.closed and "has ended after" in caplog.text


def test_track_ends_with_exit_code_three(
    camera: Camera, tmp_path: Path, tiny_weights: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--box", "20,16,16,16", "--weights", str(tiny_weights), "--output", str(tmp_path / "out"), "--json"]
    assert run(["track", camera(12, "drop"), *arguments]) == 3
    summary = json.loads(capfd.readouterr().out)
    rows = np.loadtxt(tmp_path / "out" / "boxes.txt", delimiter=",", ndmin=2)
    assert summary["closed"] and summary["frames"] == len(rows) >= 1


class SilentCapture:
    """A camera that opens and never gives a frame."""

    def __init__(self, source: object) -> None:
        pass

    def isOpened(self) -> bool:
        return True

    def get(self, prop: int) -> float:
        return -1.0

    def read(self) -> tuple[bool, None]:
        return False, None

    def release(self) -> None:
        pass


def test_a_camera_without_a_frame_gets_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_weights: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", SilentCapture)
    arguments = ["--box", "1,1,9,9", "--weights", str(tiny_weights), "--output", str(tmp_path / "out")]
    assert run(["track", "0", *arguments]) == 2
    assert "camera0: ended before its first frame" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()
