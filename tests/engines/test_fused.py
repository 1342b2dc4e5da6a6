"""The fused engine equals the network it was made from, and declines what it does not know."""

from __future__ import annotations

import copy
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from lorat_plugin import LoRATTracker, create_model
from lorat_plugin.checkpoints.loading import load_checkpoint
from lorat_plugin.engines import check_options, prepare
from lorat_plugin.engines.fused import FusedEngine
from lorat_plugin.errors import InputError
from lorat_plugin.network import ConvHead
from lorat_plugin.variants import baseline
from tests.helpers.small_variants import CASES, variant_of

LOGITS, BOXES = 2e-5, 1e-5  # absolute, float32


def assert_equal(ours, theirs):
    # logits of trained weights reach -14: a few units in the last place of float32 beside the absolute bound
    np.testing.assert_allclose(ours.score_map, theirs.score_map, rtol=5e-6, atol=LOGITS)
    np.testing.assert_allclose(ours.boxes, theirs.boxes, atol=BOXES)


@pytest.mark.parametrize("case", CASES)
@torch.inference_mode()
def test_it_equals_the_reference(golden, case):
    data = np.load(golden / f"network/{case}.npz")
    network = load_checkpoint(golden / f"network/{case}.full.safetensors", variant_of(case))
    z, x = (torch.from_numpy(data[name]).float() / 32 for name in ("z_q", "x_q"))
    mask = torch.from_numpy(data["z_feat_mask"])
    engine = FusedEngine(network)
    template = engine.encode_template(z, mask)
    np.testing.assert_allclose(template, network.encode_template(z, mask), atol=BOXES)
    prediction = engine.predict([template], x)
    assert_equal(prediction, network(z, x, mask))
    np.testing.assert_allclose(prediction.score_map, data["score_map"], atol=LOGITS)
    np.testing.assert_allclose(prediction.boxes, data["boxes"], atol=LOGITS)


@pytest.mark.parametrize("depth", [1, 2])
@torch.inference_mode()
def test_a_batch_equals_the_network_and_no_input_is_changed(tiny_network, depth):
    torch.manual_seed(1)
    network = create_model(replace(tiny_network.variant, name="shallow", depth=depth))
    v, before = network.variant, copy.deepcopy(network.state_dict())
    engine = FusedEngine(network)
    z, x = torch.randn(3, 3, v.template_size, v.template_size), torch.randn(3, 3, v.search_size, v.search_size)
    mask = torch.randint(0, 2, (3, v.template_grid, v.template_grid))
    template = engine.encode_template(z, mask)
    first, second = engine.predict([template], x), engine.predict([template], x)
    assert_equal(first, network(z, x, mask))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert_equal(engine.predict([template[1:2]], x[1:2]), network(z[1:2], x[1:2], mask[1:2]))
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_bundled_weights_follow_a_real_clip_alike(shared):
    clip = sorted(path.parent for path in (shared / "data").glob("*/groundtruth.txt"))[0]
    frames = [cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB) for path in sorted(clip.glob("*.jpg"))[:8]]
    box = np.loadtxt(clip / "groundtruth.txt", delimiter=",", ndmin=2)[0]
    eager, fused = (
        LoRATTracker.from_pretrained("lorat_tiny", device="cpu", engine=name) for name in ("eager", "fused")
    )
    assert isinstance(fused.engine, FusedEngine)
    crops = []
    predict = fused.engine.predict
    fused.engine.predict = lambda memories, x: crops.append((memories, x)) or predict(memories, x)
    for tracker in (eager, fused):
        tracker.init(frames[0], box)
    for frame in frames[1:]:
        ours, theirs = fused.update(frame), eager.update(frame)
        np.testing.assert_allclose(ours.box, theirs.box, atol=1e-2)  # pixels of the frame
        assert ours.score == pytest.approx(theirs.score, abs=1e-5)
    for memories, x in crops:
        assert_equal(predict(memories, x), eager.engine.predict(memories, x))


def test_auto_takes_it_on_a_cpu_in_float32(tiny_network):
    assert isinstance(prepare(tiny_network, "cpu")[0], FusedEngine)
    assert prepare(tiny_network, "cpu", "eager")[0] is tiny_network
    half = copy.deepcopy(tiny_network)
    assert prepare(half, "cpu", "auto", "fp16")[0] is half
    with pytest.raises(InputError, match=r"runs float32 or bfloat16 on a CPU, not fp16 on cpu"):
        check_options("cpu", "fused", "fp16")
    with pytest.raises(InputError, match="not float32 on a CPU"):
        FusedEngine(half)


@pytest.mark.parametrize("targets", [1, 3])
@torch.inference_mode()
def test_bf16_is_near_the_network_where_the_processor_has_it(tiny_network, targets, monkeypatch):
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        with pytest.raises(InputError, match="no bf16 on this processor"):
            FusedEngine(tiny_network, "bf16")
        return
    torch.manual_seed(0)
    v, engine = tiny_network.variant, FusedEngine(tiny_network, "bf16")
    template, x = torch.randn(targets, v.template_grid**2, v.dim), torch.randn(targets, 3, v.search_size, v.search_size)
    ours, theirs = engine.predict([template], x), tiny_network.predict([template], x)
    assert ours.score_map.dtype == torch.float32
    assert 0 < (ours.score_map - theirs.score_map).abs().max() < 0.05 * theirs.score_map.abs().max()
    np.testing.assert_allclose(ours.boxes, theirs.boxes, atol=5e-3)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    with pytest.raises(InputError, match="no bf16 on this processor"):
        FusedEngine(tiny_network, "bf16")


def tanh_activation(network):
    network.blocks[1].mlp.act = torch.nn.GELU(approximate="tanh")


def another_activation(network):
    network.blocks[1].mlp.act = torch.nn.SiLU()


def conv_head(network):
    network.head = ConvHead(network.variant.dim, network.variant.search_grid)


def query_norm(network):
    network.blocks[0].attn.q_norm = torch.nn.LayerNorm(64)


def registers(network):
    network.reg_token = torch.nn.Parameter(torch.zeros(1, 4, network.variant.dim))


def rotary(network):
    network.rope = torch.zeros(1, 64)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (tanh_activation, r"blocks\.1\.mlp\.act is a GELU"),
        (another_activation, r"blocks\.1\.mlp is a Mlp"),
        (conv_head, "head is a ConvHead"),
        (query_norm, r"blocks\.0\.attn\.q_norm\.\w+ is foreign"),
        (registers, "reg_token is foreign"),
        (rotary, "rope is foreign"),
    ],
)
def test_other_networks_are_declined(tiny_network, change, named):
    network = copy.deepcopy(tiny_network)
    change(network)
    assert prepare(network, "cpu")[0] is network
    with pytest.raises(InputError, match=f"engine 'fused' cannot run this network .{named}.: use engine auto or eager"):
        prepare(network, "cpu", "fused")


def test_the_papers_baseline_and_unmerged_adapters_are_declined(tiny_network):
    pytest.importorskip("peft")
    shallow = replace(tiny_network.variant, name="shallow", depth=1)
    for network in (create_model(baseline(shallow)), create_model(shallow, lora=True)):
        assert prepare(network, "cpu")[0] is network
