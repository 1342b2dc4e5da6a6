"""Tiny data sets in every layout that the readers know; frames are JPEGs of a red square on noise."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import cv2
import numpy as np

from lorat_plugin.datasets.clips import write_sequences
from tests.helpers.sequences import square_sequence

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


def write_lasot(root: Path, names: tuple[str, ...] = LASOT_NAMES, hidden: tuple[int, int] = (0, 4)) -> Path:
    for seed, name in enumerate(names):
        home = root / name.rpartition("-")[0] / name
        boxes = write_video(home / "img", "%08d.jpg", 1, seed=seed)
        write_rows(home / "groundtruth.txt", boxes + ONE_BASED, "%d")
        for file, frame in zip(("full_occlusion.txt", "out_of_view.txt"), hidden, strict=True):
            flags = np.zeros(len(boxes), int)
            flags[frame] = 1
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


def write_got10k_val(root: Path) -> Path:
    made = {f"GOT-10k_Val_{i:06d}": square_sequence(7, i) for i in (1, 2)}
    for _, boxes in made.values():
        boxes[3] = np.nan
    write_sequences(made, root)
    return root


def write_got10k_test(root: Path) -> Path:
    home = root / "test" / "GOT-10k_Test_000001"
    write_rows(home / "groundtruth.txt", write_video(home, "%08d.jpg", 1)[:1])
    (root / "test" / "list.txt").write_text("GOT-10k_Test_000001\n")
    return root


def write_trackingnet_test(root: Path) -> Path:
    for name in ("b_1", "a_0"):
        boxes = write_video(root / "TEST" / "frames" / name, "%d.jpg", 0, length=12)
        write_rows(root / "TEST" / "anno" / f"{name}.txt", boxes[:1], "%.2f")
    return root


def write_otb(root: Path) -> Path:
    write_rows(root / "Boy" / "groundtruth_rect.txt", write_video(root / "Boy" / "img", "%04d.jpg", 1), "%d")
    boxes = write_video(root / "Jogging" / "img", "%04d.jpg", 1)
    for target in (1, 2):
        write_rows(root / "Jogging" / f"groundtruth_rect.{target}.txt", boxes + np.array([target, 0, 0, 0]), "%d")
    boxes = write_video(root / "Football1" / "img", "%04d.jpg", 1, length=78)  # of which the toolkit takes 74
    write_rows(root / "Football1" / "groundtruth_rect.txt", boxes[:74], "%d")
    return root


def write_uav(root: Path, version: str = "UAV123", name: str = "person8_2", folder: str = "person8") -> Path:
    """The sequence's published frames, all of them one image."""
    metas = json.loads((Path(got10k_datasets()) / "uav123.json").read_text())[version][name]
    first, last = metas["start_frame"], metas["end_frame"]
    home = root / "data_seq" / "UAV123" / folder
    boxes = np.tile(write_video(home, "%06d.jpg", first, length=1), (last - first + 1, 1))
    for number in range(first + 1, last + 1):
        os.link(home / f"{first:06d}.jpg", home / f"{number:06d}.jpg")
    boxes[2] = np.nan
    write_rows(root / "anno" / version / f"{name}.txt", boxes, "%g")
    write_rows(root / "anno" / version / "att" / f"{name}.txt", np.eye(12)[[3]], "%d")
    return root


def got10k_datasets() -> str:
    """The folder of the toolkit's data set classes."""
    return next(iter(importlib.util.find_spec("got10k").submodule_search_locations)) + "/datasets"


def write_nfs(root: Path) -> Path:
    for fps, rows in ((30, 8), (240, 1)):  # 8 rows for each frame that was kept
        boxes = write_video(root / "cup" / str(fps) / "cup", "%05d.jpg", 1, length=7)
        corners = np.hstack([np.zeros((7, 1)), boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])
        np.savetxt(root / "cup" / str(fps) / "cup.txt", np.repeat(corners, rows, axis=0), "%d")
    return root


def write_dtb70(root: Path) -> Path:
    boxes = write_video(root / "Animal1" / "img", "%05d.jpg", 1)
    write_rows(root / "Animal1" / "groundtruth_rect.txt", boxes, "%d")
    return root


def write_tcolor128(root: Path) -> Path:
    boxes = write_video(root / "Bee_ce" / "img", "%04d.jpg", 1, length=9)
    write_rows(root / "Bee_ce" / "Bee_ce_gt.txt", boxes[2:], "%d")
    (root / "Bee_ce" / "Bee_ce_frames.txt").write_text("3,9\n")
    return root


def write_vot(root: Path) -> Path:
    """A sequence each of rectangles, polygons and masks, with frame 2 without a region."""
    for name in ("rectangle", "polygon", "mask"):
        boxes = write_video(root / name / ("" if name == "polygon" else "color"), "%08d.jpg", 1).astype(int)
        lines = []
        for x, y, w, h in boxes.tolist():
            polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
            runs = [2, *([w, 4] * (h - 1)), w]  # two columns beside it on either side; zeros at the end are left out
            mask = [x - 2, y, w + 4, h, *runs]
            lines.append({"rectangle": "", "polygon": "", "mask": "m"}[name])
            lines[-1] += ",".join(map(str, {"rectangle": [x, y, w, h], "polygon": polygon, "mask": mask}[name]))
        lines[2] = {"rectangle": "0", "polygon": "nan,nan,nan,nan", "mask": "m0,0,4,4,16"}[name]
        (root / name / "groundtruth.txt").write_text("\n".join(lines) + "\n")
    (root / "list.txt").write_text("polygon\nrectangle\nmask\n")
    return root
