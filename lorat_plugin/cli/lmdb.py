"""`lorat lmdb`: data sets as LMDB."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

lmdb_app = typer.Typer(help="Data sets as LMDB, in the layout of the STARK and OSTrack family.", no_args_is_help=True)


@lmdb_app.callback()
def lmdb_group() -> None:
    """Data sets as LMDB, in the layout of the STARK and OSTrack family."""


@lmdb_app.command("build")
def build_command(
    dataset: Annotated[str, typer.Argument(help="lasot, got10k, trackingnet, coco, vasttrack, tnl2k or clips.")],
    source: Annotated[Path, typer.Argument(metavar="SRC", help="The data set's folder.")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="Folder of the LMDB, made anew.")],
) -> None:
    """Store a data set's files as LMDB and verify each; a build that was stopped goes on.

    Example: lorat lmdb build got10k datasets/got10k datasets/got10k_lmdb
    """
    from lorat_plugin.cli.progress import progress
    from lorat_plugin.datasets.lmdb_build import build_lmdb

    with progress(f"{dataset} to LMDB", None, "files") as advance:
        files, size = build_lmdb(dataset, source, target, on_file=advance)
    typer.echo(f"{target}: {files} files, {size / 1e6:.1f} MB, verified")
