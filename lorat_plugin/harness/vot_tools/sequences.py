"""Clips as sequences of the VOT toolkit: one object or several, boxes or masks, anchors for multi-start experiments."""

from __future__ import annotations

import itertools
import os
import shutil
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from lorat_plugin.box_files import parse_regions
from lorat_plugin.datasets.clips import read_clip
from lorat_plugin.errors import InputError, first_line
from lorat_plugin.files import link_or_copy, read_plain_text, walk_files
from lorat_plugin.images import list_images, read_size

LAYOUT = (
    "DIR/<clip>/ with the frames (00000001.jpg ...) and groundtruth.txt (x,y,w,h, one row per frame), "
    "groundtruth_<object>.txt for each of several objects, or mask/ with a PNG per frame"
)
ANCHOR_SPACING = 50  # frames, as in VOT2020 to VOT2022
FRAMES_PER_SECOND = 30  # only real-time experiments read it
IMAGE_ENDINGS = {".jpg": ".jpg", ".jpeg": ".jpg", ".png": ".png"}  # the toolkit takes no others
ABSENT = "0"  # the toolkit's code


@dataclass(frozen=True)
class VOTTarget:
    """One object: its regions as the toolkit writes them, a line per frame, and where it is present, (N,) bool."""

    lines: tuple[str, ...]
    present: np.ndarray


@dataclass(frozen=True)
class VOTSequence:
    """A sequence to write. `made` is the folder itself if it is in the toolkit's layout, to be linked as it is.

    targets: object -> target; the one object of a sequence is called "".
    """

    name: str
    frames: tuple[Path, ...]
    targets: dict[str, VOTTarget]
    made: Path | None = None

    @property
    def all_present(self) -> np.ndarray:
        """Frames in which no object is absent, (N,) bool."""
        return np.all([target.present for target in self.targets.values()], axis=0)

    @property
    def late(self) -> bool:
        """Whether an object is absent in the first frame."""
        return not self.all_present[0]


def find_sequences(folder: Path, *, boxes: bool = False) -> list[VOTSequence]:
    """Read the clips of a folder, or the folder if it is a clip, by name.

    A clip's objects come from mask/ (a PNG per frame: 0 is background, each other value an object, but 255 is nothing
    beside other values), else from groundtruth_<object>.txt, else from groundtruth.txt; with `boxes` masks are passed
    over where there are boxes. A clip in the toolkit's own layout, with a file `sequence`, is taken as it is.

    Raises InputError for a folder without clips, and for a clip that cannot be read or that the toolkit cannot run.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; wanted {LAYOUT}")
    if (folder / "val" / "list.txt").is_file():  # of GOT-10k
        folder = folder / "val"
    homes = [folder] if _is_clip(folder) else sorted(home for home in folder.iterdir() if _is_clip(home))
    if not homes:
        raise InputError(f"{folder}: no clip with a groundtruth.txt in it; wanted {LAYOUT}")
    return [_read(Path(os.path.abspath(home)), boxes) for home in homes]


def sequence_problems(folder: Path, names: Iterable[str]) -> Iterator[str]:
    """What keeps the toolkit from reading sequences of a workspace, a sentence for each that it cannot."""
    for name in names:
        try:
            if not _is_clip(folder / name):
                raise InputError(f"{folder / name}: is no sequence, but listed in list.txt")
            _read(folder / name, False)
        except InputError as error:
            yield str(error)


def anchors(present: np.ndarray, spacing: int = ANCHOR_SPACING) -> np.ndarray:
    """Frames in which a multi-start experiment starts the tracker, by VOT's rule since 2020; `present` is (N,) bool.

    The first and the last frame and about every `spacing` frames between; where the target is absent, the nearest
    frame where it is present, if that is no farther than half of it. Anchors in the first half run forward, the others
    backward: each has the longer part of the sequence before it. Returns (N,) int: 1 for a forward anchor, -1 for a
    backward one, else 0. Source: Kristan et al., VOT2020, sec. 2.
    """
    last = len(present) - 1
    values = np.zeros(len(present), dtype=int)
    seen = np.flatnonzero(present)
    for wanted in np.linspace(0, last, max(2, round(last / spacing) + 1)).round().astype(int):
        for frame in seen[np.abs(seen - wanted).argsort(kind="stable")[:1]]:  # none if the target is never present
            if abs(frame - wanted) <= spacing // 2:
                values[frame] = 1 if 2 * frame <= last else -1
    return values


def mask_line(mask: np.ndarray) -> str:
    """A mask, (H, W) bool, as the toolkit writes it: m, then x, y, w, h of the least window around it (pixels,
    0-based), then lengths of runs of zeros and ones by turns, row by row in the window; "0" if it is empty.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return ABSENT
    left, top, right, bottom = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    window = mask[top:bottom, left:right].ravel()
    changes = np.flatnonzero(window != np.concatenate([[False], window[:-1]]))
    runs = np.diff([0, *changes, window.size])
    return "m" + ",".join(map(str, [left, top, right - left, bottom - top, *runs]))


def write_sequence(folder: Path, sequence: VOTSequence) -> None:
    """Write a sequence in the toolkit's layout.

    color/%08d.jpg (or .png) are links, or copies where the system has no links; groundtruth.txt, or
    groundtruth_<object>.txt; anchor.value; absent.tag where an object is absent in some frame; the file `sequence`. Of
    a sequence in that layout all files are linked, and anchor.value is added if it has none.
    """
    if sequence.made is not None:
        shutil.copytree(sequence.made, folder, copy_function=lambda a, b: link_or_copy(Path(a), Path(b)))
    else:
        colour = folder / "color"
        colour.mkdir(parents=True)
        ending = IMAGE_ENDINGS[sequence.frames[0].suffix.lower()]
        for number, frame in enumerate(sequence.frames, 1):
            link_or_copy(frame, colour / f"{number:08d}{ending}")
        for name, target in sequence.targets.items():
            write_lines(folder / (f"groundtruth_{name}.txt" if name else "groundtruth.txt"), target.lines)
        facts = {"name": sequence.name, "fps": FRAMES_PER_SECOND, "format": "default", "channel.default": "color"}
        facts["channels.color"] = f"color/%08d{ending}"
        write_lines(folder / "sequence", [f"{key}={value}" for key, value in facts.items()])
        if not sequence.all_present.all():
            write_lines(folder / "absent.tag", (~sequence.all_present).astype(int))
    if not (folder / "anchor.value").exists():
        write_lines(folder / "anchor.value", anchors(sequence.all_present))


def _is_clip(home: Path) -> bool:
    names = ("groundtruth.txt", "sequence", "mask")
    return any((home / name).exists() for name in names) or next(home.glob("groundtruth_*.txt"), None) is not None


def _read(home: Path, boxes: bool) -> VOTSequence:
    several = {path.stem.removeprefix("groundtruth_"): path for path in sorted(home.glob("groundtruth_*.txt"))}
    files = several or {"": home / "groundtruth.txt"}
    if (home / "sequence").is_file():
        deque(walk_files(home), maxlen=0)  # copying it would follow links in circles
        sequence = VOTSequence(home.name, (), _made_targets(home, files), home)
        size = _check_made(home, len(sequence.all_present))
    else:
        frames, masks, inside = (
            tuple(list_images(folder)) if folder.is_dir() else () for folder in (home, home / "mask", home / "img")
        )
        frames = frames or inside
        if masks and not (boxes and next(iter(files.values())).is_file()):
            targets = _mask_targets(home.name, frames, masks)
        else:
            targets = {name: _box_target(home, path) for name, path in files.items()}
        sequence = VOTSequence(home.name, frames, targets)
        kinds = {IMAGE_ENDINGS.get(frame.suffix.lower(), frame.suffix) for frame in frames}
        if len(kinds) != 1 or not kinds <= set(IMAGE_ENDINGS.values()):
            shown = ", ".join(sorted(kinds)) or "no"
            raise InputError(f"clip {home.name} has {shown} images: the toolkit needs all .jpg or all .png")
        size = _one_size(home.name, frames)
    starts = [target.lines[0] for target in sequence.targets.values() if target.present[0]]
    if not starts:
        raise InputError(f"clip {home.name}: no target has a region in frame 1: the target must be visible at first")
    for line, (x, y, w, h) in zip(starts, parse_regions("\n".join(starts), home.name), strict=True):
        if x + w <= 0 or y + h <= 0 or x >= size[0] or y >= size[1]:
            raise InputError(
                f"clip {home.name}: its first region {line:.40} lies outside the frames of {size[0]}x{size[1]} pixels"
            )
    return sequence


def _check_made(home: Path, rows: int) -> tuple[int, int]:
    """Width and height of the frames of a sequence in the toolkit's layout, in pixels.

    Raises InputError if frames are missing or do not fit what it says.
    """
    lines = read_plain_text(home / "sequence").split("\n")
    facts = {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in lines)}
    channels = [value for key, value in facts.items() if key.startswith("channels.")] or ["color/%08d.jpg"]
    for channel in channels:
        pattern = home / channel if Path(channel).suffix else home / channel / "%08d.jpg"  # as the toolkit reads it
        try:
            names = (pattern.with_name(pattern.name % number) for number in itertools.count(1))
            frames = list(itertools.takewhile(Path.is_file, names))
        except (TypeError, ValueError) as error:
            raise InputError(f"{home / 'sequence'}: channel {channel} is no pattern such as color/%08d.jpg") from error
        if len(frames) < max(rows, 1):
            raise InputError(
                f"{home}: {rows} rows of regions but {len(frames)} frames {channel}, counted to the first that is"
                " missing; restore the frames"
            )
        size = _one_size(home.name, frames)
        stated = facts.get("width", str(size[0])), facts.get("height", str(size[1]))
        if stated != tuple(map(str, size)):
            raise InputError(
                f"{home / 'sequence'}: says {stated[0]}x{stated[1]} pixels, the frames are {size[0]}x{size[1]};"
                " correct it"
            )
    return size


def _one_size(name: str, frames: Sequence[Path]) -> tuple[int, int]:
    """Width and height of all frames in pixels. Raises InputError if they differ: the toolkit takes the first one's."""
    size = read_size(frames[0])
    for frame in frames[1:]:
        if (other := read_size(frame)) != size:
            raise InputError(
                f"clip {name}: its pictures change size, from {size[0]}x{size[1]} to {other[0]}x{other[1]} pixels at"
                f" {frame.name}, and the toolkit takes one size for all; leave it out or scale the frames"
            )
    return size


def _box_target(home: Path, labels: Path) -> VOTTarget:
    clip = read_clip(home, labels)
    lines = [ABSENT if np.isnan(box[0]) else ",".join(f"{value:.4f}" for value in box) for box in clip.boxes]
    return VOTTarget(tuple(lines), clip.present)


def _made_targets(home: Path, files: dict[str, Path]) -> dict[str, VOTTarget]:
    targets = {}
    for name, path in files.items():
        text = read_plain_text(path)
        targets[name] = VOTTarget(tuple(text.splitlines()), ~np.isnan(parse_regions(text, str(path))[:, 0]))
    if len(lengths := {len(target.lines) for target in targets.values()}) > 1:
        raise InputError(f"{home}: its groundtruth files have {sorted(lengths)} rows; one row per frame")
    return targets


def _mask_targets(name: str, frames: tuple[Path, ...], files: tuple[Path, ...]) -> dict[str, VOTTarget]:
    if len(frames) != len(files):
        raise InputError(f"clip {name}: {len(frames)} frames but {len(files)} masks; one mask per frame")
    lines: dict[int, list[str]] = {}
    size = read_size(frames[0])
    for number, file in enumerate(files):
        labels = _read_labels(file)
        if labels.shape[::-1] != size:
            raise InputError(
                f"{file}: is {labels.shape[1]} x {labels.shape[0]} pixels, the frames {size[0]} x {size[1]}"
            )
        for value in np.unique(labels[labels > 0]):
            lines.setdefault(int(value), [ABSENT] * len(files))[number] = mask_line(labels == value)
    if len(lines) > 1:
        lines.pop(255, None)  # "void" of data sets of segmented videos
    if not lines:
        raise InputError(f"clip {name}: all masks are empty: the target must be visible at first")
    targets = {str(v): VOTTarget(tuple(t), np.array([line != ABSENT for line in t])) for v, t in sorted(lines.items())}
    return targets if len(targets) > 1 else {"": next(iter(targets.values()))}


def _read_labels(file: Path) -> np.ndarray:
    """Object of each pixel, (H, W), 0 for the background. A palette's indices count, not its colours."""
    try:
        with Image.open(file) as image:
            labels = np.asarray(ImageOps.exif_transpose(image))
    except Exception as error:  # Pillow raises many kinds
        raise InputError(f"{file}: cannot be read as an image ({first_line(error)}): write it again") from error
    if labels.ndim != 2:
        raise InputError(f"{file}: is a colour image: write masks of one channel, 0 for the background")
    return labels.astype(np.int64)


def write_lines(path: Path, lines: Iterable[object]) -> None:
    """Write one line for each object."""
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")
