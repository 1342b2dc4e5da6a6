"""LoRATv2's golden data: variants, and weights and images by the recipes in tests/golden/README.md."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from lorat_plugin.checkpoints.loading import load_checkpoint
from lorat_plugin.network_v2 import LoRATv2Network
from lorat_plugin.variants import Variant

SIZES = {"small": (56, 84, 126), "real": (224, 224, 378)}  # template, chunk 1, chunk 2; pixels


def variant_of(phase: str, geometry: str = "real", depth: int = 3) -> Variant:
    """The 64-wide variant of a golden case, such as `p1`, `small`."""
    template, first, second = SIZES[geometry]
    two = phase == "p2"
    return Variant(
        f"d{depth}_{phase}_{geometry}",
        backbone="vit_small_patch14_reg4_dinov2",
        dim=64,
        depth=depth,
        heads=4,
        ffn="mlp",
        ffn_dim=256,
        template_size=template,
        search_size=second if two else first,
        search_area_factor=5.0 if two else 4.0,
        chunks=3 if two else 2,
        reference_size=first if two else 0,
        lora_rank=8,
        lora_alpha=8,
        position="window",
        network="lorat2",
        clip_boxes=False,
    )


def numbers_of(name: str) -> np.random.Generator:
    """The generator of the numbers of a tensor."""
    return np.random.Generator(np.random.PCG64([20251205, zlib.crc32(name.encode())]))


def weight(name: str, shape: list[int]) -> torch.Tensor:
    """A tensor of the golden models by its name in timm's or the official layout."""
    n = numbers_of(name).standard_normal(shape)
    if name.endswith(".lora.B"):
        n *= 0.35 / shape[1] ** 0.5
    elif name.endswith(".gamma"):
        n = 0.5 + 0.1 * n
    elif name.startswith("norm") or ".norm" in name:
        n = 0.1 * n + name.endswith(".weight")
    elif "type_embed" in name or name in ("pos_embed", "reg_token", "cls_token"):
        n *= 0.5
    elif name.endswith("bias"):
        n *= 0.1
    else:
        n /= np.prod(shape[1:]) ** 0.5
    return torch.from_numpy(n.astype(np.float32))


def write_weights(folder: Path) -> None:
    """Write the files that `network/tensors.json` lists: name -> tensor -> shape."""
    for name, shapes in json.loads((folder / "network/tensors.json").read_text()).items():
        save_file({n: weight(n, shape) for n, shape in shapes.items()}, folder / f"network/{name}.safetensors")


def images(folder: Path, case: str) -> dict[str, torch.Tensor]:
    """Network inputs of a golden case: z, x0, x1 and the like, (B, 3, S, S) float32."""
    made = {}
    for name, entry in json.loads((folder / "network/cases.json").read_text())["cases"][case]["inputs"].items():
        values = numbers_of(name).integers(-64, 64, entry["shape"], dtype=np.int8)
        made[name.split(".", 1)[1]] = torch.from_numpy(values).float() / 32
    return made


def load_d3(folder: Path, phase: str, geometry: str) -> LoRATv2Network:
    """The golden network of three blocks, from official adapters and timm's backbone."""
    network = load_checkpoint(
        folder / f"network/d3.{phase}.adapters.safetensors",
        variant_of(phase, geometry),
        folder / "network/d3.backbone_timm.safetensors",
        folder / "network/d3.p1.adapters.safetensors" if phase == "p2" else None,
    )
    assert isinstance(network, LoRATv2Network)
    return network
