"""OpenCV's trackers as trackers of the toolkit."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from lorat_plugin.boxes import iou, xywh_to_xyxy
from lorat_plugin.errors import InputError
from lorat_plugin.video.demo_clips import read_demo_clip
from tests.helpers.sequences import square_sequence, write_frames

pytest.importorskip("got10k")
from lorat_plugin.evaluation import baselines
from lorat_plugin.evaluation.baselines import BASELINES, choose_baselines, create_baseline, unavailable

pytestmark = pytest.mark.toolkit


def test_without_model_files_of_the_users_all_but_nanotrack_run() -> None:
    trackers, left_out = choose_baselines()
    names = [tracker.name for tracker in trackers]
    assert {"static", "MIL"} <= set(names)
    assert ("VitTrack" in names) == hasattr(cv2, "TrackerVit")  # its model file is in the package
    assert set(names) | set(left_out) == set(BASELINES)
    assert "--baseline-models" in left_out["NanoTrack"]


@pytest.mark.parametrize("name", [name for name in ("static", "MIL", "KCF", "CSRT") if unavailable(name) is None])
def test_a_classical_tracker_follows_frames(name: str, tmp_path: Path) -> None:
    frames, boxes = square_sequence(4)
    write_frames(tmp_path, frames)
    files = sorted(map(str, tmp_path.glob("*.jpg")))
    tracker = create_baseline(name)
    tracked, times = tracker.track(files, boxes[0])
    assert tracker.name == name and tracker.is_deterministic
    assert np.isfinite(tracked).all() and (times > 0).all()
    if name != "MIL":  # see OpenCVTracker
        np.testing.assert_array_equal(tracker.track(files, boxes[0])[0], tracked)


def test_a_failed_update_keeps_the_last_box() -> None:
    class Fails:
        answers = iter([(True, (5, 6, 7, 8)), (False, (0, 0, 0, 0)), (False, None)])

        def init(self, image: np.ndarray, box: tuple[int, ...]) -> None:
            self.first = box

        def update(self, image: np.ndarray) -> tuple[bool, object]:
            return next(self.answers)

    tracker = baselines.OpenCVTracker("x", Fails)
    frame = np.zeros((20, 30, 3), np.uint8)
    tracker.start(frame, np.array([25.4, -3.0, 10.0, 8.6]))
    assert tracker.opencv.first == (25, 0, 5, 6)  # whole pixels, inside the frame
    assert [tuple(tracker.follow(frame)) for _ in range(3)] == [(5.0, 6.0, 7.0, 8.0)] * 3


def test_opencv_gets_bgr() -> None:
    class Colour:
        def init(self, image: np.ndarray, box: tuple[int, ...]) -> None:
            self.seen = image[0, 0].tolist()

    tracker = baselines.OpenCVTracker("x", Colour)
    tracker.start(np.full((8, 8, 3), (1, 2, 3), np.uint8), np.array([1.0, 1, 4, 4]))
    assert tracker.opencv.seen == [3, 2, 1]


def test_an_older_opencv_has_the_trackers_in_legacy(monkeypatch: pytest.MonkeyPatch) -> None:
    class Legacy:
        TrackerKCF_create = staticmethod(lambda: "legacy KCF")

    monkeypatch.delattr(cv2, "TrackerKCF", raising=False)
    monkeypatch.setattr(cv2, "legacy", Legacy, raising=False)
    assert unavailable("KCF") is None
    assert create_baseline("KCF").create() == "legacy KCF"
    monkeypatch.setattr(cv2, "legacy", None)
    assert "opencv-contrib-python" in (unavailable("KCF") or "")
    with pytest.raises(InputError, match=r"KCF cannot run: .*TrackerKCF"):
        create_baseline("KCF")


def test_bad_names_and_folders_are_reported(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown baseline 'SORT': use one of static, MIL"):
        create_baseline("SORT")
    with pytest.raises(InputError, match=r"vitTracker\.onnx not found"):
        create_baseline("VitTrack", tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        choose_baselines(models=tmp_path / "nowhere")


@pytest.mark.skipif(not hasattr(cv2, "TrackerVit"), reason="this OpenCV has no TrackerVit")
def test_vittrack_needs_no_folder_of_models(tmp_path: Path) -> None:
    frames, boxes = read_demo_clip("davis_camel")
    write_frames(tmp_path, frames[:6])
    tracked, _ = create_baseline("VitTrack").track(sorted(map(str, tmp_path.glob("*.jpg"))), boxes[0])
    assert (iou(xywh_to_xyxy(tracked), xywh_to_xyxy(boxes[:6])) > 0.7).all()
    with pytest.raises(InputError, match=r"NanoTrack cannot run: needs nanotrack_backbone.*--baseline-models"):
        create_baseline("NanoTrack")


@pytest.mark.parametrize("name", ["NanoTrack", "VitTrack"])
def test_learned_baselines_follow_a_clip(name: str, shared: Path) -> None:
    clip = shared / "data" / "crossing"
    truth = np.loadtxt(clip / "groundtruth.txt", delimiter=",")[:20]
    tracked, _ = create_baseline(name, shared / "models").track(sorted(map(str, clip.glob("*.jpg")))[:20], truth[0])
    assert np.abs(tracked - truth).mean() < 6


def test_vit_input_is_divided_by_each_channels_deviation(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = (*baselines.IMAGENET_STD, 0.0)
    real = baselines.vit_stdvalue.__wrapped__
    assert real(str(shared / "models" / "vitTracker.onnx")) is not None

    class Probe:  # an OpenCV that scales by the inverse of a quaternion
        def __init__(self, model: str, stdvalue: tuple[float, ...]) -> None:
            q = np.array(stdvalue)
            self.scale = q * [1, -1, -1, -1] / (q @ q)

        init = update = lambda *_: None

        def getTrackingScore(self) -> float:
            return float(self.scale[:3].sum())

    monkeypatch.setattr(baselines, "_create_vit", Probe)
    corrected = real("any")
    assert corrected != plain
    np.testing.assert_allclose(Probe("any", corrected).scale[:3], 1 / np.array(baselines.IMAGENET_STD))
