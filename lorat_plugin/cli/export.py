"""`lorat export`: a model as files for other runtimes."""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from lorat_plugin.cli.options import DEFAULTS, settings_options
from lorat_plugin.settings import TrackerSettings

CHECKED = 8  # crops


class Format(str, Enum):
    """Formats that can be written."""

    onnx = "onnx"
    openvino = "openvino"
    torch = "torch"


@settings_options("model", "device", "engine", "precision", "absent_below")
def export_command(
    source: Annotated[
        str, typer.Argument(metavar="MODEL", help="Variant, weights file, adapter folder or hub id.")
    ] = "lorat_tiny",
    form: Annotated[Format, typer.Option("--format", help="ONNX, OpenVINO's IR, or torch.export's archive.")] = (
        Format.onnx
    ),
    batch: Annotated[str, typer.Option("--batch", help="Crops at once: a number, or dynamic.")] = "dynamic",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FOLDER", help="To write; MODEL_FORMAT if left out.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="Variant of a weights file; else inferred.")] = None,
    settings: TrackerSettings = DEFAULTS,
    frames: Annotated[
        Path | None,
        typer.Option("--check-frames", help="Clips with groundtruth.txt whose crops it is checked on; else a demo."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export.")] = False,
) -> None:
    """Write a model for ONNX Runtime, TensorRT, OpenVINO or torch.export, checked against the model itself.

    Example: lorat export lorat_tiny --format onnx --out lorat_tiny_onnx

    The folder holds two files, one that encodes the template and one that is run on every frame, and lorat.json with
    what a tracker has to know beside them.
    """
    from lorat_plugin.engines.export import export
    from lorat_plugin.engines.graphs import cut_crops, plain
    from lorat_plugin.errors import InputError
    from lorat_plugin.video.calibration import boxed_frames

    if batch != "dynamic" and not (batch.isdecimal() and int(batch)):
        raise InputError(f"batch '{batch}': give a number above 0, or dynamic")
    if out is not None and out.exists() and not force:
        raise InputError(f"{out} exists: choose another folder, or replace an earlier export with --force")
    if model:
        network = replace(settings, model=model, weights=settings.weights or source).network()
    else:
        network = replace(settings, model=source).network()
    folder = out or Path(f"{network.variant.name}_{form.value}")
    if folder.exists() and not force:
        raise InputError(f"{folder} exists: choose another --out, or replace an earlier export with --force")
    if frames and not frames.is_dir():
        raise InputError(f"{frames}: no such folder: give other --check-frames")
    crops = cut_crops(plain(network), boxed_frames(frames, CHECKED))
    done = export(network, folder, crops, form.value, None if batch == "dynamic" else int(batch))
    for part in ("template", "search"):
        described = done.description[part]
        inputs = ", ".join(f"{n} {port['shape']} {port['type']}" for n, port in described["inputs"].items())
        typer.echo(f"{folder / described['file']}: {inputs} -> {', '.join(described['outputs'])}".replace("'", ""))
    gaps = ", ".join(f"{name} {gap:.1g}" for name, gap in done.differences.items())
    typer.echo(f"{done.crops} crops of {frames or 'the demo'}: largest differences from the model itself: {gaps}")
