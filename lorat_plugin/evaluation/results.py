"""Result files of a tracker on a benchmark: where they lie and what is in them, in the layouts of the toolkits.

nested      <folder>/<sequence>/<sequence>_001.txt, <sequence>_time.txt      ExperimentGOT10k
flat        <folder>/<sequence>.txt, times/<sequence>_time.txt               ExperimentOTB and its children
pytracking  <folder>/<sequence>.txt, <sequence>_time.txt, tabs               pytracking; official LoRAT
ostrack     the same with whole numbers, cut off, as the tree itself writes  OSTrack, STARK
"""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from lorat_plugin.boxes import iou, rasterize, xywh_to_xyxy, xyxy_to_xywh
from lorat_plugin.data.clips import read_boxes
from lorat_plugin.digests import Record, difference
from lorat_plugin.errors import InputError
from lorat_plugin.evaluation.benchmarks import Benchmark, EvaluationSequence
from lorat_plugin.files import parse_json, whole_file

logger = logging.getLogger(__name__)

FORMATS = {"nested": ("%.3f", ","), "flat": ("%.3f", ","), "pytracking": ("%.3f", "\t"), "ostrack": ("%d", "\t")}
NEAR = 0.5  # IoU with the given box, from which on a first row is one of the same data in another convention
REMEDY = "choose another --name or --results, or remove it and track again"
PREFIXES = {"uav123": "uav_", "nfs": "nfs_", "tcolor128": "tpl_"}  # of sequences in the pytracking and OSTrack trees


@dataclass(frozen=True)
class ResultFiles:
    """One tracker's results on one benchmark.

    Fields: tracker, its name; folder, which holds its files; layout, a key of `FORMATS`; origin, number of the first
    pixel in the files; rasterize, whether boxes are rounded outwards to whole pixels when they are written; prefix,
    what the files have before a sequence's name, such as pytracking's "uav_"; records, the folder that tells of which
    data the results are, None for results that others made elsewhere.
    """

    tracker: str
    folder: Path
    layout: str
    origin: int = 0
    rasterize: bool = False
    prefix: str = ""
    records: Path | None = None

    def boxes_path(self, sequence: str, repetition: int = 1) -> Path:
        """The file of boxes of a sequence; `repetition` counts from 1 and matters for the nested layout only."""
        name = self.prefix + sequence
        return self.folder / (f"{name}/{name}_{repetition:03d}.txt" if self.layout == "nested" else f"{name}.txt")

    def times_path(self, sequence: str) -> Path:
        """The file of seconds for each frame of a sequence."""
        name = self.prefix + sequence
        return self.folder / {"nested": name, "flat": "times"}.get(self.layout, "") / f"{name}_time.txt"

    def has(self, sequence: str) -> bool:
        """Whether there are results of a sequence, whole or not."""
        return self.boxes_path(sequence).is_file()

    def begin(self, sequence: EvaluationSequence) -> None:
        """Remove a sequence's result, if there is one, and record of which data the next one is; `write` comes then.

        Raises InputError if a frame cannot be read, or the record cannot be written.
        """
        self.boxes_path(sequence.name).unlink(missing_ok=True)
        if self.records is not None:
            with whole_file(self._record_path(sequence.name)) as part:
                part.write_text(json.dumps(sequence.record, indent=2) + "\n", encoding="utf-8")

    def record(self, sequence: str) -> Record | None:
        """The record of the data that a result was made from, or None if there is none. InputError if it is damaged."""
        path = self._record_path(sequence)
        if self.records is None or not path.is_file():
            return None
        try:
            return dict(parse_json(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise InputError(
                f"{path}: is no record of data ({error}); delete it and the result, and track again"
            ) from error

    def mismatch(self, sequence: EvaluationSequence) -> str:
        """In what a result that is there differs from one of this sequence's data, in words; "" if in nothing.

        Frames and first box are compared with the result's record, wherever the frames lie. A result without a record
        must begin with the first box: exactly if it is LoRAT's, roughly if another program may have written it.
        """
        former = self.record(sequence.name)
        if former is not None:
            return difference(former, sequence.record, ignored=("folder",))
        if self.records is None:
            return ""
        note_unrecorded(self.tracker, self.folder)
        with self.boxes_path(sequence.name).open(encoding="utf-8", errors="replace") as lines:
            line = lines.readline()
        try:
            row = parse_table(line)[0] - np.array([self.origin] * 2 + [0, 0])
        except (ValueError, IndexError):
            return ""  # damaged, which reading it tells
        given = sequence.boxes[0]
        ours = (self.records.parent / "run.json").is_file()
        if is_start(row, given) if ours else is_near_start(row, given):
            return ""
        return f"first box {row.tolist()}, now {given.tolist()}"

    def _record_path(self, sequence: str) -> Path:
        return (self.records or self.folder) / f"{sequence}.json"

    def write(self, sequence: str, runs: Sequence[np.ndarray], times: np.ndarray) -> None:
        """Write the boxes of every run through a sequence, and times.

        Args:
            sequence: its name.
            runs: each (N, 4) float64 x, y, w, h, pixels counted from 0. The first row is the given box.
            times: (N, runs) float64 seconds; zeros mean that speed was not measured, and the toolkits ignore them.
        Raises InputError if a file cannot be written.
        """
        form, delimiter = FORMATS[self.layout]
        save_rows(self.times_path(sequence), times, "%.8f" if delimiter == "," else "%f", delimiter)
        for number, boxes in list(enumerate(runs, start=1))[::-1]:  # the first, which says that all is there, last
            rows = outwards(boxes) if self.rasterize else boxes
            save_rows(self.boxes_path(sequence, number), rows + np.array([self.origin] * 2 + [0, 0]), form, delimiter)

    def read(self, sequence: EvaluationSequence, repetition: int = 1) -> np.ndarray:
        """Boxes (N, 4) float64 x, y, w, h of a run through a sequence, pixels counted from 0.

        Raises InputError if the file is missing, damaged, of other data, or has not a row for every frame.
        """
        path = self.boxes_path(sequence.name, repetition)
        if not path.is_file():
            raise InputError(f"{path}: no result of {self.tracker} there; track the sequence first, or leave it out")
        boxes = read_boxes(path)
        if len(boxes) != len(sequence):
            raise InputError(
                f"{path}: {len(boxes)} rows for {len(sequence)} frames, half written or of other data; delete it and"
                " track the sequence again"
            )
        if changed := self.mismatch(sequence):
            raise InputError(f"{path}: is a result of other data than {sequence.frames[0]} ... ({changed}); {REMEDY}")
        return boxes - np.array([self.origin] * 2 + [0, 0])

    def read_times(self, sequence: str) -> np.ndarray | None:
        """Seconds (N,) of the first run through a sequence, or None if they are absent or were not measured."""
        path = self.times_path(sequence)
        if not path.is_file():
            return None
        try:
            times = parse_table(path.read_text(encoding="utf-8"))[:, 0]
        except (OSError, ValueError) as error:
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
    prefix = PREFIXES.get(benchmark.name, "")
    return ResultFiles(tracker, home, style, benchmark.origin, benchmark.rasterize, prefix, records)


@cache
def note_unrecorded(tracker: str, folder: Path) -> None:
    """Say once that results cannot be held against a record of their data."""
    logger.warning(
        "%s: results of %s without a record of their data; their first box and number of rows are checked only",
        folder,
        tracker,
    )


def is_start(row: np.ndarray, given: np.ndarray) -> bool:
    """Whether a result's first row (4,) is the given box (4,): as it is, rounded outwards, or cut off to whole pixels.

    Both are x, y, w, h in pixels counted from 0.
    """
    return any(np.allclose(row, box, rtol=0, atol=0.011) for box in (given, outwards(given), np.trunc(given)))


def is_near_start(row: np.ndarray, given: np.ndarray) -> bool:
    """Whether a first row is the given box in some convention: moved by a pixel, as corners, or left empty."""
    if not (np.isfinite(row).all() and row[2:].any()):
        return True
    corners = np.concatenate([row[:2], row[2:] - row[:2]])
    return any(iou(xywh_to_xyxy(box), xywh_to_xyxy(given)) >= NEAR for box in (row, corners))


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


def read_confidences(notes: Path, sequence: EvaluationSequence) -> np.ndarray | None:
    """The tracker's scores (N,) in [0, 1] of a sequence, 1 for the given box; None if they were not recorded.

    Raises InputError if the file has not a row for every frame.
    """
    path = notes / "scores" / f"{sequence.name}.txt"
    if not path.is_file():
        return None
    try:
        scores = np.loadtxt(path, ndmin=1)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: is no file of scores ({error}); delete it") from error
    if scores.shape != (len(sequence),):
        raise InputError(f"{path}: {len(scores)} rows for {len(sequence)} frames; delete it and track again")
    return scores
