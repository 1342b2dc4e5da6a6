"""Make a workspace for the VOT toolkit from a folder of clips, without the toolkit and without the network."""

from __future__ import annotations

import configparser
import importlib.util
import logging
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import yaml

from lorat_plugin.data.clips import Clip, find_clips
from lorat_plugin.errors import InputError
from lorat_plugin.files import link_or_copy
from lorat_plugin.variants import get_variant

logger = logging.getLogger(__name__)

Protocol = Literal["python", "trax"]
IDENTIFIERS: dict[Protocol, str] = {"python": "LoRATPython", "trax": "LoRATTraX"}  # no underscore: LaTeX reports
TIMEOUT = 120  # seconds for the start and for each frame; the toolkit's own 30 do not cover a large model's loading
FRAMES_PER_SECOND = 30  # only real-time experiments read it
IMAGE_ENDINGS = {".jpg": ".jpg", ".jpeg": ".jpg", ".png": ".png"}  # the toolkit takes no others
STACK = {
    "title": "Local sequences",
    "experiments": {
        "baseline": {
            "type": "unsupervised",
            "repetitions": 1,
            "analyses": [
                {"type": "average_accuracy", "name": "Accuracy", "burnin": 1},  # frame 1 is the given box
                {"type": "average_success_plot", "name": "Success plot", "burnin": 1},
            ],
        }
    },
}


@dataclass(frozen=True)
class TrackerSettings:
    """What `LoRATTracker.from_pretrained` gets from the entries in trackers.ini; its names and meanings."""

    model: str = "lorat_tiny"
    weights: str | None = None
    backbone: str | None = None
    device: str = "auto"
    engine: str = "auto"
    precision: str = "auto"

    def checked(self) -> TrackerSettings:
        """The same with absolute paths, since the toolkit starts trackers in a folder of its own.

        Raises InputError for a model without weights and for a file that does not exist.
        """
        from lorat_plugin.checkpoint import bundled_weights, is_weights  # imports torch
        from lorat_plugin.engines import check_options

        check_options(self.device, self.engine, self.precision)
        model = self.model
        if self.weights is not None:
            get_variant(model)
        elif is_weights(model):
            model = _absolute("--model", model)
        else:
            if bundled_weights(get_variant(model)) is None:
                raise InputError(f"{model} has no bundled weights: give its file by --weights")
        weights = None if self.weights is None else _absolute("--weights", self.weights)
        backbone = None if self.backbone is None else _absolute("--backbone", self.backbone)
        return replace(self, model=model, weights=weights, backbone=backbone)

    def given(self) -> dict[str, str]:
        """Name -> value of those that are set."""
        return {name: value for name, value in vars(self).items() if value is not None}


def create_workspace(
    workspace: Path,
    clips: Path,
    settings: TrackerSettings,
    *,
    stack: str | None = None,
    protocols: Sequence[Protocol] = ("python", "trax"),
    force: bool = False,
) -> Path | None:
    """Write config.yaml, trackers.ini, stack.yaml and sequences/ for the VOT toolkit.

    Args:
        workspace: folder to make; it appears whole or not at all.
        clips: folder of clips, or one clip: images in natural order beside groundtruth.txt, a line x,y,w,h (pixels,
            0-based) for each. Frames are linked, or copied where the system has no links.
        settings: what both tracker entries run.
        stack: name of one of the toolkit's stacks, or a yaml file, which is copied; left out, one unsupervised
            experiment with accuracy and success plot.
        protocols: entries for trackers.ini.
        force: set an existing workspace aside.
    Returns the folder where a former workspace is kept now, else None. Raises InputError for input that is missing,
    malformed or in the way.
    """
    workspace = Path(os.path.abspath(workspace))
    occupied = _check_target(workspace, force)
    settings = settings.checked()
    stack_file = None if stack is None else _find_stack(stack)
    found = [usable(clip) for clip in find_clips(clips)]

    workspace.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=workspace.parent, prefix=f".{workspace.name}-"))
    try:
        draft.chmod(0o755)  # mkdtemp's are for its owner alone
        if stack is None:
            _write_text(draft / "stack.yaml", yaml.safe_dump(STACK, sort_keys=False))
        elif stack_file is not None:
            shutil.copyfile(stack_file, draft / "stack.yaml")
        name = "./stack.yaml" if (draft / "stack.yaml").exists() else stack
        _write_text(draft / "config.yaml", yaml.safe_dump({"registry": ["./trackers.ini"], "stack": name}))
        with open(draft / "trackers.ini", "w", encoding="utf-8") as file:
            tracker_entries(settings, protocols).write(file)
        for clip in found:
            write_sequence(draft / "sequences" / clip.name, clip)
        _write_text(draft / "sequences" / "list.txt", "".join(f"{clip.name}\n" for clip in found))
        former = _set_aside(workspace) if occupied else None
        if workspace.is_dir():
            workspace.rmdir()  # empty, see above
        os.replace(draft, workspace)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return former


def tracker_entries(settings: TrackerSettings, protocols: Sequence[Protocol]) -> configparser.ConfigParser:
    """The sections of trackers.ini; the TraX one starts the interpreter that runs now."""
    entries = configparser.ConfigParser(interpolation=None)
    for protocol in protocols:
        name = IDENTIFIERS[protocol]
        entry = {"label": name, "protocol": protocol}
        if protocol == "python":
            entry["command"] = "lorat_plugin.harness.vot:LoRATPython"
            entry["convert"] = "rectangle"  # of masks and polygons: the toolkit cannot hand over masks
            entry |= {f"arg_{key}": value for key, value in settings.given().items()}
        else:
            options = [part for key, value in settings.given().items() for part in (f"--{key}", value)]
            entry["command"] = shlex.join([sys.executable, "-m", "lorat_plugin.harness.vot", *options])
        entry["timeout"] = str(TIMEOUT)
        entries[name] = {key: value.replace("%", "%%") for key, value in entry.items()}  # the toolkit interpolates
    return entries


def usable(clip: Clip) -> Clip:
    """The clip itself if the toolkit can run it; else InputError says why not."""
    kinds = {IMAGE_ENDINGS.get(frame.suffix.lower(), frame.suffix) for frame in clip.frames}
    if len(kinds) > 1 or not kinds <= set(IMAGE_ENDINGS.values()):
        raise InputError(
            f"clip {clip.name} has {', '.join(sorted(kinds))} images: the toolkit needs all .jpg or all .png"
        )
    if not clip.present[0]:
        raise InputError(f"clip {clip.name}: line 1 of groundtruth.txt is no box: the target must be visible at first")
    return clip


def write_sequence(folder: Path, clip: Clip) -> None:
    """Write a clip in the toolkit's layout: color/%08d.jpg (or .png), groundtruth.txt and the file `sequence`."""
    colour = folder / "color"
    colour.mkdir(parents=True)
    ending = IMAGE_ENDINGS[clip.frames[0].suffix.lower()]
    for number, frame in enumerate(clip.frames, 1):
        link_or_copy(frame, colour / f"{number:08d}{ending}")
    rows = ["0" if np.isnan(box[0]) else ",".join(f"{value:.4f}" for value in box) for box in clip.boxes]  # 0: unknown
    _write_text(folder / "groundtruth.txt", "".join(f"{row}\n" for row in rows))
    facts = {"name": clip.name, "fps": FRAMES_PER_SECOND, "format": "default", "channel.default": "color"}
    facts["channels.color"] = f"color/%08d{ending}"
    _write_text(folder / "sequence", "".join(f"{key}={value}\n" for key, value in facts.items()))


def _absolute(option: str, source: str) -> str:
    from lorat_plugin.checkpoint import SUFFIXES

    if Path(source).exists():
        return str(Path(source).absolute())
    if "/" not in source or source.endswith(SUFFIXES):
        raise InputError(f"{option} {source} does not exist: give a file, an adapter folder or a hub id")
    return source  # a hub id


def _check_target(workspace: Path, force: bool) -> bool:
    """Whether there is a workspace to set aside. Raises InputError if the folder cannot be used."""
    if workspace == Path.cwd():
        raise InputError(f"{workspace} is the current folder: go to its parent, or name a folder inside")
    if workspace.exists() and not workspace.is_dir():
        raise InputError(f"{workspace} is a file: name a folder for the workspace")
    if not workspace.is_dir() or not any(workspace.iterdir()):
        return False
    if not (workspace / "config.yaml").is_file():
        raise InputError(f"{workspace} holds other files: name another folder for the workspace")
    if not force:
        raise InputError(f"{workspace} is a workspace already: give --force to set it aside, or name another folder")
    return True


def _find_stack(stack: str) -> Path | None:
    """The yaml file to copy, or None if the toolkit has a stack of that name. Raises InputError if there is neither."""
    own = stack.endswith((".yaml", ".yml"))
    file = Path(stack)
    if not own:
        toolkit = importlib.util.find_spec("vot")  # not imported: only its stacks are looked at
        if toolkit is None or toolkit.origin is None:
            return None
        file = Path(toolkit.origin).parent / "stack" / f"{stack}.yaml"
    if not file.is_file():
        raise InputError(f"stack {stack} does not exist: give a yaml file or the name of one of the toolkit's stacks")
    try:
        experiments = yaml.safe_load(file.read_text(encoding="utf-8"))["experiments"]
        kinds = {name: experiment["type"] for name, experiment in experiments.items()}
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, UnicodeDecodeError) as error:
        raise InputError(
            f"stack {stack} names no experiments and their types: take the toolkit's as example"
        ) from error
    for name, kind in kinds.items():
        if kind != "unsupervised":
            logger.warning("experiment %s is %s, which vot-toolkit 0.8 to 0.9.0 cannot run: use 0.7.4", name, kind)
    return file if own else None


def _set_aside(workspace: Path) -> Path:
    number = 1
    while (former := workspace.with_name(f"{workspace.name}.old{number}")).exists():
        number += 1
    os.replace(workspace, former)
    return former


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")
