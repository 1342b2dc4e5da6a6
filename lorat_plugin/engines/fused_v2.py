"""LoRATv2 in the `fused` engine: each chunk's products packed for its own number of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from lorat_plugin.engines.fused import FusedBlock, FusedEngine, FusedHead, embed_patches, run_blocks
from lorat_plugin.errors import InputError
from lorat_plugin.network import Head, LoRATNetwork, Prediction
from lorat_plugin.network_v2 import LoRATv2Network, RemembersReferences, pasts_of
from lorat_plugin.networks import shapes

if TYPE_CHECKING:
    from lorat_plugin.engines.select import Calibration


class FusedV2Engine(RemembersReferences):
    """A `lorat_plugin.tracking.Engine` made from a merged `LoRATv2Network`, which is not changed."""

    @torch.inference_mode()
    def __init__(self, network: LoRATv2Network, precision: str = "fp32") -> None:
        """Fold a network's layers; arguments and errors as of `FusedEngine`."""
        conv, head = network.patch_embed.proj, network.heads[-1]
        assert isinstance(head, Head)
        ready = conv.weight.device.type == "cpu" and conv.weight.dtype == torch.float32
        if not ready or network.state_dict().keys() != shapes(network.variant).keys():
            raise InputError("engine 'fused' cannot run this network: use engine auto or eager")
        if precision == "bf16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            raise InputError("engine 'fused' has no bf16 on this processor: use precision fp32")
        self.variant, self.template_tokens = network.variant, network.template_tokens
        self.types = network.template_token_type_embed.detach()
        self.registers = network.reg_token
        self.patch_weight = conv.weight.flatten(1).t().contiguous()
        variant, dim = network.variant, network.variant.dim
        table = (network.pos_embed[0] + conv.bias).view(variant.table_grid, variant.table_grid, dim)
        grids = (variant.template_grid, *variant.search_grids)
        self.positions = [table[:grid, :grid].reshape(-1, dim).clone() for grid in grids]
        for chunk, types in enumerate(network.search_region_token_type_embed, 1):
            self.positions[chunk] += types
        counts = [self.template_tokens, *(grid**2 for grid in variant.search_grids)]
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self.chunks = [
            [FusedBlock(block, dtype, count, count, chunk) for block in network.blocks]
            for chunk, count in enumerate(counts)
        ]
        self.head = FusedHead(network.norms[-1], head)

    def encode_template(self, z: torch.Tensor, z_mask: torch.Tensor) -> torch.Tensor:
        """Memory of new targets; see `LoRATv2Network.encode_template`."""
        tokens = self._embed(z, 0).add_(self.types[z_mask.flatten(1)])
        if self.registers is not None:
            tokens = torch.cat([self.registers.expand(len(z), -1, -1), tokens], 1)
        return self._encode(tokens, 0, [])

    def encode_reference(self, memory: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """Memory with another reference; see `LoRATv2Network.encode_reference`."""
        template = memory[..., : self.template_tokens, :]
        return torch.cat([template, self._encode(self._embed(reference, 1), 1, [template])], -2)

    def predict(self, memories: Sequence[torch.Tensor], x: torch.Tensor) -> Prediction:
        """Score map and boxes for search regions; see `LoRATv2Network.predict`."""
        tokens = self._embed(x, len(self.chunks) - 1)
        tokens, _ = run_blocks(self.chunks[-1], tokens, pasts_of(memories, len(self.chunks[-1])))
        return self.head(tokens.view(-1, tokens.shape[-1]))

    def _embed(self, images: torch.Tensor, chunk: int) -> torch.Tensor:
        return embed_patches(images, self.variant.patch_size, self.patch_weight).add_(self.positions[chunk])

    def _encode(self, tokens: torch.Tensor, chunk: int, memories: Sequence[torch.Tensor]) -> torch.Tensor:
        blocks = self.chunks[chunk]
        return torch.stack(run_blocks(blocks, tokens, pasts_of(memories, len(blocks)), keep=True)[1], 1)


def fused_engine(
    network: LoRATNetwork, precision: str = "fp32", calibration: Calibration | None = None
) -> FusedEngine | FusedV2Engine:
    """The fused engine of a network; arguments and errors as of `FusedEngine`."""
    if isinstance(network, LoRATv2Network):
        return FusedV2Engine(network, precision)
    return FusedEngine(network, precision, calibration)
