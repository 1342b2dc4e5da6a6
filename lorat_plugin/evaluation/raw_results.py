"""Raw results that others publish: where they lie, which frames their rows stand for, how far they agree with ours."""

from __future__ import annotations

import os
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np

from lorat_plugin.boxes import iou, xywh_to_xyxy
from lorat_plugin.datasets.sequences import VideoSequence
from lorat_plugin.errors import InputError, first_line
from lorat_plugin.evaluation.benchmarks import Benchmark, frames_omitted
from lorat_plugin.evaluation.protocols import PADDING
from lorat_plugin.evaluation.results import FORMATS, ResultFiles, names_elsewhere
from lorat_plugin.evaluation.scoring import score_tracker
from lorat_plugin.evaluation.tables import make_table, wide_console

BESIDE = ("times", "scores", "seconds")  # folders of other numbers, beside boxes
LAYOUTS = [name for name in FORMATS if name not in ("pytracking", "ostrack")]  # which have the paths of "flat"
LARGEST = 1 << 30  # bytes that an archive may unpack to; raw results of a whole benchmark have some 100 MB
NAMED = 20  # sequences in a sentence
DIVERGED = 0.5  # IoU below which two runs no longer follow the same target
CLOSE = 2.0  # pixels; rounding moves no number of a box as far
WANTED = (
    "<sequence>.txt, <sequence>/<sequence>_001.txt as the GOT-10k toolkit has it, or <sequence>/eval.csv as official"
    " LoRAT dumps it, in it or in a folder below, or a zip archive of these"
)


def find_results(folder: Path, benchmark: Benchmark, name: str | None = None) -> ResultFiles:
    """Recognise someone's raw results on a benchmark, in a layout of the GOT-10k toolkit, pytracking or official LoRAT.

    The files may lie in a zip archive, in folders below, such as <tracker>/<parameter>/, GOT-10k/<tracker>/ or
    trackingnet/, and have the names of `names_elsewhere`. Their boxes count pixels as the benchmark's own files do, but
    those of a dump from 0. `name` is the tracker's, else the folder's. Raises InputError if nothing is recognised, the
    results of several trackers are, or an archive cannot be read.
    """
    folder = Path(folder).expanduser().resolve()
    archive = None if folder.is_dir() else open_archive(folder)
    paths = archive.namelist() if archive else []
    for home, folders, names in os.walk(folder):  # nothing for an archive
        folders[:] = sorted(name for name in folders if name not in BESIDE)
        paths += [Path(home, name).relative_to(folder).as_posix() for name in names]
    homes = _homes(paths, benchmark)
    if not homes:
        archives = [path for path in paths if path.endswith(".zip")]
        advice = f"name an archive, such as {archives[0]}" if archives else f"wanted {WANTED}"
        raise InputError(f"{folder}: no result of {benchmark.name} there; {advice}")
    if len(homes) > 1:
        shown = ", ".join(list(homes)[:4])
        advice = "unpack it and name one of these folders" if archive else "name one of these folders"
        raise InputError(f"{folder}: holds results of several trackers ({shown}); {advice}")
    ((home, found),) = homes.items()
    # reading only, for which zipfile's paths do as well
    home_path = cast(Path, zipfile.Path(archive, f"{home}/" if home else "")) if archive else folder / home
    if found.layout == "flat" and not (home_path / "times").is_dir():
        found = replace(found, layout="pytracking")
    return replace(found, tracker=name or folder.stem if archive else name or folder.name, folder=home_path)


def open_archive(path: Path) -> zipfile.ZipFile:
    """A zip archive of results. Raises InputError if it is none, is damaged, or unpacks to more than results can be."""
    if not path.is_file():
        raise InputError(f"{path}: no such folder of results; wanted {WANTED}")
    try:
        archive = zipfile.ZipFile(path)
        if (size := sum(entry.file_size for entry in archive.infolist())) > LARGEST:
            raise ValueError(f"it unpacks to {size >> 20} MB, more than results can be")
        if damaged := archive.testzip():
            raise ValueError(f"{damaged} in it is damaged")
    except Exception as error:  # zipfile raises many kinds
        raise InputError(
            f"{path}: is neither a folder nor a zip archive that can be read ({first_line(error)})"
        ) from error
    return archive


def _homes(paths: Iterable[str], benchmark: Benchmark) -> dict[str, ResultFiles]:
    """Folders that hold results, each with the layout and names that fit most sequences; none within another."""
    candidates: list[ResultFiles] = []
    wanted: dict[str, list[int]] = defaultdict(list)  # path below the home -> numbers of candidates
    for style in zip(*(names_elsewhere(benchmark.name, name) for name in benchmark.seq_names), strict=True):
        names = {name: other for name, other in zip(benchmark.seq_names, style, strict=True) if name != other}
        for layout in LAYOUTS:
            origin = 0 if layout == "dump" else benchmark.origin
            files = ResultFiles("", Path(), layout, origin, names=names)
            for name in benchmark.seq_names:
                wanted[files.boxes_path(name).as_posix()].append(len(candidates))
            candidates.append(files)
    hits: dict[tuple[str, ...], Counter[int]] = defaultdict(Counter)
    for path in paths:
        parts = tuple(path.split("/"))
        for depth in (1, 2):
            hits[parts[:-depth]].update(wanted.get("/".join(parts[-depth:]), ()))
    homes = sorted(home for home, counts in hits.items() if counts)
    homes = [home for home in homes if not any(home[:depth] in homes for depth in range(len(home)))]
    return {"/".join(home): candidates[max(sorted(hits[home]), key=hits[home].__getitem__)] for home in homes}


def fit_lengths(
    benchmark: Benchmark, results: Sequence[ResultFiles], protocol: str = "", *, partial: bool = False
) -> tuple[Benchmark, list[ResultFiles], list[str]]:
    """Find the frames of which all raw results have a row, whatever the number of their rows.

    Rows beyond the last frame do not count. 349 rows of OTB's Tiger1 begin at its sixth frame, where pytracking and
    official LoRAT start. Other files that end early are taken to begin at the first frame; protocols in `PADDING` count
    frames without a row as failures, by the others they are left out, and with `partial` so are sequences without a
    result. Returns the benchmark with these frames only, the results with their `spans`, and a sentence for each
    difference. Raises InputError if files are missing or damaged, have one row only, or end early on LaSOT by one of
    `PADDING`.
    """
    notes = []
    absent = [s.name for s in benchmark.sequences if not all(files.has(s.name) for files in results)]
    if absent:
        told = f"{len(absent)} of {len(benchmark)} sequences have no raw results: {listed(absent)}"
        if not partial or len(absent) == len(benchmark):
            raise InputError(f"{told}; complete them, or leave these out: --skip {','.join(absent)}")
        notes.append(f"{told}; they are left out")
    spans: list[dict[str, tuple[int, int]]] = [{} for _ in results]
    sequences = []
    differences: dict[str, list[str]] = defaultdict(list)
    for sequence in benchmark.sequences:
        if sequence.name in absent:
            continue
        start, stop = 0, len(sequence)
        for files, own in zip(results, spans, strict=True):
            rows = min(len(files.read_all(sequence.name, run)) for run in files.repetitions(sequence.name))
            if rows == len(sequence):
                continue
            try:
                span, counted, what = _span(benchmark, sequence, rows, protocol)
            except InputError as error:
                raise InputError(f"{files.boxes_path(sequence.name)}: {error}") from error
            own[sequence.name] = span
            start, stop = max(start, counted[0]), min(stop, counted[1])
            differences[f"{files.tracker}: {what}"].append(f"{sequence.name} ({rows} rows, {len(sequence)} frames)")
        sequences.append(sequence if (start, stop) == (0, len(sequence)) else sequence.part(start, stop))
    notes += [f"{what}: {listed(where)}" for what, where in differences.items()]
    fitted = [replace(files, spans=own) for files, own in zip(results, spans, strict=True)]
    return replace(benchmark, sequences=tuple(sequences)), fitted, notes


def _span(
    benchmark: Benchmark, sequence: VideoSequence, rows: int, protocol: str
) -> tuple[tuple[int, int], tuple[int, int], str]:
    """Frames that rows of another number stand for, frames that count, and how that is said."""
    frames, omitted = len(sequence), frames_omitted(benchmark.name, sequence)
    if rows > frames:
        return (0, frames), (0, frames), "rows behind the last frame are left out"
    if omitted and rows == frames - omitted:
        return (
            (omitted, frames),
            (omitted, frames),
            f"the rows begin at frame {omitted + 1}, and only these frames count",
        )
    refusal = "too few to compare" if rows < 2 else ""
    if protocol in PADDING and benchmark.name == "lasot":
        refusal = f"and {protocol} refuses that on LaSOT"
    if refusal:
        raise InputError(
            f"{rows} rows for {frames} frames, {refusal}; complete the file, or leave the sequence out:"
            f" --skip {sequence.name}"
        )
    if protocol in PADDING:
        return (0, rows), (0, frames), f"frames without a row are failures, as {protocol} has it"
    return (0, rows), (0, rows), "frames without a row are left out"


def start_notes(benchmark: Benchmark, files: ResultFiles) -> list[str]:
    """Sentences about first rows that are not the given box; none if all are. InputError for a damaged file."""
    rows = np.array([files.read(sequence)[0] for sequence in benchmark.sequences])
    given = np.array([sequence.boxes[0] for sequence in benchmark.sequences])
    gaps = rows - given
    middle = np.median(gaps, axis=0)
    if np.allclose(np.abs(middle), [1, 1, 0, 0], atol=0.01):
        other = files.origin + round(middle[0])
        return [
            f"{files.tracker} starts one pixel beside the given boxes: its files seem to count pixels from {other}, and"
            f" those of {benchmark.name} from {files.origin}."
        ]
    apart = ~(np.abs(gaps) < CLOSE).all(axis=1)
    if not apart.any():
        return []
    where = [name for name, is_apart in zip(benchmark.seq_names, apart, strict=True) if is_apart]
    return [
        f"{files.tracker}: {len(where)} sequences start from another box than the given one, of other data, by another"
        f" annotation, or as other numbers than x,y,w,h: {listed(where)}."
    ]


def listed(names: Sequence[str], most: int = NAMED) -> str:
    """The first `most` names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


@dataclass(frozen=True)
class RunAgreement:
    """Agreement of two runs on the frames of one sequence, or of all together; the first frame counts.

    Fields: frames, how many; mean_iou; above_99 and above_90, shares of frames with IoU > 0.99 and > 0.9;
    first_divergence, number of the first frame (from 0) with IoU < 0.5, None if there is none; corner, mean absolute
    difference of the four edges in pixels; auc_difference, ours less theirs by the benchmark's protocol, None if the
    truth is not public.
    """

    frames: int
    mean_iou: float
    above_99: float
    above_90: float
    first_divergence: int | None
    corner: float
    auc_difference: float | None = None


@dataclass(frozen=True, eq=False)
class Agreement:
    """Two runs over a benchmark: their names, all frames together, by sequence, and sentences about the files."""

    ours: str
    theirs: str
    overall: RunAgreement
    sequences: dict[str, RunAgreement]
    notes: list[str]


def compare_runs(benchmark: Benchmark, ours: ResultFiles, theirs: ResultFiles) -> Agreement:
    """Compare two runs frame by frame, on the sequences that both have.

    Two boxes without area overlap by 1 if they are the same box, and a NaN overlaps with nothing. Raises InputError if
    a file is damaged, has not a row for every frame, or there is no sequence in common.
    """
    both = [sequence for sequence in benchmark.sequences if ours.has(sequence.name) and theirs.has(sequence.name)]
    if not both:
        raise InputError(f"{theirs.folder}: has no sequence of {benchmark.name} in common with {ours.folder}")
    common = replace(benchmark, sequences=tuple(both))
    mine = {sequence.name: ours.read(sequence) for sequence in both}
    other = {sequence.name: theirs.read(sequence) for sequence in both}
    notes = [
        f"{who} files hold whole pixels: each edge may differ by one for it."
        for who, run in (("Our", mine), ("Their", other))
        if all(np.array_equal(boxes, np.trunc(boxes), equal_nan=True) for boxes in run.values())
    ]
    if len(both) < len(benchmark):
        left = [name for name in benchmark.seq_names if name not in mine]
        notes.append(f"{len(left)} of {len(benchmark)} sequences have results of one run only, first {left[0]}")
    notes += start_notes(common, ours) + start_notes(common, theirs)
    differences: dict[str, float | None] = {name: None for name in ("", *mine)}
    if common.scorable:
        try:
            mine_score, other_score = score_tracker(common, ours), score_tracker(common, theirs)
            differences[""] = mine_score.overall.auc - other_score.overall.auc
            differences |= {name: mine_score.sequences[name].auc - other_score.sequences[name].auc for name in mine}
        except InputError as error:  # the protocol refuses a box or a sequence; the runs can be compared all the same
            notes.append(f"No difference of AUC: {error}")
    return Agreement(
        ours.tracker,
        str(theirs.folder),
        replace(
            _figures(np.concatenate([*mine.values()]), np.concatenate([*other.values()]), differences[""]),
            first_divergence=None,
        ),
        {name: _figures(mine[name], other[name], differences[name]) for name in mine},
        notes,
    )


def _figures(ours: np.ndarray, theirs: np.ndarray, auc_difference: float | None = None) -> RunAgreement:
    same = (ours == theirs).all(axis=1)  # without area, too
    values = np.where(same, 1.0, np.nan_to_num(iou(xywh_to_xyxy(ours), xywh_to_xyxy(theirs))))
    corners = np.abs(xywh_to_xyxy(ours) - xywh_to_xyxy(theirs))
    diverged = np.flatnonzero(values < DIVERGED)
    return RunAgreement(
        len(values),
        float(values.mean()),
        float((values > 0.99).mean()),
        float((values > 0.9).mean()),
        int(diverged[0]) if len(diverged) else None,
        float(np.nanmean(corners)),
        auc_difference,
    )


def show_agreement(agreement: Agreement) -> None:
    """Print the figures of every sequence and of all frames, and the notes, to stdout."""
    console, rows = wide_console(), []
    headings = ("sequence", "frames", "mean IoU", "> 0.99", "> 0.9", "edges [px]", "AUC less theirs", "diverge at")
    for name, row in [*agreement.sequences.items(), ("all frames", agreement.overall)]:
        values = (row.mean_iou, row.above_99, row.above_90, row.corner, row.auc_difference)
        shown = ["-" if value is None else f"{value:.4f}" for value in values]
        rows.append([name, str(row.frames), *shown, "-" if row.first_divergence is None else str(row.first_divergence)])
    console.print(make_table(headings, rows, f"{agreement.ours} against {agreement.theirs}"))
    for note in agreement.notes:
        console.print(note, soft_wrap=True, highlight=False)
