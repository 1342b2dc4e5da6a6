"""Weights: find, read, check, put together. The only place that opens a weights file; `saving` writes them.

A tracker's weights are a backbone (DINOv2) and what LoRAT trains (adapters, token types, head). Files hold the one,
the other or both; `load_checkpoint` puts together what it is given and merges adapters, without peft.
"""

from __future__ import annotations

import json
import logging
import pickle
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from lorat_plugin.backbones import hub_id, network_names
from lorat_plugin.digests import file_digest
from lorat_plugin.errors import CheckpointError, InputError, first_line
from lorat_plugin.files import parse_json, read_plain_text
from lorat_plugin.layouts import Weights, recognise
from lorat_plugin.lora import adapter_tensors, inject, merge, merge_tensors, plain_lora, trained_modules
from lorat_plugin.network import LoRATNetwork
from lorat_plugin.variants import Variant, get_variant, is_variant, list_variants

logger = logging.getLogger(__name__)

_HUB_ID = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
SUFFIXES = (".safetensors", ".bin", ".pth", ".pt")
HUB_CONFIG, HUB_WEIGHTS = "config.json", "model.safetensors"  # of a folder on the hub
DINOV2_GRID = 37  # cells along a side of DINOv2's own position table


# --- find ----------------------------------------------------------------------------------------------------------


def load_pretrained(
    model: str, weights: str | None = None, backbone: str | None = None, revision: str | None = None
) -> LoRATNetwork:
    """A network with trained weights, merged and in eval mode.

    Args:
        model: a variant's name, a weights file, an adapter folder, or a hub id `owner/name[@revision]`.
        weights: file, folder or hub id for a variant named by `model`; left out, the bundled weights.
        backbone: DINOv2 file that completes weights with adapters only; left out, timm fetches it from the hub.
        revision: branch, tag or commit of a hub id.
    Raises CheckpointError (an InputError) that names the file or id and the remedy.
    """
    if revision is not None:
        if Path(model).exists() or weights is not None or not _HUB_ID.fullmatch(f"{model}@{revision}"):
            raise CheckpointError(f"revision '{revision}': '{model}' is no hub id; revisions are of owner/name")
        model = f"{model}@{revision}"
    if weights is not None:
        return load_checkpoint(weights, get_variant(model), backbone)
    if is_weights(model):
        return load_checkpoint(model, None, backbone)
    variant = get_variant(model)
    bundled = bundled_weights(variant)
    if bundled is None:
        raise CheckpointError(f"{variant.name} has no bundled weights: give its file by weights= (--weights)")
    return load_checkpoint(bundled, variant, backbone)


def is_weights(model: str) -> bool:
    """Whether a model's name is that of weights (file, folder or hub id) rather than a variant's."""
    return not is_variant(model) and ("/" in model or model.endswith(SUFFIXES) or Path(model).exists())


def bundled_weights(variant: Variant) -> Path | None:
    """Weights that come with the package, or None. They lie beside the package in a source tree, inside a wheel."""
    package = Path(str(files("lorat_plugin")))
    for folder in (package / "weights", package.parent / "weights"):
        if (path := folder / f"{variant.name}.safetensors").is_file():
            return path
    return None


def weights_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of `LoRATTracker.from_pretrained` with the file of bundled weights, where these are what they name."""
    model = str(options.get("model", "lorat_tiny"))
    bundled = None if options.get("weights") or not is_variant(model) else bundled_weights(get_variant(model))
    return dict(options) if bundled is None else {**options, "weights": bundled}


def _locate(source: str | Path) -> Path:
    """A file or folder, fetched from the hub if it is an id. Honours the hub's cache and offline variables."""
    if (path := Path(source)).exists():
        return path
    match = _HUB_ID.fullmatch(str(source))
    if not match or str(source).endswith(SUFFIXES):
        raise CheckpointError(f"weights '{source}' not found: give an existing file, an adapter folder or a hub id")
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(match[1], revision=match[2], allow_patterns=["*.json", "*.safetensors"]))
    except Exception as error:  # the hub's client raises many kinds
        raise CheckpointError(
            f"'{source}' is no file here and could not be had from the hub ({first_line(error)}): check the name, go "
            "online, or download it once into the hub's cache"
        ) from error
    for path in folder.glob("*.safetensors"):
        _verify_checksum(path)
    return folder


def _only_file(folder: Path) -> Path:
    candidates = [folder / "model.safetensors", *sorted(folder.glob("*.safetensors"))]
    for path in candidates:
        if path.is_file():
            return path
    raise CheckpointError(f"{folder}: holds no .safetensors file and no adapter_config.json: name the weights file")


def _verify_checksum(path: Path) -> None:
    """The hub's cache names large files by their SHA-256; compare it with the content."""
    expected = path.resolve().name
    if re.fullmatch(r"[0-9a-f]{64}", expected) and file_digest(path) != expected:
        raise CheckpointError(f"{path}: its SHA-256 is not the hub's: delete it and download it again")


# --- read ----------------------------------------------------------------------------------------------------------


def read_weights(source: str | Path) -> Weights:
    """Read any weights file or adapter folder, or fetch a hub id, and recognise its layout.

    Safetensors are known by their header under any suffix; everything else is read as a torch file that may hold only
    tensors and plain containers. Raises CheckpointError for what is missing, cut short, foreign or needs code to load.
    """
    path = _locate(source)
    if path.is_dir():
        config_file, tensor_file = path / "adapter_config.json", path / "adapter_model.safetensors"
        if not config_file.is_file():
            file = _only_file(path)
            raw, metadata = _read_tensors(file)
            return recognise(str(source), raw, _read_hub_config(path / HUB_CONFIG, file) | metadata)
        if not tensor_file.is_file():
            raise CheckpointError(f"{path}: has adapter_config.json but no adapter_model.safetensors: copy both")
        raw, metadata = _read_tensors(tensor_file)
        return recognise(str(source), raw, metadata | _read_adapter_config(config_file))
    raw, metadata = _read_tensors(path)
    return recognise(str(source), raw, metadata)


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
        if not plain_lora(config):
            return {"peft_type": str(config["peft_type"])}
        return {"lora_alpha": str(float(config["lora_alpha"])), "rslora": str(bool(config.get("use_rslora", False)))}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: not a peft configuration ({error}): save the adapter again") from error


def _read_tensors(path: Path) -> tuple[dict[str, object], dict[str, str]]:
    with path.open("rb") as stream:
        head = stream.read(512)
    if not head:
        raise CheckpointError(f"{path}: the file is empty: download it again")
    if head.lstrip()[:1] == b"<":
        raise CheckpointError(
            f"{path}: an HTML page, not weights; the download site answered with a page: download again"
        )
    try:
        if head[8:9] == b"{":
            with safe_open(path, framework="pt") as stream:
                return {name: stream.get_tensor(name) for name in stream.keys()}, dict(stream.metadata() or {})  # noqa: SIM118
        raw = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: cut short or damaged ({error}): download or copy it again") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: a pickle that needs code to be loaded, which is refused: save its tensors alone (safetensors)"
        ) from error
    except Exception as error:  # a damaged pickle can raise anything
        reason = first_line(error)
        raise CheckpointError(f"{path}: neither a safetensors nor a readable torch file ({reason})") from error
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path}: holds a {type(raw).__name__}, not a dictionary of tensors: save the state dict")
    return raw, {}


# --- check and put together ----------------------------------------------------------------------------------------


def load_checkpoint(
    source: str | Path, variant: Variant | str | None = None, backbone: str | Path | None = None
) -> LoRATNetwork:
    """A network from LoRAT weights of any layout, merged and in eval mode.

    Args:
        source: file, adapter folder or hub id.
        variant: left out, it is inferred from shapes and metadata.
        backbone: DINOv2 file for weights that hold adapters only; left out, timm fetches it from the hub.
    Raises CheckpointError with one sentence that names the file and the remedy.
    """
    weights = read_weights(source)
    variant = get_variant(variant) if isinstance(variant, str) else variant or infer_variant(weights)
    if weights.is_backbone:
        raise CheckpointError(
            f"{source}: a {weights.layout} backbone without LoRAT's trained part: give it by backbone= (--backbone)"
        )
    check_trained(weights, variant)
    if weights.layout == "LoRAT adapters (peft, not LoRA)":
        return _load_by_peft(weights, variant, "pretrained" if backbone is None else str(backbone))
    tensors = dict(weights.tensors)
    base = ""
    if not weights.has_backbone:
        plain = backbone_tensors(variant, "pretrained" if backbone is None else str(backbone))
        base = f", backbone from {backbone or 'the hub'}"
        tensors = plain | tensors
    tensors = merged_tensors(weights, {n: t.float() if t.is_floating_point() else t for n, t in tensors.items()})
    check_fit(variant, tensors, str(source))
    with torch.device("meta"):  # random start values would only be thrown away
        network = LoRATNetwork(variant)
    network.load_state_dict(tensors, assign=True)
    logger.info("%s: %s loaded from %s%s", variant.name, weights.layout, source, base)
    return network.requires_grad_(False).eval()


def _load_by_peft(weights: Weights, variant: Variant, backbone: str) -> LoRATNetwork:
    """A network with adapters that are not plain LoRA, rebuilt and merged by peft."""
    from peft import PeftConfig, set_peft_model_state_dict

    network = LoRATNetwork(variant)
    load_backbone(network, backbone)
    try:
        network = inject(network, "zero", PeftConfig.from_pretrained(str(_locate(weights.source))))
        wanted, found = ({n: t.shape for n, t in s.items()} for s in (adapter_tensors(network), weights.tensors))
        if wanted != found:
            raise ValueError("names or shapes of tensors differ")
        set_peft_model_state_dict(network, weights.tensors)
    except Exception as error:  # peft raises many kinds
        raise CheckpointError(
            f"{weights.source}: its adapters cannot be rebuilt by the installed peft ({first_line(error)}): give the "
            "variant and backbone that they were made for, or the merged file of that training run"
        ) from error
    logger.info("%s: %s loaded from %s, backbone from %s", variant.name, weights.layout, weights.source, backbone)
    return merge(network)


def load_backbone(network: LoRATNetwork, source: str) -> None:
    """Fill what the network has of its backbone (patch embedding, blocks, norms, positions, registers), in place.

    `source` is "pretrained" (timm's name, through the hub) or a file in Meta's (DINOv2) or timm's layout. More blocks
    than the network has are left out. Raises CheckpointError if the file does not fit.
    """
    tensors = backbone_tensors(network.variant, source)
    own = {
        name: tensor for name, tensor in network.state_dict().items() if name.startswith(("token_type_embed", "head."))
    }
    check_fit(network.variant, tensors | own, source)
    network.load_state_dict(tensors | own)


def backbone_tensors(variant: Variant, source: str) -> dict[str, torch.Tensor]:
    """A backbone's tensors for a variant under the network's names, position tables resized. See `load_backbone`."""
    if source == "pretrained":
        try:
            weights = read_weights(hub_id(variant))
        except CheckpointError as error:
            raise CheckpointError(f"give the {variant.backbone} backbone by backbone= (--backbone): {error}") from error
    else:
        weights = read_weights(source)
    if not weights.is_backbone:
        raise CheckpointError(f"{source}: {weights.layout} weights, not a DINOv2 backbone or another plain ViT")
    return network_names(weights.tensors, variant)


def merged_tensors(weights: Weights, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors with the adapters of `weights` folded in. CheckpointError if they do not fit."""
    try:
        return merge_tensors(tensors, weights.scaling)
    except (KeyError, ValueError) as error:
        raise CheckpointError(
            f"{weights.source}: its adapters do not fit the backbone ({error}): give the variant and backbone that "
            "they were made for"
        ) from error


def trained_names(variant: Variant) -> tuple[str, ...]:
    """How the names of tensors begin that LoRAT trains, adapters aside."""
    return tuple(f"{module}." for module in trained_modules(variant))


def check_trained(weights: Weights, variant: Variant) -> None:
    """Raise CheckpointError unless LoRAT's own parts are there, and all that is there fits the variant."""
    with torch.device("meta"):
        plain = LoRATNetwork(variant).state_dict()
    absent = [name for name in plain if name.startswith(trained_names(variant)) and name not in weights.tensors]
    if absent:
        raise CheckpointError(
            f"{weights.source}: holds no {absent[0]}: adapters alone do not track; save head and token types with them"
        )
    if weights.layout == "LoRAT adapters (peft, not LoRA)":
        return  # peft alone knows their shapes
    rest = {name: tensor.to("meta") for name, tensor in weights.tensors.items()}
    check_fit(variant, merged_tensors(weights, rest if weights.has_backbone else plain | rest), weights.source)


def infer_variant(weights: Weights) -> Variant:
    """The variant that weights belong to, by metadata, else by shapes. CheckpointError if none or several fit."""
    tensors = weights.tensors
    widths = (tensors[n].shape[-1] for n in ("token_type_embed.weight", "norm.weight", "pos_embed") if n in tensors)
    dim = next(widths, 0)
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
    if is_variant(name := weights.metadata.get("variant", "")):
        return get_variant(name)
    cells = tensors["pos_embed"].shape[1] if "pos_embed" in tensors else None
    fitting = [
        v
        for v in map(get_variant, list_variants())
        if (v.dim, v.depth) == (dim, depth) and cells in (None, v.search_grid**2, 1 + DINOV2_GRID**2)
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
    with torch.device("meta"):
        wanted = LoRATNetwork(variant).state_dict()
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
