"""How far two runs over the same frames agree: the proof that a checkpoint reproduces someone's raw results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lorat_plugin.boxes import iou, xywh_to_xyxy
from lorat_plugin.errors import InputError
from lorat_plugin.evaluation.benchmarks import Benchmark
from lorat_plugin.evaluation.results import PREFIXES, ResultFiles, outwards

DEPTH = 5  # folders to look into, such as ROOT/GOT-10k/LoRAT or ROOT/results/lorat/base_224/got10k
BESIDE = ("times", "scores", "seconds")  # folders of other numbers, beside boxes
PARTED = 0.5  # IoU below which two runs no longer follow the same thing
WANTED = "<sequence>.txt, or <sequence>/<sequence>_001.txt as the GOT-10k toolkit has it, in it or in a folder below"


@dataclass(frozen=True)
class Figures:
    """Agreement of two runs on the frames of one sequence, or of all together; the first frame counts.

    Fields: frames, how many; mean_iou; above_99 and above_90, shares of frames with IoU > 0.99 and > 0.9; parted,
    number of the first frame (from 0) with IoU < 0.5, None if there is none; corner, mean absolute difference of the
    four edges in pixels; auc_difference, ours less theirs by the benchmark's protocol, None if the truth is not public.
    """

    frames: int
    mean_iou: float
    above_99: float
    above_90: float
    parted: int | None
    corner: float
    auc_difference: float | None = None


@dataclass(frozen=True, eq=False)
class Agreement:
    """Two runs over a benchmark.

    Fields: ours, theirs, their names; overall, over all frames together; sequences, by name; rounding, what `overall`
    would be if the runs were equal and only one were rounded as its files are, None if neither or both are rounded;
    notes, sentences about what was found; overlaps, by sequence the (N,) IoU of every frame.
    """

    ours: str
    theirs: str
    overall: Figures
    sequences: dict[str, Figures]
    rounding: Figures | None
    notes: list[str]
    overlaps: dict[str, np.ndarray]


def find_results(folder: Path, benchmark: Benchmark, name: str | None = None) -> ResultFiles:
    """Recognise a folder of someone's raw results on a benchmark, in a layout of the GOT-10k toolkit or pytracking.

    The files may lie in folders below, such as <tracker>/<parameter>/, GOT-10k/<tracker>/ or trackingnet/, and have
    pytracking's prefixes (uav_, nfs_, tpl_). Their boxes count pixels as the benchmark's own files do.

    Args:
        folder: where to look.
        benchmark: its sequences are looked for.
        name: of the tracker among our results; the folder's name if left out.
    Raises InputError if nothing is recognised, or the results of several trackers are.
    """
    folder = Path(folder).expanduser().resolve()
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of results; wanted {WANTED}")
    homes = _homes(folder, benchmark, DEPTH)
    if not homes:
        raise InputError(f"{folder}: no result of {benchmark.name} there; wanted {WANTED}")
    if len(homes) > 1:
        shown = ", ".join(str(home.folder.relative_to(folder)) for home in homes[:4])
        raise InputError(f"{folder}: holds results of several trackers ({shown}); name one of these folders")
    return replace(homes[0], tracker=name or folder.name)


def _homes(folder: Path, benchmark: Benchmark, depth: int) -> list[ResultFiles]:
    here = _recognise(folder, benchmark)
    if here is not None or depth == 0:
        return [here] if here is not None else []
    below = sorted(path for path in folder.iterdir() if path.is_dir() and path.name not in BESIDE)
    return [home for path in below for home in _homes(path, benchmark, depth - 1)]


def _recognise(folder: Path, benchmark: Benchmark) -> ResultFiles | None:
    """The results that lie in this very folder; the layout and prefix that fit most sequences."""
    names = {path.name for path in folder.iterdir()}
    candidates = [
        ResultFiles(folder.name, folder, layout, benchmark.origin, prefix=prefix)
        for layout in ("nested", "flat")
        for prefix in ("", *PREFIXES.values())
    ]
    counts = []
    for files in candidates:
        suffix = "" if files.layout == "nested" else ".txt"
        counts.append(sum(files.prefix + n + suffix in names and files.has(n) for n in benchmark.seq_names))
    if not any(counts):
        return None
    files = candidates[int(np.argmax(counts))]
    if files.layout == "flat":  # what tells the toolkits apart is the separator
        first = next(name for name in benchmark.seq_names if files.has(name))
        with files.boxes_path(first).open(encoding="utf-8", errors="replace") as lines:
            if "\t" in lines.readline():
                return replace(files, layout="pytracking")
    return files


def compare_runs(benchmark: Benchmark, ours: ResultFiles, theirs: ResultFiles) -> Agreement:
    """Compare two runs frame by frame, on the sequences that both have.

    IoU is taken between the boxes as the files have them; two boxes without area overlap by 1 if they are the same
    box, and a NaN overlaps with nothing.

    Raises InputError if a file is damaged, has not a row for every frame, or there is no sequence in common.
    """
    both = [sequence for sequence in benchmark.sequences if ours.has(sequence.name) and theirs.has(sequence.name)]
    if not both:
        raise InputError(f"{theirs.folder}: has no sequence of {benchmark.name} in common with {ours.folder}")
    common = replace(benchmark, sequences=tuple(both))
    mine = {sequence.name: ours.read(sequence) for sequence in both}
    other = {sequence.name: theirs.read(sequence) for sequence in both}
    overlaps = {name: _overlaps(mine[name], other[name]) for name in mine}
    notes, bound = _about_rounding(mine, other, benchmark.origin)
    if len(both) < len(benchmark):
        left = [name for name in benchmark.seq_names if name not in mine]
        notes.append(f"{len(left)} of {len(benchmark)} sequences have results of one run only, first {left[0]}")
    starts = np.array([other[name][0] - mine[name][0] for name in mine])
    if np.allclose(np.abs(np.median(starts, axis=0)), [1, 1, 0, 0], atol=0.01):
        notes.append("The runs start one pixel apart: one of them counts pixels from another number, 0 or 1.")
    apart = [name for name, start in zip(mine, starts, strict=True) if np.abs(start).max() >= 2]
    if apart:  # rounding moves no number by two pixels
        notes.append(f"{len(apart)} sequences start from different boxes, first {apart[0]}: other data or annotation?")
    differences: dict[str, float | None] = {name: None for name in ("", *mine)}
    if all(sequence.scorable for sequence in both):
        from lorat_plugin.evaluation.scoring import score_tracker

        try:
            mine_score, other_score = score_tracker(common, ours), score_tracker(common, theirs)
            differences[""] = mine_score.overall.auc - other_score.overall.auc
            differences |= {name: mine_score.sequences[name].auc - other_score.sequences[name].auc for name in mine}
        except InputError as error:  # the protocol refuses a box or a sequence; the runs can be compared all the same
            notes.append(f"No difference of AUC: {error}")
    return Agreement(
        ours.tracker,
        str(theirs.folder),
        _figures(list(overlaps.values()), list(mine.values()), list(other.values()), differences[""]),
        {name: _figures([overlaps[name]], [mine[name]], [other[name]], differences[name]) for name in mine},
        bound,
        notes,
        overlaps,
    )


def _overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    same = (a == b).all(axis=1)  # without area, too
    return np.where(same, 1.0, np.nan_to_num(iou(xywh_to_xyxy(a), xywh_to_xyxy(b))))


def _figures(
    overlaps: list[np.ndarray], ours: list[np.ndarray], theirs: list[np.ndarray], auc_difference: float | None = None
) -> Figures:
    values = np.concatenate(overlaps)
    corners = np.abs(xywh_to_xyxy(np.concatenate(ours)) - xywh_to_xyxy(np.concatenate(theirs)))
    parted = np.flatnonzero(overlaps[0] < PARTED) if len(overlaps) == 1 else np.array([])
    return Figures(
        len(values),
        float(values.mean()),
        float((values > 0.99).mean()),
        float((values > 0.9).mean()),
        int(parted[0]) if len(parted) else None,
        float(np.nanmean(corners)),
        auc_difference,
    )


RULES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "rounded outwards (LoRAT's rule)": outwards,
    "cut off (OSTrack's rule)": np.trunc,
}


def _about_rounding(
    ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray], origin: int
) -> tuple[list[str], Figures | None]:
    """What is to be said about whole numbers, and what rounding alone would give."""
    whole = [all(np.array_equal(b, np.trunc(b), equal_nan=True) for b in run.values()) for run in (ours, theirs)]
    if whole[0] == whole[1]:
        return (["Both runs' files hold whole pixels; each edge may differ by one for it."] if whole[0] else []), None
    exact, rounded = (ours, theirs) if whole[1] else (theirs, ours)
    shift = np.array([origin, origin, 0, 0])
    found = []
    for rule, apply in RULES.items():
        made = [apply(boxes + shift) - shift for boxes in exact.values()]
        hits = np.isclose(np.concatenate(made), np.concatenate(list(rounded.values()))).mean()
        found.append((hits, rule, made))
    _, rule, made = max(found, key=lambda entry: entry[0])  # under which most numbers are equal
    boxes = list(exact.values())
    bound = _figures([_overlaps(a, b) for a, b in zip(boxes, made, strict=True)], boxes, made)
    who = "Their" if whole[1] else "Our"
    note = f"{who} files hold whole pixels, {rule}: equal runs would reach a mean IoU of {bound.mean_iou:.4f}."
    return [note], bound


def as_dict(agreement: Agreement) -> dict[str, Any]:
    """The agreement as plain values for JSON, without the overlaps of frames."""
    values = asdict(replace(agreement, overlaps={}))
    del values["overlaps"]
    return values


def show_agreement(agreement: Agreement) -> None:
    """Print the figures of every sequence and of all frames, and the notes, to stdout."""
    from rich.table import Table

    from lorat_plugin.evaluation.tables import wide_console

    console = wide_console()
    headings = ("sequence", "frames", "mean IoU", "> 0.99", "> 0.9", "edges [px]", "AUC less theirs", "parted at")
    table = Table(title=f"{agreement.ours} against {agreement.theirs}")
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "sequence" else "right")
    last = {"all frames": agreement.overall} | ({"rounding alone": agreement.rounding} if agreement.rounding else {})
    for name, row in [*agreement.sequences.items(), *last.items()]:
        values = (row.mean_iou, row.above_99, row.above_90, row.corner, row.auc_difference)
        shown = ["-" if value is None else f"{value:.4f}" for value in values]
        table.add_row(name, str(row.frames), *shown, "-" if row.parted is None else str(row.parted))
    console.print(table)
    for note in agreement.notes:
        console.print(note, soft_wrap=True, highlight=False)
