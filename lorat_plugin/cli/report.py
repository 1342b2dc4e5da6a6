"""`lorat report`: one HTML page about results that are there already."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lorat_plugin.cli.options import (
    DatasetOption,
    FormatOption,
    ProtocolOption,
    ResultsOption,
    SequencesOption,
    SkipOption,
    SubsetOption,
    chosen_benchmark,
)
from lorat_plugin.errors import InputError

if TYPE_CHECKING:
    from lorat_plugin.evaluation.results import ResultFiles

logger = logging.getLogger(__name__)


def report_command(
    dataset: DatasetOption,
    trackers: Annotated[
        str, typer.Option(help="Names among the results, comma separated; the first one's worst sequences are shown.")
    ] = "LoRAT",
    results: ResultsOption = Path("results"),
    out: Annotated[Path, typer.Option(help="The page; plots and tables go to a folder beside it, NAME_files.")] = Path(
        "report.html"
    ),
    protocol: ProtocolOption = None,
    worst: Annotated[int, typer.Option(min=0, help="Sequences to show with pictures.")] = 5,
    style: FormatOption = "got10k",
    subset: SubsetOption = None,
    sequences: SequencesOption = None,
    skip: SkipOption = None,
) -> None:
    """Write one self-contained HTML page: scores, plots, worst sequences, reliability of the score, settings.

    Example: lorat report --dataset lasot:LaSOT --trackers LoRAT,other --results results --out lasot.html
    """
    from lorat_plugin.evaluation.plots import write_plots
    from lorat_plugin.evaluation.raw_results import fit_lengths, start_notes
    from lorat_plugin.evaluation.report import check_names, write_report
    from lorat_plugin.evaluation.results import notes_folder, result_files
    from lorat_plugin.evaluation.scoring import score_tracker
    from lorat_plugin.evaluation.tables import write_tables

    names = [name.strip() for name in trackers.split(",") if name.strip()]
    check_names(names)
    benchmark = chosen_benchmark(dataset, subset, sequences, skip=skip, style=style)
    files = {name: result_files(benchmark, results, name, style) for name in names}
    for tracker in files.values():
        _check_present(tracker)
    notes = {name: notes_folder(benchmark, results, name) for name in names}
    # those without settings are raw results of others
    raw = [tracker for name, tracker in files.items() if not (notes[name] / "run.json").is_file()]
    benchmark, fitted, remarks = fit_lengths(benchmark, raw, protocol or benchmark.protocol)
    files |= {tracker.tracker: tracker for tracker in fitted}
    remarks += [note for tracker in fitted for note in start_notes(benchmark, tracker)]
    for remark in remarks:
        logger.warning("%s", remark)
    scores = [score_tracker(benchmark, tracker, protocol) for tracker in files.values()]
    plots = write_report(benchmark, scores, files, notes, out, worst, remarks=remarks)
    beside = out.with_name(f"{out.stem}_files")
    write_plots(plots, beside)
    write_tables(scores, beside)
    logger.info("page: %s; plots and tables: %s", out, beside)


def _check_present(files: ResultFiles) -> None:
    """Raise InputError if a tracker has no folder of results."""
    if not files.folder.is_dir():
        home = files.folder.parent
        others = sorted(p.name for p in home.iterdir() if p.is_dir())[:10] if home.is_dir() else []
        remedy = f"there are {', '.join(others)}" if others else "run lorat evaluate first, or name another folder"
        raise InputError(f"{files.folder}: no results of {files.tracker} there; {remedy}")
