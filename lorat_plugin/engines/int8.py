"""Eight-bit arithmetic on a CPU without further packages: the `fused` engine with int8.

Static post-training quantisation. The blocks' products, some 95 % of the work, take unsigned 8-bit inputs (one range
for each layer, from crops that the tracker itself cuts) and signed 8-bit weights (a scale for each output), and sum
whole numbers in the oneDNN kernels that torch brings. Patch embedding, norms, attention between tokens, the residual
stream and the head stay float32. The steps into eight bits are folded into what comes before: into a norm's gain and
bias, into the values that attention averages (its weights sum to 1), and into GELU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from timm.models.vision_transformer import Block
from torch import nn
from torch.nn.functional import layer_norm, scaled_dot_product_attention, silu

from lorat_plugin.engines.calibration import calibration_inputs
from lorat_plugin.engines.fused import FusedEngine, Linear
from lorat_plugin.errors import InputError, first_line
from lorat_plugin.network import LoRATNetwork, Prediction

LAYERS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
TOP = 255  # the largest unsigned 8-bit number
VALUES = 1 << 17  # numbers that a range is fitted to
_CLIPS = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # parts of a range that are tried, for each end
ROWS = 16  # inputs of each layer that are kept of each crop


@dataclass(frozen=True)
class Grid:
    """Which numbers a layer's 8-bit inputs stand for: (input - zero) * step."""

    step: float
    zero: int

    @classmethod
    def fitted(cls, values: torch.Tensor, low: float, high: float) -> Grid:
        """The grid within a range around 0 with the least squared error on values; it may clip the rarest."""
        values = values.flatten()[:: max(values.numel() // VALUES, 1)]
        grids = [cls.of(a * low, b * high) for a in _CLIPS for b in _CLIPS]
        return min(grids, key=lambda grid: float((grid.rounded(values) - values).square().mean()))

    @classmethod
    def of(cls, low: float, high: float) -> Grid:
        """The grid that covers a range."""
        step = max(high - low, 1e-8) / TOP
        return cls(step, round(-low / step))

    @property
    def shift(self) -> float:
        """What to add to x / step so that cutting off the fraction rounds to the nearest."""
        return self.zero + 0.5

    def rounded(self, values: torch.Tensor) -> torch.Tensor:
        """The number on the grid next to each."""
        return ((values / self.step + self.shift).clamp(0, TOP + 0.99).floor() - self.zero) * self.step


class _Input:
    """What a layer was given while calibrating: a few rows of each call, and the range of each column."""

    def __init__(self) -> None:
        self.kept: list[torch.Tensor] = []
        self.low = self.high = torch.zeros(())

    def __call__(self, layer: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        """As a forward pre-hook."""
        rows = inputs[0].flatten(0, -2)
        self.low, self.high = torch.minimum(self.low, rows.amin(0)), torch.maximum(self.high, rows.amax(0))
        self.kept.append(rows[:: max(len(rows) // ROWS, 1)].clone())

    def balance(self, layer: Linear) -> torch.Tensor:
        """(in,) divisors that make the columns' ranges more alike, at the cost of the weights' (arXiv 2211.10438)."""
        reach = torch.maximum(-self.low, self.high).clamp_min(1e-5)
        return (reach / layer.weight.abs().amax(1).clamp_min(1e-5)).sqrt()


class _Product:
    """A linear layer on 8-bit rows."""

    def __init__(self, layer: Linear, given: _Input, balanced: bool = True) -> None:
        """Quantise a float32 layer, whose inputs can be divided by `balance` if it is to be balanced."""
        self.balance = given.balance(layer) if balanced else torch.ones(len(layer.weight))
        rows, weight = torch.cat(given.kept) / self.balance, (layer.weight * self.balance[:, None]).t()
        self.grid = Grid.fitted(rows, float((given.low / self.balance).min()), float((given.high / self.balance).max()))
        self.steps = (weight.abs().amax(1) / weight_levels()).clamp_min(1e-12)
        eight = (weight / self.steps[:, None]).round()
        error = rows @ weight.t() - self.grid.rounded(rows) @ (eight * self.steps[:, None]).t()
        self.bias = layer.bias + error.mean(0)  # the mean error of each output is known, so it is taken off
        self.weight = torch.ops.onednn.qlinear_prepack(eight.to(torch.int8).contiguous(), None)
        self.zeros = torch.zeros(len(self.bias), dtype=torch.int64)

    def aim(self, target: _Product) -> None:
        """Make the last third of the outputs, attention's values, in the units of another product's input."""
        last, units = slice(len(self.bias) // 3 * 2, None), target.grid.step * target.balance
        self.steps[last] /= units
        self.bias[last] = self.bias[last] / units + target.grid.shift

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(N, out) float32."""
        return torch.ops.onednn.qlinear_pointwise(*self._operands(x), self.bias, 1.0, 0, torch.float32, "none", [], "")

    def gelu(self, x: torch.Tensor, grid: Grid) -> torch.Tensor:
        """GELU of the product, (N, out) uint8 on a grid."""
        return torch.ops.onednn.qlinear_pointwise(
            *self._operands(x), self.bias, grid.step, grid.zero, torch.uint8, "gelu", [], "none"
        )

    def add_to(self, rows: torch.Tensor, x: torch.Tensor) -> None:
        """Add the product to (N, out) float32 in place."""
        _add_product(*self._operands(x), rows, self.bias)

    def _operands(self, x: torch.Tensor) -> tuple[object, ...]:
        return x, self.grid.step, self.grid.zero, self.weight, self.steps, self.zeros


class _Norm:
    """A layer norm whose outputs are in the units of a product's input."""

    def __init__(self, norm: nn.LayerNorm, target: _Product) -> None:
        units, self.eps = target.grid.step * target.balance, norm.eps
        self.weight, self.bias = norm.weight / units, norm.bias / units + target.grid.shift

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        """(..., dim) float32 -> (N, dim) uint8."""
        return _eight(layer_norm(tokens, self.weight.shape, self.weight, self.bias, self.eps)).flatten(0, -2)


class _Block8:
    """What is left of one transformer block."""

    def __init__(self, block: Block, given: Mapping[str, _Input]) -> None:
        attention, ffn, self.heads = block.attn, block.mlp, block.attn.num_heads
        self.qkv = _Product(Linear.of(attention.qkv), given["attn.qkv"])
        self.proj = _Product(Linear.of(attention.proj, block.ls1), given["attn.proj"])
        self.fc1 = _Product(Linear.of(ffn.fc1), given["mlp.fc1"])
        self.fc2 = _Product(Linear.of(ffn.fc2, block.ls2), given["mlp.fc2"], balanced=False)
        self.qkv.aim(self.proj)
        self.norm1, self.norm2 = _Norm(block.norm1, self.qkv), _Norm(block.norm2, self.fc1)


class Int8Engine(FusedEngine):
    """A `lorat_plugin.tracking.Engine` made from a plain network, unchanged; the last norm and the head are shared."""

    @torch.inference_mode()
    def __init__(self, network: LoRATNetwork, source: str | Path | None = None) -> None:
        """Calibrate and quantise a network.

        Args:
            network: as for `FusedEngine`.
            source: of frames, see `calibration_inputs`.
        Raises InputError for a network that cannot be folded, a processor without 8-bit kernels, or a bad source.
        """
        super().__init__(network)
        weight_levels()
        given = [{name: _Input() for name in LAYERS} for _ in network.blocks]
        hooks = [
            block.get_submodule(name).register_forward_pre_hook(inputs)
            for block, layers in zip(network.blocks, given, strict=True)
            for name, inputs in layers.items()
        ]
        try:
            for _ in calibration_inputs(network, source):
                pass
        finally:
            for hook in hooks:
                hook.remove()
        self.gated, self.head = self.blocks[0].gated, network.head
        self.blocks = []
        self.products = [_Block8(block, layers) for block, layers in zip(network.blocks, given, strict=True)]

    def predict(self, template: torch.Tensor, x: torch.Tensor) -> Prediction:
        """Score map and boxes for search regions; see `LoRATNetwork.predict`."""
        tokens = torch.cat([template, self._patches(x).add_(self.search_positions)], 1)
        batch, count, dim = tokens.shape
        for block in self.products:
            first = template.shape[1] if block is self.products[-1] else 0  # the template's tokens are not read again
            qkv = block.qkv(block.norm1(tokens))
            q, k, v = qkv.view(batch, count, 3, block.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
            mixed = _eight(scaled_dot_product_attention(q[:, :, first:], k, v)).transpose(1, 2).reshape(-1, dim)
            tokens = tokens[:, first:].contiguous()
            rows = tokens.view(-1, dim)
            block.proj.add_to(rows, mixed)
            block.fc2.add_to(rows, self._hidden(block, block.norm2(rows)))
        return self.head(self.norm(tokens))

    def _hidden(self, block: _Block8, x: torch.Tensor) -> torch.Tensor:
        grid = block.fc2.grid
        if not self.gated:
            return block.fc1.gelu(x, grid)
        gate, value = block.fc1(x).chunk(2, -1)
        return _eight(silu(gate, inplace=True).mul_(value).mul_(1 / grid.step).add_(grid.shift))


def _eight(values: torch.Tensor) -> torch.Tensor:
    """Cut to uint8; the values are changed."""
    return values.clamp_(0, TOP + 0.99).to(torch.uint8)


def _add_product(*operands: object) -> None:
    torch.ops.onednn.qlinear_pointwise.binary(*operands, 1.0, 0, torch.float32, 1.0, 0, "sum", 1.0, "none", [], "")


@lru_cache
def weight_levels() -> int:
    """Largest weight: 127, or 63 on x86 processors without VNNI, which sum pairs of products in 16 bits.

    Raises InputError where torch has no 8-bit kernels.
    """
    x, weight = torch.full((16, 64), TOP, dtype=torch.uint8), torch.full((16, 64), 127, dtype=torch.int8)
    try:
        packed = torch.ops.onednn.qlinear_prepack(weight, None)
        sums = torch.zeros(16, 16)
        _add_product(x, 1.0, 0, packed, torch.ones(16), torch.zeros(16, dtype=torch.int64), sums, None)
    except (AttributeError, RuntimeError) as error:
        raise InputError(
            f"precision int8 needs oneDNN's 8-bit kernels, and torch has none here ({first_line(error)}): use fp32"
        ) from error
    return 127 if float(sums[0, 0]) == 64 * TOP * 127 else 63
