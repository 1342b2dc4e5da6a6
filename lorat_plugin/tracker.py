"""The trackers that people use: `LoRATTracker` for one target, `MultiObjectTracker` for many in the same video."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import ArrayLike

from lorat_plugin.engines import check_options, prepare
from lorat_plugin.errors import InputError
from lorat_plugin.network import LoRATNetwork
from lorat_plugin.presence import check_threshold
from lorat_plugin.processes import check_process
from lorat_plugin.tracking import Target, TrackResult, check_frame, start, step
from lorat_plugin.video.demo_clips import calibration_tracks

if TYPE_CHECKING:
    from typing_extensions import Self


class _Tracker:
    """Base of both trackers: an engine with trained weights on a device, and the tracked targets."""

    def __init__(
        self,
        network: LoRATNetwork,
        device: str = "auto",
        engine: str = "auto",
        precision: str = "auto",
        absent_below: float | None = 0.0,
    ) -> None:
        """Track with a network (adapters merged or not); the names are those of `from_pretrained`."""
        self.presence = network.presence.below(absent_below)
        self.engine, self.device = prepare(network, device, engine, precision, calibration_tracks)
        self._process = os.getpid()
        self._targets: dict[int, Target] = {}
        self._next_id = 0

    def __copy__(self) -> Self:
        """An independent tracker with the same targets; both share the engine, so use them in one thread."""
        twin = type(self).__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin._targets = {number: copy.copy(target) for number, target in self._targets.items()}
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """As `__copy__`."""
        return copy.copy(self)

    def __reduce__(self) -> NoReturn:
        """Raise InputError: an engine is bound to its process."""
        raise InputError(
            "a tracker cannot be pickled for another process: make it there, with from_pretrained; copy.copy gives"
            " another one in this process"
        )

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path = "lorat_tiny",
        weights: str | Path | None = None,
        backbone: str | Path | None = None,
        device: str = "auto",
        engine: str = "auto",
        precision: str = "auto",
        absent_below: float | None = 0.0,
        revision: str | None = None,
    ) -> Self:
        """Make a tracker from trained weights.

        Args:
            model: a variant's name, a weights file or adapter folder, or a hub id (`owner/name`).
            weights: file or adapter folder for a variant; the bundled weights if left out.
            backbone: DINOv2 file that completes weights which hold adapters only; left out, timm fetches it.
            device: "auto" (CUDA, MPS or CPU, the first there is), or torch's name of one.
            engine: "auto" or a name from `lorat_plugin.engines.list_engines()`.
            precision: "auto" (bf16, else fp16, on a CUDA GPU; fp32 elsewhere), "fp32", "bf16", "fp16", or "int8" of
                engine "openvino".
            absent_below: score in [0, 1) below which a target counts as absent and is searched for, see
                `presence`; 0 never, as in published results; None for what the weights store.
            revision: branch, tag or commit of a hub id; a commit pins the weights for good.
        Raises InputError (CheckpointError for weights) with one sentence that names the remedy.
        """
        from lorat_plugin.models import load_pretrained

        check_options(device, engine, precision)  # before weights load
        check_threshold(absent_below or 0.0)
        return cls(load_pretrained(model, weights, backbone, revision), device, engine, precision, absent_below)

    def start(self, frame: np.ndarray, box: ArrayLike | Iterable[float]) -> Target:
        """Begin a target whose state the caller keeps, for `step`. Arguments and errors are those of `tracking.start`.

        Args:
            frame: (H, W, 3) uint8 RGB.
            box: x, y, w, h in frame pixels, 0-based top-left.
        """
        check_process(self.device, self._process)
        return start(self.engine, self.device, frame, box)

    def step(
        self, frames: np.ndarray | list[np.ndarray] | tuple[np.ndarray, ...], targets: Sequence[Target]
    ) -> list[TrackResult]:
        """Advance targets from `start` by one frame each, in one forward pass; their states change in place.

        Args:
            frames: one (H, W, 3) uint8 RGB frame for all targets, or a list with one frame for each target.
            targets: of this tracker; none gives no results.
        Returns one result for each target. Raises InputError for a frame of another type or shape.
        """
        if os.getpid() != self._process:  # forked
            check_process(self.device, self._process)
        if isinstance(frames, (list, tuple)):
            images = [check_frame(frame) for frame in frames]
        else:
            images = [check_frame(frames)] * len(targets)
        return step(self.engine, self.device, targets, images, self.presence) if targets else []


class MultiObjectTracker(_Tracker):
    """Tracks any number of targets through one video, all of them in one forward pass a frame.

    Each target is tracked exactly as `LoRATTracker` would track it alone. Targets may be added and dropped at any
    frame.
    """

    def add(self, frame: np.ndarray, boxes: ArrayLike | Iterable[ArrayLike | Iterable[float]]) -> list[int]:
        """Add targets seen in a frame.

        Args:
            frame: (H, W, 3) uint8 RGB.
            boxes: (N, 4) x, y, w, h in frame pixels, 0-based top-left: an array, a tensor, or an iterable of rows.
        Returns an id for each; ids are never reused. Raises the errors of `tracking.start`, and then adds nothing.
        """
        given: Any = boxes
        try:
            rows = list(given)
        except TypeError:
            rows = [given]
        if any(not isinstance(row, Iterable) or getattr(row, "ndim", 1) == 0 for row in rows):
            raise InputError(f"boxes must be (N, 4): a list of x, y, w, h; got {boxes!r:.80}")
        targets = [self.start(frame, row) for row in rows]
        ids = list(range(self._next_id, self._next_id + len(targets)))
        self._next_id += len(targets)
        self._targets.update(zip(ids, targets, strict=True))
        return ids

    def drop(self, target_id: int) -> None:
        """Stop tracking a target. Raises InputError for an id that is not tracked."""
        if target_id not in self._targets:
            raise InputError(f"target {target_id} is not tracked; tracked are {list(self._targets)}")
        del self._targets[target_id]

    def update(self, frame: np.ndarray) -> dict[int, TrackResult]:
        """Track all targets in a frame, (H, W, 3) uint8 RGB: id -> result. Raises InputError for other images."""
        results = self.step(frame, list(self._targets.values()))
        return dict(zip(self._targets, results, strict=True))


class LoRATTracker(_Tracker):
    """Tracks one target: `init` with its box in the first frame, then `update` with every further frame."""

    def init(self, frame: np.ndarray, box: ArrayLike | Iterable[float]) -> None:
        """Start a target; it replaces the former one.

        Args:
            frame: (H, W, 3) uint8 RGB.
            box: x, y, w, h in frame pixels, 0-based top-left: an array, a tensor or another iterable.
        Raises InputError for a frame of another type, or a box that is not finite, has no area or misses the frame.
        """
        self._targets = {0: self.start(frame, box)}

    def update(self, frame: np.ndarray) -> TrackResult:
        """Track the target in the next frame, (H, W, 3) uint8 RGB. Raises InputError before `init`."""
        if not self._targets:
            raise InputError("no target yet: call init(frame, box) before update(frame)")
        return self.step([frame], list(self._targets.values()))[0]
