"""Text formats: MOT-challenge, GOT-10k, the track.jsonl of `lorat track`, and YOLO.

YOLO's is a file a frame, written as a data set, read also as ultralytics' save_txt and CVAT's exports have it.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from lorat_plugin.box_files import read_boxes
from lorat_plugin.errors import InputError
from lorat_plugin.files import parse_json, parse_yaml, read_plain_text
from lorat_plugin.interchange.tracks import LABEL, Row, Tracks, VideoInfo, clipped, frames_by_stem, reading, whole

GREATEST = 1.1  # fraction of a frame; a box may reach a little over its border
NOT_FRAMES = ("train.txt", "val.txt", "test.txt", "valid.txt", "classes.txt")  # lists beside the labels


def write_mot(tracks: Tracks, path: Path) -> None:
    """Write MOT-challenge results: `frame,id,left,top,width,height,score,-1,-1,-1`, ordered by frame.

    Frames, ids and pixels count from 1, as the benchmark says (arXiv 1504.01942). Labels are not kept.
    """
    lines = []
    for row in tracks.rows:
        x, y, w, h = row.box
        lines.append(f"{row.frame + 1},{row.id + 1},{x + 1:.4f},{y + 1:.4f},{w:.4f},{h:.4f},{row.score:.6f},-1,-1,-1\n")
    path.write_text("".join(lines), encoding="utf-8", newline="\n")


def read_mot(path: Path, video: VideoInfo) -> Tracks:
    """Read MOT-challenge results or truth: `frame,id,left,top,width,height`, then score or flag, class, visibility.

    Where the seventh column holds only 0 and 1 it is truth's flag, and a line with 0 does not count. Classes of nine
    columns are named by a labels.txt beside the file, as CVAT and Datumaro write it; then pixels count from 0. Raises
    InputError for another file, another video's, or boxes without ids.
    """
    lines = []
    for number, line in enumerate(read_plain_text(path).splitlines(), start=1):
        if line.strip():
            with reading(path, f"MOT-challenge text: frame,id,left,top,width,height,..., line {number}"):
                frame, identity, x, y, w, h, *rest = map(float, line.split(","))
                kind = whole(rest[1]) if len(rest) == 3 else -1
                lines.append((whole(frame), whole(identity), (x, y, w, h), rest[0] if rest else -1.0, kind))
    if any(identity == -1 for _, identity, *_ in lines):
        raise InputError(f"{path}: has boxes whose id is -1: these are detections, not tracks")
    kinds = {kind for *_, kind in lines}
    listed = path.with_name("labels.txt")
    names = read_plain_text(listed).splitlines() if kinds != {-1} and listed.is_file() else []
    if names and not kinds <= {-1, *range(1, len(names) + 1)}:
        raise InputError(f"{path}: has class {max(kinds)}, {listed} has {len(names)}: complete it")
    flags = {score for *_, score, _ in lines} <= {0.0, 1.0}
    origin = 0 if names else 1
    losses: Counter[str] = Counter()
    rows = []
    for frame, identity, (x, y, w, h), score, kind in lines:
        if flags and score == 0:
            losses["boxes whose flag is 0 (not read)"] += 1
            continue
        label = LABEL if len(kinds) == 1 else f"class {kind}"
        if names and kind > 0:
            label = names[kind - 1].strip()
        rows.append(Row(frame - 1, identity - 1, (x - origin, y - origin, w, h), 1.0 if score == -1 else score, label))
    return Tracks.checked(video, rows, str(path), losses=losses)


def read_json_lines(path: Path, video: VideoInfo) -> Tracks:
    """Read track.jsonl, or lines with `frame` and `box_xywh` only (and a `label`); an `absent` object is gone there."""
    rows, gone = [], []
    for number, line in enumerate(read_plain_text(path).splitlines(), start=1):
        with reading(path, f'JSON lines with "frame" and "box_xywh", line {number}'):
            if not line.strip():
                continue
            entry: dict[str, Any] = parse_json(line)
            frame, identity = whole(float(entry["frame"])), whole(float(entry.get("id", 0)))
            if entry.get("absent"):
                gone.append((frame, identity))
                continue
            x, y, w, h = map(float, entry["box_xywh"])
            label = str(entry.get("label", LABEL))
            rows.append(Row(frame, identity, (x, y, w, h), float(entry.get("score", 1)), label))
    return Tracks.checked(video, rows, str(path), gone)


def write_got10k(tracks: Tracks, folder: Path) -> None:
    """Write GOT-10k text, ID.txt for each object: a row `x,y,w,h` a frame, NaN where it is absent. Boxes only."""
    for number, rows in tracks.objects().items():
        boxes = dict.fromkeys(tracks.video.frames, (np.nan,) * 4) | {row.frame: row.box for row in rows}
        np.savetxt(folder / f"{number}.txt", list(boxes.values()), fmt="%.4f", delimiter=",")


def read_got10k(path: Path, video: VideoInfo) -> Tracks:
    """Read GOT-10k text, a row a frame from the first on: a file of one object, or a folder with a file ID.txt each."""
    paths = (
        {int(file.stem): file for file in path.glob("*.txt") if file.stem.isdecimal()} if path.is_dir() else {0: path}
    )
    rows = [
        Row(frame, number, tuple(box))
        for number, file in paths.items()
        for frame, box in enumerate(read_boxes(file).tolist(), video.frames.start)
        if np.isfinite(box).all() and min(box[2:]) > 0  # as in `data.clips`: absent
    ]
    return Tracks.checked(video, rows, str(path))


def write_yolo(tracks: Tracks, folder: Path) -> None:
    """Write a YOLO data set: `data.yaml` with the labels, `labels/NAME.txt` for each frame.

    A line is `class centre_x centre_y width height` in fractions of the frame, cut at its border; a frame without
    objects has an empty file. Ids and scores are not kept.
    """
    video, names = tracks.video, tracks.labels()
    lines: dict[int, list[str]] = {frame: [] for frame in video.frames}
    for row in tracks.rows:
        x, y, right, bottom = clipped(row.box, video) / np.array([video.width, video.height] * 2)
        sides = ((x + right) / 2, (y + bottom) / 2, right - x, bottom - y)
        lines[row.frame].append(f"{names.index(row.label)} {' '.join(f'{side:.8f}' for side in sides)}\n")
    (folder / "labels").mkdir()
    for frame, content in lines.items():
        (folder / "labels" / Path(video.file_name(frame)).with_suffix(".txt")).write_text("".join(content))
    classes = {"names": dict(enumerate(names)), "nc": len(names), "train": "images", "val": "images"}
    (folder / "data.yaml").write_text(yaml.safe_dump(classes, sort_keys=False), encoding="utf-8")


class _Line(NamedTuple):
    """One line of a file: class, centre and sides in fractions of the frame, and the columns behind them."""

    path: Path
    frame: int
    kind: int
    sides: np.ndarray
    rest: tuple[float, ...]


def is_yolo(folder: Path) -> bool:
    """True for a folder of YOLO's text: with a list of classes, named labels, or with files NAME_12.txt."""
    marks = [folder / "data.yaml", folder / "obj.names", folder / "labels"]
    return (
        folder.name == "labels"
        or any(mark.exists() for mark in marks)
        or any(re.search("_[0-9]+$", path.stem) for path in folder.glob("*.txt"))
    )


def read_yolo(folder: Path, video: VideoInfo) -> Tracks:
    """Read boxes of one video: lines `class centre_x centre_y width height`, then a confidence, a track id, or both.

    A sixth column holds ids if all its numbers are whole, else confidences. Without ids a class is an object; if some
    boxes have one, those without are left out. Classes are named by data.yaml, CVAT's obj.names or a classes.txt.
    Raises InputError for other lines (segments, key points, rotated boxes, pixels), and for files of no frame of the
    video.
    """
    names = _class_names(folder)
    lines = [line for path in _files(folder) for line in _read_lines(path, video)]
    ids = [line.rest[-1] for line in lines if len(line.rest) == 1]
    sixth_is_id = all(number == int(number) for number in ids)
    has_ids = bool(ids and sixth_is_id) or any(len(line.rest) == 2 for line in lines)
    losses: Counter[str] = Counter()
    rows = []
    for line in lines:
        score = line.rest[0] if len(line.rest) == 2 or (line.rest and not sixth_is_id) else 1.0
        identity = line.kind
        if has_ids:
            if len(line.rest) < 2 and not (line.rest and sixth_is_id):
                losses["boxes without a track id (not read)"] += 1
                continue
            with reading(line.path, "YOLO text: a track id as last number"):
                identity = whole(line.rest[-1])
        if names and line.kind not in names:
            raise InputError(f"{line.path}: has class {line.kind}, which the list of names lacks; complete the list")
        x, y, w, h = (line.sides * ([video.width, video.height] * 2)).tolist()
        label = str(names.get(line.kind, f"class {line.kind}"))
        rows.append(Row(line.frame, identity, (x - w / 2, y - h / 2, w, h), score, label))
    return Tracks.checked(video, rows, str(folder), losses=losses)


def _files(folder: Path) -> list[Path]:
    home = folder / "labels" if (folder / "labels").is_dir() else folder
    return sorted(path for path in home.rglob("*.txt") if path.name not in NOT_FRAMES)


def _class_names(folder: Path) -> dict[int, str]:
    if (folder / "data.yaml").exists():
        with reading(folder / "data.yaml", "YOLO's data.yaml: names of classes"):
            names = (parse_yaml(read_plain_text(folder / "data.yaml")) or {})["names"]
            return dict(enumerate(names)) if isinstance(names, list) else dict(names)
    lists = [folder / "obj.names", folder / "classes.txt", folder / "labels" / "classes.txt"]
    listed = next((path for path in lists if path.exists()), None)
    return dict(enumerate(read_plain_text(listed).split("\n"))) if listed else {}


def _read_lines(path: Path, video: VideoInfo) -> list[_Line]:
    with reading(path, "YOLO text: class centre_x centre_y width height in fractions of the frame"):
        found = []
        for text in read_plain_text(path).splitlines():
            numbers = [float(word) for word in text.split()]
            if not numbers:
                continue
            if len(numbers) > 7:
                raise InputError(
                    f"{path}: has a line of {len(numbers)} numbers, a segment, key points or a rotated box: only lines"
                    " of 5 to 7 (class, box, confidence, id) are read; export boxes"
                )
            kind, *sides = numbers
            box = np.array(sides[:4]).reshape(4)
            if box.max() > GREATEST:
                raise InputError(f"{path}: has the box {sides[:4]}, in pixels: divide it by the frame's sides")
            found.append(_Line(path, _frame(path.stem, video), whole(kind), box, tuple(sides[4:])))
    return found


def _frame(stem: str, video: VideoInfo) -> int:
    """Number of the frame that a file is named after, 0-based.

    Names are those of a folder's images; for a video file 12 (this package), frame_000012 (CVAT) or NAME_13, as
    ultralytics counts from 1. Raises ValueError for others.
    """
    if video.file_names:
        stems = frames_by_stem(video)
        if stem in stems:
            return stems[stem]
    elif match := re.fullmatch(r"(?:frame_)?([0-9]+)", stem):
        return int(match[1])
    elif match := re.fullmatch(re.escape(video.name) + r"_([0-9]+)", stem):
        return int(match[1]) - 1
    raise ValueError(f"it is named after no frame of {video.name}")
