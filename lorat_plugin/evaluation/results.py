"""Result files of a tracker on a benchmark: where they lie and what is in them, in the layouts of the toolkits.

nested      <folder>/<sequence>/<sequence>_001.txt, <sequence>_time.txt      ExperimentGOT10k
flat        <folder>/<sequence>.txt, times/<sequence>_time.txt               ExperimentOTB and its children
pytracking  <folder>/<sequence>.txt, <sequence>_time.txt, tabs               pytracking; official LoRAT
ostrack     the same with whole numbers, cut off, as the tree itself writes  OSTrack, STARK
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lorat_plugin.box_files import read_boxes
from lorat_plugin.boxes import rasterize, xywh_to_xyxy, xyxy_to_xywh
from lorat_plugin.errors import InputError
from lorat_plugin.evaluation.benchmarks import Benchmark, EvaluationSequence
from lorat_plugin.files import read_plain_text, whole_file

FORMATS = {"nested": ("%.3f", ","), "flat": ("%.3f", ","), "pytracking": ("%.3f", "\t"), "ostrack": ("%d", "\t")}
PREFIXES = {"uav123": "uav_", "nfs": "nfs_", "tcolor128": "tpl_"}  # of sequences in the pytracking and OSTrack trees


@dataclass(frozen=True)
class ResultFiles:
    """One tracker's results on one benchmark.

    Fields: tracker, its name; folder, which holds its files; layout, a key of `FORMATS`; origin, number of the first
    pixel in the files; rasterize, whether boxes are rounded outwards to whole pixels when they are written; prefix,
    what the files have before a sequence's name, such as pytracking's "uav_".
    """

    tracker: str
    folder: Path
    layout: str
    origin: int = 0
    rasterize: bool = False
    prefix: str = ""

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

        Raises InputError if the file is missing, damaged or has not a row for every frame.
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
    if style == "got10k":
        return ResultFiles(
            tracker, folder / benchmark.folder / tracker, benchmark.layout, benchmark.origin, benchmark.rasterize
        )
    if style not in ("pytracking", "ostrack"):
        raise InputError(f"unknown format '{style}': use got10k, pytracking or ostrack")
    home = folder / tracker
    if style == "ostrack" and benchmark.name in ("got10k", "trackingnet"):
        home = home / benchmark.name
    return ResultFiles(tracker, home, style, benchmark.origin, benchmark.rasterize, PREFIXES.get(benchmark.name, ""))


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
    """What the toolkits have no place for: run.json (settings), scores/<sequence>.txt, seconds/<sequence>.txt.

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
        scores = np.loadtxt(io.StringIO(read_plain_text(path)), ndmin=1)
    except ValueError as error:
        raise InputError(f"{path}: is no file of scores ({error}); delete it") from error
    if scores.shape != (len(sequence),):
        raise InputError(f"{path}: {len(scores)} rows for {len(sequence)} frames; delete it and track again")
    return scores
