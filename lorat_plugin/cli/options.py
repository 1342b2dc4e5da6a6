"""What commands share: options that read the same everywhere, progress on the terminal, quiet libraries."""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from inspect import Parameter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional, Protocol, get_origin, get_type_hints

import typer

from lorat_plugin.errors import InputError
from lorat_plugin.settings import TrackerSettings, described

if TYPE_CHECKING:
    from lorat_plugin.evaluation.benchmarks import Benchmark

logger = logging.getLogger(__name__)

LOG_SECONDS = 10.0  # between two plain lines
Box = tuple[float, float, float, float]  # x, y, w, h in pixels
DEFAULTS = TrackerSettings()
BackboneOption = Annotated[
    Optional[str],
    typer.Option("--backbone", help=TrackerSettings.__dataclass_fields__["backbone"].metadata["help"]),
]


def class_options(
    parameter: str, kind: type, *without: str, **defaults: Any
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for each field of a dataclass in place of one of its parameters.

    A field's metadata are arguments of `typer.Option`, the option's name as `flag` among them; tuples are texts with
    commas between.

    Args:
        parameter: the parameter's name; it gets the value of the class.
        kind: the class.
        without: names of fields for which the command has no option.
        defaults: of its own, by name.
    """
    hints = get_type_hints(kind)
    chosen = [field for field in fields(kind) if field.name not in without]
    lists = [field.name for field in chosen if get_origin(hints[field.name]) is tuple]

    def option(field: Field[Any]) -> Parameter:
        details = dict(field.metadata)
        flag = details.pop("flag", f"--{field.name.replace('_', '-')}")
        value = defaults.get(field.name, Parameter.empty if field.default is MISSING else field.default)
        return Parameter(
            field.name,
            Parameter.KEYWORD_ONLY,
            default=",".join(value) if field.name in lists else value,
            annotation=Annotated[str if field.name in lists else hints[field.name], typer.Option(flag, **details)],
        )

    options = [option(field) for field in chosen]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        parameters: list[Parameter] = []
        for given in inspect.signature(command, eval_str=True).parameters.values():
            parameters += options if given.name == parameter else [given.replace(kind=Parameter.KEYWORD_ONLY)]

        @functools.wraps(command)
        def run(**values: Any) -> None:
            own = {field.name: values.pop(field.name) for field in chosen}
            own |= {name: tuple(split_names(own[name])) for name in lists}
            command(**{parameter: kind(**own)}, **values)

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {given.name: given.annotation for given in parameters}
        return run

    return decorate


settings_options = functools.partial(class_options, "settings", TrackerSettings)


def split_names(text: str) -> list[str]:
    """Names with commas between."""
    return [name.strip() for name in text.split(",") if name.strip()]


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


@dataclass(frozen=True)
class BenchmarkChoice:
    """The sequences of a benchmark that a command works on, their results and how they are scored."""

    dataset: str = field(
        metadata={"help": "Benchmark and its folder, e.g. lasot:LaSOT, clips:DIR.", "metavar": "NAME[:FOLDER]"}
    )
    results: Path = described(Path("results"), "Folder of result files.")
    subset: str | None = described(None, "Such as val or test, where there are several.")
    sequences: str | None = described(None, "Only these: names with commas between, or a file of names.")
    skip: str | None = described(None, "Leave these out: names with commas between, or a file of names.")
    protocol: str | None = described(None, "got10k, pytracking, stark, lorat, lorat_plain; the benchmark's own.")
    style: str = described("got10k", "Of result files: got10k, pytracking or ostrack.", flag="--format")
    attributes: Path | None = described(
        None, "The sequences' challenges: lines 'sequence,attribute;attribute', or LaSOT's att folder."
    )
    rasterize: bool | None = described(
        None,
        "Round boxes outwards to whole pixels, as LoRAT's are for got10k and trackingnet.",
        flag="--rasterize/--no-rasterize",
    )

    def open(self) -> Benchmark:
        """The benchmark. Raises InputError as `open_benchmark`, or for an unreadable file."""
        from lorat_plugin.evaluation.benchmarks import add_attributes, as_trees_start, read_attributes
        from lorat_plugin.evaluation.registry import open_benchmark

        name, _, folder = self.dataset.partition(":")
        chosen = None if self.sequences is None else _listed_names(self.sequences)
        skipped = () if self.skip is None else _listed_names(self.skip)
        benchmark = open_benchmark(name, Path(folder) if folder else None, self.subset, chosen, skipped)
        if self.style != "got10k":
            benchmark = as_trees_start(benchmark)
        if self.attributes is not None:
            benchmark = add_attributes(benchmark, read_attributes(self.attributes))
        return benchmark if self.rasterize is None else replace(benchmark, rasterize=self.rasterize)

    def rules(self, benchmark: Benchmark) -> str:
        """The protocol that results are scored by."""
        return self.protocol or benchmark.protocol


def _listed_names(option: str) -> list[str]:
    """Names with commas between, or those in a file."""
    from lorat_plugin.datasets.got10k import read_list

    return list(read_list(Path(option))) if Path(option).is_file() else split_names(option)


benchmark_options = functools.partial(class_options, "choice", BenchmarkChoice)


def quiet_opencv() -> None:
    """Keep messages of OpenCV and FFmpeg off stderr, where an error of this package says the same; not in debug."""
    if not logging.getLogger().isEnabledFor(logging.DEBUG):
        os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


def parse_box(text: str) -> Box:
    """x,y,w,h from `--box`: four finite numbers with w, h > 0. Raises InputError."""
    try:
        x, y, w, h = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--box {text}: must be four numbers x,y,w,h with commas between and no blanks") from None
    if not all(map(math.isfinite, (x, y, w, h))) or w <= 0 or h <= 0:
        raise InputError(f"--box {text}: x,y,w,h must be finite pixels, w and h greater than 0")
    return x, y, w, h


class Advance(Protocol):
    """Says that a unit is done, or several."""

    def __call__(self, units: int = 1) -> None:
        """Count `units` more."""


@contextlib.contextmanager
def progress(what: str, total: int | None, unit: str = "frames") -> Iterator[Advance]:
    """Show progress while the block runs; call what it yields for each unit done, or with a number of them.

    `total` may be unknown.
    """
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_terminal:
        from rich import progress as rich
        from rich.text import Text

        class Speed(rich.ProgressColumn):
            def render(self, task: rich.Task) -> Text:
                return Text("" if task.speed is None else f"{task.speed:.1f} {unit}/s")

        columns = (rich.TextColumn("{task.description}"), rich.BarColumn(), rich.MofNCompleteColumn(), Speed())
        with rich.Progress(*columns, rich.TimeRemainingColumn(), console=console, transient=True) as bar:
            task = bar.add_task(what, total=total)
            yield lambda units=1: bar.advance(task, units)
        return

    began = last = time.perf_counter()
    done = 0

    def advance(units: int = 1) -> None:
        nonlocal done, last
        done += units
        now = time.perf_counter()
        if now - last >= LOG_SECONDS:
            last = now
            speed = done / (now - began)
            of = f" of {total}" if total else ""
            left = f", {_words((total - done) / speed)} left" if total and speed else ""
            logger.info("%s: %d%s %s, %.1f %s/s%s", what, done, of, unit, speed, unit, left)

    yield advance


def _words(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
