"""The LoRATv2 network (NeurIPS 2025): tokens in chunks, attention from each chunk to itself and the chunks before it.

Chunk 0 is the registers and the template, chunk 1 a search region at the template's size, chunk 2 (phase 2) a larger
search region, for which chunk 1 is the reference. No chunk depends on a later one, so its keys and values are
computed once and kept: the memory of a target. All chunks share the backbone's norms and LayerScales; linear layers,
token types, final norm and head are those of the chunk. Positions are the top-left window of DINOv2's 37x37 table,
never resized. Parameter names are those of the official merged checkpoints.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from lorat_plugin.backbones import build
from lorat_plugin.crop import Crop, cut_all, normalize
from lorat_plugin.errors import InputError
from lorat_plugin.network import Head, LoRATNetwork, Prediction, initialize_linear
from lorat_plugin.variants import Variant

SUBSET_ABOVE = 0.1  # rate of stochastic depth above which an exact number of samples is dropped

Scales = tuple[torch.Tensor | None, torch.Tensor | None]  # (B, 1, 1) factors of the two branches; None: 1


class ChunkBlock(nn.Module):
    """A transformer block of timm with a set of linear layers for each chunk, all copies of the backbone's."""

    def __init__(self, block: Any, chunks: int) -> None:
        super().__init__()
        self.heads = block.attn.num_heads
        self.norm1, self.attn, self.ls1 = block.norm1, block.attn, block.ls1
        self.norm2, self.mlp, self.ls2 = block.norm2, block.mlp, block.ls2
        for part, name in ((self.attn, "qkv"), (self.attn, "proj"), (self.mlp, "fc1"), (self.mlp, "fc2")):
            layer = getattr(part, name)
            setattr(part, name, nn.ModuleList(copy.deepcopy(layer) for _ in range(chunks)))

    def forward(
        self, x: torch.Tensor, chunk: int, past: torch.Tensor | None, scales: Scales = (None, None)
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens of a chunk after the block, and its keys and values.

        Args:
            x: (B, N, dim) tokens of the chunk.
            chunk: its number.
            past: (B, 2, heads, M, width) keys and values of the chunks before; None for chunk 0.
            scales: of the attention and the FFN branch, drawn by stochastic depth.
        Returns (B, N, dim) and (B, 2, heads, N, width).
        """
        qkv = self.attn.qkv[chunk](self.norm1(x)).unflatten(-1, (3, self.heads, -1))  # (B, N, 3, heads, width)
        q, own = qkv.permute(0, 2, 3, 1, 4).split([1, 2], 1)
        k, v = (own if past is None else torch.cat([past, own], 3)).unbind(1)  # (B, heads, M + N, width)
        mixed = scaled_dot_product_attention(q[:, 0], k, v).transpose(1, 2).flatten(2)
        x = _add(x, self.ls1(self.attn.proj[chunk](mixed)), scales[0])
        hidden = self.mlp.act(self.mlp.fc1[chunk](self.norm2(x)))
        return _add(x, self.ls2(self.mlp.fc2[chunk](hidden)), scales[1]), own


def _add(x: torch.Tensor, branch: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
    return x + (branch if scale is None else branch * scale)


class RemembersReferences(ABC):
    """An engine whose memories get a new reference while it tracks, where the variant has one."""

    variant: Variant
    template_tokens: int  # of a memory without reference

    @abstractmethod
    def encode_reference(self, memory: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """Memory with another reference, from (B, 3, reference_size, reference_size) normalised RGB."""

    def remember(
        self, targets: Sequence[Any], frames: Sequence[np.ndarray], results: Sequence[Any] | None
    ) -> list[torch.Tensor]:
        """Memories of targets, with a reference cut around the target's box where a new one is due.

        One is due after a score above the variant's `update_above`. The first one, cut around the start box, is due
        at the start or, by `reference_from`, before the search in the next frame, where there are no results yet.
        """
        variant, memories = self.variant, [target.memory for target in targets]
        if not variant.reference_size:
            return memories
        lacking = [memory.shape[-2] == self.template_tokens for memory in memories]
        if results is None:
            due = [i for i, lacks in enumerate(lacking) if lacks]
        else:
            at_start = variant.reference_from == "start"
            good = [result.score > variant.update_above for result in results]
            due = [i for i, lacks in enumerate(lacking) if good[i] and (at_start or not lacks)]
        if due:
            factor, size, least = variant.reference_area_factor, variant.reference_size, variant.min_object_size
            crops = [Crop.around(targets[i].box, factor, size, frames[i].shape[:2], least) for i in due]
            fills, memory = [targets[i].fill for i in due], torch.cat([memories[i] for i in due])
            images = normalize(cut_all(crops, [frames[i] for i in due], fills, memory.device), variant.normalization)
            for i, own in zip(due, self.encode_reference(memory, images).split(1), strict=True):
                memories[i] = own.clone()  # no view of the other targets' memory
        return memories


class LoRATv2Network(RemembersReferences, LoRATNetwork):
    """LoRATv2 of one variant: phase 1 (two chunks), or phase 2 (three) if the variant has a reference.

    It is the `eager` inference engine: `encode_template` once for each target, `encode_reference` for each new
    reference, `predict` for each frame. A memory is (B, depth, 2, heads, tokens, width): keys and values.
    """

    def __init__(self, variant: Variant) -> None:
        """Random weights, but zero positions; raises InputError for a backbone with other blocks than DINOv2's."""
        nn.Module.__init__(self)
        parts = build(variant)
        if variant.ffn != "mlp" or parts.rope is not None or not parts.has_table:
            raise InputError(f"variant '{variant.name}': LoRATv2 needs DINOv2's blocks (MLP, absolute positions)")
        if variant.chunks != 1 + len(variant.search_grids):
            raise InputError(f"variant '{variant.name}': chunks must be {1 + len(variant.search_grids)}")
        self.variant = variant
        self.drop_path = 0.0  # rate of the last block in train mode
        self.patch_embed = parts.patch_embed
        self.reg_token = parts.registers
        self.template_tokens = variant.template_grid**2 + (0 if parts.registers is None else parts.registers.shape[1])
        self.blocks = nn.ModuleList(ChunkBlock(block, variant.chunks) for block in parts.blocks)
        types = (nn.Parameter(torch.empty(1, variant.dim)) for _ in variant.search_grids)
        self.search_region_token_type_embed = nn.ParameterList(types)
        self.norms = nn.ModuleList(copy.deepcopy(parts.norm) for _ in variant.search_grids)
        self.heads = nn.ModuleList(Head(variant.dim, grid) for grid in variant.search_grids)
        self.pos_embed = nn.Parameter(torch.zeros(1, variant.table_grid**2, variant.dim))
        self.template_token_type_embed = nn.Parameter(torch.empty(2, variant.dim))
        self.initialize()

    def initialize(self) -> None:
        """Official start values: types normal 1e-6, heads as the first LoRAT's."""
        for types in (self.template_token_type_embed, *self.search_region_token_type_embed):
            nn.init.normal_(types, std=1e-6)
        initialize_linear(self.heads)

    def encode_template(self, z: torch.Tensor, z_mask: torch.Tensor) -> torch.Tensor:
        """Memory of new targets.

        Args:
            z: (B, 3, template_size, template_size) normalised RGB.
            z_mask: (B, template_grid, template_grid) int64, 1 on target cells, else 0.
        Returns (B, depth, 2, heads, registers + template_grid ** 2, width).
        """
        return torch.stack(self._run(self._template(z, z_mask), 0, repeat(None))[1], 1)

    def encode_reference(self, memory: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """Memory with another reference, from (B, 3, reference_size, reference_size) normalised RGB."""
        template = memory[..., : self.template_tokens, :]
        _, added = self._run(self._search(reference, 1), 1, pasts_of([template], len(self.blocks)))
        return torch.cat([template, torch.stack(added, 1)], -2)

    def predict(self, memories: Sequence[torch.Tensor], x: torch.Tensor) -> Prediction:
        """Score map and boxes for search regions.

        Args:
            memories: of the targets, each with batch dimension 1, or of a batch; in phase 2 with a reference.
            x: (B, 3, search_size, search_size) normalised RGB.
        """
        last = self.variant.chunks - 1
        tokens = self._search(x, last)
        return self._head(self._run(tokens, last, pasts_of(memories, len(self.blocks)), keep=False)[0])

    def forward(
        self, z: torch.Tensor, x: torch.Tensor, z_mask: torch.Tensor, reference: torch.Tensor | None = None
    ) -> Prediction:
        """All chunks at once: template, search region, mask and, in phase 2, reference (shapes as above)."""
        chunks = [self._template(z, z_mask)]
        if reference is not None:
            chunks.append(self._search(reference, 1))
        chunks.append(self._search(x, len(chunks)))
        scales = self.branch_scales(len(x), x.device)
        pasts: list[torch.Tensor | None] = [None] * len(self.blocks)
        for chunk, tokens in enumerate(chunks):
            chunks[chunk], kept = self._run(tokens, chunk, pasts, scales)
            pasts = [own if past is None else torch.cat([past, own], 3) for past, own in zip(pasts, kept, strict=True)]
        # The slice gives the layers that only earlier chunks' last tokens pass through a gradient of zero, not none.
        return self._head(torch.cat(chunks, 1)[:, -chunks[-1].shape[1] :])

    def branch_scales(self, batch: int, device: torch.device) -> list[Scales]:
        """Draws of stochastic depth, (B, 1, 1) for the branches of each block; rates grow with depth.

        A sample is dropped from all chunks at once. Draws come from torch's generator in the blocks' order.
        """
        rates = torch.linspace(0, self.drop_path if self.training else 0.0, len(self.blocks)).tolist()
        return [(_scale(batch, rate, device), _scale(batch, rate, device)) for rate in rates]

    def _run(
        self,
        tokens: torch.Tensor,
        chunk: int,
        pasts: Iterable[torch.Tensor | None],
        scales: Iterable[Scales] = repeat((None, None)),
        keep: bool = True,
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Tokens of a chunk after all blocks, and its keys and values in each to keep; `pasts` as of `ChunkBlock`."""
        kept = []
        for block, past, drops in zip(self.blocks, pasts, scales, strict=False):
            tokens, own = block(tokens, chunk, past, drops)
            kept += [own] if keep else []  # the memory of what is not kept serves the next block
        return tokens, kept

    def _template(self, z: torch.Tensor, z_mask: torch.Tensor) -> torch.Tensor:
        tokens = self._cells(z) + self.template_token_type_embed[z_mask.flatten(1)]
        if self.reg_token is None:
            return tokens
        return torch.cat([self.reg_token.expand(z.shape[0], -1, -1), tokens], 1)

    def _search(self, x: torch.Tensor, chunk: int) -> torch.Tensor:
        return self._cells(x) + self.search_region_token_type_embed[chunk - 1]

    def _cells(self, images: torch.Tensor) -> torch.Tensor:
        cells = self.patch_embed.proj(images.to(self.pos_embed.dtype))  # (B, dim, G, G)
        side, grid = self.variant.table_grid, cells.shape[-1]
        window = self.pos_embed.view(1, side, side, -1)[:, :grid, :grid].flatten(1, 2)
        return cells.flatten(2).transpose(1, 2) + window

    def _head(self, tokens: torch.Tensor) -> Prediction:
        return self.heads[-1](self.norms[-1](tokens))


def pasts_of(memories: Sequence[torch.Tensor], depth: int) -> Iterator[torch.Tensor | None]:
    """For each of `depth` blocks (B, 2, heads, tokens, width), keys and values of memories; None without any."""
    for block in range(depth):
        parts = [memory[:, block] for memory in memories]
        yield torch.cat(parts) if len(parts) > 1 else parts[0] if parts else None


def _scale(batch: int, rate: float, device: torch.device) -> torch.Tensor | None:
    """Factors (B, 1, 1) of one branch: 0 for a dropped sample, else 1 / its chance to stay; None for a rate of 0."""
    if not rate:
        return None
    if rate <= SUBSET_ABOVE:
        return torch.empty(batch, 1, 1, device=device).bernoulli_(1 - rate) / (1 - rate)
    kept = max(int(batch * (1 - rate)), 1)
    scale = torch.zeros(batch, 1, 1, device=device)
    scale[torch.randperm(batch, device=device)[:kept]] = batch / kept
    return scale
