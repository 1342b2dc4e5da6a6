"""One self-contained HTML page about trackers on a benchmark: tables, plots, worst sequences, reliability, settings."""

from __future__ import annotations

import base64
import datetime
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from lorat_plugin.datasets.sequences import VideoSequence
from lorat_plugin.digests import read_record
from lorat_plugin.errors import InputError
from lorat_plugin.evaluation.benchmarks import Benchmark
from lorat_plugin.evaluation.plots import CALIBRATION, COLOURS, as_svg, colour, draw_calibration, draw_curves, rgb
from lorat_plugin.evaluation.protocols import Score
from lorat_plugin.evaluation.results import ResultFiles, read_confidences
from lorat_plugin.evaluation.scoring import LONG_TERM, Reliability, TrackerScore, measure_reliability
from lorat_plugin.files import whole_file
from lorat_plugin.images import read_image
from lorat_plugin.score_rows import MEASURES, PROTOCOLS
from lorat_plugin.video.drawing import outline_boxes

MISSING = "-"


class Cell(NamedTuple):
    """What a cell of a table shows, what it sorts by (empty: last), and whether it is its row's or column's best."""

    text: str
    key: float | str
    best: bool = False


class TableRow(NamedTuple):
    """A row of a table: its name, its tracker's colour if it is a tracker's, and its cells."""

    name: str
    colour: str | None
    cells: list[Cell]


class Table(NamedTuple):
    """A table of the page; `headings[0]` is the column of names."""

    caption: str
    headings: list[str]
    rows: list[TableRow]


def write_report(
    benchmark: Benchmark,
    scores: Sequence[TrackerScore],
    files: Mapping[str, ResultFiles],
    notes: Mapping[str, Path],
    path: Path,
    worst: int = 5,
    remarks: Sequence[str] = (),
) -> dict[str, Figure]:
    """Write the page; it needs neither the network nor another file.

    `scores` are of trackers by one protocol; the page is about the first, and shows its `worst` sequences of lowest AUC
    with pictures. By tracker `files` are its results and `notes` the folder of its run.json and confidences, which may
    be absent; `remarks` are sentences below the scores. Returns the page's plots by title. Raises InputError for two
    trackers of one name, different protocols, damaged notes, a frame that cannot be read, or if the page cannot be
    written.
    """
    check_names([score.tracker for score in scores])
    if len({(score.benchmark, score.protocol) for score in scores}) != 1:
        raise InputError("scores of different benchmarks or protocols do not go on one page: score them alike")
    found = _find_reliability(benchmark, scores, notes)
    plots = draw_curves(scores) | ({CALIBRATION: draw_calibration(found)} if found else {})
    counted = {name: score.frames for name, score in scores[0].sequences.items()}
    labelled = Counter(attribute for sequence in benchmark.sequences for attribute in sequence.attributes)
    environment = Environment(
        loader=PackageLoader("lorat_plugin", "assets/report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    page = environment.get_template("report.html").render(
        place=benchmark.title,
        remarks=remarks,
        trackers=[(score.tracker, colour(number)) for number, score in enumerate(scores)],
        protocol=scores[0].protocol,
        rule=PROTOCOLS[scores[0].protocol],
        frames=sum(len(overlaps) for overlaps in scores[0].overlaps.values()),
        overall=_overall(scores),
        timed=any(score.fps is not None for score in scores),
        plots={title: _data_url("svg+xml", as_svg(figure).encode()) for title, figure in plots.items()},
        attributes=_parts("attribute", "sequences", labelled, scores, [score.attributes for score in scores]),
        worst=_worst(benchmark, scores[: len(COLOURS)], files, worst),
        sequences=_parts("sequence", "frames", counted, scores, [score.sequences for score in scores]),
        reliability=_reliability(found) if found else None,
        long_term=_long_term(scores),
        settings=_settings(scores, notes),
        version=version("lorat_plugin"),
        date=datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    )
    with whole_file(path) as part:
        part.write_text(page, encoding="utf-8")
    return plots


def check_names(trackers: Sequence[str]) -> None:
    """Raise InputError if no tracker is named, or one twice: tables and colours go by name."""
    twice = [name for name, count in Counter(trackers).items() if count > 1]
    if twice or not trackers:
        raise InputError(
            f"{twice[0]}: two trackers of that name; name each once, or rename the folder of one's results"
            if twice
            else "no tracker is named; name one at least"
        )


def _find_reliability(
    benchmark: Benchmark, scores: Sequence[TrackerScore], notes: Mapping[str, Path]
) -> dict[str, tuple[int, Reliability]]:
    """By tracker its number in `scores` and the reliability of its confidences; trackers without any are left out."""
    found = {}
    for number, score in enumerate(scores):
        if score.tracker in notes:
            read = {s.name: read_confidences(notes[score.tracker], s) for s in benchmark.sequences}
            reliability = measure_reliability(score.overlaps, {k: v for k, v in read.items() if v is not None})
            if reliability is not None:
                found[score.tracker] = number, reliability
    return found


def _overall(scores: Sequence[TrackerScore]) -> Table:
    """The headline: trackers by AUC, with every measure that the protocol has, and their speed."""
    measures = [m for m in MEASURES if any(getattr(score.overall, m) is not None for score in scores)]
    columns = [_cells([getattr(score.overall, m) for score in scores]) for m in measures]
    columns.append(_cells([score.fps for score in scores], "{:.1f}", mark=False))
    rows = [TableRow(s.tracker, colour(n), [column[n] for column in columns]) for n, s in enumerate(scores)]
    rows.sort(key=lambda row: -float(row.cells[0].key or 0))
    return Table("All trackers", ["tracker", *(MEASURES[m] for m in measures), "frames/s"], rows)


def _parts(
    what: str,
    counting: str,
    counts: Mapping[str, int],
    scores: Sequence[TrackerScore],
    parts: Sequence[Mapping[str, Score]],
) -> Table:
    """Scores by sequence or attribute: all measures of one tracker, or the AUC of each of many, the best marked."""
    if len(scores) == 1:
        measures = [m for m in MEASURES if getattr(scores[0].overall, m) is not None]
        headings, caption = [MEASURES[m] for m in measures], f"{scores[0].tracker} by {what}"
    else:
        measures, headings, caption = ["auc"], [score.tracker for score in scores], f"AUC by {what}"
    rows = []
    for name in parts[0]:
        values = [getattr(part[name], m) for part in parts for m in measures]
        cells = _cells(values, mark=len(scores) > 1)
        rows.append(TableRow(name, None, [Cell(str(counts.get(name, 0)), counts.get(name, 0)), *cells]))
    return Table(caption, [what, counting, *headings], rows)


def _reliability(found: Mapping[str, tuple[int, Reliability]]) -> Table:
    rows = []
    for name, (number, r) in found.items():
        values = (r.auroc, r.error, r.score_on_target, r.score_lost, r.share)
        rows.append(TableRow(name, colour(number), [*_cells(values, mark=False), Cell(str(r.frames), r.frames)]))
    headings = ["AUROC", "calibration error", "score on target", "score when lost", "share on target", "frames"]
    return Table("Score against overlap", ["tracker", *headings], rows)


def _long_term(scores: Sequence[TrackerScore]) -> Table | None:
    """The long-term measures of trackers, where targets leave and return."""
    measured = [(number, score) for number, score in enumerate(scores) if score.long_term is not None]
    columns = [_cells([getattr(score.long_term, field) for _, score in measured], mark=False) for field in LONG_TERM]
    rows = [TableRow(s.tracker, colour(n), [column[i] for column in columns]) for i, (n, s) in enumerate(measured)]
    return Table("Targets that leave and return", ["tracker", *LONG_TERM.values()], rows) if rows else None


def _settings(scores: Sequence[TrackerScore], notes: Mapping[str, Path]) -> Table | None:
    """What run.json says of each tracker, a column each."""
    paths = [notes[score.tracker] / "run.json" if score.tracker in notes else Path() for score in scores]
    runs = [read_record(path, "delete it") if path.is_file() else {} for path in paths]
    keys = list(dict.fromkeys(key for run in runs for key in run))
    rows = [TableRow(key, None, [_setting(run.get(key)) for run in runs]) for key in keys]
    return Table("Settings of the runs", ["setting", *(score.tracker for score in scores)], rows) if keys else None


def _setting(value: object) -> Cell:
    text = MISSING if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return Cell(text, "" if value is None else text)


def _worst(
    benchmark: Benchmark, scores: Sequence[TrackerScore], files: Mapping[str, ResultFiles], count: int
) -> list[dict[str, Any]]:
    """The first tracker's worst sequences: name, AUC of each tracker, and pictures with the overlaps below each."""
    first = scores[0]
    names = sorted(first.sequences, key=lambda name: first.sequences[name].auc)[:count]
    shown = []
    for name in names:
        sequence = benchmark.sequence(name)
        tracked = [(files[score.tracker].read(sequence), rgb(n)) for n, score in enumerate(scores)]
        pictures = []
        for number, jpeg in draw_strip(sequence, tracked, choose_frames(first.overlaps[name])):
            overlaps = [_number(score.overlaps[name][number], "{:.2f}") for score in scores]
            pictures.append((number + 1, _data_url("jpeg", jpeg), overlaps))
        aucs = [_number(score.sequences[name].auc) for score in scores]
        shown.append({"name": name, "length": len(sequence), "aucs": aucs, "pictures": pictures})
    return shown


def _cells(values: Iterable[float | None], form: str = "{:.3f}", mark: bool = True) -> list[Cell]:
    """Cells of numbers; None and NaN are missing, and with `mark` the greatest is the best."""
    known = [v if v is not None and math.isfinite(v) else None for v in values]
    most = max((v for v in known if v is not None), default=None) if mark and len(known) > 1 else None
    return [Cell(MISSING, "") if v is None else Cell(form.format(v), float(v), v == most) for v in known]


def _number(value: float, form: str = "{:.3f}") -> str:
    return _cells([value], form)[0].text


def _data_url(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


TRUTH = (255, 255, 255)  # RGB
MAX_SIZE = (400, 200)  # width and height of a picture
LINE = 2  # pixels, width of a box's
JPEG = [  # colours at full resolution, for thin lines
    cv2.IMWRITE_JPEG_QUALITY, 85, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
]  # fmt: skip


def choose_frames(overlaps: np.ndarray, count: int = 8) -> list[int]:
    """Numbers of at most `count` evenly spaced frames, the first among them, the nearest of the others at the worst.

    That is the first of the least overlap; `overlaps` are (N,) IoU of each frame, NaN where it does not count.
    """
    chosen = np.unique(np.linspace(0, len(overlaps) - 1, count).round().astype(int))
    if np.isfinite(overlaps[1:]).any():
        worst = 1 + int(np.nanargmin(overlaps[1:]))
        chosen[1 + int(np.abs(chosen[1:] - worst).argmin())] = worst
    return [int(number) for number in chosen]


def draw_strip(
    sequence: VideoSequence, tracked: Sequence[tuple[np.ndarray, tuple[int, int, int]]], numbers: Sequence[int]
) -> list[tuple[int, bytes]]:
    """Draw frames, by number, with the truth in white and boxes in their colours, at most 400 x 200 pixels each.

    `tracked` are pairs of boxes (N, 4) x, y, w, h in pixels counted from 0, or fewer rows, and an RGB colour. Returns
    the frames' numbers and JPEG files. Raises InputError if a frame cannot be read.
    """
    strip = []
    for number in numbers:
        image = read_image(sequence.frames[number])
        zoom = min(MAX_SIZE[0] / image.shape[1], MAX_SIZE[1] / image.shape[0])
        image = cv2.resize(image, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_AREA)
        shown = [(boxes[number], colour) for boxes, colour in reversed(tracked) if number < len(boxes)]  # first on top
        outline_boxes(image, [(sequence.boxes[number], TRUTH), *shown], LINE, zoom)
        _, packed = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), JPEG)
        strip.append((number, packed.tobytes()))
    return strip
