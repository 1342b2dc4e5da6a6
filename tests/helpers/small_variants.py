"""The 64-wide variants of the golden network data."""

from __future__ import annotations

import json
from pathlib import Path

from lorat_plugin.variants import Variant

CASES = json.loads((Path(__file__).parents[1] / "golden/network/cases.json").read_text())


def variant_of(case: str) -> Variant:
    """The variant of a golden case, such as `mlp_224_lora`."""
    data = CASES[case]
    swiglu = data["ffn"] != "mlp"
    return Variant(
        case,
        backbone="vit_giant_patch14_dinov2" if swiglu else "vit_small_patch14_dinov2",
        dim=data["embed_dim"],
        depth=data["depth"],
        heads=data["num_heads"],
        ffn="swiglu" if swiglu else "mlp",
        ffn_dim=176 if swiglu else 256,
        template_size=data["template_px"],
        search_size=data["search_px"],
        search_area_factor=5.0 if data["search_px"] == 378 else 4.0,
        lora_rank=data["lora_r"],
        lora_alpha=data["lora_alpha"],
        rslora=data["use_rslora"],
    )
