"""Trackers side by side on the same frames: run one target at a time, scored alike, told apart by paired intervals."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from lorat_plugin.datasets.sequences import VideoSequence
from lorat_plugin.digests import Record, describe_files
from lorat_plugin.errors import InputError, first_line
from lorat_plugin.evaluation.baselines import BASELINES, BUNDLED_MODELS, create_baseline
from lorat_plugin.evaluation.benchmarks import Benchmark
from lorat_plugin.evaluation.evaluate import Evaluation
from lorat_plugin.evaluation.provenance import Reusable, settle_settings
from lorat_plugin.evaluation.raw_results import find_results, fit_lengths, start_notes
from lorat_plugin.evaluation.report import check_names, write_report
from lorat_plugin.evaluation.results import ResultFiles, notes_folder, result_files
from lorat_plugin.evaluation.runner import FrameTracker
from lorat_plugin.evaluation.scoring import TrackerScore
from lorat_plugin.evaluation.tables import write_tables
from lorat_plugin.files import write_json
from lorat_plugin.score_rows import MEASURES

logger = logging.getLogger(__name__)

LORAT = "LoRAT"  # its name among the trackers
RESAMPLES = 10_000
FEW = 20  # sequences, below which a bootstrap interval promises too much
TIE = 0.0005  # AUCs that are the same when three digits are printed


@dataclass(frozen=True, eq=False)
class Contestant:
    """A tracker to compare: an `Evaluation`, a `FrameTracker`, another's with the toolkit's `track`, or None if others
    have run it; settings, what its results depend on beside the data, as in run.json.
    """

    files: ResultFiles
    tracker: Any
    settings: Record = field(default_factory=dict)


@dataclass(frozen=True)
class Duel:
    """Mean success AUC of the first tracker less that of a rival, with its 95 % interval, and in how many sequences the
    first is better, worse, equal to three digits.
    """

    rival: str
    difference: float
    low: float
    high: float
    wins: int
    losses: int
    ties: int


class ArrayTracker(FrameTracker):
    """Another's tracker with the toolkit's `init` and `update`; decoding stays out of its times, as for all others."""

    def __init__(self, name: str, tracker: Any) -> None:
        """`tracker` gets PIL images, as from the toolkit."""
        super().__init__(name)
        self.tracker = tracker

    def start(self, frame: np.ndarray, box_xywh: np.ndarray) -> None:
        """As of `FrameTracker`."""
        self.tracker.init(Image.fromarray(frame), box_xywh)

    def follow(self, frame: np.ndarray) -> np.ndarray:
        """As of `FrameTracker`."""
        return self.tracker.update(Image.fromarray(frame))


def choose_contestants(
    specs: Sequence[str],
    benchmark: Benchmark,
    results: Path,
    create_lorat: Callable[[], Evaluation],
    models: Path | None = None,
) -> list[Contestant]:
    """Make the trackers that a user names.

    Each spec is "LoRAT", a key of `BASELINES`, "module:Class" (the toolkit's interface; the working folder can be
    imported from, the class is called without arguments), or "NAME=FOLDER" of raw results. `create_lorat` makes LoRAT's
    run, of one sequence at a time; it is called last, as it takes longest. Raises InputError for a name that means
    nothing, a tracker that cannot be made, or two of one name.
    """
    contestants = []
    for spec in specs:
        name, _, folder = spec.partition("=")
        if folder:
            contestants.append(Contestant(find_results(Path(folder), benchmark, name), None))
            continue
        if spec not in (LORAT, *BASELINES) and ":" not in spec:
            known = ", ".join((LORAT, *BASELINES))
            raise InputError(f"unknown tracker '{spec}': use {known}, module:Class or NAME=FOLDER of raw results")
        make = import_tracker if ":" in spec else partial(create_baseline, models=models)
        tracker = None if spec == LORAT else make(spec)
        files = result_files(benchmark, results, tracker.name if tracker else LORAT)
        contestants.append(Contestant(files, tracker, _settings(spec, models) if tracker else {}))
    names = [contestant.files.tracker for contestant in contestants]
    check_names(names)
    if len(names) < 2:
        raise InputError("one tracker alone is no comparison: name two or more with --trackers")
    pairs = zip(specs, contestants, strict=True)
    return [replace(one, tracker=create_lorat()) if spec == LORAT else one for spec, one in pairs]


def _settings(spec: str, models: Path | None) -> Record:
    """What the results of a tracker that a user names depend on: its model files, or its source file."""
    found: Record = {"tracker": spec, "opencv": cv2.__version__}
    if spec in BASELINES:
        folder = models or BUNDLED_MODELS
        return found | describe_files(folder, [folder / file for file in BASELINES[spec].files])
    source = Path(sys.modules[spec.partition(":")[0]].__file__ or "")
    return found | describe_files(source.parent, [source])


def import_tracker(spec: str) -> Any:
    """The tracker that "module:Class" names, made without arguments; its own `track` stays if it has one.

    Raises InputError if it cannot be imported or made, or has not the interface of the toolkit's trackers.
    """
    module, _, attribute = spec.partition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        tracker = getattr(importlib.import_module(module), attribute)()
    except Exception as error:  # whatever another's code raises is the user's to mend
        raise InputError(f"tracker {spec}: cannot be made ({type(error).__name__}: {first_line(error)})") from error
    finally:
        sys.path.remove(here)
    track_method = getattr(type(tracker), "track", None)
    inherited = track_method is None or track_method.__module__.startswith("got10k.")
    verbs = callable(getattr(tracker, "init", None)) and callable(getattr(tracker, "update", None))
    if not isinstance(getattr(tracker, "name", None), str) or (inherited and not verbs):
        raise InputError(f"tracker {spec}: wants the interface of got10k.trackers.Tracker: name, init and update")
    return ArrayTracker(tracker.name, tracker) if inherited else tracker


def fit_raw_results(
    contestants: Sequence[Contestant], benchmark: Benchmark, protocol: str
) -> tuple[Benchmark, list[Contestant], list[str]]:
    """Read all raw results of others and find the frames that all of them have: arguments, result and errors are those
    of `fit_lengths`.
    """
    raw = [one.files for one in contestants if one.tracker is None]
    common, fitted, notes = fit_lengths(benchmark, raw, protocol)
    notes += [note for files in fitted for note in start_notes(common, files)]
    left = iter(fitted)
    return common, [one if one.tracker else replace(one, files=next(left)) for one in contestants], notes


def missing_sequences(contestant: Contestant, benchmark: Benchmark) -> list[VideoSequence]:
    """Sequences to track: those without a result, or with one that is not whole or of other data, which is logged.

    None for raw results. Raises InputError for results of another tracker or other data.
    """
    if contestant.tracker is None:
        return []
    if isinstance(contestant.tracker, Evaluation):
        return list(contestant.tracker.claims.open)
    files = contestant.files
    if files.records is not None:
        settle_settings(files.records.parent, contestant.settings, files)
    reusable = Reusable(files, 1, benchmark)
    return [sequence for sequence in benchmark.sequences if not reusable(sequence.name)]


def track(contestant: Contestant, sequences: Sequence[VideoSequence], on_frames: Callable[[int], None]) -> None:
    """Run a tracker through the sequences of `missing_sequences`, one after the other, and write its results.

    `on_frames` is called with the number of frames done since the last call. Raises InputError for a
    tracker that fails, or whose answer has not a finite box and a time for each frame.
    """
    tracker, name = contestant.tracker, contestant.files.tracker
    if isinstance(tracker, Evaluation):
        tracker.play(on_frames)
        for error in tracker.failures.values():
            raise error
        return
    if isinstance(tracker, FrameTracker):
        tracker.on_frame = lambda: on_frames(1)
    for sequence in sequences:
        count = len(sequence)
        try:
            found = tracker.track(list(sequence.frames), sequence.boxes[0].copy())
            boxes, times = map(np.asarray, found)
        except InputError:
            raise
        except Exception as error:  # another's code
            what = f"{type(error).__name__}: {first_line(error)}"
            raise InputError(f"{name} fails on sequence {sequence.name} ({what}); mend it or leave it out") from error
        if boxes.shape != (count, 4) or times.shape != (count,) or not np.isfinite(boxes).all():
            raise InputError(
                f"{name} on sequence {sequence.name}: wanted a finite box and a time for each of {count} frames, got"
                f" boxes {boxes.shape} and times {times.shape}; mend its track or update"
            )
        contestant.files.begin(sequence)
        contestant.files.write(sequence.name, [boxes], times[:, None])
        if not isinstance(tracker, FrameTracker):
            on_frames(count)


def duels(scores: Sequence[TrackerScore]) -> list[Duel]:
    """The first tracker against each of the others, by the AUC of each sequence."""
    first = scores[0]
    found = []
    for rival in scores[1:]:
        gains = np.array([score.auc - rival.sequences[name].auc for name, score in first.sequences.items()])
        low, high = paired_interval(gains)
        wins, losses = int((gains >= TIE).sum()), int((gains <= -TIE).sum())
        found.append(Duel(rival.tracker, float(gains.mean()), low, high, wins, losses, len(gains) - wins - losses))
    return found


def paired_interval(differences: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95 % confidence interval of the mean of paired differences (S,), by the percentile bootstrap.

    The S sequences are drawn 10,000 times with replacement; both trackers are judged on the same draw, so what makes a
    sequence hard for both does not widen the interval. It speaks of other sequences of this kind, not of other
    trainings, and is too narrow for fewer than some twenty sequences. Source: Efron and Tibshirani, An Introduction to
    the Bootstrap, 1993, chapter 13.
    """
    count, generator = len(differences), np.random.default_rng(seed)
    means = [differences[generator.integers(count, size=(100, count))].mean(axis=1) for _ in range(RESAMPLES // 100)]
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return float(low), float(high)


def speed_notes(contestants: Sequence[Contestant], scores: Sequence[TrackerScore]) -> list[str]:
    """Which frames/s may be held against each other, and which results do not repeat, as sentences."""
    kinds: dict[str, list[str]] = {}
    for one, score in zip(contestants, scores, strict=True):
        if score.fps is None:
            says = "not measured; there are no times, or those of a batched run: remove the results to track again"
        elif one.tracker is None:
            says = "from the time files of those who ran it, on a machine of theirs"
        elif isinstance(one.tracker, Evaluation | FrameTracker):
            says = "one target at a time in one process, decoding left out, when the results were written"
        else:
            says = "one target at a time, by its own `track`, which may count decoding"
        kinds.setdefault(says, []).append(one.files.tracker)
    notes = [f"frames/s of {', '.join(names)}: {says}." for says, names in kinds.items()]
    devices = "".join(f"LoRAT on {c.tracker.device}, " for c in contestants if isinstance(c.tracker, Evaluation))
    threads = f"{torch.get_num_threads()} of torch, {cv2.getNumThreads()} of OpenCV"
    notes.append(f"This run: {devices}OpenCV {cv2.__version__}, threads: {threads}.")
    if len(scores[0].sequences) < FEW:
        notes.append(f"{len(scores[0].sequences)} sequences are few: the intervals are narrower than they should be.")
    if any(one.files.tracker == "MIL" and one.tracker is not None for one in contestants):
        notes.append("MIL draws random numbers that cannot be seeded: its results repeat for a whole run only.")
    return notes


def write_comparison(
    contestants: Sequence[Contestant],
    benchmark: Benchmark,
    scores: Sequence[TrackerScore],
    results: Path,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """Write comparison.json, the tables of `tables.write_tables` and report.html.

    The files go to compare/<benchmark's folder> in the folder of results; `scores` are those of the contestants by one
    protocol. Returns the content of comparison.json. Raises InputError if something cannot be written.
    """
    folder = results.expanduser().resolve() / "compare" / benchmark.folder
    found = duels(scores)
    content = {
        "benchmark": benchmark.name,
        "protocol": scores[0].protocol,
        "skipped": list(benchmark.skipped),
        "trackers": {
            score.tracker: {**{name: getattr(score.overall, name) for name in MEASURES}, "fps": score.fps}
            for score in scores
        },
        "first": scores[0].tracker,
        "auc_difference": [asdict(duel) for duel in found],
        "sequence_auc": {
            name: {score.tracker: score.sequences[name].auc for score in scores} for name in benchmark.seq_names
        },
        "notes": [*notes, *speed_notes(contestants, scores)],
        "folder": str(folder),
    }
    write_tables(scores, folder)
    differences = [
        f"AUC of {scores[0].tracker} less that of {duel.rival}: {duel.difference:+.3f}, 95 % interval {duel.low:+.3f}"
        f" to {duel.high:+.3f}, {duel.wins} sequences won, {duel.losses} lost."
        for duel in found
    ]
    files = {one.files.tracker: one.files for one in contestants}
    homes = {name: notes_folder(benchmark, results, name) for name in files}
    write_report(benchmark, scores, files, homes, folder / "report.html", remarks=[*differences, *notes])
    write_json(folder / "comparison.json", content)
    return content
