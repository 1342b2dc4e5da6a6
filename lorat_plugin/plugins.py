"""Entry points through which other packages add data sets, engines and networks."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from lorat_plugin.errors import InputError


def plugin_names(group: str) -> list[str]:
    """Names of the entry points of a group, such as `lorat_plugin.engines`; nothing is loaded."""
    return sorted({point.name for point in entry_points(group=group)})


def load_plugin(group: str, name: str, kind: str) -> Any:
    """The object behind an entry point, None if no installed package has it.

    Args:
        group: of entry points.
        name: of the entry point.
        kind: of object, for the message.
    Raises InputError if it cannot be loaded.
    """
    point = next((point for point in entry_points(group=group) if point.name == name), None)
    if point is None:
        return None
    try:
        return point.load()
    except Exception as error:  # another package's code
        raise InputError(f"{kind} '{name}': {point.value} cannot be loaded ({error})") from error
