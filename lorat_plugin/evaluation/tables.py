"""Scores as tables: CSV, JSON and Markdown files, and on the terminal. Each names its protocol."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from lorat_plugin.evaluation.protocols import Score
from lorat_plugin.evaluation.scoring import LONG_TERM, TrackerScore
from lorat_plugin.files import whole_file, write_json
from lorat_plugin.score_rows import MEASURES, PROTOCOLS, Row, format_value, group_rows, heading, markdown

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

CURVES = ("success", "precision", "normalized_precision")

LOG_WIDTH = 120  # columns where there is no terminal to ask


def wide_console() -> Console:
    """A console for tables on stdout, wide enough for them where it is no terminal."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console.width = LOG_WIDTH
    return console


def make_table(headings: Iterable[str], rows: Iterable[Sequence[str]], title: str, left: int = 1) -> Table:
    """A table for a console; the first `left` columns are set left, the others right."""
    from rich.table import Table

    table = Table(title=title)
    for number, text in enumerate(headings):
        table.add_column(text, justify="left" if number < left else "right")
    for row in rows:
        table.add_row(*row)
    return table


def write_tables(scores: Sequence[TrackerScore], folder: Path) -> list[Path]:
    """Write scores.*, sequences.* and, where there are any, attributes.* and long_term.*, each as csv, json and md.

    Measures are fractions, in CSV and JSON at full precision; scores.json has the curves too. What was not measured is
    empty, null or "-". Returns the files. Raises InputError if one cannot be written.
    """
    overall = [_overall(score) for score in scores]
    curves = [
        {
            f"{name}_curve": curve if (curve := getattr(score.overall, name)) is None else curve.tolist()
            for name in CURVES
        }
        for score in scores
    ]
    tables = {
        "scores": overall,
        "sequences": [_row(s, part, sequence=name) for s in scores for name, part in s.sequences.items()],
        "attributes": [_row(s, part, attribute=name) for s in scores for name, part in s.attributes.items()],
        "long_term": [_row(s) | asdict(s.long_term) for s in scores if s.long_term is not None],
    }
    written = []
    for name, rows in tables.items():
        if not rows:
            for suffix in (".csv", ".json", ".md"):  # of an earlier run
                (folder / f"{name}{suffix}").unlink(missing_ok=True)
            continue
        files = [folder / f"{name}{suffix}" for suffix in (".csv", ".json", ".md")]
        with whole_file(files[0]) as part, part.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        full = [row | curve for row, curve in zip(rows, curves, strict=True)] if name == "scores" else rows
        write_json(files[1], full)
        with whole_file(files[2]) as part:
            part.write_text("\n".join(markdown(rows)) + "\n", encoding="utf-8")
        written += files
    return written


def show_table(scores: Sequence[TrackerScore], console: Console) -> None:
    """Print the overall scores, a table for each benchmark and protocol, with what the protocol means below it."""
    for (benchmark, protocol), rows in group_rows([_overall(score) for score in scores]).items():
        cells = [[format_value(column, value) for column, value in row.items()] for row in rows]
        table = make_table(map(heading, rows[0]), cells, f"{benchmark}, protocol {protocol}")
        table.caption = f"{protocol}: {PROTOCOLS[protocol]}"
        console.print(table)
    measured = [(score.tracker, score.long_term) for score in scores if score.long_term is not None]
    if measured:
        lines = [[name, *(format_value(f, getattr(found, f)) for f in LONG_TERM)] for name, found in measured]
        console.print(make_table(["tracker", *LONG_TERM.values()], lines, "targets that leave and return"))


def _overall(score: TrackerScore) -> Row:
    return _row(score, score.overall) | {"fps": score.fps, "skipped": ", ".join(score.skipped) or None}


def _row(score: TrackerScore, values: Score | None = None, **part: str) -> Row:
    naming = {"tracker": score.tracker, "benchmark": score.benchmark, "protocol": score.protocol, **part}
    if values is None:
        return naming
    return {**naming, "frames": values.frames, **{field: getattr(values, field) for field in MEASURES}}
