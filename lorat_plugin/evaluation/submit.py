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
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lorat_plugin.box_files import read_boxes
from lorat_plugin.datasets.sequences import VideoSequence
from lorat_plugin.errors import InputError
from lorat_plugin.evaluation.benchmarks import Benchmark
from lorat_plugin.evaluation.raw_results import listed, open_archive
from lorat_plugin.evaluation.results import ResultFiles, is_start, parse_table
from lorat_plugin.files import read_plain_text, whole_file

REPETITIONS = 3  # of GOT-10k's protocol, for trackers that are not deterministic
EPOCH = (1980, 1, 1, 0, 0, 0)  # the time of every file in the archive, so that equal results give equal archives
UNTIMED = "has no measured times (a batched run), so the server will show no speed; for one, track with --batch 1"
NAMED = 3  # examples in a sentence


@dataclass(frozen=True)
class Server:
    """What a server wants: number of sequences, files of each (part -> what it holds) and the form of their numbers."""

    count: int
    path: str  # pattern of a file's name in the archive
    parts: dict[str, str]
    form: str
    layout: str


SERVERS = {
    "got10k": Server(
        180,
        r"(?P<sequence>GOT-10k_Test_\d{6})/(?P=sequence)_(?P<part>\d{3}|time)\.txt",
        {"001": "boxes", "time": "times"},
        "%.3f",
        "<sequence>/<sequence>_001.txt and _time.txt",
    ),
    "trackingnet": Server(511, r"(?P<sequence>[^/.][^/]*)(?P<part>)\.txt", {"": "boxes"}, "%.2f", "<sequence>.txt"),
}


class Findings(NamedTuple):
    """What a check found, in sentences: problems, for which the server refuses an archive, and warnings."""

    problems: list[str]
    warnings: list[str]


def server_rules(name: str) -> Server:
    """What a server wants; InputError for a name that is not in `SERVERS`."""
    if name not in SERVERS:
        raise InputError(f"unknown server '{name}': use one of {', '.join(SERVERS)}")
    return SERVERS[name]


def write_archive(path: Path, server: str, benchmark: Benchmark, files: ResultFiles, partial: bool = False) -> Findings:
    """Write a tracker's results as the archive that a server wants; equal results give equal bytes.

    It appears under its name only if `check_archive` finds no problem. The server takes no `partial` archive, of some
    sequences only. Returns the findings, warnings only. Raises InputError that lists all problems.
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
        raise_problems(found, f"{path} is not written")
    return found


def raise_problems(found: Findings, what: str) -> None:
    """Raise InputError that begins with `what` and lists the problems, if there are any."""
    if found.problems:
        raise InputError(f"{what}: " + "".join(f"\n  {problem}" for problem in found.problems))


def _texts(server: str, rules: Server, sequence: VideoSequence, files: ResultFiles) -> dict[str, str]:
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
    """Check the names of an archive's files and that they hold rows of numbers; with `partial` of some sequences only.

    With a benchmark its names, numbers of frames and first boxes are checked as well. Returns the problems and
    warnings, a sentence for each. Raises InputError if it is no archive at all.
    """
    rules = server_rules(server)
    truth = {sequence.name: sequence for sequence in benchmark.sequences} if benchmark is not None else {}
    found: dict[str, list[str]] = defaultdict(list)  # problem -> files or sequences
    sequences: dict[str, set[str]] = defaultdict(set)  # sequence -> parts
    with open_archive(path) as archive:
        for entry in (entry for entry in archive.infolist() if not entry.is_dir()):
            match = re.fullmatch(rules.path, entry.filename)
            if match is None:
                found[f"does not belong into the archive, whose root holds {rules.layout}"].append(entry.filename)
                continue
            sequences[match["sequence"]].add(match["part"])
            if problem := _problem(archive.read(entry), match["part"] == "time", truth.get(match["sequence"])):
                found[problem].append(entry.filename)
    for name in sorted(sequences | truth):
        if truth and name not in truth:
            found["is no sequence of the data set"].append(name)
        for part, what in rules.parts.items():
            if part not in sequences.get(name, ()):
                found[f"has no file of {what}"].append(name)
    warnings = [f"{listed(found.pop(UNTIMED), NAMED)}: {UNTIMED}"] if UNTIMED in found else []
    problems = [f"{listed(where, NAMED)}: {what}" for what, where in found.items()]
    if len(sequences) != rules.count and not partial:
        problems.append(f"holds {len(sequences)} sequences of {rules.count}; the server wants all of them")
    return Findings(problems, warnings)


def _problem(data: bytes, timed: bool, truth: VideoSequence | None) -> str:
    """What is wrong with a file of boxes, or with `timed` of times; "" if nothing is."""
    try:
        rows = np.array([line.split(",") for line in data.decode().splitlines()], np.float64, ndmin=2)
    except ValueError:
        rows = np.empty((0, 0))
    if not rows.size or not np.isfinite(rows).all() or (not timed and rows.shape[1] != 4):
        return f"has not {'times' if timed else '4 numbers'} in each row, finite and with commas between"
    if truth and len(rows) != len(truth):
        return f"has not a {'time' if timed else 'row'} for every frame"
    if truth and not timed and not is_start(rows[0], truth.boxes[0]):
        return "does not start with the given box"
    return UNTIMED if timed and not rows.any() else ""
