"""Rows of scores.json: the measures, the protocols that define them, and the rows as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]
PROTOCOLS = {
    "got10k": (
        "the GOT-10k toolkit: on GOT-10k without the first frame, boxes clipped to the image, all visible frames"
        " pooled; on other sets as its ExperimentOTB, without frames annotated NaN"
    ),
    "pytracking": (
        "pytracking: frames without a valid box fail, though not in normalised precision; divided by all frames on"
        " LaSOT and UAV123, by the valid ones on other sets"
    ),
    "stark": (
        "STARK and OSTrack: frames without a valid box fail, though not in normalised precision; divided by all frames"
    ),
    "lorat": (
        "official LoRAT as it is shipped: frames without a valid box fail, though in normalised precision on LaSOT and"
        " VastTrack only; divided by all frames; predictions as they are"
    ),
    "lorat_plain": (
        "official LoRAT's plain evaluator: only frames with a valid box and a visible target, success at or above the"
        " threshold"
    ),
}
MEASURES = {  # field of a score: heading
    "auc": "success AUC",
    "precision_score": "precision",
    "normalized_precision_score": "normalised precision",
    "ao": "AO",
    "sr50": "SR 0.5",
    "sr75": "SR 0.75",
}
NAMING = ("benchmark", "protocol", "skipped")  # columns that distinguish tables


def group_rows(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """Rows by benchmark, with what was left out, and protocol; without these and columns that are empty throughout."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        without = f" without {row['skipped']}" if row.get("skipped") else ""
        groups.setdefault((row["benchmark"] + without, row["protocol"]), []).append(row)
    for key, group in groups.items():
        kept = [
            column for column in group[0] if column not in NAMING and any(row.get(column) is not None for row in group)
        ]
        groups[key] = [{column: row.get(column) for column in kept} for row in group]
    return groups


def markdown(rows: Sequence[Row]) -> list[str]:
    """Lines of Markdown: a table for each benchmark and protocol. `rows` are those of the JSON, without curves."""
    lines: list[str] = []
    for (benchmark, protocol), group in group_rows(rows).items():
        lines += [f"## {benchmark}, protocol {protocol}", "", f"{protocol}: {PROTOCOLS[protocol]}.", ""]
        lines.append(f"| {' | '.join(heading(column) for column in group[0])} |")
        lines.append(f"| {' | '.join('---' if isinstance(v, str) else '---:' for v in group[0].values())} |")
        for row in group:
            cells = [format_value(column, value).replace("|", "\\|") for column, value in row.items()]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return lines[:-1]


def heading(column: str) -> str:
    """The heading of a column of rows."""
    return {**MEASURES, "fps": "frames/s"}.get(column, column)


def format_value(column: str, value: Any) -> str:
    """A value of a row as tables show it."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if column == "fps" else f"{value:.3f}"
    return str(value)
