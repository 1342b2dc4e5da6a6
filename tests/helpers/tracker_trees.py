"""Stub trees with the interface of pytracking and of OSTrack's kin: what loads a tracker, drives it, writes results."""

from __future__ import annotations

from pathlib import Path

BASE = """
from collections import OrderedDict

class BaseTracker:
    def __init__(self, params):
        self.params = params
        self.visdom = None
"""

PARAMS = """
class TrackerParams:
    def get(self, name, *default):
        return getattr(self, name, *default)
"""

DRIVER = """
import importlib, time
from pathlib import Path
import cv2 as cv
import numpy as np

class Tracker:
    def __init__(self, name, parameter, results, dataset="lasot"):
        self.name, self.parameter, self.dataset = name, parameter, dataset
        self.folder = Path(results) / name / parameter
        assert (Path(__file__).parents[1] / "tracker" / PLACE.format(name)).exists()
        self.tracker_class = importlib.import_module(f"{HOME}.tracker.{name}").get_tracker_class()

    def track(self, sequence, infos):
        params = self.get_parameters()
        params.debug = getattr(params, "debug", 0)
        tracker = self.create(params)
        output = {key: [] for key in KEYS}
        if HOME == "lib.test" and tracker.params.save_all_boxes:
            raise KeyError("all_boxes")
        for number, path in enumerate(sequence):
            image = cv.cvtColor(cv.imread(str(path)), cv.COLOR_BGR2RGB)
            info = dict(infos[number])
            began = time.time()
            if number == 0:
                out = tracker.initialize(image, info) or {}
                default = {"target_bbox": info.get("init_bbox"), "object_presence_score": 1.0}
            else:
                info["previous_output"] = previous
                out, default = tracker.track(image, info), {}
            previous = dict(out)
            for key in KEYS:
                value = out.get(key, default.get(key, time.time() - began if key == "time" else None))
                if value is not None:
                    output[key].append(value)
        self.folder.mkdir(parents=True, exist_ok=True)
        return output

    def save(self, name, output):
        forms = {"target_bbox": ("", int, "%d"), "time": ("_time", float, "%f"),
                 "object_presence_score": ("_object_presence_scores", float, "%f")}
        for key, rows in output.items():
            end, kind, form = forms[key]
            many = isinstance(rows[0], dict)
            for one in {k: 0 for row in rows for k in row} if many else [None]:
                column = [row[one] for row in rows if one in row] if many else rows
                file = f"{name}_{one}{end}.txt" if many else f"{name}{end}.txt"
                np.savetxt(self.folder / file, np.array(column).astype(kind), delimiter="\\t", fmt=form)
"""

PYTRACKING = """
HOME, PLACE, KEYS = "pytracking", "{}", ["target_bbox", "time", "object_presence_score"]

class PytrackingTracker(Tracker):
    def create(self, params):
        tracker = self.tracker_class(params)
        tracker.visdom = None
        return tracker

    def get_parameters(self):
        return importlib.import_module(f"pytracking.parameter.{self.name}.{self.parameter}").parameters()
"""

OSTRACK = """
HOME, PLACE, KEYS = "lib.test", "{}.py", ["target_bbox", "time"]

class OSTrackTracker(Tracker):
    def create(self, params):
        return self.tracker_class(params, self.dataset)

    def get_parameters(self):
        return importlib.import_module(f"lib.test.parameter.{self.name}").parameters(self.parameter)
"""


def write_tree(folder: Path, kind: str) -> Path:
    """A tree of a kind, "pytracking" or "ostrack", below `folder`; returns `folder`."""
    home = folder / ("pytracking" if kind == "pytracking" else "lib/test")
    base = "tracker/base/basetracker.py" if kind == "pytracking" else "tracker/basetracker.py"
    texts = {
        base: BASE,
        "utils/__init__.py": PARAMS,
        "evaluation/tracker.py": DRIVER + (PYTRACKING if kind == "pytracking" else OSTRACK),
    }
    for name, text in texts.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text, encoding="utf-8")
    (home / "parameter").mkdir()
    for package in [home, *home.parents]:
        if package == folder:
            break
        (package / "__init__.py").touch()
    for inner in ("tracker", "parameter", "evaluation"):
        (home / inner / "__init__.py").touch()
    return folder
