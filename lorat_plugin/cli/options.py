"""Options that every command with a model shares, so that they read the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from lorat_plugin.engines import list_engines, list_precisions

if TYPE_CHECKING:
    from lorat_plugin.evaluation.benchmarks import Benchmark

ModelOption = Annotated[str, typer.Option("--model", help="Variant, e.g. lorat_tiny, lorat_b_224, or a hub id.")]
WeightsOption = Annotated[
    Optional[str], typer.Option("--weights", help="Weights: a file or an adapter folder. Bundled ones if left out.")
]
BackboneOption = Annotated[
    Optional[str], typer.Option("--backbone", help="DINOv2 file that completes weights without a backbone.")
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps.")]
EngineOption = Annotated[str, typer.Option("--engine", help=f"Inference engine: auto, {', '.join(list_engines())}.")]
PrecisionOption = Annotated[str, typer.Option("--precision", help=f"auto, {', '.join(list_precisions())}.")]
AbsentOption = Annotated[
    float,
    typer.Option(
        "--absent-below", help="Score below which the target counts as absent and is searched for, e.g. 0.5; 0: never."
    ),
]
MasksOption = Annotated[
    Optional[str],
    typer.Option(
        "--masks",
        metavar="NAME",
        help="Masks too, by a SAM: sam, sam2, hub id, folder or mobile_sam.pt; or box: the boxes' rectangles.",
    ),
]
TrackFormatOption = Annotated[
    Optional[list[str]],
    typer.Option("--format", metavar="NAME", help="Tracks as mot, coco, cvat, labelstudio, yolo, got10k; repeat it."),
]
BaselineModelsOption = Annotated[
    Optional[Path],
    typer.Option("--baseline-models", help="Folder of NanoTrack's and VitTrack's .onnx files. None: VitTrack's alone."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the table as JSON.")]

DatasetOption = Annotated[
    str,
    typer.Option("--dataset", metavar="NAME[:FOLDER]", help="Benchmark and its folder, e.g. lasot:LaSOT, clips:DIR."),
]
SubsetOption = Annotated[Optional[str], typer.Option("--subset", help="Such as val or test, where there are several.")]
SequencesOption = Annotated[
    Optional[str], typer.Option("--sequences", help="Only these: names with commas between, or a file of names.")
]
SkipOption = Annotated[
    Optional[str], typer.Option("--skip", help="Leave these out: names with commas between, or a file of names.")
]
AttributesOption = Annotated[
    Optional[Path],
    typer.Option(
        "--attributes", help="The sequences' challenges: lines 'sequence,attribute;attribute', or LaSOT's att folder."
    ),
]
ResultsOption = Annotated[Path, typer.Option("--results", help="Folder of result files.")]
FormatOption = Annotated[str, typer.Option("--format", help="Of result files: got10k, pytracking or ostrack.")]
ProtocolOption = Annotated[
    Optional[str],
    typer.Option("--protocol", help="got10k, pytracking, stark, lorat, lorat_plain; the benchmark's own."),
]


def chosen_benchmark(
    dataset: str,
    subset: str | None,
    sequences: str | None,
    attributes: Path | None = None,
    rasterize: bool | None = None,
    skip: str | None = None,
    style: str = "got10k",
) -> Benchmark:
    """The benchmark that these options name. Raises InputError as `open_benchmark`, or for an unreadable file."""
    from dataclasses import replace

    from lorat_plugin.evaluation.benchmarks import add_attributes, as_trees_start, read_attributes
    from lorat_plugin.evaluation.registry import open_benchmark

    name, _, folder = dataset.partition(":")
    chosen = None if sequences is None else _listed_names(sequences)
    skipped = () if skip is None else _listed_names(skip)
    benchmark = open_benchmark(name, Path(folder) if folder else None, subset, chosen, skipped)
    if style != "got10k":
        benchmark = as_trees_start(benchmark)
    if attributes is not None:
        benchmark = add_attributes(benchmark, read_attributes(attributes))
    return benchmark if rasterize is None else replace(benchmark, rasterize=rasterize)


def _listed_names(option: str) -> list[str]:
    """Names with commas between, or those in a file."""
    from lorat_plugin.datasets.got10k import read_list

    if Path(option).is_file():
        return list(read_list(Path(option)))
    return [name.strip() for name in option.split(",") if name.strip()]
