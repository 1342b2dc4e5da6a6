"""Drive the VOT toolkit's own command line in a workspace, and judge it by its words and files: its exit codes lie.

A trial of a tracker says how fast it starts and tracks, or why it fails.
"""

from __future__ import annotations

import configparser
import itertools
import os
import re
import shlex
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from lorat_plugin.box_files import parse_regions
from lorat_plugin.datasets.got10k import lines_of
from lorat_plugin.errors import InputError
from lorat_plugin.files import parse_yaml, read_plain_text
from lorat_plugin.harness.vot_tools import stacks
from lorat_plugin.harness.vot_tools.records import settle_records

STEPS = ("evaluate", "analysis", "report", "pack")
WORDS = {  # what the toolkit prints after success
    "test": "Test concluded",
    "evaluate": "Evaluation concluded",
    "analysis": "Analysis successful",
    "report": "Report generation successful",
    "pack": "Result packaging successful",
}
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
PERCENT = re.compile(r"\d+ %")


@dataclass(frozen=True)
class Workspace:
    """A workspace as its files describe it: trackers.ini's entries and the stack's experiments, by name."""

    folder: Path
    trackers: dict[str, dict[str, str]]
    experiments: list[stacks.Experiment]

    @property
    def sequences(self) -> list[str]:
        """Names of the sequences, none as long as the toolkit has not downloaded them."""
        listed = self.folder / "sequences" / "list.txt"
        return lines_of(read_plain_text(listed)) if listed.is_file() else []


@dataclass(frozen=True)
class Outcome:
    """How one command ended: the reason of a failure, or of a trial the seconds for the start and for each frame.

    `traceback` is what the tracker itself says when a trial fails.
    """

    command: str
    good: bool
    text: str
    traceback: tuple[str, ...] = ()


def open_workspace(folder: Path) -> Workspace:
    """Read a workspace's files. Raises InputError if it is none, or a file of it cannot be used."""
    folder = Path(os.path.abspath(folder))
    try:
        config = parse_yaml(read_plain_text(folder / "config.yaml"))
        stack = str(config["stack"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder} is no workspace, its config.yaml names no stack: make one: lorat vot init"
        ) from error
    entries = configparser.ConfigParser()
    try:
        if (folder / "trackers.ini").is_file():
            entries.read_string(read_plain_text(folder / "trackers.ini"))
        trackers = {name: dict(entries[name]) for name in sorted(entries.sections())}
    except configparser.Error as error:
        raise InputError(f"{folder / 'trackers.ini'} cannot be read: {' '.join(str(error).split())}") from error
    if not trackers:
        raise InputError(f"{folder / 'trackers.ini'} has no tracker: add one, or make a workspace: lorat vot init")
    file = folder / stack if os.path.isfile(folder / stack) else stacks.toolkit_stack(stack)
    if file is None:
        raise InputError('vot-toolkit is not installed: pip install "lorat_plugin[vot]"')
    return Workspace(folder, trackers, stacks.parse_stack(stacks.read_stack(file, stack), stack))


def choose_trackers(workspace: Workspace, names: Sequence[str], installed: str) -> list[str]:
    """The trackers to run: those named, else all that the toolkit's version can start.

    Raises InputError for a name that trackers.ini has not, or a protocol that the version lacks.
    """
    for name in names:
        if name not in workspace.trackers:
            raise InputError(f"no tracker {name} in trackers.ini: it has {', '.join(workspace.trackers)}")
    startable = [
        name
        for name in names or workspace.trackers
        if workspace.trackers[name].get("protocol") != "python" or installed in stacks.PYTHON_PROTOCOL
    ]
    if not startable or (names and len(startable) < len(names)):
        raise InputError(
            f"vot-toolkit {installed} has no protocol python: name a TraX entry such as LoRATTraX, or take 0.9.0"
        )
    return startable


def workspace_problems(workspace: Workspace, trackers: Sequence[str], installed: str) -> list[stacks.Problem]:
    """What the installed toolkit cannot run of a workspace."""
    masks = any(
        workspace.trackers[name].get("protocol") == "python" and "arg_masks" in workspace.trackers[name]
        for name in trackers
    )
    files = [
        file for n in workspace.sequences for file in (workspace.folder / "sequences" / n).glob("groundtruth_*.txt")
    ]
    late = any(_starts_late(file) for file in files)
    return stacks.find_problems(workspace.experiments, installed, late_objects=late, python_masks=masks)


def _starts_late(file: Path) -> bool:
    first = read_plain_text(file).partition("\n")[0] or "0"
    return bool(np.isnan(parse_regions(first, str(file))[0, 0]))


def run_steps(
    workspace: Workspace,
    trackers: Sequence[str],
    steps: Sequence[str],
    show: Callable[[str], None],
    *,
    repair: bool = True,
    force: bool = False,
    name: str = "lorat",
) -> Iterator[Outcome]:
    """Run some of `STEPS`, in that order, for these trackers, one process after the other, until one fails.

    `show` gets each line that the toolkit prints, without colours; with `repair` it starts through `repairs`; `force`
    evaluates again what has results, and those of a changed workspace are refused without it. Yields an outcome after
    each process. Raises InputError for results that the workspace's trackers, experiments or sequences no longer fit.
    """
    settle_records(workspace, trackers, evaluate="evaluate" in steps, force=force)
    for command, check in _commands(workspace, trackers, steps, force, name):
        show(f"vot {' '.join(command)}")
        lines = run_toolkit([command[0], "--workspace", str(workspace.folder), *command[1:]], show, repair=repair)
        said = any(WORDS[command[0]] in line for line in lines)
        missing = check(lines) if said else reason(lines)
        yield Outcome(" ".join(command), not missing, missing)
        if missing:
            return


def run_toolkit(arguments: Sequence[str], show: Callable[[str], None], *, repair: bool = True) -> list[str]:
    """Run the toolkit's command line in a process of its own. Returns all lines that it printed, without colours."""
    module = "lorat_plugin.harness.vot_tools.repairs" if repair else "vot"
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=os.environ | {"PYTHONUNBUFFERED": "1", "MPLBACKEND": "Agg"},
    )
    lines = []
    with process:
        try:
            for line in process.stdout or ():
                lines.append(COLOURS.sub("", line).rstrip())
                show(lines[-1])
        except BaseException:  # the user's interrupt too
            process.terminate()
            raise
    return lines


def reason(lines: Sequence[str]) -> str:
    """Why the toolkit failed, of what it printed: the line about the tracker if there is one, else the last line."""
    said = [line for line in lines if line and not PERCENT.fullmatch(line)]
    about = [line for line in said if "encountered an error" in line or "Error during tracker execution" in line]
    return (about or said or ["the toolkit said nothing"])[-1]


def _commands(
    workspace: Workspace, trackers: Sequence[str], steps: Sequence[str], force: bool, name: str
) -> Iterator[tuple[list[str], Callable[[Sequence[str]], str]]]:
    """Arguments for the toolkit, and what tells from its lines which files are missing afterwards ("" if none)."""
    if "evaluate" in steps:
        for tracker, experiment in itertools.product(trackers, workspace.experiments):
            again = ["--force"] if force else []
            command = ["evaluate", "--experiments", experiment.name, *again, tracker]
            yield command, partial(_missing_results, workspace, tracker, experiment.name)
    analysed = ",".join(experiment.name for experiment in workspace.experiments if experiment.analysed)
    if analysed and "analysis" in steps:
        yield ["analysis", "--name", name, *trackers], partial(_missing, workspace.folder / "analysis" / f"{name}.json")
    if analysed and "report" in steps:  # 0.7.4 fails at an experiment without analyses
        page = workspace.folder / "reports" / name / "report.html"
        yield ["report", "--name", name, "--experiments", analysed, *trackers], partial(_missing, page)
    if "pack" in steps:
        for tracker in trackers:
            yield ["pack", tracker], partial(_broken_archive, workspace.folder)


def _missing_results(workspace: Workspace, tracker: str, experiment: str, _: Sequence[str]) -> str:
    folder, wanted = workspace.folder / "results" / tracker / experiment, len(workspace.sequences)
    found = {path.parent for ending in ("bin", "txt") for path in folder.glob(f"*/*.{ending}")}
    return "" if len(found) >= wanted else f"{folder}: results for {len(found)} of {wanted} sequences"


def _missing(file: Path, _: Sequence[str]) -> str:
    return "" if file.is_file() and file.stat().st_size else f"{file} is missing"


def _broken_archive(folder: Path, lines: Sequence[str]) -> str:
    names = [line.rpartition(" ")[2] for line in lines if WORDS["pack"] in line]
    try:
        with zipfile.ZipFile(folder / names[-1]) as archive:
            broken = archive.testzip()
    except (OSError, zipfile.BadZipFile) as error:
        return f"{folder / names[-1]}: {error}"
    return f"{folder / names[-1]}: {broken} is broken" if broken else ""


START_SECONDS = 120  # for a start outside the toolkit
PROCESSING = re.compile(r"Processing frame (\d+)/")
PROTOCOL_LINE = "@@TRAX:"


def toolkit_imports(repair: bool) -> Outcome:
    """Whether the toolkit's command line imports."""
    lines = run_toolkit(["--help"], lambda line: None, repair=repair)
    if any(line.startswith("usage: vot") for line in lines):
        return Outcome("--help", True, "imports")
    return Outcome("--help", False, reason(lines), tuple(lines))


def try_tracker(workspace: Workspace, tracker: str, *, repair: bool = True) -> Outcome:
    """Run `vot test`: the toolkit's 50 generated frames of 640 x 480 pixels with up to 3 objects.

    If it fails, the tracker is started once more without the toolkit, which hides why.
    """
    stamps: list[tuple[float, str]] = []
    arguments = ["--registry", str(workspace.folder), "test", tracker]
    lines = run_toolkit(arguments, lambda line: stamps.append((time.perf_counter(), line)), repair=repair)
    if not any(WORDS["test"] in line for line in lines):
        alone = _start(workspace.trackers[tracker])
        starts = [number for number, line in enumerate(lines) if line.startswith("Traceback")]
        if starts and not any(line.startswith("Traceback") for line in alone):
            alone = lines[starts[-1] :]  # the toolkit shows the tracker's own lines with TraX
        return Outcome("test", False, reason(lines), tuple(alone))
    frames = [(moment, int(found[1])) for moment, line in stamps if (found := PROCESSING.search(line))]
    began = next(moment for moment, line in stamps if "Generating" in line)
    (first, _), (last, count) = frames[0], frames[-1]
    each = (last - first) / max(count - 1, 1) * 1000
    return Outcome("test", True, f"starts in {first - began:.1f} s, then {each:.1f} ms a frame")


def _start(entry: Mapping[str, str]) -> list[str]:
    """What a tracker prints when it is started outside the toolkit."""
    if entry.get("protocol") == "python":
        module, _, name = entry["command"].partition(":")
        given = {key.removeprefix("arg_"): value for key, value in entry.items() if key.startswith("arg_")}
        command = [sys.executable, "-c", f"import {module}; {module}.{name}(**{given!r})"]
    else:
        command = shlex.split(entry["command"])
    own = {key.removeprefix("env_").upper(): value for key, value in entry.items() if key.startswith("env_")}
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=START_SECONDS,
            env=os.environ | own,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return [f"{shlex.join(command)}: {error}"]
    return [line for line in done.stdout.splitlines() if not line.startswith(PROTOCOL_LINE)]
