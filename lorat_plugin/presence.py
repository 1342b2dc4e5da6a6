"""Presence of a target: what its scores and colours say of it, and where it is searched for while it is absent.

A score is low if it is below the rule's `absent_below`. A target is uncertain for `PATIENCE` low frames in a row, and
its box follows the network; from the next one on it is absent, and its box goes back to where it was before them. It
is tracked again by a score of `found_above` on a box with the colours of its first frame, and stays uncertain
for `TRIAL` more frames that must pass the same test; one failure makes it absent again.

Pure: numbers and pixels, no network. `tracking.step` alone uses it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Literal

import cv2
import numpy as np

from lorat_plugin.boxes import clip_to_image
from lorat_plugin.errors import InputError

Status = Literal["tracking", "uncertain", "absent"]

PATIENCE = 2  # frames in a row with a low score before a target counts as absent
TRIAL = 3  # frames after an absence in which the target is verified
GROWTH, LARGEST = 1.05, 2.0  # of an absent target's search region: area factor for each frame, and in all
SWELL = 1.5  # most that a side of an uncertain box is reported to have grown, as a factor
ALIKE = 0.3  # least Bhattacharyya coefficient of the colours of a target that returns
STRIDE = 0.6  # of the sweep's regions, in their side
USUAL, FOUND = 0.45, 0.55  # `absent_below` and least `found_above` of weights that store none
KEY = "presence"  # in the header of a weights file


def check_threshold(absent_below: float) -> float:
    """The threshold itself if it is in [0, 1); else InputError says what to do."""
    if isinstance(absent_below, str) or not 0 <= absent_below < 1:
        raise InputError(f"absent_below is {absent_below!r}: give a score from 0 (never absent) to below 1, e.g. 0.5")
    return absent_below


@dataclass(frozen=True)
class PresenceRule:
    """Thresholds of a model's score, chosen on validation clips and stored with its weights.

    Fields: absent_below, in [0, 1), 0 means that no target is ever absent; found_above, at least that; calibration,
    (slope, offset): sigmoid(slope * logit(score) + offset) is the probability that the box is on target (IoU > 0.5).
    """

    absent_below: float = 0.0
    found_above: float = 0.0
    calibration: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        """Raise InputError for a threshold outside [0, 1)."""
        check_threshold(self.absent_below)

    def below(self, threshold: float | None) -> PresenceRule:
        """A rule with another `absent_below`; None for the stored one. What is not stored is `USUAL` and `FOUND`."""
        chosen = (self.absent_below or USUAL) if threshold is None else threshold
        return replace(self, absent_below=chosen, found_above=max(chosen, self.found_above or FOUND))

    def probability(self, score: float) -> float | None:
        """Calibrated probability that the box of a score is on target; None without a calibration."""
        if self.calibration is None:
            return None
        slope, offset = self.calibration
        score = min(max(score, 1e-6), 1 - 1e-6)
        return 1 / (1 + math.exp(-slope * math.log(score / (1 - score)) - offset))

    def header(self) -> dict[str, str]:
        """For the header of a weights file."""
        return {KEY: json.dumps(asdict(self))} if self != PresenceRule() else {}

    @classmethod
    def from_header(cls, header: Mapping[str, str]) -> PresenceRule:
        """The rule in a weights file's header, or one that stores nothing. Raises InputError if it is damaged."""
        try:
            stored = json.loads(header.get(KEY, "{}"))
            pair = stored.get("calibration")
            return cls(
                float(stored.get("absent_below", 0)),
                float(stored.get("found_above", 0)),
                None if pair is None else (float(pair[0]), float(pair[1])),
            )
        except (ValueError, TypeError, AttributeError, IndexError, KeyError) as error:
            raise InputError(
                f"the header's entry {KEY} is damaged ({error}): copy or download the file again"
            ) from error


NEVER_ABSENT = PresenceRule()


@dataclass(frozen=True, eq=False)
class Presence:
    """What is known of one target's presence after a frame."""

    believed: np.ndarray  # (4,) float64 xyxy, frame pixels: the box before the low scores
    colours: np.ndarray  # of the target in its first frame, see `colours`
    status: Status = "tracking"
    low: int = 0  # frames in a row that did not pass
    trial: int = 0  # frames in which a target that returned is still to be verified

    def observe(
        self, rule: PresenceRule, frame: np.ndarray, before: np.ndarray, box: np.ndarray, score: float
    ) -> Presence:
        """Presence after one more frame.

        Args:
            rule: thresholds.
            frame: (H, W, 3) uint8 RGB.
            before: (4,) xyxy, the target's box in the frame before.
            box: (4,) xyxy, the candidate, frame pixels.
            score: its score, in [0, 1].
        """
        absent = self.status == "absent"
        believed = before if self.status == "tracking" else self.believed
        if not absent and not self.trial:
            passed = score >= rule.absent_below
        else:
            passed = score >= rule.found_above
            passed = passed and bool(np.sqrt(self.colours * colours(frame, box)).sum() >= ALIKE)
        if passed:
            trial = TRIAL if absent else max(self.trial - 1, 0)
            return replace(self, believed=believed, status="uncertain" if trial else "tracking", low=0, trial=trial)
        low = PATIENCE + 1 if self.trial else self.low + 1
        return replace(self, believed=believed, status="absent" if low > PATIENCE else "uncertain", low=low, trial=0)

    @property
    def growth(self) -> float:
        """Factor of the search region's area factor, from 1 to `LARGEST`."""
        return float(min(GROWTH ** min(max(self.low - PATIENCE, 0), 99), LARGEST))  # 99: no overflow

    def limited(self, box: np.ndarray) -> np.ndarray:
        """A box (4,) xyxy to report: while uncertain, its sides are at most `SWELL` times the believed ones."""
        if self.status != "uncertain":
            return box
        half = np.minimum(box[2:] - box[:2], (self.believed[2:] - self.believed[:2]) * SWELL) / 2
        centre = (box[:2] + box[2:]) / 2
        return np.concatenate([centre - half, centre + half])

    def sweep(self, side: float, frame_size: tuple[int, int]) -> np.ndarray | None:
        """Centre (2,) of this frame's region of the sweep, x, y; None while the growing region is not at its largest.

        The frame of (height, width) pixels is covered by regions of `side` pixels, the nearest to the believed box
        first, over and over.
        """
        turn = self.low - PATIENCE - math.ceil(math.log(LARGEST) / math.log(GROWTH))
        if turn < 0:
            return None
        axes = []
        for extent in frame_size[::-1]:
            count = max(math.ceil((extent - side) / (STRIDE * side)) + 1, 1)
            axes.append(np.linspace(min(side, extent) / 2, extent - min(side, extent) / 2, count))
        centres = np.stack(np.meshgrid(*axes), -1).reshape(-1, 2)
        distance = np.linalg.norm(centres - (self.believed[:2] + self.believed[2:]) / 2, axis=1)
        return centres[np.argsort(distance, kind="stable")[turn % len(centres)]]


def colours(frame: np.ndarray, box_xyxy: np.ndarray) -> np.ndarray:
    """Histogram (384,) float64 of a box's colours in Lab, its middle weighing most; sum 1, or 0 for an empty box.

    Source of the weights: Comaniciu et al., Kernel-Based Object Tracking, PAMI 2003 (Epanechnikov's kernel).
    """
    x1, y1, x2, y2 = clip_to_image(np.round(np.nan_to_num(box_xyxy)), frame.shape[:2]).astype(int).tolist()
    if x2 <= x1 or y2 <= y1:
        return np.zeros(384)
    width, height = max(1.0, box_xyxy[2] - box_xyxy[0]), max(1.0, box_xyxy[3] - box_xyxy[1])
    across = (2 * (np.arange(x1, x2) + 0.5 - box_xyxy[0]) / width - 1) ** 2
    down = (2 * (np.arange(y1, y2) + 0.5 - box_xyxy[1]) / height - 1) ** 2
    weights = (1 - across - down[:, None]).clip(0)
    lab = cv2.cvtColor(np.ascontiguousarray(frame[y1:y2, x1:x2]), cv2.COLOR_RGB2LAB).astype(np.int64)
    bins = lab[..., 0] // 43 * 64 + ((lab[..., 1] - 96) // 8).clip(0, 7) * 8 + ((lab[..., 2] - 96) // 8).clip(0, 7)
    counts = np.bincount(bins.ravel(), weights.ravel(), 384)
    return counts / max(counts.sum(), 1e-9)
