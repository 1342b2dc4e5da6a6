"""Stochastic depth while training (arXiv 1603.09382), at one rate for all blocks, without touching the blocks' code.

Up to a rate of 0.1 every sample's branch is dropped by chance, which is timm's `DropPath`. Above it, as in DINOv2
(arXiv 2304.07193), a random part of the batch goes through a branch and the others are spared its computation.
"""

from __future__ import annotations

import torch
from timm.layers import DropPath
from torch import nn

from lorat_plugin.errors import InputError
from lorat_plugin.network import LoRATNetwork
from lorat_plugin.network_v2 import LoRATv2Network

LARGEST_DROP = 0.1  # rate above which leaving out samples saves enough time


class RandomSubset(nn.Module):
    """Stands in a block where `DropPath` does, at a branch's end; `choose` is the hook of the branch's first layer.

    Of B samples n = max(int(B * (1 - rate)), 1) pass through the branch; their results count B / n times, the others 0.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.size = 0
        self.chosen: torch.Tensor | None = None

    def choose(self, layer: nn.Module, inputs: tuple[torch.Tensor]) -> torch.Tensor | None:
        """Draw the samples that (B, N, dim) input is cut down to."""
        x = inputs[0]
        self.size = len(x)
        kept = max(int(self.size * (1 - self.rate)), 1)
        self.chosen = torch.randperm(self.size, device=x.device)[:kept] if self.training else None
        return None if self.chosen is None else x[self.chosen]

    def forward(self, branch: torch.Tensor) -> torch.Tensor:
        """(n, N, dim) -> (B, N, dim)."""
        if self.chosen is None:
            return branch
        whole = branch.new_zeros(self.size, *branch.shape[1:])
        return whole.index_add(0, self.chosen, branch, alpha=self.size / len(self.chosen))


def add_stochastic_depth(network: LoRATNetwork, rate: float) -> None:
    """Drop the branches of all blocks at a rate in [0, 1) whenever the network is in train mode, in place.

    The draws come from torch's global generator. Raises InputError if the backbone's blocks cannot drop branches.
    """
    if isinstance(network, LoRATv2Network):
        network.drop_path = rate  # of its last block; see `LoRATv2Network.branch_scales`
        return
    if not rate:
        return
    for block in network.blocks:
        for number in (1, 2):
            if not (hasattr(block, f"norm{number}") and hasattr(block, f"drop_path{number}")):
                name = type(block).__name__
                raise InputError(f"stochastic depth does not fit blocks of timm's class {name}: set drop_path to 0")
            drop = DropPath(rate) if rate <= LARGEST_DROP else RandomSubset(rate)
            if isinstance(drop, RandomSubset):
                getattr(block, f"norm{number}").register_forward_pre_hook(drop.choose)
            setattr(block, f"drop_path{number}", drop)
