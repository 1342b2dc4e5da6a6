"""Tiny data sets in every layout that the readers know; frames are JPEGs of a red square on noise."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from tests.sequences import square_sequence

LASOT_NAMES = ("airplane-1", "dog-7", "airplane-10")
ONE_BASED = np.array([1, 1, 0, 0])
GOT10K_NAMES = tuple(f"GOT-10k_Train_{i:06d}" for i in (1, 2, 3, 5))


def write_video(folder: Path, pattern: str, first: int, length: int = 7, seed: int = 0) -> np.ndarray:
    """Write frames; returns boxes (length, 4) x, y, w, h counted from 0."""
    frames, boxes = square_sequence(length, seed)
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(frames, start=first):
        cv2.imwrite(str(folder / (pattern % number)), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    return boxes


def write_rows(path: Path, rows: np.ndarray, form: str = "%.4f") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savetxt(path, rows, fmt=form, delimiter=",")


def write_lasot(root: Path) -> Path:
    for seed, name in enumerate(LASOT_NAMES):
        home = root / name.rpartition("-")[0] / name
        boxes = write_video(home / "img", "%08d.jpg", 1, seed=seed)
        write_rows(home / "groundtruth.txt", boxes + ONE_BASED, "%d")
        for file, hidden in (("full_occlusion.txt", 0), ("out_of_view.txt", 4)):
            flags = np.zeros(len(boxes), int)
            flags[hidden] = 1
            (home / file).write_text(",".join(map(str, flags)) + "\n")
    return root


def write_got10k(root: Path) -> Path:
    for seed, name in enumerate(GOT10K_NAMES):
        home = root / "train" / name
        boxes = write_video(home, "%08d.jpg", 1, seed=seed)
        write_rows(home / "groundtruth.txt", boxes + 0.1234)
        write_rows(home / "absence.label", np.arange(len(boxes)) == 3, "%d")
    (root / "train" / "list.txt").write_text("\n".join(GOT10K_NAMES) + "\n")
    return root


def write_trackingnet(root: Path) -> Path:
    for part, name in ((0, "b-C_0"), (0, "a_1"), (2, "c_2"), (10, "d_3")):
        home = root / f"TRAIN_{part}"
        boxes = write_video(home / "frames" / name, "%d.jpg", 0, length=12, seed=part)
        write_rows(home / "anno" / f"{name}.txt", boxes, "%.2f")
    return root


def write_coco(root: Path) -> Path:
    images, annotations = [], []
    for number in (9, 25, 30):
        boxes = write_video(root / "images" / "train2017", "%012d.jpg", number, 1, seed=number)
        images.append({"id": number, "file_name": f"{number:012d}.jpg", "width": 120, "height": 90})
        for i in range(3):
            box = (boxes[0] + [i, 2 * i, i, 0]).tolist()
            annotations.append({"id": number * 10 + i, "image_id": number, "bbox": box, "iscrowd": int(i == 1)})
    (root / "annotations").mkdir()
    content = {"images": images, "annotations": annotations, "categories": []}
    (root / "annotations" / "instances_train2017.json").write_text(json.dumps(content))
    return root


def write_vasttrack(root: Path) -> Path:
    for name in ("Bee-1", "Bee-2"):
        home = root / "Bee" / name
        boxes = write_video(home / "imgs", "%05d.jpg", 1)
        boxes[2] = -1
        write_rows(home / "Groundtruth.txt", boxes + ONE_BASED, "%d")
    return root


def write_tnl2k(root: Path) -> Path:
    for name in ("Boat_video", "Arrow_video"):
        write_rows(root / name / "groundtruth.txt", write_video(root / name / "imgs", "frame%d.jpg", 8), "%d")
    return root


def write_clips(root: Path) -> Path:
    for name in ("one", "two"):
        write_rows(root / name / "groundtruth.txt", write_video(root / name, "%04d.jpg", 0))
    return root


WRITERS = {
    "lasot": write_lasot,
    "got10k": write_got10k,
    "trackingnet": write_trackingnet,
    "coco": write_coco,
    "vasttrack": write_vasttrack,
    "tnl2k": write_tnl2k,
    "clips": write_clips,
}
OPTIONS = {"lasot": {"chosen": LASOT_NAMES}}
