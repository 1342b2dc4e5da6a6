"""Text formats: MOT-challenge, YOLO, GOT-10k, and the track.jsonl of `lorat track`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from lorat_plugin.box_files import read_boxes
from lorat_plugin.files import parse_json, parse_yaml, read_plain_text
from lorat_plugin.interchange.tracks import LABEL, Row, Tracks, VideoInfo, clipped, reading


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
    """Read MOT-challenge results or truth: six columns or more; a line of truth whose flag is 0 does not count.

    Raises InputError for another file, or another video's.
    """
    rows = []
    for number, line in enumerate(read_plain_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        with reading(path, f"MOT-challenge text: frame,id,left,top,width,height,..., line {number}"):
            frame, identity, x, y, w, h, *rest = map(float, line.split(","))
            truth = len(rest) == 3  # flag, class, visibility; results have a score and three coordinates
            if truth and rest[0] == 0:
                continue
            score = rest[0] if rest and not truth and rest[0] >= 0 else 1.0
            rows.append(Row(int(frame) - 1, int(identity) - 1, (x - 1, y - 1, w, h), score))
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


def read_yolo(folder: Path, video: VideoInfo) -> Tracks:
    """Read a YOLO data set of one video; as there are no ids, a class is an object. Raises InputError for others."""
    with reading(folder / "data.yaml", "YOLO's data.yaml: names of classes"):
        names = (parse_yaml(read_plain_text(folder / "data.yaml")) or {})["names"]
        names = dict(enumerate(names)) if isinstance(names, list) else dict(names)
    named = {Path(name).stem: frame for frame, name in enumerate(video.file_names, video.frames.start)}
    rows = []
    for path in sorted((folder / "labels").glob("*.txt")):
        with reading(path, f"YOLO text: class centre_x centre_y width height, a file for a frame of {video.name}"):
            for line in read_plain_text(path).splitlines():
                number, *sides = map(float, line.split())
                x, y, w, h = np.array(sides).reshape(4) * ([video.width, video.height] * 2)
                identity = int(number)
                frame = named[path.stem] if named else int(path.stem)
                rows.append(Row(frame, identity, (x - w / 2, y - h / 2, w, h), 1.0, str(names[identity])))
    return Tracks.checked(video, rows, str(folder))


def read_json_lines(path: Path, video: VideoInfo) -> Tracks:
    """Read track.jsonl, or lines with `frame` and `box_xywh` only (and a `label`); an `absent` object is gone there."""
    rows, gone = [], []
    for number, line in enumerate(read_plain_text(path).splitlines(), start=1):
        with reading(path, f'JSON lines with "frame" and "box_xywh", line {number}'):
            if not line.strip():
                continue
            entry: dict[str, Any] = parse_json(line)
            frame, identity = int(entry["frame"]), int(entry.get("id", 0))
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
