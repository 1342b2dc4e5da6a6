"""LoRAT as a tracking function of CVAT's auto-annotation: an agent calls it, or cvat-sdk's own tools.

cvat-cli function create-native LoRAT --function-file lorat_function.py -p model=str:lorat_tiny
cvat-cli function run-agent ID --function-file lorat_function.py -p model=str:lorat_tiny
"""

from __future__ import annotations

from typing import Any

import cvat_sdk.auto_annotation as cvataa
import numpy as np
from PIL import Image

from lorat_plugin import LoRATTracker
from lorat_plugin.boxes import xywh_to_xyxy, xyxy_to_xywh
from lorat_plugin.tracking import Target


class LoRATFunction:
    """Tracks rectangles. Each shape is a target of its own; a target that is absent has no shape in that frame."""

    spec = cvataa.TrackingFunctionSpec(supported_shape_types=["rectangle"])

    def __init__(self, **options: Any) -> None:
        """`options` are those of `LoRATTracker.from_pretrained`."""
        self._tracker = LoRATTracker.from_pretrained(**{"absent_below": None, **options})

    def preprocess_image(self, context: cvataa.TrackingFunctionContext, image: Image.Image) -> np.ndarray:
        """(H, W, 3) uint8 RGB."""
        return np.asarray(image.convert("RGB"))

    def init_tracking_state(
        self, context: cvataa.TrackingFunctionShapeContext, pp_image: np.ndarray, shape: cvataa.TrackableShape
    ) -> Target:
        """The target in a rectangle x1, y1, x2, y2 (pixels). Raises InputError for one without area in the frame."""
        return self._tracker.start(pp_image, xyxy_to_xywh(np.array(shape.points, np.float64)))

    def track(
        self, context: cvataa.TrackingFunctionShapeContext, pp_image: np.ndarray, state: Target
    ) -> cvataa.TrackableShape | None:
        """The rectangle in the next frame, None where the target is absent."""
        (result,) = self._tracker.step(pp_image, [state])
        if result.absent:
            return None
        return cvataa.TrackableShape(type="rectangle", points=xywh_to_xyxy(result.box).tolist())


def create(**options: Any) -> LoRATFunction:
    """What cvat-cli calls with the parameters of its option -p."""
    return LoRATFunction(**options)
