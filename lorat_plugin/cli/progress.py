"""How far a command is: a bar with frames per second on a terminal, plain lines in a log; both on stderr."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator

logger = logging.getLogger(__name__)

LOG_SECONDS = 10.0  # between two plain lines


@contextlib.contextmanager
def progress(what: str, total: int | None, unit: str = "frames") -> Iterator[Callable[[], None]]:
    """Show progress while the block runs; call what it yields once for each unit done. `total` may be unknown."""
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
            yield lambda: bar.advance(task)
        return

    began = last = time.perf_counter()
    done = 0

    def advance() -> None:
        nonlocal done, last
        done += 1
        now = time.perf_counter()
        if now - last >= LOG_SECONDS:
            last = now
            of = f" of {total}" if total else ""
            logger.info("%s: %d%s %s, %.1f %s/s", what, done, of, unit, done / (now - began), unit)

    yield advance
