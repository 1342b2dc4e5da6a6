"""LoRAT for the VOT toolkit: the class for `protocol = python`, and a TraX server for `protocol = trax`.

    python -m lorat_plugin.harness.vot --model lorat_tiny      # what the toolkit starts for a TraX entry

Both follow all objects of a sequence at once, in the order in which the toolkit names them; one object is the case
of one. The model is loaded and has run once before the toolkit sends the first frame, and one process serves any
number of sequences. Boxes are x, y, w, h in pixels, 0-based; each answer carries the score as `confidence`. An object
that is absent is answered by an empty region: because its score says so (`absent_below`), or for the whole sequence
because the region it was given as is empty, which leaves nothing to look for.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import multiprocessing
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from lorat_plugin.errors import InputError
from lorat_plugin.images import read_image
from lorat_plugin.settings import TrackerSettings

if TYPE_CHECKING:
    from lorat_plugin.tracker import MultiObjectTracker
    from lorat_plugin.video.masks import MaskMaker

logger = logging.getLogger(__name__)

Box = tuple[float, float, float, float]
# The form in which the python protocol wants an object: its region, a Box or an (H, W) uint8 mask of 0 and 1, and
# properties.
Answer = tuple[Any, dict[str, float]]

WARM_UP_SIZE = (480, 640)  # height, width; what the network sees does not depend on it
WARM_UP_BOX = (280.0, 200.0, 80.0, 80.0)
EMPTY: Box = (0.0, 0.0, 0.0, 0.0)


class SequenceTracker:
    """All objects of the current sequence, answered in the order in which they were named.

    With a maker of masks these are the answers, without one boxes.
    """

    def __init__(self, tracker: MultiObjectTracker, masks: MaskMaker | None = None) -> None:
        self._tracker, self._masks = tracker, masks
        self._ids: list[int | None] = []  # None: given by an empty region

    def initialize(self, frame: np.ndarray, boxes: Sequence[np.ndarray | None]) -> list[Answer]:
        """Forget the former sequence and start with these objects.

        `frame` is (H, W, 3) uint8 RGB, `boxes` one (4,) x, y, w, h in frame pixels for each object, None for an empty
        region. Returns the boxes as given, without a confidence: the toolkit would rank it among those of predictions.
        Raises InputError if the frame or a box cannot be used.
        """
        for key in self._ids:
            if key is not None:
                self._tracker.drop(key)
        self._ids = []
        return self._answers(frame, self._add(frame, boxes))

    def update(self, frame: np.ndarray, new_boxes: Sequence[np.ndarray | None] = ()) -> list[Answer]:
        """Follow all objects into the frame, then add those that appear in it. Arguments as for `initialize`."""
        results = self._tracker.update(frame)
        known = [None if key is None else results[key] for key in self._ids]
        found = [(None, 0.0) if one is None else (None if one.absent else one.box, one.score) for one in known]
        return self._answers(frame, [*found, *self._add(frame, new_boxes)])

    def _add(self, frame: np.ndarray, boxes: Sequence[np.ndarray | None]) -> list[tuple[np.ndarray | None, None]]:
        given = [box for box in boxes if box is not None]
        keys = iter(self._tracker.add(frame, np.stack(given)) if given else [])
        self._ids += [None if box is None else next(keys) for box in boxes]
        if len(given) < len(boxes):
            logger.warning("new objects whose region is empty, which count as absent: %d", len(boxes) - len(given))
        return [(box, None) for box in boxes]

    def _answers(self, frame: np.ndarray, found: Sequence[tuple[np.ndarray | None, float | None]]) -> list[Answer]:
        boxes = [EMPTY if box is None or min(box[2:]) <= 0 else tuple(map(float, box)) for box, _ in found]
        masks = None if self._masks is None else self._masks(frame, np.array(boxes)).astype(np.uint8)
        regions = boxes if masks is None else masks
        properties = [{} if score is None else {"confidence": float(score)} for _, score in found]
        return list(zip(regions, properties, strict=True))


def load_tracker(settings: TrackerSettings, masks: str | None = None) -> SequenceTracker:
    """Load a model and track one dummy frame, so that no measured frame pays for lazy loading or compiling.

    `masks` is what turns boxes into masks, a SAM or "box", see `mask_maker`; None answers with boxes. Raises InputError
    (CheckpointError) for a model, file or device that cannot be used.
    """
    from lorat_plugin.tracker import MultiObjectTracker

    maker = None
    if masks is not None:
        from lorat_plugin.video.masks import mask_maker

        maker = mask_maker(masks, settings.device)
    tracker = SequenceTracker(settings.load(MultiObjectTracker), maker)
    frame = np.random.default_rng(0).integers(0, 256, (*WARM_UP_SIZE, 3), dtype=np.uint8)
    tracker.initialize(frame, [np.array(WARM_UP_BOX)])
    tracker.update(frame)
    tracker.initialize(frame, [])
    return tracker


def region_to_box(region: Any) -> np.ndarray | None:
    """The upright box around a region as the python protocol encodes it.

    That is a rectangle, a tuple x, y, w, h; a polygon, a list of (x, y) points; or a mask, an (H, W) array, not 0
    inside. Points that are all whole numbers count as pixels, whose far edges belong to the box: so the toolkit hands
    over a mask with `convert = rectangle`, which makes plain rectangles of polygons. Returns (4,) float64 x, y, w, h in
    frame pixels; None for an empty region: a mask without pixels, a rectangle whose sides are not above 0, or points
    that all coincide (so the toolkit converts an empty mask). Raises InputError for anything else.
    """
    if isinstance(region, np.ndarray) and region.ndim == 2:
        rows, columns = np.nonzero(region)
        if rows.size == 0:
            return None
        left, top = columns.min(), rows.min()
        return np.array([left, top, columns.max() + 1 - left, rows.max() + 1 - top], dtype=np.float64)
    try:
        numbers = np.asarray(region, dtype=np.float64)
    except (TypeError, ValueError):
        numbers = np.empty(0)
    if numbers.shape == (4,):
        return numbers if min(numbers[2:]) > 0 else None
    if numbers.ndim == 2 and numbers.shape[0] >= 3 and numbers.shape[1] == 2:
        corner, end = numbers.min(axis=0), numbers.max(axis=0)
        edge = 1 if (numbers == np.round(numbers)).all() else 0
        return None if (corner == end).all() else np.concatenate([corner, end + edge - corner])
    raise InputError(f"a target must be given as a rectangle, polygon or mask; got {region!r:.80}")


class LoRATPython:
    """The tracker that the toolkit loads itself: `protocol = python`, `command = lorat_plugin.harness.vot:LoRATPython`.

    The constructor's keywords are the `arg_<name>` keys of trackers.ini, so they come as text; an empty value counts
    as left out. Every failure leaves as a RuntimeError of one sentence, because the toolkit reports only a few types
    and turns the others into a timeout that hides the cause. With `masks` the answers are masks, which vot-toolkit up
    to 0.9.0 takes only with the repair of `lorat vot run`.
    """

    multiobject = True

    def __init__(self, masks: str = "", **settings: str) -> None:
        """Load the tracker of `TrackerSettings.parse`, with `masks` as for `load_tracker`."""
        _end_with_parent()
        with _reported():
            self._tracker = load_tracker(TrackerSettings.parse(settings), masks or None)

    def init(self, frame: Any, new: list[tuple[Any, dict[str, Any]]], properties: dict[str, Any]) -> list[Answer]:
        """Start a sequence.

        `frame` is the path of the image, or a dict of channels (path or RGB array), of which `color` is used; `new` has
        (region, properties) of each object; see `region_to_box`. Returns ((x, y, w, h), {}) of each object, from
        `update` {"confidence": score} in place of {}; or masks in place of boxes.
        """
        with _reported():
            return self._tracker.initialize(_colour_image(frame), [region_to_box(region) for region, _ in new])

    def update(self, frame: Any, new: list[tuple[Any, dict[str, Any]]], properties: dict[str, Any]) -> list[Answer]:
        """Track all objects into the next frame and add those that appear in it. Arguments and answer as for `init`."""
        with _reported():
            return self._tracker.update(_colour_image(frame), [region_to_box(region) for region, _ in new])


def _end_with_parent() -> None:
    """End this process with the toolkit that spawned it, whose death the queues between them do not report."""
    if (parent := multiprocessing.parent_process()) is not None:

        def follow() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=follow, name="end with parent", daemon=True).start()


@contextlib.contextmanager
def _reported() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise RuntimeError(_sentence(error)) from error


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split())  # one line: TraX sends it inside a line
    return text if isinstance(error, InputError) else f"{type(error).__name__}: {text}"


def _colour_image(frame: Any) -> np.ndarray:
    if isinstance(frame, Mapping):
        if "color" not in frame:
            raise InputError(f"a frame needs a channel named color; this one has {', '.join(map(str, frame))}")
        frame = frame["color"]
    return frame if isinstance(frame, np.ndarray) else read_image(Path(frame))


def serve(tracker: SequenceTracker, *, multiobject: bool = True) -> int:
    """Answer TraX requests on stdin and stdout until the toolkit quits or closes the pipe.

    Without `multiobject` the toolkit runs a sequence again for each object. Returns the exit code: 0 after a quit or a
    closed pipe; after a failure 2 (bad input) or 1, with the traceback logged and the reason sent to the toolkit.
    """
    import trax

    try:
        server = _open_server(multiobject)
        try:
            while (request := server.wait()).type != "quit":
                frame = _colour_image({channel: image.path() for channel, image in request.image.items()})
                # the library makes rectangles of all regions that have an extent
                given = [r.bounds() if getattr(r, "type", "") == "rectangle" else r for r, _ in request.objects or ()]
                boxes = [region_to_box(region) for region in given]
                answer = tracker.initialize if request.type == "initialize" else tracker.update
                server.status([(_sent_region(region), properties) for region, properties in answer(frame, boxes)])
        except trax.TraxException:
            raise
        except Exception as error:
            logger.exception("stopped: %s", _sentence(error))
            with contextlib.suppress(trax.TraxException):
                server.quit(_sentence(error))
            return _exit_code(error)
    except trax.TraxException as error:  # the toolkit has closed the pipe
        logger.info("the connection ended: %s", error)
    return 0


def refuse(reason: str) -> None:
    """Answer the first TraX request with the reason why there is no tracker.

    The toolkit shows this sentence; of a process that ends before the handshake it says only that it cannot connect.
    """
    import trax

    with contextlib.suppress(trax.TraxException):
        server = _open_server(multiobject=True)
        server.wait()
        server.quit(reason)


def _sent_region(region: Box | np.ndarray) -> Any:
    import trax

    if not isinstance(region, np.ndarray):
        return trax.Rectangle.create(*region)
    x, y, width, height = cv2.boundingRect(region)  # nothing around it: masks are sent as text
    part = region[y : y + height, x : x + width] if width else region[:1, :1]
    return trax.Mask.create(np.ascontiguousarray(part), x, y)


def _open_server(multiobject: bool) -> Any:
    import trax

    # Only rectangles, though answers may be masks: libtrax converts masks and polygons exactly to these, but polygons
    # wrongly to masks. Without the metadata key `vot`, with which the toolkit restarts the process for every object.
    return trax.Server(
        [trax.Region.RECTANGLE], [trax.Image.PATH], [trax.ImageChannel.COLOR], "LoRAT", multiobject=multiobject
    )


def _exit_code(error: Exception) -> int:
    return 2 if isinstance(error, InputError) else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the TraX server with the command line's options. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m lorat_plugin.harness.vot",
        description="LoRAT as a TraX server; the VOT toolkit starts it (`lorat vot init` writes its trackers.ini).",
    )
    for setting in fields(TrackerSettings):
        parse = float if isinstance(setting.default, float) else str
        option = f"--{setting.name.replace('_', '-')}"
        parser.add_argument(option, default=setting.default, type=parse, help=setting.metadata["help"])
    parser.add_argument("--masks", help="answer with masks: box, or a SAM as in `lorat track --help`; else with boxes")
    parser.add_argument(
        "--sequential", action="store_true", help="one object at a time: the toolkit repeats the sequence for each"
    )
    options = vars(parser.parse_args(arguments))
    if find_spec("trax") is None:
        parser.exit(2, f"vot-trax is not installed for {sys.executable}: pip install 'lorat_plugin[vot]'\n")
    multiobject, masks = not options.pop("sequential"), options.pop("masks")
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s", stream=sys.stderr)
    with contextlib.redirect_stdout(sys.stderr):  # stdout belongs to the protocol
        try:
            tracker = load_tracker(TrackerSettings(**options), masks)
        except Exception as error:
            logger.exception("cannot start: %s", _sentence(error))
            if not sys.stdin.isatty():
                refuse(_sentence(error))
            return _exit_code(error)
        return serve(tracker, multiobject=multiobject)


if __name__ == "__main__":
    sys.exit(main())
