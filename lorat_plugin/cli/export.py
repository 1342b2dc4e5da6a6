"""`lorat export`: a model as files for other runtimes."""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lorat_plugin.cli.options import DEFAULTS, settings_options
from lorat_plugin.settings import TrackerSettings

if TYPE_CHECKING:
    from lorat_plugin.engines.export import Crops
    from lorat_plugin.variants import Variant

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
    from lorat_plugin.errors import InputError

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
    crops = clip_crops(network.variant, frames) if frames else demo_crops(network.variant)
    done = export(network, folder, crops, form.value, None if batch == "dynamic" else int(batch))
    for part in ("template", "search"):
        described = done.description[part]
        inputs = ", ".join(f"{n} {port['shape']} {port['type']}" for n, port in described["inputs"].items())
        typer.echo(f"{folder / described['file']}: {inputs} -> {', '.join(described['outputs'])}".replace("'", ""))
    gaps = ", ".join(f"{name} {gap:.1g}" for name, gap in done.differences.items())
    typer.echo(f"{done.crops} crops of {frames or 'the demo'}: largest differences from the model itself: {gaps}")


def clip_crops(variant: Variant, folder: Path) -> Crops:
    """Crops of the first clips of a folder. Raises InputError if it has none with a target in two frames."""
    from lorat_plugin.datasets.clips import find_clips
    from lorat_plugin.engines.export import cut_crops, join_crops
    from lorat_plugin.errors import InputError
    from lorat_plugin.images import read_image

    clips = [clip for clip in find_clips(folder) if clip.present.sum() > 1][:CHECKED]
    if not clips:
        raise InputError(f"{folder}: no clip shows its target in two frames: give other --check-frames")
    each, parts = -(-CHECKED // len(clips)) + 1, []
    for clip in clips:
        rows = clip.present.nonzero()[0][:each]
        parts.append(cut_crops(variant, [read_image(clip.frames[row]) for row in rows], clip.boxes[rows]))
    return join_crops(parts)


def demo_crops(variant: Variant) -> Crops:
    """Crops of the first frames of a clip in the package."""
    from lorat_plugin.engines.export import cut_crops
    from lorat_plugin.video.demo_clips import read_demo_clip

    frames, boxes = read_demo_clip("davis_camel")
    return cut_crops(variant, frames[: CHECKED + 1], boxes[: CHECKED + 1])
