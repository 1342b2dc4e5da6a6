"""COCO-video: COCO's JSON with `videos` and track ids, as TAO and CocoVID have it.

Both spellings are written: `frame_index` and `track_id` (TAO), `frame_id` and `instance_id` (CocoVID). Frames and
boxes count from 0, ids of tracks from 0, all other ids from 1. pycocotools reads such a file as plain COCO.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lorat_plugin.interchange.tracks import (
    LABEL,
    UNBOUNDED,
    Row,
    Tracks,
    VideoInfo,
    check_size,
    frames_by_stem,
    only,
    read_json,
    reading,
    upright,
    whole,
)

CVAT_ATTRIBUTES = {"occluded", "outside", "keyframe", "track_id", "rotation"}  # its own; others are its users'


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
                losses.update({name: 1 for name in _losses(about)})
    return Tracks.checked(video, rows, str(path), gone, losses)


def _losses(attributes: dict[str, Any]) -> list[str]:
    """What a row does not hold of an annotation's attributes, those of CVAT's exports among them."""
    found = [f"values of the attribute '{name}' (not kept)" for name in attributes if name not in CVAT_ATTRIBUTES]
    if attributes.get("occluded"):
        found.append("marks 'occluded' (not kept)")
    if attributes.get("rotation"):
        found.append("rotated boxes (read as their upright bounds)")
    return found


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
