"""Trackers in copies, threads, forked processes and workers: they track as ever, or refuse with a sentence."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from lorat_plugin import LoRATTracker, MultiObjectTracker
from lorat_plugin.checkpoints.saving import save_checkpoint
from lorat_plugin.errors import InputError
from lorat_plugin.network import LoRATNetwork

BOX = (30, 20, 16, 16)
PROGRAM = """
import multiprocessing, sys, time
import numpy as np, torch
from lorat_plugin import LoRATTracker
from lorat_plugin.errors import InputError

weights, engine, parent_threads, child_threads, inherit = sys.argv[1:]
frames = np.random.default_rng(0).integers(0, 256, (4, 90, 120, 3), np.uint8)

def make():
    return LoRATTracker.from_pretrained("lorat_tiny", weights, device="cpu", engine=engine)

def follow(tracker):
    tracker.init(frames[0], (30, 20, 40, 30))
    return np.array([tracker.update(frame).box for frame in frames[1:]])

def child(queue):
    if child_threads != "0":
        torch.set_num_threads(int(child_threads))
    try:
        queue.put(float(np.abs(follow(tracker if inherit == "inherit" else make()) - wanted).max()))
    except InputError as error:
        queue.put(str(error))

torch.set_num_threads(int(parent_threads))
tracker = make()
wanted = follow(tracker)
fork = multiprocessing.get_context("fork")
queue = fork.Queue()
process = fork.Process(target=child, args=(queue,), daemon=True)
process.start()
print(queue.get(timeout=600))
"""


def forked(weights: Path, *options: str) -> str:
    command = [sys.executable, "-c", PROGRAM, str(weights), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)  # a fork that hangs, on a busy machine
    return done.stdout.strip() or done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="the others do not fork")
@pytest.mark.parametrize(
    "options", [("eager", "2", "0", "inherit"), ("fused", "2", "0", "own"), ("eager", "1", "2", "own")]
)
def test_a_fork_after_tracking_with_threads_is_refused_with_a_remedy(tiny_weights: Path, options: tuple[str]) -> None:
    said = forked(tiny_weights, *options)
    assert "which has tracked, and torch hangs with several threads after that: call torch.set_num_threads(1)" in said


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the others do not fork")
def test_weights_are_not_loaded_in_a_fork_where_that_would_hang(tiny_network: LoRATNetwork, tmp_path: Path) -> None:
    half = save_checkpoint(tiny_network, tmp_path / "half.safetensors", dtype=torch.float16)  # converted when loaded
    assert "call torch.set_num_threads(1) in this one first" in forked(half, "eager", "2", "0", "own")


@pytest.mark.skipif(sys.platform != "linux", reason="the others do not fork")
@pytest.mark.parametrize("options", [("fused", "2", "1", "inherit"), ("eager", "1", "0", "own")])
def test_a_fork_that_the_remedy_or_one_thread_makes_safe_tracks_alike(tiny_weights: Path, options: tuple[str]) -> None:
    assert float(forked(tiny_weights, *options)) < 1e-3  # pixels


class Tracked(torch.utils.data.Dataset[np.ndarray]):
    """Its items are tracked in the worker."""

    def __init__(self, tracker: LoRATTracker, frames: list[np.ndarray]) -> None:
        self.tracker, self.frames = tracker, frames

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> np.ndarray:
        self.tracker.init(self.frames[0], BOX)
        return np.array([self.tracker.update(frame).box for frame in self.frames[1:]])


@pytest.mark.skipif(sys.platform != "linux", reason="the others do not fork")
def test_a_tracker_works_in_forked_workers_of_a_loader(tiny_network: LoRATNetwork, frames: list[np.ndarray]) -> None:
    data = Tracked(LoRATTracker(tiny_network, device="cpu", engine="eager"), frames)
    loader = torch.utils.data.DataLoader(data, num_workers=1, timeout=60, multiprocessing_context="fork")
    found = [batch[0].numpy() for batch in loader]
    np.testing.assert_allclose(found, [data[0]] * 2, atol=1e-3)


@pytest.mark.parametrize("made", [LoRATTracker, MultiObjectTracker])
@pytest.mark.parametrize("engine", ["eager", "fused"])
def test_a_pickled_tracker_is_refused_with_a_remedy(
    tiny_network: LoRATNetwork, made: type[LoRATTracker], engine: str
) -> None:
    with pytest.raises(InputError, match="cannot be pickled for another process: make it there, with from_pretrained"):
        pickle.dumps(made(tiny_network, device="cpu", engine=engine))


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_a_copy_goes_on_alone_from_the_same_targets(
    tiny_network: LoRATNetwork, frames: list[np.ndarray], duplicate: Callable[[LoRATTracker], LoRATTracker]
) -> None:
    tracker, untouched = (LoRATTracker(tiny_network, device="cpu") for _ in range(2))
    for each in (tracker, untouched):
        each.init(frames[0], BOX)
    twin = duplicate(tracker)
    for frame in (frames[0][::-1], frames[0][:, ::-1]):
        twin.update(frame)  # leads the copy away, alone
    for frame in frames[1:]:
        np.testing.assert_array_equal(tracker.update(frame).box, untouched.update(frame).box)
    twin.init(frames[0], (60, 40, 20, 20))
    assert not np.array_equal(twin.update(frames[1]).box, tracker.update(frames[1]).box)


def test_a_copy_of_many_targets_adds_and_drops_its_own(tiny_network: LoRATNetwork, frames: list[np.ndarray]) -> None:
    many = MultiObjectTracker(tiny_network, device="cpu", engine="fused")
    many.add(frames[0], [BOX, (60, 40, 20, 20)])
    twin = copy.deepcopy(many)
    twin.drop(0)
    assert twin.add(frames[0], [BOX]) == [2]
    assert list(many.update(frames[1])) == [0, 1] and list(twin.update(frames[1])) == [1, 2]


def test_trackers_of_one_network_work_in_threads_of_their_own(
    tiny_network: LoRATNetwork, frames: list[np.ndarray]
) -> None:
    found: dict[int, list[np.ndarray]] = {}

    def follow(number: int) -> None:
        tracker = LoRATTracker(tiny_network, device="cpu", engine="eager")
        tracker.init(frames[0], BOX)
        found[number] = [tracker.update(frame).box for frame in frames[1:]]

    threads = [threading.Thread(target=follow, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    follow(3)
    for number in range(3):
        np.testing.assert_allclose(found[number], found[3], atol=1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_tracker_on_a_gpu_is_refused_in_a_fork(tiny_network: LoRATNetwork, frames: list[np.ndarray]) -> None:
    data = Tracked(LoRATTracker(copy.deepcopy(tiny_network), device="cuda"), frames)
    loader = torch.utils.data.DataLoader(data, num_workers=1, timeout=60, multiprocessing_context="fork")
    with pytest.raises(InputError, match="cannot be used in one forked from it: make the tracker in each process"):
        next(iter(loader))
