"""The network against the official one: outputs, position table, parameter counts, merging."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from importlib.metadata import EntryPoint

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lorat_plugin import create_model, list_variants, plugins, register_variant, save_checkpoint
from lorat_plugin.backbones import resize_position_table
from lorat_plugin.checkpoints.adapters import inject, merge
from lorat_plugin.checkpoints.loading import load_backbone, load_checkpoint
from lorat_plugin.errors import InputError
from lorat_plugin.network import LoRATNetwork, Prediction
from lorat_plugin.variants import get_variant
from tests.helpers.small_variants import CASES, variant_of

TOLERANCE = 2e-5  # absolute, logits and box fractions, float32


def inputs(data):
    z, x = (torch.from_numpy(data[name]).float() / 32 for name in ("z_q", "x_q"))
    return z, x, torch.from_numpy(data["z_feat_mask"])


def assert_equal(prediction: Prediction, data, suffix: str = "") -> None:
    np.testing.assert_allclose(prediction.score_map, data[f"score_map{suffix}"], atol=TOLERANCE)
    np.testing.assert_allclose(prediction.boxes, data[f"boxes{suffix}"], atol=TOLERANCE)


@pytest.mark.parametrize("case", CASES)
@torch.inference_mode()
def test_merged_network_equals_the_reference(golden, case):
    data = np.load(golden / f"network/{case}.npz")
    network = load_checkpoint(golden / f"network/{case}.full.safetensors", variant_of(case))
    assert_equal(network(*inputs(data)), data)
    if "score_map_merged" in data:
        assert_equal(network(*inputs(data)), data, "_merged")


@pytest.mark.parametrize("case", CASES)
@torch.inference_mode()
def test_network_with_adapters_equals_the_reference(golden, case):
    """Backbone from Meta's layout, adapters injected by peft, factors of the official file."""
    data, variant = np.load(golden / f"network/{case}.npz"), variant_of(case)
    network = LoRATNetwork(variant)
    load_backbone(network, str(golden / f"network/{case}.backbone_meta.safetensors"))
    network = inject(network)
    parameters = dict(network.named_parameters())
    for name, tensor in load_file(golden / f"network/{case}.adapters.safetensors").items():
        name = name.replace("w12", "fc1").replace("w3", "fc2").replace(".lora.A", ".lora_A.default.weight")
        name = name.replace(".lora.B", ".lora_B.default.weight").replace("type_embed", "type_embed.weight")
        parameters.pop(name).data.copy_(tensor)
    assert not [name for name, parameter in parameters.items() if parameter.requires_grad]
    network.eval()
    assert_equal(network(*inputs(data)), data)
    merged = merge(network)
    for ours, theirs in zip(merged(*inputs(data)), network(*inputs(data)), strict=True):
        assert (ours - theirs).abs().max() < 1e-5
    assert not any("lora" in name or ".q." in name for name, _ in merged.named_modules())


@torch.inference_mode()
def test_inner_tokens_equal_the_reference(golden):
    data = np.load(golden / "network/mlp_224_lora.npz")
    network = load_checkpoint(golden / "network/mlp_224_lora.full.safetensors", variant_of("mlp_224_lora"))
    z, x, mask = inputs(data)
    np.testing.assert_allclose(network.encode_template(z, mask), data["tokens_in_z"], atol=TOLERANCE)
    seen = {}
    network.blocks[0].register_forward_hook(lambda m, i, o: seen.update(before=i[0], after=o))
    network(z, x, mask)
    np.testing.assert_allclose(seen["before"][:, 64:], data["tokens_in_x"], atol=TOLERANCE)
    np.testing.assert_allclose(seen["after"][:, :8], data["tokens_after_block0_first8"], atol=TOLERANCE)


@pytest.mark.parametrize("grid", [8, 14, 16, 27])
def test_position_table_equals_the_reference(golden, grid):
    data = np.load(golden / "network/pos_embed_interp.npz")
    table = torch.from_numpy(data["pos_embed_with_cls"])[:, 1:]
    np.testing.assert_allclose(resize_position_table(table, grid), data[f"official_{grid}"], atol=2e-6)
    assert resize_position_table(table, 37) is table


@pytest.mark.parametrize("name", [n for n in list_variants() if n[:6] == "lorat_" and n != "lorat_tiny"])
def test_parameter_counts_equal_the_reference(golden, name):
    counts = json.loads((golden / "network/param_counts.json").read_text())[
        name[6].upper().replace("G", "g") + "-" + name[8:]
    ]
    with torch.device("meta"):
        plain = create_model(name)
        adapted = create_model(name, lora=True)
    assert sum(p.numel() for p in plain.parameters()) == counts["merged_inference_params"]
    assert sum(p.numel() for p in adapted.parameters()) == counts["total_with_lora"]
    trainable = {n: p.numel() for n, p in adapted.named_parameters() if p.requires_grad}
    assert sum(trainable.values()) == counts["trainable"]
    assert sum(v for n, v in trainable.items() if ".lora_" in n) == counts["lora"]
    assert sum(v for n, v in trainable.items() if n.startswith("head.")) == counts["head"]


def test_adapters_start_as_the_variant_says():
    torch.manual_seed(0)
    official = dict(inject(LoRATNetwork(variant_of("mlp_224_lora"))).named_parameters())
    for factor in "AB":
        values = torch.cat([p.detach().flatten() for n, p in official.items() if f"lora_{factor}" in n])
        assert values.std() == pytest.approx(0.02, rel=0.05)
    tiny = create_model("lorat_tiny", lora=True)
    assert all(not p.any() for n, p in tiny.named_parameters() if "lora_B" in n)
    assert tiny.norm.weight.requires_grad and not tiny.pos_embed.requires_grad and tiny.training


@torch.inference_mode()
def test_a_batch_equals_its_members(tiny_network):
    torch.manual_seed(1)
    v = tiny_network.variant
    z, x = torch.randn(3, 3, v.template_size, v.template_size), torch.randn(3, 3, v.search_size, v.search_size)
    mask = torch.randint(0, 2, (3, v.template_grid, v.template_grid))
    batch = tiny_network(z, x, mask)
    for i in range(3):
        single = tiny_network(z[i : i + 1], x[i : i + 1], mask[i : i + 1])
        np.testing.assert_allclose(single.boxes[0], batch.boxes[i], atol=1e-5)


def test_half_precision_leaves_the_cells_where_they_are(tiny_network):
    """With sides of size 0 a box is its cell's centre, exactly, whatever the weights' precision."""
    network = copy.deepcopy(tiny_network).to(torch.bfloat16)
    v = network.variant
    last = network.head.reg_mlp.layers[-1]
    last.weight.data.zero_()
    last.bias.data.fill_(-1e4)
    z, x = torch.zeros(1, 3, v.template_size, v.template_size), torch.zeros(1, 3, v.search_size, v.search_size)
    boxes = network(z, x, torch.zeros(1, v.template_grid, v.template_grid, dtype=torch.long)).boxes
    centres = (torch.arange(v.search_grid) + 0.5) / v.search_grid
    assert boxes.dtype == torch.float32
    np.testing.assert_array_equal(boxes[0, 0, :, 0], centres)
    np.testing.assert_array_equal(boxes[0, :, 0, 3], centres)


def test_variants_that_cannot_work_are_refused():
    tiny = get_variant("lorat_tiny")
    for change in ({"search_size": 150}, {"template_size": 154}, {"heads": 5}, {"depth": 0}):
        with pytest.raises(InputError, match="variant 'other'"):
            replace(tiny, name="other", **change)
    with pytest.raises(InputError, match="timm has no model 'nope'"):
        create_model(replace(tiny, name="other", backbone="nope"))
    with pytest.raises(InputError, match="exists already"):
        register_variant(replace(tiny, name="LoRAT-Tiny", depth=3))
    assert get_variant("lorat_tiny") is tiny


def test_variant_names_are_forgiving():
    assert get_variant("LoRAT-B-224") is get_variant("lorat_b_224") is get_variant("lorat_b224")
    with pytest.raises(ValueError, match=r"unknown model 'lorat_x'.*lorat_tiny"):
        get_variant("lorat_x")


class OtherNetwork(LoRATNetwork):
    """A network of another package."""


def test_networks_of_other_packages_are_built_by_name(tmp_path, monkeypatch):
    points = [
        EntryPoint("other", f"{__name__}:OtherNetwork", "lorat_plugin.networks"),
        EntryPoint("wrong", "builtins:dict", "lorat_plugin.networks"),
    ]
    monkeypatch.setattr(plugins, "entry_points", lambda group: points if group == "lorat_plugin.networks" else [])
    small = replace(get_variant("lorat_tiny"), name="small", dim=64, depth=1, heads=2, ffn_dim=128, network="other")
    path = save_checkpoint(create_model(small), tmp_path / "small.safetensors")
    assert type(load_checkpoint(path)) is OtherNetwork
    with pytest.raises(InputError, match=r"network 'wrong': .* is no network, it lacks state_dict"):
        create_model(replace(small, network="wrong"))
    with pytest.raises(InputError, match="unknown network 'none'; registered are lorat, lorat2, other, wrong"):
        create_model(replace(small, network="none"))
