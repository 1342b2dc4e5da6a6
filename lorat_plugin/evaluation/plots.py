"""Success, precision and calibration plots. A tracker has one colour and one line in all of them."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from lorat_plugin.evaluation.scoring import Reliability, TrackerScore
from lorat_plugin.files import whole_file

# Okabe and Ito's colours, told apart by the colour-blind, without yellow and black, and with grey
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
LINES = ("-", "--", "-.", ":")  # as many colours and lines as have no common factor: 28 pairs before one comes again
CURVES = {  # field of a score: (file and title, what the legend tells, largest threshold, axis)
    "success": ("success", "auc", 1.0, "overlap threshold"),
    "precision": ("precision", "precision_score", 50.0, "centre error threshold [pixels]"),
    "normalized_precision": (
        "normalised precision",
        "normalized_precision_score",
        0.5,
        "centre error threshold [target sizes]",
    ),
}
MANY = 5  # trackers; a legend of more would hide the curves
CALIBRATION = "calibration"  # title of that plot
_SETTINGS = {"text.parse_math": False, "svg.hashsalt": "lorat"}  # names may hold a $; the same plot, the same file


def colour(number: int) -> str:
    """Colour #RRGGBB of the tracker with this number, counted from 0 in the order in which trackers were named."""
    return COLOURS[number % len(COLOURS)]


def rgb(number: int) -> tuple[int, int, int]:
    """The same colour as red, green, blue in 0 ... 255."""
    red, green, blue = bytes.fromhex(colour(number)[1:])
    return red, green, blue


def draw_curves(scores: Sequence[TrackerScore]) -> dict[str, Figure]:
    """Plots by title, of one benchmark by one protocol; the order gives the colours, legends are sorted by score."""
    figures = {}
    for field, (title, measure, limit, label) in CURVES.items():
        numbered = [(n, s) for n, s in enumerate(scores) if getattr(s.overall, field) is not None]
        if not numbered:
            continue
        numbered.sort(key=lambda item: -getattr(item[1].overall, measure))
        lines = {}
        with matplotlib.rc_context(_SETTINGS):
            figure, axis = _axes(f"{title} on {scores[0].benchmark}, protocol {scores[0].protocol}", 1)
            for number, score in numbered:
                curve = getattr(score.overall, field)
                legend = f"{score.tracker} [{getattr(score.overall, measure):.3f}]"
                lines[legend] = axis.plot(np.linspace(0, limit, len(curve)), curve, **_line(number))[0]
            axis.set(xlabel=label, ylabel=f"{title} rate", xlim=(0, limit), ylim=(0, 1))
            _add_legend(axis, lines, "lower left" if field == "success" else "lower right")
        figures[title] = figure
    return figures


def draw_calibration(found: Mapping[str, tuple[int, Reliability]]) -> Figure:
    """Share of frames on target against the mean score, by bins of the score, above the number of frames in each.

    `found`: by tracker its number, as for its colour, and what `measure_reliability` returned.
    """
    lines = {}
    with matplotlib.rc_context(_SETTINGS):
        figure, axis, below = _axes("calibration of the score [expected calibration error]", 4, 1)
        axis.plot((0, 1), (0, 1), color="0.6", linewidth=1)
        for name, (number, reliability) in found.items():
            filled = reliability.counts > 0
            points = reliability.bin_scores[filled], reliability.bin_shares[filled]
            lines[f"{name} [{reliability.error:.3f}]"] = axis.plot(*points, **_line(number))[0]
            axis.scatter(
                *points, 200 * reliability.counts[filled] / reliability.frames + 8, colour(number), clip_on=False
            )
            edges = np.linspace(0, 1, len(reliability.counts) + 1)
            below.stairs(reliability.counts / reliability.frames, edges, **_line(number))
        axis.set(ylabel="share of frames with IoU > 0.5", xlim=(0, 1), ylim=(0, 1))
        below.set(xlabel="score", ylabel="frames", ylim=(0, None))
        below.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1, 0))
        _add_legend(axis, lines, "upper left")
    return figure


def as_svg(figure: Figure) -> str:
    """A figure as the text of an SVG file; letters are outlines, so it looks the same everywhere."""
    text = io.StringIO()
    with matplotlib.rc_context(_SETTINGS):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def write_plots(figures: Mapping[str, Figure], folder: Path) -> list[Path]:
    """Write figures by title as PNG files to a folder, made if need be; returns their paths.

    Those of an earlier run that have no successor are deleted. Raises InputError if one cannot be written.
    """
    for title in {*(title for title, *_ in CURVES.values()), CALIBRATION} - figures.keys():
        _file(folder, title).unlink(missing_ok=True)
    paths = []
    for title, figure in figures.items():
        paths.append(_file(folder, title))
        with whole_file(paths[-1]) as part:
            figure.savefig(part, format="png", dpi=150)
    return paths


def _file(folder: Path, title: str) -> Path:
    return folder / f"{title.replace(' ', '_')}.png"


def _axes(title: str, *heights: int) -> list[Any]:
    """A figure and its axes, one above the other."""
    figure = Figure(figsize=(4.8, 3.7), layout="constrained")
    axes = figure.subplots(len(heights), sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    axes[0].set_title(title, fontsize=10)
    for axis in axes:
        axis.grid(color="0.9")
        axis.spines[["top", "right"]].set_visible(False)
    return [figure, *axes]


def _line(number: int) -> dict[str, Any]:
    return {"color": colour(number), "linestyle": LINES[number % len(LINES)], "linewidth": 2.2 if number == 0 else 1.6}


def _add_legend(axis: Any, lines: Mapping[str, Any], location: str) -> None:
    """A legend of lines by name, below the plot if there are many. So made, it shows names that begin with _ too."""
    holder = axis
    if len(lines) > MANY:
        holder, location = axis.figure, "outside lower center"
        holder.set_figheight(holder.get_figheight() + 0.2 * math.ceil(len(lines) / 2))
    holder.legend(
        lines.values(), lines.keys(), loc=location, fontsize=8, framealpha=0.85, ncols=1 + (holder is not axis)
    )
