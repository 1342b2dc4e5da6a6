"""Which results may be reused: those made with the same settings (`run.json`) from the same data (`data/`)."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from filelock import FileLock

from lorat_plugin.datasets.sequences import VideoSequence
from lorat_plugin.digests import Record, difference, read_record
from lorat_plugin.errors import InputError
from lorat_plugin.evaluation.benchmarks import Benchmark
from lorat_plugin.evaluation.results import REMEDY, ResultFiles
from lorat_plugin.files import write_json

logger = logging.getLogger(__name__)

NOT_COMPARED = ("lorat_plugin", "engine", "device", "opencv")  # of run.json: they change boxes by rounding only


def settle_settings(notes: Path, settings: Record, files: ResultFiles, benchmark: Benchmark | None = None) -> None:
    """Write run.json, or check that the one that is there has the settings: what results depend on beside data.

    With a benchmark, results on its sequences without a run.json are refused, else taken as made with these settings.
    Raises InputError for other settings, or a folder that cannot be written.
    """
    try:
        notes.mkdir(parents=True, exist_ok=True)
        lock = FileLock(notes / "run.lock")
        lock.acquire()
    except (OSError, NotImplementedError) as error:
        raise InputError(f"{notes}: cannot be written ({error}); choose another --results") from error
    path = notes / "run.json"
    try:
        if path.is_file():
            _compare(path, settings)
        elif benchmark is not None and (found := [s.name for s in benchmark.sequences if files.has(s.name)]):
            raise InputError(
                f"{files.boxes_path(found[0])}: a result is there already, and no {path} that would tell how it was"
                " made; choose another --name, or remove the results"
            )
        else:
            write_json(path, settings)
    finally:
        lock.release()


def _compare(path: Path, settings: dict[str, Any]) -> None:
    there = read_record(path, "choose another --name, or remove it")
    ignored = [*NOT_COMPARED, *(key for key in there if key not in settings)]
    if changed := difference(there, settings, ignored):
        raise InputError(f"{path}: the results there differ from this run in {changed}; {REMEDY}")


def changed_data(files: ResultFiles, sequence: VideoSequence) -> str:
    """In what the data of a sequence have changed since its result was made, as a sentence; "" if in nothing.

    Raises InputError for a result of other data from another folder, or from an unknown one: to track again would
    replace results that may be wanted.
    """
    changed, path = files.mismatch(sequence), files.boxes_path(sequence.name)
    if not changed:
        return ""
    former, folder = files.record(sequence.name), sequence.record["folder"]
    if former is not None and former.get("folder") == folder:
        return f"{path}: the data in {folder} have changed since, in {changed}"
    origin = "an unknown folder" if former is None else former.get("folder")
    raise InputError(f"{path}: is a result of data from {origin}, which differ from {folder} in {changed}; {REMEDY}")


class Reusable:
    """Whether a sequence's result is there, whole, and of the sequence's data. Others are named once."""

    def __init__(self, files: ResultFiles, repetitions: int, benchmark: Benchmark) -> None:
        """Ask for `repetitions` runs through each sequence of `benchmark` in `files`."""
        self.files, self.repetitions = files, repetitions
        self.sequences = {sequence.name: sequence for sequence in benchmark.sequences}
        self.known: set[str] = set()
        self.named: set[str] = set()

    def __call__(self, name: str) -> bool:
        """Whether the result of the sequence `name` can be reused; if not, it is tracked again.

        Raises InputError as `changed_data`.
        """
        if name in self.known:
            return True
        if not self.files.has(name):
            return False
        problem = changed_data(self.files, self.sequences[name])
        try:
            for number in range(1, self.repetitions + 1):
                self.files.read(self.sequences[name], number)
            self.known.add(name)
        except InputError as error:
            problem = problem or str(error)
        if problem and name not in self.named:
            logger.warning("%s; tracked again", problem)
            self.named.add(name)
        return not problem
