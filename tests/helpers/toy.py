"""A variant that trains in seconds, and a script that trains it in processes of their own."""

from __future__ import annotations

import sys
from pathlib import Path

from lorat_plugin.training.config import TrainConfig, load_config
from lorat_plugin.training.launch import train
from lorat_plugin.variants import Variant, register_variant

TOY = Variant(
    "lorat_training_toy", "vit_small_patch14_dinov2", dim=48, depth=2, heads=2, ffn="mlp", ffn_dim=96,
    template_size=42, search_size=84, search_area_factor=4.0, lora_rank=4, lora_alpha=4.0, train_norm=True,
)  # fmt: skip
register_variant(TOY)


def toy_config(**changes: object) -> TrainConfig:
    """The smoke recipe on the small variant."""
    settings = {"variant": TOY.name, "steps": 4, "validate_every": 2, "lr": 1e-3, "trackers": (), "device": "cpu"}
    return load_config("smoke", {**settings, **changes})


if __name__ == "__main__":  # python -m tests.helpers.toy OUT NAME=VALUE ...
    train(
        toy_config(**dict(pair.split("=") for pair in sys.argv[2:])),
        Path(sys.argv[1]),
        on_step=lambda done, text: print(done, text, flush=True),
    )
