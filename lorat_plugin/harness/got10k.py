"""LoRAT as a tracker of the GOT-10k toolkit (`pip install got10k six`).

from got10k.experiments import ExperimentGOT10k
from lorat_plugin.harness.got10k import TrackerLoRAT

tracker = TrackerLoRAT(model="lorat_tiny")
experiment = ExperimentGOT10k(root_dir="GOT-10k", subset="val", result_dir="/absolute/results")
experiment.run(tracker)
experiment.report([tracker.name])
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from got10k.trackers import Tracker

from lorat_plugin.digests import Record, describe_options
from lorat_plugin.errors import InputError
from lorat_plugin.images import read_image
from lorat_plugin.video.source import Frame, FrameSource

if TYPE_CHECKING:
    from PIL.Image import Image

    from lorat_plugin.tracker import LoRATTracker


class FrameTracker(Tracker, ABC):
    """A toolkit tracker that works on RGB arrays; a subclass says how with `start` and `follow`.

    `track` differs from the toolkit's own in one way: OpenCV decodes the next few frames in a thread meanwhile.
    """

    def __init__(self, name: str) -> None:
        """`name` is the tracker's folder among the results and its label in the report."""
        super().__init__(name=name, is_deterministic=True)
        self.settings: Record = {}  # what results depend on beside the data, where it is known
        self.on_frame: Callable[[], None] | None = None  # called after each frame of `track`, outside its time

    @abstractmethod
    def start(self, frame: np.ndarray, box_xywh: np.ndarray) -> None:
        """Begin with the target at (x, y, w, h) pixels, as the data set counts them, in an (H, W, 3) uint8 frame."""

    @abstractmethod
    def follow(self, frame: np.ndarray) -> np.ndarray:
        """Find the target in the next (H, W, 3) uint8 RGB frame; returns (4,) float64 x, y, w, h in pixels."""

    def init(self, image: Image, box: np.ndarray) -> None:
        """The toolkit's verb for the first frame: a PIL image and the (4,) box x, y, w, h."""
        self.start(_pixels(image), np.asarray(box, dtype=np.float64))

    def update(self, image: Image) -> np.ndarray:
        """The toolkit's verb for a later frame: a PIL image -> (4,) float64 box x, y, w, h."""
        return self.follow(_pixels(image))

    def track(
        self, img_files: Sequence[str], box: np.ndarray, visualize: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Track through the frames of one sequence.

        A frame's time is what the tracker spends on it once it is decoded: crop, network, post-processing and the
        copy of the box back to the CPU. Reading and decoding the file is not in it. (The toolkit's own loop counts
        PIL's lazy decoding into the first access of each frame; its frames/s are lower for the same tracker.)

        Args:
            img_files: paths of the frames.
            box: (4,) x, y, w, h of the target in the first frame.
            visualize: draw each frame in a window of the toolkit.

        Returns:
            boxes (N, 4) float64, row 0 is the given box; times (N,) float64 in seconds, row 0 is the initialisation.

        Raises:
            InputError: a frame is missing, cannot be decoded or is refused by the tracker; the message names it.
        """
        if len(img_files) == 0:
            raise InputError("the sequence has no frames; check its folder")
        boxes = np.zeros((len(img_files), 4))
        times = np.zeros(len(img_files))
        boxes[0] = box
        paths = [Path(file).resolve() for file in img_files]  # a message should name the user's file, not a link to it
        decoded = (Frame(number, str(path), read_image(path)) for number, path in enumerate(paths))
        with FrameSource("sequence", decoded, length=len(img_files), one_size=False) as source:
            for number, origin, frame, _ in source:
                began = time.perf_counter()
                try:
                    if number == 0:
                        self.start(frame, boxes[0].copy())
                    else:
                        boxes[number] = self.follow(frame)
                except InputError as error:
                    raise InputError(f"{origin}: {error}") from error
                times[number] = time.perf_counter() - began
                if self.on_frame is not None:
                    self.on_frame()
                if visualize:
                    _show(frame, boxes[number])
        return boxes, times


class TrackerLoRAT(FrameTracker):
    """LoRAT for `ExperimentGOT10k`, `ExperimentOTB`, `lorat_plugin.evaluation.ExperimentLaSOT` and their like.

    It draws no random numbers (`is_deterministic`), so the GOT-10k experiment runs each sequence once.
    """

    def __init__(
        self, name: str = "LoRAT", tracker: LoRATTracker | None = None, *, model: str = "lorat_tiny", **options: Any
    ) -> None:
        """Wrap a tracker, or load one.

        Args:
            name: folder of the results and label in the report; keep it free of spaces.
            tracker: a tracker to use; then `model` and `options` do not matter.
            model: variant or hub id, as for `LoRATTracker.from_pretrained`.
            options: its other keywords: weights, backbone, device, engine, precision.
        """
        super().__init__(name)
        if tracker is None:
            from lorat_plugin.checkpoints.loading import weights_options
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


def _pixels(image: Image) -> np.ndarray:
    """(H, W, 3) uint8 RGB, upright as `read_image` gives it: the toolkit does not look at EXIF."""
    from PIL import ImageOps

    return np.array(ImageOps.exif_transpose(image).convert("RGB"))


def _show(frame: np.ndarray, box_xywh: np.ndarray) -> None:
    from got10k.utils.viz import show_frame
    from PIL import Image

    show_frame(Image.fromarray(frame), box_xywh)
