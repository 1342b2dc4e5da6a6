"""`lorat evaluate`: LoRAT on a benchmark, many sequences at once, on as many processes as there are."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Optional

import typer

from lorat_plugin.cli.console import progress
from lorat_plugin.cli.options import (
    DEFAULTS,
    AttributesOption,
    DatasetOption,
    FormatOption,
    JsonOption,
    ProtocolOption,
    ResultsOption,
    SequencesOption,
    SkipOption,
    SubsetOption,
    settings_options,
)
from lorat_plugin.errors import InputError
from lorat_plugin.settings import TrackerSettings

if TYPE_CHECKING:
    from lorat_plugin.evaluation.benchmarks import Benchmark
    from lorat_plugin.evaluation.evaluate import Evaluation
    from lorat_plugin.evaluation.results import ResultFiles

logger = logging.getLogger(__name__)

SHOWN_FAILURES = 5


@settings_options()
def evaluate_command(
    dataset: DatasetOption,
    settings: TrackerSettings = DEFAULTS,
    batch: Annotated[
        int, typer.Option(min=1, help="Sequences at once in each process. 1 alone measures the speed on one target.")
    ] = 8,
    results: ResultsOption = Path("results"),
    name: Annotated[
        str, typer.Option(help="Of these results: their folder's name and the label in reports.")
    ] = "LoRAT",
    subset: SubsetOption = None,
    sequences: SequencesOption = None,
    skip: SkipOption = None,
    attributes: AttributesOption = None,
    protocol: ProtocolOption = None,
    style: FormatOption = "got10k",
    repetitions: Annotated[int, typer.Option(min=1, help="Runs through each sequence, for GOT-10k's files.")] = 1,
    rasterize: Annotated[
        Optional[bool],
        typer.Option(help="Round boxes outwards to whole pixels, as LoRAT's are for got10k and trackingnet."),
    ] = None,
    check_official: Annotated[
        Optional[Path], typer.Option(help="Someone's raw results, a folder or zip, to be compared frame by frame.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Track the sequences of a benchmark, many at once; write the toolkits' result files, and score them.

    Processes started by torchrun or accelerate launch share the sequences out. A stopped run goes on where it was.

    Example: lorat evaluate --dataset lasot:LaSOT --model lorat_l_224 --weights large.bin --batch 32
    """
    from lorat_plugin.cli.options import chosen_benchmark
    from lorat_plugin.evaluation.evaluate import Evaluation
    from lorat_plugin.evaluation.scoring import check_scorable

    settings.check()
    benchmark = chosen_benchmark(dataset, subset, sequences, attributes, rasterize, skip, style)
    if protocol or benchmark.scorable:
        check_scorable(benchmark, protocol or benchmark.protocol)  # before the work, not after it
    official = None if check_official is None else _find_official(check_official, benchmark)
    run = Evaluation(
        settings.network(), benchmark, results, name, settings, batch=batch, style=style, repetitions=repetitions
    )
    if run.process.rank > 0:
        return run.play()
    left = run.frames_open()
    logger.info("%s on %s: %d sequences, %d frames to track", name, benchmark.name, len(benchmark), left)
    with progress(name, left) as advance:
        run.play(advance)
    if run.failures:
        told = "; ".join(str(error) for error in list(run.failures.values())[:SHOWN_FAILURES])
        raise InputError(
            f"{len(run.failures)} of {len(benchmark)} sequences could not be tracked: {told}; the others are done:"
            f" mend these, or leave them out (--skip {','.join(run.failures)}), and run the same command again"
        )
    _tell(benchmark, run, protocol, official, as_json)


class _Official(NamedTuple):
    """Someone's raw results, the sequences and frames that they have, and what differs."""

    files: ResultFiles
    benchmark: Benchmark
    notes: list[str]


def _find_official(folder: Path, benchmark: Benchmark) -> _Official:
    """Read all of someone's results before any work, and log what cannot be compared or looks wrong."""
    from lorat_plugin.evaluation.raw_results import find_results, fit_lengths, start_notes

    common, (files,), notes = fit_lengths(benchmark, [find_results(folder, benchmark)], partial=True)
    for note in [*notes, *start_notes(common, files)]:
        logger.warning("%s", note)
    return _Official(files, common, notes)


def _tell(
    benchmark: Benchmark, run: Evaluation, protocol: Optional[str], official: Optional[_Official], as_json: bool
) -> None:
    """Score the results where the truth is public, compare them with someone's where that is asked for, and print."""
    from lorat_plugin.evaluation.raw_results import compare_runs, show_agreement
    from lorat_plugin.evaluation.scoring import score_tracker
    from lorat_plugin.evaluation.tables import show_table, wide_console, write_tables

    throughput = run.frames / run.seconds if run.frames else None
    content: dict[str, Any] = {
        "skipped": list(benchmark.skipped),
        "results": str(run.files.folder),
        "frames": run.frames,
        "frames_per_second": throughput,
    }
    if throughput:
        kind = "one target at a time" if run.single else f"{run.batch} sequences at once, no speed on one target"
        logger.info("this process: %d frames, %.1f frames/s (%s)", run.frames, throughput, kind)
    logger.info("results: %s", run.files.folder)
    console = wide_console()
    if benchmark.scorable:
        scores = [score_tracker(benchmark, run.files, protocol)]
        write_tables(scores, run.notes)
        logger.info("tables: %s", run.notes)
        content["scores"] = json.loads((run.notes / "scores.json").read_text(encoding="utf-8"))
        if not as_json:
            show_table(scores, console)
    else:
        logger.info("the truth of %s is not public: lorat submit packs the results for its server", benchmark.name)
    if official is not None:
        agreement = compare_runs(official.benchmark, run.files, official.files)
        agreement.notes[:0] = official.notes
        content["agreement"] = asdict(agreement)
        if not as_json:
            show_agreement(agreement)
    if as_json:
        typer.echo(json.dumps(content, indent=2))
