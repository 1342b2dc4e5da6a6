"""Low-rank adapters on the frozen blocks (arXiv 2106.09685), by peft: inject, and merge without peft.

The official method adapts q, k and v separately, each with rank r; peft on timm's fused `qkv` would give them one
shared A. So the fused layer is split before peft sees it and put together again when the adapters are merged.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from lorat_plugin.network import LoRATNetwork
from lorat_plugin.variants import Variant

if TYPE_CHECKING:
    from peft import LoraConfig, PeftConfig

TARGETS = ("q", "k", "v", "proj", "fc1", "fc2")  # layers of a block that can be adapted
_BY_PEFT = ("use_dora", "rank_pattern", "alpha_pattern")  # options of peft's LoRA that peft itself merges
_PLAIN = frozenset(  # options that change nothing beside the tensors in the file, alpha and the rsLoRA flag
    (
        *("peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "task_type"),
        *("inference_mode", "runtime_config", "megatron_core", "qalora_group_size", "ensure_weight_tying"),
        *("r", "lora_alpha", "use_rslora", "lora_bias", "bias", "modules_to_save", "lora_dropout"),
        *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "fan_in_fan_out"),
        *("loftq_config", "eva_config", "corda_config", "lora_ga_config"),
    )
)
ADAPTER = "default"  # peft's name of a model's only adapter


class SplitQKV(nn.Module):
    """timm's fused qkv layer as three linear layers; the output stays concatenated, so attention is unchanged."""

    def __init__(self, fused: nn.Linear) -> None:
        super().__init__()
        self.q, self.k, self.v = (
            nn.Linear(fused.in_features, fused.out_features // 3, device=fused.weight.device, dtype=fused.weight.dtype)
            for _ in range(3)
        )
        weights, biases = fused.weight.data.chunk(3), fused.bias.data.chunk(3)
        for layer, weight, bias in zip((self.q, self.k, self.v), weights, biases, strict=True):
            layer.weight.data, layer.bias.data = weight.clone(), bias.clone()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, N, dim) -> (B, N, 3 * dim)."""
        return torch.cat([self.q(x), self.k(x), self.v(x)], -1)


def split_qkv(network: LoRATNetwork) -> LoRATNetwork:
    """Replace every block's fused qkv layer by three layers, in place: the base model that adapter files refer to."""
    for block in network.blocks:
        if isinstance(block.attn.qkv, nn.ModuleList):  # a layer for each chunk
            layers = [(block.attn.qkv, str(chunk)) for chunk in network.variant.trained_chunks]
        else:
            layers = [(block.attn, "qkv")]
        for parent, name in layers:
            if isinstance(layer := getattr(parent, name), nn.Linear):
                setattr(parent, name, SplitQKV(layer))
    return network


def inject(
    network: LoRATNetwork, start: Literal["normal", "zero"] | None = None, config: PeftConfig | None = None
) -> LoRATNetwork:
    """Add adapters to linear layers of the blocks and freeze what LoRAT does not train, in place.

    Args:
        network: with plain blocks; its variant gives rank, alpha and the rsLoRA flag.
        start: "normal" draws both factors from a truncated normal (0.02), as the official code does; "zero" is peft's
            start (B = 0), from which the network equals its base at step 0. Left out: "zero" where the variant trains
            the final norm, else "normal".
        config: peft's configuration of other adapters or layers; left out, LoRA on all layers in `TARGETS`.
    Trainable afterwards: adapters, token types, head, and the final norm if the variant says so.
    """
    from peft import inject_adapter_in_model

    network = split_qkv(network).requires_grad_(False)
    variant = network.variant
    config = copy.copy(config or adapter_config(variant, variant.lora_rank, variant.lora_alpha, variant.rslora))
    config.modules_to_save = None  # peft would copy them; here they are trained in place
    inject_adapter_in_model(config, network)
    if (start or ("zero" if variant.train_norm else "normal")) == "normal":
        for name, parameter in network.named_parameters():
            if "lora_A" in name or "lora_B" in name:
                nn.init.trunc_normal_(parameter, std=0.02)
    for name, parameter in network.named_parameters():
        if variant.trains(name):
            parameter.requires_grad_(True)
    return network


def adapter_config(
    variant: Variant, rank: int, alpha: float, rslora: bool, targets: Iterable[str] = TARGETS
) -> LoraConfig:
    """Peft's configuration of a variant's LoRA adapters, with the modules that are trained whole."""
    from peft import LoraConfig

    return LoraConfig(
        r=rank,
        lora_alpha=int(alpha) if float(alpha).is_integer() else alpha,
        use_rslora=rslora,
        target_modules=target_pattern(targets, variant),
        modules_to_save=variant.trained_modules,
    )


def target_pattern(targets: Iterable[str], variant: Variant) -> str:
    """Regular expression of the full names of all blocks' layers out of `TARGETS`, of LoRATv2 in the trained chunks."""
    names = "|".join(targets)
    if not variant.chunks:
        return rf"blocks\.\d+\.(attn\.qkv|attn|mlp)\.({names})"
    chunk = f"[{''.join(map(str, variant.trained_chunks))}]"
    return rf"blocks\.\d+\.(attn\.qkv\.{chunk}\.({names})|(attn|mlp)\.({names})\.{chunk})"


def adapters(network: LoRATNetwork) -> PeftConfig | None:
    """Peft's configuration of a network's adapters, or None if it has none."""
    return getattr(network, "peft_config", {}).get(ADAPTER)


def plain_lora(config: Mapping[str, Any]) -> bool:
    """Whether a configuration of peft's means W + s B A with one alpha, which is merged without peft."""
    plain_start = config.get("init_lora_weights", True) in (True, False, "gaussian")
    return config.get("peft_type", "LORA") == "LORA" and plain_start and not any(config.get(n) for n in _BY_PEFT)


def needs_peft(network: LoRATNetwork) -> bool:
    """Whether a network has adapters that peft alone merges."""
    config = adapters(network)
    return config is not None and not plain_lora(config.to_dict())


def refused_option(config: Mapping[str, Any]) -> str | None:
    """An option of a LoRA configuration that changes what adapters compute and is not known here, or None."""
    if config.get("peft_type", "LORA") != "LORA":
        return None
    options = (name for name, value in config.items() if value and value != "none")
    return next((name for name in options if name not in (*_PLAIN, *_BY_PEFT, "init_lora_weights")), None)


def network_tensors(network: LoRATNetwork) -> dict[str, torch.Tensor]:
    """A network's state by name; adapters, if it has any, as `<layer>.lora_A.weight` and `.lora_B.weight`."""
    return {plain_name(name): tensor.detach() for name, tensor in network.state_dict().items()}


def plain_name(name: str) -> str:
    """A tensor's name in a network with adapters -> its name in `network_tensors`."""
    return re.sub(rf"\.{ADAPTER}\.(weight|bias)$", r".\1", name.replace(".base_layer.", "."))


def merge(network: LoRATNetwork) -> LoRATNetwork:
    """A plain network with adapters of any kind folded in, in eval mode, that needs no peft.

    The one given is not changed. A network without adapters gives a copy.
    """
    scaling = network.variant.lora_scaling
    merged = type(network)(network.variant).to(network.pos_embed.device, network.pos_embed.dtype)
    tensors = _merged_by_peft(network) if needs_peft(network) else network_tensors(network)
    merged.load_state_dict(merge_tensors(tensors, lambda layer, rank: scaling))
    return merged.requires_grad_(False).eval()


def adapter_tensors(network: LoRATNetwork) -> dict[str, torch.Tensor]:
    """Adapters of any kind, by peft's names in files, and the modules that are trained whole."""
    from peft import get_peft_model_state_dict

    whole = {name: tensor for name, tensor in network.state_dict().items() if network.variant.trains(name)}
    return get_peft_model_state_dict(network) | whole


def _merged_by_peft(network: LoRATNetwork) -> dict[str, torch.Tensor]:
    """The state of a network with split q, k and v, adapters folded into its layers by peft."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    with torch.device("meta"):
        names = split_qkv(type(network)(network.variant)).state_dict()
    tensors = network_tensors(network)
    for name, module in network.named_modules():
        if isinstance(module, BaseTunerLayer):
            layer = copy.deepcopy(module)
            layer.merge()
            tensors |= {f"{name}.{n}": t for n, t in layer.get_base_layer().state_dict().items()}
    return {name: tensors[name] for name in names}


def merge_tensors(tensors: dict[str, torch.Tensor], scaling: Callable[[str, int], float]) -> dict[str, torch.Tensor]:
    """Fold adapters into their layers and fuse q, k, v: the state dict of a plain network.

    W + scaling * B A and, where an adapter has a bias, b + scaling * its bias are computed in float32 and cast back to
    the wider of their types.

    Args:
        tensors: by the names of `network_tensors`; q, k and v apart or fused.
        scaling: (layer's name, rank) -> factor of B A.
    Raises KeyError or ValueError, naming the layer or tensor, if an adapter has no layer, another shape or parts that
    are not known here.
    """
    plain = {name: tensor for name, tensor in tensors.items() if ".lora_" not in name}
    for name in [name for name in plain if re.search(r"\.attn\.qkv\.(\d\.)?q\.", name)]:
        before, _, after = name.rpartition(".q.")
        parts = [plain.pop(f"{before}.{letter}.{after}") for letter in "qkv"]
        fused = f"{before}.{after}"
        if fused in plain:
            raise ValueError(f"{fused} is there twice")
        plain[fused] = torch.cat(parts)
    left = {name for name in tensors if ".lora_" in name}
    for name in [name for name in tensors if name.endswith(".lora_A.weight")]:
        layer = name.removesuffix(".lora_A.weight")
        a, b = tensors[name].float(), tensors[f"{layer}.lora_B.weight"].float()
        scale = scaling(layer, a.shape[0])
        changes = {"weight": (b.flatten(1) @ a.flatten(1)).unflatten(1, a.shape[1:])}
        if f"{layer}.lora_B.bias" in tensors:
            changes["bias"] = tensors[f"{layer}.lora_B.bias"].float()
        split = re.fullmatch(r"(.*\.qkv(?:\.\d)?)\.([qkv])", layer)
        first = "qkv".index(split[2]) * b.shape[0] if split else 0
        rows = slice(first, first + b.shape[0])
        for kind, change in changes.items():
            key = f"{split[1] if split else layer}.{kind}"
            whole = plain[key].float().clone()
            if whole[rows].shape != change.shape:
                raise ValueError(f"adapter of {layer} is {tuple(change.shape)}, its layer {tuple(whole.shape)}")
            whole[rows] += scale * change
            plain[key] = whole.to(torch.promote_types(plain[key].dtype, tensors[name].dtype))
        left -= {name, f"{layer}.lora_B.weight", f"{layer}.lora_B.bias"}
    if left:
        raise ValueError(f"{min(left)} is no known part of an adapter")
    return plain
