"""A detector starts, LoRAT follows, inside `supervision.process_video`.

sv.process_video("in.mp4", "out.mp4", callback=DetectionsFollower(detect))

`detect` takes an (H, W, 3) uint8 BGR frame and returns `supervision.Detections`, as any model's wrapper does.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import supervision as sv

from lorat_plugin import MultiObjectTracker
from lorat_plugin.boxes import iou, xyxy_to_xywh
from lorat_plugin.video.drawing import to_detections

SAME = 0.3  # IoU of a detection with a followed object, from which on they are the same


class DetectionsFollower:
    """Callback of `process_video`: detects every `period` frames, follows between, and draws what it follows."""

    def __init__(
        self, detect: Callable[[np.ndarray], sv.Detections], tracker: MultiObjectTracker | None = None, period: int = 30
    ) -> None:
        """`tracker`: left out, lorat_tiny, which reports absent objects."""
        self._detect, self._period = detect, period
        self._tracker = tracker or MultiObjectTracker.from_pretrained("lorat_tiny", absent_below=None)
        self._box, self._label = sv.BoxAnnotator(), sv.LabelAnnotator()

    def follow(self, frame: np.ndarray, index: int) -> sv.Detections:
        """What is followed in a BGR frame, with tracker_id, and new detections from the next frame on."""
        image = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        followed = to_detections(self._tracker.update(image))
        if index % self._period == 0:
            for box in self._detect(frame).xyxy.astype(np.float64):
                if not (iou(followed.xyxy, box[None]) >= SAME).any():
                    self._tracker.add(image, [xyxy_to_xywh(box)])
        return followed

    def __call__(self, frame: np.ndarray, index: int) -> np.ndarray:
        """The frame with boxes and ids drawn."""
        followed = self.follow(frame, index)
        labels = [
            f"{number} {score:.2f}" for number, score in zip(followed.tracker_id, followed.confidence, strict=True)
        ]
        return self._label.annotate(self._box.annotate(frame.copy(), followed), followed, labels)
