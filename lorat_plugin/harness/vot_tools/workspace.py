"""Make a workspace for the VOT toolkit from a folder of clips, without the toolkit and without the network."""

from __future__ import annotations

import configparser
import itertools
import logging
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import yaml

from lorat_plugin.errors import InputError
from lorat_plugin.harness.vot_tools import stacks
from lorat_plugin.harness.vot_tools.sequences import VOTSequence, anchors, find_sequences, write_lines, write_sequence
from lorat_plugin.settings import TrackerSettings

logger = logging.getLogger(__name__)

Protocol = Literal["python", "trax"]
IDENTIFIERS: dict[Protocol, str] = {"python": "LoRATPython", "trax": "LoRATTraX"}  # no underscore: LaTeX reports
TIMEOUT = 120  # seconds for the start and for each frame; the toolkit's own 30 do not cover a large model's loading


def create_workspace(
    workspace: Path,
    clips: Path | None,
    settings: TrackerSettings,
    *,
    masks: str | None = None,
    stack: str = "unsupervised",
    protocols: Sequence[Protocol] = ("python", "trax"),
    boxes: bool = False,
    force: bool = False,
) -> Path | None:
    """Write config.yaml, trackers.ini, stack.yaml and sequences/ for the VOT toolkit; all appear or none.

    Frames of `clips` (see `find_sequences`) are linked, or copied where there are no links; None leaves the sequences
    of one of the toolkit's stacks to the toolkit, which downloads them. `masks` as for `load_tracker`. `stack` is a
    name of `LOCAL_STACKS`, one of the toolkit's, or a yaml file, which is copied. `boxes` takes the boxes of clips that
    have masks too, `force` sets an existing workspace aside. Returns the folder where that is kept now, else None.
    Raises InputError for input that is missing, malformed or in the way.
    """
    workspace = Path(os.path.abspath(workspace))
    occupied = _check_target(workspace, force)
    settings = settings.absolute()
    masks = str(Path(masks).absolute()) if masks and Path(masks).exists() else masks
    text, experiments = _find_stack(stack)
    if clips is None and text is not None:
        raise InputError(f"stack {stack} has no sequences to download: name a folder of clips by --sequences")
    found = [] if clips is None else find_sequences(clips, boxes=boxes)
    _check_sequences(found, experiments)
    facts = {
        "late_objects": any(sequence.late for sequence in found),
        "python_masks": bool(masks) and "python" in protocols,
    }
    try:  # say what the installed toolkit cannot run
        for problem in stacks.find_problems(experiments, stacks.toolkit_version(), **facts):
            logger.warning("%s", problem)
    except InputError as error:
        logger.warning("%s", error)

    workspace.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=workspace.parent, prefix=f".{workspace.name}-"))
    try:
        draft.chmod(0o755)  # mkdtemp's are for its owner alone
        if stack in stacks.LOCAL_STACKS:
            text = stacks.local_stack(stack, [len(sequence.all_present) for sequence in found])
        if text is not None:
            (draft / "stack.yaml").write_text(text, encoding="utf-8", newline="\n")
        config = {"registry": ["./trackers.ini"], "stack": stack if text is None else "./stack.yaml"}
        (draft / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8", newline="\n")
        with open(draft / "trackers.ini", "w", encoding="utf-8") as file:
            tracker_entries(settings, protocols, masks).write(file)
        for sequence in found:
            write_sequence(draft / "sequences" / sequence.name, sequence)
        if found:  # without the list the toolkit downloads
            write_lines(draft / "sequences" / "list.txt", [sequence.name for sequence in found])
        taken = (workspace.with_name(f"{workspace.name}.old{number}") for number in itertools.count(1))
        former = next(path for path in taken if not path.exists()) if occupied else None
        if former is not None:
            os.replace(workspace, former)
        elif workspace.is_dir():
            workspace.rmdir()  # empty, see above
        os.replace(draft, workspace)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return former


def tracker_entries(
    settings: TrackerSettings, protocols: Sequence[Protocol], masks: str | None = None
) -> configparser.ConfigParser:
    """The sections of trackers.ini; the TraX one starts the interpreter that runs now."""
    given = {k: str(value) for k, value in {**vars(settings), "masks": masks}.items() if value not in (None, 0)}
    entries = configparser.ConfigParser(interpolation=None)
    for protocol in protocols:
        name = IDENTIFIERS[protocol]
        entry = {"label": name, "protocol": protocol}
        if protocol == "python":
            entry["command"] = "lorat_plugin.harness.vot:LoRATPython"
            entry["convert"] = "rectangle"  # of masks and polygons: the toolkit cannot hand over masks
            entry |= {f"arg_{key}": value for key, value in given.items()}
        else:
            options = [part for k, value in given.items() for part in (f"--{k.replace('_', '-')}", value)]
            entry["command"] = shlex.join([sys.executable, "-m", "lorat_plugin.harness.vot", *options])
        entry["timeout"] = str(TIMEOUT)
        entries[name] = {key: value.replace("%", "%%") for key, value in entry.items()}  # the toolkit interpolates
    return entries


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


def _find_stack(stack: str) -> tuple[str | None, list[stacks.Experiment]]:
    """The text for stack.yaml, or None if it is the toolkit's; and its experiments, none if there is no toolkit."""
    if stack in stacks.LOCAL_STACKS:
        text = stacks.local_stack(stack)
    elif stack.endswith((".yaml", ".yml")):
        text = stacks.read_stack(Path(stack), stack)
    else:
        file = stacks.toolkit_stack(stack)
        return None, [] if file is None else stacks.parse_stack(stacks.read_stack(file, stack), stack)
    return text, stacks.parse_stack(text, stack)


def _check_sequences(sequences: Sequence[VOTSequence], experiments: Sequence[stacks.Experiment]) -> None:
    """Raises InputError for a sequence that one of the experiments cannot start with."""
    for sequence in sequences:
        for experiment in experiments:
            if experiment.type == "multistart" and not anchors(sequence.all_present).any():
                raise InputError(
                    f"clip {sequence.name}: no frame shows all objects: a multi-start experiment needs one"
                )
            if experiment.type != "multistart" and not experiment.multiobject and sequence.late:
                raise InputError(
                    f"clip {sequence.name}: an object appears late, and experiment {experiment.name} wants all of them"
                    f" in frame 1: take a multi-object stack such as multiobject"
                )
