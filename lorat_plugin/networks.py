"""The table of network classes: `Variant.network` names the class that `make_network` builds."""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from typing import Any

import torch

from lorat_plugin.errors import InputError
from lorat_plugin.network import LoRATNetwork
from lorat_plugin.plugins import load_plugin, plugin_names
from lorat_plugin.variants import Variant

GROUP = "lorat_plugin.networks"  # entry points: name = a module class with the methods of `LoRATNetwork`
NETWORKS = {"lorat": "network:LoRATNetwork", "lorat2": "network_v2:LoRATv2Network"}  # modules of this package


def network_class(variant: Variant) -> type[Any]:
    """The class of a variant's network. Raises InputError if no installed package has it, or if it is no network."""
    name = variant.network
    if name in NETWORKS:
        module, _, known = NETWORKS[name].partition(":")
        found = getattr(import_module(f"{__package__}.{module}"), known)
    else:
        found = load_plugin(GROUP, name, "network")
    if found is None:
        names = ", ".join(sorted({*NETWORKS, *plugin_names(GROUP)}))
        raise InputError(f"variant '{variant.name}': unknown network '{name}'; registered are {names}")
    missing = [part for part in ("state_dict", "encode_template", "predict") if not hasattr(found, part)]
    if missing:
        raise InputError(f"network '{name}': {found!r:.80} is no network, it lacks {', '.join(missing)}")
    return found


def make_network(variant: Variant) -> LoRATNetwork:
    """A variant's network with random weights. Raises InputError as `network_class`, or for an unusable backbone."""
    network: LoRATNetwork = network_class(variant)(variant)
    return network


@lru_cache(maxsize=8)
def skeleton(variant: Variant) -> LoRATNetwork:
    """A variant's plain network on the meta device, without memory for values; it is shared, so copy it."""
    with torch.device("meta"):
        return make_network(variant)


@lru_cache(maxsize=8)
def shapes(variant: Variant) -> dict[str, torch.Tensor]:
    """Tensors of a variant's plain network by name, on the meta device: shapes and types without memory for values."""
    return skeleton(variant).state_dict()
