"""What a process may do: no tracking after a fork, which threads of torch do not survive; no proxies for its page."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch

from lorat_plugin.errors import InputError

_first = 0  # id of the process that first made or used a tracker, this one or one that it was forked from; 0: none


def check_process(device: torch.device, process: int) -> None:
    """Refuse to track where torch would hang or fail because this process was forked.

    Args:
        device: of the engine.
        process: id of the process in which the engine was made.
    Raises InputError in a process that was forked after its parent had tracked, unless it works with one thread; and
    with an engine on a GPU that another process made.
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
            os.environ.pop(name, None)  # Windows knows one of both names
            if value is not None:
                os.environ[name] = value
