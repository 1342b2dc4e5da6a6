"""From result files to scores: by sequence, by attribute and overall; long-term measures; reliability of confidences.

Long-term measures are for targets that leave and return: VOT's (Lukezic et al., Now you see me, arXiv 1804.07056),
OxUvA's (Valmadre et al., Long-term Tracking in the Wild, ECCV 2018), and how a tracker behaves while lost. A frame is
reported absent if its confidence is 0, as evaluation records it; a tracker without confidences reports none. First
frames do not count: their box is given.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lorat_plugin.boxes import area, auroc, clip_to_image, iou, xywh_to_xyxy
from lorat_plugin.datasets.sequences import VideoSequence
from lorat_plugin.errors import InputError
from lorat_plugin.evaluation.benchmarks import Benchmark, frames_omitted
from lorat_plugin.evaluation.protocols import Score, check_protocol, combine, evaluate
from lorat_plugin.evaluation.results import ResultFiles, read_confidences

ON_TARGET = 0.5  # IoU
SOON = 30  # frames
LONG_TERM = {  # field: heading
    "f_score": "F",
    "precision": "Pr",
    "recall": "Re",
    "tpr": "TPR",
    "tnr": "TNR",
    "geometric_mean": "GM",
    "max_geometric_mean": "max GM",
    "found_soon": f"found in {SOON}",
    "wait": "wait",
    "largest": "largest",
}


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

    By the benchmark's own protocol if none is named. Raises InputError, which names the file, if the truth is not
    public, if a sequence has one frame only, if a result file is missing or damaged, or for boxes that the protocol
    refuses.
    """
    protocol = protocol or benchmark.protocol
    check_scorable(benchmark, protocol)
    sequences: dict[str, Score] = {}
    first_runs: dict[str, np.ndarray] = {}
    overlaps: dict[str, np.ndarray] = {}  # of all runs, one after the other
    members: dict[str, list[str]] = {}
    for sequence in benchmark.sequences:
        # the GOT-10k toolkit takes some frames that trees of trackers leave out
        omitted = 0 if protocol == "got10k" else frames_omitted(benchmark.name, sequence)
        counted = sequence.part(omitted, len(sequence)) if omitted else sequence
        runs = [_evaluate_run(benchmark, files, protocol, counted, run) for run in files.repetitions(sequence.name)]
        sequences[sequence.name] = combine(protocol, benchmark.name, *zip(*runs, strict=True))
        overlaps[sequence.name] = np.concatenate([found for _, found in runs])
        left_out = np.full(len(sequence) - len(counted), np.nan)
        first_runs[sequence.name] = np.concatenate([left_out, runs[0][1]])
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
        first_runs,
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
    """How reliable confidences, by sequence (N,) in [0, 1], are, over the frames of all sequences together.

    `overlaps` are (N,) IoU with the truth, NaN where a frame does not count; first frames never do. Returns None if no
    frame counts. Source of the calibration error: Guo et al., ICML 2017 (arXiv 1706.04599).
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


class LongTermRun(NamedTuple):
    """One sequence behind its first frame; all (N,): overlaps are 0 and areas NaN where they cannot be measured."""

    present: np.ndarray  # bool
    overlaps: np.ndarray  # IoU with the truth within the frame
    confidences: np.ndarray
    areas: np.ndarray  # of the box, relative to that of the last true box


@dataclass(frozen=True)
class LongTerm:
    """How a tracker does where targets leave and return.

    Fields: f_score, the greatest over the threshold of confidence, of precision and recall averaged over sequences;
    precision and recall there; tpr, share of present frames that are reported so and on target (IoU at least 0.5); tnr,
    share of absent frames that are reported so; geometric_mean of both; max_geometric_mean, the greatest if a share of
    the frames were reported absent at random; returns, number of returns; found_soon, share of them after which the
    target is found within 30 frames; wait, median number of frames until it is, None if never; largest area of the box
    while the target is absent, relative to the last true box.
    """

    f_score: float
    precision: float
    recall: float
    tpr: float
    tnr: float
    geometric_mean: float
    max_geometric_mean: float
    returns: int
    found_soon: float | None
    wait: float | None
    largest: float


def long_term_run(
    truth: np.ndarray, present: np.ndarray, boxes: np.ndarray, confidences: np.ndarray | None, size: tuple[int, int]
) -> LongTermRun:
    """A sequence's run, from (N, 4) float64 x, y, w, h in pixels counted from 0; truth counts where it is `present`.

    `confidences` are (N,) in [0, 1], None for a tracker that is always sure; `size` is (width, height), pixels.
    """
    inside = clip_to_image(xywh_to_xyxy(np.where(present[:, None], truth, 0.0)), size[::-1])
    found = clip_to_image(xywh_to_xyxy(boxes), size[::-1])
    last = np.maximum.accumulate(np.where(present, np.arange(len(truth)), 0))  # frame of the last true box
    with np.errstate(divide="ignore", invalid="ignore"):
        areas = area(found) / area(inside)[last]
    sure = np.ones(len(truth)) if confidences is None else confidences
    return LongTermRun(present[1:], np.where(present, iou(found, inside), 0.0)[1:], sure[1:], areas[1:])


def measure_long_term(runs: Sequence[LongTermRun]) -> LongTerm:
    """Measure the runs of all sequences together; at least one has an absent frame."""
    thresholds = np.unique(np.concatenate([run.confidences for run in runs]))
    precision, recall = np.mean([precision_recall(run, thresholds) for run in runs], axis=0)
    f_scores = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    best = int(f_scores.argmax())
    present, overlaps, confidences, areas = (np.concatenate(part) for part in zip(*runs, strict=True))
    reported = confidences > 0
    tpr = float((reported & (overlaps >= ON_TARGET))[present].mean()) if present.any() else 0.0
    tnr = float((~reported)[~present].mean())
    shares = np.linspace(0, 1, 1001)
    waits = [wait for run in runs for wait in _waits(run)]
    found = [wait for wait in waits if wait is not None]
    return LongTerm(
        float(f_scores[best]),
        float(precision[best]),
        float(recall[best]),
        tpr,
        tnr,
        float(np.sqrt(tpr * tnr)),
        float(np.sqrt((1 - shares) * tpr * ((1 - shares) * tnr + shares)).max()),
        len(waits),
        sum(wait < SOON for wait in found) / len(waits) if waits else None,
        float(np.median(found)) if found else None,
        float(np.nanmax(areas[~present])),
    )


def precision_recall(run: LongTermRun, thresholds: np.ndarray) -> np.ndarray:
    """Precision and recall (2, T) of the frames whose confidence is at least each of T ascending thresholds.

    Precision is the mean overlap of these frames, 1 if there is none; recall its sum over the number of present frames.
    """
    order = np.argsort(run.confidences)
    sums = np.append(np.cumsum(run.overlaps[order][::-1])[::-1], 0.0)  # of the frames from each on
    first = np.searchsorted(run.confidences[order], thresholds)
    counts = len(order) - first
    precision = np.where(counts > 0, sums[first] / np.maximum(counts, 1), 1.0)
    return np.stack([precision, sums[first] / max(int(run.present.sum()), 1)])


def _waits(run: LongTermRun) -> list[int | None]:
    """For each return the frames until the target is found, None if it is not while it stays."""
    hits = (run.confidences > 0) & (run.overlaps >= ON_TARGET)
    edges = np.diff(run.present.astype(np.int8), append=0)
    starts = np.flatnonzero(edges[:-1] == 1) + 1
    waits: list[int | None] = []
    for start in starts:
        ends = np.flatnonzero(~run.present[start:])
        stay = hits[start : start + ends[0]] if len(ends) else hits[start:]
        waits.append(int(stay.argmax()) if stay.any() else None)
    return waits
