"""LoRATv2's tracking against recorded runs of the official tracker: boxes, states, crops and reference updates."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lorat_plugin import LoRATTracker, MultiObjectTracker
from lorat_plugin.boxes import xywh_to_xyxy, xyxy_to_xywh
from lorat_plugin.network import Prediction
from lorat_plugin.network_v2 import LoRATv2Network, RemembersReferences
from lorat_plugin.tracking import Target, start, step
from lorat_plugin.variants import Variant
from tests.helpers.golden_v2 import load_d3, variant_of

CPU = torch.device("cpu")
RUNS = {"p1_model": "p1", "p2_model": "p2", "p2_model_reference_from_start_frame": "p2"}


class Watched(LoRATv2Network):
    """The network, which keeps the images that it is given and the cells and logits that follow."""

    def watch(self) -> Watched:
        self.references: list[torch.Tensor] = []
        self.searches: list[torch.Tensor] = []
        self.maps: list[Prediction] = []
        return self

    def encode_reference(self, memory: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        self.references += reference.split(1)
        return super().encode_reference(memory, reference)

    def predict(self, memories: Any, x: torch.Tensor) -> Prediction:
        self.searches.append(x)
        self.maps.append(super().predict(memories, x))
        return self.maps[-1]


class Scripted(RemembersReferences):
    """An engine that answers each frame with a peak of the golden script."""

    def __init__(self, variant: Variant, script: list[dict[str, Any]]) -> None:
        self.variant, self.script, self.frame = variant, script, 0
        self.references: list[torch.Tensor] = []
        self.template_tokens = 1

    def encode_template(self, z: torch.Tensor, z_mask: torch.Tensor) -> torch.Tensor:
        return torch.zeros(1, 1, 1)

    def encode_reference(self, memory: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        self.references += reference.split(1)
        return torch.zeros(1, 2, 1)

    def predict(self, memories: Any, x: torch.Tensor) -> Prediction:
        grid = self.variant.search_grid
        maps = torch.full((1, grid, grid), -6.0)
        boxes = torch.tensor([0.4, 0.4, 0.6, 0.6]).repeat(1, grid, grid, 1)
        entry = self.script[self.frame]
        for peak in filter(None, (entry, entry.get("second"))):
            row, column = (v if grid == 27 else v * 16 // 27 for v in peak["cell"])
            maps[0, row, column], boxes[0, row, column] = peak["logit"], torch.tensor(peak["box"])
        self.frame += 1
        return Prediction(maps, boxes)


def change_head(network: LoRATv2Network, runs: dict[str, Any], phase: str) -> None:
    """Scores and sides as in the recorded runs."""
    change, head = runs[f"head_change_{phase}"], network.heads[-1]
    head.cls_mlp.layers[2].weight.data *= change["cls_last_weight_times"]
    head.cls_mlp.layers[2].bias.data += change["cls_last_bias_plus"]
    head.reg_mlp.layers[2].bias.data += change["reg_last_bias_plus"]


@pytest.mark.parametrize("run", RUNS)
def test_three_targets_in_a_batch_equal_the_reference(golden2: Path, run: str) -> None:
    phase = RUNS[run]
    data, runs = np.load(golden2 / f"tracking/run_{run}.npz"), json.loads((golden2 / "tracking/runs.json").read_text())
    frames = np.load(golden2 / "tracking/sequence.npz")["frames"]
    network = Watched(replace(variant_of(phase), reference_from="start" if "start" in run else "next")).eval().watch()
    network.load_state_dict(load_d3(golden2, phase, "real").state_dict())
    change_head(network, runs, phase)
    targets: dict[int, Target] = {}
    seen: dict[str, float] = {
        "boxes": 0.0,
        "states": 0.0,
        "scores": 0.0,
        "logits": 0.0,
        "search": 0.0,
        "reference": 0.0,
    }

    def compare(what: str, ours: Any, name: str, row: int | None = None) -> None:
        if name in data:  # the shortest of the recorded runs holds no logits and crops
            theirs = data[name] if row is None else data[name][row]
            seen[what] = max(seen[what], float(np.abs(np.asarray(ours) - theirs).max()))

    updates = dict.fromkeys((1, 2, 3), 0)
    for number, frame in enumerate(frames):
        results = {}
        if targets:
            whole = network.template_tokens + 256 if phase == "p2" else network.template_tokens
            new = [k for k, target in targets.items() if target.memory.shape[-2] < whole]
            before = {k: target.memory for k, target in targets.items()}
            network.watch()
            results = dict(zip(targets, step(network, CPU, [*targets.values()], [frame] * len(targets)), strict=True))
        references = iter(network.references)
        for k in new if results else ():
            compare("reference", next(references)[0, :, ::16, ::16], f"t{k}_init_ref_sample")
        for place, (k, result) in enumerate(results.items()):
            row = int(np.flatnonzero(data[f"t{k}_frame"] == number)[0])
            compare("boxes", xywh_to_xyxy(result.box), f"t{k}_box_reported", row)
            compare("states", targets[k].box, f"t{k}_state_after", row)
            compare("scores", result.score, f"t{k}_confidence", row)
            compare("logits", network.maps[0].score_map[place], f"t{k}_logits", row)
            compare("search", network.searches[0][place, :, ::27, ::27], f"t{k}_x_sample", row)
            renewed = targets[k].memory is not before[k] and result.score > 0.9 and phase == "p2"
            if number < len(frames) - 1:  # where the end is unknown, the last frame may update too
                assert renewed == bool(data[f"t{k}_updated"][row])
                if renewed:
                    compare("reference", next(references)[0, :, ::16, ::16], f"t{k}_ref_sample", updates[k])
                    updates[k] += 1
        for entry in runs["targets"]:
            if entry["start_frame"] == number:
                box = xyxy_to_xywh(np.array(entry["start_box_xyxy"], float))
                targets[entry["id"]] = start(network, CPU, frame, box)
    print(f"\n{run}: {seen}")
    assert max(seen["boxes"], seen["states"]) < 1e-3 and seen["scores"] < 1e-5 and seen["logits"] < 1e-4
    assert max(seen["search"], seen["reference"]) < 1e-4
    assert phase == "p1" or (updates[1], updates[2], updates[3]) == (9, 10, 1)


@pytest.mark.parametrize("phase", ["p1", "p2"])
def test_scripted_scores_and_boxes_equal_the_reference(golden2: Path, phase: str) -> None:
    """A score of exactly 0.9; boxes outside, partly outside, tiny, huge, inverted: reported as they are."""
    data = np.load(golden2 / f"tracking/run_{phase}_scripted.npz")
    script = json.loads((golden2 / "tracking/runs.json").read_text())["script"]
    frames = np.load(golden2 / "tracking/sequence.npz")["frames"]
    engine = Scripted(variant_of(phase), script)
    target = start(engine, CPU, frames[0], xyxy_to_xywh(np.array([4.5, 60.25, 40, 101.5])))
    updated = []
    for row, frame in enumerate(frames[1:]):
        before = len(engine.references) + (row == 0 and phase == "p2")
        result = step(engine, CPU, [target], [frame])[0]
        np.testing.assert_allclose(xywh_to_xyxy(result.box), data["t1_box_reported"][row], atol=1e-9)
        np.testing.assert_allclose(target.box, data["t1_state_after"][row], atol=1e-9)
        assert result.score == pytest.approx(float(data["t1_confidence"][row]), abs=1e-7)
        updated.append(len(engine.references) - before)
    assert updated[:-1] == data["t1_updated"][:-1].tolist()
    if phase == "p2":
        samples = torch.cat(engine.references)[:, :, ::16, ::16]
        np.testing.assert_allclose(samples[0], data["t1_init_ref_sample"], atol=1e-4)
        np.testing.assert_allclose(samples[1:8], data["t1_ref_sample"], atol=1e-4)


def test_clipping_is_a_choice_of_the_variant(golden2: Path) -> None:
    script = json.loads((golden2 / "tracking/runs.json").read_text())["script"]
    frames = np.load(golden2 / "tracking/sequence.npz")["frames"]
    engine = Scripted(replace(variant_of("p2"), clip_boxes=True), script)
    target = start(engine, CPU, frames[0], xyxy_to_xywh(np.array([4.5, 60.25, 40, 101.5])))
    boxes = xywh_to_xyxy(np.stack([step(engine, CPU, [target], [frame])[0].box for frame in frames[1:]]))
    assert boxes.min() >= 0 and (boxes <= [160, 120, 160, 120]).all()


def test_trackers_follow_targets_together_as_alone(golden2: Path) -> None:
    runs = json.loads((golden2 / "tracking/runs.json").read_text())
    frames = np.load(golden2 / "tracking/sequence.npz")["frames"]
    network = load_d3(golden2, "p2", "real")
    change_head(network, runs, "p2")
    boxes = [xyxy_to_xywh(np.array(entry["start_box_xyxy"], float)) for entry in runs["targets"][:2]]
    many = MultiObjectTracker(network, device="cpu")
    many.add(frames[0], boxes)
    alone = [LoRATTracker(network, device="cpu") for _ in boxes]
    for tracker, box in zip(alone, boxes, strict=True):
        tracker.init(frames[0], box)
    for frame in frames[1:5]:
        for single, together in zip([t.update(frame) for t in alone], many.update(frame).values(), strict=True):
            np.testing.assert_allclose(single.box, together.box, atol=1e-3)
