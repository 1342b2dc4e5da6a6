"""The LoRAT network: template and search tokens through DINOv2's blocks, then an MLP head on the search tokens.

Notable choices of the paper (arXiv 2403.05231): one frozen position table for both images, of which the template
takes the top-left window; token types tell template background, template foreground and search apart; plain joint
attention over all tokens; a head of two MLPs without convolutions or anchors. The paper's baseline, with a position
table for each image and a convolutional head, is a variant of its own. Parameter names are those of the
official checkpoints, except timm's `mlp.fc1/fc2` for the giant's SwiGLU layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import nn

from lorat_plugin.backbones import build
from lorat_plugin.presence import PresenceRule
from lorat_plugin.variants import Variant

SEARCH_TYPE = 2  # row of the token type table; rows 0 and 1 are template background and foreground


class Prediction(NamedTuple):
    """Output of the network for a batch of B search regions of G x G cells."""

    score_map: torch.Tensor  # (B, G, G) float32 logits
    boxes: torch.Tensor  # (B, G, G, 4) float32 xyxy, fractions of the search region; may leave [0, 1]


class MLP(nn.Module):
    """Three linear layers with GELU between them; dim -> dim -> dim -> out."""

    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, out)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., dim) -> (..., out)."""
        for layer in self.layers[:-1]:
            x = nn.functional.gelu(layer(x))
        return self.layers[-1](x)


class Head(nn.Module):
    """Score map and boxes from search tokens: paper section 3.4, MLP-only anchor-free head."""

    def __init__(self, dim: int, grid: int) -> None:
        super().__init__()
        self.grid = grid
        self.cls_mlp, self.reg_mlp = MLP(dim, 1), MLP(dim, 4)

    def forward(self, tokens: torch.Tensor) -> Prediction:
        """(B, G * G, dim) -> Prediction; each box side lies within one crop size of its cell's centre."""
        return _prediction(self.cls_mlp(tokens), self.reg_mlp(tokens), self.grid)


class ConvBranch(nn.Sequential):
    """Four times 3x3 convolution, batch normalisation, ReLU, each half as wide as the one before; then 1x1 to `out`."""

    def __init__(self, dim: int, out: int, width: int = 256) -> None:
        layers: list[nn.Module] = []
        for wide in (width, width // 2, width // 4, width // 8):
            layers += [nn.Conv2d(dim, wide, 3, padding=1, bias=False), nn.BatchNorm2d(wide), nn.ReLU()]
            dim = wide
        super().__init__(*layers, nn.Conv2d(dim, out, 1))


class ConvHead(nn.Module):
    """The convolutional anchor-free head of one-stream trackers (OSTrack, arXiv 2203.11991), the paper's baseline."""

    def __init__(self, dim: int, grid: int) -> None:
        super().__init__()
        self.grid = grid
        self.cls_convs, self.reg_convs = ConvBranch(dim, 1), ConvBranch(dim, 4)

    def forward(self, tokens: torch.Tensor) -> Prediction:
        """As `Head`."""
        maps = tokens.transpose(1, 2).unflatten(2, (self.grid, self.grid))  # (B, dim, G, G)
        scores, sides = (branch(maps).flatten(2).transpose(1, 2) for branch in (self.cls_convs, self.reg_convs))
        return _prediction(scores, sides, self.grid)


def initialize_linear(part: nn.Module) -> None:
    """Give linear layers the paper's start: weights truncated normal 0.02, biases 0."""
    for layer in part.modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)


def _prediction(scores: torch.Tensor, sides: torch.Tensor, grid: int) -> Prediction:
    """(B, G * G, 1) logits and (B, G * G, 4) distances to left, top, right, bottom before the sigmoid -> Prediction."""
    sides = sides.float().sigmoid().view(-1, grid, grid, 4)  # fractions of the search region
    centres = cell_centres(grid, sides.device)  # (G, G, 2)
    boxes = torch.cat([centres - sides[..., :2], centres + sides[..., 2:]], -1)  # (B, G, G, 4) xyxy
    return Prediction(scores.float().view(-1, grid, grid), boxes)


@lru_cache
@torch.inference_mode(False)
def cell_centres(grid: int, device: torch.device) -> torch.Tensor:
    """Centres of the score map's cells, (grid, grid, 2) float32, x and y in fractions of the search region.

    Not a buffer of the network, whose half precision would move the boxes by up to a pixel.
    """
    line = (torch.arange(grid, dtype=torch.float32, device=device) + 0.5) / grid
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x, y], -1)


class LoRATNetwork(nn.Module):
    """LoRAT of one variant. Its blocks are timm's; weights are random until a checkpoint is loaded.

    It also is the `eager` inference engine: `encode_template` once for each target, `predict` for each frame.
    """

    presence = PresenceRule()  # thresholds of the score that are stored with the weights

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        parts = build(variant)
        self.variant = variant
        self.patch_embed, self.norm_pre, self.blocks, self.norm = parts[:4]
        self.reg_token, self.has_table = parts.registers, parts.has_table
        self.register_buffer("rope", parts.rope, persistent=False)
        self.pos_embed = nn.Parameter(torch.zeros(1, variant.search_grid**2, variant.dim))
        if variant.position == "shared":
            self.token_type_embed = nn.Embedding(3, variant.dim)
        else:
            self.template_pos_embed = nn.Parameter(torch.zeros(1, variant.template_grid**2, variant.dim))
        self.head = (Head if variant.head == "mlp" else ConvHead)(variant.dim, variant.search_grid)
        self.initialize()

    def initialize(self) -> None:
        """Initialise what DINOv2 lacks: truncated normal 0.02, biases 0; convolutions keep torch's initial values."""
        for name, parameter in self.named_parameters():
            if ("pos_embed" in name and self.has_table) or name == "token_type_embed.weight":
                nn.init.trunc_normal_(parameter, std=0.02)
        initialize_linear(self.head)

    def encode_template(self, z: torch.Tensor, z_mask: torch.Tensor) -> torch.Tensor:
        """Template tokens before the first block.

        Args:
            z: (B, 3, template_size, template_size) normalised RGB.
            z_mask: (B, template_grid, template_grid) int64, 1 on target cells, else 0; unused without token types.
        Returns (B, Nt, dim) with Nt = template_grid ** 2, and the backbone's registers before them if it has any.
        """
        if self.variant.position == "separate":
            tokens = self._patches(z, self.template_pos_embed)
        else:
            grid, whole = self.variant.template_grid, self.variant.search_grid
            position = self.pos_embed.view(1, whole, whole, -1)[:, :grid, :grid]  # (1, gt, gt, dim)
            position = position.reshape(1, grid * grid, -1)
            tokens = self._patches(z, position) + self.token_type_embed(z_mask.flatten(1))
        if self.reg_token is None:
            return tokens
        return torch.cat([self.norm_pre(self.reg_token).expand(z.shape[0], -1, -1), tokens], 1)

    def predict(self, memories: Sequence[torch.Tensor], x: torch.Tensor) -> Prediction:
        """Score map and boxes for search regions.

        Args:
            memories: of the targets, each (1, Nt, dim) from `encode_template`; a batch (B, Nt, dim) may stand for B.
            x: (B, 3, search_size, search_size) normalised RGB.
        """
        template = memories[0] if len(memories) == 1 else torch.cat(list(memories))
        search = self._patches(x, self.pos_embed)  # (B, Ns, dim)
        if self.variant.position == "shared":
            search = search + self.token_type_embed(torch.full((1, 1), SEARCH_TYPE, device=x.device))
        tokens = torch.cat([template, search], 1)  # (B, Nt + Ns, dim)
        for block in self.blocks:
            tokens = block(tokens) if self.rope is None else block(tokens, rope=self.rope)
        return self.head(self.norm(tokens[:, template.shape[1] :]))

    def forward(self, z: torch.Tensor, x: torch.Tensor, z_mask: torch.Tensor) -> Prediction:
        """Template, search region and template mask (shapes as above) -> Prediction."""
        return self.predict([self.encode_template(z, z_mask)], x)

    def _patches(self, images: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        patches = self.patch_embed.proj(images.to(self.pos_embed.dtype))  # (B, dim, grid, grid)
        patches = patches.flatten(2).transpose(1, 2)  # (B, grid * grid, dim)
        return self.norm_pre(self.patch_embed.norm(patches) + position)
