"""From result files to scores: by sequence, by attribute and overall; and how far a tracker's own score can be trusted.

The reliability of the score is its ranking (AUROC) and its calibration against the overlap.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from lorat_plugin.boxes import auroc
from lorat_plugin.datasets.sequences import VideoSequence
from lorat_plugin.errors import InputError
from lorat_plugin.evaluation.benchmarks import Benchmark, frames_omitted
from lorat_plugin.evaluation.long_term import LongTerm, long_term_run, measure_long_term
from lorat_plugin.evaluation.protocols import Score, check_protocol, combine, evaluate
from lorat_plugin.evaluation.results import ResultFiles, read_confidences


@dataclass(frozen=True, eq=False)
class TrackerScore:
    """One tracker on one benchmark by one protocol.

    Fields: overall; sequences and attributes, scores by name; overlaps, by sequence the (N,) IoU of every frame of the
    first run with the truth, NaN where the protocol has none; fps, frames/s of single-target tracking, None if it was
    not measured; skipped, names of sequences that were left out on request; long_term, None if targets never leave.
    """

    tracker: str
    benchmark: str
    protocol: str
    overall: Score
    sequences: dict[str, Score]
    attributes: dict[str, Score]
    overlaps: dict[str, np.ndarray]
    fps: float | None
    skipped: tuple[str, ...] = ()
    long_term: LongTerm | None = None


def score_tracker(benchmark: Benchmark, files: ResultFiles, protocol: str | None = None) -> TrackerScore:
    """Score a tracker's result files, all runs of each sequence together, as the GOT-10k toolkit does.

    Args:
        benchmark: with a box for every frame.
        files: where the results lie.
        protocol: a key of `protocols.PROTOCOLS`; None for the benchmark's own.
    Raises InputError if the truth is not public, if a sequence has one frame only, if a result file is missing or
    damaged, or for boxes that the protocol refuses; it names the file.
    """
    protocol = protocol or benchmark.protocol
    check_scorable(benchmark, protocol)
    sequences: dict[str, Score] = {}
    overlaps: dict[str, np.ndarray] = {}  # of all runs, one after the other
    members: dict[str, list[str]] = {}
    for sequence in benchmark.sequences:
        counted = _counted(benchmark.name, sequence, protocol)
        runs = [_evaluate_run(benchmark, files, protocol, counted, run) for run in files.repetitions(sequence.name)]
        sequences[sequence.name] = combine(protocol, benchmark.name, *zip(*runs, strict=True))
        overlaps[sequence.name] = np.concatenate([found for _, found in runs])
        for attribute in sequence.attributes:
            members.setdefault(attribute, []).append(sequence.name)

    def together(names: Iterable[str]) -> Score:
        return combine(protocol, benchmark.name, [sequences[n] for n in names], [overlaps[n] for n in names])

    return TrackerScore(
        files.tracker,
        benchmark.name,
        protocol,
        together(benchmark.seq_names),
        sequences,
        {attribute: together(members[attribute]) for attribute in sorted(members)},
        {s.name: _first_run(overlaps[s.name], s, _counted(benchmark.name, s, protocol)) for s in benchmark.sequences},
        _speed(benchmark, files),
        benchmark.skipped,
        _long_term(benchmark, files),
    )


def _long_term(benchmark: Benchmark, files: ResultFiles) -> LongTerm | None:
    """Long-term measures of the first runs; None if no target of the benchmark is ever absent."""
    runs = []
    for sequence in benchmark.sequences:
        truth = sequence.boxes
        with np.errstate(invalid="ignore"):
            present = sequence.present & (truth[:, 2:] > 0).all(axis=1)
        boxes = np.nan_to_num(files.read(sequence))
        boxes = np.vstack([boxes, np.zeros((len(truth) - len(boxes), 4))])
        confidences = None if files.records is None else read_confidences(files.records.parent, sequence)
        runs.append(long_term_run(truth, present, boxes, confidences, sequence.size))
    return None if all(run.present.all() for run in runs) else measure_long_term(runs)


def _counted(benchmark: str, sequence: VideoSequence, protocol: str) -> VideoSequence:
    """The frames that a protocol has: the GOT-10k toolkit takes some that trees of trackers leave out."""
    omitted = 0 if protocol == "got10k" else frames_omitted(benchmark, sequence)
    return sequence.part(omitted, len(sequence)) if omitted else sequence


def _first_run(overlaps: np.ndarray, sequence: VideoSequence, counted: VideoSequence) -> np.ndarray:
    """The first run's overlaps (len(sequence),), NaN in frames that do not count."""
    return np.concatenate([np.full(len(sequence) - len(counted), np.nan), overlaps[: len(counted)]])


def _evaluate_run(
    benchmark: Benchmark, files: ResultFiles, protocol: str, sequence: VideoSequence, run: int
) -> tuple[Score, np.ndarray]:
    path = files.boxes_path(sequence.name, run)
    boxes = files.read(sequence, run)
    origin = np.array([benchmark.origin, benchmark.origin, 0, 0])
    try:
        return evaluate(
            protocol, benchmark.name, boxes + origin, sequence.boxes + origin, sequence.present, sequence.size
        )
    except InputError as error:
        raise InputError(f"{path} by {protocol}: {error}") from error


def check_scorable(benchmark: Benchmark, protocol: str) -> None:
    """Raise InputError if no results on this benchmark could be scored by this protocol, before they are made."""
    check_protocol(protocol)
    shown = f"{benchmark.name} {benchmark.subset}".strip()
    if not benchmark.sequences:
        raise InputError(f"{shown}: no sequences, so there is nothing to score")
    for sequence in benchmark.sequences:
        if not sequence.scorable:
            raise InputError(
                f"{shown}: cannot be scored here, only the first box of {sequence.name} is public; pack the results"
                " with `lorat submit` for the benchmark's server"
            )
        if len(sequence) == 1:
            raise InputError(
                f"{shown}: {sequence.name} has one frame only, whose box is given, so nothing can be scored; leave it"
                " out"
            )


def _speed(benchmark: Benchmark, files: ResultFiles) -> float | None:
    """Frames/s as the toolkit's experiments have it: mean of 1 / time over frames, then over sequences.

    On GOT-10k over the frames of all sequences.
    """
    rates = []
    for name in benchmark.seq_names:
        times = files.read_times(name)
        if times is not None:
            rates.append(1 / times[times > 0])
    if not rates:
        return None
    return float(np.mean(np.concatenate(rates) if benchmark.name == "got10k" else [rate.mean() for rate in rates]))


ON_TARGET = 0.5  # a tracker with more overlap than this is on its target


@dataclass(frozen=True, eq=False)
class Reliability:
    """How well scores tell frames on target (overlap above 0.5) from lost ones.

    Fields: frames, how many count; share, of them on target; auroc, probability that a frame on target has a higher
    score than a lost one, ties counting half, None unless there are both; error, expected calibration error: mean over
    the frames of |share on target - mean score| of the frame's bin; score_on_target and score_lost, mean scores, None
    where there is no such frame; counts, (bins,) int64 frames by score; bin_scores and bin_shares, (bins,) float64 mean
    score and share on target, NaN in an empty bin.
    """

    frames: int
    share: float
    auroc: float | None
    error: float
    score_on_target: float | None
    score_lost: float | None
    counts: np.ndarray
    bin_scores: np.ndarray
    bin_shares: np.ndarray


def measure_reliability(
    overlaps: Mapping[str, np.ndarray], confidences: Mapping[str, np.ndarray], bins: int = 10
) -> Reliability | None:
    """Measure how reliable scores are, over the frames of all sequences together.

    Args:
        overlaps: by sequence (N,) IoU with the truth, NaN where a frame does not count.
        confidences: by sequence (N,) scores in [0, 1]; sequences without are left out.
        bins: equal ones of the score, for the calibration.
    Returns None if no frame counts. First frames never do: their box was given.
    Source of the calibration error: Guo et al., ICML 2017 (arXiv 1706.04599).
    """
    names = [name for name in overlaps if name in confidences]
    if not names:
        return None
    overlap = np.concatenate([overlaps[name][1:] for name in names])
    score = np.concatenate([confidences[name][1:] for name in names])
    counted = np.isfinite(overlap) & np.isfinite(score)
    if not counted.any():
        return None
    score, good = score[counted], overlap[counted] > ON_TARGET
    number = np.clip((score * bins).astype(np.int64), 0, bins - 1)
    counts = np.bincount(number, minlength=bins)
    with np.errstate(invalid="ignore"):  # empty bins become NaN
        bin_scores = np.bincount(number, score, bins) / counts
        bin_shares = np.bincount(number, good, bins) / counts
    return Reliability(
        frames=len(score),
        share=float(good.mean()),
        auroc=auroc(score, good),
        error=float(np.nansum(counts * np.abs(bin_shares - bin_scores)) / len(score)),
        score_on_target=float(score[good].mean()) if good.any() else None,
        score_lost=float(score[~good].mean()) if not good.all() else None,
        counts=counts,
        bin_scores=bin_scores,
        bin_shares=bin_shares,
    )
