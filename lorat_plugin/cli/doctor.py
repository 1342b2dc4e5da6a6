"""`lorat doctor`: versions, devices, toolkits, weights, and what is known to break, each with its remedy."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict

import typer

from lorat_plugin.cli.options import JsonOption

COLOURS = {"ok": "green", "warning": "yellow", "broken": "red"}


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
