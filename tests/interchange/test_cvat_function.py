"""LoRAT as a tracking function of cvat-sdk, and supervision's process_video with a detector that starts it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from lorat_plugin import LoRATTracker, MultiObjectTracker, save_checkpoint
from tests.helpers.sequences import square_sequence

ROOT = Path(__file__).parents[2] / "integration"


def load(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_cvat_gets_the_boxes_of_the_tracker() -> None:
    cvataa = pytest.importorskip("cvat_sdk.auto_annotation")
    function = load(ROOT / "cvat" / "lorat_function.py").create(model="lorat_tiny", device="cpu", absent_below=0.0)
    assert isinstance(function.spec, cvataa.TrackingFunctionSpec)
    frames, boxes = square_sequence(4)
    images = [function.preprocess_image(None, Image.fromarray(frame)) for frame in frames]
    x, y, w, h = map(float, boxes[0])
    states = [
        function.init_tracking_state(None, images[0], cvataa.TrackableShape(type="rectangle", points=points))
        for points in ([x, y, x + w, y + h], [x + 5, y + 5, x + w, y + h])
    ]
    tracker = LoRATTracker.from_pretrained("lorat_tiny", device="cpu")
    tracker.init(frames[0], boxes[0])
    for image, frame in zip(images[1:], frames[1:], strict=True):
        shape, other = (function.track(None, image, state) for state in states)
        left, top, width, height = tracker.update(frame).box
        assert shape.type == other.type == "rectangle" and shape.points != other.points
        np.testing.assert_allclose(shape.points, [left, top, left + width, top + height], atol=1e-3)


def test_cvat_gets_no_shape_of_an_absent_target(tiny_network, tmp_path) -> None:
    cvataa = pytest.importorskip("cvat_sdk.auto_annotation")
    weights = save_checkpoint(tiny_network, tmp_path / "tiny.safetensors")
    function = load(ROOT / "cvat" / "lorat_function.py").create(model=str(weights), device="cpu", absent_below=0.999)
    frames, boxes = square_sequence(4)
    x, y, w, h = map(float, boxes[0])
    shape = cvataa.TrackableShape(type="rectangle", points=[x, y, x + w, y + h])
    state = function.init_tracking_state(None, frames[0], shape)
    assert [function.track(None, frame, state) is None for frame in frames[1:]] == [False, False, True]


def test_a_detector_starts_and_the_tracker_follows(tiny_network, tmp_path) -> None:
    sv = pytest.importorskip("supervision")
    frames, boxes = square_sequence(5)
    source, target = tmp_path / "in.mp4", tmp_path / "out.mp4"
    writer = cv2.VideoWriter(str(source), cv2.VideoWriter_fourcc(*"mp4v"), 10, frames[0].shape[1::-1])
    for frame in frames:
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    writer.release()
    x, y, w, h = map(float, boxes[0])
    calls, seen = [], []

    def detect(frame):
        calls.append(frame.shape)
        return sv.Detections(xyxy=np.array([[x, y, x + w, y + h]]))

    module = load(ROOT / "supervision" / "follow_detections.py")
    follower = module.DetectionsFollower(detect, MultiObjectTracker(tiny_network, device="cpu"), period=100)
    follow = follower.follow
    follower.follow = lambda frame, index: seen.append(follow(frame, index)) or seen[-1]
    sv.process_video(str(source), str(target), callback=follower)
    assert len(calls) == 1 and len(seen) == 5
    assert [len(found) for found in seen] == [0, 1, 1, 1, 1]
    assert all(found.tracker_id.tolist() == [0] and 0 < found.confidence[0] < 1 for found in seen[1:])
    assert sv.VideoInfo.from_video_path(str(target)).total_frames == 5
