"""A faster way through adapted layers while training: one product with the merged weight instead of three.

peft computes W x, then B (A x), then adds; on a CPU the two extra passes over all tokens cost more than forming
W + s B A once a step. The factors' gradients come from products of rank r, so the full weight's gradient is never made.
Under autocast the sum is made in float32 and rounded once; W has more digits than bfloat16, so the rounding of its
elements spreads and an update smaller than bfloat16's step still counts on average.
What the backward pass needs is kept once: not the activation between the layers of an MLP, and of the two weights the
merged one only in half precision.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from timm.layers import Mlp
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import gelu, linear

from lorat_plugin.checkpoints.adapters import ADAPTER


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
