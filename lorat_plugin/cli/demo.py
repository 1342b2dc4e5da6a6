"""`lorat demo`: LoRAT beside OpenCV's trackers, through the real GOT-10k toolkit."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Annotated, Any

import typer

from lorat_plugin.cli.console import progress
from lorat_plugin.cli.options import DEFAULTS, BaselineModelsOption, JsonOption, settings_options
from lorat_plugin.errors import InputError
from lorat_plugin.settings import TrackerSettings

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
    from lorat_plugin.apps.demo import FOLDER, prepare_sequences, run_tracker, summarize
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
        typer.echo(json.dumps({**report, "left_out": left_out}, indent=2))
    else:
        _print(report, left_out)


def _print(report: dict[str, Any], left_out: dict[str, str]) -> None:
    from lorat_plugin.evaluation.tables import make_table, wide_console

    console, trackers, lengths = wide_console(), report["trackers"], report["sequences"]
    rows = []
    for name, score in trackers.items():
        speed = f"{score['fps']:.0f}" if score["fps"] < MEANINGLESS_SPEED else "-"
        rows.append([name, *(f"{score[measure]:.3f}" for measure in ("ao", "sr50", "sr75", "auc")), speed])
    title = f"{report['model']}, {len(lengths)} sequences, {sum(lengths.values())} frames, GOT-10k toolkit"
    console.print(make_table(("tracker", "AO", "SR 0.5", "SR 0.75", "success AUC", "frames/s"), rows, title))
    rows = []
    for sequence, length in lengths.items():
        rows.append([sequence, str(length), *(f"{score['sequence_auc'][sequence]:.3f}" for score in trackers.values())])
    console.print(make_table(("sequence", "frames", *trackers), rows, "success AUC by sequence"))
    console.print(f"best success AUC on these frames: {next(iter(trackers))}", highlight=False)
    for name, reason in left_out.items():
        console.print(f"{name} left out: {reason}", style="dim", soft_wrap=True, highlight=False)
    for what in ("success_plot", "video"):
        console.print(f"{what.replace('_', ' '):13}{report[what]}", soft_wrap=True, highlight=False)
    console.print(f"{'scores':13}{Path(report['video']).with_name('results.json')}", soft_wrap=True, highlight=False)
