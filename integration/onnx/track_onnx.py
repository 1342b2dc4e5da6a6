"""Track one target with an exported model, ONNX Runtime, numpy and OpenCV alone. Prints x,y,w,h,score for each frame.

python track_onnx.py lorat_tiny_onnx video.mp4 --box 337,218,74,76
"""

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
import onnxruntime


def whole(low, high, limit):
    """The whole pixels that a rectangle touches, from 0 to a limit: its corners [[x1, y1], [x2, y2]]."""
    return np.clip([np.floor(low), np.floor(high + 1 - 1e-4)], 0, limit).astype(int)


def crop(frame, box, factor, size, fill):
    """A square around a box (x1, y1, x2, y2), as the network takes it; crop = scale * frame + shift."""
    sides, edge = box[2:] - box[:2], np.array(frame.shape[1::-1])
    scale = size / np.sqrt(np.prod(sides + (factor - 1) * sides.mean()))
    shift = size / 2 - scale * (box[:2] + box[2:]) / 2
    target = whole(shift, edge * scale + shift, size)
    source = whole(*(target - shift) / scale, edge)
    (left, top), (right, bottom) = source
    (x1, y1), (x2, y2) = target
    cut = np.full((size, size, 3), fill, np.float32)
    cut[y1:y2, x1:x2] = cv2.resize(np.float32(frame[top:bottom, left:right]), (x2 - x1, y2 - y1))
    scale = (target[1] - target[0]) / (source[1] - source[0])
    pixels = (cut / 255 - about["mean"]) / about["deviation"]
    return np.float32(pixels).transpose(2, 0, 1)[None], scale, target[0] - source[0] * scale


def encode(frame, box):
    """Tokens of the target, and the colour outside the frame."""
    fill, grid = cv2.mean(frame)[:3], v["template_grid"]
    z, scale, shift = crop(frame, box, v["template_area_factor"], v["template_size"], fill)
    (x1, y1), (x2, y2) = whole(*(box.reshape(2, 2) * scale + shift) / v["patch_size"], grid)
    mask = np.zeros((1, grid, grid), np.int64)
    mask[:, y1:y2, x1:x2] = 1
    return template.run(None, {"template": z, "template_mask": mask})[0], fill


def follow(frame, box, tokens, fill):
    """The box in the next frame, and its score."""
    centre, half = (box[:2] + box[2:]) / 2, np.maximum(box[2:] - box[:2], v["min_object_size"]) / 2
    around = np.concatenate([centre - half, centre + half])
    x, scale, shift = crop(frame, around, v["search_area_factor"], v["search_size"], fill)
    scores, boxes = search.run(None, {"tokens": tokens, "search": x})
    scores, window = 1 / (1 + np.exp(-scores[0])), np.hanning(v["search_grid"])
    best = np.argmax(scores * (1 - v["window_weight"]) + np.outer(window, window) * v["window_weight"])
    found = ((boxes.reshape(-1, 2, 2)[best] * v["search_size"] - shift) / scale).clip(0, frame.shape[1::-1]).ravel()
    return (found if (found[2:] > found[:2]).all() else box), scores.flat[best]


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("model", type=Path, help="folder that `lorat export --format onnx` wrote")
parser.add_argument("video", help="file, or frames as %%08d.jpg")
parser.add_argument("--box", required=True, help="x,y,w,h of the target in the first frame, pixels")
options = parser.parse_args()
about = json.loads((options.model / "lorat.json").read_text())
v = about["variant"]
template, search = (
    onnxruntime.InferenceSession(options.model / about[part]["file"]) for part in ("template", "search")
)
box, video, target = np.array(options.box.split(","), float), cv2.VideoCapture(options.video), None
box[2:] += box[:2]
while (read := video.read())[0]:
    frame = read[1][..., ::-1].copy()
    if target is None:
        target, score = encode(frame, box), 1.0
    else:
        box, score = follow(frame, box, *target)
    print(*np.round([*box[:2], *(box[2:] - box[:2])], 3), round(float(score), 4), sep=",")
