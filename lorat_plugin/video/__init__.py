"""Video in and out: sources, files, drawing, masks."""

from __future__ import annotations

from typing import Any

__all__ = ["open_source", "read_image"]


def __getattr__(name: str) -> Any:
    if name == "open_source":
        from lorat_plugin.video.source import open_source

        return open_source
    if name == "read_image":
        from lorat_plugin.images import read_image

        return read_image
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
