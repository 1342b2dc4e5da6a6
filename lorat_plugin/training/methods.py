"""What of the network is trained, and how: LoRA and peft's other adapters, full fine-tuning, the paper's baseline.

The paper (arXiv 2403.05231) compares LoRA with full fine-tuning and with a baseline that trains all weights of a
network with a position table for each image and a convolutional head.
"""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorat_plugin.backbones import with_backbone
from lorat_plugin.checkpoint import load_pretrained
from lorat_plugin.devices import best_precision, find_device
from lorat_plugin.errors import InputError
from lorat_plugin.lora import TARGETS, adapter_config, adapters, inject, merge, target_pattern
from lorat_plugin.network import LoRATNetwork, create_model
from lorat_plugin.saving import save_checkpoint
from lorat_plugin.training.config import TrainConfig
from lorat_plugin.training.state import STATE_NAME
from lorat_plugin.training.stochastic_depth import add_stochastic_depth
from lorat_plugin.variants import Variant, baseline, get_variant, is_variant

if TYPE_CHECKING:
    from peft import PeftConfig

MODES = ("lora", "full", "baseline")
# name: (peft's configuration, settings beside rank, alpha and layers). Those that start from the backbone's own
# network (no change at step 0) or nearly so; all fold into its layers.
_METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "dora": ("LoraConfig", {"use_dora": True}),
    "pissa": ("LoraConfig", {"init_lora_weights": "pissa"}),
    "delora": ("DeloraConfig", {}),
    "fourierft": ("FourierFTConfig", {}),
    "gralora": ("GraloraConfig", {}),
    "hira": ("HiraConfig", {}),
    "hra": ("HRAConfig", {}),
    "ia3": ("IA3Config", {"feedforward_modules": r".*\.mlp\.fc2"}),
    "lntuning": ("LNTuningConfig", {"target_modules": r"blocks\.\d+\.norm[12]"}),
    "loha": ("LoHaConfig", {}),
    "lokr": ("LoKrConfig", {}),
    "miss": ("MissConfig", {}),
    "oft": ("OFTConfig", {"r": 0}),  # its size is the block's
    "randlora": ("RandLoraConfig", {"save_projection": False}),  # drawn again from its seed
    "road": ("RoadConfig", {}),
    "shira": ("ShiraConfig", {}),
}
_REFUSED = {
    "adalora": "moves rank between layers on a schedule of its own; take lora with another rank",
    "boft": "compiles a CUDA extension when it starts; take oft",
    "vera": "shares its factors between layers, for which peft wants a wrapper around the network; take randlora",
    "vpt": "is a prompt method, and peft adds prompts to language models alone; take lora or ia3",
}
ADAPTERS = ("lora", "rslora", *_METHODS)


def check_method(config: TrainConfig) -> None:
    """Raise InputError unless mode, adapter, rank, alpha and layers of a run make sense together."""
    if config.mode not in MODES:
        raise InputError(f"unknown mode '{config.mode}': use one of {', '.join(MODES)}")
    chosen = {name: getattr(config, name) for name in ("rank", "alpha", "targets")}
    if config.mode != "lora":
        chosen["adapter"] = "" if config.adapter == "lora" else config.adapter
        if given := [name for name, value in chosen.items() if value]:
            raise InputError(f"mode {config.mode} trains all weights and has no adapters: leave out {given[0]}")
    elif config.adapter in _REFUSED:
        raise InputError(f"adapter {config.adapter} cannot be had: it {_REFUSED[config.adapter]}")
    elif config.adapter not in ADAPTERS:
        raise InputError(f"unknown adapter '{config.adapter}': use one of {', '.join(ADAPTERS)}")
    elif unknown := [name for name in config.targets if name not in TARGETS]:
        raise InputError(f"unknown layer '{unknown[0]}' in targets: use some of {', '.join(TARGETS)}")
    elif config.adapter in _METHODS:
        kind, own = _METHODS[config.adapter]
        known = {"rank": "r", "alpha": "alpha", "targets": "target_modules"}
        for name, value in chosen.items():
            if value and (known[name] in own or not _settings(kind) & {known[name], f"lora_{known[name]}"}):
                raise InputError(f"adapter {config.adapter} has no {name}: leave it out")


def training_variant(config: TrainConfig) -> Variant:
    """The variant that a run trains: the one it names with the run's backbone, rank, alpha, rate and mode."""
    variant = get_variant(config.variant)
    if config.backbone_model:
        variant = with_backbone(variant, config.backbone_model)
    if config.mode == "baseline":
        variant = baseline(variant)
    return replace(
        variant,
        lora_rank=config.rank or variant.lora_rank,
        lora_alpha=config.alpha or variant.lora_alpha,
        rslora=variant.rslora or config.adapter == "rslora",
        drop_path=variant.drop_path if config.drop_path < 0 else config.drop_path,
    )


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
    if tuned:
        bundled = is_variant(config.init_from)
        network = load_pretrained(variant.name, None if bundled else config.init_from, config.backbone)
        network.variant = variant
    else:
        network = create_model(variant, backbone=config.backbone)
    if config.mode != "lora":
        network.requires_grad_(True)
        network.pos_embed.requires_grad_(variant.position == "separate")
    elif config.adapter in _METHODS:
        network = inject(network, "zero", _peft_config(config, variant))
    else:
        targets = config.targets or TARGETS
        lora = adapter_config(variant, variant.lora_rank, variant.lora_alpha, variant.rslora, targets)
        network = inject(network, "zero" if tuned else None, lora)
        device = find_device(config.device)
        precision = best_precision(device) if config.precision == "auto" else config.precision
        if precision == "fp32" or (precision == "bf16" and device.type == "cpu"):
            from lorat_plugin.training.adapters import use_merged_products

            use_merged_products(network)
    if find_device(config.device).type == "cpu" and config.precision == "bf16":
        for block in network.blocks:  # torch's fused attention takes six times as long there (torch 2.14, AMX)
            block.attn.fused_attn = False
    add_stochastic_depth(network, variant.drop_path)
    return network.train()


def starts_from_weights(config: TrainConfig) -> bool:
    """Whether `config.init_from` names trained weights or a variant's bundled ones, rather than a run's state."""
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
        whole: write the whole network in any case: adapters to other weights than the backbone's are of use to nobody.
    Returns the folder or file, which `load_checkpoint` reads.
    """
    if adapters(network) is not None and not whole:
        return save_checkpoint(network, path, "peft", metadata=metadata)
    return save_checkpoint(merge(network), path.with_name(f"{path.name}.safetensors"), metadata=metadata)


def _peft_config(config: TrainConfig, variant: Variant) -> PeftConfig:
    """Peft's configuration of a method of the table."""
    import peft

    kind, own = _METHODS[config.adapter]
    alpha = int(variant.lora_alpha) if variant.lora_alpha.is_integer() else variant.lora_alpha
    pattern = target_pattern(config.targets or TARGETS)
    general = {"r": variant.lora_rank, "alpha": alpha, "lora_alpha": alpha, "target_modules": pattern}
    settings = {name: value for name, value in general.items() if name in _settings(kind)} | own
    return getattr(peft, kind)(**settings)


def _settings(kind: str) -> set[str]:
    """Names of the settings of one of peft's configurations."""
    import peft

    return {field.name for field in fields(getattr(peft, kind))}
