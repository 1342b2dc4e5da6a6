"""Which parameters are trained, and how: LoRA and peft's other adapters, full fine-tuning, the paper's baseline.

The paper (arXiv 2403.05231) compares LoRA with full fine-tuning and with a baseline that trains all weights of a
network with a position table for each image and a convolutional head.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorat_plugin.checkpoints import adapters
from lorat_plugin.checkpoints.loading import load_checkpoint, read_weights
from lorat_plugin.checkpoints.saving import save_checkpoint
from lorat_plugin.devices import best_precision, find_device
from lorat_plugin.errors import InputError, first_line
from lorat_plugin.files import parse_yaml
from lorat_plugin.models import create_model, load_pretrained
from lorat_plugin.network import LoRATNetwork
from lorat_plugin.training.config import TrainConfig, check_weights_rule, training_variant
from lorat_plugin.training.layers import add_stochastic_depth, use_merged_products
from lorat_plugin.training.state import STATE_NAME
from lorat_plugin.variants import Variant, find_variant

if TYPE_CHECKING:
    from peft import PeftConfig

MODES = ("lora", "full", "baseline")


def check_method(config: TrainConfig) -> None:
    """Raise InputError unless mode, adapter, its settings, rank, alpha and layers of a run make sense together."""
    if config.mode not in MODES:
        raise InputError(f"unknown mode '{config.mode}': use one of {', '.join(MODES)}")
    if config.mode != "lora":
        chosen = {name: getattr(config, name) for name in ("rank", "alpha", "targets", "adapter_settings")}
        chosen["adapter"] = "" if config.adapter == "lora" else config.adapter
        if given := [name for name, value in chosen.items() if value]:
            raise InputError(f"mode {config.mode} trains all weights and has no adapters: leave out {given[0]}")
    elif unknown := [name for name in config.targets if name not in adapters.TARGETS]:
        raise InputError(f"unknown layer '{unknown[0]}' in targets: use some of {', '.join(adapters.TARGETS)}")
    elif _by_peft(config):
        _peft_config(config, training_variant(config))


def training_network(config: TrainConfig) -> LoRATNetwork:
    """A network in train mode, its backbone loaded, in which the right parameters are trained.

    - "lora": adapters, token types, head, and the final norm if the variant says so.
    - "full": all but the position table, which is DINOv2's resized, as in LoRA.
    - "baseline": all, the position tables of template and search region too.
    Trained weights in `config.init_from` take the backbone's place, adapters in them merged; new adapters start without
    effect. Raises InputError for settings that do not go together, CheckpointError for weights that do not fit.
    """
    check_method(config)
    variant = training_variant(config)
    tuned = starts_from_weights(config)
    bundled = find_variant(config.init_from) is not None
    if variant.reference_size and (bundled or not tuned):
        raise InputError(f"{variant.name} is LoRATv2's phase 2: name the weights of phase 1 by init_from (--init-from)")
    if variant.reference_size and config.pairs_on == "device":
        raise InputError("pairs_on device makes no samples with a reference, as LoRATv2's phase 2 needs: set worker")
    former = read_weights(config.init_from) if variant.reference_size else None
    if former:
        check_weights_rule(config, former.metadata)
    if former and former.chunks == variant.phase1.chunks:
        tuned = False
        network = create_model(variant, backbone=config.backbone)
        backbone = None if config.backbone == "random" else config.backbone
        carried = load_checkpoint(config.init_from, variant.phase1, backbone).state_dict()
        network.load_state_dict(carried, strict=False)
    elif tuned:
        network = load_pretrained(variant.name, None if bundled else config.init_from, config.backbone)
        network.variant = variant
    else:
        network = create_model(variant, backbone=config.backbone)
    if config.mode != "lora":
        network.requires_grad_(True)
        network.pos_embed.requires_grad_(variant.position == "separate")
    elif _by_peft(config):
        network = _with_peft(network, config, variant)
    else:
        targets = config.targets or adapters.TARGETS
        lora = adapters.adapter_config(variant, variant.lora_rank, variant.lora_alpha, variant.rslora, targets)
        network = adapters.inject(network, "zero" if tuned else None, lora)
        device = find_device(config.device)
        precision = best_precision(device) if config.precision == "auto" else config.precision
        if precision == "fp32" or (precision == "bf16" and device.type == "cpu"):
            use_merged_products(network)
    if find_device(config.device).type == "cpu" and config.precision == "bf16":
        for block in network.blocks:  # torch's fused attention takes six times as long there (torch 2.14, AMX)
            block.attn.fused_attn = False
    add_stochastic_depth(network, variant.drop_path)
    return network.train()


def starts_from_weights(config: TrainConfig) -> bool:
    """True if `config.init_from` names trained weights or a variant's bundled ones, rather than a run's state."""
    path = Path(config.init_from)
    return bool(config.init_from) and path.name != STATE_NAME and not any(path.glob(f"**/{STATE_NAME}"))


def save_trained(
    network: LoRATNetwork, path: Path, metadata: dict[str, str] | None = None, *, whole: bool = False
) -> Path:
    """Write what a run trained: adapters and head alone where there are adapters, else the whole network.

    Args:
        network: from `training_network`.
        path: without suffix; adapters make a folder of that name (peft reads it too), a network that name with
            `.safetensors` added.
        metadata: more strings for the header.
        whole: write the whole network in any case: adapters to other weights than the backbone's cannot be used.
    Returns the folder or file, which `load_checkpoint` reads.
    """
    if adapters.adapters(network) is not None and not whole and not network.variant.reference_size:
        return save_checkpoint(network, path, "peft", metadata=metadata)
    return save_checkpoint(adapters.merge(network), path.with_name(f"{path.name}.safetensors"), metadata=metadata)


def _by_peft(config: TrainConfig) -> bool:
    """True if a run's adapters are not the official ones."""
    return config.adapter not in ("lora", "rslora") or bool(config.adapter_settings)


def _with_peft(network: LoRATNetwork, config: TrainConfig, variant: Variant) -> LoRATNetwork:
    """Add peft's adapters. Raises InputError if peft cannot merge them into the layers again."""
    adapter = _peft_config(config, variant)
    try:
        if option := adapters.refused_option(adapter.to_dict()):
            raise ValueError(f"{option} changes what LoRA computes")
        network = adapters.inject(network, "zero", adapter)
        adapters.merge(network)
    except Exception as error:  # peft raises many kinds
        raise InputError(
            f"adapter {config.adapter} cannot be added to the blocks and merged ({first_line(error)}): take lora"
        ) from error
    return network


def _peft_config(config: TrainConfig, variant: Variant) -> PeftConfig:
    """Peft's configuration of the run's adapter. Raises InputError for names and settings that peft does not take."""
    import peft

    name = "lora" if config.adapter == "rslora" else config.adapter.lower()
    config_class = next((c for n, c in vars(peft).items() if n.lower() == f"{name}config"), None)
    if config_class is None:
        raise InputError(f"unknown adapter '{config.adapter}': use lora, rslora or another of peft's, such as loha")
    own: dict[str, Any] = {}
    if name == "lora":
        own = {"r": variant.lora_rank, "lora_alpha": variant.lora_alpha, "use_rslora": variant.rslora}
    elif config.rank or config.alpha:
        raise InputError(f"rank and alpha are LoRA's: give those of adapter {config.adapter} by adapter_settings")
    try:
        given = {name: parse_yaml(value) for name, value in (s.split("=", 1) for s in config.adapter_settings)}
        targets = given.pop("target_modules", adapters.target_pattern(config.targets or adapters.TARGETS, variant))
        return config_class(target_modules=targets, **own, **given)
    except Exception as error:  # each of peft's configurations has checks of its own
        raise InputError(
            f"adapter {config.adapter}: peft.{config_class.__name__} cannot be made ({first_line(error)}): "
            "adapter_settings are NAME=VALUE of it, with commas between"
        ) from error
