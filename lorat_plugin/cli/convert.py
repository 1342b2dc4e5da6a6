"""`lorat convert`: weights from one layout to another."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Optional

import typer

from lorat_plugin.cli.options import BackboneOption


class Layout(str, Enum):
    """Layouts that can be written."""

    merged = "merged"
    peft = "peft"
    official = "official"
    official_full = "official-full"
    hub = "hub"


class Precision(str, Enum):
    """Number formats that can be written."""

    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


def convert_command(
    source: Annotated[str, typer.Argument(metavar="SRC", help="Weights file, adapter folder or hub id.")],
    destination: Annotated[Path, typer.Argument(metavar="DST", help="File, or folder for peft and hub.")],
    to: Annotated[
        Layout | None, typer.Option("--to", help="Layout; peft for a DST without suffix, else merged, if left out.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="Variant; inferred if left out.")] = None,
    backbone: BackboneOption = None,
    precision: Annotated[Precision | None, typer.Option("--precision", help="Number format; kept if left out.")] = None,
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
    dtype = PRECISIONS[precision.value] if precision else None
    if to is Layout.hub:
        from lorat_plugin.checkpoints.hub import convert_for_hub

        weights, variant = convert_for_hub(source, destination, model, backbone, dtype, scores or (), licence)
        target = "merged"
    else:
        weights, variant, target = convert(source, destination, model, backbone, to.value if to else None, dtype)
    parameters = sum(tensor.numel() for tensor in weights.tensors.values()) / 1e6
    typer.echo(
        f"{source}: {weights.layout}, {variant.name}, {len(weights.tensors)} tensors, {parameters:.1f} M numbers"
    )
    base = f", backbone from {backbone or 'the hub'}" if target in ("merged", "official-full") else ""
    typer.echo(f"{destination}: written as {to.value if to else target}{'' if weights.has_backbone else base}")
