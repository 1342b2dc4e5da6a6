"""Write weights: merged files, peft adapter folders and the official layouts; convert one into another."""

from __future__ import annotations

import copy
import functools
import hashlib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from safetensors.torch import save_file

from lorat_plugin.checkpoints import adapters, loading
from lorat_plugin.checkpoints.layouts import Weights, to_official
from lorat_plugin.errors import CheckpointError
from lorat_plugin.files import whole_file, whole_folder
from lorat_plugin.network import LoRATNetwork
from lorat_plugin.variants import Variant, get_variant

if TYPE_CHECKING:
    from peft import PeftConfig

Target = Literal["merged", "peft", "official", "official-full"]


def save_checkpoint(
    network: LoRATNetwork,
    path: str | Path,
    target: Target = "merged",
    dtype: torch.dtype | None = None,
    metadata: dict[str, str] | None = None,
) -> Path:
    """Write a network's weights.

    Args:
        network: with adapters or merged; it is not changed.
        path: file, or folder for "peft".
        target: "merged" (one file that needs nothing else), "peft" (adapter folder), "official" (adapters only) or
            "official-full"; the last three need adapters.
        dtype: of what is written; left out, the widest of what there is.
        metadata: more strings for the header, such as the training recipe.
    Returns the path. Written to a temporary name and renamed. Raises CheckpointError if there are no adapters to write.
    """
    variant, config = network.variant, adapters.adapters(network)
    metadata = network.presence.header() | (metadata or {})
    if config is not None and adapters.needs_peft(network):
        if target == "peft":
            tensors = adapters.adapter_tensors(network)
            weights = Weights(variant.name, "LoRAT adapters (peft, not LoRA)", tensors, metadata=metadata)
            return _save_peft(tensors, config, variant, Path(path), _header(weights, variant), dtype)
        network = adapters.merge(network)
    split = any(isinstance(block.attn.qkv, adapters.SplitQKV) for block in network.blocks)
    alpha = {"": variant.lora_alpha} if split else {}
    weights = Weights(variant.name, "LoRAT merged", adapters.network_tensors(network), alpha, variant.rslora, metadata)
    return write_weights(weights, variant, path, target, dtype)


def write_weights(
    weights: Weights, variant: Variant, path: str | Path, target: Target = "merged", dtype: torch.dtype | None = None
) -> Path:
    """Write weights in a layout; arguments as `save_checkpoint`. "merged" and "official-full" need the backbone's."""
    path = Path(path)
    if target != "merged" and not weights.has_adapters:
        raise CheckpointError(f"{weights.source}: has no adapters (they are merged): it can only be written as merged")
    if target in ("merged", "official-full") and not weights.has_backbone:
        raise CheckpointError(
            f"{weights.source}: holds adapters only: give the DINOv2 file by --backbone to write '{target}'"
        )
    if target != "merged" and _single_alpha(weights) is None:
        raise CheckpointError(f"{weights.source}: its layers differ in rank or alpha: write it as merged")
    header = _header(weights, variant)
    swiglu = variant.ffn == "swiglu"
    if target == "merged":
        return _save(
            to_official(loading.merged_tensors(weights, weights.tensors, variant), swiglu), path, header, dtype
        )
    trained = {n: t for n, t in weights.tensors.items() if ".lora_" in n or variant.trains(n)}
    extra = [n for n in weights.tensors if n.endswith(".lora_B.bias") or not (weights.has_backbone or n in trained)]
    if extra:
        raise CheckpointError(
            f"{weights.source}: trains {extra[0]} too, for which '{target}' has no name: write it as merged"
        )
    if target == "peft":
        a = {n.removesuffix(".lora_A.weight"): t for n, t in trained.items() if n.endswith(".lora_A.weight")}
        targets = [name for name in adapters.TARGETS if any(layer.endswith(f".{name}") for layer in a)]
        rank = next(iter(a.values())).shape[0]
        config = adapters.adapter_config(variant, rank, float(header["lora_alpha"]), weights.rslora, targets)
        return _save_peft(trained, config, variant, path, header, dtype)
    tensors = to_official(
        weights.tensors if target == "official-full" else trained, swiglu, full=target == "official-full"
    )
    if any(scaling != 1 for scaling in _scalings(weights)):  # the official loader takes absence for 1
        tensors["lora_alpha"] = torch.tensor(float(header["lora_alpha"]))
        tensors["use_rslora"] = torch.tensor(weights.rslora)
    return _save(tensors, path, header, dtype)


def _scalings(weights: Weights) -> list[float]:
    names = [name for name in weights.tensors if name.endswith(".lora_A.weight")]
    return [weights.scaling(n.removesuffix(".lora_A.weight"), weights.tensors[n].shape[0]) for n in names]


def _single_alpha(weights: Weights) -> float | None:
    """The alpha of all layers, or None if they differ; a file without any means scaling 1."""
    ranks = {t.shape[0] for n, t in weights.tensors.items() if n.endswith(".lora_A.weight")}
    if len(set(weights.alpha.values())) > 1 or len(ranks) > 1:
        return None
    rank = ranks.pop()
    return next(iter(weights.alpha.values()), rank**0.5 if weights.rslora else float(rank))


def _header(weights: Weights, variant: Variant) -> dict[str, str]:
    header = {"format": "pt", **weights.metadata, "variant": variant.name, "variant_fields": variant.to_json()}
    if weights.has_adapters and (alpha := _single_alpha(weights)) is not None:
        header |= {"lora_alpha": str(alpha), "rslora": str(weights.rslora)}
    for package in ("lorat_plugin", "torch", "timm", "peft"):
        try:
            header[f"version_{package}"] = version(package)
        except PackageNotFoundError:
            continue
    return header


def _save_peft(
    tensors: dict[str, torch.Tensor],
    config: PeftConfig,
    variant: Variant,
    folder: Path,
    header: dict[str, str],
    dtype: torch.dtype | None,
) -> Path:
    config = copy.copy(config)
    config.modules_to_save = variant.trained_modules
    with whole_folder(folder) as part:
        _save(
            {f"base_model.model.{n}": t for n, t in tensors.items()}, part / "adapter_model.safetensors", header, dtype
        )
        config.save_pretrained(part)
    return folder


def _save(tensors: dict[str, torch.Tensor], path: Path, header: dict[str, str], dtype: torch.dtype | None) -> Path:
    floats = [tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()]
    dtype = dtype or functools.reduce(torch.promote_types, floats)  # half-precision backbones meet float32 adapters
    ready = {n: (t.to(dtype) if t.is_floating_point() else t).contiguous() for n, t in tensors.items()}
    with whole_file(path) as part:
        save_file(ready, part, metadata=header)
    return path


def convert(
    source: str | Path,
    destination: str | Path,
    model: str | None = None,
    backbone: str | None = None,
    target: Target | None = None,
    dtype: torch.dtype | None = None,
    phase1: str | Path | None = None,
) -> tuple[Weights, Variant, Target]:
    """Write weights of any known layout in another one.

    Args:
        source: file, adapter folder or hub id.
        destination: file, or folder for peft.
        model: variant; left out, it is inferred.
        backbone: DINOv2 file, or "pretrained", that completes adapters.
        target: layout; left out, "peft" for a destination without suffix, else "merged".
        dtype: of what is written; left out, the widest of what there is.
        phase1: LoRATv2's weights of phase 1, which complete those of phase 2.
    Returns what was recognised in the source, the variant and the layout written. Raises CheckpointError.
    """
    weights = loading.read_trained(source)
    variant = get_variant(model) if model else loading.infer_variant(weights)
    weights = loading.join_phases(weights, variant, phase1, backbone) if phase1 else weights
    loading.check(weights, variant)
    if weights.by_peft:
        network = loading.load_checkpoint(source, variant, backbone)
        save_checkpoint(network, destination, target or "merged", dtype)
        return weights, variant, target or "merged"
    target = target or ("merged" if Path(destination).suffix else "peft")
    whole = loading.complete(weights, variant, backbone) if target in ("merged", "official-full") else weights
    if whole.has_backbone and target != "merged":
        loading.merged_tensors(whole, {name: tensor.to("meta") for name, tensor in whole.tensors.items()}, variant)
    write_weights(whole, variant, destination, target, dtype)
    return weights, variant, target


def weights_digest(network: LoRATNetwork) -> str:
    """SHA-256 of a network's tensors, names and values, in hexadecimal."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
