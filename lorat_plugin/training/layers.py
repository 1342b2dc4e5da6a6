"""What training changes in a network's layers: stochastic depth, merged products, checkpointing, compilation.

Stochastic depth (arXiv 1603.09382) has one rate for all blocks. Up to 0.1 every sample's branch is dropped by chance,
which is timm's `DropPath`; above it, as in DINOv2 (arXiv 2304.07193), a random part of the batch goes through a branch
and the others are spared its computation.

peft computes W x, then B (A x), then adds; on a CPU the two extra passes over all tokens cost more than forming
W + s B A once a step. The factors' gradients come from products of rank r, so the full weight's gradient is never made.
Under autocast the sum is made in float32 and rounded once; W has more digits than bfloat16, so the rounding of its
elements spreads and an update smaller than bfloat16's step still counts on average.
What the backward pass needs is kept once: not the activation between the layers of an MLP, and of the two weights the
merged one only in half precision.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from timm.layers import DropPath, Mlp
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import gelu, linear
from torch.utils.checkpoint import checkpoint

from lorat_plugin.checkpoints.adapters import ADAPTER
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


class _MergedProduct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        a: torch.Tensor,
        b: torch.Tensor,
        s: float,
        activate: bool,
    ) -> torch.Tensor:
        merged = torch.addmm(weight, b, a, alpha=s).to(x.dtype)
        ctx.save_for_backward(x, weight if x.dtype == weight.dtype else merged, a, b)
        ctx.scaling, ctx.activate = s, activate
        return linear(gelu(x) if activate else x, merged, bias.to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, a, b = ctx.saved_tensors
        x_rows, grad_rows = x.flatten(0, -2), grad.flatten(0, -2)  # (tokens, in), (tokens, out)
        active = gelu(x_rows) if ctx.activate else x_rows
        low_a, low_b = a.to(x.dtype), b.to(x.dtype)
        narrow = (grad_rows @ low_b).mul_(ctx.scaling)  # (tokens, rank)
        grad_a = (narrow.t() @ active).to(a.dtype)
        grad_b = (grad_rows.t() @ (active @ low_a.t())).to(b.dtype).mul_(ctx.scaling)
        del active  # before the next tensor of its size
        if not ctx.needs_input_grad[0]:
            return None, None, None, grad_a, grad_b, None, None
        grad_x = grad_rows @ weight
        if x.dtype == a.dtype:  # else the weight that was kept is the merged one
            grad_x.addmm_(narrow, a)
        if ctx.activate:
            grad_x = torch.ops.aten.gelu_backward(grad_x, x_rows)
        return grad_x.view_as(x), None, None, grad_a, grad_b, None, None


class MergedLoraLinear(LoraLinear):
    """peft's adapted layer with the same parameters and the same result, by one product."""

    activate = False  # whether GELU, which stood before this layer, is now part of it

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """(..., in) -> (..., out), in the dtype of the product."""
        base = self.get_base_layer()
        a, b = self.lora_A[ADAPTER].weight, self.lora_B[ADAPTER].weight
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        with torch.autocast(x.device.type, enabled=False):
            return _MergedProduct.apply(x, base.weight, base.bias, a, b, self.scaling[ADAPTER], self.activate)


def use_merged_products(network: nn.Module) -> None:
    """Switch every adapted linear layer of a network to the merged product, in place; parameters keep their names."""
    for module in network.modules():
        if type(module) is LoraLinear:
            module.__class__ = MergedLoraLinear  # no new state, so the class alone makes the difference
    for mlp in [module for module in network.modules() if type(module) is Mlp]:
        exact = type(mlp.act) is nn.GELU and mlp.act.approximate == "none" and isinstance(mlp.norm, nn.Identity)
        if exact and getattr(mlp.drop1, "p", 0.0) == 0 and isinstance(mlp.fc2, MergedLoraLinear):
            mlp.act, mlp.fc2.activate = nn.Identity(), True


def checkpoint_activations(network: LoRATNetwork) -> None:
    """Let every block keep only its input and compute the rest again in the backward pass, in place."""
    for block in network.blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def compiled(network: torch.nn.Module) -> torch.nn.Module:
    """A network that is compiled at its first call; parts that cannot be compiled run as they are."""
    torch._dynamo.config.suppress_errors = True
    return torch.compile(network)  # type: ignore[return-value]
