"""`lorat vot`: workspaces for the VOT toolkit."""

from __future__ import annotations

import shlex
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from lorat_plugin.cli.options import (
    BackboneOption,
    DeviceOption,
    EngineOption,
    ModelOption,
    PrecisionOption,
    WeightsOption,
)

vot_app = typer.Typer(help="Workspaces for the VOT toolkit (vot-toolkit).", no_args_is_help=True)


class ProtocolChoice(str, Enum):
    """How the toolkit runs the tracker."""

    python = "python"
    trax = "trax"
    both = "both"


@vot_app.callback()
def vot_group() -> None:
    """Workspaces for the VOT toolkit (vot-toolkit)."""


@vot_app.command("init")
def init_command(
    workspace: Annotated[Path, typer.Argument(help="Folder to make.")],
    sequences: Annotated[
        Path,
        typer.Option("--sequences", help="Folder of clips: frames (.jpg, .png) and groundtruth.txt (x,y,w,h) each."),
    ],
    stack: Annotated[
        str | None,
        typer.Option("--stack", help="A stack of the toolkit (e.g. tests/basic) or a yaml file; else unsupervised."),
    ] = None,
    protocol: Annotated[
        ProtocolChoice, typer.Option("--protocol", help="Entries in trackers.ini.")
    ] = ProtocolChoice.both,
    model: ModelOption = "lorat_tiny",
    weights: WeightsOption = None,
    backbone: BackboneOption = None,
    device: DeviceOption = "auto",
    engine: EngineOption = "auto",
    precision: PrecisionOption = "auto",
    force: Annotated[bool, typer.Option("--force", help="Set an existing workspace aside.")] = False,
) -> None:
    """Make a workspace with LoRAT entries and local sequences; nothing is downloaded.

    Example: lorat vot init my_workspace --sequences my_clips --model lorat_tiny
    """
    from lorat_plugin.harness.vot_workspace import IDENTIFIERS, TrackerSettings, create_workspace

    protocols = [name for name in IDENTIFIERS if protocol.value in (name, "both")]
    settings = TrackerSettings(model, weights, backbone, device, engine, precision)
    former = create_workspace(workspace, sequences, settings, stack=stack, protocols=protocols, force=force)
    if former is not None:
        typer.echo(f"The former workspace is now {former}")
    names, folder = [IDENTIFIERS[name] for name in protocols], shlex.quote(str(workspace))
    typer.echo(f"Made {workspace}. Next:")
    for name in names:
        typer.echo(f"  vot --registry {folder} test {name}")
    typer.echo(f"  vot evaluate --workspace {folder} {' '.join(names)}")
    typer.echo(f"  vot analysis --workspace {folder}")
    typer.echo(f"  vot report --workspace {folder}")
    typer.echo("vot exits with 0 even if a tracker fails: look for 'Evaluation concluded' in what it prints.")
