"""LoRAT in the trees of pytracking and of OSTrack, STARK and their kin: what they call, and what is copied into them.

The copied files (integration/pytracking) hold the names that a tree looks for and call this module. Neither tree is
imported here.
"""

from __future__ import annotations

import keyword
import os
import re
from collections import OrderedDict
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from lorat_plugin.errors import InputError, first_line
from lorat_plugin.files import parse_yaml, read_plain_text, whole_file
from lorat_plugin.settings import TrackerSettings

if TYPE_CHECKING:
    from lorat_plugin.tracker import LoRATTracker
    from lorat_plugin.tracking import Target, TrackResult

TREES = {"pytracking": "pytracking", "ostrack": "lib/test"}  # name -> where tracker/ and parameter/ lie


def set_parameters(params: Any, **settings: Any) -> Any:
    """Give a tree's `TrackerParams` what both trees ask for, and LoRAT's settings.

    `settings` are those of `TrackerSettings`, by name. Returns `params`. Raises InputError for others.
    """
    params.lorat = vars(TrackerSettings.parse(settings))
    params.debug, params.visualization, params.use_gpu = 0, False, True
    params.save_all_boxes = False  # OSTrack's trees fail without it
    if params.lorat["absent_below"]:
        params.object_presence_score_threshold = params.lorat["absent_below"]  # pytracking's OxUvA files
    return params


def read_settings(path: Path) -> dict[str, Any]:
    """Settings from a yaml file such as `model: lorat_b_224`. Raises InputError if it is missing or no mapping."""
    try:
        settings = parse_yaml(read_plain_text(path))
    except InputError as error:
        raise InputError(f"{error}; lorat pytracking install writes it") from error
    except ValueError as error:
        raise InputError(f"{path}: is no yaml file ({first_line(error)})") from error
    if not isinstance(settings, dict) or not all(isinstance(name, str) for name in settings):
        raise InputError(f"{path}: must hold lines such as 'model: lorat_b_224'")
    return settings


class Follower:
    """What a tree's tracker class does: `initialize` begins a sequence, `track` takes each further frame.

    The trees make a tracker for each sequence; the model is loaded once in a process.
    """

    def __init__(self, params: Any) -> None:
        """Track with the settings in `params`, from `set_parameters`. Raises InputError as `from_pretrained`."""
        self._tracker = _load(TrackerSettings(**params.lorat))
        self._targets: dict[Any, Target] = {}  # by the tree's object id; None in a sequence of one object
        self._many = False

    def initialize(self, image: np.ndarray, info: Mapping[str, Any]) -> dict[str, Any]:
        """Start on the objects of a sequence's first frame, (H, W, 3) uint8 RGB.

        `init_bbox` of `info` is x, y, w, h in frame pixels, 0-based top-left, or a dict of object id -> box. Returns
        what `track` does. Raises InputError where there is no box, or as `tracking.start`.
        """
        if "init_bbox" not in info:
            raise InputError("this sequence starts from a mask: LoRAT needs a box in the first frame (init_bbox)")
        self._targets, self._many = {}, isinstance(info["init_bbox"], Mapping)
        return self._answer(self._add(image, info["init_bbox"]))

    def track(self, image: np.ndarray, info: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Follow the objects into the next frame; those that a dict `init_bbox` of `info` names start in it.

        The truth, which OSTrack's tree passes too, is not looked at. Returns `target_bbox`, a list x, y, w, h in frame
        pixels, and `object_presence_score`, in [0, 1]; each is a dict by object id where the sequence has several
        objects.
        """
        results = dict(zip(self._targets, self._tracker.step(image, list(self._targets.values())), strict=True))
        if info and isinstance(info.get("init_bbox"), Mapping):  # pytracking: an object enters, or the webcam's user
            self._many = True
            results |= self._add(image, info["init_bbox"])
        return self._answer(results)

    def _add(self, image: np.ndarray, given: Any) -> dict[Any, TrackResult]:
        from lorat_plugin.tracking import TrackResult

        boxes = given if isinstance(given, Mapping) else {None: given}
        self._targets |= {key: self._tracker.start(image, box) for key, box in boxes.items()}
        return {key: TrackResult(np.asarray(box, np.float64), 1.0) for key, box in boxes.items()}

    def _answer(self, results: dict[Any, TrackResult]) -> dict[str, Any]:
        boxes = OrderedDict((key, result.box.tolist()) for key, result in results.items())
        scores = OrderedDict((key, float(result.score)) for key, result in results.items())
        if self._many:
            return {"target_bbox": boxes, "object_presence_score": scores}
        return {"target_bbox": boxes[None], "object_presence_score": scores[None]}


@cache
def _load(settings: TrackerSettings) -> LoRATTracker:
    """A tracker that has tracked one frame, so that no measured frame pays for lazy loading or compiling."""
    from lorat_plugin.tracker import LoRATTracker

    tracker = settings.load(LoRATTracker)
    frame = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    tracker.step(frame, [tracker.start(frame, (60, 40, 40, 40))])
    return tracker


def install(folder: Path, settings: TrackerSettings, name: str = "", force: bool = False) -> dict[str, list[Path]]:
    """Copy the tracker and a parameter file into a tree, or both kinds where a tree is of both.

    `settings` have absolute paths; `name` of the parameter is made from the weights' or the model's if left out.
    Returns the files by the kind of the tree; nothing is written unless all can be. Raises InputError for a folder that
    is no such tree, a name that is no Python module's, and files in the way.
    """
    halves = ("tracker", "parameter")
    kinds = [kind for kind, home in TREES.items() if all((folder / home / half).is_dir() for half in halves)]
    if not kinds:
        raise InputError(
            f"{folder}: no tree of pytracking (pytracking/tracker, pytracking/parameter) nor of OSTrack's kind"
            " (lib/test/tracker, lib/test/parameter): give the folder that git clone made"
        )
    name = name or re.sub(r"\W", "_", Path(settings.weights or settings.model).stem)
    if not name.isidentifier() or keyword.iskeyword(name):
        raise InputError(f"--name {name}: must be a Python name: letters, digits and _, no digit first")
    contents = {kind: _contents(kind, folder, settings, name) for kind in kinds}
    wanted = {path: text for paths in contents.values() for path, text in paths.items()}
    differing = [p for p, text in wanted.items() if p.exists() and (p.is_dir() or p.read_bytes() != text.encode())]
    if differing and not force:
        raise InputError(f"{differing[0]}: exists with other contents: --force replaces it, --name avoids it")
    for path in wanted:
        parent = next(p for p in path.parents if p.exists())
        if path.is_dir() or not os.access(parent, os.W_OK):
            raise InputError(f"{path}: cannot be written: change the folder's rights")
    for path, text in wanted.items():
        with whole_file(path) as part:
            part.write_text(text, encoding="utf-8", newline="\n")
    return {kind: list(paths) for kind, paths in contents.items()}


def _contents(kind: str, folder: Path, settings: TrackerSettings, name: str) -> dict[Path, str]:
    """Files of a tree and what is in them; the example of a parameter becomes the one that is asked for."""
    package = Path(str(files("lorat_plugin")))
    inside = package / "pytracking_files"  # of a wheel; in a source tree it lies beside the package
    home = (inside if inside.is_dir() else package.parent / "integration" / "pytracking") / f"{kind}_tree"
    found = {}
    for path in sorted(p for p in home.rglob("*") if p.suffix in (".py", ".yaml")):
        target, text = folder / path.relative_to(home), path.read_text(encoding="utf-8")
        if path.stem == "lorat_tiny":
            target = target.with_stem(name)
            line = 'SETTINGS = {"model": "lorat_tiny"}'
            shown = settings.given()
            text = yaml.safe_dump(shown) if path.suffix == ".yaml" else text.replace(line, f"SETTINGS = {shown!r}")
        found[target] = text
    return found
