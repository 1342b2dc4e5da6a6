"""`lorat benchmark`: speed and memory beside a baseline, in rounds that take turns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from lorat_plugin.cli.options import DeviceOption, JsonOption, PrecisionOption

if TYPE_CHECKING:
    from lorat_plugin.benchmark.rounds import Report

VariantOption = Annotated[str, typer.Option(help="Variant, e.g. lorat_b_224.")]


def _picture(path: Optional[Path]) -> Optional[Path]:
    if path and path.suffix not in (".png", ".svg", ".pdf"):
        raise typer.BadParameter(f"{path} must end in .png, .svg or .pdf")
    return path


PlotOption = Annotated[Optional[Path], typer.Option(help="Picture of the ratios, e.g. ratios.png.", callback=_picture)]

benchmark_app = typer.Typer(help="Speed and memory beside a baseline.", no_args_is_help=True)


@benchmark_app.callback()
def benchmark_group() -> None:
    """Speed and memory beside a baseline: contestants take turns, ratios are taken round by round."""


@benchmark_app.command("data")
def data_command(
    datasets: Annotated[
        Optional[list[str]],
        typer.Option("--dataset", metavar="NAME:FOLDER", help="Folder or LMDB; repeat for more. None: made-up clips."),
    ] = None,
    variant: VariantOption = "lorat_b_224",
    pairs: Annotated[int, typer.Option(min=8, help="Pairs that each contestant makes.")] = 160,
    baseline: Annotated[str, typer.Option(help="plain, decode, or a data set; ', 8-bit' may follow it.")] = "plain",
    plot: PlotOption = None,
    as_json: JsonOption = False,
) -> None:
    """Training pairs per second and core, beside a plain torchvision pipeline of the same steps.

    Example: lorat benchmark data --dataset got10k:datasets/got10k --dataset got10k:datasets/got10k_lmdb
    """
    from lorat_plugin.benchmark.data import PAIRS, benchmark_data
    from lorat_plugin.cli.progress import progress

    with progress("training pairs", pairs // PAIRS + 1, "rounds") as advance:
        report = benchmark_data(datasets or (), variant=variant, pairs=pairs, baseline=baseline, on_round=advance)
    _show(report, plot, as_json)


@benchmark_app.command("train")
def train_command(
    variant: VariantOption = "lorat_b_224",
    batch: Annotated[int, typer.Option(min=1, help="Pairs in a step.")] = 8,
    modes: Annotated[
        str, typer.Option(help="lora, peft, full, baseline; +checkpointing and +compile may follow each.")
    ] = "full,lora,peft,lora+checkpointing",
    baseline: Annotated[str, typer.Option(help="One of the modes.")] = "full",
    rounds: Annotated[int, typer.Option(min=1, help="Steps of each mode.")] = 5,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    threads: Annotated[int, typer.Option(min=0, help="Compute threads; 0: torch decides.")] = 0,
    plot: PlotOption = None,
    as_json: JsonOption = False,
) -> None:
    """Time and peak memory of a training step on random weights: LoRA beside full fine-tuning.

    Example: lorat benchmark train --variant lorat_b_224 --batch 8 --modes full,lora,lora+compile
    """
    from lorat_plugin.benchmark.train import benchmark_train
    from lorat_plugin.cli.progress import progress

    names = [name.strip() for name in modes.split(",")]
    settings = {"baseline": baseline, "device": device, "precision": precision}
    with progress("training steps", rounds + 2, "rounds") as advance:
        report = benchmark_train(
            names, variant=variant, batch=batch, rounds=rounds, threads=threads, on_round=advance, **settings
        )
    _show(report, plot, as_json)


def _show(report: Report, plot: Path | None, as_json: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    if plot:
        report.plot(plot)
    if as_json:
        typer.echo(json.dumps(report.as_dict(), indent=2))
        return
    table = Table(title=f"{report.benchmark}: " + ", ".join(f"{k} {v}" for k, v in report.settings.items()))
    for column in ("", "measure", "median", f"ratio to {report.comparisons[0].baseline}", "quartiles"):
        table.add_column(column, justify="left" if column in ("", "measure") else "right")
    for c in report.comparisons:
        value, spread = f"{c.value:.4g} {c.unit}", f"{c.low:.2f} to {c.high:.2f}"
        table.add_row(c.name, c.measure, value, f"{c.ratio:.2f}x", spread)
    console = Console()
    console.print(table)
    versions = report.machine["versions"]
    machine = {k: v for k, v in report.machine.items() if k != "versions" and v is not None}
    told = ", ".join(
        f"{name} {versions[name]}" for name in ("torch", "torchvision", "timm", "numpy") if name in versions
    )
    console.print(", ".join(f"{k} {v}" for k, v in machine.items()) + f"; {told}", highlight=False)
