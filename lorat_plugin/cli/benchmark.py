"""`lorat benchmark`: speed and memory beside a reference, in rounds that take turns."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from lorat_plugin.cli.options import JsonOption, class_options, parse_box, progress, split_names
from lorat_plugin.settings import SpeedTrial

if TYPE_CHECKING:
    from lorat_plugin.speed.rounds import Report


def _picture(path: Optional[Path]) -> Optional[Path]:
    if path and path.suffix not in (".png", ".svg", ".pdf"):
        raise typer.BadParameter(f"{path} must end in .png, .svg or .pdf")
    return path


benchmark_app = typer.Typer(help="Speed and memory beside a baseline.", no_args_is_help=True)

TRIAL = SpeedTrial()
VariantOption = Annotated[str, typer.Option(help="Variant, e.g. lorat_b_224.")]
PlotOption = Annotated[Optional[Path], typer.Option(help="Picture of the ratios, e.g. ratios.png.", callback=_picture)]


@contextmanager
def _running(trial: SpeedTrial, what: str, warmup: int | None = None) -> Iterator[SpeedTrial]:
    """The trial with its progress shown; without `warmup` the number of rounds is not known."""
    with progress(what, None if warmup is None else trial.rounds + warmup, "rounds") as advance:
        yield replace(trial, on_round=advance)


@benchmark_app.command("model")
@class_options("trial", SpeedTrial, "on_round")
def model_command(
    models: Annotated[
        Optional[list[str]], typer.Option("--model", help="Variants; repeat or put commas between; all for every one.")
    ] = None,
    batch: Annotated[str, typer.Option(help="Search regions in one call, e.g. 1,8.")] = "1",
    trial: SpeedTrial = TRIAL,
    memory: Annotated[bool, typer.Option(help="Measure peak memory too, in a process for each.")] = True,
    plot: PlotOption = None,
    as_json: JsonOption = False,
) -> None:
    """Networks alone, on random weights: frames/s, share of a matrix product's speed, peak memory.

    Example: lorat benchmark model --model lorat_tiny,lorat_b_224 --batch 1,8 --engine all
    """
    from lorat_plugin.speed.model import benchmark_model

    names, batches = split_names(",".join(models or ["lorat_b_224"])), _numbers(batch, "--batch")
    with _running(trial, "networks") as running:
        report = benchmark_model(names, running, batches=batches, memory=memory)
    _show(report, plot, as_json)


@benchmark_app.command("track")
@class_options("trial", SpeedTrial, "on_round", rounds=5)
def track_command(
    source: Annotated[Optional[str], typer.Argument(metavar="[SOURCE]", help="Video or folder of images.")] = None,
    dataset: Annotated[
        Optional[str], typer.Option(metavar="NAME:FOLDER", help="A benchmark's longest clip, e.g. clips:DIR.")
    ] = None,
    box: Annotated[Optional[str], typer.Option(metavar="X,Y,W,H", help="Target in SOURCE; a central square.")] = None,
    model: Annotated[str, typer.Option("--model", help="Variant, e.g. lorat_tiny, lorat_b_224.")] = "lorat_tiny",
    targets: Annotated[str, typer.Option(help="Targets in a frame, e.g. 1,4,16.")] = "1",
    trial: SpeedTrial = TRIAL,
    frames: Annotated[int, typer.Option(min=2, help="Frames of the clip, at most.")] = 20,
    decoded: Annotated[bool, typer.Option("--decoded", help="Take the frames from memory.")] = False,
    plot: PlotOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tracking end to end, on random weights: frames/s with and without decode, crop and post, and each stage's time.

    Example: lorat benchmark track --model lorat_tiny --targets 1,4 --decoded

    Without SOURCE and --dataset the frames are made up, 1280x720 JPEG.
    """
    from lorat_plugin.speed.track import benchmark_track

    with _running(trial, "clips", warmup=1) as running:
        report = benchmark_track(
            model, running, source, dataset=dataset, box=parse_box(box) if box else None,
            targets=_numbers(targets, "--targets"), frames=frames, decoded=decoded,
        )  # fmt: skip
    _show(report, plot, as_json)


@benchmark_app.command("data")
@class_options(
    "trial", SpeedTrial, "contestants", "precisions", "rounds", "device", "threads", "on_round", reference=""
)
def data_command(
    datasets: Annotated[
        Optional[list[str]],
        typer.Option("--dataset", metavar="NAME:FOLDER", help="Folder or LMDB; repeat for more. None: made-up clips."),
    ] = None,
    variant: VariantOption = "lorat_b_224",
    pairs: Annotated[int, typer.Option(min=8, help="Pairs that each contestant makes.")] = 160,
    trial: SpeedTrial = TRIAL,
    plot: PlotOption = None,
    as_json: JsonOption = False,
) -> None:
    """Training pairs per second and core, by each way of making them beside the float32 one.

    Example: lorat benchmark data --dataset got10k:datasets/got10k --dataset got10k:datasets/got10k_lmdb

    --baseline is decode, or a data set, after which ", 8-bit" may follow; the first data set if left out.
    """
    from lorat_plugin.speed.train import PAIRS, benchmark_data

    trial = replace(trial, contestants=tuple(datasets or ()), rounds=pairs // PAIRS)
    with _running(trial, "training pairs", warmup=1) as running:
        report = benchmark_data(running, variant=variant)
    _show(report, plot, as_json)


@benchmark_app.command("train")
@class_options("trial", SpeedTrial, "contestants", "on_round", reference="full", rounds=5)
def train_command(
    variant: VariantOption = "lorat_b_224",
    batch: Annotated[int, typer.Option(min=1, help="Pairs in a step.")] = 8,
    modes: Annotated[
        str, typer.Option(help="lora, peft, full, baseline; +checkpointing and +compile may follow each.")
    ] = "full,lora,peft,lora+checkpointing",
    trial: SpeedTrial = TRIAL,
    plot: PlotOption = None,
    as_json: JsonOption = False,
) -> None:
    """Time and peak memory of a training step on random weights: LoRA beside full fine-tuning.

    Example: lorat benchmark train --variant lorat_b_224 --batch 8 --modes full,lora,lora+compile
    """
    from lorat_plugin.speed.train import benchmark_train

    with _running(replace(trial, contestants=tuple(split_names(modes))), "training steps", warmup=2) as running:
        report = benchmark_train(running, variant, batch)
    _show(report, plot, as_json)


def _numbers(text: str, option: str) -> list[int]:
    names = split_names(text)
    if not names or not all(name.isdigit() and int(name) for name in names):
        raise typer.BadParameter(f"{text!r}: numbers above 0 with commas between, such as 1,8", param_hint=option)
    return [int(name) for name in names]


def _show(report: Report, plot: Path | None, as_json: bool) -> None:
    from lorat_plugin.evaluation.tables import make_table, wide_console

    if plot:
        report.plot(plot)
    if as_json:
        typer.echo(json.dumps(report.as_dict(), indent=2))
        return
    rows = []
    for c in report.comparisons:
        more = "".join(f", {k} {v:.4g}" for k, v in c.details.items() if isinstance(v, float))
        value, spread = f"{c.value:.4g} {c.unit}{more}", f"{c.low:.2f} to {c.high:.2f}"
        rows.append([c.name, c.measure, value, c.reference, f"{c.ratio:.2f}x", spread])
    console = wide_console()
    table = make_table(("", "measure", "median", "ratio to", "", "quartiles"), rows, f"benchmark {report.benchmark}", 2)
    console.print(table)
    for name, value in (report.settings | report.machine).items():
        console.print(f"{name}: {_text(value)}", highlight=False)


def _text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_text(v)}" for k, v in value.items())
    return f"{value / 1e6:,.1f} M" if isinstance(value, int) and value > 1e6 else str(value)
