"""`lorat submit`: results as the archive that a server wants, checked before it is uploaded."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Optional

import typer

from lorat_plugin.cli.options import SkipOption, SubsetOption, chosen_benchmark

logger = logging.getLogger(__name__)


def submit_command(
    server: Annotated[str, typer.Argument(help="got10k or trackingnet.")],
    dataset: Annotated[
        Optional[str], typer.Option("--dataset", help="NAME or NAME:FOLDER of the data set; the server's if left out.")
    ] = None,
    subset: SubsetOption = None,
    results: Annotated[
        Path, typer.Option(help="Folder of results, or of one tracker's in it; of others' too, in any layout.")
    ] = Path("results"),
    out: Annotated[Optional[Path], typer.Option(help="The archive; <server>.zip if left out.")] = None,
    check: Annotated[
        Optional[Path], typer.Option(help="Check this archive and write none; more is checked with --dataset.")
    ] = None,
    partial: Annotated[bool, typer.Option("--partial", help="Some sequences only, for a trial.")] = False,
    skip: SkipOption = None,
) -> None:
    """Zip results for the server of GOT-10k or TrackingNet and check the archive, or check one that you have.

    Example: lorat submit got10k --dataset got10k:GOT-10k --results results/GOT-10k/LoRAT
    Example: lorat submit trackingnet --check mine.zip
    """
    from lorat_plugin.evaluation import submit
    from lorat_plugin.evaluation.raw_results import find_results

    submit.server_rules(server)
    subset = subset or ("test" if server == "got10k" else None)
    if check is not None:
        found = submit.check_archive(
            check, server, chosen_benchmark(dataset, subset, None, skip=skip) if dataset else None, partial
        )
        submit.raise_problems(found, str(check))
        done = f"{check}: is as the {server} server wants it"
    else:
        benchmark = chosen_benchmark(dataset or server, subset, None, skip=skip)
        path = (out or Path(f"{server}.zip")).expanduser()
        found = submit.write_archive(path, server, benchmark, find_results(results, benchmark), partial)
        done = f"{path}: {len(benchmark)} sequences, checked"
    for warning in found.warnings:
        logger.warning("%s", warning)
    typer.echo(done)
