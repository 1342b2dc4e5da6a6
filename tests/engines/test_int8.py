"""Eight-bit arithmetic: the kernels' own arithmetic, close to float32 on real crops, calibrated on any frames."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from lorat_plugin import create_model
from lorat_plugin.boxes import iou
from lorat_plugin.checkpoint import load_pretrained
from lorat_plugin.engines import prepare
from lorat_plugin.engines.calibration import VARIABLE, calibration_inputs
from lorat_plugin.engines.fused import Linear
from lorat_plugin.engines.int8 import Grid, Int8Engine, _Input, _Product, weight_levels
from lorat_plugin.errors import InputError
from lorat_plugin.evaluation.accuracy import accuracy_change
from lorat_plugin.evaluation.benchmark_sets import open_benchmark
from lorat_plugin.tracking import hann_window, peak
from tests.small_variants import variant_of

try:
    weight_levels()
except InputError as error:
    pytest.skip(str(error), allow_module_level=True)


@pytest.fixture(scope="module")
def trained():
    return load_pretrained("lorat_tiny")


@pytest.fixture(scope="module")
def engine(trained):
    return Int8Engine(trained)


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


@torch.inference_mode()
def test_a_product_is_the_products_of_its_whole_numbers():
    torch.manual_seed(0)
    layer, rows = Linear(torch.randn(96, 60) * 0.1, torch.randn(60)), torch.randn(200, 96)
    given = _Input()
    given(torch.nn.Identity(), (rows[None],))
    product = _Product(layer, given)
    eight = (rows / product.balance / product.grid.step + product.grid.shift).clamp(0, 255.99).to(torch.uint8)
    expected = torch.addmm(layer.bias, rows, layer.weight)
    error = (product(eight) - expected).std() / expected.std()
    assert error < 0.02
    assert abs(float((product(eight)[::25] - expected[::25]).mean())) < 0.02
    sums = torch.zeros(200, 60)
    product.add_to(sums, eight)
    assert torch.equal(sums, product(eight))
    grid = Grid.of(-0.2, 8.0)
    active = (product.gelu(eight, grid).float() - grid.zero) * grid.step
    np.testing.assert_allclose(active, torch.nn.functional.gelu(product(eight)), atol=0.51 * grid.step)


def test_a_grid_holds_zero_and_clips_what_is_rare():
    grid = Grid.of(-1.0, 3.0)
    assert float(grid.rounded(torch.zeros(1))) == 0
    assert float(grid.rounded(torch.tensor([9.0]))) == pytest.approx(3.0, abs=grid.step)
    values = torch.randn(4000, generator=torch.Generator().manual_seed(0))
    assert Grid.fitted(values, -40.0, 40.0).step < Grid.of(-40.0, 40.0).step


@torch.inference_mode()
def test_boxes_on_other_crops_are_those_of_float32(trained, engine, tmp_path, frames):
    write_clip(tmp_path / "clip", frames, (30, 20, 16, 16))
    template, x = map(torch.cat, zip(*calibration_inputs(trained, tmp_path), strict=True))
    assert len(x) == len(frames) - 1
    window = hann_window(trained.variant.search_grid)
    ours, theirs = (peak(e.predict(template, x), window, 0.45) for e in (engine, trained))
    overlaps = [iou(a, b) for a, b in zip(ours[0].double().numpy(), theirs[0].double().numpy(), strict=True)]
    assert np.mean(overlaps) > 0.85
    np.testing.assert_allclose(ours[1], theirs[1], atol=0.1)
    alone = engine.predict(template[1:2], x[1:2])
    np.testing.assert_allclose(alone.boxes, engine.predict(template, x).boxes[1:2], atol=1e-5)


@torch.inference_mode()
def test_it_is_made_the_same_each_time_and_leaves_the_network_alone(trained, tmp_path, frames, monkeypatch):
    write_clip(tmp_path / "images", frames)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "images"))
    before = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    (engine, _), (again, _) = (prepare(trained, "cpu", "auto", "int8") for _ in range(2))
    assert isinstance(again, Int8Engine)
    assert not any(module._forward_pre_hooks for module in trained.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in trained.state_dict().items())
    template, x = torch.randn(1, 25, 384), torch.randn(1, 3, 140, 140)
    for ours, theirs in zip(again.predict(template, x), engine.predict(template, x), strict=True):
        assert torch.equal(ours, theirs)


@torch.inference_mode()
def test_gated_layers(golden, tmp_path, frames):
    network = lively("swiglu_224_rslora")
    write_clip(tmp_path / "images", frames)
    template, x = list(calibration_inputs(network, tmp_path / "images"))[1]
    near(Int8Engine(network, tmp_path / "images").predict(template, x), network.predict(template, x))


@pytest.mark.slow
@torch.inference_mode()
def test_openvino_with_nncf(tmp_path, frames):
    pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    network = lively("mlp_224_lora")
    write_clip(tmp_path / "images", frames)
    template, x = list(calibration_inputs(network, tmp_path / "images"))[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(tmp_path / "images"))
        engine, _ = prepare(network, "cpu", "openvino", "int8")
    near(engine.predict(template, x), network.predict(template, x))


@pytest.mark.slow
def test_accuracy_is_that_of_both_runs(trained, tmp_path, frames):
    write_clip(tmp_path / "clips/one", frames, (30, 20, 16, 16))
    benchmark = open_benchmark("clips", tmp_path / "clips")
    same = accuracy_change(benchmark, trained, "cpu", "fused", "fp32")
    assert (same.auc, same.mean_iou) == (same.reference_auc, 1.0)
    change = accuracy_change(benchmark, trained, "cpu", "auto", "int8")
    assert change.reference_auc == same.auc
    assert 0.7 < change.mean_iou < 1
    assert change.agreement.overall.auc_difference == pytest.approx(change.auc - change.reference_auc)


def test_calibration_frames_are_named_by_the_environment(tiny_network, tmp_path, frames, monkeypatch):
    write_clip(tmp_path / "images", frames)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "images"))
    assert len(list(calibration_inputs(tiny_network, crops=3))) == 3
    monkeypatch.setenv(VARIABLE, str(tmp_path / "absent"))
    with pytest.raises(InputError, match="no such video or folder"):
        list(calibration_inputs(tiny_network))
    write_clip(tmp_path / "one", frames[:1])
    with pytest.raises(InputError, match="two frames with a target"):
        list(calibration_inputs(tiny_network, tmp_path / "one"))
