"""Other ViTs of timm as backbones: the same tokens as timm's own forward pass, adapters, files, tracking, refusals."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from lorat_plugin import LoRATTracker, create_model, load_checkpoint, save_checkpoint
from lorat_plugin.backbones import hub_id, with_backbone
from lorat_plugin.checkpoints.adapters import inject, merge
from lorat_plugin.crop import NORMALIZATIONS
from lorat_plugin.errors import CheckpointError, InputError
from lorat_plugin.network import LoRATNetwork
from lorat_plugin.variants import Variant, get_variant

FAMILIES = {  # what is special about each
    "vit_base_patch16_224.mae": "nothing",
    "vit_base_patch16_clip_quickgelu_224.openai": "norm before the blocks, patches without bias, its own colours",
    "eva02_base_patch14_224.mim_in22k": "rotary; q, k, v and SwiGLU in parts; norm in the MLP; norm kept as fc_norm",
    "eva02_tiny_patch14_224.mim_in22k": "rotary; q and v with biases beside the fused layer",
    "vit_base_patch14_reg4_dinov2.lvd142m": "registers",
    "vit_base_patch16_dinov3.lvd1689m": "registers, rotary, no table, no q, k, v biases",
    "vit_so150m_patch16_reg4_gap_256.sbb_e250_in12k": "registers with positions in the table",
    "vit_pe_core_base_patch16_224.fb": "rotary, norm before the blocks, attention of another class",
}
SIZES = {"embed_dim": 64, "depth": 2, "num_heads": 4, "num_classes": 0}


@lru_cache
def whole(name: str) -> Variant:
    return with_backbone(get_variant("lorat_tiny"), name)


def small(name: str, **changes: Any) -> tuple[Variant, Any]:
    """A narrow variant with two blocks, and timm's model of its sizes with random values in all parameters."""
    variant = whole(name)
    torch.manual_seed(0)
    model = timm.create_model(name, img_size=variant.search_size, **SIZES, **changes).eval()
    for parameter in model.parameters():
        parameter.data.normal_(std=0.1)
    hidden = model.blocks[0].mlp.fc2.in_features
    return replace(variant, dim=64, depth=2, heads=4, ffn_dim=hidden, lora_rank=4, lora_alpha=8.0), model


def save(model: Any, path: Path) -> str:
    save_file(model.state_dict(), path)
    return str(path)


def inputs(variant: Variant) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    z, x = (torch.randn(2, 3, s, s, generator=generator) for s in (variant.template_size, variant.search_size))
    return z, x, torch.randint(0, 2, (2, variant.template_grid, variant.template_grid), generator=generator)


@pytest.mark.parametrize("name", FAMILIES)
@torch.inference_mode()
def test_tokens_equal_timms(name, tmp_path):
    """Search tokens alone, without token type, equal timm's own features without class token."""
    variant, model = small(name, class_token=False, global_pool="")
    network = create_model(variant, save(model, tmp_path / "timm.safetensors"))
    z, x, mask = inputs(variant)
    network.token_type_embed.weight.zero_()
    if network.rope is not None:
        cells, window = variant.search_grid, variant.template_grid
        whole = network.rope[-(cells**2) :]
        torch.testing.assert_close(
            network.rope[: window**2], whole.view(cells, cells, -1)[:window, :window].flatten(0, 1)
        )
        network.rope = whole
    seen = []
    network.head.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    registers = getattr(model, "num_prefix_tokens", 0)
    network.predict([network.encode_template(z, mask)[:, :registers]], x)
    torch.testing.assert_close(seen[0], model.forward_features(x)[:, registers:], atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_adapters_merge_and_files_load_again(name, tmp_path):
    variant, model = small(name)
    backbone = save(model, tmp_path / "timm.safetensors")
    network = inject(create_model(variant, backbone), "normal").eval()
    trained = {n for n, p in network.named_parameters() if p.requires_grad and ".lora_A." in n}
    assert len(trained) == 2 * 6  # q, k, v, proj, fc1, fc2 of each block
    merged, data = merge(network), inputs(variant)
    file = save_checkpoint(merged, tmp_path / "merged.safetensors")
    folder = save_checkpoint(network, tmp_path / "adapter", "peft")
    with torch.inference_mode():
        wanted = network(*data)
        for other in (merged, load_checkpoint(file), load_checkpoint(folder, backbone=backbone)):
            for ours, theirs in zip(other(*data), wanted, strict=True):
                torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_tracker_runs(name, frames):
    variant, _ = small(name)
    network = create_model(variant)
    assert bool(network.pos_embed.any()) == network.has_table == ("dinov3" not in name)
    tracker = LoRATTracker(network, device="cpu")
    tracker.init(frames[0], [30, 20, 16, 16])
    for frame in frames[1:4]:
        result = tracker.update(frame)
        assert np.isfinite(result.box).all() and 0 <= result.score <= 1


def test_the_tracker_feeds_each_backbone_its_own_colours(monkeypatch):
    variant, _ = small("vit_base_patch16_clip_quickgelu_224.openai")
    network, seen = create_model(variant), []
    whole = network.encode_template
    monkeypatch.setattr(network, "encode_template", lambda z, mask: seen.append(z) or whole(z, mask))
    LoRATTracker(network, device="cpu").init(np.full((90, 120, 3), 51, np.uint8), [30, 20, 16, 16])
    mean, std = map(np.array, NORMALIZATIONS["clip"])
    np.testing.assert_allclose(seen[0][0, :, 5, 5], (0.2 - mean) / std, atol=1e-6)


def test_a_backbone_keeps_the_grids_of_the_variant():
    variant = get_variant("lorat_b_224")
    mae = with_backbone(variant, "vit_large_patch16_224.mae")
    assert (mae.dim, mae.depth, mae.heads, mae.ffn, mae.ffn_dim) == (1024, 24, 16, "mlp", 4096)
    assert (mae.template_size, mae.search_size, mae.patch_size) == (128, 256, 16)
    assert (mae.template_grid, mae.search_grid) == (variant.template_grid, variant.search_grid)
    assert (mae.name, mae.normalization) == ("lorat_b_224-vit_large_patch16_224.mae", "imagenet")
    eva = with_backbone(get_variant("lorat_tiny"), "eva02_base_patch14_224.mim_in22k")
    assert (eva.depth, eva.ffn, eva.ffn_dim, eva.normalization) == (6, "swiglu", 2048, "clip")
    assert with_backbone(variant, "vit_base_patch14_dinov2") == replace(
        variant, name=f"{variant.name}-vit_base_patch14_dinov2"
    )


@pytest.mark.parametrize(
    ("name", "lacking"),
    {
        "resnet18": "no row of equal blocks",
        "swin_tiny_patch4_window7_224": "no row of equal blocks",
        "beit_base_patch16_224": "Beit lacks attention over all tokens, without windows or position biases",
        "vit_small_r26_s32_224": "not made by one convolution",
        "vit_base_patch16_rope_mixed_224": "rotary frequencies are learned",
        "vit_base_patch16_xp_224": "ParallelScalingBlock has no attention followed by an MLP",
        "vit_base_patch16_224.nope": "timm has no model 'vit_base_patch16_224.nope'",
    }.items(),
)
def test_models_that_cannot_track_are_refused(name, lacking):
    with pytest.raises(InputError, match=lacking):
        with_backbone(get_variant("lorat_b_224"), name)


def test_files_that_do_not_fit_are_refused(tmp_path, monkeypatch):
    variant, model = small("eva02_base_patch14_224.mim_in22k")
    path = tmp_path / "timm.safetensors"
    whole = load_file(save(model, path))
    for absent, named in (("blocks.1.attn.k_proj.weight", "blocks.1.attn.qkv.weight"), ("fc_norm.bias", "norm.bias")):
        save_file({n: t for n, t in whole.items() if n != absent}, path)
        with pytest.raises(CheckpointError, match=f"{named} is missing"):
            create_model(variant, str(path))
    save_file(whole | {"blocks.0.extra": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match=r"blocks\.0\.extra is unknown"):
        create_model(variant, str(path))
    other, _ = small("vit_base_patch16_224.mae")
    with pytest.raises(CheckpointError, match=r"do not fit lorat_tiny-vit_base_patch16_224\.mae"):
        create_model(other, save(model, path))
    assert hub_id(get_variant("lorat_b_224")) == "timm/vit_base_patch14_dinov2.lvd142m"
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **k: (_ for _ in ()).throw(OSError("offline")))
    with pytest.raises(CheckpointError, match=r"give the vit_base_patch16_224\.mae backbone.*timm/vit_base_patch16"):
        create_model(other, "pretrained")


def test_half_precision_and_training_run():
    variant, _ = small("vit_base_patch16_dinov3.lvd1689m")
    network = inject(create_model(variant)).train()
    prediction = network(*inputs(variant))
    (prediction.score_map.sum() + prediction.boxes.sum()).backward()
    assert all(p.grad is not None for p in network.parameters() if p.requires_grad)
    assert isinstance(network, LoRATNetwork)
    z, x, mask = inputs(variant)
    assert merge(network).to(torch.bfloat16)(z, x, mask).score_map.isfinite().all()
