"""Weights: recognised, checked, put together. `layouts` reads the files, `saving` writes them.

A tracker's weights are a backbone (DINOv2) and what LoRAT trains (adapters, token types, head). Files hold the one,
the other or both; `load_checkpoint` puts together what it is given and merges adapters, without peft.
"""

from __future__ import annotations

import copy
import json
import logging
import os
import re
from dataclasses import replace
from pathlib import Path

import torch

from lorat_plugin.backbones import hub_id, network_names, spread
from lorat_plugin.checkpoints import adapters
from lorat_plugin.checkpoints.layouts import Weights, locate, read_tensors, recognise, weights_file
from lorat_plugin.digests import file_digest
from lorat_plugin.errors import CheckpointError, InputError, first_line
from lorat_plugin.files import parse_json, read_plain_text
from lorat_plugin.network import LoRATNetwork
from lorat_plugin.networks import make_network, shapes, skeleton
from lorat_plugin.presence import PresenceRule
from lorat_plugin.processes import check_process
from lorat_plugin.variants import DINOV2_GRID, Variant, find_variant, get_variant, list_variants

logger = logging.getLogger(__name__)

HUB_CONFIG, HUB_WEIGHTS = "config.json", "model.safetensors"  # of a folder on the hub
ADAPTER_CONFIG, ADAPTER_FILES = "adapter_config.json", ("adapter_model.safetensors", "adapter_model.bin")
OWN = ("token_type_embed", "head", "template_token_type", "search_region_token_type")  # start of names of no backbone
_WIDE = re.compile(r"pos_embed|norm\.weight|token_type_embed\.weight|search_region_token_type_embed\.\d")  # by dim
_FAMILY = {0: "LoRAT", 2: "LoRATv2 phase 1", 3: "LoRATv2 phase 2"}  # by chunks


# --- read ----------------------------------------------------------------------------------------------------------


def read_weights(source: str | Path) -> Weights:
    """Read any weights file, index of shards or adapter folder, or fetch a hub id, and recognise its layout.

    The configuration that lies beside a file of adapters is read with it. Raises CheckpointError as `read_tensors`,
    and for weights of an unknown layout.
    """
    path = locate(source)
    if path.name in ADAPTER_FILES and (path.parent / ADAPTER_CONFIG).is_file():
        path = path.parent
    if path.is_dir() and (config := path / ADAPTER_CONFIG).is_file():
        for name in ADAPTER_FILES:
            if (path / name).is_file():
                raw, metadata = read_tensors(path / name)
                return recognise(str(source), raw, metadata | _read_adapter_config(config))
        raise CheckpointError(f"{path}: has adapter_config.json but no adapter_model.safetensors: copy both")
    file = weights_file(path) if path.is_dir() else path
    raw, metadata = read_tensors(file)
    own = _read_hub_config(path / HUB_CONFIG, file) if path.is_dir() else {}
    return recognise(str(source), raw, own | metadata)


def _read_hub_config(path: Path, weights: Path) -> dict[str, str]:
    """What a config.json of ours says of the variant, after a look at the checksum; nothing of another or none."""
    try:
        config = parse_json(read_plain_text(path)) if path.is_file() else None
        if not isinstance(config, dict) or config.get("model_type") != "lorat":
            return {}
        expected, fields = dict(config["sha256"]).get(weights.name), config["variant"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: not a configuration of LoRAT ({error}): save the folder again") from error
    if expected is not None and file_digest(weights) != expected:
        raise CheckpointError(f"{weights}: its SHA-256 is not the one in {path.name}: copy or download it again")
    return {"variant_fields": json.dumps(fields)}


def _read_adapter_config(path: Path) -> dict[str, str]:
    try:
        config = parse_json(read_plain_text(path))
        if option := adapters.refused_option(config):
            raise CheckpointError(
                f"{path}: peft's option {option} cannot be applied here: merge the adapter with peft's "
                "merge_and_unload, and give the merged weights"
            )
        if not adapters.plain_lora(config):
            return {"peft_type": str(config["peft_type"])}
        return {"lora_alpha": str(float(config["lora_alpha"])), "rslora": str(bool(config.get("use_rslora", False)))}
    except CheckpointError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: not a peft configuration ({error}): save the adapter again") from error


# --- check and put together ----------------------------------------------------------------------------------------


def load_checkpoint(
    source: str | Path,
    variant: Variant | str | None = None,
    backbone: str | Path | None = None,
    phase1: str | Path | None = None,
    merge: bool = True,
) -> LoRATNetwork:
    """A network from LoRAT weights of any layout, in eval mode.

    Args:
        source: file, adapter folder or hub id.
        variant: left out, it is inferred from shapes and metadata.
        backbone: DINOv2 file for weights that hold adapters only; left out, timm fetches it from the hub.
        phase1: LoRATv2's weights of phase 1, which complete adapters of phase 2.
        merge: fold adapters into the layers. False keeps them beside one backbone that all chunks of LoRATv2 share,
            which takes less memory and runs in the engine `eager` alone (needs peft).
    Raises CheckpointError with one sentence that names the file and the remedy.
    """
    check_process(torch.device("cpu"), os.getpid())  # half precision is converted by torch's threads
    weights = read_trained(source)
    variant = get_variant(variant) if isinstance(variant, str) else variant or infer_variant(weights)
    weights = join_phases(weights, variant, phase1, backbone, merge) if phase1 else weights
    check(weights, variant)
    base = "" if weights.has_backbone else f", backbone from {backbone or 'the hub'}"
    if not merge:
        network = _load_unmerged(weights, variant, backbone)
    elif weights.by_peft:
        network = _load_by_peft(weights, variant, str(backbone or "pretrained"))
    else:
        whole = complete(weights, variant, backbone).tensors
        floats = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in whole.items()}
        network = copy.deepcopy(skeleton(variant))
        network.load_state_dict(merged_tensors(weights, floats, variant), assign=True)
    network.presence = PresenceRule.from_header(weights.metadata)
    logger.info("%s: %s loaded from %s%s", variant.name, weights.layout, source, base)
    return network.requires_grad_(False).eval()


def read_trained(source: str | Path) -> Weights:
    """As `read_weights`; raises CheckpointError for a backbone alone too."""
    weights = read_weights(source)
    if weights.is_backbone:
        raise CheckpointError(
            f"{source}: a {weights.layout} backbone without LoRAT's trained part: give LoRAT's weights, and it by "
            "backbone= (--backbone)"
        )
    return weights


def join_phases(
    weights: Weights, variant: Variant, phase1: str | Path, backbone: str | Path | None = None, merge: bool = True
) -> Weights:
    """LoRATv2's phase 2 over its phase 1, merged or not. Errors are those of `load_checkpoint`."""
    if not variant.reference_size:
        raise CheckpointError(f"{phase1}: phase 1's weights complete LoRATv2's phase 2, which {variant.name} is not")
    first = adapters.network_tensors(load_checkpoint(phase1, variant.phase1, backbone, merge=merge))
    return replace(weights, tensors=first | weights.tensors)


def check(weights: Weights, variant: Variant) -> None:
    """Raise CheckpointError unless LoRAT's own parts are there, and adapters without a backbone fit the variant."""
    if weights.chunks != variant.chunks:
        raise CheckpointError(
            f"{weights.source}: weights of {_FAMILY[weights.chunks]}, but {variant.name} is {_FAMILY[variant.chunks]}: "
            "name another variant by --model, or leave it out"
        )
    if variant.reference_size and "template_token_type_embed" not in weights.tensors:
        raise CheckpointError(
            f"{weights.source}: holds LoRATv2's phase 2 alone: join it with phase 1's weights by lorat convert --phase1"
        )
    plain, trained = shapes(variant), tuple(f"{module}." for module in variant.trained_modules)
    absent = [name for name in plain if f"{name}.".startswith(trained) and name not in weights.tensors]
    if absent:
        raise CheckpointError(
            f"{weights.source}: holds no {absent[0]}: adapters alone do not track; save head and token types with them"
        )
    if not weights.by_peft and not weights.has_backbone:  # before a backbone is fetched; peft knows its own shapes
        shapeless = {name: tensor.to("meta") for name, tensor in weights.tensors.items()}
        merged_tensors(weights, over(plain, shapeless), variant)


def merged_tensors(weights: Weights, tensors: dict[str, torch.Tensor], variant: Variant) -> dict[str, torch.Tensor]:
    """State dict of a plain network: tensors with the adapters of `weights` folded in.

    Raises CheckpointError if they do not fit each other or the variant.
    """
    try:
        merged = adapters.merge_tensors(tensors, weights.scaling)
    except (KeyError, ValueError) as error:
        raise CheckpointError(
            f"{weights.source}: its adapters do not fit the backbone ({error}): give the variant and backbone that "
            "they were made for"
        ) from error
    check_fit(variant, merged, weights.source)
    return merged


def complete(weights: Weights, variant: Variant, backbone: str | Path | None = None) -> Weights:
    """The weights over those of the backbone that they lack.

    `backbone` is as for `load_checkpoint`. Raises CheckpointError as `backbone_tensors`.
    """
    if weights.has_backbone:
        return weights
    base = backbone_tensors(variant, str(backbone or "pretrained"))
    return replace(weights, tensors=over(base, weights.tensors))


def _load_unmerged(weights: Weights, variant: Variant, backbone: str | Path | None) -> LoRATNetwork:
    """A network with its adapters beside the backbone's layers, which the chunks of LoRATv2 share."""
    with torch.device("meta"):
        network = make_network(variant)
        network.variant = replace(variant, reference_size=0)  # all chunks have adapters, not only those of the phase
        adapters.inject(network, "zero").variant = variant
    tensors, bases = complete(weights, variant, backbone).tensors, dict[str, torch.nn.Parameter]()
    state: dict[str, torch.Tensor] = {}
    for name, wanted in network.state_dict().items():
        key = adapters.plain_name(name)
        tensor, (layer, adapter, _) = tensors.get(key), key.partition(".lora_A.")
        factor = weights.scaling(layer, len(tensor)) if adapter and tensor is not None else variant.lora_scaling
        if tensor is None or tensor.shape != wanted.shape or factor != variant.lora_scaling:
            raise CheckpointError(
                f"{weights.source}: {key} is not as in {variant.name}; without merging every chunk needs its adapters: "
                "give those of both phases and the backbone, or merge"
            )
        state[name] = tensor.float()
        if ".base_layer." in name:
            base = bases.setdefault(re.sub(r"\.(qkv|proj|fc1|fc2)\.\d", r".\1", name), torch.nn.Parameter(state[name]))
            state[name] = base if torch.equal(base, state[name]) else state[name]
    network.load_state_dict(state, assign=True)
    return network


def _load_by_peft(weights: Weights, variant: Variant, backbone: str) -> LoRATNetwork:
    """A network with adapters that are not plain LoRA, rebuilt and merged by peft."""
    from peft import PeftConfig, set_peft_model_state_dict

    network = make_network(variant)
    load_backbone(network, backbone)
    try:
        network = adapters.inject(network, "zero", PeftConfig.from_pretrained(str(locate(weights.source))))
        wanted, found = (
            {n: t.shape for n, t in s.items()} for s in (adapters.adapter_tensors(network), weights.tensors)
        )
        if wanted != found:
            raise ValueError("names or shapes of tensors differ")
        set_peft_model_state_dict(network, weights.tensors)
    except Exception as error:  # peft raises many kinds
        raise CheckpointError(
            f"{weights.source}: its adapters cannot be rebuilt by the installed peft ({first_line(error)}): give the "
            "variant and backbone that they were made for, or the merged file of that training run"
        ) from error
    return adapters.merge(network)


def load_backbone(network: LoRATNetwork, source: str) -> None:
    """Fill what the network has of its backbone (patch embedding, blocks, norms, positions, registers), in place.

    Arguments and errors are those of `backbone_tensors`.
    """
    network.load_state_dict(network.state_dict() | backbone_tensors(network.variant, source))


def backbone_tensors(variant: Variant, source: str) -> dict[str, torch.Tensor]:
    """A backbone's tensors for a variant under the network's names, position tables resized.

    `source` is "pretrained" (timm's name, through the hub) or a file in Meta's (DINOv2) or timm's layout. More blocks
    than the network has are left out. Raises CheckpointError if the file does not fit.
    """
    try:
        weights = read_weights(hub_id(variant) if source == "pretrained" else source)
    except CheckpointError as error:
        if source != "pretrained":
            raise
        raise CheckpointError(f"give the {variant.backbone} backbone by backbone= (--backbone): {error}") from error
    if not weights.is_backbone:
        raise CheckpointError(f"{source}: {weights.layout} weights, not a DINOv2 backbone or another plain ViT")
    tensors = spread(network_names(weights.tensors, variant), variant)
    check_fit(variant, {n: t for n, t in shapes(variant).items() if n.startswith(OWN)} | tensors, source)
    return tensors


def over(base: dict[str, torch.Tensor], tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors over those of a base, whose q, k and v are layers of their own unless they are replaced as one."""
    parts: dict[str, torch.Tensor] = {}
    for name, tensor in base.items():
        layer, _, kind = name.rpartition(".")
        if ".attn.qkv" in name and name not in tensors:
            letters = zip("qkv", tensor.chunk(3), strict=True)
            parts |= {f"{layer}.{letter}.{kind}": part for letter, part in letters}
        else:
            parts[name] = tensor
    return parts | tensors


def infer_variant(weights: Weights) -> Variant:
    """The variant that weights belong to, by metadata, else by shapes. CheckpointError if none or several fit."""
    tensors = weights.tensors
    dim = next((tensor.shape[-1] for name, tensor in tensors.items() if _WIDE.fullmatch(name)), 0)
    depth = 1 + max((int(m[1]) for m in (re.match(r"blocks\.(\d+)\.", name) for name in tensors) if m), default=-1)
    if fields := weights.metadata.get("variant_fields"):
        try:
            variant = Variant.from_json(fields)
        except InputError as error:
            raise CheckpointError(f"{weights.source}: {error}") from error
        if variant.depth != depth:
            raise CheckpointError(
                f"{weights.source}: has {depth} blocks, but its header says {variant.depth}: copy it again"
            )
        return variant
    if named := find_variant(weights.metadata.get("variant", "")):
        return named
    cells = tensors["pos_embed"].shape[1] if "pos_embed" in tensors else None
    fitting = [
        v
        for v in map(get_variant, list_variants())
        if (v.dim, v.depth, v.chunks) == (dim, depth, weights.chunks)
        and cells in (None, v.table_grid**2, 1 + DINOV2_GRID**2)
    ]
    if len(fitting) != 1:
        found = f"width {dim}, {depth} blocks" + (f", {cells} positions" if cells else "")
        remedy = (
            "name one by --model: " + ", ".join(v.name for v in fitting) if fitting else "register its variant first"
        )
        raise CheckpointError(
            f"{weights.source}: {'several' if fitting else 'no'} variants have its sizes ({found}): {remedy}"
        )
    return fitting[0]


def check_fit(variant: Variant, tensors: dict[str, torch.Tensor], source: str) -> None:
    """Raise CheckpointError unless these tensors are just a plain network's of that variant, in shape and name."""
    wanted = shapes(variant)
    misfits = [n for n, t in tensors.items() if n in wanted and t.shape != wanted[n].shape]
    missing, foreign = [n for n in wanted if n not in tensors], [n for n in tensors if n not in wanted]
    if misfits:
        n = misfits[0]
        example = f"{n} is {tuple(tensors[n].shape)}, wanted {tuple(wanted[n].shape)}"
    elif missing or foreign:
        example = f"{(missing or foreign)[0]} is {'missing' if missing else 'unknown'}"
    else:
        return
    count = len(misfits) + len(missing) + len(foreign)
    raise CheckpointError(
        f"{source}: {count} of {len(wanted)} tensors do not fit {variant.name} (first: {example}): name the variant "
        "that it was made for"
    )
