"""Try trackers of a workspace through the VOT toolkit: how fast each starts and tracks, or why one fails."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass

from lorat_plugin.harness.vot_tools.run import WORDS, Workspace, reason, run_toolkit

START_SECONDS = 120  # for a start outside the toolkit
PROCESSING = re.compile(r"Processing frame (\d+)/")
PROTOCOL_LINE = "@@TRAX:"


@dataclass(frozen=True)
class Trial:
    """How `vot test`, the toolkit's 50 generated frames of 640 x 480 pixels with up to 3 objects, went.

    Attributes:
        good: whether it ended well.
        text: seconds for the start and for each frame, or the toolkit's reason.
        traceback: what the tracker itself says when it fails.
    """

    good: bool
    text: str
    traceback: tuple[str, ...] = ()


def toolkit_imports(repair: bool) -> Trial:
    """Whether the toolkit's command line imports."""
    lines = run_toolkit(["--help"], lambda line: None, repair=repair)
    if any(line.startswith("usage: vot") for line in lines):
        return Trial(True, "imports")
    return Trial(False, reason(lines), tuple(lines))


def try_tracker(workspace: Workspace, tracker: str, *, repair: bool = True) -> Trial:
    """Run the toolkit's test of a tracker of trackers.ini.

    If it fails, the tracker is started once more without the toolkit, which hides why.
    """
    stamps: list[tuple[float, str]] = []
    arguments = ["--registry", str(workspace.folder), "test", tracker]
    lines = run_toolkit(arguments, lambda line: stamps.append((time.perf_counter(), line)), repair=repair)
    if not any(WORDS["test"] in line for line in lines):
        alone = _start(workspace.trackers[tracker])
        failed_alone = any(line.startswith("Traceback") for line in alone)
        return Trial(False, reason(lines), tuple(alone if failed_alone else _traceback(lines) or alone))
    frames = [(moment, int(found[1])) for moment, line in stamps if (found := PROCESSING.search(line))]
    began = next(moment for moment, line in stamps if "Generating" in line)
    (first, _), (last, count) = frames[0], frames[-1]
    each = (last - first) / max(count - 1, 1) * 1000
    return Trial(True, f"starts in {first - began:.1f} s, then {each:.1f} ms a frame")


def _traceback(lines: list[str]) -> list[str]:
    """The last traceback among a tracker's own lines, which the toolkit shows with TraX."""
    starts = [number for number, line in enumerate(lines) if line.startswith("Traceback")]
    return lines[starts[-1] :] if starts else []


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
