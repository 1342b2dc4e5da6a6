"""Vision transformers of timm as LoRAT's backbone: `with_backbone(variant, timm_name) -> Variant`.

Any plain ViT of timm's `VisionTransformer` or `Eva` classes works: DINOv2 (with or without registers), MAE, CLIP,
SigLIP, EVA-02, DINOv3 and similar models. Three rules extend LoRAT's use of DINOv2 (arXiv 2403.05231) to them:

- Tokens: the class token is left out. Registers stay, since the blocks were trained to keep global information in
  them: they precede the template tokens, without position and token type.
- Positions: an absolute table is resized to the search grid and the template takes its top-left window; rotary
  embeddings are those of the search grid, and the template again has those of its top-left window.
- Layers: query, key and value are one layer `attn.qkv` with bias, and the halves of a SwiGLU one layer `mlp.fc1`, also
  where timm has separate layers or no bias, so that adapters, weights files and engines see one layout of blocks. All
  other names are timm's.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import timm
import torch
from timm.layers import GluMlp, PatchEmbed
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from lorat_plugin.crop import NORMALIZATIONS
from lorat_plugin.errors import CheckpointError, InputError, first_line
from lorat_plugin.variants import Variant

_UNUSED = re.compile(r"(cls_token|mask_token|dist_token|(fc_norm|head|head_dist|lm_head|attn_pool|rope)\..*)$")
_PART = re.compile(r"(blocks\.\d+\.)(?:attn\.([qkv])_(?:proj\.)?(weight|bias)|mlp\.fc1_([gx])\.(weight|bias))$")


class Backbone(NamedTuple):
    """The parts of a timm model that LoRAT uses; the first four are modules."""

    patch_embed: Any
    norm_pre: Any
    blocks: Any
    norm: Any
    registers: nn.Parameter | None  # (1, R, dim)
    has_table: bool  # of absolute positions
    rope: torch.Tensor | None  # (template_grid ** 2 + search_grid ** 2, 2 * head width) float32: sines, cosines


def with_backbone(variant: Variant, timm_name: str) -> Variant:
    """The variant with another backbone: its sizes, patch size and input normalisation, the variant's grids of cells.

    Args:
        variant: source of all other fields. If it uses only its backbone's first blocks, so does the new one.
        timm_name: such as `vit_base_patch16_224.mae`; without a tag, the name stands for timm's default weights.
    Raises InputError if timm has no such model or it cannot be a backbone.
    """
    model = reference(timm_name)
    block, depth, patch = model.blocks[0], _depth(timm_name), model.patch_embed.patch_size[0]
    if variant.depth < _depth(variant.backbone):
        depth = min(variant.depth, depth)
    config = timm.get_pretrained_cfg(timm_name)
    colours: list[Any] = [name for name, values in NORMALIZATIONS.items() if values == (config.mean, config.std)]
    if not colours:
        raise InputError(f"backbone '{timm_name}': its input normalisation is none of {', '.join(NORMALIZATIONS)}")
    return replace(
        variant,
        name=f"{variant.name}-{timm_name}",
        backbone=timm_name,
        dim=model.embed_dim,
        depth=depth,
        heads=block.attn.num_heads,
        ffn="mlp" if getattr(block.mlp, "fc1", block.mlp.fc2).out_features == block.mlp.fc2.in_features else "swiglu",
        ffn_dim=block.mlp.fc2.in_features,
        patch_size=patch,
        template_size=variant.template_grid * patch,
        search_size=variant.search_grid * patch,
        normalization=colours[0],
    )


@lru_cache
def reference(timm_name: str) -> Any:
    """The model of that name, one block deep and without memory for weights.

    Raises InputError if timm has none or it cannot be LoRAT's backbone.
    """
    try:
        known = timm.is_model(timm_name) and timm.get_pretrained_cfg(timm_name)
    except RuntimeError:  # the tag is unknown
        known = False
    if not known:
        raise InputError(f"timm has no model '{timm_name}': give one of its names")
    try:
        with torch.device("meta"):
            model = timm.create_model(timm_name, num_classes=0, depth=1)
        lacking = _lacking(model)
    except Exception as error:  # timm raises errors of many classes
        lacking = f"since it is no row of equal blocks with attention over all tokens ({first_line(error)})"
    if lacking:
        raise InputError(
            f"backbone '{timm_name}' cannot track, {lacking}: give a plain ViT, such as vit_base_patch16_224.mae"
        )
    return model


@lru_cache
def _depth(timm_name: str) -> int:
    with torch.device("meta"):
        return len(timm.create_model(timm_name, num_classes=0).blocks)


def _lacking(model: Any) -> str:
    """The reason that a timm model cannot be a backbone, "" if there is none."""
    if not isinstance(model, (VisionTransformer, Eva)):
        return f"since {type(model).__name__} lacks attention over all tokens, without windows or position biases"
    if type(model.patch_embed) is not PatchEmbed or len({*model.patch_embed.patch_size}) > 1:
        return "since its patches are not made by one convolution over squares"
    block = model.blocks[0]
    if not (hasattr(block, "attn") and hasattr(block, "mlp") and hasattr(block.attn, "qkv")):
        return f"since its {type(block).__name__} has no attention followed by an MLP"
    if getattr(block.attn, "num_kv_groups", 1) > 1:
        return "since its keys and values have fewer heads than its queries"
    if getattr(model, "rope_mixed", False):
        return "since its rotary frequencies are learned, block by block"
    return ""


def build(variant: Variant) -> Backbone:
    """The backbone of a variant with random weights. Raises InputError if timm's model cannot be used."""
    try:
        known = reference(variant.backbone)
    except InputError as error:
        raise InputError(f"variant '{variant.name}': {error}") from error
    packed = isinstance(known, VisionTransformer) and isinstance(known.blocks[0].mlp, GluMlp)  # ratio of both halves
    model = timm.create_model(
        variant.backbone,
        embed_dim=variant.dim,
        depth=variant.depth,
        num_heads=variant.heads,
        mlp_ratio=(variant.ffn_dim * (2 if packed else 1) + 0.5) / variant.dim,  # timm truncates the product
        num_classes=0,
    )
    registers = getattr(model, "reg_token", None)
    for block in model.blocks:
        _standardize(block, 0 if registers is None else registers.shape[1])
    norm = model.fc_norm if isinstance(model.norm, nn.Identity) else model.norm
    rope = None
    if getattr(model, "rope", None) is not None:
        table = _rotary_table(variant.backbone, variant.dim // variant.heads, variant.search_grid, variant.patch_size)
        window = table[: variant.template_grid, : variant.template_grid]
        rope = torch.cat([window.flatten(0, 1), table.flatten(0, 1)])
    before, has_table = getattr(model, "norm_pre", nn.Identity()), model.pos_embed is not None
    return Backbone(model.patch_embed, before, model.blocks, norm, registers, has_table, rope)


@lru_cache
@torch.inference_mode(False)
def _rotary_table(timm_name: str, head_dim: int, grid: int, patch: int) -> torch.Tensor:
    """Rotary embeddings of a square grid, (grid, grid, 2 * head_dim) float32, in memory even for a meta network."""
    with torch.device("cpu"):
        sizes = {"embed_dim": head_dim, "num_heads": 1, "depth": 1, "num_classes": 0}
        rope = timm.create_model(timm_name, img_size=grid * patch, **sizes).rope.eval()
        return rope.get_embed([grid, grid]).detach().view(grid, grid, -1)


def _standardize(block: Any, prefix: int) -> None:
    """Give a block one qkv layer with bias, one fc1 layer and the number of tokens without rotary position."""
    attention, mlp = block.attn, block.mlp
    if hasattr(attention, "num_prefix_tokens"):
        attention.num_prefix_tokens = prefix
    if attention.qkv is None:
        attention.qkv = _joined([attention.q_proj, attention.k_proj, attention.v_proj])
        attention.q_proj = attention.k_proj = attention.v_proj = None
    elif attention.qkv.bias is None:
        attention.qkv = _joined([attention.qkv])
        attention.q_bias = attention.k_bias = attention.v_bias = None
    if hasattr(mlp, "fc1_g"):
        with torch.device("meta"):  # all its layers are replaced
            packed = GluMlp(mlp.fc2.in_features, mlp.fc2.in_features * 2, gate_last=False)
        packed.fc1, packed.fc2 = _joined([mlp.fc1_g, mlp.fc1_x]), mlp.fc2
        packed.act, packed.norm, packed.drop1, packed.drop2 = mlp.act, mlp.norm, mlp.drop1, mlp.drop2
        block.mlp = packed


def _joined(layers: Sequence[nn.Linear]) -> nn.Linear:
    """One layer with the concatenated outputs of several; a missing bias is 0."""
    weight = torch.cat([layer.weight.data for layer in layers])
    zeros = [layer.weight.new_zeros(layer.out_features) for layer in layers]
    with torch.device("meta"):
        joined = nn.Linear(weight.shape[1], weight.shape[0])
    joined.weight = nn.Parameter(weight)
    biases = [zero if layer.bias is None else layer.bias.data for layer, zero in zip(layers, zeros, strict=True)]
    joined.bias = nn.Parameter(torch.cat(biases))
    return joined


def hub_id(variant: Variant) -> str:
    """The hub id of timm's weights of the backbone. Raises CheckpointError if timm has none."""
    config = timm.get_pretrained_cfg(variant.backbone)
    if not config or not config.hf_hub_id:
        raise CheckpointError(f"timm has no weights of '{variant.backbone}' on the hub: give a file by --backbone")
    return str(config.hf_hub_id)


def network_names(tensors: dict[str, torch.Tensor], variant: Variant) -> dict[str, torch.Tensor]:
    """A timm state dict in the layout of the network: its names, its number of blocks, its position table.

    Unused tensors are left out, the table of a backbone without one is zero, and missing tensors stay missing. The
    rules at the top of this file define which layers are joined.
    """
    known = reference(variant.backbone)
    kept: dict[str, torch.Tensor] = {}
    parts: defaultdict[str, dict[str, torch.Tensor]] = defaultdict(dict)
    renamed = () if "norm.weight" in tensors else ("fc_norm.weight", "fc_norm.bias")
    for name, tensor in tensors.items():
        if (block := re.match(r"blocks\.(\d+)\.", name)) and int(block[1]) >= variant.depth:
            continue
        if part := _PART.match(name):
            layer = f"{part[1]}attn.qkv.{part[3]}" if part[2] else f"{part[1]}mlp.fc1.{part[5]}"
            parts[layer][part[2] or part[4]] = tensor
        elif name in renamed or not _UNUSED.match(name):
            kept[name.removeprefix("fc_")] = tensor
    for layer, found in parts.items():
        letters = "qkv" if ".attn." in layer else "gx"
        if layer.endswith(".bias"):  # not all have one
            found = dict.fromkeys(letters, torch.zeros_like(next(iter(found.values())))) | found
        if len(found) == len(letters):
            kept[layer] = torch.cat([found[letter] for letter in letters])
    attention = known.blocks[0].attn
    if (attention.qkv or attention.q_proj).bias is None and getattr(attention, "q_bias", None) is None:
        weights = [name for name in kept if name.endswith(".attn.qkv.weight")]
        kept |= {name.replace("weight", "bias"): kept[name].new_zeros(len(kept[name])) for name in weights}
    if known.pos_embed is None:
        kept["pos_embed"] = torch.zeros(1, variant.table_grid**2, variant.dim)
    if "pos_embed" in kept:
        cells = math.isqrt(kept["pos_embed"].shape[1]) ** 2  # a few prefix tokens never fill up another square
        prefix, table = kept["pos_embed"].split([kept["pos_embed"].shape[1] - cells, cells], 1)
        if "reg_token" in kept and prefix.shape[1] and not known.no_embed_class:
            kept["reg_token"] = kept["reg_token"] + prefix[:, -kept["reg_token"].shape[1] :]
        kept["pos_embed"] = resize_position_table(table, variant.table_grid)
        if variant.position == "separate":
            kept["template_pos_embed"] = resize_position_table(table, variant.template_grid)
    return kept


def resize_position_table(table: torch.Tensor, grid: int) -> torch.Tensor:
    """(1, n * n, dim) -> (1, grid * grid, dim): bicubic, no antialias, no offset, as in official LoRAT."""
    side = round(table.shape[1] ** 0.5)
    if side == grid:
        return table
    square = table.float().view(1, side, side, -1).permute(0, 3, 1, 2)
    resized = nn.functional.interpolate(square, size=(grid, grid), mode="bicubic", align_corners=False)
    return resized.permute(0, 2, 3, 1).reshape(1, grid * grid, -1)


_LAYER = re.compile(r"(blocks\.\d+\.(?:attn\.qkv|attn\.proj|mlp\.fc[12]))\.(weight|bias)")


def spread(tensors: dict[str, torch.Tensor], variant: Variant) -> dict[str, torch.Tensor]:
    """A backbone's tensors by LoRATv2's names: layers for each chunk, final norm for each search region.

    Those of a variant without chunks are returned as they are.
    """
    if not variant.chunks:
        return tensors
    parts: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        names = [name]
        if match := _LAYER.fullmatch(name):
            names = [f"{match[1]}.{chunk}.{match[2]}" for chunk in range(variant.chunks)]
        elif name.startswith("norm."):
            names = [f"norms.{stream}.{name[5:]}" for stream in range(variant.chunks - 1)]
        parts |= {part: tensor.clone() for part in names}  # files hold no shared memory
    return parts
