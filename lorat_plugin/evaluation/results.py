"""Result files of a tracker on a benchmark: where they lie and what is in them, in the layouts of the toolkits.

nested      <folder>/<sequence>/<sequence>_001.txt, <sequence>_time.txt      ExperimentGOT10k
flat        <folder>/<sequence>.txt, times/<sequence>_time.txt               ExperimentOTB and its children
pytracking  <folder>/<sequence>.txt, <sequence>_time.txt, tabs               pytracking; official LoRAT
ostrack     the same with whole numbers, cut off, as the tree itself writes  OSTrack, STARK
own_folder  <folder>/<sequence>/<sequence>.txt                               official LoRAT for TrackingNet; read only
dump        <folder>/<sequence>/eval.csv with headings, pixels from 0        official LoRAT; read only
"""

from __future__ import annotations

import csv
import io
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import count, takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lorat_plugin.box_files import read_boxes
from lorat_plugin.boxes import rasterize, xywh_to_xyxy, xyxy_to_xywh
from lorat_plugin.datasets.sequences import VideoSequence
from lorat_plugin.digests import Record, difference, read_record
from lorat_plugin.errors import InputError
from lorat_plugin.files import read_plain_text, whole_file, write_json

if TYPE_CHECKING:
    from lorat_plugin.evaluation.benchmarks import Benchmark

logger = logging.getLogger(__name__)

PREFIXES = {"uav123": "uav_", "uav20l": "uav_", "nfs": "nfs_", "tcolor128": "tpl_"}  # of files in pytracking's tree
DUMPED = ("pred_x", "pred_y", "pred_w", "pred_h")
REMEDY = "choose another --name or --results, or remove it and track again"


@dataclass(frozen=True)
class ResultFormat:
    """A layout of result files.

    Fields: boxes and times, paths below a tracker's folder, {0} is the sequence, {1} the number of the run; number and
    delimiter, the form of a box's numbers and what separates them; number is empty where results are only read.
    """

    boxes: str = "{0}.txt"
    times: str = "{0}_time.txt"
    number: str = ""
    delimiter: str = ","


FORMATS = {
    "nested": ResultFormat("{0}/{0}_{1:03d}.txt", "{0}/{0}_time.txt", "%.3f"),
    "flat": ResultFormat(times="times/{0}_time.txt", number="%.3f"),
    "pytracking": ResultFormat(number="%.3f", delimiter="\t"),
    "ostrack": ResultFormat(number="%d", delimiter="\t"),
    "own_folder": ResultFormat("{0}/{0}.txt", "{0}/{0}_time.txt"),
    "dump": ResultFormat("{0}/eval.csv"),
}


@dataclass(frozen=True)
class ResultFiles:
    """One tracker's results on one benchmark.

    Fields: tracker, its name; folder, which holds its files; layout, a key of `FORMATS`; origin, number
    of the first pixel in the files; rasterize, whether boxes are rounded outwards to whole pixels when they are
    written; names, by sequence its name in the files where that is another, such as pytracking's "uav_bike1"; spans, by
    sequence the frames (first, last + 1) that the rows stand for, where there is not one row for every frame; records,
    the folder of the records of the data that the results were made from, None for results that others made elsewhere.
    """

    tracker: str
    folder: Path
    layout: str
    origin: int = 0
    rasterize: bool = False
    names: Mapping[str, str] = field(default_factory=dict)
    spans: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    records: Path | None = None

    def boxes_path(self, sequence: str, repetition: int = 1) -> Path:
        """The file of boxes of a sequence; `repetition` counts from 1 and matters for the nested layout only."""
        name = self.names.get(sequence, sequence)
        return self.folder / FORMATS[self.layout].boxes.format(name, repetition)

    def times_path(self, sequence: str) -> Path:
        """The file of seconds for each frame of a sequence."""
        name = self.names.get(sequence, sequence)
        return self.folder / FORMATS[self.layout].times.format(name)

    def has(self, sequence: str) -> bool:
        """Whether there are results of a sequence, whole or not."""
        return self.boxes_path(sequence).is_file()

    def repetitions(self, sequence: str) -> list[int]:
        """Numbers of the recorded runs, from 1; a tracker that draws random numbers has three in the nested layout."""
        later = count(2) if self.layout == "nested" else ()
        return [1, *takewhile(lambda run: self.boxes_path(sequence, run).is_file(), later)]

    def begin(self, sequence: VideoSequence) -> None:
        """Remove a sequence's result, if there is one, and record of which data the next one is; `write` comes then.

        Raises InputError if a frame cannot be read, or the record cannot be written.
        """
        self.boxes_path(sequence.name).unlink(missing_ok=True)
        if self.records is not None:
            write_json(self._record_path(sequence.name), sequence.record)

    def record(self, sequence: str) -> Record | None:
        """The record of the data that a result was made from, or None if there is none. InputError if it is damaged."""
        path = self._record_path(sequence)
        if self.records is None or not path.is_file():
            return None
        return read_record(path, "delete it and the result, and track again")

    def mismatch(self, sequence: VideoSequence) -> str:
        """In what a result that is there differs from one of this sequence's data, in words; "" if in nothing.

        Frames and first box are compared with the result's record, wherever the frames lie. A result of ours without a
        record must begin with the first box; one of another program may have another convention.
        """
        former = self.record(sequence.name)
        if former is not None:
            return difference(former, sequence.record, ignored=("folder",))
        if self.records is None:
            return ""
        note_unrecorded(self.tracker, self.folder)
        if not (self.records.parent / "run.json").is_file():
            return ""
        with self.boxes_path(sequence.name).open(encoding="utf-8", errors="replace") as lines:
            line = lines.readline()
        try:
            row = parse_table(line)[0] - np.array([self.origin] * 2 + [0, 0])
        except (ValueError, IndexError):
            return ""  # damaged, which reading it tells
        given = (sequence.parent or sequence).boxes[0]
        return "" if is_start(row, given) else f"first box {row.tolist()}, now {given.tolist()}"

    def _record_path(self, sequence: str) -> Path:
        return (self.records or self.folder) / f"{sequence}.json"

    def write(self, sequence: str, runs: Sequence[np.ndarray], times: np.ndarray) -> None:
        """Write the boxes of every run through a sequence, and times; InputError if a file cannot be written.

        Each run is (N, 4) float64 x, y, w, h, pixels counted from 0, the first row the given box. Times are (N, runs)
        float64 seconds; zeros mean that speed was not measured, and the toolkits ignore them.
        """
        form = FORMATS[self.layout]
        save_rows(self.times_path(sequence), times, "%.8f" if form.delimiter == "," else "%f", form.delimiter)
        for number, boxes in list(enumerate(runs, start=1))[::-1]:  # the first, which says that all is there, last
            rows = outwards(boxes) if self.rasterize else boxes
            rows = rows + np.array([self.origin] * 2 + [0, 0])
            save_rows(self.boxes_path(sequence, number), rows, form.number, form.delimiter)

    def read(self, sequence: VideoSequence, repetition: int = 1) -> np.ndarray:
        """Boxes (N, 4) float64 x, y, w, h of a run through a sequence, pixels counted from 0.

        Fewer than N rows if `spans` says that the last frames have none.
        Raises InputError if the file is missing, damaged, of other data, or has not a row for every frame.
        """
        path = self.boxes_path(sequence.name, repetition)
        boxes = self.read_all(sequence.name, repetition)
        whole = sequence.whole
        start, stop = self.spans.get(sequence.name, (0, whole))
        if len(boxes) < stop - start or (len(boxes) != whole and sequence.name not in self.spans):
            raise InputError(
                f"{path}: {len(boxes)} rows for {whole} frames, half written or of other data; delete it and"
                " track the sequence again"
            )
        if changed := self.mismatch(sequence):
            raise InputError(f"{path}: is a result of other data than {sequence.frames[0]} ... ({changed}); {REMEDY}")
        return boxes[: stop - start][sequence.offset - start :][: len(sequence)]

    def read_all(self, sequence: str, repetition: int = 1) -> np.ndarray:
        """All rows (M, 4) float64 x, y, w, h of a run's file, pixels counted from 0, however many there are.

        Raises InputError if the file is missing or damaged.
        """
        path = self.boxes_path(sequence, repetition)
        if not path.is_file():
            raise InputError(f"{path}: no result of {self.tracker} there; track the sequence first, or leave it out")
        boxes = read_dump(path) if self.layout == "dump" else read_boxes(path)
        return boxes - np.array([self.origin] * 2 + [0, 0])

    def read_times(self, sequence: str) -> np.ndarray | None:
        """Seconds (N,) of the first run through a sequence, or None if they are absent or were not measured."""
        path = self.times_path(sequence)
        if not path.is_file():
            return None
        try:
            times = parse_table(read_plain_text(path))[:, 0]
        except ValueError as error:
            raise InputError(f"{path}: is no file of times ({error}); delete it") from error
        return times if (times > 0).any() else None


def result_files(benchmark: Benchmark, results: Path, tracker: str, style: str = "got10k") -> ResultFiles:
    """Where a tracker's results on a benchmark belong below the folder `results`.

    `style`: "got10k" for the GOT-10k toolkit's layout of this benchmark, or "pytracking" or "ostrack" (then `tracker`
    may be name/parameter, as these trees have it). Raises InputError for another style, or a name that is no folder's.
    """
    parts = tracker.split("/") if style != "got10k" else [tracker]
    if len(parts) > 2 or any(re.search(r"[/\\:]", part) or not part.strip(". ") for part in parts):
        raise InputError(f"tracker name '{tracker}': it becomes the name of a folder; use letters, digits, _ and -")
    folder = Path(results).expanduser().resolve()
    records = notes_folder(benchmark, results, tracker) / "data"
    if style == "got10k":
        home = folder / benchmark.folder / tracker
        return ResultFiles(tracker, home, benchmark.layout, benchmark.origin, benchmark.rasterize, records=records)
    if style not in ("pytracking", "ostrack"):
        raise InputError(f"unknown format '{style}': use got10k, pytracking or ostrack")
    home = folder / tracker
    if style == "ostrack" and benchmark.name in ("got10k", "trackingnet"):
        home = home / benchmark.name
    names = {name: names_elsewhere(benchmark.name, name)[0] for name in benchmark.seq_names}
    return ResultFiles(tracker, home, style, benchmark.origin, benchmark.rasterize, names, records=records)


def names_elsewhere(benchmark: str, sequence: str) -> list[str]:
    """Names that result files may have for a sequence, as many for each sequence of a benchmark.

    The first one is that of pytracking's tree, which OSTrack and official LoRAT share; the last is the toolkit's.
    """
    if benchmark == "otb":
        # two targets: pytracking has Jogging_1, pysot Jogging-1, the toolkit Jogging.1; of Human4 the second counts
        name = "Human4_2" if sequence == "Human4" else sequence.replace(".", "_")
        return [name, f"otb_{name}", name.replace("_", "-"), f"otb_{sequence}", sequence]
    prefix = PREFIXES.get(benchmark, "")
    if benchmark == "tcolor128":
        return [prefix + sequence.replace("-", "_"), prefix + sequence, sequence]  # tpl_Yo_yos_ce1
    return [prefix + sequence, sequence] if prefix else [sequence]


def read_dump(path: Path) -> np.ndarray:
    """Boxes (M, 4) float64 x, y, w, h of an eval.csv of official LoRAT, by its headings and frame numbers.

    Raises InputError if headings are missing, a value is no number, or the frames are not 0, 1, 2 and so on.
    """
    lines = csv.DictReader(io.StringIO(read_plain_text(path).lstrip("# ")))
    try:
        table = [[float(line[heading]) for heading in ("ind", *DUMPED)] for line in lines]
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise InputError(
            f"{path}: wanted columns ind, {', '.join(DUMPED)} of numbers ({error}); dump it again"
        ) from error
    if not table or not np.array_equal(np.array(table)[:, 0], np.arange(len(table))):
        raise InputError(f"{path}: has not a row for each of the frames 0, 1, 2 ...; dump it again")
    return np.array(table)[:, 1:]


@cache
def note_unrecorded(tracker: str, folder: Path) -> None:
    """Say once that results cannot be held against a record of their data."""
    told = "%s: results of %s without a record of their data; their first box and number of rows are checked only"
    logger.warning(told, folder, tracker)


def is_start(row: np.ndarray, given: np.ndarray) -> bool:
    """Whether a result's first row (4,) is the given box (4,): as it is, rounded outwards, or cut off to whole pixels.

    Both are x, y, w, h in pixels counted from 0.
    """
    return any(np.allclose(row, box, rtol=0, atol=0.011) for box in (given, outwards(given), np.trunc(given)))


def outwards(boxes: np.ndarray) -> np.ndarray:
    """Boxes (..., 4) x, y, w, h rounded outwards to whole pixels, as LoRAT's results are; float64."""
    return xyxy_to_xywh(rasterize(xywh_to_xyxy(boxes)).astype(np.float64))


def parse_table(text: str) -> np.ndarray:
    """Numbers with commas or spaces between, (rows, columns) float64. Raises ValueError for anything else."""
    return np.loadtxt(io.StringIO(text.replace(",", " ")), ndmin=2)


def save_rows(path: Path, rows: np.ndarray, form: str, delimiter: str) -> None:
    """Write a table of numbers as text; the file appears whole or not at all."""
    with whole_file(path) as part:
        np.savetxt(part, rows, fmt=form, delimiter=delimiter)


def notes_folder(benchmark: Benchmark, results: Path, tracker: str) -> Path:
    """What the toolkits have no place for: run.json (settings), data/<sequence>.json (records), scores/<sequence>.txt.

    It lies beside the toolkits' folders, so that these hold nothing but what the toolkits would have written.
    """
    return Path(results).expanduser().resolve() / "lorat" / benchmark.folder / tracker


def read_confidences(notes: Path, sequence: VideoSequence) -> np.ndarray | None:
    """The tracker's scores (N,) in [0, 1] of a sequence, 1 for the given box; None if they were not recorded.

    Raises InputError if the file has not a row for every frame of the whole sequence.
    """
    path = notes / "scores" / f"{sequence.name}.txt"
    if not path.is_file():
        return None
    try:
        scores = np.loadtxt(io.StringIO(read_plain_text(path)), ndmin=1)
    except ValueError as error:
        raise InputError(f"{path}: is no file of scores ({error}); delete it") from error
    whole = sequence.whole
    if scores.shape != (whole,):
        raise InputError(f"{path}: {len(scores)} rows for {whole} frames; delete it and track again")
    return scores[sequence.offset :][: len(sequence)]
