"""One's own videos: a folder of frames with a `groundtruth.txt` of boxes beside them, and the same in GOT-10k's layout.

In that layout the real `ExperimentGOT10k(root_dir=..., subset="val")` runs on anything:

<root>/val/list.txt
<root>/val/<sequence>/00000001.jpg ..., groundtruth.txt, meta_info.ini, cover.label, absence.label, cut_by_image.label
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

from lorat_plugin.box_files import read_boxes
from lorat_plugin.datasets.sequences import Frames, VideoSequence, box_sequence
from lorat_plugin.errors import InputError
from lorat_plugin.files import link_or_copy, require_utf8, whole_file
from lorat_plugin.images import list_images, read_image, read_size

T = TypeVar("T")
FULLY_VISIBLE = 8  # GOT-10k's cover label counts visible eighths
LAYOUT = "DIR/<clip>/ with the frames (00000001.jpg ...) and groundtruth.txt (x,y,w,h, one row per frame)"


def find_clips(folder: str | Path) -> list[VideoSequence]:
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


def read_clip(home: Path, labels: Path | None = None) -> VideoSequence:
    """Read one clip, its boxes from groundtruth.txt or the file `labels`.

    Frames are the images beside groundtruth.txt or in `img/`, in natural order; any image type. Rows with a NaN or
    without area say that the target is absent; these boxes become NaN. Raises InputError for an unreadable file, or a
    number of rows other than the number of frames.
    """
    home = Path(os.path.abspath(home))
    require_utf8(str(home), str(home))
    labels = labels or home / "groundtruth.txt"
    boxes = read_boxes(labels)
    folder = home if list_images(home) or not (home / "img").is_dir() else home / "img"
    frames = list_images(folder)
    if len(frames) != len(boxes):
        raise InputError(f"{home}: {len(frames)} frames but {len(boxes)} rows in {labels.name}; one row per frame")
    with np.errstate(invalid="ignore"):
        present = np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] > 0).all(axis=1)
    boxes[~present] = np.nan
    name = home.name if labels.name == "groundtruth.txt" else labels.stem
    listed = Frames.listed("", [frame.name for frame in frames], str(folder))
    return box_sequence(name, listed, boxes, present, read_size(frames[0]))


def find_scorable_clips(folder: str | Path) -> list[VideoSequence]:
    """Clips of a folder (see `data.clips.find_clips`) on which a tracker can be run and scored.

    Raises InputError as `scorable_homes` and `read_scorable_clip`.
    """
    return [read_scorable_clip(home) for home in scorable_homes(folder).values()]


def scorable_homes(folder: str | Path) -> dict[str, Path]:
    """The clips' folders by the name that the toolkit can take: it uses names in glob patterns.

    Raises InputError for a folder without clips, or two clips that would have one name.
    """
    homes: dict[str, Path] = {}
    for home in clip_homes(folder):
        name = _toolkit_name(home)
        if name in homes:
            raise InputError(f"{home.name}: another clip is called {name} too: rename one of them")
        homes[name] = home
    return homes


def read_scorable_clip(home: Path) -> VideoSequence:
    """Read a clip. Raises InputError as `data.clips.read_clip`, or without a box in the first frame or behind it."""
    clip = read_clip(home)
    if not clip.present[0]:
        raise InputError(f"{clip.name}: the first row of groundtruth.txt is no box, and a tracker starts from it")
    if not clip.present[1:].any():
        raise InputError(f"{clip.name}: no frame after the first has a box, so nothing can be scored; leave it out")
    return replace(clip, name=_toolkit_name(home))


def _toolkit_name(home: Path) -> str:
    return re.sub(r"[\[\]*?]", "_", Path(os.path.abspath(home)).name)


def link_clips(clips: Sequence[VideoSequence], root: str | Path) -> None:
    """Make a GOT-10k root of clips: `<root>/val`, replaced if it exists.

    The frames are linked, or copied where the system has no symbolic links, under GOT-10k's names; the toolkit and
    its readers look at the content, so a link may be called .jpg and lead to a PNG. Frames in which the target is
    absent get the box 0,0,0,0, cover 0 and absence 1, and the toolkit's report leaves them out. Raises InputError if a
    first frame cannot be decoded, or the frames lie in the folder that would be replaced.
    """
    subset = Path(root) / "val"
    for clip in clips:
        if any(Path(frame).resolve().is_relative_to(subset.resolve()) for frame in clip.frames):
            raise InputError(f"{clip.name}: its frames lie in {subset}, which is written anew; move them elsewhere")
    sizes = [read_image(clip.frames[0]).shape[:2] for clip in clips]
    shutil.rmtree(subset, ignore_errors=True)
    for clip, size in zip(clips, sizes, strict=True):
        for frame, target in _write_labels(subset / clip.name, clip.boxes, size, clip.frames):
            link_or_copy(Path(frame), target)
    _write_list(subset, [clip.name for clip in clips])


def write_sequences(sequences: Mapping[str, tuple[Sequence[np.ndarray], np.ndarray]], root: str | Path) -> None:
    """Make a GOT-10k root of frames in memory: `<root>/val`, replaced if it exists.

    Args:
        sequences: name -> ((H, W, 3) uint8 RGB frames, (N, 4) boxes x, y, w, h in pixels).
    """
    subset = Path(root) / "val"
    shutil.rmtree(subset, ignore_errors=True)
    for name, (frames, boxes) in sequences.items():
        for frame, target in _write_labels(subset / name, boxes, frames[0].shape[:2], frames):
            _, packed = cv2.imencode(".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 92])
            target.write_bytes(packed.tobytes())
    _write_list(subset, list(sequences))


def _write_labels(
    home: Path, boxes: np.ndarray, frame_size: tuple[int, int], frames: Iterable[T]
) -> Iterator[tuple[T, Path]]:
    """Write the text files of a sequence; returns each frame with the path that it is to get."""
    home.mkdir(parents=True)
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
    return ((frame, home / f"{number:08d}.jpg") for number, frame in enumerate(frames, start=1))


def _write_list(subset: Path, names: Sequence[str]) -> None:
    with whole_file(subset / "list.txt") as part:  # written last: with it the toolkit takes the root as complete
        part.write_text("\n".join(names) + "\n", encoding="utf-8")
