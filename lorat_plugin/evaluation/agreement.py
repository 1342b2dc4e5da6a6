"""How far two runs over the same frames agree: the proof that a checkpoint reproduces someone's raw results."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from lorat_plugin.boxes import iou, xywh_to_xyxy
from lorat_plugin.errors import InputError
from lorat_plugin.evaluation.benchmarks import Benchmark
from lorat_plugin.evaluation.raw_results import start_notes
from lorat_plugin.evaluation.results import ResultFiles

DIVERGED = 0.5  # IoU below which two runs no longer follow the same thing


@dataclass(frozen=True)
class RunAgreement:
    """Agreement of two runs on the frames of one sequence, or of all together; the first frame counts.

    Fields: frames, how many; mean_iou; above_99 and above_90, shares of frames with IoU > 0.99 and > 0.9;
    first_divergence, number of the first frame (from 0) with IoU < 0.5, None if there is none; corner, mean absolute
    difference of the four edges in pixels; auc_difference, ours less theirs by the benchmark's protocol, None if the
    truth is not public.
    """

    frames: int
    mean_iou: float
    above_99: float
    above_90: float
    first_divergence: int | None
    corner: float
    auc_difference: float | None = None


@dataclass(frozen=True, eq=False)
class Agreement:
    """Two runs over a benchmark.

    Fields: ours, theirs, their names; overall, over all frames together; sequences, by name; notes, sentences about
    the files.
    """

    ours: str
    theirs: str
    overall: RunAgreement
    sequences: dict[str, RunAgreement]
    notes: list[str]


def compare_runs(benchmark: Benchmark, ours: ResultFiles, theirs: ResultFiles) -> Agreement:
    """Compare two runs frame by frame, on the sequences that both have.

    IoU is taken between the boxes as the files have them; two boxes without area overlap by 1 if they are the same
    box, and a NaN overlaps with nothing.

    Raises InputError if a file is damaged, has not a row for every frame, or there is no sequence in common.
    """
    both = [sequence for sequence in benchmark.sequences if ours.has(sequence.name) and theirs.has(sequence.name)]
    if not both:
        raise InputError(f"{theirs.folder}: has no sequence of {benchmark.name} in common with {ours.folder}")
    common = replace(benchmark, sequences=tuple(both))
    mine = {sequence.name: ours.read(sequence) for sequence in both}
    other = {sequence.name: theirs.read(sequence) for sequence in both}
    notes = [
        f"{who} files hold whole pixels: each edge may differ by one for it."
        for who, run in (("Our", mine), ("Their", other))
        if all(np.array_equal(boxes, np.trunc(boxes), equal_nan=True) for boxes in run.values())
    ]
    if len(both) < len(benchmark):
        left = [name for name in benchmark.seq_names if name not in mine]
        notes.append(f"{len(left)} of {len(benchmark)} sequences have results of one run only, first {left[0]}")
    notes += start_notes(common, ours) + start_notes(common, theirs)
    differences: dict[str, float | None] = {name: None for name in ("", *mine)}
    if common.scorable:
        from lorat_plugin.evaluation.scoring import score_tracker

        try:
            mine_score, other_score = score_tracker(common, ours), score_tracker(common, theirs)
            differences[""] = mine_score.overall.auc - other_score.overall.auc
            differences |= {name: mine_score.sequences[name].auc - other_score.sequences[name].auc for name in mine}
        except InputError as error:  # the protocol refuses a box or a sequence; the runs can be compared all the same
            notes.append(f"No difference of AUC: {error}")
    return Agreement(
        ours.tracker,
        str(theirs.folder),
        replace(
            _figures(np.concatenate([*mine.values()]), np.concatenate([*other.values()]), differences[""]),
            first_divergence=None,
        ),
        {name: _figures(mine[name], other[name], differences[name]) for name in mine},
        notes,
    )


def _figures(ours: np.ndarray, theirs: np.ndarray, auc_difference: float | None = None) -> RunAgreement:
    same = (ours == theirs).all(axis=1)  # without area, too
    values = np.where(same, 1.0, np.nan_to_num(iou(xywh_to_xyxy(ours), xywh_to_xyxy(theirs))))
    corners = np.abs(xywh_to_xyxy(ours) - xywh_to_xyxy(theirs))
    diverged = np.flatnonzero(values < DIVERGED)
    return RunAgreement(
        len(values),
        float(values.mean()),
        float((values > 0.99).mean()),
        float((values > 0.9).mean()),
        int(diverged[0]) if len(diverged) else None,
        float(np.nanmean(corners)),
        auc_difference,
    )


def show_agreement(agreement: Agreement) -> None:
    """Print the figures of every sequence and of all frames, and the notes, to stdout."""
    from lorat_plugin.evaluation.tables import make_table, wide_console

    console, rows = wide_console(), []
    headings = ("sequence", "frames", "mean IoU", "> 0.99", "> 0.9", "edges [px]", "AUC less theirs", "diverge at")
    for name, row in [*agreement.sequences.items(), ("all frames", agreement.overall)]:
        values = (row.mean_iou, row.above_99, row.above_90, row.corner, row.auc_difference)
        shown = ["-" if value is None else f"{value:.4f}" for value in values]
        rows.append([name, str(row.frames), *shown, "-" if row.first_divergence is None else str(row.first_divergence)])
    console.print(make_table(headings, rows, f"{agreement.ours} against {agreement.theirs}"))
    for note in agreement.notes:
        console.print(note, soft_wrap=True, highlight=False)
