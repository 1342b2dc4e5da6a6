"""Networks by name: `create_model` makes one to train, `load_pretrained` one with trained weights."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from lorat_plugin.checkpoints.adapters import inject
from lorat_plugin.checkpoints.layouts import HUB_ID, SUFFIXES
from lorat_plugin.checkpoints.loading import load_backbone, load_checkpoint
from lorat_plugin.errors import CheckpointError
from lorat_plugin.network import LoRATNetwork
from lorat_plugin.networks import make_network
from lorat_plugin.variants import Variant, find_variant, get_variant


def create_model(variant: Variant | str, backbone: str = "random", lora: bool = False) -> LoRATNetwork:
    """Make a network, as timm's function of that name does.

    Args:
        variant: a Variant or a name from `list_variants()`.
        backbone: "random", "pretrained" (DINOv2 through timm and the hub), or the path of a DINOv2 file in Meta's or
            timm's layout.
        lora: add trainable adapters and freeze the rest, ready for training (needs peft).
    Returns the network in eval mode, or in train mode with `lora`.
    Raises InputError for an unknown variant, CheckpointError for a backbone file that does not fit.
    """
    variant = get_variant(variant) if isinstance(variant, str) else variant
    network = make_network(variant)
    if backbone != "random":
        load_backbone(network, backbone)
    if lora:
        return inject(network).train()
    return network.requires_grad_(False).eval()


def load_pretrained(
    model: str | Path,
    weights: str | Path | None = None,
    backbone: str | Path | None = None,
    revision: str | None = None,
    phase1: str | Path | None = None,
    merge: bool = True,
) -> LoRATNetwork:
    """A network with trained weights, in eval mode.

    Args:
        model: a variant's name, a weights file, an adapter folder, or a hub id `owner/name[@revision]`.
        weights: file, folder or hub id for a variant named by `model`; left out, the bundled weights.
        backbone: DINOv2 file that completes weights with adapters only; left out, timm fetches it from the hub.
        revision: branch, tag or commit of a hub id.
        phase1, merge: see `lorat_plugin.checkpoints.loading.load_checkpoint`.
    Raises CheckpointError (an InputError) that names the file or id and the remedy.
    """
    model = str(model)
    if revision is not None:
        if Path(model).exists() or weights is not None or not HUB_ID.fullmatch(f"{model}@{revision}"):
            raise CheckpointError(f"revision '{revision}': '{model}' is no hub id; revisions are of owner/name")
        model = f"{model}@{revision}"
    variant = find_variant(model)
    if variant is None and weights is None and is_weights(model):
        return load_checkpoint(model, None, backbone, phase1, merge)
    variant = variant or get_variant(model)
    source = bundled_weights(variant) if weights is None else weights
    if source is None:
        raise CheckpointError(f"{variant.name} has no bundled weights: give its file by weights= (--weights)")
    return load_checkpoint(source, variant, backbone, phase1, merge)


def is_weights(model: str) -> bool:
    """Whether a model's name is that of weights (file, folder or hub id) rather than a variant's."""
    return not find_variant(model) and ("/" in model or model.endswith(SUFFIXES) or Path(model).exists())


def bundled_weights(variant: Variant) -> Path | None:
    """Weights that come with the package, or None. They lie beside the package in a source tree, inside a wheel."""
    package = Path(str(files("lorat_plugin")))
    for folder in (package / "weights", package.parent / "weights"):
        if (path := folder / f"{variant.name}.safetensors").is_file():
            return path
    return None


def weights_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of `LoRATTracker.from_pretrained` with the file of bundled weights, where these are what they name."""
    variant = find_variant(str(options.get("model", "lorat_tiny")))
    bundled = None if options.get("weights") is not None or variant is None else bundled_weights(variant)
    return dict(options) if bundled is None else {**options, "weights": bundled}
