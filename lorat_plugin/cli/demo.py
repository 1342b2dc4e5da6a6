"""`lorat demo`: LoRAT beside OpenCV's trackers, through the real GOT-10k toolkit."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lorat_plugin.cli.console import progress
from lorat_plugin.cli.options import (
    DEFAULTS,
    BaselineModelsOption,
    JsonOption,
    settings_options,
)
from lorat_plugin.errors import InputError
from lorat_plugin.settings import TrackerSettings

if TYPE_CHECKING:
    from lorat_plugin.apps.demo import DemoReport

logger = logging.getLogger(__name__)

LORAT = "LoRAT"  # its name among the results
MEANINGLESS_SPEED = 10_000  # frames/s; the static box does nothing


@settings_options("absent_below")
def demo_command(
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Your clips: DIR/<clip>/ with frames and groundtruth.txt (x,y,w,h a row)."),
    ] = None,
    settings: TrackerSettings = DEFAULTS,
    trackers: Annotated[
        str | None,
        typer.Option(
            help="Baselines, comma separated: static,MIL,KCF,CSRT,NanoTrack,VitTrack. All that run if left out."
        ),
    ] = None,
    baseline_models: BaselineModelsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Track two real clips with LoRAT and OpenCV's trackers through the GOT-10k toolkit; write lorat_demo/.

    Example: lorat demo --data my_clips --trackers MIL,CSRT
    """
    try:
        import got10k.experiments  # noqa: F401
    except ModuleNotFoundError as error:
        raise InputError(f"the GOT-10k toolkit is not complete here ({error}): pip install got10k six") from error
    from lorat_plugin.apps.demo import FOLDER, as_dict, prepare_sequences, run_tracker, summarize
    from lorat_plugin.evaluation.baselines import choose_baselines
    from lorat_plugin.harness.got10k import TrackerLoRAT
    from lorat_plugin.tracker import LoRATTracker

    names = (
        None if trackers is None else [name for name in trackers.replace(" ", "").split(",") if name not in ("", LORAT)]
    )
    baselines, left_out = choose_baselines(names, baseline_models)
    lorat = TrackerLoRAT(LORAT, settings.load(LoRATTracker))
    folder = Path(FOLDER)
    lengths = prepare_sequences(folder, data)
    frames = sum(lengths.values())
    for tracker in (lorat, *baselines):
        logger.info("%s: %d sequences, %d frames", tracker.name, len(lengths), frames)
        with progress(tracker.name, frames) as tracker.on_frame:
            run_tracker(folder, tracker)
    logger.info("report, plot and video")
    report = summarize(folder, [LORAT, *(tracker.name for tracker in baselines)], settings.model)
    if as_json:
        typer.echo(json.dumps({**as_dict(report), "left_out": left_out}, indent=2))
    else:
        _print(report, left_out)


def _print(report: DemoReport, left_out: dict[str, str]) -> None:
    from rich.table import Table

    from lorat_plugin.evaluation.tables import wide_console

    console = wide_console()
    frames = sum(report.lengths.values())
    table = Table(title=f"{report.model}, {len(report.lengths)} sequences, {frames} frames, GOT-10k toolkit")
    for heading in ("tracker", "AO", "SR 0.5", "SR 0.75", "success AUC", "frames/s"):
        table.add_column(heading, justify="left" if heading == "tracker" else "right")
    for name, score in report.scores.items():
        values = (score.ao, score.sr50, score.sr75, score.auc)
        speed = f"{score.fps:.0f}" if score.fps < MEANINGLESS_SPEED else "-"
        table.add_row(name, *(f"{value:.3f}" for value in values), speed, style="bold" if name == LORAT else "")
    console.print(table)
    details = Table(title="success AUC by sequence")
    details.add_column("sequence")
    details.add_column("frames", justify="right")
    for name in report.scores:
        details.add_column(name, justify="right")
    for sequence, length in report.lengths.items():
        aucs = [score.sequence_auc[sequence] for score in report.scores.values()]
        details.add_row(sequence, str(length), *(f"{auc:.3f}" for auc in aucs))
    console.print(details)
    console.print(f"best success AUC on these frames: {next(iter(report.scores))}", highlight=False)
    for name, reason in left_out.items():
        console.print(f"{name} left out: {reason}", style="dim", soft_wrap=True, highlight=False)
    for what, path in (("success plot", report.success_plot), ("video", report.video), ("scores", report.results)):
        console.print(f"{what:13}{path}", soft_wrap=True, highlight=False)
