"""Many sequences in lock step give what one tracker gives on each of them."""

from __future__ import annotations

import gc
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from lorat_plugin import LoRATTracker, TrackResult
from lorat_plugin.datasets.sequences import box_sequence
from lorat_plugin.errors import InputError
from lorat_plugin.evaluation.benchmarks import Benchmark
from lorat_plugin.evaluation.registry import open_benchmark
from lorat_plugin.evaluation.runner import Run, track_sequences
from lorat_plugin.images import read_image
from lorat_plugin.network import LoRATNetwork
from tests.helpers.sequences import write_clip

LENGTHS = {"a": 9, "b": 2, "c": 14, "d": 1, "e": 5}


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> Benchmark:
    root = tmp_path_factory.mktemp("clips")
    for seed, (name, length) in enumerate(LENGTHS.items()):
        write_clip(root / name, max(length, 2), seed)
    opened = open_benchmark("clips", root)
    short = {
        s.name: box_sequence(s.name, list(s.frames)[:1], s.boxes[:1], s.present[:1], s.size) for s in opened.sequences
    }
    return Benchmark("clips", "clips", tuple(short[s.name] if s.name == "d" else s for s in opened.sequences))


def play(network: LoRATNetwork, benchmark: Benchmark, batch: int, repetitions: int = 1) -> dict[str, list[Run]]:
    tracker = LoRATTracker(network, device="cpu")
    waiting = iter(benchmark.sequences)
    found: dict[str, list[Run]] = {}
    frames = []
    track_sequences(
        tracker.engine,
        torch.device("cpu"),
        lambda: next(waiting, None),
        batch,
        lambda sequence, runs: found.__setitem__(sequence.name, runs),
        lambda sequence, error: pytest.fail(str(error)),
        lambda: frames.append(1),
        repetitions,
    )
    assert len(frames) == repetitions * sum(LENGTHS.values())
    return found


@pytest.fixture(scope="module")
def serial(tiny_network: LoRATNetwork, benchmark: Benchmark) -> dict[str, list[TrackResult]]:
    """What one tracker finds in the frames after the first, by sequence."""
    tracker, found = LoRATTracker(tiny_network, device="cpu"), {}
    for sequence in benchmark.sequences:
        images = [read_image(Path(path)) for path in sequence.frames]
        tracker.init(images[0], sequence.boxes[0])
        found[sequence.name] = [tracker.update(image) for image in images[1:]]
    return found


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_boxes_are_those_of_the_serial_tracker(
    tiny_network: LoRATNetwork, benchmark: Benchmark, serial: dict[str, list[TrackResult]], batch: int
) -> None:
    found = play(tiny_network, benchmark, batch)
    assert set(found) == set(LENGTHS)
    for sequence in benchmark.sequences:
        (run,), results = found[sequence.name], serial[sequence.name]
        np.testing.assert_array_equal(run.boxes[0], sequence.boxes[0])
        assert len(run.boxes) == len(run.scores) == len(run.seconds) == LENGTHS[sequence.name]
        if results:
            np.testing.assert_allclose(run.boxes[1:], [r.box for r in results], atol=1e-3)
            np.testing.assert_allclose(run.scores[1:], [r.score for r in results], atol=1e-5)
        assert (run.seconds > 0).all()


def test_repetitions_agree(tiny_network: LoRATNetwork, benchmark: Benchmark) -> None:
    for runs in play(tiny_network, benchmark, 2, repetitions=2).values():
        assert len(runs) == 2
        np.testing.assert_array_equal(runs[0].boxes, runs[1].boxes)


def test_a_sequence_that_fails_does_not_hold_the_others_up(tiny_network: LoRATNetwork, tmp_path: Path) -> None:
    for name in ("good", "gap", "outside"):
        write_clip(tmp_path / name)
    opened = open_benchmark("clips", tmp_path)
    (tmp_path / "gap" / "00000004.jpg").unlink()
    beyond = np.array([[500.0, 500.0, 20.0, 20.0]] * 6)
    sequences = [
        box_sequence(s.name, s.frames, beyond if s.name == "outside" else s.boxes, s.present, s.size)
        for s in opened.sequences
    ]
    waiting = iter(sequences)
    done: list[str] = []
    failed: dict[str, InputError] = {}
    tracker = LoRATTracker(tiny_network, device="cpu")
    track_sequences(
        tracker.engine,
        torch.device("cpu"),
        lambda: next(waiting, None),
        2,
        lambda sequence, runs: done.append(sequence.name),
        lambda sequence, error: failed.__setitem__(sequence.name, error),
    )
    assert done == ["good"] and set(failed) == {"gap", "outside"}
    assert "frame 3 of sequence gap" in str(failed["gap"]) and "00000004.jpg" in str(failed["gap"])
    assert "outside the frame" in str(failed["outside"]) and "00000001.jpg" in str(failed["outside"])


def test_memory_does_not_grow_with_length(tiny_network: LoRATNetwork, tmp_path: Path) -> None:
    write_clip(tmp_path / "clip", 6)
    clip = open_benchmark("clips", tmp_path).sequences[0]
    tracker = LoRATTracker(tiny_network, device="cpu")

    def peak(length: int) -> int:
        frames = list(clip.frames) * (length // 6)
        long = box_sequence("long", frames, np.repeat(clip.boxes[:1], length, 0), np.ones(length, bool), clip.size)
        waiting = iter([long])
        gc.collect()
        tracemalloc.start()
        take, ignore = lambda: next(waiting, None), lambda *_: None
        track_sequences(tracker.engine, torch.device("cpu"), take, 1, ignore, ignore)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    frame = 90 * 120 * 3
    peak(12)
    assert peak(60) < peak(12) + 3 * frame  # keeping all frames would cost 48 of them
