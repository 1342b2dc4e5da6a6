"""Stochastic depth against the official draws, in timm's blocks and with merged products."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lorat_plugin import create_model
from lorat_plugin.errors import InputError
from lorat_plugin.network import LoRATNetwork
from lorat_plugin.training.layers import RandomSubset, add_stochastic_depth, use_merged_products
from lorat_plugin.variants import get_variant
from tests.helpers.small_variants import variant_of


def test_a_subset_equals_the_reference(golden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = np.load(golden / "training" / "stochastic_depth.npz")
    permutation = torch.from_numpy(data["permutation"])
    monkeypatch.setattr(torch, "randperm", lambda n, device: permutation)
    first, drop = nn.Identity(), RandomSubset(float(data["ratio"]))
    first.register_forward_pre_hook(drop.choose)
    x = torch.from_numpy(data["x"])
    y = x + drop(2 * torch.tanh(first(x)))
    np.testing.assert_allclose(y, data["y"], atol=1e-6)
    assert drop.chosen is not None and len(drop.chosen) == int(data["kept"])


def branches(rate: float, batch: int) -> tuple[nn.Module, torch.Tensor, list[torch.Tensor]]:
    """A block in train mode, its input, and the two branches' results of whole batches."""
    torch.manual_seed(0)
    network = LoRATNetwork(variant_of("mlp_224_lora"))
    block = network.blocks[0]
    for scale in (block.ls1, block.ls2):
        scale.gamma.data.fill_(1)
    x = torch.randn(batch, 5, 64)
    attention = block.ls1(block.attn(block.norm1(x)))
    add_stochastic_depth(network, rate)
    return block.train(), x, [attention]


def test_a_low_rate_drops_single_samples() -> None:
    block, x, (attention,) = branches(0.1, 400)
    block.mlp.fc2.weight.data.zero_(), block.mlp.fc2.bias.data.zero_()  # the first branch alone
    change = (block(x) - x).flatten(1)
    kept = change.abs().sum(1) > 0
    assert 0.86 < kept.float().mean() < 0.94
    torch.testing.assert_close(change[kept], attention.flatten(1)[kept] / 0.9, atol=1e-5, rtol=1e-4)


def test_a_high_rate_draws_anew_for_each_branch_and_scales() -> None:
    block, x, (attention,) = branches(0.4, 10)
    y = block(x)
    first, second = block.drop_path1.chosen, block.drop_path2.chosen
    assert len(first) == len(second) == 6 and set(first.tolist()) != set(second.tolist())
    only_first = [i for i in first.tolist() if i not in second.tolist()]
    untouched = [i for i in range(10) if i not in first.tolist() + second.tolist()]
    assert only_first
    torch.testing.assert_close(y[only_first], x[only_first] + attention[only_first] / 0.6, atol=1e-5, rtol=1e-4)
    assert torch.equal(y[untouched], x[untouched])
    assert len(block(x[:1])) == 1 and len(block.drop_path1.chosen) == 1  # one sample at least
    block.eval()
    assert torch.equal(block(x), block(x))


@pytest.mark.parametrize("rate", [0.1, 0.4])
def test_adapted_networks_train_with_it_and_are_unchanged_otherwise(rate: float) -> None:
    torch.manual_seed(0)
    network = create_model(variant_of("mlp_224_lora"), lora=True)
    z, x, mask = torch.randn(4, 3, 112, 112), torch.randn(4, 3, 224, 224), torch.zeros(4, 8, 8, dtype=torch.long)
    names = list(network.state_dict())
    before = network.eval()(z, x, mask).score_map.detach()
    add_stochastic_depth(network, rate)
    use_merged_products(network)
    assert list(network.state_dict()) == names
    torch.testing.assert_close(network.eval()(z, x, mask).score_map.detach(), before, atol=1e-5, rtol=1e-4)
    network.train()
    network(z, x, mask).score_map.sum().backward()
    assert all(p.grad is not None for n, p in network.named_parameters() if ".lora_" in n)


def test_activation_checkpointing_repeats_the_draws() -> None:
    block, x, _ = branches(0.4, 6)
    x.requires_grad_(True)
    grads = []
    for run in (block, lambda t: torch.utils.checkpoint.checkpoint(block, t, use_reentrant=False)):
        torch.manual_seed(1)
        grads.append(torch.autograd.grad(run(x).square().sum(), x)[0])
    assert torch.equal(*grads)


def test_rates_of_the_variants() -> None:
    rates = {letter: get_variant(f"lorat_{letter}_224").drop_path for letter in "sblg"}
    assert rates == {"s": 0, "b": 0, "l": 0.1, "g": 0.4}
    with pytest.raises(InputError, match=r"drop_path 1\.0 must be"):
        replace(get_variant("lorat_b_224"), drop_path=1.0)
    odd = LoRATNetwork(variant_of("mlp_224_lora"))
    del odd.blocks[0].drop_path1
    with pytest.raises(InputError, match="set drop_path to 0"):
        add_stochastic_depth(odd, 0.4)
