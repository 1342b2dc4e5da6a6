"""LoRAT as a tracker of the GOT-10k toolkit (`pip install got10k six`).

from got10k.experiments import ExperimentGOT10k
from lorat_plugin.harness.got10k import TrackerLoRAT

tracker = TrackerLoRAT(model="lorat_tiny")
experiment = ExperimentGOT10k(root_dir="GOT-10k", subset="val", result_dir="/absolute/results")
experiment.run(tracker)
experiment.report([tracker.name])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from got10k.trackers import Tracker

from lorat_plugin.digests import describe_options
from lorat_plugin.evaluation.runner import FrameTracker

if TYPE_CHECKING:
    from lorat_plugin.tracker import LoRATTracker


class TrackerLoRAT(FrameTracker, Tracker):
    """LoRAT for `ExperimentGOT10k`, `ExperimentOTB`, `lorat_plugin.evaluation.ExperimentLaSOT` and their like.

    It draws no random numbers (`is_deterministic`), so the GOT-10k experiment runs each sequence once.
    """

    def __init__(
        self, name: str = "LoRAT", tracker: LoRATTracker | None = None, *, model: str = "lorat_tiny", **options: Any
    ) -> None:
        """Wrap a tracker, or load one as `LoRATTracker.from_pretrained` does.

        `name` is the folder of the results and the label in the report; keep it free of spaces.
        """
        super().__init__(name)
        if tracker is None:
            from lorat_plugin.models import weights_options
            from lorat_plugin.tracker import LoRATTracker

            self.settings = describe_options(weights_options({"model": model, **options}))
            tracker = LoRATTracker.from_pretrained(model, **options)
        self.tracker = tracker

    def start(self, frame: np.ndarray, box_xywh: np.ndarray) -> None:
        """Begin with the target at x, y, w, h (pixels) in an (H, W, 3) uint8 RGB frame."""
        self.tracker.init(frame, box_xywh)

    def follow(self, frame: np.ndarray) -> np.ndarray:
        """Box x, y, w, h (pixels) of the target in the next (H, W, 3) uint8 RGB frame."""
        return self.tracker.update(frame).box
