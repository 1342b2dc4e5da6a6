"""The `openvino` engine with int8: close to float32 on real crops, calibrated on any frames."""

from __future__ import annotations

import json
import platform

import cv2
import numpy as np
import pytest
import torch

from lorat_plugin import create_model
from lorat_plugin.boxes import iou
from lorat_plugin.cli.main import run
from lorat_plugin.devices import sums_in_16_bits
from lorat_plugin.engines import prepare
from lorat_plugin.engines.graphs import OpenVINOEngine, cut_crops
from lorat_plugin.errors import InputError
from lorat_plugin.models import load_pretrained
from lorat_plugin.tracking import hann_window, peak
from lorat_plugin.video.demo_clips import VARIABLE, boxed_frames, calibration_tracks
from tests.helpers.small_variants import variant_of

pytest.importorskip("openvino")
pytest.importorskip("nncf")


@pytest.fixture(scope="module")
def trained():
    return load_pretrained("lorat_tiny")


def lively(case):
    """A small random network whose blocks matter."""
    torch.manual_seed(0)
    network = create_model(variant_of(case))
    for name, parameter in network.named_parameters():
        if name.endswith("gamma"):
            parameter.data.fill_(1)
    return network


def near(ours, theirs):
    """Close to float32, and not float32."""
    error = (ours.score_map - theirs.score_map).std() / theirs.score_map.std()
    assert 1e-4 < error < 0.1


def write_clip(folder, frames, box=None):
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames):
        cv2.imwrite(str(folder / f"{number:04d}.png"), frame[..., ::-1])
    if box is not None:
        boxes = np.array(box) + np.outer(range(len(frames)), (3, 2, 0, 0))
        np.savetxt(folder / "groundtruth.txt", boxes, fmt="%.2f", delimiter=",")


@pytest.mark.slow
@torch.inference_mode()
def test_boxes_on_other_crops_are_those_of_float32(trained, tmp_path, frames):
    engine = OpenVINOEngine(trained, "int8", calibration_tracks)
    write_clip(tmp_path / "clip", frames, (30, 20, 16, 16))
    z, mask, x, _ = map(torch.cat, zip(*cut_crops(trained, boxed_frames(tmp_path, 32)), strict=True))
    template = trained.encode_template(z, mask)
    assert len(x) == len(frames) - 1
    window = hann_window(trained.variant.search_grid)
    ours, theirs = (peak(e.predict([template], x), window, 0.45) for e in (engine, trained))
    overlaps = [iou(a, b) for a, b in zip(ours[0].double().numpy(), theirs[0].double().numpy(), strict=True)]
    assert np.mean(overlaps) > 0.85
    np.testing.assert_allclose(ours[1], theirs[1], atol=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["mlp_224_lora", "swiglu_224_rslora"])
@torch.inference_mode()
def test_it_is_made_the_same_each_time_and_leaves_the_network_alone(case, tmp_path, frames, monkeypatch):
    network = lively(case)
    write_clip(tmp_path / "images", frames)
    z, mask, x, _ = list(cut_crops(network, boxed_frames(tmp_path / "images", 32)))[1]
    template = network.encode_template(z, mask)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "images"))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    engine, _ = prepare(network, "cpu", "openvino", "int8", calibration_tracks)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    prediction = engine.predict([template], x)
    near(prediction, network.predict([template], x))
    for ours, theirs in zip(
        OpenVINOEngine(network, "int8", calibration_tracks).predict([template], x), prediction, strict=True
    ):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("machine", "able", "narrow"),
    [
        ("x86_64", {"avx512_vnni": True}, False),
        ("AMD64", {"avx_vnni": True, "avx512_vnni": False}, False),
        ("x86_64", {"avx2": True}, True),
        ("x86_64", {}, True),
        ("arm64", {}, False),
    ],
)
def test_weights_are_narrow_where_sums_may_overflow(machine, able, narrow, monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able, raising=False)
    assert sums_in_16_bits() is narrow


@pytest.mark.slow
def test_its_cost_in_accuracy_is_told_by_evaluate_beside_the_results_of_float32(tmp_path, frames, capsys):
    write_clip(tmp_path / "clips/one", frames, (30, 20, 16, 16))
    words = ["evaluate", "--dataset", f"clips:{tmp_path / 'clips'}", "--results", str(tmp_path), "--device", "cpu"]
    assert run([*words, "--name", "fp32", "--json"]) == 0
    exact = json.loads(capsys.readouterr().out)
    int8 = ["--name", "int8", "--engine", "openvino", "--precision", "int8", "--check-official", exact["results"]]
    assert run([*words, *int8, "--json"]) == 0
    overall = json.loads(capsys.readouterr().out)["agreement"]["overall"]
    assert overall["frames"] == len(frames) and 0.7 < overall["mean_iou"] < 1


def test_calibration_frames_are_named_by_the_environment(tiny_network, tmp_path, frames, monkeypatch):
    write_clip(tmp_path / "images", frames)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "images"))
    assert len(list(cut_crops(tiny_network, calibration_tracks()))) == len(frames) - 1
    monkeypatch.setenv(VARIABLE, str(tmp_path / "absent"))
    with pytest.raises(InputError, match="no such video or folder"):
        calibration_tracks()
    write_clip(tmp_path / "one", frames[:1])
    with pytest.raises(InputError, match="two frames with a target"):
        boxed_frames(tmp_path / "one", 32)
