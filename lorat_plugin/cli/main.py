"""Entry point of `lorat`: registers the commands and turns errors into exit codes.

Exit codes: 0 done, 1 failed while running, 2 bad input (one sentence on stderr names it and the remedy),
3 a camera or stream ended by itself (`lorat track`; its files are whole).
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Annotated

import typer

from lorat_plugin.cli.benchmark import benchmark_app
from lorat_plugin.cli.evaluate import compare_command, evaluate_command, report_command, submit_command
from lorat_plugin.cli.toolkits import demo_command, doctor_command, pytracking_app, vot_app
from lorat_plugin.cli.track import annotate_command, app_command, track_command
from lorat_plugin.cli.train import data_app, lmdb_app, train_command
from lorat_plugin.cli.weights import convert_command, export_command
from lorat_plugin.errors import InputError
from lorat_plugin.files import require_utf8

_EXTRAS = {  # optional package -> the extra that brings it
    "peft": "train", "accelerate": "train", "lmdb": "train", "matplotlib": "train", "pydantic": "train",
    "got10k": "got10k", "six": "got10k", "vot": "vot", "trax": "vot",
    "onnx": "onnx", "onnxscript": "onnx", "onnxruntime": "onnx", "openvino": "openvino", "nncf": "openvino",
    "gradio": "app",
}  # fmt: skip
app = typer.Typer(
    name="lorat",
    help="LoRAT single-object tracking: track videos, evaluate, train, convert weights. "
    "With --debug an error keeps its traceback.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (
    track_command, annotate_command, app_command, demo_command, doctor_command, compare_command, report_command,
    submit_command, evaluate_command, train_command, convert_command, export_command,
):  # fmt: skip
    app.command(command.__name__.removesuffix("_command"))(command)
app.add_typer(benchmark_app, name="benchmark")
app.add_typer(lmdb_app, name="lmdb")
app.add_typer(data_app, name="data")
app.add_typer(vot_app, name="vot")
app.add_typer(pytracking_app, name="pytracking")


@app.callback(invoke_without_command=True)
def _options(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"lorat_plugin {installed('lorat_plugin')}")
        raise typer.Exit


def main() -> None:
    """Run the command line on `sys.argv` and exit."""
    arguments = sys.argv[1:]
    debug = "--debug" in arguments or bool(os.environ.get("LORAT_DEBUG"))
    arguments = [a for a in arguments if a != "--debug"]  # accepted before and after the command's name
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("lorat_plugin").setLevel(logging.DEBUG if debug else logging.INFO)
    sys.exit(run(arguments, debug))


def run(arguments: list[str], debug: bool = False) -> int:
    """Run one command line. Returns the exit code; with `debug` errors keep their traceback."""
    try:
        for argument in arguments:
            require_utf8(argument, "command line")
        app(arguments, prog_name="lorat")  # leaves by SystemExit, with code 2 for an option or command that is wrong
        return 0
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0
    except KeyboardInterrupt:
        typer.echo("lorat: stopped", err=True)
        return 130
    except InputError as error:
        if debug:
            raise
        typer.echo(f"lorat: {error}", err=True)
        return 2
    except Exception as error:
        if debug:
            raise
        if isinstance(error, ModuleNotFoundError) and error.name in _EXTRAS:
            typer.echo(f"lorat: this needs {error.name}: pip install 'lorat_plugin[{_EXTRAS[error.name]}]'", err=True)
            return 2
        typer.echo(f"lorat: {type(error).__name__}: {error} (--debug shows where)", err=True)
        return 1
