"""Measure masks from boxes on clips that come with true masks, with the true boxes and with tracked ones.

    python mask_iou.py CLIPS --masks mobile_sam.pt [--model lorat_tiny] [--overlays FOLDER]

CLIPS holds a folder for each clip: frames, groundtruth.txt (x,y,w,h a frame) and mask/<name of the frame>.png, not 0 on
the object. Prints the mean IoU of masks over the frames after the first in which the object is visible.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np

from lorat_plugin import LoRATTracker, TrackResult
from lorat_plugin.datasets.clips import find_clips
from lorat_plugin.datasets.sequences import VideoSequence
from lorat_plugin.images import read_image
from lorat_plugin.video.drawing import draw_results
from lorat_plugin.video.masks import Segmenter, box_masks

COLUMNS = ["SAM, true boxes", "SAM, tracked", "box, true boxes", "box, tracked"]


def iou(found: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union of two masks."""
    return float((found & truth).sum() / max((found | truth).sum(), 1))


def measure(clip: VideoSequence, tracker: LoRATTracker, segmenter: Segmenter, overlays: Path | None) -> np.ndarray:
    """Mean IoU of each column in one clip; a picture of its last frame if wanted."""
    rows = []
    for number, (path, box) in enumerate(zip(map(Path, clip.frames), clip.boxes, strict=True)):
        frame = read_image(path)
        if number == 0:
            tracker.init(frame, box)
            continue
        result = tracker.update(frame)
        truth = cv2.imread(str(path.parent / "mask" / f"{path.stem}.png"), cv2.IMREAD_GRAYSCALE) > 0
        if not clip.present[number]:
            continue
        boxes = [box, result.box]
        found = segmenter.segment(frame, boxes)
        rows.append([iou(mask, truth) for mask in (*found, *box_masks(boxes, frame.shape[:2]))])
        if overlays and number == len(clip.frames) - 1:
            picture = draw_results(frame, {0: TrackResult(result.box, result.score)}, {0: found[1]})
            cv2.imwrite(str(overlays / f"{clip.name}.png"), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    return np.mean(rows, axis=0)


def main() -> None:
    """Read the options, measure, print."""
    parser = argparse.ArgumentParser(description="IoU of masks made from boxes.")
    parser.add_argument("clips", type=Path)
    parser.add_argument("--masks", required=True, help="a SAM: hub id, folder or mobile_sam.pt")
    parser.add_argument("--model", default="lorat_tiny")
    parser.add_argument("--overlays", type=Path, help="folder for pictures")
    options = parser.parse_args()
    homes = sorted(home.parent for home in options.clips.glob("*/mask"))
    if not homes:
        sys.exit(f"{options.clips}: no clip with a folder mask in it")
    if options.overlays:
        options.overlays.mkdir(parents=True, exist_ok=True)
    segmenter, tracker = Segmenter.from_pretrained(options.masks), LoRATTracker.from_pretrained(options.model)
    rows = {home.name: measure(find_clips(home)[0], tracker, segmenter, options.overlays) for home in homes}
    print("| clip | " + " | ".join(COLUMNS) + " |\n|---|" + "--:|" * len(COLUMNS))
    for name, row in {**rows, "mean": np.mean(list(rows.values()), axis=0)}.items():
        print(f"| {name} | " + " | ".join(f"{value:.3f}" for value in row) + " |")


if __name__ == "__main__":
    main()
