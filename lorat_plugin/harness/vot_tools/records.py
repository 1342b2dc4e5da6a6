"""Whether results in a VOT workspace are of its present trackers, stack and sequences, which the toolkit does not ask.

`<workspace>/lorat/<tracker>.json` records from what the tracker's results were made.
"""

from __future__ import annotations

import logging
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lorat_plugin.digests import Record, describe_files, describe_frames, describe_options, difference, digest
from lorat_plugin.errors import InputError
from lorat_plugin.files import parse_json, write_json

if TYPE_CHECKING:
    from lorat_plugin.harness.vot_tools.run import Workspace

logger = logging.getLogger(__name__)

Parts = dict[str, dict[str, Record]]  # tracker, experiment, sequence -> records by name
WITHOUT_EFFECT = ("label", "timeout")  # on results


def settle_records(workspace: Workspace, trackers: Sequence[str], *, evaluate: bool, force: bool) -> None:
    """Compare the workspace with the records of its trackers' results, and write the records for an evaluation.

    Results without a record are taken as they are, with a warning. Where an evaluation follows, with `force` results of
    something else are removed, and with them the sequences that the toolkit has derived from others. Raises InputError
    for results of another tracker entry, weights, experiment or sequence.
    """
    sequences = describe_sequences(workspace)
    experiments = {experiment.name: {"settings": experiment.settings} for experiment in workspace.experiments}
    for tracker in trackers:
        path = workspace.folder / "lorat" / f"{tracker}.json"
        results = workspace.folder / "results" / tracker
        entry = {tracker: describe_tracker(workspace.trackers[tracker])}
        now: Parts = {"tracker": entry, "experiment": experiments, "sequence": sequences}
        if any(file.is_file() for file in results.rglob("*")):
            former = _read(path)
            changed = "" if former is None else _changed(former, now)
            if force and evaluate and (changed or former is None):
                for experiment in workspace.experiments:
                    shutil.rmtree(results / experiment.name, ignore_errors=True)
                shutil.rmtree(workspace.folder / "cache", ignore_errors=True)
            elif changed:
                raise InputError(
                    f"{results}: the results differ from the workspace in {changed}; undo the change, or evaluate again"
                    " with --force"
                )
            elif former is None:
                logger.warning("%s: results of %s without a record of what they were made from", results, tracker)
        if evaluate:
            write_json(path, now)


def describe_tracker(entry: Mapping[str, str]) -> Record:
    """The record of an entry of trackers.ini; files that it names count by their content."""
    options: dict[str, object] = {k: v for k, v in entry.items() if k not in ("command", *WITHOUT_EFFECT)}
    words = [part for word in shlex.split(entry.get("command", "")) for part in word.split("=", 1)]
    for number, word in enumerate(words[1:] or words):
        before = words[number] if words[1:] else ""
        options[before if before.startswith("-") else f"command, word {number + 1}"] = word
    model, weights = (options.get(f"arg_{key}", options.get(f"--{key}")) for key in ("model", "weights"))
    if "lorat_plugin" in entry.get("command", "") and not weights:
        from lorat_plugin.models import weights_options  # imports torch

        options |= {"bundled weights": weights_options({"model": model or "lorat_tiny"}).get("weights")}
    return describe_options(options)


def describe_sequences(workspace: Workspace) -> dict[str, Record]:
    """By name the record of each sequence: its frames, and its files of annotation."""
    found = {}
    for name in workspace.sequences:
        home = workspace.folder / "sequences" / name
        entries = sorted(path for path in home.rglob("*") if path.is_file())
        frames = [path for path in entries if path.parent != home]
        labels = describe_files(home, [path for path in entries if path.parent == home])
        found[name] = (describe_frames(frames) if frames else {}) | {"annotation": digest(map(str, labels.items()))}
    return found


def _changed(former: Parts, now: Parts) -> str:
    for part, records in now.items():
        for name, record in records.items():
            there = former[part].get(name)  # what was added has no results
            if there is not None and (changed := difference(there, record)):
                return f"{changed} of {part} {name}"
    return ""


def _read(path: Path) -> Parts | None:
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
        return {part: {n: dict(r) for n, r in content[part].items()} for part in ("tracker", "experiment", "sequence")}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None  # as good as none
