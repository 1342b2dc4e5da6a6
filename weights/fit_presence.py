"""Choose a model's thresholds of presence and its calibration on clips, and store them in its weights file.

    python weights/fit_presence.py weights/lorat_tiny.safetensors VALIDATION_CLIPS CLIPS_WITH_ABSENCE

A folder of clips holds folders with frames or video.mp4, and groundtruth.txt (x,y,w,h; NaN where the target is absent).
Every clip is tracked by the published rule; then comes a cut to the next clip, where the target is gone.
From the scores:

- calibration: logistic regression of "on target" (IoU above 0.5) on logit(score), every clip with the same weight;
- absent_below: the least threshold within 5 % of the best geometric mean of absent frames reported absent and frames on
  target not reported absent, at most 2 % of these reported absent (targets behind others among them);
- found_above: what 95 % of the frames on target reach, at least absent_below.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from safetensors.torch import save_file

from lorat_plugin import LoRATTracker
from lorat_plugin.box_files import read_boxes
from lorat_plugin.boxes import iou, xywh_to_xyxy
from lorat_plugin.checkpoints.layouts import read_tensors
from lorat_plugin.files import whole_file
from lorat_plugin.presence import PATIENCE, PresenceRule
from lorat_plugin.video.source import open_source

CUT = 10  # frames of another clip behind each clip
FALSE_ALARMS = 0.02


def main() -> None:
    """Fit and store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path, help="A safetensors file; its header gets the result.")
    parser.add_argument("clips", type=Path, nargs="+", help="Folders of clips.")
    parser.add_argument("--model", help="Variant of weights that are adapters only.")
    parser.add_argument("--backbone", help="DINOv2 file that completes adapters.")
    parser.add_argument("--dry-run", action="store_true", help="Print only.")
    chosen = parser.parse_args()
    weights = chosen.weights if chosen.model else None
    tracker = LoRATTracker.from_pretrained(
        chosen.model or chosen.weights, weights=weights, backbone=chosen.backbone, device="cpu"
    )
    homes = [
        home for folder in chosen.clips for home in sorted(folder.iterdir()) if (home / "groundtruth.txt").is_file()
    ]
    runs = []
    for number, home in enumerate(homes):
        runs.append(track(tracker, home, homes[(number + 1) % len(homes)]))
        print(f"{home.name}: {describe(*runs[-1])}", flush=True)
    rule = fit(runs)
    print(rule)
    for told, frames in zip(
        ("absent frames reported absent", "on target, reported absent"), counts(runs, rule), strict=True
    ):
        print(f"{told}: {frames:.3f}")
    if not chosen.dry_run:
        tensors, header = read_tensors(chosen.weights)
        with whole_file(chosen.weights) as part:
            save_file(tensors, part, metadata=header | rule.header())


def track(tracker: LoRATTracker, home: Path, following: Path) -> tuple[np.ndarray, np.ndarray]:
    """Scores (N,) and overlaps (N,) behind the first frame; an overlap is NaN where the target is absent."""
    truth = read_boxes(home / "groundtruth.txt")
    scores, overlaps = [], []
    with open_source(str(source(home))) as frames:
        for frame, box in zip(frames, truth, strict=True):
            if frame.number == 0:
                tracker.init(frame.image, box)
                continue
            result = tracker.update(frame.image)
            scores.append(result.score)
            present = np.isfinite(box).all() and min(box[2:]) > 0
            overlaps.append(float(iou(xywh_to_xyxy(result.box), xywh_to_xyxy(box))) if present else np.nan)
    with open_source(str(source(following)), 0, CUT) as frames:
        for frame in frames:
            scores.append(tracker.update(frame.image).score)
            overlaps.append(np.nan)
    return np.array(scores), np.array(overlaps)


def source(home: Path) -> Path:
    """The video of a clip, or its folder of frames."""
    return home / "video.mp4" if (home / "video.mp4").is_file() else home


def reported(scores: np.ndarray, threshold: float) -> np.ndarray:
    """Frames (N,) bool with more than `PATIENCE` low scores in a row up to them."""
    low, absent = 0, []
    for score in scores:
        low = low + 1 if score < threshold else 0
        absent.append(low > PATIENCE)
    return np.array(absent)


def counts(runs: list[tuple[np.ndarray, np.ndarray]], rule: PresenceRule) -> tuple[float, float]:
    """Shares of absent frames, and of frames on target, that are reported absent."""
    told = np.concatenate([reported(scores, rule.absent_below) for scores, _ in runs])
    overlaps = np.concatenate([overlaps for _, overlaps in runs])
    return float(told[np.isnan(overlaps)].mean()), float(told[overlaps > 0.5].mean())


def fit(runs: list[tuple[np.ndarray, np.ndarray]]) -> PresenceRule:
    """The rule for scores and overlaps of clips."""
    best, rated = 0.0, []
    for threshold in np.arange(0.05, 0.75, 0.05).round(2):
        told, false = counts(runs, PresenceRule(float(threshold)))
        if false <= FALSE_ALARMS:
            rated.append((float(threshold), float(np.sqrt(told * (1 - false)))))
            best = max(best, rated[-1][1])
    if not rated:
        raise SystemExit(
            f"every threshold calls over {FALSE_ALARMS:.0%} of the frames on target absent; give other clips"
        )
    absent_below = next(threshold for threshold, mean in rated if mean >= 0.95 * best)
    on_target = np.concatenate([scores[overlaps > 0.5] for scores, overlaps in runs])
    found_above = max(absent_below, round(float(np.quantile(on_target, 0.05)), 2))
    return PresenceRule(absent_below, found_above, calibrate(runs))


def calibrate(runs: list[tuple[np.ndarray, np.ndarray]]) -> tuple[float, float]:
    """Slope and offset of the logistic regression, by Newton's method with a slight pull to (1, 0)."""
    scores = np.concatenate([scores for scores, _ in runs]).clip(1e-6, 1 - 1e-6)
    good = np.concatenate([overlaps > 0.5 for _, overlaps in runs])
    share = np.concatenate([np.full(len(scores), 1 / len(scores) / len(runs)) for scores, _ in runs])
    x = np.stack([np.log(scores / (1 - scores)), np.ones(len(scores))], 1)
    weights = np.array([1.0, 0.0])
    for _ in range(50):
        probability = 1 / (1 + np.exp(-x @ weights))
        gradient = x.T @ (share * (probability - good)) + 1e-3 * (weights - [1, 0])
        curvature = (x.T * (share * probability * (1 - probability))) @ x + 1e-3 * np.eye(2)
        weights = weights - np.linalg.solve(curvature, gradient)
    return round(float(weights[0]), 4), round(float(weights[1]), 4)


def describe(scores: np.ndarray, overlaps: np.ndarray) -> str:
    """Quantiles of the scores of a clip."""
    parts = []
    for name, chosen in (("on target", overlaps > 0.5), ("lost", overlaps <= 0.5), ("absent", np.isnan(overlaps))):
        if chosen.any():
            low, middle, high = np.quantile(scores[chosen], [0.05, 0.5, 0.95])
            parts.append(f"{name} {chosen.sum()} frames, score {low:.2f} {middle:.2f} {high:.2f}")
    return "; ".join(parts)


if __name__ == "__main__":
    main()
