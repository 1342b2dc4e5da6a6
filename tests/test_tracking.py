"""The tracking core against three recorded runs of the official tracker, and its own rules."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from lorat_plugin import LoRATTracker, MultiObjectTracker
from lorat_plugin.boxes import area, clip_to_image, xywh_to_xyxy, xyxy_to_xywh
from lorat_plugin.checkpoints.loading import load_checkpoint
from lorat_plugin.crop import Crop
from lorat_plugin.errors import InputError
from lorat_plugin.network import Prediction
from lorat_plugin.presence import Presence, colours
from lorat_plugin.tracking import Target, check_box, hann_window, peak, start, step
from lorat_plugin.variants import get_variant
from tests.helpers.small_variants import variant_of

CPU = torch.device("cpu")


class Recorded:
    """An engine that repeats recorded predictions and keeps the search regions that it was given."""

    def __init__(self, variant, data):
        self.variant, self.searches, self.templates = variant, [], []
        self.maps, self.boxes = torch.from_numpy(data["score_map_logits"]), torch.from_numpy(data["boxes_norm"])

    def encode_template(self, z, z_mask):
        self.templates.append((z, z_mask))
        return torch.zeros(1, 1, 1)

    def predict(self, template, x):
        i = len(self.searches)
        self.searches.append(x)
        return Prediction(self.maps[i : i + 1], self.boxes[i : i + 1])


def follow(engine, frames, init_box):
    """Track over all frames: results, state boxes after each, and search crops of each."""
    target = start(engine, CPU, frames[0], xyxy_to_xywh(init_box))
    results, states, crops = [], [], []
    for frame in frames[1:]:
        half = np.maximum(target.box[2:] - target.box[:2], 10) / 2
        centre = (target.box[:2] + target.box[2:]) / 2
        around = np.concatenate([centre - half, centre + half])
        crops.append(
            Crop.around(around, engine.variant.search_area_factor, engine.variant.search_size, frame.shape[:2])
        )
        results += step(engine, CPU, [target], [frame])
        states.append(target.box)
    return results, np.stack(states), crops


@pytest.mark.parametrize("run", ["handmade_224", "handmade_378", "model_224"])
def test_run_equals_the_reference_frame_by_frame(golden, run):
    data, frames = np.load(golden / f"tracking/run_{run}.npz"), np.load(golden / "tracking/sequence.npz")["frames"]
    variant = get_variant(f"lorat_b_{run[-3:]}")
    engine = Recorded(variant, data)
    results, states, crops = follow(engine, frames, data["init_box"])
    z, mask = engine.templates[0]
    if "template_crop_norm" in data:
        np.testing.assert_allclose(z[0], data["template_crop_norm"], atol=2e-4)
    np.testing.assert_array_equal(mask[0], data["z_feat_mask"])
    applied = np.stack([np.stack([crop.scale, crop.shift]) for crop in crops])
    np.testing.assert_allclose(applied, data["crop_params_adjusted"], rtol=1e-9)
    np.testing.assert_allclose(xywh_to_xyxy(np.stack([r.box for r in results])), data["box_image"], atol=1e-9)
    np.testing.assert_allclose(states, data["state_box_after"], atol=1e-9)
    np.testing.assert_allclose([r.score for r in results], data["confidence"], atol=1e-6)
    searches = torch.cat(engine.searches)
    np.testing.assert_allclose(searches.mean((2, 3)), data["search_norm_mean"], atol=2e-4)
    np.testing.assert_allclose(searches.std((2, 3), unbiased=False), data["search_norm_std"], atol=2e-4)
    every = {"224": 4, "378": 8}[run[-3:]]
    np.testing.assert_allclose(searches[14, :, ::every, ::every], data["search_norm_last"], atol=2e-4)


def test_whole_tracker_with_a_network_equals_the_reference(golden):
    data, frames = np.load(golden / "tracking/run_model_224.npz"), np.load(golden / "tracking/sequence.npz")["frames"]
    network = load_checkpoint(golden / "network/mlp_224_lora.full.safetensors", variant_of("mlp_224_lora"))
    network.head.reg_mlp.layers[2].bias.data -= 2.0  # as recorded: smaller boxes
    tracker = LoRATTracker(network, device="cpu")
    tracker.init(frames[0], xyxy_to_xywh(data["init_box"]))
    results = [tracker.update(frame) for frame in frames[1:]]
    boxes = xywh_to_xyxy(np.stack([r.box for r in results]))
    np.testing.assert_allclose(boxes, data["box_image"], atol=2e-3)
    np.testing.assert_allclose([r.score for r in results], data["confidence"], atol=2e-5)


@pytest.mark.parametrize("size", ["224", "378"])
@pytest.mark.parametrize("weight", [0.45, 0.0])
def test_peak_equals_the_reference(golden, size, weight):
    data = np.load(golden / "image_ops/postprocess.npz")
    window = hann_window(len(data[f"{size}_window"]))
    np.testing.assert_allclose(window, data[f"{size}_window"], atol=2e-7)
    maps, boxes = (torch.from_numpy(data[f"{size}_{name}"]) for name in ("score_logits", "boxes_norm"))
    chosen, scores = peak(Prediction(maps, boxes), window, weight)
    np.testing.assert_allclose(chosen * int(size), data[f"{size}_box_px_pen{weight}"], rtol=1e-6)
    np.testing.assert_allclose(scores, data[f"{size}_confidence_pen{weight}"], atol=1e-7)


def test_state_updates_equal_the_reference(golden):
    """Boxes outside, inverted or empty leave the state where it was; the small ones are widened for the crop."""
    data = np.load(golden / "image_ops/search_state.npz")
    width, height = data["image_wh"]
    variant = replace(get_variant("lorat_b_224"), window_weight=0.0)
    frame = np.zeros((height, width, 3), np.uint8)
    presence = Presence(data["init"], colours(frame, data["init"]))
    target = Target(data["init"], np.zeros(3, np.float32), torch.zeros(1, 1, 1), presence)

    class Scripted:
        def predict(self, template, x):
            return Prediction(torch.zeros(1, 16, 16), self.box.float().expand(1, 16, 16, 4))

    engine = Scripted()
    engine.variant = variant
    for wanted, expected in zip(data["pred"], data["cached_after"], strict=True):
        half = np.maximum(target.box[2:] - target.box[:2], 10) / 2
        centre = (target.box[:2] + target.box[2:]) / 2
        crop = Crop.around(np.concatenate([centre - half, centre + half]), 4.0, 224, (height, width))
        engine.box = torch.from_numpy(crop.to_crop(wanted) / 224)
        step(engine, CPU, [target], [frame])
        np.testing.assert_allclose(target.box, expected, atol=1e-3)  # the detour through float32 fractions
        target.box = expected


def test_many_targets_equal_single_trackers(tiny_network, frames):
    boxes = np.array([[30.0, 20, 16, 16], [60, 40, 30, 20], [2, 2, 8, 5]])
    many = MultiObjectTracker(tiny_network, device="cpu")
    ids = many.add(frames[0], boxes)
    singles = [LoRATTracker(tiny_network, device="cpu") for _ in boxes]
    for single, box in zip(singles, boxes, strict=True):
        single.init(frames[0], box)
    for frame in frames[1:]:
        together = many.update(frame)
        for target_id, single in zip(ids, singles, strict=True):
            alone = single.update(frame)
            np.testing.assert_allclose(together[target_id].box, alone.box, atol=1e-3)
            assert together[target_id].score == pytest.approx(alone.score, abs=1e-5)


def test_targets_come_and_go(tiny_network, frames):
    many = MultiObjectTracker(tiny_network, device="cpu")
    assert many.update(frames[0]) == {}
    first = many.add(frames[0], [[30, 20, 16, 16]])
    second = many.add(frames[1], [[50, 40, 16, 16], [5, 5, 9, 9]])
    assert list(many.update(frames[2])) == first + second
    many.drop(second[0])
    assert list(many.update(frames[3])) == [first[0], second[1]]
    assert many.add(frames[3], [[30, 20, 16, 16]]) == [3]  # ids are not used again
    with pytest.raises(InputError, match="target 1 is not tracked"):
        many.drop(second[0])
    with pytest.raises(InputError):
        many.add(frames[3], [[30, 20, 16, 16], [0, 0, -1, 4]])
    assert len(many.update(frames[4])) == 3  # the bad call added nothing


@pytest.mark.parametrize(
    "box",
    [[np.nan, 0, 5, 5], [1, 1, 0, 5], [1, 1, 5, -5], [0, 0, 1e-5, 5], [np.inf, 0, 5, 5], [1, 2, 3], [[1, 2, 3, 4]]],
)
def test_impossible_boxes_are_refused(box):
    with pytest.raises(InputError, match="a box must be x, y, w, h"):
        check_box(np.array(box), (90, 120))


BOXES = {  # each is x 30, y 20, w 16, h 12
    "tensor": lambda: torch.tensor([30, 20, 16, 12]),
    "tensor with gradient": lambda: torch.tensor([30.0, 20, 16, 12], requires_grad=True),
    "bfloat16": lambda: torch.tensor([30, 20, 16, 12], dtype=torch.bfloat16),
    "list of tensors": lambda: list(torch.tensor([30, 20, 16, 12])),
    "uint8 array": lambda: np.array([30, 20, 16, 12], np.uint8),
    "row of a table": lambda: np.array([(30, 20, 16, 12)], "i4,i4,f4,f4")[0].item(),
    "numbers as text": lambda: ["30", "20.0", " 16", "1.2e1"],
    "map": lambda: map(float, (30, 20, 16, 12)),
    "generator": lambda: (value for value in (30, 20, 16, 12)),
}


@pytest.mark.parametrize("name", BOXES)
def test_a_box_may_be_any_row_of_numbers(tiny_network, frames, name):
    np.testing.assert_array_equal(check_box(BOXES[name](), (90, 120)), [30, 20, 46, 32])
    many = MultiObjectTracker(tiny_network, device="cpu", engine="eager")
    assert many.add(frames[0], (BOXES[name]() for _ in range(2))) == [0, 1]
    assert [target.box.tolist() for target in many._targets.values()] == [[30, 20, 46, 32]] * 2


@pytest.mark.parametrize(
    "box",
    ["1234", b"1234", {1: 0, 2: 0, 3: 0, 4: 0}, {1, 2, 3, 4}, None, 7, torch.tensor(7.0), object(), [1, 2, 3, None],
     [1, 2, 3, 4j], [1, 2, 3, "x"], [1, 2, 3, 10**400], torch.ones(1, 4), torch.ones(2, 4), np.ones((4, 1)),
     np.ma.masked_array([1, 2, 3, 4], [0, 0, 0, 1]), np.array([1, 2, 3, 4 + 1j])],
)  # fmt: skip
def test_what_is_no_row_of_four_numbers_is_refused(box):
    with pytest.raises(InputError, match="a box must be x, y, w, h in pixels: four finite numbers"):
        check_box(box, (90, 120))


@pytest.mark.parametrize(
    "boxes", [map(list, [[30, 20, 16, 12]]), zip([30], [20], [16], [12], strict=True), torch.tensor([[30, 20, 16, 12]]),
              {7: (30, 20, 16, 12)}.values(), iter(np.array([[30, 20, 16, 12]]))],
)  # fmt: skip
def test_boxes_may_be_any_iterable(tiny_network, frames, boxes):
    many = MultiObjectTracker(tiny_network, device="cpu", engine="eager")
    assert many.add(frames[0], boxes) == [0]
    np.testing.assert_array_equal(many._targets[0].box, [30, 20, 46, 32])


@pytest.mark.parametrize(
    "boxes",
    [[30, 20, 16, 12], (v for v in (30, 20, 16, 12)), torch.tensor([30, 20, 16, 12]), 7, None, {7: (30, 20, 16, 12)}],
)
def test_one_flat_box_is_not_taken_for_boxes(tiny_network, frames, boxes):
    many = MultiObjectTracker(tiny_network, device="cpu", engine="eager")
    with pytest.raises(InputError, match=r"boxes must be \(N, 4\)"):
        many.add(frames[0], boxes)
    assert many.update(frames[1]) == {}


def test_a_box_outside_the_frame_is_refused_and_one_over_the_border_is_not():
    with pytest.raises(InputError, match="outside the frame of 120x90"):
        check_box(np.array([130.0, 10, 20, 20]), (90, 120))
    np.testing.assert_array_equal(check_box(np.array([-10.0, 10, 20, 20]), (90, 120)), [-10, 10, 10, 30])


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((9, 9), np.uint8),
        np.zeros((9, 9, 4), np.uint8),
        np.zeros((9, 9, 3), np.uint16),
        np.zeros((0, 9, 3), np.uint8),
        None,
    ],
)
def test_frames_of_another_kind_are_refused(tiny_network, frames, frame):
    tracker = LoRATTracker(tiny_network, device="cpu")
    with pytest.raises(InputError, match="a frame must"):
        tracker.init(frame, [1, 1, 5, 5])
    tracker.init(frames[0], [30, 20, 16, 16])
    with pytest.raises(InputError, match="a frame must"):
        tracker.update(frame)


def test_update_before_init_is_refused(tiny_network, frames):
    with pytest.raises(InputError, match="call init"):
        LoRATTracker(tiny_network, device="cpu").update(frames[0])


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (90, 120), (400, 30)])
def test_frames_may_change_their_size(tiny_network, frames, size):
    tracker = LoRATTracker(tiny_network, device="cpu")
    tracker.init(frames[0], [90, 60, 16, 16])
    result = tracker.update(np.full((*size, 3), 90, np.uint8))
    assert np.isfinite(result.box).all() and 0 <= result.score <= 1
    assert np.isfinite(tracker.update(frames[1]).box).all()


def test_a_target_smaller_than_ten_pixels_is_tracked(tiny_network, frames):
    tracker = LoRATTracker(tiny_network, device="cpu")
    tracker.init(frames[0], [30, 20, 1, 1])
    box = xywh_to_xyxy(tracker.update(frames[1]).box)
    assert area(box) >= 0 and (clip_to_image(box, frames[0].shape[:2]) == box).all()


@pytest.mark.parametrize(("option", "value"), [("device", "gpu7"), ("engine", "warp"), ("precision", "int3")])
def test_unknown_names_are_refused(tiny_network, option, value):
    with pytest.raises(InputError, match=value):
        LoRATTracker(tiny_network, **{option: value})


def test_an_engine_renews_what_it_remembers_of_each_target(tiny_network, frames):
    class Counting:
        """Counts how often a target was seen."""

        variant = tiny_network.variant

        def encode_template(self, z, z_mask):
            return tiny_network.encode_template(z, z_mask), 0

        def predict(self, memories, x):
            return tiny_network.predict([tokens for tokens, _ in memories], x)

        def remember(self, targets, given, results):
            if results is None:  # before the search
                return [t.memory for t in targets]
            assert len(given) == len(results) == len(targets)
            return [(t.memory[0], t.memory[1] + 1) for t in targets]

    counting, boxes = Counting(), ([30, 20, 16, 16], [50, 30, 12, 20])
    targets = [start(counting, CPU, frames[0], box) for box in boxes]
    assert [target.memory[1] for target in targets] == [1, 1]  # a start is remembered too
    plain = [start(tiny_network, CPU, frames[0], box) for box in boxes]
    first, second = (step(e, CPU, t, [frames[1]] * 2) for e, t in ((counting, targets), (tiny_network, plain)))
    step(counting, CPU, targets[1:], [frames[2]])
    assert [target.memory[1] for target in targets] == [2, 3]
    assert all(np.array_equal(a.box, b.box) for a, b in zip(first, second, strict=True))


def test_targets_are_followed_without_reaching_into_a_tracker(tiny_network, frames):
    tracker, box = MultiObjectTracker(tiny_network, device="cpu"), [30, 20, 16, 16]
    targets = [tracker.start(frames[0], box) for _ in range(2)]
    tracker.add(frames[0], [box])
    one, other = tracker.step(frames[1], targets)
    alone = tracker.update(frames[1])[0]
    assert np.array_equal(one.box, other.box) and np.array_equal(one.box, alone.box)
    moved = tracker.step([frames[2], frames[3]], targets)
    assert len(moved) == 2 and moved[0].score != moved[1].score
    assert tracker.step(frames[2], []) == []
    with pytest.raises(InputError, match="uint8"):
        tracker.step([frames[2], frames[3].astype(float)], targets)
