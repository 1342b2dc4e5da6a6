"""`lorat track` on long videos: rows are written as it runs, and neither memory nor time per frame grows."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.long_video import BOX, write_long_video

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def rows_so_far(folder: Path) -> list[str]:
    """Whole rows of track.jsonl, which lies in a hidden folder while the command runs."""
    files = [*folder.glob(".track.jsonl.*/track.jsonl"), *folder.glob("track.jsonl")]
    return files[0].read_text("utf-8").splitlines() if files else []


def start(video: Path, output: Path, *options: object) -> subprocess.Popen[bytes]:
    arguments = ["track", video, "--box", BOX, "--output", output, "--device", "cpu", *options]
    command = [sys.executable, "-c", "from lorat_plugin.cli.main import main; main()", *map(str, arguments)]
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)


@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGKILL")
def test_a_killed_run_leaves_its_rows(tmp_path: Path, tiny_weights: Path) -> None:
    write_long_video(tmp_path / "long.mp4", 400)
    process = start(tmp_path / "long.mp4", tmp_path / "killed", "--weights", tiny_weights)
    deadline = time.monotonic() + 300
    while len(rows_so_far(tmp_path / "killed")) < 20 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    rows = rows_so_far(tmp_path / "killed")
    assert 20 <= len(rows) < 400 and not (tmp_path / "killed" / "track.jsonl").exists()
    found = [json.loads(row) for row in rows]
    assert [row["frame"] for row in found] == list(range(len(rows)))
    whole = start(tmp_path / "long.mp4", tmp_path / "whole", "--weights", tiny_weights, "--end", len(rows))
    assert whole.wait() == 0
    for row, other in zip(found, map(json.loads, rows_so_far(tmp_path / "whole")), strict=True):
        assert row | {"time_ms": 0} == other | {"time_ms": 0}


@LINUX
@pytest.mark.slow
def test_memory_and_time_per_frame_do_not_grow(tmp_path: Path) -> None:
    count = 3000
    write_long_video(tmp_path / "long.mp4", count)
    process = start(tmp_path / "long.mp4", tmp_path / "out")
    samples = list(observed(process, tmp_path / "out"))
    assert process.wait() == 0
    rows = [json.loads(row) for row in rows_so_far(tmp_path / "out")]
    assert len(rows) == count and {row["status"] for row in rows} == {"tracking", "uncertain", "absent"}
    early = [sample for sample in samples if count * 0.1 < sample[0] < count * 0.4]
    late = [sample for sample in samples if count * 0.7 < sample[0]]
    assert late[-1][2] - early[0][2] < 20 << 20
    (n0, t0, _), (n1, t1, _), (n2, t2, _), (n3, t3, _) = early[0], early[-1], late[0], late[-1]
    assert (t3 - t2) / (n3 - n2) < 1.5 * (t1 - t0) / (n1 - n0)


def observed(process: subprocess.Popen[bytes], folder: Path) -> Iterator[tuple[int, float, int]]:
    """Rows so far, CPU seconds and resident bytes of a process, twice a second while it runs."""
    tick, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    while process.poll() is None:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        yield len(rows_so_far(folder)), (int(fields[11]) + int(fields[12])) / tick, int(fields[21]) * page
        time.sleep(0.5)
