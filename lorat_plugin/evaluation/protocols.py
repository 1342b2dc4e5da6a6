"""Metrics of one-pass evaluation, by the rules of those who publish numbers. A number is told with its protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lorat_plugin.boxes import iou, xywh_to_xyxy
from lorat_plugin.errors import InputError
from lorat_plugin.score_rows import PROTOCOLS

PADDING = ("pytracking", "stark")  # count frames without a prediction as failures; on LaSOT they refuse such results
OVERLAPS = np.linspace(0, 1, 21)  # thresholds of success; GOT-10k has 101 of them
PIXELS = np.arange(51)  # of precision
SIZES = np.arange(51) / 100  # of normalised precision, in widths and heights of the target

_FLAGGED = ("lasot", "lasot_ext", "vasttrack")  # sets whose flags of visibility count in the tracker trees
_UAV = ("uav123", "uav20l")


@dataclass(frozen=True, eq=False)
class Score:
    """How well a tracker does on one sequence, or on many together, by one protocol.

    Fields: success, share of frames whose overlap passes each overlap threshold; precision, share whose centre error is
    at most 0 ... 50 pixels; normalized_precision, the same at 0 ... 0.5 target sizes; auc, mean of `success`;
    precision_score, at 20 pixels; normalized_precision_score, at 0.2; ao, mean overlap, and sr50, sr75, success at 0.5
    and 0.75, as the protocol counts them; frames, how many counted. A measure that the protocol does not have is None.
    """

    success: np.ndarray
    precision: np.ndarray | None
    normalized_precision: np.ndarray | None
    auc: float
    precision_score: float | None
    normalized_precision_score: float | None
    ao: float | None
    sr50: float
    sr75: float
    frames: int


def check_protocol(protocol: str) -> None:
    """Raise InputError if there is no protocol of that name, or what it needs is not installed."""
    if protocol not in PROTOCOLS:
        raise InputError(f"unknown protocol '{protocol}': use one of {', '.join(PROTOCOLS)}")
    if protocol == "got10k":
        try:
            import got10k.utils.metrics  # noqa: F401
        except ImportError as error:
            raise InputError(f"the protocol got10k needs the GOT-10k toolkit ({error}): pip install got10k") from error


def evaluate(
    protocol: str,
    benchmark: str,
    predicted: np.ndarray,
    truth: np.ndarray,
    visible: np.ndarray,
    frame_size: tuple[int, int],
    *,
    all_four: bool = False,
    valid_only: bool | None = None,
) -> tuple[Score, np.ndarray]:
    """Score one sequence.

    Args:
        protocol: a key of `PROTOCOLS`.
        benchmark: name of the data set as users write it, such as "lasot"; some rules are for some sets only.
        predicted: (N, 4) float64 x, y, w, h in pixels as the data set counts them; fewer rows for those in `PADDING`.
        truth: (N, 4) float64, the same; NaN or without area where there is no box.
        visible: (N,) bool, the data set's flags; on GOT-10k where `cover` is above 0.
        frame_size: (width, height) in pixels.
        all_four: lorat, stark and pytracking: a box is valid if x, y, w, h are all positive, not w, h alone.
        valid_only: the same three: divide by the number of valid frames, or of all; None for the protocol's own way.
            Normalised precision may then pass 1, as frames that are not valid still count as hits in it.
    Returns the score and (N,) float64 overlaps, NaN where the protocol has none. Raises InputError for an unknown
    protocol, for boxes or a number of them that the protocol refuses, or if no frame can be scored.
    Sources: got10k.utils.metrics and got10k.experiments (PyPI 0.1.3); analysis/extract_results.py of pytracking and
    STARK; the two evaluators of official LoRAT.
    """
    check_protocol(protocol)
    predicted, truth = np.array(predicted, dtype=np.float64), np.array(truth, dtype=np.float64)
    visible = np.asarray(visible, dtype=bool)
    if len(predicted) > len(truth) or (
        len(predicted) < len(truth) and (protocol not in PADDING or benchmark == "lasot")
    ):
        raise InputError(
            f"{len(predicted)} predictions for {len(truth)} frames; track again, or leave the sequence out"
        )
    with np.errstate(invalid="ignore", divide="ignore"):
        if protocol == "got10k":
            return _toolkit(benchmark, predicted, truth, visible, frame_size)
        if protocol == "lorat_plain":
            return _plain(predicted, truth, visible)
        if protocol in PADDING:
            predicted = _repaired(benchmark, predicted, truth)
        if valid_only is None:
            valid_only = protocol == "pytracking" and benchmark not in ("lasot", *_UAV)
        return _robust(protocol, benchmark, predicted, truth, visible, all_four, valid_only)


def combine(protocol: str, benchmark: str, scores: Sequence[Score], overlaps: Sequence[np.ndarray]) -> Score:
    """Score of the results of `evaluate` together: their mean, or of all frames pooled for got10k on GOT-10k."""
    if protocol == benchmark == "got10k":
        pooled = np.concatenate(overlaps)
        return _pooled(pooled[~np.isnan(pooled)])
    return _score(
        _mean([score.success for score in scores]),
        _mean([score.precision for score in scores]),
        _mean([score.normalized_precision for score in scores]),
        _mean([score.ao for score in scores]),
        sum(score.frames for score in scores),
    )


def _toolkit(
    benchmark: str, predicted: np.ndarray, truth: np.ndarray, visible: np.ndarray, frame_size: tuple[int, int]
) -> tuple[Score, np.ndarray]:
    from got10k.utils.metrics import center_error, rect_iou

    _refuse(~np.isfinite(predicted).all(axis=1), predicted, "is no box; the toolkit's scores would be NaN")
    overlaps = np.full(len(truth), np.nan)
    if benchmark == "got10k":
        counted = visible & (np.arange(len(truth)) > 0)
        _need(counted)
        overlaps[counted] = rect_iou(predicted[counted], truth[counted], bound=frame_size)
        return _pooled(overlaps[counted]), overlaps
    predicted[0] = truth[0]
    counted = ~np.isnan(truth).any(axis=1)
    _need(counted)
    overlaps[counted] = rect_iou(predicted[counted], truth[counted])
    precision = (center_error(predicted[counted], truth[counted])[:, None] <= PIXELS).mean(axis=0)
    success = (overlaps[counted, None] > OVERLAPS).mean(axis=0)
    return _score(success, precision, None, None, int(counted.sum())), overlaps


def _pooled(overlaps: np.ndarray) -> Score:
    success = (overlaps[:, None] > np.linspace(0, 1, 101)).mean(axis=0)
    return _score(success, None, None, np.mean(overlaps), len(overlaps))


def _repaired(benchmark: str, predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Predictions as pytracking and STARK change them before they score."""
    bad = ~np.isfinite(predicted).all(axis=1) | (predicted[:, 2:] < 0).any(axis=1)
    _refuse(bad, predicted, "is no box, and this protocol refuses it; track again, or score by lorat")
    unknown = np.isnan(truth).any(axis=1)
    rows = len(predicted)
    if benchmark not in _UAV:
        advice = "is annotated, and this protocol takes NaN on UAV123 only; score by lorat, lorat_plain or got10k"
        _refuse(unknown, truth, advice)
    for frame in np.flatnonzero((predicted[:, 2:] == 0).any(axis=1) & ~unknown[:rows]):
        predicted[frame] = predicted[max(frame - 1, 0)]
    predicted[0] = truth[0]
    return np.vstack([predicted, np.zeros((len(truth) - rows, 4))])


def _robust(
    protocol: str,
    benchmark: str,
    predicted: np.ndarray,
    truth: np.ndarray,
    visible: np.ndarray,
    all_four: bool,
    valid_only: bool,
) -> tuple[Score, np.ndarray]:
    absent = ~visible & (benchmark in _FLAGGED)
    valid = (truth[:, 0 if all_four else 2 :] > 0).all(axis=1) & ~absent
    _need(valid)
    # -1 fails every overlap threshold, but as an error it passes every one: published numbers have this in them
    overlaps = np.where(valid, _pixel_overlaps(predicted, truth), -1.0)
    ours, theirs, size = _centres(predicted, 1), _centres(truth, 1), truth[:, 2:]
    errors = np.where(valid, np.linalg.norm(ours - theirs, axis=1), -1.0 if benchmark in _UAV else np.inf)
    relative = np.where(valid, np.linalg.norm(ours / size - theirs / size, axis=1), -1.0)
    if benchmark == "lasot" or (benchmark == "vasttrack" and protocol == "lorat"):
        errors[absent] = relative[absent] = np.inf
    frames = int(valid.sum()) if valid_only else len(truth)
    success = (overlaps[:, None] > OVERLAPS).sum(axis=0) / frames
    precision, normalized = (errors[:, None] <= PIXELS).sum(axis=0), (relative[:, None] <= SIZES).sum(axis=0)
    ao = None if protocol == "lorat" else overlaps[valid].mean()
    score = _score(success, precision / frames, normalized / frames, ao, frames)
    return score, np.where(valid, np.nan_to_num(overlaps), np.nan)


def _plain(predicted: np.ndarray, truth: np.ndarray, visible: np.ndarray) -> tuple[Score, np.ndarray]:
    counted = (truth[:, 2:] > 0).all(axis=1) & visible
    _need(counted)
    usable = np.isfinite(predicted).all(axis=1) & (predicted[:, 2:] > 0).all(axis=1)
    overlaps = np.where(usable, iou(xywh_to_xyxy(predicted), xywh_to_xyxy(truth)), 0.0)
    ours, theirs, size = _centres(predicted, 0), _centres(truth, 0), truth[:, 2:]
    errors = np.where(usable, np.linalg.norm(ours - theirs, axis=1), np.inf)[counted]
    relative = np.where(usable, np.linalg.norm(ours / size - theirs / size, axis=1), np.inf)[counted]
    found = overlaps[counted]
    success = (np.where(found > 0, found, -1.0)[:, None] >= OVERLAPS).mean(axis=0)
    precision = (errors[:, None] <= PIXELS).mean(axis=0)
    normalized = (relative[:, None] <= np.linspace(0, 0.5, 51)).mean(axis=0)
    score = _score(success, precision, normalized, found.mean(), int(counted.sum()))
    return score, np.where(counted, overlaps, np.nan)


def _score(
    success: np.ndarray,
    precision: np.ndarray | None,
    normalized: np.ndarray | None,
    ao: np.floating | None,
    frames: int,
) -> Score:
    last = len(success) - 1  # the threshold 1
    return Score(
        success,
        precision,
        normalized,
        auc=float(success.mean()),
        precision_score=None if precision is None else float(precision[20]),
        normalized_precision_score=None if normalized is None else float(normalized[20]),
        ao=None if ao is None else float(ao),
        sr50=float(success[last // 2]),
        sr75=float(success[last * 3 // 4]),
        frames=frames,
    )


def _mean(values: Sequence[Any]) -> Any:
    return None if any(value is None for value in values) else np.mean(values, axis=0)


def _pixel_overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU of xywh boxes by their last pixels. Only rounding tells it from `iou`, and that decides at threshold 1."""
    first = np.maximum(a[:, :2], b[:, :2])
    last = np.minimum(a[:, :2] + a[:, 2:] - 1, b[:, :2] + b[:, 2:] - 1)
    shared = (last - first + 1).clip(0).prod(axis=1)
    return shared / (a[:, 2:].prod(axis=1) + b[:, 2:].prod(axis=1) - shared)


def _centres(boxes: np.ndarray, pixel: int) -> np.ndarray:
    return boxes[:, :2] + (boxes[:, 2:] - pixel) / 2


def _refuse(bad: np.ndarray, boxes: np.ndarray, reason: str) -> None:
    if bad.any():
        frame = int(np.argmax(bad))
        shown = ",".join(f"{value:g}" for value in boxes[frame])
        raise InputError(f"frame {frame + 1}: {shown} {reason}")


def _need(counted: np.ndarray) -> None:
    if not counted.any():
        raise InputError("no frame has a box that this protocol counts; leave the sequence out")
