"""Measure `lorat annotate` on clips with a box for every frame: only every Nth is shown to it.

    python quality.py CLIPS [--every 30] [--model lorat_tiny]

CLIPS holds a folder for each clip: frames and groundtruth.txt (x,y,w,h a frame). Prints, for each clip and in the mean
of clips, mean IoU and AUC over the frames that were not shown: boxes interpolated linearly between those shown (held
after the last), tracked forwards from each to the next, tracked both ways and blended.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from lorat_plugin import MultiObjectTracker
from lorat_plugin.apps.annotate import blend, follow_gaps
from lorat_plugin.boxes import iou, success_auc, xywh_to_xyxy
from lorat_plugin.datasets.clips import find_clips
from lorat_plugin.datasets.sequences import VideoSequence
from lorat_plugin.interchange import Row
from lorat_plugin.video.source import open_source

COLUMNS = ["linear", "forward", "blended"]


def measure(clip: VideoSequence, tracker: MultiObjectTracker, every: int) -> np.ndarray:
    """(3, 2): mean IoU and AUC of each column."""
    shown = [number for number in range(0, len(clip.frames), every) if clip.present[number]]
    keys = [Row(number, 0, tuple(clip.boxes[number])) for number in shown]
    gaps = follow_gaps(lambda: open_source(Path(clip.frames[0]).parent), keys, tracker)
    forwards = [gap._replace(backward=None) for gap in gaps if gap.forward]
    hidden = clip.present.copy()
    hidden[shown] = False
    found = [np.stack([np.interp(np.arange(len(clip.frames)), shown, clip.boxes[shown, i]) for i in range(4)], 1)]
    for runs in (forwards, gaps):
        boxes = np.zeros_like(clip.boxes)  # no box, no overlap
        for row in blend(keys, runs):
            boxes[row.frame] = row.box
        found.append(boxes)
    overlaps = [iou(xywh_to_xyxy(boxes[hidden]), xywh_to_xyxy(clip.boxes[hidden])) for boxes in found]
    return np.array([(values.mean(), success_auc(values)) for values in overlaps])


def main() -> None:
    """Read the options, measure, print."""
    parser = argparse.ArgumentParser(description="Quality of boxes filled in between a few.")
    parser.add_argument("clips", type=Path)
    parser.add_argument("--every", type=int, default=30, help="frames from one shown box to the next")
    parser.add_argument("--model", default="lorat_tiny")
    options = parser.parse_args()
    tracker = MultiObjectTracker.from_pretrained(options.model)
    rows = {clip.name: measure(clip, tracker, options.every) for clip in find_clips(options.clips)}
    print("| clip | " + " | ".join(f"{c} IoU | {c} AUC" for c in COLUMNS) + " |\n|---|" + "--:|" * 2 * len(COLUMNS))
    for name, row in {**rows, "mean": np.mean(list(rows.values()), axis=0)}.items():
        print(f"| {name} | " + " | ".join(f"{value:.3f}" for value in row.ravel()) + " |")


if __name__ == "__main__":
    main()
