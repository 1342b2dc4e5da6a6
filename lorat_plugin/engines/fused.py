"""The `fused` engine: a network's own arithmetic in fewer steps, exact to rounding, on a CPU.

On a CPU the large products run near the machine's limit, so what is left to gain is around them: weights are packed
where the processor's kernels read them faster so, LayerScale is folded into the layer before it, the last block and the
head work on search tokens only, and patches are embedded by one product. In bfloat16 it is near, not exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from typing import Any

import torch
from timm.layers import GluMlp, LayerNorm, Mlp, PatchEmbed
from timm.models.vision_transformer import Attention, Block, LayerScale
from torch import nn
from torch.nn.functional import linear, scaled_dot_product_attention, silu

from lorat_plugin.errors import InputError
from lorat_plugin.network import MLP, SEARCH_TYPE, Head, LoRATNetwork, Prediction, cell_centres

_KNOWN = (
    {LoRATNetwork, PatchEmbed, Block, Attention, LayerScale, Head, MLP}
    | {nn.Conv2d, nn.Embedding, nn.Linear, nn.LayerNorm, LayerNorm, nn.GELU, nn.SiLU}
    | {nn.Identity, nn.Dropout, nn.ModuleList, nn.Sequential}
)
_Product = Callable[[torch.Tensor], torch.Tensor]  # (N, in) -> (N, out)
_LAYERS = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")


@dataclass(frozen=True)
class Linear:
    """x @ weight + bias; the weight is (in, out), as the product reads it."""

    weight: torch.Tensor
    bias: torch.Tensor

    @classmethod
    def of(cls, layer: nn.Module, scale: nn.Module | None = None) -> Linear:
        """A linear layer, and the LayerScale behind it."""
        assert isinstance(layer, nn.Linear)
        gamma = scale.gamma.detach() if isinstance(scale, LayerScale) else layer.weight.new_ones(1)
        return cls((layer.weight.detach().t() * gamma).contiguous(), layer.bias.detach() * gamma)

    def product(self, rows: int) -> _Product:
        """In float32; packed for a number of rows where that pays, and others are multiplied as ever."""
        weight = self.weight.t()
        if torch.backends.cpu.get_cpu_capability() != "AVX512" or not torch.backends.mkl.is_available():
            return partial(linear, weight=weight, bias=self.bias)
        packed = torch.ops.mkl._mkl_reorder_linear_weight(weight.contiguous(), rows)
        return partial(torch.ops.mkl._mkl_linear, MKL_W=packed, ORI_W=weight, B=self.bias, batch_size=rows)

    def half_product(self, rows: int) -> _Product:
        """In bfloat16 with float32 sums; packed for a number of rows, while others do too."""
        packed = torch.ops.mkldnn._reorder_linear_weight(self.weight.t().bfloat16().contiguous(), rows)
        product = partial(torch.ops.mkldnn._linear_pointwise, W=packed, B=self.bias.bfloat16())
        return partial(product, attr="none", scalars=[], algorithm="")


class FusedBlock:
    """One transformer block, reduced to packed products."""

    def __init__(self, block: Any, dtype: torch.dtype, tokens: int, rows: int, chunk: int | None = None) -> None:
        """Fold the layers of a block; of LoRATv2's, those of a chunk.

        Args:
            block: timm's, or a `ChunkBlock`.
            dtype: of the products, float32 or bfloat16.
            tokens: of a target that go in, for which products are packed.
            rows: of a target that go out.
            chunk: number of the chunk; None for timm's blocks.
        """
        self.heads, self.gated = block.norm1.weight.shape[0] // block.attn.head_dim, isinstance(block.mlp, GluMlp)
        self.norm1, self.norm2, self.dtype = block.norm1, block.norm2, dtype
        kind = Linear.product if dtype == torch.float32 else Linear.half_product

        def layer(layers: Any) -> Any:
            return layers if chunk is None else layers[chunk]

        self.qkv = kind(Linear.of(layer(block.attn.qkv)), tokens)
        self.proj = kind(Linear.of(layer(block.attn.proj), block.ls1), rows)
        self.fc1 = kind(Linear.of(layer(block.mlp.fc1)), rows)
        self.fc2 = kind(Linear.of(layer(block.mlp.fc2), block.ls2), rows)


def run_blocks(
    blocks: Sequence[FusedBlock],
    tokens: torch.Tensor,
    pasts: Iterable[torch.Tensor | None],
    first: int = 0,
    keep: bool = False,
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Tokens after all blocks, and the keys and values of each block to keep.

    Args:
        blocks: one after the other.
        tokens: (B, N, dim) contiguous; overwritten.
        pasts: for each block, (B, 2, heads, M, width) keys and values of other tokens that these read too, or None.
        first: number of the first token that is read after the last block.
        keep: False returns no keys and values, whose memory serves the next block.
    Returns (B, N - first, dim), and (B, 2, heads, N, width) of each block.
    """
    batch, count, dim = tokens.shape
    kept = []
    for block, past in zip(blocks, pasts, strict=False):
        qkv = block.qkv(block.norm1(tokens).view(-1, dim).to(block.dtype))  # (B * N, 3 * dim)
        q, own = qkv.view(batch, count, 3, block.heads, -1).permute(0, 2, 3, 1, 4).split([1, 2], 1)
        k, v = (own if past is None else torch.cat([past, own], 3)).unbind(1)  # (B, heads, M + N, width)
        cut = first if block is blocks[-1] else 0
        mixed = scaled_dot_product_attention(q[:, 0, :, cut:], k, v).transpose(1, 2).reshape(-1, dim)
        tokens = tokens[:, cut:].contiguous()
        rows = tokens.view(-1, dim)  # all that follows works in place
        rows.add_(block.proj(mixed))
        hidden = block.fc1(block.norm2(rows).to(block.dtype))
        if block.gated:
            gate, value = hidden.chunk(2, -1)
            rows.add_(block.fc2(silu(gate, inplace=True).mul_(value)))
        else:
            rows.add_(block.fc2(torch.ops.aten.gelu_(hidden)))
        kept += [own] if keep else []
    return tokens, kept


class FusedHead:
    """Final norm and MLP head; the first layers of both MLPs are one product."""

    def __init__(self, norm: nn.Module, head: Head) -> None:
        self.norm, self.grid = norm, head.grid
        scores, sides = ([Linear.of(layer) for layer in mlp.layers] for mlp in (head.cls_mlp, head.reg_mlp))
        both = zip((scores[0].weight, scores[0].bias), (sides[0].weight, sides[0].bias), strict=True)
        self.first, self.rest = Linear(*(torch.cat(pair, -1) for pair in both)), (scores[1:], sides[1:])
        centres = cell_centres(self.grid, self.first.bias.device).flatten(0, 1)
        self.centres, self.signs = torch.cat([centres, centres], 1), centres.new_tensor([-1.0, -1.0, 1.0, 1.0])

    def __call__(self, rows: torch.Tensor) -> Prediction:
        """Rows (B * grid * grid, dim) -> Prediction."""
        features = torch.addmm(self.first.bias, self.norm(rows), self.first.weight)
        halves = torch.ops.aten.gelu_(features).chunk(2, -1)
        outputs = []
        for half, (second, last) in zip(halves, self.rest, strict=True):
            narrow = torch.ops.aten.gelu_(torch.addmm(second.bias, half, second.weight))
            outputs.append(torch.addmm(last.bias, narrow, last.weight))
        scores, sides = outputs
        cells = self.grid * self.grid
        boxes = torch.addcmul(self.centres, sides.sigmoid_().view(-1, cells, 4), self.signs)
        return Prediction(scores.view(-1, self.grid, self.grid), boxes.view(-1, self.grid, self.grid, 4))


def embed_patches(images: torch.Tensor, size: int, weight: torch.Tensor) -> torch.Tensor:
    """Images (B, 3, S, S) -> (B, cells, dim) without bias, by one product; weight (3 * size * size, dim)."""
    batch, channels, side = images.shape[:3]
    cells = images.view(batch, channels, side // size, size, side // size, size).permute(0, 2, 4, 1, 3, 5)
    return cells.reshape(batch, (side // size) ** 2, -1) @ weight


class FusedEngine:
    """A `lorat_plugin.tracking.Engine` made from a plain network, which is not changed; its norms are shared."""

    @torch.inference_mode()
    def __init__(self, network: LoRATNetwork, precision: str = "fp32", calibration: object = None) -> None:
        """Fold a network's layers.

        Args:
            network: float32, merged, of plain ViT blocks and LoRAT's own parts.
            precision: "fp32"; "bf16" for the blocks' products and attention, while all else stays float32.
            calibration: unused.
        Raises InputError for another network, or a processor without kernels for bf16.
        """
        if obstacle := _obstacle(network):
            raise InputError(f"engine 'fused' cannot run this network ({obstacle}): use engine auto or eager")
        if precision == "bf16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            raise InputError("engine 'fused' has no bf16 on this processor: use precision fp32")
        self.variant, self.grid = network.variant, network.variant.search_grid
        conv, head, small = network.patch_embed.proj, network.head, network.variant.template_grid
        assert isinstance(conv, nn.Conv2d) and conv.bias is not None and isinstance(head, Head)
        positions, self.types = network.pos_embed[0] + conv.bias, network.token_type_embed.weight.detach()
        self.patch_weight = conv.weight.flatten(1).t().contiguous()
        self.template_positions = positions.unflatten(0, (self.grid, -1))[:small, :small].flatten(0, 1)
        self.search_positions = positions + self.types[SEARCH_TYPE]
        cells, tokens = self.grid**2, self.grid**2 + small**2
        counts = [tokens] * (len(network.blocks) - 1) + [cells]
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        pairs = zip(network.blocks, counts, strict=True)
        self.blocks = [FusedBlock(block, self.dtype, tokens, rows) for block, rows in pairs]
        self.head = FusedHead(network.norm, head)

    def encode_template(self, z: torch.Tensor, z_mask: torch.Tensor) -> torch.Tensor:
        """Template tokens before the first block, (B, Nt, dim); see `LoRATNetwork.encode_template`."""
        return (
            embed_patches(z, self.variant.patch_size, self.patch_weight)
            + self.template_positions
            + self.types[z_mask.flatten(1)]
        )

    def predict(self, memories: Sequence[torch.Tensor], x: torch.Tensor) -> Prediction:
        """Score map and boxes for search regions; see `LoRATNetwork.predict`."""
        template = torch.cat(list(memories))
        tokens = torch.cat(
            [template, embed_patches(x, self.variant.patch_size, self.patch_weight).add_(self.search_positions)], 1
        )
        tokens, _ = run_blocks(self.blocks, tokens, repeat(None), template.shape[1])  # of which no more is read
        return self.head(tokens.view(-1, tokens.shape[-1]))


def _obstacle(network: LoRATNetwork) -> str:
    """Why a network cannot be folded; empty if it can. Whatever is not known here is an obstacle."""
    if network.pos_embed.device.type != "cpu" or network.pos_embed.dtype != torch.float32:
        return "its weights are not float32 on a CPU"
    for name, module in network.named_modules():
        if not _known(module):
            return f"{name} is a {type(module).__name__}"
    layers = ["norm", "patch_embed.proj", *(f"head.{mlp}_mlp.layers.{i}" for mlp in ("cls", "reg") for i in range(3))]
    layers += [f"blocks.{i}.{layer}" for i in range(len(network.blocks)) for layer in _LAYERS]
    expected = {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")} | {"token_type_embed.weight"}
    tensors = {name for name, _ in [*network.named_parameters(), *network.named_buffers()]}
    differing = (expected | {"pos_embed"}) ^ {name for name in tensors if not name.endswith(".gamma")}
    return f"{min(differing)} is {'foreign' if min(differing) in tensors else 'missing'}" if differing else ""


def _known(module: nn.Module) -> bool:
    if isinstance(module, Mlp | GluMlp):
        gated = isinstance(module, GluMlp)
        return type(module.act) is (nn.SiLU if gated else nn.GELU) and not (gated and module.gate_last)
    return type(module) in _KNOWN and getattr(module, "approximate", "none") == "none"
