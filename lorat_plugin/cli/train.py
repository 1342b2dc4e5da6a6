"""`lorat train`: train a variant by a recipe."""

from __future__ import annotations

import inspect
import json
import logging
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Optional, get_args, get_origin, get_type_hints

import typer
from typer import Option

from lorat_plugin.cli.options import JsonOption
from lorat_plugin.errors import InputError
from lorat_plugin.training.config import TrainConfig, load_config

SETTINGS = (  # that have an option of their own; the others are given by --set
    "datasets", "got10k_list", "protocol", "variant", "mode", "adapter", "rank", "backbone", "backbone_model",
    "init_from", "cutouts", "photos", "clips", "clip_labels", "validation_datasets", "validation_clips", "steps",
    "batch_size", "micro_batch", "lr", "precision", "device", "seed", "threads", "workers",
)  # fmt: skip


def _with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for each of SETTINGS, by the type and description of its field."""
    signature = inspect.signature(command, eval_str=True)
    fixed = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    hints = get_type_hints(TrainConfig, include_extras=True)
    options = []
    for name in SETTINGS:
        kind, *marks = get_args(hints[name])
        flag = f"--{name.replace('_', '-')}"
        option = Option(flag, help=marks[-1].documentation)
        value: Any = kind if kind in (int, float) else str
        if get_origin(kind) is tuple:
            option = Option(flag.removesuffix("s"), metavar="NAME[:FOLDER]", help=marks[-1].documentation)
            value = list[str]
        annotation = Annotated[Optional[value], option]
        options.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation))
    ordered = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*fixed[:2], *options, *fixed[2:])]
    command.__signature__ = signature.replace(parameters=ordered)  # type: ignore[attr-defined]
    return command


@_with_settings
def train_command(
    recipe: Annotated[str, Option(help="Bundled recipe (paper, got10k, tiny, smoke) or a YAML file.")] = "tiny",
    out: Annotated[Path, Option(help="Folder of the run.")] = Path("lorat_train"),
    set_: Annotated[
        Optional[list[str]], Option("--set", metavar="NAME=VALUE", help="Any other setting; repeat for more.")
    ] = None,
    resume: Annotated[str, Option(help="auto, never, or the state or run to go on from.")] = "auto",
    dry_run: Annotated[bool, Option("--dry-run", help="Say what the run would do; train nothing.")] = False,
    as_json: JsonOption = False,
    replay: Annotated[Optional[Path], Option(help="Do the step in a not_finite_step_* folder again.")] = None,
    **settings: object,
) -> None:
    """Train LoRAT on data sets or on pairs made on the fly; a stopped run goes on where it was.

    Example: lorat train --recipe paper --dataset got10k:datasets/got10k --dataset lasot:datasets/lasot_lmdb --dry-run
    """
    if replay:
        from lorat_plugin.training.dry_run import replay as replay_step

        typer.echo("\n".join(replay_step(replay, str(settings["device"] or "cpu"))))
        return
    given = {name: value for name, value in settings.items() if value not in (None, [])}
    for item in set_ or []:
        name, equals, value = item.partition("=")
        if not equals:
            raise InputError(f"--set {item} must read NAME=VALUE, for example --set flip_chance=0.5")
        given[name] = value
    config = load_config(recipe, given)
    if dry_run:
        from lorat_plugin.training.dry_run import dry_run as plan_run

        plan = plan_run(config, out)
        typer.echo(json.dumps(asdict(plan), indent=2) if as_json else str(plan))
        return
    _train(config, out, resume)


def _train(config: TrainConfig, out: Path, resume: str) -> None:
    """Train and show how far it is; of several processes only the first speaks."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from lorat_plugin.training.launch import train

    first = os.environ.get("RANK", "0") == "0"  # set by torchrun and accelerate launch
    if not first:
        logging.getLogger().setLevel(logging.WARNING)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not (first and console.is_terminal)) as progress:
        task = progress.add_task("training", total=config.steps)

        def show(done: int, figures: str) -> None:
            progress.update(task, completed=done, description=figures)
            if not console.is_terminal:
                typer.echo(f"step {done}/{config.steps}  {figures}")

        weights = train(config, out, resume=resume, on_step=show)
    if first:
        typer.echo(f"weights: {weights}\ncurve:   {out / 'curve.png'}")
