"""`lorat compare`: trackers side by side on the same frames, with paired confidence intervals."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lorat_plugin.cli.console import progress
from lorat_plugin.cli.options import (
    DEFAULTS,
    BaselineModelsOption,
    DatasetOption,
    JsonOption,
    ProtocolOption,
    ResultsOption,
    SequencesOption,
    SkipOption,
    SubsetOption,
    chosen_benchmark,
    settings_options,
)
from lorat_plugin.settings import TrackerSettings

if TYPE_CHECKING:
    from lorat_plugin.evaluation.evaluate import Evaluation
    from lorat_plugin.evaluation.scoring import TrackerScore

logger = logging.getLogger(__name__)

SHOWN = 50  # sequences that are listed one by one on the terminal; the files have them all


@settings_options("absent_below")
def compare_command(
    dataset: DatasetOption,
    trackers: Annotated[
        str,
        typer.Option(
            help="Comma separated; the first is held against each other: LoRAT, static, MIL, KCF, CSRT, NanoTrack,"
            " VitTrack, module:Class (the GOT-10k toolkit's interface), NAME=FOLDER (raw results of others, or a zip)."
        ),
    ] = "LoRAT,VitTrack,static",
    baseline_models: BaselineModelsOption = None,
    results: ResultsOption = Path("results"),
    subset: SubsetOption = None,
    sequences: SequencesOption = None,
    skip: SkipOption = None,
    protocol: ProtocolOption = None,
    settings: TrackerSettings = DEFAULTS,
    as_json: JsonOption = False,
) -> None:
    """Compare LoRAT with other trackers: scores, frames/s, and what of the differences is more than chance.

    Every tracker follows one target at a time. Results that are there already are not tracked again.

    Example: lorat compare --dataset clips:my_clips --trackers LoRAT,MIL,CSRT,Mine=raw_results
    """
    from lorat_plugin.evaluation import compare
    from lorat_plugin.evaluation.scoring import check_scorable, score_tracker

    settings.check()
    benchmark = chosen_benchmark(dataset, subset, sequences, skip=skip)
    check_scorable(benchmark, protocol or benchmark.protocol)

    def create_lorat() -> Evaluation:
        from lorat_plugin.evaluation.evaluate import Evaluation

        return Evaluation(settings.network(), benchmark, results, compare.LORAT, settings)

    specs = [spec.strip() for spec in trackers.split(",") if spec.strip()]
    contestants = compare.choose_contestants(specs, benchmark, results, create_lorat, baseline_models)
    common, contestants, notes = compare.fit_raw_results(contestants, benchmark, protocol or benchmark.protocol)
    for note in notes:
        logger.warning("%s", note)
    work = [(one, compare.missing_sequences(one, benchmark)) for one in contestants]
    for one, missing in work:
        logger.info("%s: %d of %d sequences to track", one.files.tracker, len(missing), len(benchmark))
        with progress(one.files.tracker, sum(map(len, missing))) as advance:
            compare.track(one, missing, advance)
    scores = [score_tracker(common, one.files, protocol) for one in contestants]
    content = compare.write_comparison(contestants, common, scores, results, notes)
    if as_json:
        typer.echo(json.dumps(content, indent=2))
    else:
        _print(scores, content)


def _print(scores: list[TrackerScore], content: dict[str, Any]) -> None:
    from lorat_plugin.evaluation.tables import make_table, show_table, wide_console

    console, rows = wide_console(), []
    show_table(scores, console)
    for duel in content["auc_difference"]:
        interval = f"{duel['low']:+.3f} to {duel['high']:+.3f}"
        counts = [str(duel[key]) for key in ("wins", "losses", "ties")]
        rows.append([duel["rival"], f"{duel['difference']:+.3f}", interval, *counts])
    headings = ("other tracker", "difference", "95 % interval", "won", "lost", "tied")
    title = f"success AUC of {content['first']} less that of the other, mean over sequences"
    console.print(make_table(headings, rows, title))
    if len(content["sequence_auc"]) <= SHOWN:
        rows = [[name, *(f"{auc:.3f}" for auc in aucs.values())] for name, aucs in content["sequence_auc"].items()]
        console.print(make_table(["sequence", *content["trackers"]], rows, "success AUC by sequence"))
    for sentence in content["notes"]:
        console.print(sentence, soft_wrap=True, highlight=False)
    console.print(f"report.html, tables: {content['folder']}", soft_wrap=True, highlight=False)
