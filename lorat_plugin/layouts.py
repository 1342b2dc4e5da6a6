"""Names of tensors in every kind of weights file, translated to one and back.

The common names are the network's own, with adapters as peft calls them: `<layer>.lora_A.weight`, and q, k and v under
`attn.qkv.{q,k,v}`. Known layouts: DINOv2 (Meta's or timm's), other ViTs (timm's), official LoRAT (adapters only, full,
merged), peft.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

import torch

from lorat_plugin.errors import CheckpointError

Layout = Literal[
    "DINOv2 (Meta)",
    "DINOv2 (timm)",
    "ViT (timm)",
    "LoRAT adapters (official)",
    "LoRAT full (official)",
    "LoRAT merged",
    "LoRAT adapters (peft)",
    "LoRAT adapters (peft, not LoRA)",
]
_PREFIX = re.compile(r"^((module|model|net|network|ema|ema_model|base_model\.model)\.)+")
_CONTAINERS = ("state_dict", "model", "model_state_dict", "net", "network", "ema", "state_dict_ema", "model_ema")
_OFFICIAL = (  # official name -> common name
    (re.compile(r"^token_type_embed$"), "token_type_embed.weight"),
    (re.compile(r"^register_tokens$"), "reg_token"),
    (re.compile(r"\.lora\.([AB])$"), r".lora_\1.weight"),
    (re.compile(r"^(blocks\..*)\.linear\.(weight|bias)$"), r"\1.\2"),
    (re.compile(r"\.mlp\.w12\."), ".mlp.fc1."),
    (re.compile(r"\.mlp\.w3\."), ".mlp.fc2."),
)
_ADAPTED = re.compile(r"^(blocks\.\d+\.(?:attn\.qkv\.[qkv]|attn\.proj|mlp\.fc[12]))\.(weight|bias)$")


@dataclass(frozen=True)
class Weights:
    """Tensors of one file under common names, and what the file says about them."""

    source: str
    layout: Layout
    tensors: dict[str, torch.Tensor]
    alpha: dict[str, float] = field(default_factory=dict)  # by adapted layer; "" stands for all; empty: scaling 1
    rslora: bool = False
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def has_adapters(self) -> bool:
        """Whether low-rank factors are there, to be merged."""
        return any(".lora_A." in name for name in self.tensors)

    @property
    def is_backbone(self) -> bool:
        """Whether it is a backbone alone, without anything of LoRAT's."""
        return self.layout.startswith(("DINOv2", "ViT"))

    @property
    def has_backbone(self) -> bool:
        """Whether the blocks' own weights are there."""
        return "patch_embed.proj.weight" in self.tensors

    def scaling(self, layer: str, rank: int) -> float:
        """Factor of B A for a layer. A file without alpha means 1, as the official loader reads it."""
        alpha = self.alpha.get(layer, self.alpha.get(""))
        if alpha is None:
            return 1.0
        return alpha / (rank**0.5 if self.rslora else rank)


def recognise(source: str, raw: dict[str, object], metadata: dict[str, str]) -> Weights:
    """Find out what a file holds.

    Args:
        source: its name, for messages.
        raw: what was read: names -> tensors, perhaps inside a container or behind prefixes of DDP, EMA or compile.
        metadata: strings of a safetensors header.
    Raises CheckpointError if it is none of the known layouts.
    """
    tensors = _plain_names(raw)
    peft_names = any(".lora_A." in name for name in tensors)
    alpha, rslora = _lora_settings(tensors, metadata)
    tensors = {_common(name): tensor for name, tensor in tensors.items()}
    layout: Layout
    if metadata.get("peft_type"):
        layout = "LoRAT adapters (peft, not LoRA)"
    elif "blocks.0.ls1.gamma" in tensors and "cls_token" in tensors and "pos_embed" in tensors:
        swiglu_renamed = any(name.endswith("mlp.w12.weight") for name in raw)
        layout = "DINOv2 (Meta)" if "mask_token" in tensors or swiglu_renamed else "DINOv2 (timm)"
    elif any(".lora_A." in name for name in tensors):
        if "patch_embed.proj.weight" in tensors:
            layout = "LoRAT full (official)"
        else:
            layout = "LoRAT adapters (peft)" if peft_names else "LoRAT adapters (official)"
    elif any(name.startswith("head.cls_") for name in tensors) and "patch_embed.proj.weight" in tensors:
        layout = "LoRAT merged"
    elif {"patch_embed.proj.weight", "blocks.0.norm1.weight"} <= tensors.keys():
        layout = "ViT (timm)"
    else:
        some = ", ".join(list(tensors)[:3]) or "no tensors"
        raise CheckpointError(
            f"{source}: neither LoRAT nor DINOv2 weights (it holds {some}): give a LoRAT file, a peft adapter folder "
            "or a DINOv2 ViT/14 backbone"
        )
    return Weights(source, layout, tensors, alpha, rslora, metadata)


def to_official(tensors: dict[str, torch.Tensor], swiglu: bool, full: bool = False) -> dict[str, torch.Tensor]:
    """Common names -> the official ones; `full` marks base weights of adapted layers by `.linear.` in the name."""
    renamed = {}
    for name, tensor in tensors.items():
        if full and (match := _ADAPTED.match(name)):
            name = f"{match[1]}.linear.{match[2]}"
        name = re.sub(r"\.lora_([AB])\.weight$", r".lora.\1", name)
        if swiglu:
            name = name.replace(".mlp.fc1.", ".mlp.w12.").replace(".mlp.fc2.", ".mlp.w3.")
        renamed["token_type_embed" if name == "token_type_embed.weight" else name] = tensor
    return renamed


def _plain_names(raw: dict[str, object]) -> dict[str, torch.Tensor]:
    for container in _CONTAINERS:
        if isinstance(inner := raw.get(container), dict):
            return _plain_names(inner)
    tensors = {name: value for name, value in raw.items() if isinstance(value, torch.Tensor)}
    return {
        _PREFIX.sub("", name.replace("_orig_mod.", "")): tensor
        for name, tensor in tensors.items()
        if name != "n_averaged"  # counter of torch's AveragedModel
    }


def _lora_settings(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> tuple[dict[str, float], bool]:
    """Take alpha and the rsLoRA flag out of the tensors or the metadata."""
    alpha = {"": float(metadata["lora_alpha"])} if "lora_alpha" in metadata else {}
    rslora = metadata.get("rslora", "").lower() == "true"
    for name in list(tensors):
        if name == "lora_alpha":
            alpha[""] = float(tensors.pop(name))
        elif name.endswith(".lora.alpha"):
            alpha[_common(name.removesuffix(".lora.alpha") + ".").removesuffix(".")] = float(tensors.pop(name))
        elif name == "use_rslora" or name.endswith(".lora.use_rslora"):
            rslora = bool(tensors.pop(name))
    return alpha, rslora


def _common(name: str) -> str:
    for pattern, replacement in _OFFICIAL:
        name = pattern.sub(replacement, name)
    return name
