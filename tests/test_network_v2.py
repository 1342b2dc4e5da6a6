"""LoRATv2's network and weights against the official ones: outputs, memories, layouts, parameter counts."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lorat_plugin import create_model, register_variant, save_checkpoint
from lorat_plugin.checkpoints.adapters import inject, merge
from lorat_plugin.checkpoints.loading import load_backbone, load_checkpoint
from lorat_plugin.checkpoints.saving import convert
from lorat_plugin.errors import CheckpointError, InputError
from lorat_plugin.network import Prediction
from lorat_plugin.network_v2 import LoRATv2Network
from lorat_plugin.training.recipe import parameter_groups
from lorat_plugin.variants import get_variant
from tests.helpers.golden_v2 import images, load_d3, variant_of

TOLERANCE = 2e-5  # absolute, logits and box fractions, float32
COUNTS = {  # trainable, LoRA, head, types, training model with shared bases once, merged inference model
    "b_224": (23_602_181, 21_233_664, 2_366_213, 2_304, 131_444_741, 173_967_365),
    "l_224": (60_829_701, 56_623_104, 4_203_525, 3_072, 440_770_565, 610_787_333),
    "b_378": (12_983_813, 10_616_832, 2_366_213, 768, 271_970_314, 261_353_482),
    "l_378": (32_516_101, 28_311_552, 4_203_525, 1_024, 945_516_554, 917_205_002),
}
CASES = [(phase, geometry) for phase in ("p1", "p2") for geometry in ("small", "real")]


def assert_equal(prediction: Prediction, data: dict[str, np.ndarray], name: str) -> None:
    worst = [
        float(np.abs(getattr(prediction, part).numpy() - data[f"{name}_{part}"]).max())
        for part in ("score_map", "boxes")
    ]
    print(f"{name}: {worst}")
    assert max(worst) < TOLERANCE


@pytest.mark.parametrize(("phase", "geometry"), CASES)
@torch.inference_mode()
def test_network_equals_the_reference(golden2: Path, phase: str, geometry: str) -> None:
    data = np.load(golden2 / f"network/{phase}/{geometry}.npz")
    network, inputs = load_d3(golden2, phase, geometry), images(golden2, f"{phase}/{geometry}")
    mask = torch.from_numpy(data["in_z_feat_mask"]).long()
    two = phase == "p2"
    x, reference = inputs["x1" if two else "x0"], inputs["x0"] if two else None
    assert_equal(network(inputs["z"], x, mask, reference), data, "train_merged")
    memory = network.encode_template(inputs["z"], mask)
    if reference is not None:
        memory = network.encode_reference(memory, reference)
    assert_equal(network.predict([memory], x), data, "track")
    assert_equal(network.predict(memory.split(1), x), data, "track")
    every = 13 if geometry == "real" else 1
    for block in range(3):
        for number, letter in enumerate("kv"):
            if (name := f"cache_init_{letter}_block{block}") in data:
                kept = memory[:, block, number, :, : network.template_tokens : every]
                np.testing.assert_allclose(kept, data[name], atol=TOLERANCE)
            if (name := f"cache_update_{letter}_block{block}") in data:
                kept = memory[:, block, number, :, network.template_tokens :: every]
                np.testing.assert_allclose(kept, data[name], atol=TOLERANCE)


@torch.inference_mode()
def test_a_new_reference_of_one_target_leaves_the_others(golden2: Path) -> None:
    data = np.load(golden2 / "network/p2/small.npz")
    network, inputs = load_d3(golden2, "p2", "small"), images(golden2, "p2/small")
    memory = network.encode_template(inputs["z"], torch.from_numpy(data["in_z_feat_mask"]).long())
    memories = list(network.encode_reference(memory, inputs["x0"]).split(1))
    memories[1] = network.encode_reference(memories[1], inputs["x0.second"])
    assert_equal(network.predict(memories, inputs["x1.second"]), data, "track2")


@pytest.mark.parametrize("phase", ["p1", "p2"])
@torch.inference_mode()
def test_memory_gives_what_all_chunks_at_once_give(phase: str) -> None:
    torch.manual_seed(0)
    variant = variant_of(phase, "small")
    network = LoRATv2Network(variant).eval()
    torch.nn.init.normal_(network.pos_embed)
    z, x = (torch.randn(2, 3, size, size) for size in (variant.template_size, variant.search_size))
    reference = torch.randn(2, 3, 84, 84) if phase == "p2" else None
    mask = torch.randint(2, (2, 4, 4))
    memory = network.encode_template(z, mask)
    if reference is not None:
        memory = network.encode_reference(memory, torch.randn(2, 3, 84, 84))  # replaced by the next
        memory = network.encode_reference(memory, reference)
    for ours, theirs in zip(network.predict([memory], x), network(z, x, mask, reference), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("phase", ["p1", "p2"])
@torch.inference_mode()
def test_network_with_adapters_equals_the_reference(golden2: Path, phase: str) -> None:
    """Chunks that are not trained come merged from phase 1, factors of the others from the official file."""
    data = np.load(golden2 / f"network/{phase}/small.npz")
    inputs, mask = images(golden2, f"{phase}/small"), torch.from_numpy(data["in_z_feat_mask"]).long()
    network = LoRATv2Network(variant_of(phase, "small"))
    backbone = golden2 / "network/d3.backbone_timm.safetensors"
    load_backbone(network, str(backbone))
    if phase == "p2":
        first = golden2 / "network/d3.p1.adapters.safetensors"
        carried = load_checkpoint(first, network.variant.phase1, backbone).state_dict()
        network.load_state_dict(carried, strict=False)
    network = inject(network)
    parameters = dict(network.named_parameters())
    for name, tensor in load_file(golden2 / f"network/d3.{phase}.adapters.safetensors").items():
        parameters.pop(re.sub(r"\.lora\.([AB])", r".lora_\1.default.weight", name)).copy_(tensor)
    assert not [name for name, parameter in parameters.items() if parameter.requires_grad]
    two = phase == "p2"
    arguments = inputs["z"], inputs["x1" if two else "x0"], mask, inputs["x0"] if two else None
    assert_equal(network.eval()(*arguments), data, "train_unmerged")
    assert_equal(merge(network)(*arguments), data, "train_merged")


@pytest.mark.parametrize("phase", ["p1", "p2"])
@pytest.mark.parametrize("layout", ["adapters", "full", "merged"])
def test_every_official_layout_gives_the_same_network(
    golden2_whole: Path, phase: str, layout: str, tmp_path: Path
) -> None:
    variant, folder = variant_of(phase, depth=1), golden2_whole / "network"
    expected = load_file(folder / f"d1.{phase}.merged.safetensors")
    backbone = tmp_path / "backbone.safetensors"
    d3 = load_file(folder / "d3.backbone_timm.safetensors")
    save_file({n: t for n, t in d3.items() if not n.startswith(("blocks.1.", "blocks.2."))}, backbone)
    first = folder / f"d1.p1.{layout}.safetensors" if phase == "p2" and layout == "adapters" else None
    source = folder / f"d1.{phase}.{layout}.safetensors"
    loaded = load_checkpoint(source, variant, backbone, first)
    assert loaded.state_dict().keys() == expected.keys()
    worst = max(float((tensor - expected[name]).abs().max()) for name, tensor in loaded.state_dict().items())
    print(f"{phase} {layout}: {worst}")
    assert worst < 1e-6
    again = load_checkpoint(save_checkpoint(loaded, tmp_path / "own.safetensors"))  # its header names the variant
    assert again.variant == variant
    assert all(torch.equal(t, loaded.state_dict()[n]) for n, t in again.state_dict().items())


def test_a_file_of_phase_two_alone_is_refused_until_it_is_joined(golden2: Path, tmp_path: Path) -> None:
    folder, variant = golden2 / "network", variant_of("p2", "small")
    backbone, second = str(folder / "d3.backbone_timm.safetensors"), folder / "d3.p2.adapters.safetensors"
    with pytest.raises(CheckpointError, match="holds LoRATv2's phase 2 alone: join it with phase 1's weights by lorat"):
        load_checkpoint(second, variant, backbone)
    expected = load_d3(golden2, "p2", "small").state_dict()
    register_variant(variant)
    for phase1 in ("p1.merged.safetensors", "p1.official.safetensors", str(folder / "d3.p1.adapters.safetensors")):
        if not (tmp_path / phase1).exists():
            target = "merged" if "merged" in phase1 else "official"
            first = variant.phase1
            register_variant(first)
            convert(folder / "d3.p1.adapters.safetensors", tmp_path / phase1, first.name, backbone, target)
        convert(second, tmp_path / "whole.safetensors", variant.name, backbone, phase1=tmp_path / phase1)
        loaded = load_checkpoint(tmp_path / "whole.safetensors")
        assert loaded.variant == variant
        assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())


def test_weights_of_another_network_are_refused_in_one_sentence(golden: Path, golden2: Path) -> None:
    first = golden / "network/mlp_224_lora.full.safetensors"
    with pytest.raises(CheckpointError, match="weights of LoRAT, but lorat2_b_224 is LoRATv2 phase 1: name another"):
        load_checkpoint(first, "lorat2_b_224")
    second = golden2 / "network/d3.p2.adapters.safetensors"
    with pytest.raises(CheckpointError, match="weights of LoRATv2 phase 2, but lorat_b_224 is LoRAT: name another"):
        load_checkpoint(second, "lorat_b_224")
    with pytest.raises(CheckpointError, match="phase 1's weights complete LoRATv2's phase 2, which lorat_b_224 is not"):
        load_checkpoint(first, "lorat_b_224", phase1=second)


@pytest.mark.parametrize("name", ["b_224", "l_224", "b_378", "l_378"])
def test_parameter_counts_equal_the_reference(golden2: Path, name: str) -> None:
    counts = COUNTS[name]
    with torch.device("meta"):
        plain, adapted = create_model(f"lorat2_{name}"), create_model(f"lorat2_{name}", lora=True)
    trainable = {n: p.numel() for n, p in adapted.named_parameters() if p.requires_grad}
    lora = sum(number for n, number in trainable.items() if ".lora_" in n)
    head = sum(number for n, number in trainable.items() if n.startswith("heads."))
    shared = 0  # the official training model holds the base layers of chunks that are trained together once
    if not plain.variant.reference_size:
        shared = sum(p.numel() for n, p in plain.named_parameters() if re.search(r"\.(proj|fc1|fc2)\.1\.", n))
    assert counts == (
        sum(trainable.values()),
        lora,
        head,
        sum(trainable.values()) - lora - head,
        sum(p.numel() for p in adapted.parameters()) - shared,
        sum(p.numel() for p in plain.parameters()),
    )
    groups = json.loads((golden2 / "training/parameters_real_models.json").read_text())["param_groups"]
    expected = [
        (group["weight_decay"], group["elements"])
        for group in groups[f"p{1 + (shared == 0)}-{name[0].upper()}-{name[2:]}"]
    ]
    found = parameter_groups(adapted.named_parameters(), 0.1)
    assert [(g["weight_decay"], sum(p.numel() for p in g["params"])) for g in found] == expected


def test_bad_sizes_and_thresholds_are_refused() -> None:
    variant = get_variant("lorat2_b_378")
    for change, message in (
        ({"update_above": 1.5}, "update_above 1.5 must be a score from 0 to 1"),
        ({"reference_size": 225}, "reference_size 225 must be a multiple of 14"),
    ):
        with pytest.raises(InputError, match=message):
            replace(variant, **change)
    with pytest.raises(InputError, match="lorat2_b_378' has no baseline"):
        get_variant("lorat2_b_378_baseline")
    with pytest.raises(InputError, match="LoRATv2 needs DINOv2's blocks"):
        LoRATv2Network(replace(variant, ffn="swiglu"))
    assert get_variant("LoRATv2-L-224").name == "lorat2_l_224"


def stored_bytes(network: torch.nn.Module) -> int:
    """Bytes of a network's tensors, those that are shared once."""
    return sum({t.data_ptr(): t.nbytes for t in network.state_dict(keep_vars=True).values()}.values())


@pytest.mark.parametrize("phase", ["p1", "p2"])
@torch.inference_mode()
def test_unmerged_chunks_share_one_backbone_and_give_the_same(golden2: Path, phase: str, tmp_path: Path) -> None:
    folder, variant = golden2 / "network", variant_of(phase, "small")
    backbone, first = folder / "d3.backbone_timm.safetensors", folder / "d3.p1.adapters.safetensors"
    source = folder / f"d3.{phase}.adapters.safetensors"
    lean = load_checkpoint(source, variant, backbone, first if phase == "p2" else None, merge=False)
    data, inputs = np.load(golden2 / f"network/{phase}/small.npz"), images(golden2, f"{phase}/small")
    memory = lean.encode_template(inputs["z"], torch.from_numpy(data["in_z_feat_mask"]).long())
    if phase == "p2":
        assert isinstance(lean, LoRATv2Network)
        memory = lean.encode_reference(memory, inputs["x0"])
    assert_equal(lean.predict([memory], inputs["x1" if phase == "p2" else "x0"]), data, "track")
    whole = load_d3(golden2, phase, "small")
    blocks, factors = 12 * 64 * 64 + 9 * 64, 8 * 18 * 64  # linear layers of one chunk and block; their A and B
    assert stored_bytes(whole) - stored_bytes(lean) == 4 * 3 * (
        (variant.chunks - 1) * blocks - variant.chunks * factors
    )
    again = merge(lean.to(torch.float64).float())
    assert all(torch.allclose(t, whole.state_dict()[n], atol=1e-6) for n, t in again.state_dict().items())
    assert stored_bytes(lean) < stored_bytes(whole), "the layers are shared after a change of type, too"
    merged = save_checkpoint(whole, tmp_path / "merged.safetensors")
    with pytest.raises(
        CheckpointError, match="without merging every chunk needs its adapters: give those of both phases"
    ):
        load_checkpoint(merged, variant, merge=False)


@pytest.mark.parametrize("name", ["b_224", "l_224", "b_378", "l_378"])
def test_unmerged_weights_of_all_variants_are_small(name: str) -> None:
    with torch.device("meta"):
        merged, first = (create_model(n) for n in (f"lorat2_{name}", f"lorat_{name[0]}_224"))
    variant, sizes = merged.variant, {n: p.numel() for n, p in merged.named_parameters()}
    layers = {n: size for n, size in sizes.items() if re.search(r"\.(qkv|proj|fc1|fc2)\.\d", n)}
    factors = variant.depth * variant.lora_rank * 18 * variant.dim * variant.chunks
    lean = sum(sizes.values()) - sum(layers.values()) * (variant.chunks - 1) // variant.chunks + factors
    state = variant.depth * 2 * variant.dim * (260 + (256 if variant.reference_size else 0))
    ratio = lean / sum(p.numel() for p in first.parameters())
    print(
        f"\n{name}: merged {4 * sum(sizes.values()):,}, lean {4 * lean:,} ({ratio:.3f} of LoRAT), state {4 * state:,}"
    )
    page = (Path(__file__).parents[1] / "docs/howto/lorat2.md").read_text(encoding="utf-8")
    assert f"| {4 * sum(sizes.values()):,} | {4 * lean:,} | {4 * state:,} |" in page
    assert ratio < 1.45
