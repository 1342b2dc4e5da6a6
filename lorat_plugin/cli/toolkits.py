"""`lorat vot`, `lorat pytracking` and `lorat doctor`: toolkits, and what of them and of this machine works."""

from __future__ import annotations

import json
import platform
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Annotated, Literal, Optional

import typer

from lorat_plugin.cli.console import COLOURS
from lorat_plugin.cli.options import DEFAULTS, JsonOption, MasksOption, settings_options
from lorat_plugin.settings import TrackerSettings

vot_app = typer.Typer(help="Workspaces for the VOT toolkit (vot-toolkit).", no_args_is_help=True)

WorkspaceArgument = Annotated[Path, typer.Argument(help="Folder of the workspace.")]
RepairOption = Annotated[
    bool,
    typer.Option("--repair/--no-repair", help="Mend the toolkit's known errors while it runs, or run it as it is."),
]


class ProtocolChoice(str, Enum):
    """How the toolkit runs the tracker."""

    python = "python"
    trax = "trax"
    both = "both"


@vot_app.command("init")
@settings_options()
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
        ProtocolChoice, typer.Option("--protocol", help="Entries in trackers.ini.")
    ] = ProtocolChoice.both,
    settings: TrackerSettings = DEFAULTS,
    masks: MasksOption = None,
    boxes: Annotated[bool, typer.Option("--boxes", help="Take the boxes of clips that have masks too.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Set an existing workspace aside.")] = False,
) -> None:
    """Make a workspace with LoRAT entries and local sequences; nothing is downloaded.

    Example: lorat vot init my_workspace --sequences my_clips --stack multistart --model lorat_tiny
    """
    from lorat_plugin.harness.vot_tools.workspace import IDENTIFIERS, create_workspace

    protocols = [name for name in IDENTIFIERS if protocol.value in (name, "both")]
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
    from lorat_plugin.errors import InputError
    from lorat_plugin.harness.vot_tools.run import STEPS, choose_trackers, open_workspace, run_steps, workspace_problems
    from lorat_plugin.harness.vot_tools.stacks import toolkit_version

    chosen = [step.strip() for step in steps.split(",") if step.strip()]
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

    installed, broken = toolkit_version(), False

    def report(level: Literal["ok", "warning", "broken"], subject: str, text: str, details: Sequence[str] = ()) -> None:
        nonlocal broken
        broken = broken or level == "broken"
        typer.secho(f"{level:<8} {subject}: {text}", fg=COLOURS[level])
        for line in details:
            typer.echo(f"         {line}")

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
    if broken:
        raise typer.Exit(1)


def _show(line: str) -> None:
    """Print a line of the toolkit on stderr; on a terminal its percentages stay in one place."""
    from lorat_plugin.harness.vot_tools.run import PERCENT

    if sys.stderr.isatty():
        typer.echo(f"\r  {line}", nl=PERCENT.fullmatch(line) is None, err=True)
    elif line:
        typer.echo(f"  {line}", err=True)


def doctor_command(as_json: JsonOption = False) -> None:
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
            typer.secho(f"{finding.level:<8} {finding.subject}: {finding.text}", fg=COLOURS[finding.level])
            if finding.remedy:
                typer.echo(f"         remedy: {finding.remedy}")
    if broken:
        raise typer.Exit(1)


pytracking_app = typer.Typer(help="LoRAT in the trees of pytracking, OSTrack and their kin.", no_args_is_help=True)


@pytracking_app.command("install")
@settings_options()
def install_command(
    path: Annotated[Path, typer.Argument(help="Folder of the tree: what git clone made.")],
    settings: TrackerSettings = DEFAULTS,
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
