"""COCO-video: COCO's JSON with `videos` and track ids, as TAO and CocoVID have it.

Both spellings are written: `frame_index` and `track_id` (TAO), `frame_id` and `instance_id` (CocoVID). Frames and
boxes count from 0, ids of tracks from 0, all other ids from 1. pycocotools reads such a file as plain COCO.
"""

from __future__ import annotations

import json
from pathlib import Path

from lorat_plugin.interchange.tracks import LABEL, Row, Tracks, VideoInfo, check_size, only, read_json, reading


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
    """Read one video's tracks, of either spelling. Raises InputError if it is no such file or of another video."""
    content = read_json(path)
    with reading(path, "COCO-video: videos, images with frame_index or frame_id, annotations with track_id"):
        chosen = only(content["videos"], lambda entry: str(entry["name"]), video, path)["id"]
        names = {entry["id"]: str(entry["name"]) for entry in content.get("categories", ())}
        frames = {}
        for image in content["images"]:
            if image["video_id"] == chosen:
                check_size(video, image["width"], image["height"], str(path))
                frames[image["id"]] = int(image["frame_index"] if "frame_index" in image else image["frame_id"])
        rows = []
        for entry in content["annotations"]:
            if entry["image_id"] in frames:
                x, y, w, h = map(float, entry["bbox"])
                identity = int(entry["track_id"] if "track_id" in entry else entry["instance_id"])
                label = names.get(entry.get("category_id"), LABEL)
                score = float(entry.get("score", 1.0))
                rows.append(Row(frames[entry["image_id"]], identity, (x, y, w, h), score, label))
    return Tracks.checked(video, rows, str(path))
