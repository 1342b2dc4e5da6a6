"""Is the tracker's score a signal that the target is lost? Ranking (AUROC) and calibration of score against overlap."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

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


def auroc(score: np.ndarray, positive: np.ndarray) -> float | None:
    """Area under the ROC curve by the rank statistic of Mann and Whitney; ties count half.

    Args:
        score: (N,) finite.
        positive: (N,) bool.
    Returns None unless there are both kinds.
    """
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if not positives or not negatives:
        return None
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]  # from 1; equal scores share their mean rank
    return float((ranks[positive].sum() - positives * (positives + 1) / 2) / (positives * negatives))
