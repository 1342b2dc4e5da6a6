"""`lorat train`, `lorat data` and `lorat lmdb`: train a variant by a recipe; its data as folders and as LMDB."""

from __future__ import annotations

import inspect
import json
import logging
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional, get_args, get_origin, get_type_hints

import typer
from typer import Option

from lorat_plugin.cli.options import JsonOption, progress
from lorat_plugin.errors import InputError
from lorat_plugin.training.config import TrainConfig, load_config

if TYPE_CHECKING:
    from lorat_plugin.datasets.registry import DatasetReport

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

    from lorat_plugin.training.launch import train

    first = os.environ.get("RANK", "0") == "0"  # set by torchrun and accelerate launch
    if not first:
        logging.getLogger().setLevel(logging.WARNING)
    console = Console(stderr=True)
    with console.status("training") as status:

        def show(done: int, figures: str) -> None:
            line = f"step {done}/{config.steps}  {figures}"
            status.update(line)
            if not console.is_terminal:
                typer.echo(line)

        weights = train(config, out, resume=resume, on_step=show)
    if first:
        typer.echo(f"weights: {weights}\ncurve:   {out / 'curve.png'}")


SHOWN_PROBLEMS = 20

data_app = typer.Typer(help="Training data: what is there, and whether it is whole.", no_args_is_help=True)


@data_app.command("check")
def check_command(
    root: Annotated[Path, typer.Argument(help="Folder or LMDB of a data set, or a folder of several.")],
    dataset: Annotated[Optional[str], Option("--dataset", help="Which it is, if its name does not tell.")] = None,
    list_file: Annotated[Optional[Path], Option("--list", help="Split file: names, or numbers for got10k.")] = None,
    reading: Annotated[str, Option(help="Numbers in a got10k split file: index or name.")] = "index",
    images: Annotated[int, Option(min=0, help="Frames to decode on trial, spread over the data set.")] = 100,
    headers: Annotated[
        bool, Option(help="Read the size of every frame, some minutes for a million, or of a sample.")
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Say what of a data set was found, what is missing and what is malformed. Exit code 2 if anything is.

    Example: lorat data check datasets/got10k
    """
    from lorat_plugin.datasets.got10k import read_list
    from lorat_plugin.datasets.registry import check_dataset, find_datasets

    if reading not in ("index", "name"):
        raise InputError(f"--reading {reading}: use index or name")
    found = find_datasets(root, dataset)
    if list_file and len(found) > 1:
        raise InputError(f"--list {list_file}: {root} holds {len(found)} data sets; check the one with the list alone")
    reports = []
    for name, folder in found:
        options: dict[str, object] = {"chosen": read_list(list_file)} if list_file else {}
        if name == "got10k":
            options["reading"] = reading
        reports.append(check_dataset(name, folder, images, headers=headers, **options))
    if as_json:
        typer.echo(json.dumps([asdict(report) for report in reports], indent=2))
    else:
        _show(reports)
    if any(report.problems for report in reports):
        raise typer.Exit(2)


def _show(reports: list[DatasetReport]) -> None:
    for report in reports:
        typer.echo(f"{report.dataset} in {report.root} ({report.kind})")
        typer.echo(f"  {report.sequences} sequences, {report.tracks} objects, {report.frames} frames after cleaning")
        typer.echo(f"  {report.present} boxes; {report.unused} sequences without a visible object")
        if report.outside:
            typer.echo(f"  {report.outside} boxes outside their pictures or without area are not used")
        typer.echo(f"  {report.decoded} frames decoded on trial")
        for subject, texts in (("note", report.notes), ("problem", report.problems)):
            for text in texts[:SHOWN_PROBLEMS]:
                typer.echo(f"  {subject}: {text}")
            if len(texts) > SHOWN_PROBLEMS:
                typer.echo(f"  and {len(texts) - SHOWN_PROBLEMS} more {subject}s; --json lists them all")
        if not report.problems:
            typer.echo("  nothing is missing or malformed")


lmdb_app = typer.Typer(help="Data sets as LMDB, in the layout of the STARK and OSTrack family.", no_args_is_help=True)


@lmdb_app.command("build")
def build_command(
    dataset: Annotated[str, typer.Argument(help="lasot, got10k, trackingnet, coco, vasttrack, tnl2k or clips.")],
    source: Annotated[Path, typer.Argument(metavar="SRC", help="The data set's folder.")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="Folder of the LMDB, made anew.")],
) -> None:
    """Store a data set's files as LMDB and verify each; a build that was stopped goes on.

    Example: lorat lmdb build got10k datasets/got10k datasets/got10k_lmdb
    """
    from lorat_plugin.datasets.lmdb_build import build_lmdb

    with progress(f"{dataset} to LMDB", None, "files") as advance:
        files, size = build_lmdb(dataset, source, target, on_file=advance)
    typer.echo(f"{target}: {files} files, {size / 1e6:.1f} MB, verified")
