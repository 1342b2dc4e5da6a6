"""The bundled weights: merged file, backbone and adapters are one tracker."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lorat_plugin import load_checkpoint

WEIGHTS = Path(__file__).parents[1] / "weights"


def test_backbone_and_adapters_make_the_merged_weights() -> None:
    parts = WEIGHTS / "lora"
    if not parts.is_dir():
        pytest.skip("the weights' parts lie in the source tree alone")
    merged = load_checkpoint(WEIGHTS / "lorat_tiny.safetensors")
    whole = load_checkpoint(parts / "adapter", backbone=parts / "dinov2_vits14_6blocks.safetensors")
    assert whole.variant == merged.variant
    torch.manual_seed(0)
    z, x, mask = torch.randn(1, 3, 70, 70), torch.randn(1, 3, 140, 140), torch.ones(1, 5, 5, dtype=torch.int64)
    one, other = merged(z, x, mask), whole(z, x, mask)
    torch.testing.assert_close(one.score_map, other.score_map, rtol=0, atol=1e-2)  # both are kept in half precision
    torch.testing.assert_close(one.boxes, other.boxes, rtol=0, atol=2e-3)
