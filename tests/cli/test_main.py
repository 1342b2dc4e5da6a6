"""The command line as a process: help, exit codes, messages."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from lorat_plugin.cli.main import app, run


def lorat(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "lorat_plugin", *arguments], capture_output=True, text=True)


COMMANDS = [info.name for info in app.registered_commands]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command, capsys):
    assert run([command, "--help"]) == 0
    assert "Example: lorat" in capsys.readouterr().out


def test_help_is_fast():
    best = min(_seconds("--help") for _ in range(3))
    assert best < 2  # a second on an idle machine; torch alone would take longer than this


def _seconds(*arguments: str) -> float:
    began = time.perf_counter()
    assert lorat(*arguments).returncode == 0
    return time.perf_counter() - began


def test_version():
    done = lorat("--version")
    assert done.returncode == 0 and done.stdout.startswith("lorat_plugin ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bogus"], "No such command"),
        (["track"], "Missing argument"),
        (["convert", "none.bin", "out.safetensors"], "lorat: weights 'none.bin' not found: give an existing file"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = lorat(*arguments)
    assert done.returncode == 2
    assert message in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_debug_keeps_the_traceback():
    done = lorat("convert", "none.bin", "out.safetensors", "--debug")
    assert done.returncode != 0 and "Traceback" in done.stderr


def test_what_fails_while_running_is_exit_code_1(monkeypatch, capsys):
    def fail(*arguments: object, **options: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("lorat_plugin.checkpoints.saving.convert", fail)
    assert run(["convert", os.devnull, "out.safetensors"]) == 1
    assert "lorat: OSError: disk full (--debug shows where)" in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such arguments")
@pytest.mark.parametrize("command", [["track"], ["data", "check"], ["evaluate", "--dataset"]])
def test_arguments_that_are_no_utf8_are_refused_before_any_work(command, capsys):
    assert run([*command, os.fsdecode(b"caf\xe9.mp4")]) == 2
    assert capsys.readouterr().err == "lorat: command line: 'caf\\udce9.mp4' is no UTF-8 name; rename it\n"
