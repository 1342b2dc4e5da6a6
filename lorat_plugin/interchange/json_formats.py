"""JSON formats: COCO-video and Label Studio's tasks.

COCO-video is COCO's JSON with `videos` and track ids, as TAO and CocoVID have it. Both spellings are written:
`frame_index` and `track_id` (TAO), `frame_id` and `instance_id` (CocoVID). Frames and boxes count from 0, ids of tracks
from 0, all other ids from 1. pycocotools reads such a file as plain COCO.

Label Studio's task for video has a `videorectangle` region for each object, with a sequence of boxes. Frames count from
1 at a rate of Label Studio's own (`frameRate` of its Video tag, 24 a second if it has none); boxes are percents of the
frame, and `enabled` false on a box says that the object is not seen after it until the next one. Fits a project with
`<Video name="video" value="$video"/>` and `<VideoRectangle name="box" toName="video"/>`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lorat_plugin.boxes import xyxy_to_xywh
from lorat_plugin.errors import InputError
from lorat_plugin.interchange.tracks import (
    LABEL,
    UNBOUNDED,
    Row,
    Tracks,
    VideoInfo,
    check_size,
    clipped,
    frames_by_stem,
    only,
    read_json,
    reading,
    upright,
    whole,
)

CVAT_ATTRIBUTES = {"occluded", "outside", "keyframe", "track_id", "rotation"}  # its own; others are its users'
DEFAULT_RATE = 24  # frames a second where a project sets none
GREATEST_PERCENT = 110  # of a side of a box; it may reach a little over the frame's border


def write_coco(tracks: Tracks, path: Path) -> None:
    """Write tracks with their scores as one file."""
    video = tracks.video
    category = {name: number for number, name in enumerate(tracks.labels(), start=1)}
    image = {frame: number for number, frame in enumerate(video.frames, start=1)}
    size = {"width": video.width, "height": video.height}
    content = {
        "videos": [{"id": 1, "name": video.name, **size, "fps": video.fps, "length": len(video.frames)}],
        "images": [
            {
                "id": number, "video_id": 1, "file_name": f"{video.name}/{video.file_name(frame)}", **size,
                "frame_index": frame, "frame_id": frame,
            }
            for frame, number in image.items()
        ],
        "tracks": [
            {"id": number, "video_id": 1, "category_id": category[rows[0].label]}
            for number, rows in tracks.objects().items()
        ],
        "annotations": [
            {
                "id": number, "image_id": image[row.frame], "video_id": 1, "category_id": category[row.label],
                "track_id": row.id, "instance_id": row.id, "bbox": row.box, "area": row.box[2] * row.box[3],
                "iscrowd": 0, "score": row.score,
            }
            for number, row in enumerate(tracks.rows, start=1)
        ],
        "categories": [{"id": number, "name": name} for name, number in category.items()],
    }  # fmt: skip
    path.write_text(json.dumps(content), encoding="utf-8")


def read_coco(path: Path, video: VideoInfo) -> Tracks:
    """Read one video's tracks: COCO-video of either spelling, YouTube-VIS, or CVAT's COCO with ids among attributes.

    An object whose box is null is absent. Crowds and boxes without a track id are left out. Raises InputError if it is
    no such file, of another video, or has annotations of images that it does not list.
    """
    content = read_json(path)
    losses: Counter[str] = Counter()
    rows: list[Row] = []
    gone: list[tuple[int, int]] = []
    with reading(path, "COCO-video: videos, images with frame_index or frame_id, annotations with track_id"):
        if "items" in content and "annotations" not in content:
            raise ValueError("it is Datumaro's own JSON: export as 'CVAT for video 1.1' or COCO")
        boxes = _image_boxes if "images" in content else _youtube_vis_boxes
        names = {entry["id"]: str(entry["name"]) for entry in content.get("categories", ())}
        for entry, frame, box in boxes(content, video, path):
            about = entry.get("attributes") or {}
            numbers = [entry.get("track_id"), entry.get("instance_id"), about.get("track_id")]
            identity = next((whole(float(number)) for number in numbers if number is not None), None)
            if entry.get("iscrowd"):
                losses["crowds (not read)"] += 1
            elif identity is None:
                losses["boxes without a track id (not read)"] += 1
            elif box is None or about.get("outside"):
                gone.append((frame, identity))
            else:
                if len(box) != 4:
                    raise ValueError(f"annotation {entry.get('id')} has the box {box}")
                if names and entry.get("category_id") not in names:
                    raise ValueError(
                        f"annotation {entry.get('id')} has category {entry.get('category_id')}, not listed"
                    )
                x, y, w, h = map(float, box)
                degrees = 0.0 if entry.get("segmentation") else float(about.get("rotation") or 0)  # a polygon is turned
                upright_box = upright((x, y, w, h), degrees, (x + w / 2, y + h / 2))
                label, score = names.get(entry.get("category_id"), LABEL), float(entry.get("score", 1.0))
                rows.append(Row(frame, identity, upright_box, score, label, bool(about.get("keyframe", True))))
                losses.update(f"values of the attribute '{n}' (not kept)" for n in about if n not in CVAT_ATTRIBUTES)
                losses.update(["marks 'occluded' (not kept)"] * bool(about.get("occluded")))
                losses.update(["rotated boxes (read as their upright bounds)"] * bool(about.get("rotation")))
    return Tracks.checked(video, rows, str(path), gone, losses)


def _image_boxes(content: dict[str, Any], video: VideoInfo, path: Path) -> Iterator[tuple[dict[str, Any], int, Any]]:
    """Annotations of a file with images, each with its frame and its box, None if absent."""
    chosen = None
    if "videos" in content:
        chosen = only(content["videos"], lambda entry: [str(entry["name"])], video, path)["id"]
    numbers = frames_by_stem(video)
    frames: dict[Any, int | None] = {}
    for image in content["images"]:
        if image["id"] in frames:
            raise ValueError(f"two images have the id {image['id']}")
        frames[image["id"]] = None  # of another video
        if chosen is None:
            stem = Path(str(image["file_name"])).stem
            match = re.fullmatch("frame_([0-9]+)", stem)
            if stem not in numbers and (match is None or numbers):
                raise ValueError(f"image {image['file_name']} has no video and is named after no frame of {video.name}")
            frames[image["id"]] = numbers[stem] if numbers else int(match[1]) if match else 0
        elif image["video_id"] == chosen:
            frames[image["id"]] = whole(float(image["frame_index"] if "frame_index" in image else image["frame_id"]))
        else:
            continue
        check_size(video, image["width"], image["height"], str(path))
    known = [frame for frame in frames.values() if frame is not None]
    if len({*known}) < len(known):
        raise ValueError("two of its images are the same frame: export a single video")
    for entry in content["annotations"]:
        if entry["image_id"] not in frames:
            raise ValueError(f"annotation {entry.get('id')} is of image {entry['image_id']}, which is not listed")
        frame = frames[entry["image_id"]]
        if frame is not None:
            yield entry, frame, entry["bbox"]


def _youtube_vis_boxes(
    content: dict[str, Any], video: VideoInfo, path: Path
) -> Iterator[tuple[dict[str, Any], int, Any]]:
    """Annotations of YouTube-VIS, an object each, for each frame with its box there, None if absent."""

    def texts(entry: dict[str, Any]) -> list[str]:
        return [str(entry[key]) for key in ("name",) if key in entry] + [str(Path(entry["file_names"][0]).parent)]

    chosen = only(content["videos"], texts, video, path)
    check_size(video, chosen["width"], chosen["height"], str(path))
    stems = [Path(name).stem for name in chosen["file_names"]]
    if video.file_names:
        numbers = frames_by_stem(video)
        frames = [numbers[stem] for stem in stems]
    elif len(stems) == len(video.frames) or video.frames == UNBOUNDED:
        frames = list(range(len(stems)))
    else:
        raise ValueError(f"it lists {len(stems)} frames, {video.name} has {len(video.frames)}: which ones is not said")
    for entry in content["annotations"]:
        if entry["video_id"] == chosen["id"]:
            for frame, box in zip(frames, entry["bboxes"], strict=True):
                yield {"track_id": entry["id"], **entry}, frame, box


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
