"""Boxes from a few keys: hand boxes stay, the rule of the blend, and frames that are read backwards."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorat_plugin.apps import annotate
from lorat_plugin.apps.annotate import Gap, annotate_object, blend, follow_gaps, spans_seen
from lorat_plugin.errors import InputError
from lorat_plugin.interchange import Row
from lorat_plugin.network import LoRATNetwork
from lorat_plugin.tracker import LoRATTracker, MultiObjectTracker
from lorat_plugin.tracking import TrackResult
from lorat_plugin.video.source import FrameSource, open_source
from tests.helpers.numbered_videos import copy_damaged, write_numbered

SCRIPT = Path(__file__).parents[2] / "integration" / "annotate" / "quality.py"
KEYS = [Row(1, 3, (33.0, 22.0, 16.0, 16.0), label="square"), Row(4, 3, (42.0, 28.0, 16.0, 16.0), label="square")]


@pytest.fixture
def source(tmp_path: Path, frames: list[np.ndarray]) -> Callable[..., FrameSource]:
    for number, frame in enumerate(frames):
        cv2.imwrite(str(tmp_path / f"{number}.png"), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    return partial(open_source, tmp_path)


def result(x: float, score: float = 0.5, absent: bool = False) -> TrackResult:
    return TrackResult(np.array([x, 10.0, 20.0, 20.0]), score, absent)


def row(frame: int, x: float) -> Row:
    return Row(frame, 0, (x, 10.0, 20.0, 20.0))


def test_both_runs_are_what_the_tracker_finds(
    source: Callable[[], FrameSource],
    frames: list[np.ndarray],
    tiny_network: LoRATNetwork,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(annotate, "SPOOL_BYTES", 40_000)  # a frame and a bit: the others wait in a file
    read: list[int] = []
    gaps = follow_gaps(source, KEYS, MultiObjectTracker(tiny_network, "cpu"), lambda: read.append(1))
    assert len(read) == 6 and [gap.first for gap in gaps] == [0, 1, 4]
    assert (gaps[0].forward, gaps[2].backward) == (None, None)
    alone = LoRATTracker(tiny_network, "cpu")
    for run, order in (
        (gaps[0].backward, [1, 0]),
        (gaps[1].forward, [1, 2, 3, 4]),
        (gaps[1].backward, [4, 3, 2, 1]),
        (gaps[2].forward, [4, 5]),
    ):
        assert run is not None and len(run) == len(order)
        key = next(key for key in KEYS if key.frame == order[0])
        alone.init(frames[order[0]], key.box)
        found = run if order[0] < order[1] else run[::-1]
        np.testing.assert_allclose(
            [r.box for r in found[1:]], [alone.update(frames[i]).box for i in order[1:]], atol=1e-3
        )


def test_every_frame_gets_a_box_and_hand_boxes_stay(
    source: Callable[[], FrameSource], tiny_network: LoRATNetwork
) -> None:
    rows = annotate_object(source, [range(6)], KEYS, MultiObjectTracker(tiny_network, "cpu"))
    assert [row.frame for row in rows] == list(range(6)) and {(row.id, row.label) for row in rows} == {(3, "square")}
    assert [rows[1], rows[4]] == KEYS and [row.key for row in rows] == [False, True, False, False, True, False]


@pytest.mark.parametrize(
    ("frames", "gone", "spans"),
    [
        (range(9), [], [range(9)]),
        (range(9), [2], [range(2), range(4, 9)]),
        (range(9), [2, 3, 6, 8], [range(2), range(4, 6)]),  # gone already, and gone for good
        (range(9), [0], [range(4, 9)]),  # the first key's own span is empty: a key in frame 0 would outweigh it
        (range(2, 9), [2], [range(4, 9)]),
        (range(3, 5), [2], [range(4, 5)]),
        (range(2, 4), [], []),
        (range(5, 9), [], []),
    ],
)
def test_an_object_is_not_looked_for_where_it_is_gone(frames: range, gone: list[int], spans: list[range]) -> None:
    keys = [row(0, 10), row(4, 12)] if gone != [0] else [row(4, 12)]
    assert spans_seen(frames, keys, gone) == spans


def test_no_run_goes_through_frames_where_the_object_is_gone(
    source: Callable[[], FrameSource], frames: list[np.ndarray], tiny_network: LoRATNetwork
) -> None:
    read: list[int] = []
    spans = spans_seen(range(6), KEYS, [3])
    rows = annotate_object(source, spans, KEYS, MultiObjectTracker(tiny_network, "cpu"), lambda: read.append(1))
    assert [row.frame for row in rows] == [0, 1, 2, 4, 5] and len(read) == 5
    alone = LoRATTracker(tiny_network, "cpu")
    for key, frame in zip(KEYS, (2, 5), strict=True):
        alone.init(frames[key.frame], key.box)
        found = next(row.box for row in rows if row.frame == frame)
        np.testing.assert_allclose(found, alone.update(frames[frame]).box, atol=1e-3)


def test_a_box_beyond_the_video_is_refused(source: Callable[[], FrameSource], tiny_network: LoRATNetwork) -> None:
    with pytest.raises(InputError, match=r"frame 9 has a box but .* has no such frame"):
        follow_gaps(source, [*KEYS, KEYS[0]._replace(frame=9)], MultiObjectTracker(tiny_network, "cpu"))


def test_the_nearer_run_weighs_more() -> None:
    gap = Gap(0, [result(10), result(10), result(10), result(10)], [result(13), result(13), result(13), result(13)])
    found = blend([row(0, 10), row(3, 13)], [gap])
    xs = [r.box[0] for r in found]
    assert xs[0] == 10 and xs[3] == 13 and 10 < xs[1] < 11.5 < xs[2] < 13
    assert xs[1] - 10 == pytest.approx(13 - xs[2], abs=1e-3)  # the same seen from either end


def test_a_run_that_misses_the_other_hand_box_weighs_less() -> None:
    strayed = Gap(0, [result(10), result(90), result(90)], [result(10), result(11), result(12)])
    kept = Gap(0, [result(10), result(11), result(12)], [result(10), result(11), result(12)])
    keys = [row(0, 10), row(2, 12)]
    assert blend(keys, [kept])[1].box[0] == pytest.approx(11)
    third = (90 * 0.5 + 11) / 1.5  # weights 1/2 * 1/2 and 1/2 * 1
    assert blend(keys, [strayed])[1].box[0] == pytest.approx(third, abs=0.01)


def test_absent_runs_count_for_nothing() -> None:
    keys = [row(0, 10), row(2, 12)]
    one = Gap(0, [result(10), result(50, absent=True), result(12)], [result(10), result(11), result(12)])
    assert blend(keys, [one])[1].box[0] == pytest.approx(11)
    both = one._replace(backward=[result(10), result(50, absent=True), result(12)])
    assert [r.frame for r in blend(keys, [both])] == [0, 2]


@given(st.floats(-0.3, 0.3), st.floats(0.7, 1.4))
def test_the_trackers_own_framing_is_corrected(shift: float, scale: float) -> None:
    """A tracker whose boxes are shifted and scaled by the same everywhere: many arrivals leave little of it."""
    side, x = 20 * scale, 10 + 20 * shift
    biased = TrackResult(np.array([x, 10.0, side, side]), 0.5)
    keys = [row(2 * i, 10) for i in range(40)]
    gaps = [Gap(2 * i, [result(10), biased, biased], [biased, biased, result(10)]) for i in range(39)]
    np.testing.assert_allclose(
        blend(keys, gaps)[1].box, keys[0].box, atol=0.12 * max(abs(x - 10), abs(side - 20)) + 1e-3
    )


@pytest.mark.slow
def test_the_blend_beats_one_run_and_a_line(shared: Path) -> None:
    command = [sys.executable, str(SCRIPT), str(shared / "data" / "bolt")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    linear, _, forward, _, blended, _ = map(float, done.stdout.splitlines()[-1].split("|")[2:-1])
    assert linear < 0.5 < 0.68 < forward < 0.75 < blended  # of 82 frames, 0, 30 and 60 are shown


def test_a_damaged_frame_does_not_shift_the_boxes_behind_it(tmp_path: Path, tiny_network: LoRATNetwork) -> None:
    whole = write_numbered(tmp_path / "whole.mp4", 8, options={"g": "1"})
    bad = copy_damaged(whole, tmp_path / "bad.mp4", {3}, "zero")
    keys = [Row(0, 0, (20, 16, 16, 16)), Row(5, 0, (25, 16, 16, 16))]
    rows = annotate_object(partial(open_source, bad), [range(8)], keys, MultiObjectTracker(tiny_network, device="cpu"))
    assert [row.frame for row in rows] == list(range(8))
    assert [rows[key.frame].box for key in keys] == [key.box for key in keys]
