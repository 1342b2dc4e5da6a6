"""Pairs of frames from labelled clips: folders of `0000.jpg`, `0001.jpg`, ... with a `groundtruth.txt`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from numpy.random import Generator

from lorat_plugin.boxes import area, clip_to_image, xywh_to_xyxy
from lorat_plugin.datasets.clips import Clip, read_clip
from lorat_plugin.errors import InputError
from lorat_plugin.images import read_image
from lorat_plugin.synthetic.material import Cache
from lorat_plugin.synthetic.pairs import FramePair
from lorat_plugin.training.pairs import sample_frames


def read_clips(folder: Path, exclude: Sequence[str] = (), labels: Path | None = None) -> list[Clip]:
    """Read every labelled clip of a folder, sorted by name; clips without `groundtruth.txt` are passed over.

    Args:
        folder: holds `<clip>/0000.jpg` and so on, `<clip>/groundtruth.txt` beside the frames.
        exclude: clips whose names start so are left out.
        labels: folder of more targets in these clips, `<clip>__<target>.txt`, in the format of a `groundtruth.txt`.
    Raises InputError if a folder is absent, no labelled clip is found, or rows and frames of a clip differ in number.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; name a folder of clips or leave the option out")
    found = [p for p in sorted(folder.iterdir()) if (p / "groundtruth.txt").is_file()]
    clips = [read_clip(p) for p in found if not p.name.startswith(tuple(exclude))]
    if labels and not labels.is_dir():
        raise InputError(f"{labels} is no folder; name a folder of <clip>__<target>.txt files or leave the option out")
    for path in sorted(labels.glob("*__*.txt")) if labels else []:
        clip = folder / path.name.partition("__")[0]
        if clip.is_dir() and not clip.name.startswith(tuple(exclude)):
            clips.append(read_clip(clip, path))
    if not clips:
        raise InputError(f"{folder} holds no clip with a groundtruth.txt; expected {folder}/<clip>/0000.jpg beside it")
    return clips


class ClipPairs:
    """Two frames of one clip, at most `max_gap` frames apart, in either order."""

    def __init__(self, clips: Sequence[Clip], max_gap: int = 100, cached: int = 1024) -> None:
        """Draw from clips in which the target is present at least once; decoded frames stay in memory."""
        self.clips = [c for c in clips if c.present.any()]
        self.max_gap = max_gap
        self.read: Callable[[Path], Any] = Cache(read_image, cached)

    def sample(self, rng: Generator) -> FramePair | None:
        """Draw one pair; None if a box lies outside its frame."""
        clip = self.clips[int(rng.integers(len(self.clips)))]
        chosen = sample_frames(clip.present, self.max_gap, rng)
        z, x = (self.read(clip.frames[i]) for i in chosen)
        z_box, x_box = (
            clip_to_image(xywh_to_xyxy(clip.boxes[i]), f.shape[:2]) for i, f in zip(chosen, (z, x), strict=True)
        )
        origin = str(clip.frames[0].parent)
        return FramePair(z, z_box, x, x_box, origin) if min(area(z_box), area(x_box)) > 0 else None
