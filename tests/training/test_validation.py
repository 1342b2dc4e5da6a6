"""Success on clips during training is what a tracker scores on them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lorat_plugin import LoRATTracker
from lorat_plugin.boxes import iou, success_auc, xywh_to_xyxy
from lorat_plugin.datasets.sequences import Frames
from lorat_plugin.errors import InputError
from lorat_plugin.images import read_image
from lorat_plugin.network import LoRATNetwork
from lorat_plugin.training.journal import clip_success
from lorat_plugin.training.pairs import read_clips
from tests.helpers.sequences import write_clip


def test_clips_are_scored_as_a_tracker_does(tiny_network: LoRATNetwork, tmp_path: Path) -> None:
    for seed, name in enumerate(("late", "gap")):
        write_clip(tmp_path / name, 7, seed)
    absent = {"late": [0, 1], "gap": [3]}  # tracked from frame 2; not counted at frame 3
    clips = []
    for clip in read_clips(tmp_path):
        clip.boxes[absent[clip.name]] = np.nan
        clip.tracks[0].present[absent[clip.name]] = False
        clips.append(clip)
    expected = []
    for clip in clips:
        begin = int(np.argmax(clip.present))
        tracker = LoRATTracker(tiny_network, device="cpu", engine="eager")
        tracker.init(read_image(clip.frames[begin]), clip.boxes[begin])
        found = {t: tracker.update(read_image(clip.frames[t])).box for t in range(begin + 1, 7)}
        shown = [t for t in found if clip.present[t]]
        boxes = np.array([found[t] for t in shown])
        expected.append(success_auc(iou(xywh_to_xyxy(boxes), xywh_to_xyxy(clip.boxes[shown]))))
    measured = clip_success(tiny_network.eval(), clips, torch.device("cpu"))
    assert measured == pytest.approx(np.mean(expected)) and 0 < measured < 1

    gone = replace(clips[0], frames=Frames.listed("", [*list(clips[0].frames)[:-1], str(tmp_path / "gone.jpg")]))
    with pytest.raises(InputError, match=r"gone\.jpg"):
        clip_success(tiny_network, [gone], torch.device("cpu"))
