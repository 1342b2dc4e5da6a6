"""Runs trackers through sequences: LoRAT on many at once, any other tracker on one after the other.

`track_sequences`: each step is one forward pass that advances every sequence in a slot by a frame.

A sequence that ends, or fails, gives its slot to the next at once. Frames are decoded ahead by threads. What stays in
memory is a few frames and a template for each slot, and the boxes of the sequences in the slots.
"""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from lorat_plugin.datasets.sequences import VideoSequence
from lorat_plugin.digests import Record
from lorat_plugin.errors import InputError
from lorat_plugin.images import read_image
from lorat_plugin.presence import NEVER_ABSENT, PresenceRule
from lorat_plugin.tracking import Engine, Target, TrackResult, start, step
from lorat_plugin.video.source import Frame, FrameSource

if TYPE_CHECKING:
    from PIL.Image import Image

READ_AHEAD = 2  # decoded frames waiting in each slot, beside the one in work


@dataclass(frozen=True, eq=False)
class Run:
    """One run through a sequence.

    Fields: boxes, (N, 4) float64 x, y, w, h in pixels counted from 0, the first as given; scores, (N,) float64 in
    [0, 1], the first is 1; seconds, (N,) float64, what the step took that the frame was part of, decoding left out.
    """

    boxes: np.ndarray
    scores: np.ndarray
    seconds: np.ndarray


def track_sequences(
    engine: Engine,
    device: torch.device,
    take: Callable[[], VideoSequence | None],
    batch: int,
    on_done: Callable[[VideoSequence, list[Run]], None],
    on_failure: Callable[[VideoSequence, InputError], None],
    on_frame: Callable[[], None] = lambda: None,
    repetitions: int = 1,
    rule: PresenceRule = NEVER_ABSENT,
) -> None:
    """Track the sequences that `take` gives, `batch` at once, until it gives None.

    `on_done` gets a sequence and its runs, `on_failure` one that cannot be tracked on, and why; the others go on.
    `on_frame` is called after each frame; `rule` is as for `tracking.step`.
    """
    with ThreadPoolExecutor(min(batch, os.cpu_count() or 1), "decode") as pool:
        slots: list[_Slot] = []
        while True:
            while len(slots) < batch and (sequence := take()) is not None:
                slots.append(_Slot(sequence, pool))
            if not slots:
                return
            _advance(engine, device, slots, on_frame, rule)
            for slot in slots:
                if slot.failure is not None:
                    on_failure(slot.sequence, slot.failure)
                elif slot.ended and len(slot.runs) == repetitions:
                    on_done(slot.sequence, slot.runs)
                elif slot.ended:
                    slot.rewind()
            slots = [s for s in slots if s.failure is None and not s.ended]


def _advance(
    engine: Engine, device: torch.device, slots: list[_Slot], on_frame: Callable[[], None], rule: PresenceRule
) -> None:
    """Give every slot one more frame: those at their first frame start their target, the others take one step."""
    frames = [slot.next_frame() for slot in slots]
    moving, images = [], []
    for slot, frame in zip(slots, frames, strict=True):
        if frame is None:
            continue
        if slot.target is None:
            began = time.perf_counter()
            try:
                slot.target = start(engine, device, frame, slot.sequence.boxes[0])
            except InputError as error:
                slot.failure = InputError(f"{slot.sequence.frames[0]}: {error}")
                continue
            slot.note(TrackResult(slot.sequence.boxes[0], 1.0), time.perf_counter() - began)
            on_frame()
        else:
            moving.append(slot)
            images.append(frame)
    if not moving:
        return
    began = time.perf_counter()
    results = step(engine, device, [slot.target for slot in moving if slot.target is not None], images, rule)
    seconds = time.perf_counter() - began
    for slot, result in zip(moving, results, strict=True):
        slot.note(result, seconds)
        on_frame()


@dataclass(eq=False)
class _Slot:
    """A sequence on its way: decoded frames that wait, the target's state, what was found so far."""

    sequence: VideoSequence
    pool: ThreadPoolExecutor
    target: Target | None = None
    failure: InputError | None = None
    runs: list[Run] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rewind()

    def rewind(self) -> None:
        """Begin at the first frame."""
        self.target = None
        self._found: list[tuple[np.ndarray, float, float]] = []
        self._paths = iter(self.sequence.frames)
        self._waiting: deque[Future[np.ndarray]] = deque()
        for _ in range(READ_AHEAD):
            self._read_one()

    def _read_one(self) -> None:
        path = next(self._paths, None)
        if path is not None:
            self._waiting.append(self.pool.submit(read_image, path))

    def next_frame(self) -> np.ndarray | None:
        """The next frame, (H, W, 3) uint8 RGB; None if it cannot be read, and then `failure` says why."""
        self._read_one()
        try:
            return self._waiting.popleft().result()
        except InputError as error:
            self.failure = InputError(f"frame {len(self._found)} of sequence {self.sequence.name}: {error}")
            return None

    def note(self, result: TrackResult, seconds: float) -> None:
        """Keep a frame's result, with confidence 0 if it is reported absent; the last frame completes a run."""
        self._found.append((result.box, 0.0 if result.absent else result.score, seconds))
        if self.ended:
            boxes, scores, times = zip(*self._found, strict=True)
            self.runs.append(Run(np.array(boxes, np.float64), np.array(scores), np.array(times)))

    @property
    def ended(self) -> bool:
        """Whether all frames of this run are done."""
        return len(self._found) == len(self.sequence)


class FrameTracker(ABC):
    """A tracker of one target on RGB arrays; a subclass defines `start` and `follow`.

    It also has the interface of the GOT-10k toolkit's trackers, without the toolkit: name, is_deterministic, init,
    update and track. `track` differs from the toolkit's own in one point: a thread decodes the next frames meanwhile.
    """

    is_deterministic = True

    def __init__(self, name: str) -> None:
        """`name` is the tracker's folder among the results and its label in the report."""
        self.name = name
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
        """Track through the frames of one sequence, from (4,) x, y, w, h of the target in the first.

        A frame's time is what the tracker spends on it once it is decoded: crop, network, post-processing and the copy
        of the box back to the CPU. (The toolkit's own loop counts PIL's lazy decoding into the first access of each
        frame; its frames/s are lower for the same tracker.) Returns boxes (N, 4) float64, row 0 is the given box, and
        times (N,) float64 in seconds, row 0 is the initialisation. Raises InputError that names a frame that is
        missing, cannot be decoded or is refused by the tracker.
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
                    from got10k.utils.viz import show_frame
                    from PIL import Image as Pillow

                    show_frame(Pillow.fromarray(frame), boxes[number])
        return boxes, times


def _pixels(image: Image) -> np.ndarray:
    """(H, W, 3) uint8 RGB, upright as `read_image` gives it: the toolkit does not look at EXIF."""
    from PIL import ImageOps

    return np.array(ImageOps.exif_transpose(image).convert("RGB"))
