"""LoRATv2 in the fused engine against the network itself."""

from __future__ import annotations

import pytest
import torch

from lorat_plugin.engines.fused_v2 import FusedV2Engine
from lorat_plugin.errors import InputError
from lorat_plugin.network_v2 import LoRATv2Network
from tests.helpers.golden_v2 import variant_of


def random_network(phase: str) -> LoRATv2Network:
    """A small network whose every tensor differs from 0 and 1."""
    torch.manual_seed(0)
    network = LoRATv2Network(variant_of(phase, "small")).requires_grad_(False).eval()
    for parameter in network.parameters():
        parameter += 0.1 * torch.randn_like(parameter)
    return network


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 2e-5), ("bf16", 0.2)])
@pytest.mark.parametrize("phase", ["p1", "p2"])
@torch.inference_mode()
def test_fused_equals_the_network(phase: str, precision: str, tolerance: float) -> None:
    if precision == "bf16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this processor has no bf16")
    network, count = random_network(phase), 3
    engine, variant = FusedV2Engine(network, precision), network.variant
    z, x = (torch.randn(count, 3, size, size) for size in (variant.template_size, variant.search_size))
    mask = torch.randint(2, (count, variant.template_grid, variant.template_grid))
    found = []
    for runs in (network, engine):
        memory = runs.encode_template(z, mask)
        if variant.reference_size:
            torch.manual_seed(1)
            memory = runs.encode_reference(memory, torch.randn(count, 3, 84, 84))
        found.append([memory.float(), *runs.predict(memory.split(1), x)])
    worst = [float((ours - theirs).abs().max()) for ours, theirs in zip(*found, strict=True)]
    print(f"\n{phase} {precision}: {worst}")
    assert max(worst) < tolerance


def test_fused_refuses_adapters() -> None:
    from lorat_plugin.checkpoints.adapters import inject

    with pytest.raises(InputError, match="engine 'fused' cannot run this network"):
        FusedV2Engine(inject(random_network("p1")))  # type: ignore[arg-type]
