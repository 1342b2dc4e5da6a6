"""Measures for targets that leave and return: VOT's long-term measures, OxUvA's, and how a tracker behaves while lost.

A frame is reported absent if its confidence is 0, as evaluation records it; a tracker without confidences reports none.
First frames do not count: their box is given. Sources: Lukezic et al., Now you see me, arXiv 1804.07056 (precision,
recall, F); Valmadre et al., Long-term Tracking in the Wild, ECCV 2018 (TPR, TNR and their geometric mean).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lorat_plugin.boxes import area, clip_to_image, iou, xywh_to_xyxy

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
    """A sequence's run.

    Args:
        truth, boxes: (N, 4) float64 x, y, w, h in pixels counted from 0; the truth counts where it is `present`.
        present: (N,) bool.
        confidences: (N,) in [0, 1]; None for a tracker that is always sure.
        size: (width, height) of the frames, pixels.
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
