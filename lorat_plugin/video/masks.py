"""Masks from boxes: SAM or SAM 2, prompted with each box on a crop around it, or the boxes' rectangles.

Source: SAM (arXiv 2304.02643), SAM 2 (arXiv 2408.00714); crops as in LoRAT's own pipeline: area factor 2 around the
box, one mask for a box, not cut off at the box.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from numpy.typing import ArrayLike

from lorat_plugin.boxes import clip_to_image, xywh_to_xyxy
from lorat_plugin.crop import Crop, mean_colour, normalize
from lorat_plugin.devices import find_device
from lorat_plugin.errors import InputError, first_line
from lorat_plugin.tracking import LEAST_SIDE, check_frame

if TYPE_CHECKING:
    from typing_extensions import Self

logger = logging.getLogger(__name__)

AREA_FACTOR = 2.0
BOX = "box"  # the name that stands for rectangles
SHORT_NAMES = {"sam": "facebook/sam-vit-base", "sam2": "facebook/sam2.1-hiera-tiny"}
MODEL_TYPES = ("sam", "sam_hq", "sam2", "sam2_video")  # as config.json says it; all take ImageNet's normalisation

MaskMaker = Callable[[np.ndarray, ArrayLike], np.ndarray]  # frame (H, W, 3), boxes (N, 4) xywh -> (N, H, W) bool


class Segmenter:
    """A SAM that turns boxes into masks."""

    def __init__(self, model: Any, device: str = "auto") -> None:
        """Segment with one of transformers' SAM models."""
        self.device = find_device(device)
        self.model = model.eval().to(self.device)
        self.size: int = model.config.prompt_encoder_config.image_size

    @classmethod
    def from_pretrained(cls, name: str, device: str = "auto") -> Self:
        """Load a SAM.

        `name` is the hub id or folder of a SAM, SAM-HQ or SAM 2 as transformers stores them; "sam" or "sam2" for the
        small ones of the hub; or MobileSAM's own file `mobile_sam.pt`. Raises InputError if transformers is missing, or
        the model cannot be had or is of another kind.
        """
        try:
            import transformers
        except ImportError as error:
            raise InputError(
                f"masks by SAM need transformers ({first_line(error)}): pip install 'lorat_plugin[masks]'"
            ) from error
        find_device(device)  # before the weights take their time
        if (path := Path(name)).is_file():
            from lorat_plugin.video.mobile_sam import load_mobile_sam

            return cls(load_mobile_sam(path), device)
        source = SHORT_NAMES.get(name, name) if not path.exists() else name
        try:
            config = transformers.AutoConfig.from_pretrained(source)
            if config.model_type not in MODEL_TYPES:
                raise InputError(f"masks '{name}': is a {config.model_type}, not one of {', '.join(MODEL_TYPES)}")
            if huge := re.search(r"[\s\[](\d{6,})(?=[\s,\]}])", config.to_json_string(use_diff=False)):
                raise InputError(f"masks '{name}': no SAM has a size of {huge[1]:.20}; fetch config.json anew")
            model, report = transformers.AutoModelForMaskGeneration.from_pretrained(
                source, use_safetensors=True, output_loading_info=True
            )
        except InputError:
            raise
        except Exception as error:  # transformers and safetensors raise many kinds for a damaged folder
            raise InputError(
                f"masks '{name}': no SAM model can be had from {source} ({first_line(error)}); give a folder, a file "
                "mobile_sam.pt or a hub id while online, or 'box' for rectangles"
            ) from error
        if report["missing_keys"]:
            raise InputError(f"masks '{name}': {len(report['missing_keys'])} weights are missing; fetch the model anew")
        return cls(model, device)

    @torch.inference_mode()
    def segment(self, frame: np.ndarray, boxes: ArrayLike) -> np.ndarray:
        """Masks of boxes, (N, 4) x, y, w, h in pixels of a frame, (H, W, 3) uint8 RGB, all in one batch.

        Returns (N, H, W) bool. Empty for a box that is not finite, has no area or misses the frame; where SAM finds
        nothing, and for a box too small to be cut out, its rectangle. Raises InputError for a frame of another kind.
        """
        frame = check_frame(frame)
        masks = box_masks(boxes, frame.shape[:2])
        corners = xywh_to_xyxy(np.asarray(boxes, np.float64).reshape(-1, 4))
        crops = {
            int(i): Crop.around(corners[i], AREA_FACTOR, self.size, frame.shape[:2])
            for i in np.flatnonzero(masks.any(axis=(1, 2)))
            if (corners[i, 2:] - corners[i, :2]).min() >= LEAST_SIDE
        }
        crops = {i: crop for i, crop in crops.items() if np.isfinite(crop.scale).all()}  # of slivers, some miss
        if not crops:
            return masks
        fill = mean_colour(frame)
        pixels = np.stack([crop.cut(frame, fill) for crop in crops.values()])
        prompts = np.stack([clip_to_image(crop.to_crop(corners[i]), (self.size,) * 2) for i, crop in crops.items()])
        answer = self.model(
            pixel_values=normalize(torch.from_numpy(pixels).to(self.device)),
            input_boxes=torch.from_numpy(prompts[:, None].astype(np.float32)).to(self.device),
            multimask_output=False,
        )
        logits = torch.nn.functional.interpolate(answer.pred_masks[:, 0], (self.size,) * 2, mode="bilinear")
        for (i, crop), logit in zip(crops.items(), logits[:, 0].cpu().numpy(), strict=True):
            (x1, y1, x2, y2), (left, top, right, bottom) = crop.target, crop.source
            found = cv2.resize(logit[y1:y2, x1:x2], (right - left, bottom - top)) > 0
            if found.any():
                masks[i] = False
                masks[i, top:bottom, left:right] = found
        return masks


def box_masks(boxes: ArrayLike, frame_size: tuple[int, int]) -> np.ndarray:
    """Rectangles of boxes, (N, 4) x, y, w, h in pixels of a frame of (height, width).

    They are the pixels whose centre a box covers, at least one along each side. Returns (N, H, W) bool; empty for a box
    that is not finite, has no area or misses the frame.
    """
    given = np.asarray(boxes, np.float64).reshape(-1, 4)
    corners = clip_to_image(xywh_to_xyxy(np.where(np.isfinite(given).all(axis=1, keepdims=True), given, 0)), frame_size)
    extent = corners[:, 2:] - corners[:, :2]
    half = np.where((extent > 0).all(axis=1, keepdims=True), extent.clip(1), 0)[:, :, None] / 2
    centre = ((corners[:, 2:] + corners[:, :2]) / 2)[:, :, None]
    x, y = (np.arange(n) + 0.5 - centre[:, i].clip(0.5, n - 0.5) for i, n in enumerate(frame_size[::-1]))
    columns, rows = (-half[:, 0] <= x) & (x < half[:, 0]), (-half[:, 1] <= y) & (y < half[:, 1])
    return rows[:, :, None] & columns[:, None, :]


def mask_maker(name: str, device: str = "auto") -> MaskMaker:
    """What makes masks by this name: "box", or a SAM as in `Segmenter.from_pretrained`, whose errors are raised."""
    if name != BOX:
        return Segmenter.from_pretrained(name, device).segment
    logger.warning("masks are the boxes' rectangles: name a SAM model for the object's shape")
    return lambda frame, boxes: box_masks(boxes, frame.shape[:2])
