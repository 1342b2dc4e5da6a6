"""Progress of a command: plain lines in a log, a bar on a terminal, nothing on stdout."""

from __future__ import annotations

import logging

import pytest

from lorat_plugin.cli import options as module
from lorat_plugin.cli.options import progress


@pytest.mark.parametrize("total, wanted", [(3, "tracking: 2 of 3 frames, "), (None, "tracking: 2 frames, ")])
def test_plain_lines(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, total: int | None, wanted: str
) -> None:
    monkeypatch.setattr(module, "LOG_SECONDS", 0.0)
    with caplog.at_level(logging.INFO), progress("tracking", total) as advance:
        for _ in range(3):
            advance()
    assert len(caplog.messages) == 3
    assert caplog.messages[1].startswith(wanted) and " frames/s" in caplog.messages[1]


def test_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes the captured stderr for a terminal then
    with progress("tracking", 3) as advance:
        for _ in range(3):
            advance()
    said = capsys.readouterr()
    assert "tracking" in said.err and "frames/s" in said.err and not said.out
