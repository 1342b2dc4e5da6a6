"""Options that every command with a model shares, so that they read the same everywhere."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

ModelOption = Annotated[str, typer.Option("--model", help="Variant, e.g. lorat_tiny, lorat_b_224, or a hub id.")]
WeightsOption = Annotated[
    Optional[str], typer.Option("--weights", help="Weights: a file or an adapter folder. Bundled ones if left out.")
]
BackboneOption = Annotated[
    Optional[str], typer.Option("--backbone", help="DINOv2 file that completes weights without a backbone.")
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps.")]
EngineOption = Annotated[str, typer.Option("--engine", help="Inference engine: auto, eager or fused.")]
PrecisionOption = Annotated[str, typer.Option("--precision", help="auto, fp32, bf16 or fp16.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the table as JSON.")]
