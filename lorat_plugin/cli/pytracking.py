"""`lorat pytracking`: LoRAT in the trees of pytracking and OSTrack."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Optional

import typer

from lorat_plugin.cli.options import (
    DEFAULTS,
    settings_options,
)
from lorat_plugin.settings import TrackerSettings

pytracking_app = typer.Typer(help="LoRAT in the trees of pytracking, OSTrack and their kin.", no_args_is_help=True)


@pytracking_app.callback()
def pytracking_group() -> None:
    """LoRAT in the trees of pytracking, OSTrack and their kin."""


@pytracking_app.command("install")
@settings_options()
def install_command(
    path: Annotated[Path, typer.Argument(help="Folder of the tree: what git clone made.")],
    settings: TrackerSettings = DEFAULTS,
    name: Annotated[
        Optional[str], typer.Option("--name", help="Of the parameter file; the weights' or the model's if left out.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that differ.")] = False,
) -> None:
    """Copy LoRAT's tracker and a parameter file into a tree; again with other weights for another parameter.

    Example: lorat pytracking install OSTrack --model lorat_b_224 --weights base_224.bin
    """
    from lorat_plugin.harness.pytracking import install

    written = install(path, settings.absolute(), name or "", force)
    for kind, paths in written.items():
        for file in paths:
            typer.echo(file)
        program = "pytracking/run_tracker.py" if kind == "pytracking" else "tracking/test.py"
        parameter = next(p.stem for p in paths if p.stem not in ("lorat", "__init__"))
        typer.echo(f"Next: cd {shlex.quote(str(path))} && python {program} lorat {parameter} --dataset_name lasot")
