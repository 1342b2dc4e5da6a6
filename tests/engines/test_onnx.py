"""ONNX Runtime follows the network, and both graphs export with any or a fixed batch, for every kind of network."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from lorat_plugin import LoRATTracker, create_model
from lorat_plugin.backbones import with_backbone
from lorat_plugin.engines import check_options, prepare
from lorat_plugin.engines.graphs import GRAPHS, plain, to_onnx, trace
from lorat_plugin.errors import InputError
from lorat_plugin.variants import baseline
from tests.helpers.small_variants import variant_of

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

TOLERANCE = {"rtol": 1e-5, "atol": 1e-4}  # float32; logits of trained weights reach -14


def inputs_of(variant, batch):
    torch.manual_seed(batch)
    z, x = (torch.randn(batch, 3, size, size) for size in (variant.template_size, variant.search_size))
    return z, torch.randint(0, 2, (batch, variant.template_grid, variant.template_grid)), x


@torch.inference_mode()
def test_it_equals_the_network_at_any_batch_size():
    network = create_model(variant_of("swiglu_224_rslora"))
    engine, _ = prepare(network, "cpu", "onnxruntime")
    for batch in (1, 3):
        z, mask, x = inputs_of(network.variant, batch)
        tokens = network.encode_template(z, mask)
        np.testing.assert_allclose(engine.encode_template(z, mask), tokens, **TOLERANCE)
        for ours, theirs in zip(engine.predict([tokens], x), network.predict([tokens], x), strict=True):
            np.testing.assert_allclose(ours, theirs, **TOLERANCE)


@pytest.mark.slow
def test_bundled_weights_follow_frames_alike(frames):
    ours = LoRATTracker.from_pretrained("lorat_tiny", device="cpu", engine="onnxruntime")
    theirs = LoRATTracker.from_pretrained("lorat_tiny", device="cpu", engine="eager")
    for tracker in (ours, theirs):
        tracker.init(frames[0], [30, 20, 16, 16])
    for frame in frames[1:]:
        a, b = ours.update(frame), theirs.update(frame)
        np.testing.assert_allclose(a.box, b.box, atol=1e-2)  # pixels of the frame
        assert a.score == pytest.approx(b.score, abs=1e-4)


def another(kind):
    small = replace(create_model("lorat_tiny").variant, name=kind, depth=1)
    if kind == "baseline":
        return create_model(baseline(small))
    return create_model(with_backbone(small, "vit_small_patch16_dinov3.lvd1689m"))  # registers, rotary positions


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["baseline", "dinov3"])
@torch.inference_mode()
def test_other_networks_export_with_a_fixed_batch(kind, tmp_path):
    network = another(kind)
    z, mask, x = inputs_of(network.variant, 2)
    tokens = network.encode_template(z, mask)
    expected = {"template": [tokens], "search": network.predict([tokens], x)}
    for part, given in (("template", (z, mask)), ("search", (tokens, x))):
        path, names = tmp_path / f"{part}.onnx", GRAPHS[0][part]
        to_onnx(trace(network, part, 2), names).save(path)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        ports = {port.name: port.shape for port in session.get_inputs()}
        assert ports == {name: list(tensor.shape) for name, tensor in zip(names.inputs, given, strict=True)}
        assert tuple(port.name for port in session.get_outputs()) == names.outputs
        made = session.run(None, {name: tensor.numpy() for name, tensor in zip(names.inputs, given, strict=True)})
        for ours, theirs in zip(made, expected[part], strict=True):
            np.testing.assert_allclose(ours, theirs, **TOLERANCE)


def test_adapters_and_halves_are_made_plain_and_the_network_stays(tiny_network):
    assert plain(tiny_network) is tiny_network
    half = copy.deepcopy(tiny_network).to(torch.bfloat16)
    assert plain(half).pos_embed.dtype == torch.float32 and half.pos_embed.dtype == torch.bfloat16
    pytest.importorskip("peft")
    adapted = create_model(replace(tiny_network.variant, name="shallow", depth=1), lora=True)
    assert not any("lora_" in name for name, _ in plain(adapted).named_parameters())
    assert any("lora_" in name for name, _ in adapted.named_parameters())


def test_other_precisions_and_devices_are_declined():
    with pytest.raises(InputError, match=r"engine 'onnxruntime' runs float32 on a CPU, not bf16 on cpu"):
        check_options("cpu", "onnxruntime", "bf16")


def test_a_missing_package_names_its_extra(monkeypatch, tiny_network):
    monkeypatch.setattr("lorat_plugin.engines.graphs.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"this needs onnx: pip install 'lorat_plugin\[onnx\]'"):
        to_onnx(None, "search")
