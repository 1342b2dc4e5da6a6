"""`lorat data` and `lorat lmdb`: training data on this machine, as folders and as LMDB."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from lorat_plugin.cli.options import JsonOption

if TYPE_CHECKING:
    from lorat_plugin.datasets.registry import DatasetReport

SHOWN_PROBLEMS = 20

data_app = typer.Typer(help="Training data: what is there, and whether it is whole.", no_args_is_help=True)


@data_app.command("check")
def check_command(
    root: Annotated[Path, typer.Argument(help="Folder or LMDB of a data set, or a folder of several.")],
    dataset: Annotated[Optional[str], typer.Option("--dataset", help="Which it is, if its name does not tell.")] = None,
    list_file: Annotated[
        Optional[Path], typer.Option("--list", help="Split file: names, or numbers for got10k.")
    ] = None,
    reading: Annotated[str, typer.Option(help="Numbers in a got10k split file: index or name.")] = "index",
    images: Annotated[int, typer.Option(min=0, help="Frames to decode on trial, spread over the data set.")] = 100,
    headers: Annotated[
        bool, typer.Option(help="Read the size of every frame, some minutes for a million, or of a sample.")
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Say what of a data set was found, what is missing and what is malformed. Exit code 2 if anything is.

    Example: lorat data check datasets/got10k
    """
    from lorat_plugin.datasets.got10k import read_list
    from lorat_plugin.datasets.registry import check_dataset, find_datasets
    from lorat_plugin.errors import InputError

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
        for note in report.notes[:SHOWN_PROBLEMS]:
            typer.echo(f"  note: {note}")
        if len(report.notes) > SHOWN_PROBLEMS:
            typer.echo(f"  and {len(report.notes) - SHOWN_PROBLEMS} more notes; --json lists them all")
        for problem in report.problems[:SHOWN_PROBLEMS]:
            typer.echo(f"  problem: {problem}")
        if len(report.problems) > SHOWN_PROBLEMS:
            typer.echo(f"  and {len(report.problems) - SHOWN_PROBLEMS} more problems; --json lists them all")
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
    from lorat_plugin.cli.console import progress
    from lorat_plugin.datasets.lmdb_build import build_lmdb

    with progress(f"{dataset} to LMDB", None, "files") as advance:
        files, size = build_lmdb(dataset, source, target, on_file=advance)
    typer.echo(f"{target}: {files} files, {size / 1e6:.1f} MB, verified")
