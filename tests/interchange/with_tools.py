"""Reads and writes label files with the tools' own libraries, in an environment of theirs, without the package.

    python -m venv tools && tools/bin/pip install cvat-sdk label-studio-sdk datumaro
    LORAT_LABEL_TOOLS=tools/bin/python python -m pytest tests/interchange/test_tools.py

`with_tools.py read FOLDER` prints as JSON what the tools read in the files that the package wrote there; `with_tools.py
write FOLDER` writes files of theirs for the package to read.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from cvat_sdk import models
from datumaro.components.annotation import Bbox
from datumaro.components.dataset import Dataset
from datumaro.components.dataset_base import DatasetItem
from datumaro.components.media import Image
from datumaro.plugins.data_formats.cvat.base import CvatBase
from label_studio_sdk._extensions.label_studio_tools.postprocessing.video import extract_key_frames
from label_studio_sdk.label_interface import LabelInterface

CONFIG = (
    '<View><Video name="video" value="$video"/><VideoRectangle name="box" toName="video"/>'
    '<Labels name="kinds" toName="video"><Label value="person"/><Label value="car"/></Labels></View>'
)
WIDTH, HEIGHT = 120, 90
BOXES = {0: (10.0, 20.0, 30.0, 40.0), 2: (14.0, 22.0, 30.0, 40.0)}  # of a car with id 1, by frame


def read_cvat(path: Path) -> dict[str, Any]:
    """Boxes as Datumaro reads them, and the track that a CVAT server would get for its key frames."""
    boxes = []
    tracks: dict[int, list[models.TrackedShapeRequest]] = {}
    for item in CvatBase(str(path)):
        for shape in item.annotations:
            frame, about = int(item.id.removeprefix("frame_")), shape.attributes
            boxes.append([frame, about["track_id"], about["outside"], about["keyframe"], *map(float, shape.get_bbox())])
            if about["keyframe"]:
                x, y, w, h = map(float, shape.get_bbox())
                request = models.TrackedShapeRequest(
                    type=models.ShapeType("rectangle"), frame=frame, outside=about["outside"],
                    points=[x, y, x + w, y + h],
                )  # fmt: skip
                tracks.setdefault(about["track_id"], []).append(request)
    requests = [models.LabeledTrackRequest(frame=s[0].frame, label_id=1, shapes=s) for s in tracks.values()]
    sent = models.LabeledDataRequest(tracks=requests).to_dict()["tracks"]
    return {"boxes": sorted(boxes), "imported": [[shape["frame"] for shape in track["shapes"]] for track in sent]}


def read_label_studio(path: Path) -> dict[str, Any]:
    """The prediction's key frames, after Label Studio's own check, and the frames that it fills in between."""
    (task,) = json.loads(path.read_text())
    interface = LabelInterface(CONFIG)
    regions = task["predictions"][0]["result"]
    valid = interface.validate_task({"data": task["data"]})
    for region in regions:
        interface.get_control("box")._value_class(**region["value"])
    keys = {region["id"]: [[k["frame"], k["enabled"]] for k in region["value"]["sequence"]] for region in regions}
    filled = {region["id"]: len(region["value"]["sequence"]) for region in extract_key_frames(regions)}
    return {"valid": bool(valid), "keys": keys, "filled": filled}


def read_all(folder: Path) -> dict[str, Any]:
    """What the tools read in the package's files."""
    coco = Dataset.import_from(str(folder / "coco"), "coco_instances")
    mot = Dataset.import_from(str(folder / "mot"), "mot_seq")
    return {
        "cvat": read_cvat(folder / "track_cvat.xml"),
        "labelstudio": read_label_studio(folder / "track_labelstudio.json"),
        "coco": sorted(np.round(box.get_bbox(), 3).tolist() for item in coco for box in item.annotations),
        "mot": sorted([int(item.id), *np.round(b.get_bbox(), 3).tolist()] for item in mot for b in item.annotations),
    }


def write_all(folder: Path) -> None:
    """Files of the tools: Datumaro's CVAT for images, MOT, COCO and YOLO, and Label Studio's filled-in export."""
    items = [
        DatasetItem(
            id=f"frame_{frame:06d}",
            subset="train",
            media=Image.from_numpy(np.zeros((HEIGHT, WIDTH, 3), np.uint8)),
            annotations=[
                Bbox(*BOXES[frame], label=0, attributes={"track_id": 1, "occluded": False, "keyframe": True})
            ] if frame in BOXES else [],
        )
        for frame in range(3)
    ]  # fmt: skip
    dataset = Dataset.from_iterable(items, categories=["car", "person"])
    for name in ("cvat", "mot_seq_gt", "coco_instances", "yolo", "datumaro"):
        dataset.export(str(folder / name), name, save_media=name == "yolo")
    sequence = [
        {"frame": frame + 1, "enabled": frame == 0, "time": (frame + 1) / 25, "rotation": 0,
         "x": x / WIDTH * 100, "y": y / HEIGHT * 100, "width": w / WIDTH * 100, "height": h / HEIGHT * 100}
        for frame, (x, y, w, h) in BOXES.items()
    ]  # fmt: skip
    region = {
        "id": "aB3x", "type": "videorectangle", "from_name": "box", "to_name": "video",
        "value": {"framesCount": 3, "duration": 0.12, "sequence": sequence, "labels": ["car"]},
    }  # fmt: skip
    task = {"data": {"video": "walk.mp4"}, "annotations": [{"result": extract_key_frames([region])}]}
    (folder / "labelstudio.json").write_text(json.dumps([task]))


if __name__ == "__main__":
    mode, place = sys.argv[1], Path(sys.argv[2])
    if mode == "read":
        print(json.dumps(read_all(place)))
    else:
        write_all(place)
