"""Text formats: MOT-challenge, GOT-10k, and the track.jsonl of `lorat track`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from lorat_plugin.box_files import read_boxes
from lorat_plugin.errors import InputError
from lorat_plugin.files import parse_json, read_plain_text
from lorat_plugin.interchange.tracks import LABEL, Row, Tracks, VideoInfo, reading, whole


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
