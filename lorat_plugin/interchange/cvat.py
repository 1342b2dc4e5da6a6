"""CVAT for video, XML version 1.1: a `track` an object, a `box` a frame.

Every box is written as a key frame, for CVAT drops the others when it imports; a box with `outside="1"` says that the
object is gone until its next box. Frames and pixels count from 0. Source: CVAT's manual, "XML annotation format".
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

from lorat_plugin.errors import InputError
from lorat_plugin.interchange.tracks import LABEL, Row, Tracks, VideoInfo, check_size, reading


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
        for row, after in zip(rows, (*rows[1:], None), strict=True):
            _add_box(track, row, row.frame, outside=False)
            gone = row.frame + 1
            if gone in video.frames and (after is None or after.frame > gone):
                _add_box(track, row, gone, outside=True)
    ET.indent(root)
    ET.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)


def _add_box(track: ET.Element, row: Row, frame: int, outside: bool) -> None:
    x, y, w, h = row.box
    edges = {name: f"{edge:.4f}" for name, edge in zip(("xtl", "ytl", "xbr", "ybr"), (x, y, x + w, y + h), strict=True)}
    state = {"outside": str(int(outside)), "occluded": "0", "keyframe": "1", "z_order": "0"}
    box = ET.SubElement(track, "box", {"frame": str(frame), **state, **edges})
    ET.SubElement(box, "attribute", name="score").text = f"{row.score:.6f}"


def read_cvat(path: Path, video: VideoInfo) -> Tracks:
    """Read the boxes of all tracks. Raises InputError if it is no such file or is about frames of another size."""
    wanted = "CVAT for video 1.1 XML: track elements with box elements"
    with reading(path, wanted):
        try:
            root = ET.parse(path).getroot()
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from error
        tracks = root.findall("track")
        if not tracks:
            raise InputError(f"{path}: has no track; export as 'CVAT for video 1.1', not 'for images'")
        width, height = (root.findtext(f".//original_size/{side}") for side in ("width", "height"))
        if width and height:
            check_size(video, int(width), int(height), str(path))
        rows, gone = [], []
        for number, track in enumerate(tracks):
            identity = int(track.get("id", number))
            gone.append((0, identity))  # a track begins with its first box
            for box in track.findall("box"):
                frame = int(box.attrib["frame"])
                if box.get("outside") == "1":
                    gone.append((frame, identity))
                    continue
                x, y, right, bottom = (float(box.attrib[name]) for name in ("xtl", "ytl", "xbr", "ybr"))
                score = next((a.text for a in box.findall("attribute") if a.get("name") == "score"), None)
                rows.append(
                    Row(
                        frame, identity, (x, y, right - x, bottom - y), float(score or 1), track.get("label", LABEL),
                        box.get("keyframe") != "0",
                    )
                )  # fmt: skip
    return Tracks.checked(video, rows, str(path), gone)
