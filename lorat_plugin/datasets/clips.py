"""Plain clips: a folder of frames with a `groundtruth.txt` of boxes beside them, for one's own videos."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lorat_plugin.box_files import read_boxes
from lorat_plugin.errors import InputError
from lorat_plugin.files import require_utf8
from lorat_plugin.images import list_images

LAYOUT = "DIR/<clip>/ with the frames (00000001.jpg ...) and groundtruth.txt (x,y,w,h, one row per frame)"


@dataclass(frozen=True)
class Clip:
    """A folder of frames, in order, with a box for each.

    boxes: (N, 4) float64 x, y, w, h in pixels, 0-based; NaN where the target is absent.
    """

    name: str
    frames: tuple[Path, ...]
    boxes: np.ndarray

    @property
    def present(self) -> np.ndarray:
        """Frames in which the target has a box, (N,) bool."""
        return ~np.isnan(self.boxes[:, 0])


def find_clips(folder: str | Path) -> list[Clip]:
    """Clips of a folder: the folder itself if it has a groundtruth.txt, else its sub-folders that have one, by name.

    Raises InputError for a folder that is missing or without clips, or a clip that `read_clip` refuses.
    """
    return [read_clip(home) for home in clip_homes(folder)]


def clip_homes(folder: str | Path) -> list[Path]:
    """The folders of the clips that `find_clips` reads. Raises InputError if there is none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; wanted {LAYOUT}")
    if (folder / "val" / "list.txt").is_file():
        folder = folder / "val"
    homes = [folder] if (folder / "groundtruth.txt").is_file() else sorted(folder.iterdir())
    homes = [home for home in homes if (home / "groundtruth.txt").is_file()]
    if not homes:
        raise InputError(f"{folder}: no clip with a groundtruth.txt in it; wanted {LAYOUT}")
    return homes


def read_clip(home: Path, labels: Path | None = None) -> Clip:
    """Read one clip.

    Frames are the images beside groundtruth.txt or in `img/`, in natural order; any image type. Rows with a NaN or
    without area say that the target is absent.

    Args:
        home: the clip's folder.
        labels: file of boxes to read instead of its groundtruth.txt.
    Raises InputError for an unreadable file, or a number of rows other than the number of frames.
    """
    home = Path(os.path.abspath(home))
    require_utf8(str(home), str(home))
    labels = labels or home / "groundtruth.txt"
    boxes = read_boxes(labels)
    frames = list_images(home) or (list_images(home / "img") if (home / "img").is_dir() else [])
    if len(frames) != len(boxes):
        raise InputError(f"{home}: {len(frames)} frames but {len(boxes)} rows in {labels.name}; one row per frame")
    with np.errstate(invalid="ignore"):
        boxes[~(np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] > 0).all(axis=1))] = np.nan
    return Clip(home.name if labels.name == "groundtruth.txt" else labels.stem, tuple(frames), boxes)
