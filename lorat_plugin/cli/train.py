"""`lorat train`: train a variant by a recipe."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer
from typer import Option

from lorat_plugin.cli.options import JsonOption

if TYPE_CHECKING:
    from lorat_plugin.training.config import TrainConfig

Text = Optional[str]
Texts = Optional[list[str]]


def train_command(
    context: typer.Context,
    recipe: Annotated[str, Option(help="Bundled recipe (paper, got10k, tiny, smoke) or a YAML file.")] = "tiny",
    out: Annotated[Path, Option(help="Folder of the run.")] = Path("lorat_train"),
    datasets: Annotated[Texts, Option("--dataset", metavar="NAME[:FOLDER]", help="Data set; repeat for more.")] = None,
    got10k_list: Annotated[Text, Option(help="Split file that chooses sequences of GOT-10k.")] = None,
    protocol: Annotated[Text, Option(help="got10k: refuse all other data.")] = None,
    variant: Annotated[Text, Option(help="Variant to train, if not the recipe's.")] = None,
    mode: Annotated[Text, Option(help="lora, full (fine-tuning), or baseline (the paper's).")] = None,
    adapter: Annotated[Text, Option(help="lora, rslora, or another of peft's, e.g. loha.")] = None,
    rank: Annotated[Optional[int], Option(help="Rank of the adapters; 0: the variant's.")] = None,
    backbone: Annotated[Text, Option(help="Backbone file, 'pretrained' or 'random'.")] = None,
    backbone_model: Annotated[Text, Option(help="Another backbone by timm's name.")] = None,
    init_from: Annotated[Text, Option(help="Weights or state that a new run starts from.")] = None,
    cutouts: Annotated[Text, Option(help="Folder of RGBA cut-outs; none: procedural shapes.")] = None,
    photos: Annotated[Text, Option(help="Folder of photos; none: procedural scenes.")] = None,
    clips: Annotated[Text, Option(help="Folder of labelled clips, mixed with made pairs.")] = None,
    clip_labels: Annotated[Text, Option(help="Folder of labels for more targets in them.")] = None,
    validation_datasets: Annotated[
        Texts, Option("--validation-dataset", metavar="NAME[:FOLDER]", help="Held-out split; repeat for more.")
    ] = None,
    validation_clips: Annotated[Text, Option(help="Folder of labelled clips to track through.")] = None,
    steps: Annotated[Optional[int], Option(help="Updates in all.")] = None,
    batch_size: Annotated[Optional[int], Option(help="Pairs in an update, over all processes.")] = None,
    micro_batch: Annotated[Optional[int], Option(help="Pairs through the network at once; 0: all.")] = None,
    lr: Annotated[Optional[float], Option(help="Peak learning rate.")] = None,
    precision: Annotated[Text, Option(help="auto, fp32, bf16 or fp16.")] = None,
    device: Annotated[Text, Option(help="auto, cpu, cuda, cuda:1, mps.")] = None,
    seed: Annotated[Optional[int], Option(help="Seed of pairs and start values.")] = None,
    threads: Annotated[Optional[int], Option(help="Compute threads; 0: torch decides.")] = None,
    workers: Annotated[Optional[int], Option(help="Processes that make pairs.")] = None,
    set_: Annotated[Texts, Option("--set", metavar="NAME=VALUE", help="Any other setting; repeat for more.")] = None,
    resume: Annotated[str, Option(help="auto, never, or the state or run to go on from.")] = "auto",
    dry_run: Annotated[bool, Option("--dry-run", help="Say what the run would do; train nothing.")] = False,
    as_json: JsonOption = False,
    replay: Annotated[Optional[Path], Option(help="Do the step in a not_finite_step_* folder again.")] = None,
) -> None:
    """Train LoRAT on data sets or on pairs made on the fly; a stopped run goes on where it was.

    Example: lorat train --recipe paper --dataset got10k:datasets/got10k --dataset lasot:datasets/lasot_lmdb --dry-run
    """
    from lorat_plugin.training.config import load_config

    if replay:
        from lorat_plugin.training.failure import replay as replay_step

        typer.echo("\n".join(replay_step(replay, device or "cpu")))
        return
    config = load_config(recipe, _settings(context, set_ or []))
    if dry_run:
        from lorat_plugin.training.dry_run import dry_run as plan_run

        plan = plan_run(config, out)
        typer.echo(json.dumps(asdict(plan), indent=2) if as_json else str(plan))
        return
    _train(config, out, resume)


def _settings(context: typer.Context, more: list[str]) -> dict[str, object]:
    """What the options and `--set NAME=VALUE` change in the recipe."""
    from lorat_plugin.errors import InputError
    from lorat_plugin.training.config import TrainConfig

    given = {name: value for name, value in context.params.items() if value not in (None, [], ())}
    settings = {name: value for name, value in given.items() if name in TrainConfig.__dataclass_fields__}
    for item in more:
        name, equals, value = item.partition("=")
        if not equals:
            raise InputError(f"--set {item} must read NAME=VALUE, for example --set flip_chance=0.5")
        settings[name] = value
    return settings


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
