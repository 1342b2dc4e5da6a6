"""`lorat app`: a local page to draw boxes in a video, track, correct and download."""

from __future__ import annotations

import contextlib
import signal
import time
from typing import Annotated

import typer

from lorat_plugin.cli.console import quiet_opencv
from lorat_plugin.cli.options import (
    DEFAULTS,
    settings_options,
)
from lorat_plugin.settings import TrackerSettings


@settings_options(absent_below=None)
def app_command(
    settings: TrackerSettings = DEFAULTS,
    host: Annotated[str, typer.Option("--host", help="Address to serve; 0.0.0.0 for the network.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option("--port", help="The first free one from 7860 if left out.")] = None,
    max_frames: Annotated[int, typer.Option("--max-frames", min=1, help="Longer videos are refused.")] = 3000,
    max_megabytes: Annotated[int, typer.Option("--max-megabytes", min=1, help="Larger files are refused.")] = 500,
) -> None:
    """Serve a page to track objects with the mouse; open the address that it prints in a browser.

    Example: lorat app --model lorat_tiny --port 7860

    Only this machine reaches the page unless --host says otherwise; then
    visitors cannot name weights. Uploads and results lie in a temporary
    folder, which Ctrl-C removes. Needs the extra `app`.
    """
    quiet_opencv()
    from lorat_plugin.processes import no_proxies

    with no_proxies():
        from lorat_plugin.apps.page import SIGN_SECONDS, PageOptions, served

    settings.check()
    options = PageOptions(settings, host, port, max_frames, max_megabytes)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # cleans up as Ctrl-C does
    with served(options) as page, contextlib.suppress(KeyboardInterrupt):
        if not options.local:
            typer.echo("Everyone who reaches this machine can use the page, without a password and unencrypted: see who"
                       " that is, or leave out --host", err=True)  # fmt: skip
        typer.echo(f"{page.address} (Ctrl-C ends it)")
        while True:
            time.sleep(SIGN_SECONDS)
            page.sweep()
