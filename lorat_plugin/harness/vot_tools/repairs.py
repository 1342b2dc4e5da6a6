"""Start the VOT toolkit with its known errors mended, in this process only; nothing of it is changed on disk.

    python -m lorat_plugin.harness.vot_tools.repairs evaluate --workspace my_workspace LoRATTraX

`REPAIRS` says which versions need what; another version runs as it is. Once a release needs none of this, delete this
file and what names it in `stacks.py` and `run.py`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from packaging.specifiers import SpecifierSet


@dataclass(frozen=True)
class Repair:
    """What is broken in which versions of the toolkit, the version that needs no repair, and the repair."""

    broken: SpecifierSet
    works: str | None
    apply: Callable[[], None]


def repair_multistart() -> None:
    """`MultiStartExperiment.execute` asks the tracker with a status instead of its region, and at the wrong frame."""
    from vot.dataset.proxy import FrameMapSequence
    from vot.experiment import multistart
    from vot.region import Special
    from vot.tracker import ObjectQuery, Trajectory

    def execute(
        self: Any, tracker: Any, sequence: Any, force: bool = False, callback: Callable[[float], None] | None = None
    ) -> None:
        results = self.results(tracker, sequence)
        forward, backward = multistart.find_anchors(sequence, self.anchor)
        if not forward and not backward:
            raise RuntimeError(f"sequence {sequence.name} has no anchors")
        ways = [(anchor, range(anchor, len(sequence))) for anchor in forward]
        ways += [(anchor, range(anchor, -1, -1)) for anchor in backward]
        with self._get_runtime(tracker, sequence) as runtime:
            for done, (anchor, way) in enumerate(ways, 1):
                name = f"{sequence.name}_{anchor:08d}"
                if force or not Trajectory.exists(results, name):
                    part = FrameMapSequence(sequence, list(way))
                    start = self._get_initialization(part, 0)
                    answer = runtime.run(part, [ObjectQuery(start.region, start.properties, 0)])
                    trajectory = Trajectory(len(part))
                    trajectory.set(0, Special(Trajectory.INITIALIZATION), {"time": answer.times[0]})
                    for frame in range(1, len(part)):
                        region, properties = answer.objects[0][frame]
                        trajectory.set(frame, region, {**properties, "time": answer.times[frame]})
                    trajectory.write(results, name)
                if callback is not None:
                    callback(done / len(ways))

    multistart.MultiStartExperiment.execute = execute


def repair_realtime() -> None:
    """The real-time runtime cannot run a whole sequence, and a TraX tracker refuses what it passes for "no object"."""
    from vot.tracker import OnlineTrackerRuntime, RealtimeTrackerRuntime
    from vot.tracker.trax import TraxTrackerRuntime

    update = TraxTrackerRuntime.update

    def update_without_new(self: Any, frame: Any, new: Any = None, properties: Any = None) -> Any:
        return update(self, frame, [] if new is None else new, properties)

    RealtimeTrackerRuntime.run = OnlineTrackerRuntime.run
    TraxTrackerRuntime.update = update_without_new


def repair_supervised() -> None:
    """`SupervisedExperiment` speaks of one object where the runtimes speak of lists of objects."""
    from vot.experiment import Experiment
    from vot.experiment.multirun import SupervisedExperiment
    from vot.tracker import OnlineTrackerRuntime

    class OneObject(OnlineTrackerRuntime):
        """Wraps a runtime, a real-time one too."""

        def __init__(self, runtime: Any) -> None:
            super().__init__(runtime.tracker)
            self._runtime = runtime

        def initialize(self, frame: Any, new: Any = None) -> Any:
            states, seconds = self._runtime.initialize(frame, [new])
            return states[0], seconds

        def update(self, frame: Any, new: Any = None) -> Any:
            states, seconds = self._runtime.update(frame, [])
            return states[0], seconds

        def restart(self) -> None:
            self._runtime.restart()

        def stop(self) -> None:
            self._runtime.stop()

    def get_runtime(self: Any, tracker: Any, sequence: Any, multiobject: bool = False) -> Any:
        return OneObject(Experiment._get_runtime(self, tracker, sequence, multiobject))

    SupervisedExperiment._get_runtime = get_runtime


def repair_redetection() -> None:
    """Transformers are made before the workspace has told its experiments where to store; they get the cache late."""
    from vot.workspace import Workspace

    init = Workspace.__init__

    def init_with_cache(self: Any, *arguments: Any, **options: Any) -> None:
        init(self, *arguments, **options)
        for experiment in self.stack.experiments.values():
            for transformer in experiment.transformers:
                if transformer._cache is None:
                    transformer._cache = self.storage.substorage("cache").substorage("transformer")

    Workspace.__init__ = init_with_cache


def repair_late_objects() -> None:
    """A tracker of many objects gets an object that appears late with its region in frame 0, where it has none."""
    from vot.experiment import Experiment
    from vot.region import Special

    initialization = Experiment._get_initialization

    def first_region(self: Any, sequence: Any, index: int, id: str | None = None) -> Any:
        region = initialization(self, sequence, index, id)
        if id is None or not isinstance(region, Special):
            return region
        return next(seen for seen in sequence.object(id) if not isinstance(seen, Special | None))

    Experiment._get_initialization = first_region


def repair_python_masks() -> None:
    """The python protocol hands over a mask without bounds, and understands no mask or polygon in answers."""
    import numpy as np
    from vot.region import Mask, Polygon
    from vot.tracker import python

    encode, decode = python._encode_region, python._decode_region

    def encode_region(region: Any) -> Any:
        if not isinstance(region, Mask):
            return encode(region)
        _, _, right, bottom = region.bounds()
        return region.rasterize((0, 0, right, bottom))

    def decode_region(answer: Any) -> Any:
        if isinstance(answer, np.ndarray) and answer.ndim == 2:
            return Mask(answer.astype(np.uint8), optimize=True)
        if isinstance(answer, list) and answer and all(isinstance(point, tuple) for point in answer):
            return Polygon(answer)
        return decode(answer)

    python._encode_region, python._decode_region = encode_region, decode_region


BROKEN_NOW = SpecifierSet(">=0.8.1,<=0.9.0")
REPAIRS = {
    "multistart": Repair(BROKEN_NOW, "0.7.4", repair_multistart),
    "realtime": Repair(BROKEN_NOW, "0.7.4", repair_realtime),
    "supervised": Repair(BROKEN_NOW, "0.7.4", repair_supervised),
    "redetection": Repair(SpecifierSet(">=0.7.3,<=0.9.0"), None, repair_redetection),
    "late objects": Repair(SpecifierSet(">=0.7.3,<0.8"), "0.9.0", repair_late_objects),
    "python masks": Repair(BROKEN_NOW, None, repair_python_masks),
}


def main() -> None:
    """Mend what this version of the toolkit needs, then hand over to its command line with this one's arguments."""
    if "--registry" in sys.argv[:-1]:  # read by the toolkit when a repair imports it
        os.environ["VOT_REGISTRY"] = sys.argv[sys.argv.index("--registry") + 1]
    installed = version("vot-toolkit")
    for repair in REPAIRS.values():
        if repair.broken.contains(installed):
            repair.apply()
    from vot.utilities import cli

    cli.main()


if __name__ == "__main__":
    main()
