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
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, takewhile
from pathlib import Path

import numpy as np

from lorat_plugin.box_files import read_boxes
from lorat_plugin.boxes import rasterize, xywh_to_xyxy, xyxy_to_xywh
from lorat_plugin.errors import InputError
from lorat_plugin.evaluation.benchmarks import Benchmark, EvaluationSequence
from lorat_plugin.files import read_plain_text, whole_file

FORMATS = {"nested": ("%.3f", ","), "flat": ("%.3f", ","), "pytracking": ("%.3f", "\t"), "ostrack": ("%d", "\t")}
PATHS = {  # of boxes below the folder, by name in files and repetition; the other layouts have "<name>.txt"
    "nested": "{0}/{0}_{1:03d}.txt",
    "own_folder": "{0}/{0}.txt",
    "dump": "{0}/eval.csv",
}
DUMPED = ("pred_x", "pred_y", "pred_w", "pred_h")
PREFIXES = {"uav123": "uav_", "uav20l": "uav_", "nfs": "nfs_", "tcolor128": "tpl_"}  # in pytracking's tree


@dataclass(frozen=True)
class ResultFiles:
    """One tracker's results on one benchmark.

    Fields: tracker, its name; folder, which holds its files; layout, a key of `FORMATS` or of `PATHS`; origin, number
    of the first pixel in the files; rasterize, whether boxes are rounded outwards to whole pixels when they are
    written; names, by sequence its name in the files where that is another, such as pytracking's "uav_bike1"; spans, by
    sequence the frames (first, last + 1) that the rows stand for, where there is not one row for every frame.
    """

    tracker: str
    folder: Path
    layout: str
    origin: int = 0
    rasterize: bool = False
    names: Mapping[str, str] = field(default_factory=dict)
    spans: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def boxes_path(self, sequence: str, repetition: int = 1) -> Path:
        """The file of boxes of a sequence; `repetition` counts from 1 and matters for the nested layout only."""
        name = self.names.get(sequence, sequence)
        return self.folder / PATHS.get(self.layout, "{0}.txt").format(name, repetition)

    def times_path(self, sequence: str) -> Path:
        """The file of seconds for each frame of a sequence."""
        name = self.names.get(sequence, sequence)
        folder = {"nested": name, "own_folder": name, "flat": "times"}.get(self.layout)
        return self.folder / (f"{folder}/{name}_time.txt" if folder else f"{name}_time.txt")

    def has(self, sequence: str) -> bool:
        """Whether there are results of a sequence, whole or not."""
        return self.boxes_path(sequence).is_file()

    def repetitions(self, sequence: str) -> list[int]:
        """Numbers of the recorded runs, from 1; a tracker that draws random numbers has three in the nested layout."""
        later = count(2) if self.layout == "nested" else ()
        return [1, *takewhile(lambda run: self.boxes_path(sequence, run).is_file(), later)]

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

        Fewer than N rows if `spans` says that the last frames have none.
        Raises InputError if the file is missing, damaged or has not a row for every frame.
        """
        path = self.boxes_path(sequence.name, repetition)
        boxes = self.read_all(sequence.name, repetition)
        whole = sequence.whole or len(sequence)
        start, stop = self.spans.get(sequence.name, (0, whole))
        if len(boxes) < stop - start or (len(boxes) != whole and sequence.name not in self.spans):
            raise InputError(
                f"{path}: {len(boxes)} rows for {whole} frames, half written or of other data; delete it and"
                " track the sequence again"
            )
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
    if style == "got10k":
        return ResultFiles(
            tracker, folder / benchmark.folder / tracker, benchmark.layout, benchmark.origin, benchmark.rasterize
        )
    if style not in ("pytracking", "ostrack"):
        raise InputError(f"unknown format '{style}': use got10k, pytracking or ostrack")
    home = folder / tracker
    if style == "ostrack" and benchmark.name in ("got10k", "trackingnet"):
        home = home / benchmark.name
    names = {name: names_elsewhere(benchmark.name, name)[0] for name in benchmark.seq_names}
    return ResultFiles(tracker, home, style, benchmark.origin, benchmark.rasterize, names)


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

    Raises InputError if the file has not a row for every frame of the whole sequence.
    """
    path = notes / "scores" / f"{sequence.name}.txt"
    if not path.is_file():
        return None
    try:
        scores = np.loadtxt(io.StringIO(read_plain_text(path)), ndmin=1)
    except ValueError as error:
        raise InputError(f"{path}: is no file of scores ({error}); delete it") from error
    whole = sequence.whole or len(sequence)
    if scores.shape != (whole,):
        raise InputError(f"{path}: {len(scores)} rows for {whole} frames; delete it and track again")
    return scores[sequence.offset :][: len(sequence)]
