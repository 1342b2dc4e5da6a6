"""The script that labels unlabelled material, with a SAM and trackers that see a red square, and with true trackers."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lorat_plugin.boxes import iou, xywh_to_xyxy
from lorat_plugin.crop import normalize
from lorat_plugin.datasets.clips import find_clips
from lorat_plugin.datasets.registry import open_dataset
from lorat_plugin.evaluation.baselines import create_baseline
from lorat_plugin.evaluation.runner import FrameTracker
from lorat_plugin.training.pairs import ClipPairs, read_clips
from lorat_plugin.video.source import read_image
from tests.helpers.sequences import write_frames

SCRIPT = Path(__file__).parents[1] / "weights" / "labels_proposed" / "propose_labels.py"
if not SCRIPT.is_file():
    pytest.skip("the script lies in the source tree alone", allow_module_level=True)
SPEC = importlib.util.spec_from_file_location("propose_labels", SCRIPT)
assert SPEC is not None
assert SPEC.loader is not None
script = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(script)

SIDE = 30  # of the red square, pixels


def scenes(length: int = 10, camera: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    """Frames (120, 160, 3) of a red square that moves over smooth noise, and its boxes (length, 4) xyxy."""
    rng = np.random.default_rng(0)
    ground = script.cv2.resize(rng.integers(0, 120, (30, 60, 3), np.uint8), (240, 120))
    boxes = np.array([(20.0 + 8 * i, 40.0 + 2 * i, 20.0 + SIDE + 8 * i, 40.0 + SIDE + 2 * i) for i in range(length)])
    frames = []
    for i, (x1, y1, x2, y2) in enumerate(boxes.astype(int)):
        frame = ground[:, camera * i : camera * i + 160].copy()
        frame[y1:y2, x1:x2] = (220, 40, 30)
        frames.append(frame)
    return frames, boxes


@pytest.fixture(scope="module")
def model() -> Any:
    """MobileSAM of random weights."""
    from lorat_plugin.video.mobile_sam import empty_mobile_sam

    torch.manual_seed(0)
    return empty_mobile_sam()


def red(frame: np.ndarray) -> np.ndarray:
    return (frame[..., 0] > 180) & (frame[..., 1] < 80)


class RedSam(script.Sam):  # type: ignore[misc, name-defined]
    """Every prompt gets a mask of what is red, one of the whole picture and an empty one."""

    def __init__(self) -> None:
        pass

    def see(self, frame: np.ndarray) -> None:
        self.frame = frame

    def ask(self, points: Any = None, boxes: Any = None) -> tuple[torch.Tensor, np.ndarray]:
        count = len(points if boxes is None else boxes)
        shape = self.frame.shape[:2]
        three = np.stack([red(self.frame), np.ones(shape, bool), np.zeros(shape, bool)])
        logits = torch.from_numpy(np.where(three, 9.0, -9.0))
        return logits.expand(count, -1, -1, -1), np.full((count, 3), 0.95)

    def masks(self, logits: torch.Tensor) -> np.ndarray:
        return (logits > 0).numpy()


class RedTracker(FrameTracker):
    """Finds what is red up to its update number `lost`, which is `again` from the second start on."""

    def __init__(self, lost: int = 99, off: float = 0.0, again: int | None = None) -> None:
        super().__init__("red")
        self.lost, self.off, self.again = lost, off, again
        self.starts = 0

    def start(self, frame: np.ndarray, box_xywh: np.ndarray) -> None:
        self.box, self.updates = box_xywh, 0
        self.starts += 1
        if self.starts == 2 and self.again is not None:
            self.lost = self.again

    def follow(self, frame: np.ndarray) -> np.ndarray:
        self.updates += 1
        if self.updates < self.lost:
            x1, y1, x2, y2 = script.bounds(red(frame))
            self.box = np.array([x1 + self.off, y1, x2 - x1, y2 - y1])
        return self.box


def test_a_vote_is_the_mean_of_the_two_runs_that_agree_best_until_no_two_do() -> None:
    a = np.array([[0.0, 0, 10, 10], [0, 0, 10, 10]])
    b = np.array([[1.0, 0, 11, 10], [20, 0, 30, 10]])
    c = np.array([[50.0, 0, 60, 10], [50, 0, 60, 10]])
    np.testing.assert_array_equal(script.vote(np.stack([a, b, c])), [[0.5, 0, 10.5, 10]])


def test_a_track_ends_where_trackers_part_unless_a_third_one_agrees_with_one_of_them() -> None:
    frames, boxes = scenes()
    whole = script.follow([RedTracker(), RedTracker()], frames, boxes[0])
    np.testing.assert_array_equal(whole, boxes)
    cut = script.follow([RedTracker(), RedTracker(lost=4)], frames, boxes[0])
    np.testing.assert_array_equal(cut[:4], boxes[:4])
    assert len(cut) == 4  # 8 pixels of 30 a frame: IoU 0.54 in the fifth
    rescued = script.follow([RedTracker(lost=4, again=99), RedTracker(), RedTracker()], frames, boxes[0])
    np.testing.assert_array_equal(rescued, boxes)


def test_a_track_is_kept_as_far_as_the_way_back_confirms_it() -> None:
    frames, boxes = scenes()
    trackers = [RedTracker(again=7), RedTracker(again=7)]  # both stop on the way back, three frames from the start
    track = script.follow(trackers, frames, boxes[0])
    assert len(track) == 1
    once = [RedTracker(again=7), RedTracker()]  # one that arrives is enough
    np.testing.assert_array_equal(script.follow(once, frames, boxes[0]), boxes)


def test_a_target_is_followed_in_both_directions_from_the_frame_it_was_found_in() -> None:
    frames, boxes = scenes()
    track = script.both_ways([RedTracker(), RedTracker(lost=4)], frames, 4, boxes[4])
    np.testing.assert_array_equal(np.isnan(track[:, 0]), [True, *[False] * 7, True, True])
    np.testing.assert_array_equal(track[1:8], boxes[1:8])


@pytest.mark.parametrize(
    ("box", "good"),
    [
        ((20, 20, 60, 60), True),
        ((0, 20, 40, 60), False),  # at the border
        ((20, 20, 36, 36), False),  # 16 pixels
        ((10, 10, 150, 110), False),  # more than half of the picture
        ((20, 20, 140, 45), False),  # longer than four times its width
    ],
)
def test_a_proposal_has_the_size_and_shape_of_a_target(box: tuple[int, ...], good: bool) -> None:
    mask = np.zeros((120, 160), bool)
    x1, y1, x2, y2 = box
    mask[y1:y2, x1:x2] = True
    assert script.sensible(mask) == good
    mask[y1 + 1 : y2, x1 + 1 : x2] = False  # only its edge is left
    assert not script.sensible(mask)


def test_motion_is_that_of_the_target_and_not_of_the_camera() -> None:
    frames, boxes = scenes(camera=3)
    change = script.motion(frames[4], frames[2])
    x1, y1, x2, y2 = boxes[4].astype(int)
    assert change[y1:y2, x1:x2].mean() > 3 * change.mean()
    assert np.median(change) < 2  # of 255, while the picture has moved by 6 pixels
    assert np.median(np.abs(frames[4].astype(int) - frames[2])) > 5


def test_masks_lie_where_the_logits_say_in_a_frame_that_is_no_multiple_of_a_cell(model: Any) -> None:
    sam = script.Sam(model, side=128)
    sam.see(np.zeros((50, 100, 3), np.uint8))
    logits, quality = sam.ask(boxes=np.array([[10.0, 10, 30, 30], [50, 10, 90, 40]]))
    assert logits.shape == (2, 3, 16, 32)  # a quarter of 64 by 128 pixels
    assert quality.shape == (2, 3)
    painted = torch.full((1, 16, 32), -9.0)
    painted[:, 4:8, 8:24] = 9.0
    np.testing.assert_allclose(script.bounds(sam.masks(painted)[0]), np.array([32, 16, 96, 32]) / 1.28, atol=1)


def test_a_square_frame_is_segmented_as_by_the_whole_model(model: Any) -> None:
    sam = script.Sam(model, side=128)
    frame = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    box = np.array([[20.0, 30, 80, 90]])
    sam.see(frame)
    logits, quality = sam.ask(boxes=box)
    model.config.prompt_encoder_config.image_embedding_size = 8
    model.prompt_encoder.image_embedding_size = (8, 8)
    with torch.inference_mode():
        seen = model.get_image_embeddings(normalize(torch.from_numpy(frame)[None].float()))
        whole = model(image_embeddings=seen, input_boxes=torch.from_numpy(box - 0.5).float()[None])
    spread = float(whole.pred_masks.std())
    torch.testing.assert_close(logits, whole.pred_masks[0], rtol=0, atol=0.2 * spread)  # of bfloat16
    np.testing.assert_allclose(quality, whole.iou_scores[0], atol=0.02)


def test_labels_of_a_clip_are_read_as_more_targets_and_frames_without_label_are_passed_over(tmp_path: Path) -> None:
    frames, boxes = scenes()
    frames[8] = frames[8] * 0  # nothing red
    write_frames(tmp_path / "clips" / "one", frames, suffix=".png")
    args = argparse.Namespace(folder=tmp_path / "clips", out=tmp_path / "labels", known=None)
    script.label_clips(args, RedSam(), [RedTracker(), RedTracker(off=1)])
    (clip,) = read_clips(tmp_path / "clips", labels=tmp_path / "labels")
    assert clip.name == "one__p00"
    np.testing.assert_array_equal(np.flatnonzero(~clip.present), [8, 9])  # after a gap nothing is followed
    np.testing.assert_array_equal(xywh_to_xyxy(clip.boxes[:8]), boxes[:8])
    pairs = ClipPairs([clip])
    drawn = [pairs.sample(np.random.default_rng(i)) for i in range(20)]
    assert all(pair is not None and red(pair.search_frame).any() for pair in drawn)
    known = argparse.Namespace(folder=tmp_path / "clips", out=tmp_path / "more", known=tmp_path / "labels")
    script.label_clips(known, RedSam(), [RedTracker(), RedTracker(off=1)])
    assert not list((tmp_path / "more").glob("*.txt"))  # the target has labels


def test_boxes_of_photos_are_a_coco_data_set(tmp_path: Path) -> None:
    frames, boxes = scenes(2)
    write_frames(tmp_path / "photos", [*frames, np.zeros_like(frames[0])], suffix=".png")
    args = argparse.Namespace(folder=tmp_path / "photos", out=tmp_path / "out", exclude=["00000001"], per_photo=3)
    script.label_photos(args, RedSam())
    dataset = open_dataset("coco", tmp_path / "out")
    assert len(dataset) == 1  # one is left out, nothing is found in the last
    np.testing.assert_array_equal(dataset[0].tracks[0].boxes, boxes[1:2])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["photos", "nowhere"], "nowhere: no such folder"),
        (["photos", "."], "cannot be read as a checkpoint"),
    ],
)
def test_bad_input_is_one_sentence(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sam.pt").write_bytes(b"none")
    assert script.main([*arguments, "--sam", "sam.pt", "--out", "out"]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_two_true_trackers_agree_on_a_labelled_car(shared: Path) -> None:
    clip = next(c for c in find_clips(shared / "video_train") if c.name == "davis_car-roundabout")
    frames = [read_image(path) for path in clip.frames]
    truth = xywh_to_xyxy(clip.boxes)
    trackers = [create_baseline(name, shared / "models") for name in ("VitTrack", "NanoTrack")]
    track = script.both_ways(trackers, frames, 0, truth[0])
    kept = ~np.isnan(track[:, 0])
    assert kept.sum() >= script.LEAST_LENGTH
    assert iou(track[kept], truth[kept]).min() > 0.5
