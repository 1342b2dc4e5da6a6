"""`lorat benchmark`: speed and memory beside a reference, in rounds that take turns."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from lorat_plugin.cli.console import parse_box, progress
from lorat_plugin.cli.options import DeviceOption, JsonOption, PrecisionOption
from lorat_plugin.engines import list_engines, list_precisions

if TYPE_CHECKING:
    from rich.table import Table

    from lorat_plugin.speed.rounds import Comparison, Report, SpeedTrial


def _picture(path: Optional[Path]) -> Optional[Path]:
    if path and path.suffix not in (".png", ".svg", ".pdf"):
        raise typer.BadParameter(f"{path} must end in .png, .svg or .pdf")
    return path


benchmark_app = typer.Typer(help="Speed and memory beside a baseline.", no_args_is_help=True)


VariantOption = Annotated[str, typer.Option(help="Variant, e.g. lorat_b_224.")]
VariantModelOption = Annotated[str, typer.Option("--model", help="Variant, e.g. lorat_tiny, lorat_b_224.")]
ModelsOption = Annotated[
    Optional[list[str]], typer.Option("--model", help="Variants; repeat or put commas between; all for every one.")
]
EnginesOption = Annotated[str, typer.Option("--engine", help=f"From auto, {', '.join(list_engines())}; all.")]
PrecisionsOption = Annotated[str, typer.Option("--precision", help=f"From auto, {', '.join(list_precisions())}.")]
ReferenceOption = Annotated[str, typer.Option("--baseline", help="The engine that the others are compared with.")]
RoundsOption = Annotated[int, typer.Option("--rounds", min=1, help="Rounds that count.")]
MemoryOption = Annotated[bool, typer.Option(help="Measure peak memory too, in a process for each.")]
ThreadsOption = Annotated[int, typer.Option("--threads", min=0, help="Compute threads; 0: torch decides.")]
PlotOption = Annotated[Optional[Path], typer.Option(help="Picture of the ratios, e.g. ratios.png.", callback=_picture)]


@contextmanager
def _trial(what: str, warmup: int | None, rounds: int, contestants: list[str], *fields: Any) -> Iterator[SpeedTrial]:
    """A trial that shows its progress; `fields` are reference, precisions, device and threads."""
    from lorat_plugin.speed.rounds import SpeedTrial

    with progress(what, None if warmup is None else rounds + warmup, "rounds") as advance:
        names = ("reference", "precisions", "device", "threads")
        yield SpeedTrial(contestants, rounds=rounds, on_round=advance, **dict(zip(names, fields, strict=False)))


@benchmark_app.command("model")
def model_command(
    models: ModelsOption = None,
    batch: Annotated[str, typer.Option(help="Search regions in one call, e.g. 1,8.")] = "1",
    engine: EnginesOption = "eager,fused",
    precision: PrecisionsOption = "auto",
    reference: ReferenceOption = "eager",
    rounds: RoundsOption = 10,
    device: DeviceOption = "auto",
    threads: ThreadsOption = 0,
    memory: MemoryOption = True,
    plot: PlotOption = None,
    as_json: JsonOption = False,
) -> None:
    """Networks alone, on random weights: frames/s, share of a matrix product's speed, peak memory.

    Example: lorat benchmark model --model lorat_tiny,lorat_b_224 --batch 1,8 --engine all
    """
    from lorat_plugin.speed.model import benchmark_model

    names, batches = _names(models) or ["lorat_b_224"], _numbers(batch, "--batch")
    with _trial("networks", None, rounds, _names([engine]), reference, _names([precision]), device, threads) as trial:
        report = benchmark_model(names, trial, batches=batches, memory=memory)
    _show(report, plot, as_json)


@benchmark_app.command("track")
def track_command(
    source: Annotated[Optional[str], typer.Argument(metavar="[SOURCE]", help="Video or folder of images.")] = None,
    dataset: Annotated[
        Optional[str], typer.Option(metavar="NAME:FOLDER", help="A benchmark's longest clip, e.g. clips:DIR.")
    ] = None,
    box: Annotated[Optional[str], typer.Option(metavar="X,Y,W,H", help="Target in SOURCE; a central square.")] = None,
    model: VariantModelOption = "lorat_tiny",
    targets: Annotated[str, typer.Option(help="Targets in a frame, e.g. 1,4,16.")] = "1",
    engine: EnginesOption = "eager,fused",
    precision: PrecisionsOption = "auto",
    reference: ReferenceOption = "eager",
    frames: Annotated[int, typer.Option(min=2, help="Frames of the clip, at most.")] = 20,
    decoded: Annotated[bool, typer.Option("--decoded", help="Take the frames from memory.")] = False,
    rounds: RoundsOption = 5,
    device: DeviceOption = "auto",
    threads: ThreadsOption = 0,
    plot: PlotOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tracking end to end, on random weights: frames/s with and without decode, crop and post, and each stage's time.

    Example: lorat benchmark track --model lorat_tiny --targets 1,4 --decoded

    Without SOURCE and --dataset the frames are made up, 1280x720 JPEG.
    """
    from lorat_plugin.speed.track import benchmark_track

    with _trial("clips", 1, rounds, _names([engine]), reference, _names([precision]), device, threads) as trial:
        report = benchmark_track(
            model, trial, source, dataset=dataset, box=parse_box(box) if box else None,
            targets=_numbers(targets, "--targets"), frames=frames, decoded=decoded,
        )  # fmt: skip
    _show(report, plot, as_json)


@benchmark_app.command("data")
def data_command(
    datasets: Annotated[
        Optional[list[str]],
        typer.Option("--dataset", metavar="NAME:FOLDER", help="Folder or LMDB; repeat for more. None: made-up clips."),
    ] = None,
    variant: VariantOption = "lorat_b_224",
    pairs: Annotated[int, typer.Option(min=8, help="Pairs that each contestant makes.")] = 160,
    reference: Annotated[
        str,
        typer.Option("--baseline", help="decode, or a data set, ', 8-bit' may follow. None: the first one."),
    ] = "",
    plot: PlotOption = None,
    as_json: JsonOption = False,
) -> None:
    """Training pairs per second and core, by each way of making them beside the float32 one.

    Example: lorat benchmark data --dataset got10k:datasets/got10k --dataset got10k:datasets/got10k_lmdb
    """
    from lorat_plugin.speed.train import PAIRS, benchmark_data

    with _trial("training pairs", 1, pairs // PAIRS, datasets or [], reference) as trial:
        report = benchmark_data(trial, variant=variant)
    _show(report, plot, as_json)


@benchmark_app.command("train")
def train_command(
    variant: VariantOption = "lorat_b_224",
    batch: Annotated[int, typer.Option(min=1, help="Pairs in a step.")] = 8,
    modes: Annotated[
        str, typer.Option(help="lora, peft, full, baseline; +checkpointing and +compile may follow each.")
    ] = "full,lora,peft,lora+checkpointing",
    reference: Annotated[str, typer.Option("--baseline", help="One of the modes.")] = "full",
    rounds: Annotated[int, typer.Option(min=1, help="Steps of each mode.")] = 5,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = 0,
    plot: PlotOption = None,
    as_json: JsonOption = False,
) -> None:
    """Time and peak memory of a training step on random weights: LoRA beside full fine-tuning.

    Example: lorat benchmark train --variant lorat_b_224 --batch 8 --modes full,lora,lora+compile
    """
    from lorat_plugin.speed.train import benchmark_train

    with _trial("training steps", 2, rounds, _names([modes]), reference, [precision], device, threads) as trial:
        report = benchmark_train(trial, variant, batch)
    _show(report, plot, as_json)


def _names(values: Optional[list[str]]) -> list[str]:
    return [name.strip() for value in values or [] for name in value.split(",") if name.strip()]


def _numbers(text: str, option: str) -> list[int]:
    names = _names([text])
    if not names or not all(name.isdigit() and int(name) for name in names):
        raise typer.BadParameter(f"{text!r}: numbers above 0 with commas between, such as 1,8", param_hint=option)
    return [int(name) for name in names]


def _show(report: Report, plot: Path | None, as_json: bool) -> None:
    from lorat_plugin.evaluation.tables import make_table, wide_console
    from lorat_plugin.speed.rounds import STAGE

    if plot:
        report.plot(plot)
    if as_json:
        typer.echo(json.dumps(report.as_dict(), indent=2))
        return
    tables = {k: v for k, v in report.settings.items() if isinstance(v, dict)}
    title = f"{report.benchmark}: " + ", ".join(f"{k} {v}" for k, v in report.settings.items() if k not in tables)
    rows = []
    stages = [c for c in report.comparisons if c.measure.startswith(STAGE)]
    for c in [c for c in report.comparisons if c not in stages]:
        more = "".join(f", {k} {v:.4g}" for k, v in c.details.items() if isinstance(v, float))
        value, spread = f"{c.value:.4g} {c.unit}{more}", f"{c.low:.2f} to {c.high:.2f}"
        rows.append([c.name, c.measure, value, c.reference, f"{c.ratio:.2f}x", spread])
    console = wide_console()
    console.print(make_table(("", "measure", "median", "ratio to", "", "quartiles"), rows, title, left=2))
    if stages:
        console.print(_stage_table(stages))
    for name, values in tables.items():
        for key, value in values.items():
            console.print(f"{name}, {key}: {_text(value)}", highlight=False)
    versions = report.machine["versions"]
    machine = {k: v for k, v in report.machine.items() if k != "versions" and v is not None}
    packages = ", ".join(f"{name} {versions[name]}" for name in ("torch", "timm", "numpy") if name in versions)
    console.print(", ".join(f"{k} {v}" for k, v in machine.items()) + f"; {packages}", highlight=False)


def _stage_table(stages: list[Comparison]) -> Table:
    """A row for each contestant, a column for each stage."""
    from lorat_plugin.evaluation.tables import make_table

    headings = ["", *dict.fromkeys(c.measure.partition(": ")[2] for c in stages)]
    names = dict.fromkeys(c.name for c in stages)
    rows = [[n, *(f"{c.value:.3g} ({c.details['p95']:.3g})" for c in stages if c.name == n)] for n in names]
    return make_table(headings, rows, "stages, ms a frame: median (95 % are below)")


def _text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_text(v)}" for k, v in value.items())
    return f"{value / 1e6:,.1f} M" if isinstance(value, int) else str(value)
