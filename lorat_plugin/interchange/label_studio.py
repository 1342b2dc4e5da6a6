"""Label Studio's tasks for video: a `videorectangle` region an object, with a sequence of boxes.

Frames count from 1 at a rate of Label Studio's own (`frameRate` of its Video tag, 24 a second if it has none); boxes
are percents of the frame, and `enabled` false on a box says that the object is not seen after it until the next one.
Fits a project with `<Video name="video" value="$video"/>` and `<VideoRectangle name="box" toName="video"/>`.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from lorat_plugin.boxes import xyxy_to_xywh
from lorat_plugin.errors import InputError
from lorat_plugin.interchange.tracks import LABEL, Row, Tracks, VideoInfo, clipped, only, read_json, reading, upright

DEFAULT_RATE = 24  # frames a second where a project sets none
GREATEST_PERCENT = 110  # of a side of a box; it may reach a little over the frame's border


def write_label_studio(tracks: Tracks, path: Path) -> None:
    """Write one task with the tracks as a prediction."""
    prediction = {"model_version": "lorat_plugin", "result": video_regions(tracks)}
    path.write_text(json.dumps([{"data": {"video": tracks.video.name}, "predictions": [prediction]}]), encoding="utf-8")


def video_regions(tracks: Tracks) -> list[dict[str, Any]]:
    """A prediction's regions, one for each object: boxes cut at the border, the score their mean."""
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
    return result


def _keyframe(row: Row, after: Row | None, video: VideoInfo) -> dict[str, Any]:
    percents = xyxy_to_xywh(clipped(row.box, video)) * 100 / np.array([video.width, video.height] * 2)
    sides = {key: round(float(v), 6) for key, v in zip(("x", "y", "width", "height"), percents, strict=True)}
    stays = after is not None and after.frame == row.frame + 1
    return {"frame": row.frame + 1, "time": (row.frame + 1) / video.fps, "enabled": stays, "rotation": 0, **sides}


def read_label_studio(path: Path, video: VideoInfo) -> Tracks:
    """Read a task's annotation that was not cancelled, or if it has none its prediction.

    A task is found by its video's name if there are several, and among several annotations the one marked as ground
    truth is meant. Frames are converted from Label Studio's rate to the video's, a rotated box becomes its upright
    bounds. Raises InputError if it is no such file, or for several annotations without such a mark.
    """
    content = read_json(path)
    losses: Counter[str] = Counter()
    with reading(path, "Label Studio's JSON (not JSON_MIN): tasks with annotations of type videorectangle"):
        task = only(content if isinstance(content, list) else [content], _video_texts, video, path)
        regions = []
        for region in _result(task, path, losses):
            if region["type"].lower() == "videorectangle":
                regions.append(region)
            else:
                losses[f"results of type '{region['type']}' (not read)"] += 1
        numbered = all(str(region["id"]).isdecimal() for region in regions)  # ours; Label Studio's own are random text
        rows: list[Row] = []
        gone: list[tuple[int, int]] = []
        for number, region in enumerate(regions):
            rows += _read_region(region, int(region["id"]) if numbered else number, video, gone, losses)
    return Tracks.checked(video, rows, str(path), gone, losses)


def _video_texts(task: dict[str, Any]) -> list[str]:
    texts = [task["data"].get("video"), task.get("file_upload"), *task["data"].values()]
    return [text for text in texts if isinstance(text, str)]


def _result(task: dict[str, Any], path: Path, losses: Counter[str]) -> list[dict[str, Any]]:
    """The regions of the annotation that counts, else of the prediction; counts the others in `losses`."""
    drawn = task.get("annotations") or []
    kept = [entry for entry in drawn if not entry.get("was_cancelled")]
    if len(kept) < len(drawn):
        losses["cancelled annotations (not read)"] += len(drawn) - len(kept)
    if not kept and task.get("drafts"):
        losses["drafts (not read: submit them first)"] += len(task["drafts"])
    what = "annotations" if kept else "predictions"
    entries = kept or task.get("predictions") or []
    if len(entries) > 1:
        marked = [entry for entry in entries if entry.get("ground_truth")]
        if len(marked) != 1:
            raise InputError(
                f"{path}: its task has {len(entries)} {what}, {len(marked)} of them marked as ground truth: mark one,"
                " or export a single one"
            )
        losses[f"{what} that are not marked as ground truth (not read)"] += len(entries) - 1
        entries = marked
    return list(entries[0]["result"]) if entries else []


def _read_region(
    region: dict[str, Any], identity: int, video: VideoInfo, gone: list[tuple[int, int]], losses: Counter[str]
) -> list[Row]:
    """The rows of one object; adds to `gone` where it is absent, counts in `losses` what rows do not hold."""
    value = region["value"]
    scale = _frame_scale(value, video)
    labels = value.get("labels") or [LABEL]
    if len(labels) > 1:
        losses["further labels of an object (not kept)"] += len(labels) - 1
    sides = [float(entry[key]) for entry in value["sequence"] for key in ("x", "y", "width", "height")]
    if sides and max(sides) <= 1:
        raise ValueError(f"the boxes of region {region['id']} are fractions of the frame, not percents")
    score = region.get("score")
    gone.append((0, identity))  # a region begins with its first box
    rows: dict[int, Row] = {}
    for entry in sorted(value["sequence"], key=lambda entry: (bool(entry.get("auto")), entry["frame"])):
        frame = round((int(entry["frame"]) - 1) * scale)
        if not entry.get("enabled", True):
            gone.append((max(frame + 1, round(int(entry["frame"]) * scale)), identity))
        if scale < 1 and frame in rows:
            losses["boxes between two frames of the video (not read)"] += 1
            continue
        if entry.get("rotation"):
            losses["rotated boxes (read as their upright bounds)"] += 1
        row = Row(frame, identity, _box(entry, video), 1.0 if score is None else float(score), str(labels[0]))
        if frame in rows:
            raise ValueError(f"region {region['id']} has two boxes in frame {entry['frame']}")
        rows[frame] = row._replace(key=not entry.get("auto"))
    return list(rows.values())


def _box(entry: dict[str, Any], video: VideoInfo) -> tuple[float, float, float, float]:
    """Upright bounds x, y, w, h in pixels of a box in percents, which is turned about its upper left corner."""
    sides = np.array([entry[key] for key in ("x", "y", "width", "height")], np.float64)
    if max(sides[:2]) > 100 or max(sides[2:]) > GREATEST_PERCENT:
        raise ValueError(
            f"the box {sides.tolist()} in frame {entry['frame']} is not in percents of the frame, 0 to 100"
        )
    x, y, w, h = (sides * np.array([video.width, video.height] * 2) / 100).tolist()
    return upright((x, y, w, h), float(entry.get("rotation") or 0), (x, y))


def _frame_scale(value: dict[str, Any], video: VideoInfo) -> float:
    """Frames of the video for one of Label Studio's, whose rate is framesCount / duration, or frame / time of a box.

    1 where the numbers of frames agree within one, and where the file states neither. Raises ValueError for
    another number of frames than that of a folder, which has no rate.
    """
    count, seconds = float(value.get("framesCount") or 0), float(value.get("duration") or 0)
    if abs(count - video.frames.stop) <= 1 or (count <= 0 and video.file_names):
        return 1.0
    if video.file_names:
        raise ValueError(
            f"it has {count:.0f} frames, not {video.frames.stop}: set frameRate of Label Studio's Video tag to the"
            " video's rate and label again"
        )
    if count <= 0 or seconds <= 0:  # the last box has a number and a time, too
        last: dict[str, Any] = max(value["sequence"], key=lambda entry: entry["frame"], default={})
        count, seconds = float(last.get("frame") or 0), float(last.get("time") or 0)
    if seconds <= 0 or abs(count - seconds * video.fps) <= 1:
        return 1.0
    rates = (DEFAULT_RATE, round(count / seconds))  # framesCount is a rounded product
    return video.fps / next((rate for rate in rates if abs(rate * seconds - count) <= 1), count / seconds)
