"""What a network is calibrated on for eight-bit arithmetic: crops that the tracker itself cuts along a few tracks."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from lorat_plugin.boxes import xywh_to_xyxy
from lorat_plugin.digests import digest
from lorat_plugin.errors import InputError
from lorat_plugin.tracking import check_frame, start, step

if TYPE_CHECKING:
    from lorat_plugin.network import LoRATNetwork, Prediction

VARIABLE = "LORAT_CALIBRATION"  # names the frames where no option does
CROPS = 32  # more change the ranges little, and each costs a forward pass before tracking starts
BUNDLED = "the bundled clips"  # frames used where the user names none

logger = logging.getLogger(__name__)

Track = tuple[Iterable[np.ndarray], np.ndarray]  # frames, and boxes (N, 4) xywh as far as they are known


@torch.inference_mode()
def calibration_inputs(
    network: LoRATNetwork, source: str | Path | None = None, crops: int = CROPS
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Inputs of `LoRATNetwork.predict` along tracks; the network is run on each, so that hooks in it see them.

    Args:
        network: on the CPU, float32.
        source: clips with a groundtruth.txt (see `find_clips`), a folder of images or a video (a box in the middle of
            its first frame is followed); None: what the environment's LORAT_CALIBRATION names, else the
            package's clips.
        crops: how many at most, spread over the tracks.
    Yields template tokens (1, Nt, dim) and a search region (1, 3, S, S), always the same for the same frames.
    Raises InputError for a source that cannot be read, or has no two frames with a target.
    """
    source = source or os.environ.get(VARIABLE) or None
    tracks = _tracks(Path(source), crops) if source else _bundled(crops)
    each, recorder, done = -(-crops // len(tracks)), _Recorder(network), 0
    for frames, boxes in tracks:
        target = None
        for number, frame in zip(range(min(each + 1, crops - done + 1)), frames, strict=False):
            if target is None:
                target = start(recorder, torch.device("cpu"), frame, boxes[0])
                continue
            if number <= len(boxes) and not np.isnan(boxes[number - 1]).any():
                target.box = xywh_to_xyxy(boxes[number - 1])  # a weak network would lose the target
            step(recorder, torch.device("cpu"), [target], [check_frame(frame)])
            done += 1
            yield recorder.seen
    if not done:
        raise InputError(f"{source}: needs two frames with a target to calibrate on; name clips with more frames")
    logger.info("calibrated on %d crops of %s", done, source or BUNDLED)


def calibration_digest(crops: int = CROPS) -> str:
    """Digest of the frames and boxes that LORAT_CALIBRATION names, or the words `BUNDLED` if it names none.

    Raises InputError as `calibration_inputs`.
    """
    source = os.environ.get(VARIABLE)
    if not source:
        return BUNDLED
    return digest(
        array.tobytes()
        for frames, boxes in _tracks(Path(source), crops)
        for array in (boxes, *(frame for _, frame in zip(range(crops + 1), frames, strict=False)))
    )


class _Recorder:
    """The network as an engine that remembers what it was last given."""

    def __init__(self, network: LoRATNetwork) -> None:
        self.network, self.variant = network, network.variant
        self.encode_template = network.encode_template

    def predict(self, template: torch.Tensor, x: torch.Tensor) -> Prediction:
        self.seen = template, x
        return self.network.predict(template, x)


def _tracks(source: Path, crops: int) -> list[Track]:
    """Of clips: frames spread over each, from the first with a box on. Of other frames: the first ones."""
    from lorat_plugin.datasets.clips import find_clips
    from lorat_plugin.images import read_image
    from lorat_plugin.video.source import open_source

    folders = [source, source / "val", *(source.iterdir() if source.is_dir() else ())]
    if not any((folder / "groundtruth.txt").is_file() or (folder / "list.txt").is_file() for folder in folders):
        with open_source(source, end=crops + 1) as opened:
            frames = [frame.image for frame in opened]
        height, width = frames[0].shape[:2] if frames else (0, 0)
        return [(frames, np.array([[width / 3, height / 3, width / 3, height / 3]]))]
    tracks: list[Track] = []
    clips = [clip for clip in find_clips(source) if clip.present.sum() > 1]
    for clip in clips[:: max(1, len(clips) // crops)][:crops]:
        present = np.flatnonzero(clip.present)
        pairs = -(-crops // min(len(clips), crops))
        chosen = present[_spread(len(present), pairs + 1)]
        tracks.append((map(read_image, [clip.frames[i] for i in chosen]), clip.boxes[chosen]))
    if not tracks:
        raise InputError(f"{source}: no clip with two boxes to calibrate on; name another folder")
    return tracks


def _bundled(crops: int) -> list[Track]:
    from lorat_plugin.video.demo_clips import CLIPS, read_demo_clip

    tracks: list[Track] = []
    for frames, boxes in map(read_demo_clip, CLIPS):
        chosen = _spread(len(frames), -(-crops // len(CLIPS)) + 1)
        tracks.append(([frames[i] for i in chosen], boxes[chosen]))
    return tracks


def _spread(length: int, count: int) -> np.ndarray:
    """At most `count` indices from 0 to `length` - 1, evenly spaced, in order."""
    return np.unique(np.linspace(0, length - 1, count).round().astype(int))
