"""LoRAT on a benchmark: batched, distributed over processes, resumed after a stop.

A sequence's files appear when it is done; what is there already is not tracked again, as far as `provenance` allows.

Any number of processes may share the folder of results. A process locks a file for each sequence that it tracks. The
system releases the lock when the process ends, however it ends: a sequence whose process was killed is free again.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from filelock import FileLock, Timeout

from lorat_plugin.checkpoints.saving import weights_digest
from lorat_plugin.datasets.sequences import VideoSequence
from lorat_plugin.digests import Record
from lorat_plugin.engines import prepare
from lorat_plugin.engines.select import choose_precision
from lorat_plugin.errors import InputError
from lorat_plugin.evaluation.benchmarks import Benchmark
from lorat_plugin.evaluation.provenance import Reusable, settle_settings
from lorat_plugin.evaluation.results import notes_folder, result_files, save_rows
from lorat_plugin.evaluation.runner import Run, track_sequences
from lorat_plugin.network import LoRATNetwork
from lorat_plugin.settings import TrackerSettings
from lorat_plugin.video.demo_clips import BUNDLED, VARIABLE, calibration_digest, calibration_tracks

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5  # how often the first process looks whether the others are done


class Evaluation:
    """A tracker's run through a benchmark. `play` does the work.

    Attributes: files, the results; notes, the folder of run.json, scores and throughput; failures, why a sequence could
    not be tracked, by its name; frames and seconds, what this process has tracked and how long that took.
    """

    def __init__(
        self,
        network: LoRATNetwork,
        benchmark: Benchmark,
        results: Path,
        tracker: str,
        settings: TrackerSettings | None = None,
        *,
        batch: int = 1,
        style: str = "got10k",
        repetitions: int = 1,
    ) -> None:
        """Find out what is left to do.

        Every process names the same folder of results. Of the settings device, engine, precision and absent_below
        count; the device "auto" gives each process its own GPU. A process tracks `batch` sequences at once;
        `repetitions` are for the nested layout only. Raises InputError if the results cannot be written, or those that
        are there were made with other settings or from another folder's data.
        """
        alone = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0}
        self.process = ProcessRank(*(int(os.environ.get(name, number)) for name, number in alone.items()))
        self.files = result_files(benchmark, results, tracker, style)
        self.notes = notes_folder(benchmark, results, tracker)
        self.failures: dict[str, InputError] = {}
        self.frames, self.seconds = 0, 0.0
        self.batch, self.repetitions = batch, repetitions
        settings = settings or TrackerSettings()
        self.rule = network.presence.below(settings.absent_below)
        if repetitions > 1 and self.files.layout != "nested":
            raise InputError(f"{repetitions} repetitions: {benchmark.name} in format {style} has files for one only")
        device, engine, precision = settings.device, settings.engine, settings.precision
        if device == "auto" and torch.cuda.is_available():
            device = f"cuda:{self.process.local_rank % torch.cuda.device_count()}"
        self.engine, self.device = prepare(network, device, engine, precision, calibration_tracks)
        record: Record = {
            "tracker": tracker,
            "benchmark": benchmark.name,
            "subset": benchmark.subset,
            "model": network.variant.name,
            "weights": weights_digest(network),
            "precision": choose_precision(engine, self.device, precision),
            "format": style,
            "repetitions": repetitions,
            "absent_below": self.rule.absent_below,
            "rasterize": self.files.rasterize,
            "device": self.device.type,
            "engine": engine,
            "lorat_plugin": version("lorat_plugin"),
        }
        if precision == "int8":  # what it is calibrated on, and by whom, changes boxes
            record["precision"] = f"int8 of {engine}, calibrated on {os.environ.get(VARIABLE) or BUNDLED}"
            record["calibration"] = calibration_digest()
        settle_settings(self.notes, record, self.files, benchmark)
        self.claims = Claims(self.notes / "claims", benchmark.sequences, Reusable(self.files, repetitions, benchmark))

    @property
    def single(self) -> bool:
        """Whether one process tracks one sequence at a time, so that its times tell the speed on one target."""
        return self.batch == 1 and self.process.world == 1

    def frames_open(self) -> int:
        """Frames to track until all is done, as far as this process has looked."""
        return self.repetitions * sum(len(sequence) for sequence in self.claims.open)

    def play(self, on_frames: Callable[[int], None] = lambda frames: None) -> None:
        """Track what nobody has tracked, beside other processes that do the same.

        The first process stays until all sequences are done, or have failed in its own hands: it goes on with those of
        a process that died. The others leave when nothing is left to take. `on_frames` is called with the number of
        frames done since the last call, in the first process for all of them.
        """
        slots = min(self.batch, -(-len(self.claims.open) // self.process.world)) or 1  # every process is to have some
        planned, told = self.frames_open(), 0

        def one_frame() -> None:
            self.frames += 1
            on_frames(1)

        while True:
            began, before = time.perf_counter(), self.frames
            try:
                track_sequences(
                    self.engine, self.device, self._take, slots, self._done, self._failed, one_frame,
                    self.repetitions, self.rule,
                )  # fmt: skip
            except torch.cuda.OutOfMemoryError as error:
                raise InputError(f"{slots} sequences at once do not fit on {self.device}; lower --batch") from error
            if self.frames > before:
                self.seconds += time.perf_counter() - began
            by_others = planned - self.frames_open() - self.frames
            if by_others > told:
                on_frames(by_others - told)
                told = by_others
            if self.process.rank != 0 or not self.claims.open:
                return self._note_throughput()
            time.sleep(POLL_SECONDS)

    def _note_throughput(self) -> None:
        """Add a line to throughput.jsonl: what this process tracked, how fast, and how many sequences at once."""
        if not self.frames:
            return
        line = {
            "frames": self.frames,
            "frames_per_second": round(self.frames / self.seconds, 2),
            "sequences_at_once": self.batch,
            "process": self.process.rank,
            "processes": self.process.world,
            "single_target_speed": self.single,
        }
        with open(self.notes / "throughput.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")  # short enough to stay whole beside other processes' lines

    def _take(self) -> VideoSequence | None:
        while (sequence := self.claims.take()) is not None:
            try:
                _ = sequence.record  # of the data as they are before they are tracked
                return sequence
            except InputError as error:
                self._failed(sequence, error)
        return None

    def _done(self, sequence: VideoSequence, runs: list[Run]) -> None:
        save_rows(self.notes / "scores" / f"{sequence.name}.txt", runs[0].scores, "%.6f", ",")
        times = np.stack([run.seconds for run in runs], axis=1) * self.single
        self.files.begin(sequence)
        self.files.write(sequence.name, [run.boxes for run in runs], times)
        self.claims.settle(sequence)

    def _failed(self, sequence: VideoSequence, error: InputError) -> None:
        logger.warning("%s; the other sequences go on", error)
        self.failures[sequence.name] = error
        self.claims.settle(sequence)


class ProcessRank(NamedTuple):
    """Number of this process among those that torchrun or `accelerate launch` started, of how many, on its machine."""

    rank: int
    world: int
    local_rank: int


class Claims:
    """The sequences that are not done, the longest first, and which of them this process holds."""

    def __init__(self, folder: Path, sequences: Sequence[VideoSequence], finished: Callable[[str], bool]) -> None:
        """Share out what is not `finished` (asked by name) among all processes that use the same `folder`."""
        self._folder = folder
        self._finished = finished
        self.open = [s for s in sorted(sequences, key=len, reverse=True) if not finished(s.name)]
        self._held: dict[str, FileLock] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def take(self) -> VideoSequence | None:
        """The longest sequence that is neither done nor held by anyone, held from now on; None if there is none."""
        for sequence in list(self.open):
            if sequence.name in self._held:
                continue
            if self._finished(sequence.name):
                self.open.remove(sequence)
            elif (lock := self._lock(sequence.name)) is not None:
                if self._finished(sequence.name):  # between the look and the lock
                    lock.release()
                    self.open.remove(sequence)
                    continue
                self._held[sequence.name] = lock
                return sequence
        return None

    def settle(self, sequence: VideoSequence) -> None:
        """Give back a sequence that is done, or that cannot be done."""
        self.open.remove(sequence)
        self._held.pop(sequence.name).release()

    def _lock(self, name: str) -> FileLock | None:
        lock = FileLock(self._folder / f"{name}.lock")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            return None
        except (OSError, NotImplementedError) as error:
            raise InputError(
                f"{self._folder}: files cannot be locked there ({error}); choose --results on a disk that can"
            ) from error
        return lock
