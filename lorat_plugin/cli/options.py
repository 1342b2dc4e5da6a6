"""Options that every command with a model shares, so that they read the same everywhere."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import fields
from inspect import Parameter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional, get_type_hints

import typer

from lorat_plugin.settings import TrackerSettings

if TYPE_CHECKING:
    from lorat_plugin.evaluation.benchmarks import Benchmark

DEFAULTS = TrackerSettings()
_FIELDS = {field.name: field for field in fields(TrackerSettings)}
BackboneOption = Annotated[Optional[str], typer.Option("--backbone", help=_FIELDS["backbone"].metadata["help"])]
DeviceOption = Annotated[str, typer.Option("--device", help=_FIELDS["device"].metadata["help"])]
PrecisionOption = Annotated[str, typer.Option("--precision", help=_FIELDS["precision"].metadata["help"])]


def settings_options(*without: str, **defaults: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for each field of `TrackerSettings` in place of its parameter `settings`.

    `without`: names of fields for which the command has no option; `defaults`: of its own, by name.
    """
    hints = get_type_hints(TrackerSettings)
    names = [name for name in _FIELDS if name not in without]
    options = [
        Parameter(
            name,
            Parameter.KEYWORD_ONLY,
            default=defaults.get(name, _FIELDS[name].default),
            annotation=Annotated[
                hints[name], typer.Option(f"--{name.replace('_', '-')}", help=_FIELDS[name].metadata["help"])
            ],
        )
        for name in names
    ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        parameters: list[Parameter] = []
        for parameter in inspect.signature(command, eval_str=True).parameters.values():
            parameters += options if parameter.name == "settings" else [parameter.replace(kind=Parameter.KEYWORD_ONLY)]

        @functools.wraps(command)
        def run(**values: Any) -> None:
            command(settings=TrackerSettings(**{name: values.pop(name) for name in names}), **values)

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


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
