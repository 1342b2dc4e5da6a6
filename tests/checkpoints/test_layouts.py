"""Backbones as other programs name their tensors: DINOv2's training and transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lorat_plugin import create_model
from lorat_plugin.checkpoints.loading import backbone_tensors, read_weights
from lorat_plugin.errors import CheckpointError
from lorat_plugin.variants import Variant
from tests.helpers.small_variants import variant_of

CASES = ("mlp_224_lora", "swiglu_224_rslora")


@pytest.fixture(params=CASES)
def plain(golden: Path, request: pytest.FixtureRequest) -> tuple[Variant, dict[str, torch.Tensor], Path]:
    """A variant, the tensors of a DINOv2 file for it, and the file."""
    path = golden / f"network/{request.param}.backbone_meta.safetensors"
    return variant_of(request.param), load_file(path), path


def chunked(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Names of DINOv2's training: block i is `blocks.CHUNK.i`, here with one block in each chunk."""
    parts = {name: name.split(".") for name in tensors}
    return {
        prefix + ".".join([*part[:2], *part[1:]] if part[0] == "blocks" else part): tensors[name]
        for name, part in parts.items()
    }


@pytest.mark.parametrize("form", ["teacher file", "both networks", "both networks in containers", "single prefix"])
def test_a_checkpoint_of_dinov2_training_gives_its_teacher(
    plain: tuple[Variant, dict[str, torch.Tensor], Path], form: str, tmp_path: Path
) -> None:
    variant, tensors, path = plain
    other = {name: tensor + 1 for name, tensor in tensors.items()}
    head: dict[str, Any] = {"dino_head.mlp.0.weight": torch.zeros(3), "ibot_head.last_layer.weight": torch.zeros(3)}
    forms: dict[str, dict[str, Any]] = {
        "teacher file": {"teacher": chunked(tensors, "backbone.") | head, "iteration": 7},
        "both networks": {"model": chunked(tensors, "teacher.backbone.") | chunked(other, "student.backbone.")},
        "both networks in containers": {"student": other, "teacher": chunked(tensors, "module.backbone.") | head},
        "single prefix": chunked(tensors, "backbone.") | head,
    }
    torch.save(forms[form], tmp_path / "checkpoint.pth")
    assert read_weights(tmp_path / "checkpoint.pth").layout == "DINOv2 (Meta)"
    found, wanted = (backbone_tensors(variant, str(file)) for file in (tmp_path / "checkpoint.pth", path))
    assert found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_one_process_part_of_a_training_checkpoint_is_refused_with_the_remedy(tmp_path: Path) -> None:
    names = ("teacher.backbone._flat_param", "teacher.backbone.blocks.0.0._flat_param")
    torch.save({"model": dict.fromkeys(names, torch.zeros(9))}, tmp_path / "model_0001.rank_0.pth")
    with pytest.raises(CheckpointError, match=r"sharded checkpoint .*give the gathered one.*teacher_checkpoint\.pth"):
        read_weights(tmp_path / "model_0001.rank_0.pth")


def transformers_model(variant: Variant) -> Any:
    """A random Dinov2Model of a variant's sizes, whose blocks count."""
    from transformers import Dinov2Config, Dinov2Model

    sizes = {"hidden_size": variant.dim, "num_hidden_layers": variant.depth, "num_attention_heads": variant.heads}
    torch.manual_seed(0)
    model = Dinov2Model(Dinov2Config(**sizes, patch_size=14, use_swiglu_ffn=variant.ffn == "swiglu", image_size=112))
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@torch.inference_mode()
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("form", ["file", "shards", "state in memory", "inside a classifier"])
def test_a_backbone_of_transformers_computes_what_transformers_does(case: str, form: str, tmp_path: Path) -> None:
    variant = variant_of(case)
    model = transformers_model(variant)
    source = tmp_path / "model"
    model.save_pretrained(source, max_shard_size="60KB" if form == "shards" else "1GB")
    assert (source / "model.safetensors.index.json").exists() == (form == "shards")
    if form == "state in memory":  # the newest transformers name the tensors otherwise than in files
        source = tmp_path / "state.pth"
        torch.save(model.state_dict(), source)
    elif form == "inside a classifier":
        tensors = {f"dinov2.{name}": tensor for name, tensor in load_file(source / "model.safetensors").items()}
        source = tmp_path / "classifier.safetensors"
        save_file(tensors | {"classifier.weight": torch.zeros(2, 2 * variant.dim)}, source)
    assert read_weights(source).layout == "DINOv2 (transformers)"
    network = create_model(variant, str(source))
    tokens, image = torch.randn(1, 9, variant.dim), torch.randn(1, 3, 112, 112)
    wanted, found = model.encoder(tokens).last_hidden_state, tokens
    for block in network.blocks:
        found = block(found)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(network.norm(found), model.layernorm(wanted), atol=1e-4, rtol=1e-4)
    patches = network.patch_embed.proj(image).flatten(2).transpose(1, 2)
    torch.testing.assert_close(patches, model.embeddings.patch_embeddings(image), atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_a_plain_vit_of_transformers_computes_what_transformers_does(tmp_path: Path) -> None:
    from dataclasses import replace

    from transformers import ViTConfig, ViTModel

    from lorat_plugin.backbones import with_backbone

    variant = with_backbone(variant_of("mlp_224_lora"), "vit_base_patch16_224.mae")
    variant = replace(variant, dim=64, depth=2, heads=2, ffn_dim=128)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    model = ViTModel(ViTConfig(**sizes, image_size=224, layer_norm_eps=1e-6)).eval()
    model.save_pretrained(tmp_path)
    assert read_weights(tmp_path).layout == "ViT (transformers)"
    found = tokens = torch.randn(1, 9, 64)
    for block in create_model(variant, str(tmp_path)).blocks:
        found = block(found)
    for layer in model.encoder.layer if hasattr(model, "encoder") else model.layers:
        tokens = layer(tokens)
        tokens = tokens[0] if isinstance(tokens, tuple) else tokens
    torch.testing.assert_close(found, tokens, atol=1e-4, rtol=1e-4)
