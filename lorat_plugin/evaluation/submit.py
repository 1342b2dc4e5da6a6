"""Archives for the servers of GOT-10k and TrackingNet: written from result files, and checked before they are uploaded.

GOT-10k      <sequence>/<sequence>_001.txt (to _003 for repetitions), <sequence>/<sequence>_time.txt   180 sequences
TrackingNet  <sequence>.txt                                                                            511 sequences
Boxes are rows x,y,w,h with commas, one for each frame, pixels counted from 0.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lorat_plugin.box_files import read_boxes
from lorat_plugin.errors import InputError
from lorat_plugin.evaluation.benchmarks import Benchmark, EvaluationSequence
from lorat_plugin.evaluation.results import ResultFiles, is_start, parse_table
from lorat_plugin.files import read_plain_text, whole_file

REPETITIONS = 3  # of GOT-10k's protocol, for trackers that are not deterministic
EPOCH = (1980, 1, 1, 0, 0, 0)  # the time of every file in the archive, so that equal results give equal archives
UNTIMED = "has no measured times (a batched run), so the server will show no speed; for one, track with --batch 1"
NAMED = 3  # examples in a sentence
LARGEST = 1 << 30  # bytes that an archive may unpack to; the largest submission, TrackingNet's, has 10 MB


@dataclass(frozen=True)
class Server:
    """What a server wants: number of sequences, how they are called, how deep a file lies, and how it is called."""

    count: int
    sequence: str  # pattern of a sequence's name
    depth: int
    file: str  # pattern of a file's name after the sequence's
    form: str  # of the numbers
    layout: str


SERVERS = {
    "got10k": Server(
        180, r"GOT-10k_Test_\d{6}", 2, r"_(\d{3}|time)\.txt", "%.3f", "<sequence>/<sequence>_001.txt and _time.txt"
    ),
    "trackingnet": Server(511, r".+?", 1, r"\.txt", "%.2f", "<sequence>.txt at the root"),
}


Parts = dict[str, dict[str, np.ndarray | None]]  # sequence -> part, such as "_001.txt" -> rows, None if unreadable


class Findings(NamedTuple):
    """What a check found, in sentences: problems, over which the server would stumble, and warnings."""

    problems: list[str]
    warnings: list[str]


def server_rules(name: str) -> Server:
    """What a server wants; InputError for a name that is not in `SERVERS`."""
    if name not in SERVERS:
        raise InputError(f"unknown server '{name}': use one of {', '.join(SERVERS)}")
    return SERVERS[name]


def write_archive(path: Path, server: str, benchmark: Benchmark, files: ResultFiles, partial: bool = False) -> Findings:
    """Write a tracker's results as the archive that a server wants; equal results give equal bytes.

    The archive is checked by `check_archive` before it appears under its name, and does not if there is a problem.

    Args:
        path: of the archive, .zip.
        server: a key of `SERVERS`.
        benchmark: its test sequences.
        files: the tracker's results.
        partial: some sequences only, for a trial; the server takes no such archive.
    Returns the findings, warnings only. Raises InputError that lists all problems.
    """
    rules = server_rules(server)
    broken: list[str] = []
    with whole_file(path) as part:
        with zipfile.ZipFile(part, "w") as archive:
            for sequence in sorted(benchmark.sequences, key=lambda s: s.name):
                try:
                    texts = _texts(server, rules, sequence, files)
                except InputError as error:
                    broken.append(str(error))
                    continue
                for name, text in texts.items():
                    entry = zipfile.ZipInfo(name, EPOCH)
                    entry.compress_type, entry.create_system, entry.external_attr = zipfile.ZIP_DEFLATED, 3, 0o644 << 16
                    archive.writestr(entry, text)
        found = Findings(broken, []) if broken else check_archive(part, server, benchmark, partial)
        refuse(found, f"{path} is not written")
    return found


def refuse(found: Findings, what: str) -> None:
    """Raise InputError that begins with `what` and lists the problems, if there are any."""
    if found.problems:
        raise InputError(f"{what}: " + "".join(f"\n  {problem}" for problem in found.problems))


def _texts(server: str, rules: Server, sequence: EvaluationSequence, files: ResultFiles) -> dict[str, str]:
    """Names in the archive -> contents, of one sequence."""
    name = sequence.name
    if server == "trackingnet":
        return {f"{name}.txt": _text(files.read(sequence), rules.form)}
    runs = [files.read(sequence)]
    if files.layout == "nested":
        more = [files.boxes_path(name, number) for number in range(2, REPETITIONS + 1)]
        runs += [read_boxes(file) - np.array([files.origin] * 2 + [0, 0]) for file in more if file.is_file()]
    texts = {f"{name}/{name}_{number:03d}.txt": _text(run, rules.form) for number, run in enumerate(runs, start=1)}
    times = files.times_path(name)
    if not times.is_file():
        raise InputError(f"{times}: no times there, and the server wants them; track the sequence again")
    texts[f"{name}/{name}_time.txt"] = _text(parse_table(read_plain_text(times)), "%.8f")
    return texts


def _text(rows: np.ndarray, form: str) -> str:
    stream = io.StringIO()
    np.savetxt(stream, rows, fmt=form, delimiter=",")
    return stream.getvalue()


def check_archive(path: Path, server: str, benchmark: Benchmark | None = None, partial: bool = False) -> Findings:
    """Check an archive before it is uploaded, whoever wrote it.

    Args:
        path: of the archive.
        server: a key of `SERVERS`.
        benchmark: the test sequences: then names, numbers of frames and first boxes are checked as well.
        partial: do not ask for the official number of sequences.
    Returns the problems and warnings, a sentence for each kind. Raises InputError if it is no archive at all.
    """
    rules = server_rules(server)
    try:
        with zipfile.ZipFile(path) as archive:
            if (size := sum(entry.file_size for entry in archive.infolist())) > LARGEST:
                raise ValueError(f"it unpacks to {size >> 20} MB, more than results can be")
            names = [entry.filename for entry in archive.infolist() if not entry.is_dir()]
            texts = {name: archive.read(name).decode("utf-8", errors="replace") for name in names}
    except Exception as error:  # zipfile raises many kinds
        raise InputError(f"{path}: cannot be read as a zip archive ({error}); write it again") from error
    found: dict[str, list[str]] = defaultdict(list)  # what is wrong -> where
    sequences: Parts = defaultdict(dict)
    for name in names:
        *folders, file = name.split("/")
        match = re.fullmatch(f"(?P<sequence>{rules.sequence})(?P<part>{rules.file})", file)
        if match is None or (rules.depth == 1 and file.startswith(".")):
            found["does not belong into the archive"].append(name)
            continue
        sequence, part = match["sequence"], match["part"]
        if len(folders) + 1 != rules.depth:
            way = "deep" if len(folders) >= rules.depth else "high"
            found[f"lies too {way}; zip so that the root holds {rules.layout}"].append(name)
        elif folders and folders[-1] != sequence:
            found["lies in another sequence's folder"].append(name)
        if part in sequences[sequence]:
            found["is there twice"].append(name)
        sequences[sequence][part] = _rows(texts[name], None if part == "_time.txt" else 4, name, found)
    return _judge(rules, sequences, found, benchmark, partial)


def _rows(text: str, columns: int | None, name: str, found: dict[str, list[str]]) -> np.ndarray | None:
    """The numbers of a file, (N, columns); None, and a note in `found`, if it has not this form."""
    lines = text.strip().splitlines()
    if any(separator in line.strip() for line in lines for separator in "\t; "):
        found["has tabs or spaces between the numbers in place of commas"].append(name)
    try:
        rows = parse_table(re.sub("[\t;]", " ", text))
    except ValueError:
        rows = np.empty((0, 0))
    if not rows.size or (columns is not None and rows.shape[1] != columns):
        found[f"has not {columns or ''} numbers in each row"].append(name)
        return None
    if not np.isfinite(rows).all():
        found["holds numbers that are not finite"].append(name)
    return rows


def _judge(
    rules: Server,
    sequences: Parts,
    found: dict[str, list[str]],
    benchmark: Benchmark | None,
    partial: bool,
) -> Findings:
    doubts: dict[str, list[str]] = defaultdict(list)
    truth = {sequence.name: sequence for sequence in benchmark.sequences} if benchmark is not None else {}
    for name in sorted(sequences | truth):
        parts = dict(sequences.get(name, {}))
        timed = "_time.txt" in parts or rules.depth == 1
        times = parts.pop("_time.txt", None)
        first = "_001.txt" if rules.depth == 2 else ".txt"
        if truth and name not in truth:
            found["is no sequence of the data set"].append(name)
            continue
        if first not in parts:
            found["has no file of boxes"].append(name)
        if not timed:
            found["has no file of times"].append(name)
        tables = [rows for rows in parts.values() if rows is not None]
        frames = len(truth[name]) if name in truth else max(map(len, tables), default=0)
        for rows in tables:
            if len(rows) != frames:
                found["has not a row for every frame"].append(name)
            elif name in truth and not is_start(rows[0], truth[name].boxes[0]):
                found["does not start with the given box"].append(name)
            if (rows[:, 2:] < 0).any():
                found["has boxes of negative size"].append(name)
            elif (rows[:, 2:] == 0).any():
                doubts["has boxes without area, which count as misses"].append(name)
        if times is None or not tables:
            continue
        if len(times) != frames or times.shape[1] not in (1, len(parts)):
            found["has not a time for every frame"].append(name)
        elif (times < 0).any():
            found["has negative times"].append(name)
        elif not times.any():
            doubts[UNTIMED].append(name)
    result = Findings([_sentence(*item) for item in found.items()], [_sentence(*item) for item in doubts.items()])
    if len(sequences) != rules.count and not partial:
        result.problems.append(f"holds {len(sequences)} sequences of {rules.count}; the server wants all of them")
    return result


def _sentence(what: str, where: Iterable[str]) -> str:
    names = list(dict.fromkeys(where))
    shown = ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
    return f"{shown}: {what}"
