"""CVAT for video, XML version 1.1: a `track` an object, a `box` a frame.

CVAT imports key frames only and interpolates between them, so a box that a line between its neighbours gives is written
as none; a box with `outside="1"` says that the object is gone until its next box. Frames count from 0, and as the video
does if a task begins later or leaves frames out; pixels count from 0. Source: CVAT's manual, "XML annotation format".
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Sequence
from itertools import chain, pairwise
from pathlib import Path

import numpy as np

from lorat_plugin.boxes import xywh_to_xyxy
from lorat_plugin.errors import InputError
from lorat_plugin.interchange.tracks import LABEL, Row, Tracks, VideoInfo, check_size, only, reading, upright

TOLERANCE = 0.08  # of a box's size, the root of its area: how far an edge may lie from where interpolation puts it
LEAST_TOLERANCE = 0.5  # pixels


def write_cvat(tracks: Tracks, path: Path) -> None:
    """Write tracks; the score is a text attribute of each box, which CVAT shows if the task's labels have one."""
    video = tracks.video
    root = ET.Element("annotations")
    ET.SubElement(root, "version").text = "1.1"
    task = ET.SubElement(ET.SubElement(root, "meta"), "task")
    about = {
        "name": video.name, "size": len(video.frames), "mode": "interpolation",
        "start_frame": video.frames.start, "stop_frame": video.frames.stop - 1,
    }  # fmt: skip
    for key, value in about.items():
        ET.SubElement(task, key).text = str(value)
    labels = ET.SubElement(task, "labels")
    for name in tracks.labels():
        label = ET.SubElement(labels, "label")
        ET.SubElement(label, "name").text = name
        attribute = ET.SubElement(ET.SubElement(label, "attributes"), "attribute")
        for key, value in {"name": "score", "mutable": "True", "input_type": "text"}.items():
            ET.SubElement(attribute, key).text = value
    size = ET.SubElement(task, "original_size")
    ET.SubElement(size, "width").text, ET.SubElement(size, "height").text = str(video.width), str(video.height)
    for number, rows in tracks.objects().items():
        track = ET.SubElement(root, "track", id=str(number), label=rows[0].label, source="auto")
        keys = key_frames(rows)
        for row, after in zip(rows, (*rows[1:], None), strict=True):
            _add_box(track, row, row.frame, key=row.frame in keys)
            gone = row.frame + 1
            if gone in video.frames and (after is None or after.frame > gone):
                _add_box(track, row, gone, outside=True)
    ET.indent(root)
    ET.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)


def _add_box(track: ET.Element, row: Row, frame: int, key: bool = True, outside: bool = False) -> None:
    x, y, w, h = row.box
    edges = {name: f"{edge:.4f}" for name, edge in zip(("xtl", "ytl", "xbr", "ybr"), (x, y, x + w, y + h), strict=True)}
    state = {"outside": str(int(outside)), "occluded": "0", "keyframe": str(int(key)), "z_order": "0"}
    box = ET.SubElement(track, "box", {"frame": str(frame), **state, **edges})
    ET.SubElement(box, "attribute", name="score").text = f"{row.score:.6f}"


def key_frames(rows: Sequence[Row]) -> set[int]:
    """Frames of one object's rows, at least one, from which linear interpolation gives the other rows.

    An edge may be off by `TOLERANCE` of its box's size or `LEAST_TOLERANCE` pixels, whichever is more. The first and
    last frames of gapless runs are among them, and so are hand boxes where `Row.key` tells them from filled-in ones.
    """
    boxes = np.array([row.box for row in rows], np.float64)
    edges = xywh_to_xyxy(boxes)
    allowed = np.maximum(LEAST_TOLERANCE, TOLERANCE * np.sqrt(boxes[:, 2] * boxes[:, 3]))
    frames = np.array([row.frame for row in rows])
    last = np.flatnonzero(np.diff(frames) > 1)
    hand = () if all(row.key for row in rows) else (i for i, row in enumerate(rows) if row.key)
    kept = {0, len(rows) - 1, *last.tolist(), *(last + 1).tolist(), *hand}
    pieces = list(pairwise(sorted(kept)))
    while pieces:
        first, end = pieces.pop()
        between = slice(first + 1, end)
        u = ((frames[between] - frames[first]) / (frames[end] - frames[first]))[:, None]
        off = np.abs(edges[first] * (1 - u) + edges[end] * u - edges[between]).max(axis=1) / allowed[between]
        if off.size and off.max() > 1:
            worst = first + 1 + int(off.argmax())
            kept.add(worst)
            pieces += [(first, worst), (worst, end)]
    return set(frames[sorted(kept)].tolist())


def read_cvat(path: Path, video: VideoInfo) -> Tracks:
    """Read the boxes of a video's tracks, and the upright bounds of rotated boxes, ellipses, polygons and masks.

    Of a project the task of this video is read. Raises InputError if the file is none of CVAT for video, or is about
    other videos, frames of another size or frames that its task does not have.
    """
    with reading(path, "CVAT for video 1.1 XML: track elements with box elements"):
        try:
            root = ET.parse(path).getroot()
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from error
        if root.find("track") is None:
            raise InputError(f"{path}: has no track; export as 'CVAT for video 1.1', not 'for images'")
        losses = Counter(f"'{entry.tag}' elements (not read)" for entry in root)
        for known in ("track", "meta", "version"):
            del losses[f"'{known}' elements (not read)"]
        chosen, frames = _task(root, video, path)
        objects: dict[int, list[Row]] = {}
        gone: list[tuple[int, int]] = []
        for number, track in enumerate(root.findall("track")):
            if track.get("task_id", chosen) != chosen:
                losses["tracks of other tasks (not read)"] += 1
                continue
            identity = int(track.get("id", number))
            if identity in objects:
                raise ValueError(f"two tracks have the id {identity}")
            objects[identity] = _read_track(track, identity, frames, losses, gone)
    return Tracks.checked(video, chain.from_iterable(objects.values()), str(path), gone, losses)


def _task(root: ET.Element, video: VideoInfo, path: Path) -> tuple[str, range]:
    """The id of the task that is about `video`, empty if the file names none, and the frames between its ends."""
    listed = [task for kind in ("task", "job", "project/tasks/task") for task in root.iterfind(f"meta/{kind}")]
    known = {task.findtext("id") for task in listed}
    for number in dict.fromkeys(track.get("task_id") for track in root.iterfind("track")):
        if number not in (None, *known):
            listed.append(ET.Element("task"))
            ET.SubElement(listed[-1], "id").text = number
    if not listed:
        return "", range(2**63)
    if len(listed) > 1 and any(track.get("task_id") is None for track in root.iterfind("track")):
        raise InputError(
            f"{path}: has {len(listed)} tasks and tracks without a task_id: export the task of {video.name}"
        )

    def texts(task: ET.Element) -> list[str]:
        names = [task.findtext("name"), task.findtext("source")]
        return [name for name in names if name] or [f"task {task.findtext('id')}"]

    task = only(listed, texts, video, path)
    width, height = (task.findtext(f"original_size/{side}") for side in ("width", "height"))
    if width and height:
        check_size(video, int(width), int(height), str(path))
    stop = task.findtext("stop_frame")
    return task.findtext("id") or "", range(int(task.findtext("start_frame") or 0), int(stop) + 1 if stop else 2**63)


def _read_track(
    track: ET.Element, identity: int, frames: range, losses: Counter[str], gone: list[tuple[int, int]]
) -> list[Row]:
    """The rows of one track; counts in `losses` what they do not hold, adds to `gone` where the object is absent."""
    rows = []
    gone.append((0, identity))  # a track begins with its first box
    for shape in track:
        bounds = None
        if shape.get("outside") != "1":
            bounds = _bounds(shape)
            _count_losses(shape, bounds is not None, losses)
        elif "frame" in shape.attrib:
            gone.append((int(shape.attrib["frame"]), identity))
        if bounds is None:
            continue
        frame = int(shape.attrib["frame"])
        if frame not in frames:
            raise ValueError(f"track {identity} has frame {frame}, its task has {frames.start} to {frames.stop - 1}")
        score = next((a.text for a in shape.findall("attribute") if a.get("name") == "score"), None)
        key = shape.get("keyframe") != "0"
        rows.append(Row(frame, identity, bounds, float(score or 1), track.get("label", LABEL), key))
    return rows


def _bounds(shape: ET.Element) -> tuple[float, float, float, float] | None:
    """Upright bounds x, y, w, h in pixels of a shape that outlines an object, None for one of another sort."""

    def numbers(*names: str) -> list[float]:
        return [float(shape.attrib[name]) for name in names]

    degrees = float(shape.get("rotation", 0))
    if shape.tag == "box":
        x, y, right, bottom = numbers("xtl", "ytl", "xbr", "ybr")
        return upright((x, y, right - x, bottom - y), degrees, ((x + right) / 2, (y + bottom) / 2))
    if shape.tag == "ellipse":
        x, y, along, across = numbers("cx", "cy", "rx", "ry")
        sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
        half_w, half_h = math.hypot(along * cosine, across * sine), math.hypot(along * sine, across * cosine)
        return x - half_w, y - half_h, 2 * half_w, 2 * half_h
    if shape.tag == "polygon":
        points = np.array([pair.split(",") for pair in shape.attrib["points"].split(";")], np.float64)
        (x, y), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
        return x, y, right - x, bottom - y
    if shape.tag == "mask":  # CVAT cuts it to its pixels
        x, y, w, h = numbers("left", "top", "width", "height")
        return x, y, w, h
    return None


def _count_losses(shape: ET.Element, is_read: bool, losses: Counter[str]) -> None:
    """Count what a row does not hold of a shape, the shape itself if it is not read."""
    if not is_read:
        losses[f"'{shape.tag}' shapes (not read: no outline of an object)"] += 1
        return
    if shape.tag != "box":
        losses[f"'{shape.tag}' shapes (read as their upright bounds)"] += 1
    elif float(shape.get("rotation", 0)):
        losses["rotated boxes (read as their upright bounds)"] += 1
    if shape.get("occluded") == "1":
        losses["marks 'occluded' (not kept)"] += 1
    for attribute in shape.findall("attribute"):
        if attribute.get("name") != "score":
            losses[f"values of the attribute '{attribute.get('name')}' (not kept)"] += 1
