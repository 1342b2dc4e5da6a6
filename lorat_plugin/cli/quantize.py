"""`lorat quantize`: what eight-bit arithmetic, or another engine, costs in accuracy on one's own clips."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Optional

import typer

from lorat_plugin.cli.options import (
    BackboneOption,
    DatasetOption,
    EngineOption,
    JsonOption,
    ModelOption,
    PrecisionOption,
    SequencesOption,
    SubsetOption,
    WeightsOption,
)


def quantize_command(
    dataset: DatasetOption,
    model: ModelOption = "lorat_tiny",
    weights: WeightsOption = None,
    backbone: BackboneOption = None,
    calibration: Annotated[
        Optional[Path],
        typer.Option(help="Clips, a folder of images or a video. None: LORAT_CALIBRATION's, else made-up scenes."),
    ] = None,
    subset: SubsetOption = None,
    sequences: SequencesOption = None,
    engine: EngineOption = "openvino",
    precision: PrecisionOption = "int8",
    batch: Annotated[int, typer.Option(min=1, help="Sequences at once.")] = 8,
    as_json: JsonOption = False,
) -> None:
    """Track clips in int8 and in fp32, and print what changes: AUC both ways, and the IoU between the runs' boxes.

    Any command takes --engine openvino --precision int8 and the environment's LORAT_CALIBRATION.

    Example: lorat quantize --dataset clips:clips --calibration other_clips
    """
    from lorat_plugin.checkpoint import load_pretrained
    from lorat_plugin.cli.options import chosen_benchmark
    from lorat_plugin.cli.progress import progress
    from lorat_plugin.engines import check_options
    from lorat_plugin.engines.calibration import VARIABLE
    from lorat_plugin.evaluation.accuracy import accuracy_change
    from lorat_plugin.evaluation.agreement import as_dict, show_agreement

    check_options("cpu", engine, precision)
    if calibration is not None:
        os.environ[VARIABLE] = str(calibration)
    benchmark = chosen_benchmark(dataset, subset, sequences)
    network = load_pretrained(model, weights, backbone)
    with progress(precision, 2 * sum(len(sequence) for sequence in benchmark.sequences)) as advance:
        change = accuracy_change(benchmark, network, "cpu", engine, precision, batch=batch, on_frames=advance)
    if as_json:
        figures = {"auc": change.auc, "reference_auc": change.reference_auc, "mean_iou": change.mean_iou}
        typer.echo(json.dumps(figures | {"agreement": as_dict(change.agreement)}, indent=2))
        return
    show_agreement(change.agreement)
    lost = change.reference_auc - change.auc
    typer.echo(
        f"{precision}: AUC {change.auc:.4f}, fp32 {change.reference_auc:.4f} ({lost:+.4f} lost), mean box IoU between"
        f" the runs {change.mean_iou:.4f}"
    )
