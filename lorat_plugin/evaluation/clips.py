"""Sequences in GOT-10k layout, so that the real `ExperimentGOT10k(root_dir=..., subset="val")` runs on anything.

<root>/val/list.txt
<root>/val/<sequence>/00000001.jpg ..., groundtruth.txt, meta_info.ini, cover.label, absence.label, cut_by_image.label
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from lorat_plugin.errors import InputError
from lorat_plugin.video import list_images, read_image

LAYOUT = "DIR/<clip>/ with the frames (00000001.jpg ...) and groundtruth.txt (x,y,w,h, one row per frame)"
FULLY_VISIBLE = 8  # GOT-10k's cover label counts visible eighths


@dataclass(frozen=True)
class Clip:
    """A folder of frames with a box for each.

    boxes: (N, 4) float64 x, y, w, h in pixels, NaN where the target is absent.
    """

    name: str
    frames: tuple[Path, ...]
    boxes: np.ndarray


def read_boxes(path: Path) -> np.ndarray:
    """Read a text file of boxes, one row `x y w h` a line, separated by commas, tabs or spaces.

    Returns (N, 4) float64; "nan" is understood. Raises InputError that names the file and the line.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").strip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text: {error}") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = [float(value) for value in re.split(r"[,\s]+", line.strip())]
        except ValueError:
            row = []
        if len(row) != 4:
            raise InputError(f"{path}, line {number}: '{line.strip()}' is not a box; write x,y,w,h")
        rows.append(row)
    if not rows:
        raise InputError(f"{path}: is empty; write one row x,y,w,h per frame")
    return np.array(rows, dtype=np.float64)


def find_clips(folder: str | Path) -> list[Clip]:
    """Clips of a folder: the folder itself if it has a groundtruth.txt, else those of its sub-folders that have one.

    Frames are the images beside groundtruth.txt or in `img/`, in natural order; any image type. Rows with a NaN or
    without area say that the target is absent. Raises InputError for a missing folder, a folder without clips, a
    number of rows other than the number of frames, a first frame without a box, and no box after it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; wanted {LAYOUT}")
    if (folder / "val" / "list.txt").is_file():
        folder = folder / "val"
    homes = [folder] if (folder / "groundtruth.txt").is_file() else sorted(folder.iterdir())
    homes = [home for home in homes if (home / "groundtruth.txt").is_file()]
    if not homes:
        raise InputError(f"{folder}: no clip with a groundtruth.txt in it; wanted {LAYOUT}")
    return [_read_clip(home.resolve()) for home in homes]


def _read_clip(home: Path) -> Clip:
    boxes = read_boxes(home / "groundtruth.txt")
    frames = list_images(home) or (list_images(home / "img") if (home / "img").is_dir() else [])
    if len(frames) != len(boxes):
        raise InputError(f"{home}: {len(frames)} frames but {len(boxes)} rows in groundtruth.txt; one row per frame")
    with np.errstate(invalid="ignore"):
        present = np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] > 0).all(axis=1)
    if not present[0]:
        raise InputError(f"{home}: the first row of groundtruth.txt is no box, and a tracker starts from it")
    if not present[1:].any():
        raise InputError(f"{home}: no frame after the first has a box, so nothing can be scored; leave the clip out")
    boxes[~present] = np.nan
    name = re.sub(r"[\[\]*?]", "_", home.name)  # the toolkit uses names in glob patterns
    return Clip(name, tuple(frames), boxes)


def link_clips(clips: Sequence[Clip], root: str | Path) -> None:
    """Make a GOT-10k root of clips: `<root>/val`, replaced if it exists.

    The frames are linked, or copied where the system has no symbolic links, under GOT-10k's names; the toolkit and
    its readers look at the content, so a link may be called .jpg and lead to a PNG. Frames in which the target is
    absent get the box 0,0,0,0, cover 0 and absence 1, and the toolkit's report leaves them out.

    Args:
        clips: from `find_clips`; names must differ.
        root: folder to write to.
    Raises InputError if a first frame cannot be decoded, or the frames lie in the folder that would be replaced.
    """
    subset = Path(root) / "val"
    for clip in clips:
        if any(frame.is_relative_to(subset.resolve()) for frame in clip.frames):
            raise InputError(f"{clip.name}: its frames lie in {subset}, which is written anew; move them elsewhere")
    sizes = [read_image(clip.frames[0]).shape[:2] for clip in clips]
    shutil.rmtree(subset, ignore_errors=True)
    for clip, size in zip(clips, sizes, strict=True):
        home = subset / clip.name
        home.mkdir(parents=True)
        for number, frame in enumerate(clip.frames, start=1):
            _link(frame, home / f"{number:08d}.jpg")
        _write_labels(home, clip.boxes, size)
    _write_list(subset, [clip.name for clip in clips])


def write_sequences(sequences: Mapping[str, tuple[Sequence[np.ndarray], np.ndarray]], root: str | Path) -> None:
    """Make a GOT-10k root of frames in memory: `<root>/val`, replaced if it exists.

    Args:
        sequences: name -> ((H, W, 3) uint8 RGB frames, (N, 4) boxes x, y, w, h in pixels).
        root: folder to write to.
    """
    subset = Path(root) / "val"
    shutil.rmtree(subset, ignore_errors=True)
    for name, (frames, boxes) in sequences.items():
        home = subset / name
        home.mkdir(parents=True)
        for number, frame in enumerate(frames, start=1):
            _, packed = cv2.imencode(".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 92])
            (home / f"{number:08d}.jpg").write_bytes(packed.tobytes())
        _write_labels(home, boxes, frames[0].shape[:2])
    _write_list(subset, list(sequences))


def _link(source: Path, target: Path) -> None:
    try:
        target.symlink_to(source)
    except OSError:  # Windows without the right to make links, or a file system that has none
        shutil.copyfile(source, target)


def _write_labels(home: Path, boxes: np.ndarray, frame_size: tuple[int, int]) -> None:
    height, width = frame_size
    absent = np.isnan(boxes).any(axis=1)
    written = np.where(absent[:, None], 0.0, boxes)
    x, y, w, h = written.T
    cut = ((x <= 0) | (y <= 0) | (x + w >= width) | (y + h >= height)) & ~absent
    np.savetxt(home / "groundtruth.txt", written, fmt="%.4f", delimiter=",")
    np.savetxt(home / "cover.label", np.where(absent, 0, FULLY_VISIBLE), fmt="%d")
    np.savetxt(home / "absence.label", absent.astype(int), fmt="%d")
    np.savetxt(home / "cut_by_image.label", cut.astype(int), fmt="%d")
    # the toolkit drops the first line and reads "key: value" from the others
    (home / "meta_info.ini").write_text(f"[METAINFO]\nresolution: ({width}, {height})\n", encoding="utf-8")


def _write_list(subset: Path, names: Sequence[str]) -> None:
    part = (
        subset / f".list.{os.getpid()}.part"
    )  # written last and whole: with it the toolkit takes the root as complete
    part.write_text("\n".join(names) + "\n", encoding="utf-8")
    os.replace(part, subset / "list.txt")
