"""Make a workspace for the VOT toolkit from a folder of clips, without the toolkit and without the network."""

from __future__ import annotations

import configparser
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
from lorat_plugin.harness.vot_tools.sequences import VOTSequence, anchors, find_sequences, write_sequence
from lorat_plugin.harness.vot_tools.stacks import (
    LOCAL_STACKS,
    Experiment,
    find_problems,
    local_stack,
    parse_stack,
    read_stack,
    toolkit_stack,
    toolkit_version,
)
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
    """Write config.yaml, trackers.ini, stack.yaml and sequences/ for the VOT toolkit.

    Args:
        workspace: folder to make; it appears whole or not at all.
        clips: folder of clips, or one clip, see `find_sequences`; None leaves the sequences of one of the toolkit's
            stacks to the toolkit, which downloads them when it first opens the workspace. Frames are linked, or copied
            where the system has no links.
        settings: what both tracker entries run.
        masks: what turns boxes into masks, see `mask_maker`; None answers with boxes.
        stack: a name of `LOCAL_STACKS`, one of the toolkit's stacks, or a yaml file, which is copied.
        protocols: entries for trackers.ini.
        boxes: take the boxes of clips that have masks too.
        force: set an existing workspace aside.
    Returns the folder where a former workspace is kept now, else None. Raises InputError for input that is missing,
    malformed or in the way.
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
    _warn(experiments, found, masks is not None and "python" in protocols)

    workspace.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=workspace.parent, prefix=f".{workspace.name}-"))
    try:
        draft.chmod(0o755)  # mkdtemp's are for its owner alone
        if stack in LOCAL_STACKS:
            text = local_stack(stack, [len(sequence.all_present) for sequence in found])
        if text is not None:
            _write_text(draft / "stack.yaml", text)
        config = {"registry": ["./trackers.ini"], "stack": stack if text is None else "./stack.yaml"}
        _write_text(draft / "config.yaml", yaml.safe_dump(config))
        with open(draft / "trackers.ini", "w", encoding="utf-8") as file:
            tracker_entries(settings, protocols, masks).write(file)
        for sequence in found:
            write_sequence(draft / "sequences" / sequence.name, sequence)
        if found:  # without the list the toolkit downloads
            _write_text(draft / "sequences" / "list.txt", "".join(f"{sequence.name}\n" for sequence in found))
        former = _set_aside(workspace) if occupied else None
        if workspace.is_dir():
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


def _find_stack(stack: str) -> tuple[str | None, list[Experiment]]:
    """The text for stack.yaml, or None if it is the toolkit's; and its experiments, none if there is no toolkit."""
    if stack in LOCAL_STACKS:
        text = local_stack(stack)
    elif stack.endswith((".yaml", ".yml")):
        text = read_stack(Path(stack), stack)
    else:
        file = toolkit_stack(stack)
        return None, [] if file is None else parse_stack(read_stack(file, stack), stack)
    return text, parse_stack(text, stack)


def _check_sequences(sequences: Sequence[VOTSequence], experiments: Sequence[Experiment]) -> None:
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


def _warn(experiments: Sequence[Experiment], sequences: Sequence[VOTSequence], python_masks: bool) -> None:
    """Say what the installed toolkit cannot run."""
    try:
        installed = toolkit_version()
    except InputError as error:
        logger.warning("%s", error)
        return
    late = any(sequence.late for sequence in sequences)
    for problem in find_problems(experiments, installed, late_objects=late, python_masks=python_masks):
        logger.warning("%s", problem)


def _set_aside(workspace: Path) -> Path:
    number = 1
    while (former := workspace.with_name(f"{workspace.name}.old{number}")).exists():
        number += 1
    os.replace(workspace, former)
    return former


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")
