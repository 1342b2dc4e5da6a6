"""LoRATv2's golden data, which lies in the developers' folder: variants, and weights and images by their recipes."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import torch

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


def images(folder: Path, case: str) -> dict[str, torch.Tensor]:
    """Network inputs of a golden case: z, x0, x1 and the like, (B, 3, S, S) float32."""
    made = {}
    for name, entry in json.loads((folder / "network/cases.json").read_text())["cases"][case]["inputs"].items():
        generator = np.random.Generator(np.random.PCG64([20251205, zlib.crc32(name.encode())]))
        values = generator.integers(-64, 64, entry["shape"], dtype=np.int8)
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
