"""`lorat train`: train a variant by a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer


def train_command(
    recipe: Annotated[str, typer.Option(help="Bundled recipe (tiny, smoke) or a YAML file.")] = "tiny",
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("lorat_train"),
    backbone: Annotated[Optional[str], typer.Option(help="DINOv2 file, 'pretrained' or 'random'.")] = None,
    cutouts: Annotated[Optional[str], typer.Option(help="Folder of RGBA cut-outs; none: procedural shapes.")] = None,
    photos: Annotated[Optional[str], typer.Option(help="Folder of photos; none: procedural scenes.")] = None,
    clips: Annotated[Optional[str], typer.Option(help="Folder of labelled clips.")] = None,
    validation_clips: Annotated[Optional[str], typer.Option(help="Folder of labelled clips to track through.")] = None,
    clip_labels: Annotated[Optional[str], typer.Option(help="Folder of labels for more targets in them.")] = None,
    variant: Annotated[Optional[str], typer.Option(help="Variant to train, if not the recipe's.")] = None,
    steps: Annotated[Optional[int], typer.Option(help="Updates in all.")] = None,
    batch_size: Annotated[Optional[int], typer.Option(help="Pairs in an update.")] = None,
    lr: Annotated[Optional[float], typer.Option(help="Peak learning rate.")] = None,
    seed: Annotated[Optional[int], typer.Option(help="Seed of pairs and start values.")] = None,
    threads: Annotated[Optional[int], typer.Option(help="Compute threads; 0: torch decides.")] = None,
    workers: Annotated[Optional[int], typer.Option(help="Processes that make pairs.")] = None,
    set_: Annotated[Optional[list[str]], typer.Option("--set", help="Any other setting, NAME=VALUE; repeat.")] = None,
    resume: Annotated[str, typer.Option(help="auto, never, or the state.safetensors to go on from.")] = "auto",
    init_from: Annotated[Optional[str], typer.Option(help="State whose weights are the start of a new run.")] = None,
) -> None:
    """Train LoRAT adapters and head on pairs made on the fly; a stopped run goes on where it was.

    Example: lorat train --recipe tiny --backbone dinov2.safetensors --cutouts objects --photos photos --out run
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from lorat_plugin.errors import InputError
    from lorat_plugin.training.config import load_config
    from lorat_plugin.training.recipe import train

    settings: dict[str, object] = {
        "backbone": backbone,
        "cutouts": cutouts,
        "photos": photos,
        "clips": clips,
        "validation_clips": validation_clips,
        "clip_labels": clip_labels,
        "variant": variant,
        "steps": steps,
        "batch_size": batch_size,
        "lr": lr,
        "seed": seed,
        "threads": threads,
        "workers": workers,
    }
    for item in set_ or []:
        name, equals, value = item.partition("=")
        if not equals:
            raise InputError(f"--set {item} must read NAME=VALUE, for example --set flip_chance=0.5")
        settings[name] = value
    config = load_config(recipe, settings)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("training", total=config.steps)

        def show(done: int, figures: str) -> None:
            progress.update(task, completed=done, description=figures)
            if not console.is_terminal:
                typer.echo(f"step {done}/{config.steps}  {figures}")

        weights = train(config, out, resume=resume, init_from=init_from, on_step=show)
    typer.echo(f"weights: {weights}")
    typer.echo(f"curve:   {out / 'curve.png'}")
