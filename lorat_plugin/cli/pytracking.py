"""`lorat pytracking`: LoRAT in the trees of pytracking and OSTrack."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Optional

import typer

from lorat_plugin.cli.options import (
    AbsentOption,
    BackboneOption,
    DeviceOption,
    EngineOption,
    ModelOption,
    PrecisionOption,
    WeightsOption,
)

pytracking_app = typer.Typer(help="LoRAT in the trees of pytracking, OSTrack and their kin.", no_args_is_help=True)


@pytracking_app.callback()
def pytracking_group() -> None:
    """LoRAT in the trees of pytracking, OSTrack and their kin."""


@pytracking_app.command("install")
def install_command(
    path: Annotated[Path, typer.Argument(help="Folder of the tree: what git clone made.")],
    model: ModelOption = "lorat_tiny",
    weights: WeightsOption = None,
    backbone: BackboneOption = None,
    name: Annotated[
        Optional[str], typer.Option("--name", help="Of the parameter file; the weights' or the model's if left out.")
    ] = None,
    absent_below: AbsentOption = 0.0,
    device: DeviceOption = "auto",
    engine: EngineOption = "auto",
    precision: PrecisionOption = "auto",
    force: Annotated[bool, typer.Option("--force", help="Replace files that differ.")] = False,
) -> None:
    """Copy LoRAT's tracker and a parameter file into a tree; again with other weights for another parameter.

    Example: lorat pytracking install OSTrack --model lorat_b_224 --weights base_224.bin
    """
    from lorat_plugin.harness.pytracking import install
    from lorat_plugin.harness.vot_tools.workspace import TrackerSettings

    chosen = TrackerSettings(model, weights, backbone, device, engine, precision, absent_below=absent_below).checked()
    settings = {key: value for key, value in vars(chosen).items() if value != getattr(TrackerSettings(), key)}
    written = install(path, settings, name or "", force)
    for kind, paths in written.items():
        for file in paths:
            typer.echo(file)
        program = "pytracking/run_tracker.py" if kind == "pytracking" else "tracking/test.py"
        parameter = next(p.stem for p in paths if p.stem not in ("lorat", "__init__"))
        typer.echo(f"Next: cd {shlex.quote(str(path))} && python {program} lorat {parameter} --dataset_name lasot")
