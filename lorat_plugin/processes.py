"""Forked processes: torch's threads do not survive a fork, after which work for several threads never ends."""

from __future__ import annotations

import os

import torch

from lorat_plugin.errors import InputError

_threaded = 0  # id of the process in which torch first worked with several threads here; 0 means none yet


def check_process(device: torch.device, process: int) -> None:
    """Refuse to track where torch would hang or fail because this process was forked.

    Args:
        device: of the engine.
        process: id of the process in which the engine was made.
    Raises InputError in a process that was forked after its parent had tracked with several threads, unless it works
    with one; and with an engine on a GPU that another process made.
    """
    global _threaded
    here = os.getpid()
    if device.type != "cpu" and process != here:
        raise InputError(
            f"this tracker was made in process {process}, and {device} cannot be used in one forked from it: make the "
            "tracker in each process, and start processes by 'spawn'"
        )
    if torch.get_num_threads() == 1:
        return
    if _threaded not in (0, here):
        raise InputError(
            f"this process was forked from process {_threaded}, which has tracked with several threads, so torch would"
            " hang: call torch.set_num_threads(1) in it first, or start it by 'spawn'"
        )
    _threaded = here
