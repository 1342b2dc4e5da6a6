"""The terminal: progress, colours, quiet libraries, and texts of options that several commands read."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import time
from collections.abc import Iterator
from typing import Protocol

from lorat_plugin.errors import InputError

logger = logging.getLogger(__name__)

COLOURS = {"ok": "green", "warning": "yellow", "broken": "red"}
LOG_SECONDS = 10.0  # between two plain lines

Box = tuple[float, float, float, float]  # x, y, w, h in pixels


def quiet_opencv() -> None:
    """Keep messages of OpenCV and FFmpeg off stderr, where an error of this package says the same; not in debug."""
    if not logging.getLogger().isEnabledFor(logging.DEBUG):
        os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


def parse_box(text: str) -> Box:
    """x,y,w,h from `--box`: four finite numbers with w, h > 0. Raises InputError."""
    try:
        x, y, w, h = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--box {text}: must be four numbers x,y,w,h with commas between and no blanks") from None
    if not all(map(math.isfinite, (x, y, w, h))) or w <= 0 or h <= 0:
        raise InputError(f"--box {text}: x,y,w,h must be finite pixels, w and h greater than 0")
    return x, y, w, h


class Advance(Protocol):
    """Says that a unit is done, or several."""

    def __call__(self, units: int = 1) -> None:
        """Count `units` more."""


@contextlib.contextmanager
def progress(what: str, total: int | None, unit: str = "frames") -> Iterator[Advance]:
    """Show progress while the block runs; call what it yields for each unit done, or with a number of them.

    `total` may be unknown.
    """
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_terminal:
        from rich import progress as rich
        from rich.text import Text

        class Speed(rich.ProgressColumn):
            def render(self, task: rich.Task) -> Text:
                return Text("" if task.speed is None else f"{task.speed:.1f} {unit}/s")

        columns = (rich.TextColumn("{task.description}"), rich.BarColumn(), rich.MofNCompleteColumn(), Speed())
        with rich.Progress(*columns, rich.TimeRemainingColumn(), console=console, transient=True) as bar:
            task = bar.add_task(what, total=total)
            yield lambda units=1: bar.advance(task, units)
        return

    began = last = time.perf_counter()
    done = 0

    def advance(units: int = 1) -> None:
        nonlocal done, last
        done += units
        now = time.perf_counter()
        if now - last >= LOG_SECONDS:
            last = now
            speed = done / (now - began)
            of = f" of {total}" if total else ""
            left = f", {_words((total - done) / speed)} left" if total and speed else ""
            logger.info("%s: %d%s %s, %.1f %s/s%s", what, done, of, unit, speed, unit, left)

    yield advance


def _words(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )
