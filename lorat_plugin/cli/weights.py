"""`lorat convert` and `lorat export`: weights in another layout, a model as files for other runtimes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, Optional

import typer

from lorat_plugin.cli.options import DEFAULTS, BackboneOption, settings_options
from lorat_plugin.settings import TrackerSettings

CHECKED = 8  # crops


def convert_command(
    source: Annotated[str, typer.Argument(metavar="SRC", help="Weights file, adapter folder or hub id.")],
    destination: Annotated[Path, typer.Argument(metavar="DST", help="File, or folder for peft and hub.")],
    to: Annotated[
        Literal["merged", "peft", "official", "official-full", "hub"] | None,
        typer.Option("--to", help="Layout; peft for a DST without suffix, else merged, if left out."),
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="Variant; inferred if left out.")] = None,
    backbone: BackboneOption = None,
    phase1: Annotated[Path | None, typer.Option(help="LoRATv2's weights of phase 1, for adapters of phase 2.")] = None,
    precision: Annotated[
        Literal["fp32", "bf16", "fp16"] | None, typer.Option("--precision", help="Number format; kept if left out.")
    ] = None,
    scores: Annotated[
        Optional[list[Path]], typer.Option(help="For the hub's card: scores.json of lorat evaluate; repeat it.")
    ] = None,
    licence: Annotated[str, typer.Option(help="For the hub's card: the weights' licence, e.g. apache-2.0.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Replace DST if it exists.")] = False,
) -> None:
    """Convert weights: official LoRAT files, peft adapter folders and merged files.

    Example: lorat convert base_224.bin lorat_b_224.safetensors --model lorat_b_224 --backbone dinov2_vitb14.pth

    A merged file needs nothing else to track. Layout hub is a folder of model.safetensors, config.json and a model
    card, to be uploaded by `hf upload OWNER/NAME DST` or lorat_plugin.push_to_hub. SRC that holds adapters only takes
    its DINOv2 backbone from --backbone, or from the hub if that is left out. Prints what was recognised.
    """
    from lorat_plugin.checkpoints.saving import convert
    from lorat_plugin.devices import PRECISIONS
    from lorat_plugin.errors import InputError

    if destination.exists() and not force:
        raise InputError(f"{destination} exists: choose another name or replace it with --force")
    dtype = PRECISIONS[precision] if precision else None
    if to == "hub":
        from lorat_plugin.checkpoints.hub import convert_for_hub

        weights, variant = convert_for_hub(source, destination, model, backbone, dtype, scores or (), licence)
        target = "merged"
    else:
        weights, variant, target = convert(source, destination, model, backbone, to, dtype, phase1)
    parameters = sum(tensor.numel() for tensor in weights.tensors.values()) / 1e6
    typer.echo(
        f"{source}: {weights.layout}, {variant.name}, {len(weights.tensors)} tensors, {parameters:.1f} M numbers"
    )
    base = f", backbone from {backbone or 'the hub'}" if target in ("merged", "official-full") else ""
    typer.echo(f"{destination}: written as {to or target}{'' if weights.has_backbone else base}")


@settings_options("model", "device", "engine", "precision", "absent_below")
def export_command(
    source: Annotated[
        str, typer.Argument(metavar="MODEL", help="Variant, weights file, adapter folder or hub id.")
    ] = "lorat_tiny",
    form: Annotated[
        Literal["onnx", "openvino", "torch"],
        typer.Option("--format", help="ONNX, OpenVINO's IR, or torch.export's archive."),
    ] = "onnx",
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

    The folder holds a file that encodes the template, one that is run on every frame, for phase 2 of LoRATv2 one that
    encodes the reference, and lorat.json with what a tracker has to know beside them.
    """
    from lorat_plugin.engines.export import export
    from lorat_plugin.engines.graphs import GRAPHS, cut_crops, plain
    from lorat_plugin.errors import InputError
    from lorat_plugin.video.demo_clips import boxed_frames

    if batch != "dynamic" and not (batch.isdecimal() and int(batch)):
        raise InputError(f"batch '{batch}': give a number above 0, or dynamic")
    if out is not None and out.exists() and not force:
        raise InputError(f"{out} exists: choose another folder, or replace an earlier export with --force")
    if model:
        network = replace(settings, model=model, weights=settings.weights or source).network()
    else:
        network = replace(settings, model=source).network()
    folder = out or Path(f"{network.variant.name}_{form}")
    if folder.exists() and not force:
        raise InputError(f"{folder} exists: choose another --out, or replace an earlier export with --force")
    if frames and not frames.is_dir():
        raise InputError(f"{frames}: no such folder: give other --check-frames")
    crops = cut_crops(plain(network), boxed_frames(frames, CHECKED))
    done = export(network, folder, crops, form, None if batch == "dynamic" else int(batch))
    for part in GRAPHS[network.variant.chunks]:
        described = done.description[part]
        inputs = ", ".join(f"{n} {port['shape']} {port['type']}" for n, port in described["inputs"].items())
        typer.echo(f"{folder / described['file']}: {inputs} -> {', '.join(described['outputs'])}".replace("'", ""))
    gaps = ", ".join(f"{name} {gap:.1g}" for name, gap in done.differences.items())
    typer.echo(f"{done.crops} crops of {frames or 'the demo'}: largest differences from the model itself: {gaps}")
