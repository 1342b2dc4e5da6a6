"""`lorat vot`, `pytracking`, `demo` and `doctor`: toolkits, and what of them and of this machine works."""

from __future__ import annotations

import json
import logging
import platform
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

import typer

from lorat_plugin.cli import options
from lorat_plugin.errors import InputError
from lorat_plugin.settings import TrackerSettings

logger = logging.getLogger(__name__)

COLOURS = {"ok": "green", "warning": "yellow", "broken": "red"}

vot_app = typer.Typer(help="Workspaces for the VOT toolkit (vot-toolkit).", no_args_is_help=True)

WorkspaceArgument = Annotated[Path, typer.Argument(help="Folder of the workspace.")]
RepairOption = Annotated[
    bool,
    typer.Option("--repair/--no-repair", help="Mend the toolkit's known errors while it runs, or run it as it is."),
]


@vot_app.command("init")
@options.settings_options()
def init_command(
    workspace: Annotated[Path, typer.Argument(help="Folder to make.")],
    sequences: Annotated[
        Optional[Path],
        typer.Option(
            "--sequences",
            help="Folder of clips: frames (.jpg, .png) with groundtruth.txt (x,y,w,h), groundtruth_<object>.txt or "
            "mask/ each. Left out: the toolkit downloads its stack's sequences when it first opens the workspace.",
        ),
    ] = None,
    stack: Annotated[
        str,
        typer.Option(
            "--stack",
            help="For own sequences: unsupervised, multistart, supervised, realtime, longterm, multiobject; a stack of "
            "the toolkit, e.g. vot2022/shorttermbox; or a yaml file.",
        ),
    ] = "unsupervised",
    protocol: Annotated[
        Literal["python", "trax", "both"], typer.Option("--protocol", help="Entries in trackers.ini.")
    ] = "both",
    settings: TrackerSettings = options.DEFAULTS,
    masks: options.MasksOption = None,
    boxes: Annotated[bool, typer.Option("--boxes", help="Take the boxes of clips that have masks too.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Set an existing workspace aside.")] = False,
) -> None:
    """Make a workspace with LoRAT entries and local sequences; nothing is downloaded.

    Example: lorat vot init my_workspace --sequences my_clips --stack multistart --model lorat_tiny
    """
    from lorat_plugin.harness.vot_tools.workspace import IDENTIFIERS, create_workspace

    protocols = [name for name in IDENTIFIERS if protocol in (name, "both")]
    former = create_workspace(
        workspace, sequences, settings, masks=masks, stack=stack, protocols=protocols, boxes=boxes, force=force
    )
    if former is not None:
        typer.echo(f"The former workspace is now {former}")
    folder = shlex.quote(str(workspace))
    typer.echo(f"Made {workspace}. Next:")
    typer.echo(f"  lorat vot doctor {folder}")
    typer.echo(f"  lorat vot run {folder} {' '.join(IDENTIFIERS[name] for name in protocols)}")
    if sequences is None:
        typer.echo(f"The toolkit downloads the sequences of {stack} then, so be online.")


@vot_app.command("run")
def run_command(
    workspace: WorkspaceArgument,
    trackers: Annotated[
        Optional[list[str]], typer.Argument(help="Entries of trackers.ini; all that can be started if left out.")
    ] = None,
    steps: Annotated[
        str, typer.Option("--steps", help="What to do, commas between.")
    ] = "evaluate,analysis,report,pack",
    name: Annotated[str, typer.Option("--name", help="Of the analysis and the report.")] = "lorat",
    force: Annotated[bool, typer.Option("--force", help="Evaluate again what has results.")] = False,
    repair: RepairOption = True,
) -> None:
    """Evaluate, analyse, report and pack with the toolkit's own commands, and tell success from its words and files.

    Example: lorat vot run my_workspace LoRATTraX --steps evaluate,analysis

    Exit code 0 if every command did its work, 1 if one failed, 2 if the toolkit cannot run the stack.
    """
    from lorat_plugin.harness.vot_tools.run import STEPS, choose_trackers, open_workspace, run_steps, workspace_problems
    from lorat_plugin.harness.vot_tools.stacks import toolkit_version

    chosen = options.split_names(steps)
    for step in chosen:
        if step not in STEPS:
            raise InputError(f"--steps {steps}: {step} is none of {', '.join(STEPS)}")
    opened, installed = open_workspace(workspace), toolkit_version()
    names = choose_trackers(opened, trackers or [], installed)
    for problem in workspace_problems(opened, names, installed):
        if not (problem.repaired and repair):
            raise InputError(str(problem))
        typer.echo(f"note: {problem}", err=True)
    if not opened.sequences:
        typer.echo("note: the toolkit downloads the sequences first, which may take long", err=True)
    for outcome in run_steps(opened, names, chosen, _show, repair=repair, force=force, name=name):
        typer.echo(f"{'done' if outcome.good else 'FAILED'}: vot {outcome.command}")
        if not outcome.good:
            typer.echo(f"  {outcome.text}", err=True)
            raise typer.Exit(1)
    typer.echo(f"Results, analysis, reports and archives are in {opened.folder}")


@vot_app.command("doctor")
def vot_doctor_command(
    workspace: Annotated[Optional[Path], typer.Argument(help="Folder of the workspace, to try its trackers.")] = None,
    repair: RepairOption = True,
) -> None:
    """Say whether the toolkit works, can run the workspace's stack, and starts each tracker; with the real traceback.

    Example: lorat vot doctor my_workspace

    Exit code 0 if all is well, 1 if something is broken.
    """
    from lorat_plugin.apps.doctor import PROBES
    from lorat_plugin.harness.vot_tools.run import (
        choose_trackers,
        open_workspace,
        toolkit_imports,
        try_tracker,
        workspace_problems,
    )
    from lorat_plugin.harness.vot_tools.sequences import sequence_problems
    from lorat_plugin.harness.vot_tools.stacks import toolkit_version

    installed, findings = toolkit_version(), []

    def report(level: Literal["ok", "warning", "broken"], subject: str, text: str, details: Sequence[str] = ()) -> None:
        findings.append(level)
        _show_finding(level, subject, text, details)

    imported = toolkit_imports(repair)
    if imported.good:
        report("ok", f"vot-toolkit {installed}", imported.text)
    else:
        remedy = f"remedy: {PROBES['vot-toolkit'][1]}"
        report("broken", f"vot-toolkit {installed}", imported.text, [*imported.traceback, remedy])
    if workspace is not None and imported.good:
        opened = open_workspace(workspace)
        names = choose_trackers(opened, [], installed)
        for problem in workspace_problems(opened, names, installed):
            report("warning" if problem.repaired and repair else "broken", "stack", str(problem))
        for text in sequence_problems(opened.folder / "sequences", opened.sequences):
            report("broken", "sequences", text)
        for name in names:
            trial = try_tracker(opened, name, repair=repair)
            report("ok" if trial.good else "broken", name, trial.text, trial.traceback)
    if "broken" in findings:
        raise typer.Exit(1)


def _show_finding(level: str, subject: str, text: str, details: Sequence[str] = ()) -> None:
    typer.secho(f"{level:<8} {subject}: {text}", fg=COLOURS[level])
    for line in details:
        typer.echo(f"         {line}")


def _show(line: str) -> None:
    """Print a line of the toolkit on stderr; on a terminal its percentages stay in one place."""
    from lorat_plugin.harness.vot_tools.run import PERCENT

    if sys.stderr.isatty():
        typer.echo(f"\r  {line}", nl=PERCENT.fullmatch(line) is None, err=True)
    elif line:
        typer.echo(f"  {line}", err=True)


def doctor_command(as_json: options.JsonOption = False) -> None:
    """Say what is installed, what works, and how to mend the rest.

    Example: lorat doctor --json > doctor.json

    Exit code 0 if lorat can be used, 1 if something is broken.
    """
    from lorat_plugin.apps.doctor import examine, list_devices, this_installation

    installation = this_installation()
    findings = examine(installation)
    devices = list_devices(installation)
    broken = any(finding.level == "broken" for finding in findings)
    versions = {"python": platform.python_version(), "platform": platform.platform(), **installation.versions}
    if as_json:
        report = {"versions": versions, "devices": devices, "findings": list(map(asdict, findings))}
        typer.echo(json.dumps({**report, "usable": not broken}, indent=2))
    else:
        for name, version in versions.items():
            typer.echo(f"{name:<32} {version}")
        for device in devices:
            typer.echo(f"{device['device']:<32} {', '.join(f'{k} {v}' for k, v in device.items() if k != 'device')}")
        typer.echo()
        for finding in findings:
            remedy = [f"remedy: {finding.remedy}"] if finding.remedy else []
            _show_finding(finding.level, finding.subject, finding.text, remedy)
    if broken:
        raise typer.Exit(1)


pytracking_app = typer.Typer(help="LoRAT in the trees of pytracking, OSTrack and their kin.", no_args_is_help=True)


@pytracking_app.command("install")
@options.settings_options()
def install_command(
    path: Annotated[Path, typer.Argument(help="Folder of the tree: what git clone made.")],
    settings: TrackerSettings = options.DEFAULTS,
    name: Annotated[
        Optional[str], typer.Option("--name", help="Of the parameter file; the weights' or the model's if left out.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that differ.")] = False,
) -> None:
    """Copy LoRAT's tracker and a parameter file into a tree; again with other weights for another parameter.

    Example: lorat pytracking install OSTrack --model lorat_b_224 --weights base_224.bin
    """
    from lorat_plugin.harness.pytracking import install

    written = install(path, settings.absolute(), name or "", force)
    for kind, paths in written.items():
        for file in paths:
            typer.echo(file)
        program = "pytracking/run_tracker.py" if kind == "pytracking" else "tracking/test.py"
        parameter = next(p.stem for p in paths if p.stem not in ("lorat", "__init__"))
        typer.echo(f"Next: cd {shlex.quote(str(path))} && python {program} lorat {parameter} --dataset_name lasot")


LORAT = "LoRAT"  # its name among the results
MEANINGLESS_SPEED = 10_000  # frames/s; the static box does nothing


@options.settings_options("absent_below")
def demo_command(
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Your clips: DIR/<clip>/ with frames and groundtruth.txt (x,y,w,h a row)."),
    ] = None,
    settings: TrackerSettings = options.DEFAULTS,
    trackers: Annotated[
        str | None,
        typer.Option(
            help="Baselines, comma separated: static,MIL,KCF,CSRT,NanoTrack,VitTrack. All that run if left out."
        ),
    ] = None,
    baseline_models: options.BaselineModelsOption = None,
    as_json: options.JsonOption = False,
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

    names = None if trackers is None else [name for name in options.split_names(trackers) if name != LORAT]
    baselines, left_out = choose_baselines(names, baseline_models)
    lorat = TrackerLoRAT(LORAT, settings.load(LoRATTracker))
    folder = Path(FOLDER)
    lengths = prepare_sequences(folder, data)
    frames = sum(lengths.values())
    for tracker in (lorat, *baselines):
        logger.info("%s: %d sequences, %d frames", tracker.name, len(lengths), frames)
        with options.progress(tracker.name, frames) as tracker.on_frame:
            run_tracker(folder, tracker)
    logger.info("report, plot and video")
    report = summarize(folder, [LORAT, *(tracker.name for tracker in baselines)], settings.model)
    if as_json:
        typer.echo(json.dumps({**report, "left_out": left_out}, indent=2))
    else:
        _show_demo(report, left_out)


def _show_demo(report: dict[str, Any], left_out: dict[str, str]) -> None:
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
