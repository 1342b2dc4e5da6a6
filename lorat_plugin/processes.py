"""Processes: tracking is refused after a fork, which torch's threads do not survive; a block without proxies."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch

from lorat_plugin.errors import InputError

_first = 0  # id of the first process with a tracker, this one or one that it was forked from; 0: none


def check_process(device: torch.device, process: int) -> None:
    """Refuse to track where torch would hang or fail because this process was forked.

    Args:
        device: of the engine.
        process: id of the process in which the engine was made.
    Raises InputError in a process that was forked after its parent had tracked, unless it has one thread, and for an
    engine on a GPU from another process.
    """
    global _first
    here = os.getpid()
    if device.type != "cpu" and process != here:
        raise InputError(
            f"this tracker was made in process {process}, and {device} cannot be used in one forked from it: make the "
            "tracker in each process, and start processes by 'spawn'"
        )
    _first = _first or here
    if _first != here and torch.get_num_threads() > 1:
        raise InputError(
            f"this process was forked from process {_first}, which has tracked, and torch hangs with several threads"
            " after that: call torch.set_num_threads(1) in this one first, or start it by 'spawn'"
        )


@contextlib.contextmanager
def no_proxies() -> Iterator[None]:
    """Disable the proxies of the environment inside the block, for this process alone.

    gradio prepares its HTTP client when it is imported, and requests the page's own address when it is launched.
    """
    before = {name: os.environ.get(name) for name in ("no_proxy", "NO_PROXY")}
    os.environ.update(dict.fromkeys(before, "*"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)  # on Windows both names are one variable
            if value is not None:
                os.environ[name] = value
