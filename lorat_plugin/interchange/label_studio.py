"""Label Studio's tasks for video: a `videorectangle` region an object, with a sequence of boxes.

Frames count from 1, boxes are percents of the frame, and `enabled` false on a box says that the object is not seen
after it until the next one. Fits a project with `<Video name="video" value="$video"/>` and `<VideoRectangle name="box"
toName="video"/>`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from lorat_plugin.boxes import xyxy_to_xywh
from lorat_plugin.interchange.tracks import LABEL, Row, Tracks, VideoInfo, clipped, only, read_json, reading


def write_label_studio(tracks: Tracks, path: Path) -> None:
    """Write one task with the tracks as a prediction; a region's score is the mean of its boxes', cut at the border."""
    video = tracks.video
    result = []
    for number, rows in tracks.objects().items():
        value = {
            "framesCount": video.frames.stop,
            "duration": video.frames.stop / video.fps,
            "sequence": [_keyframe(row, after, video) for row, after in zip(rows, (*rows[1:], None), strict=True)],
            "labels": [rows[0].label],
        }
        score = round(float(np.mean([row.score for row in rows])), 6)
        names = {"id": str(number), "type": "videorectangle", "from_name": "box", "to_name": "video"}
        result.append({**names, "value": value, "score": score})
    task = {"data": {"video": video.name}, "predictions": [{"model_version": "lorat_plugin", "result": result}]}
    path.write_text(json.dumps([task]), encoding="utf-8")


def _keyframe(row: Row, after: Row | None, video: VideoInfo) -> dict[str, Any]:
    percents = xyxy_to_xywh(clipped(row.box, video)) * 100 / np.array([video.width, video.height] * 2)
    sides = {key: round(float(v), 6) for key, v in zip(("x", "y", "width", "height"), percents, strict=True)}
    stays = after is not None and after.frame == row.frame + 1
    return {"frame": row.frame + 1, "time": (row.frame + 1) / video.fps, "enabled": stays, "rotation": 0, **sides}


def read_label_studio(path: Path, video: VideoInfo) -> Tracks:
    """Read a task's first annotation, or if it has none its first prediction.

    A task is found by its video's name if there are several. Raises InputError if it is no such file, or for a rotated
    box.
    """
    tasks = read_json(path)
    with reading(path, "Label Studio's JSON: tasks with annotations of type videorectangle"):
        task = only(tasks, lambda entry: Path(str(entry["data"]["video"])).stem, video, path)
        regions = (task.get("annotations") or task["predictions"])[0]["result"]
        regions = [region for region in regions if region["type"] == "videorectangle"]
        numbered = all(str(region["id"]).isdecimal() for region in regions)  # ours; Label Studio's own are random text
        pixels = np.array([video.width, video.height] * 2) / 100
        rows, gone = [], []
        for number, region in enumerate(regions):
            identity = int(region["id"]) if numbered else number
            gone.append((0, identity))  # a region begins with its first box
            for entry in region["value"]["sequence"]:
                if entry.get("rotation"):
                    raise ValueError(f"the box in frame {entry['frame']} is rotated; only upright ones are understood")
                x, y, w, h = np.array([entry[key] for key in ("x", "y", "width", "height")], np.float64) * pixels
                label = (region["value"].get("labels") or [LABEL])[0]
                score = float(region.get("score") or 1.0)
                rows.append(Row(int(entry["frame"]) - 1, identity, (x, y, w, h), score, str(label)))
                if not entry.get("enabled", True):
                    gone.append((int(entry["frame"]), identity))
    return Tracks.checked(video, rows, str(path), gone)
