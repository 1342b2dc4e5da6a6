"""`lorat app`: a local page to track objects through a video by drawing boxes (extra `app`)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


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
