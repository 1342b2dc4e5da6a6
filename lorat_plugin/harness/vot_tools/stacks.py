"""Stacks of the VOT toolkit: which experiments one has, and whether the installed toolkit can run them."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from packaging.specifiers import SpecifierSet

from lorat_plugin.errors import InputError
from lorat_plugin.files import parse_yaml, read_plain_text
from lorat_plugin.harness.vot_tools.repairs import REPAIRS

USABLE = SpecifierSet(">=0.7.3,!=0.8.0")
PYTHON_PROTOCOL = SpecifierSet(">=0.8.1")
# one kind of experiment each, with the challenges' settings
LOCAL_STACKS = parse_yaml(read_plain_text(Path(str(files("lorat_plugin"))) / "assets" / "vot" / "stacks.yaml"))


@dataclass(frozen=True)
class Experiment:
    """What matters here of an experiment; `settings` is all that its results depend on, as text."""

    name: str
    type: str
    realtime: bool
    multiobject: bool
    redetection: bool
    points: bool
    analysed: bool
    settings: str = ""


@dataclass(frozen=True)
class Problem:
    """Why the installed toolkit cannot run something, the version that can (if any), and whether a repair exists."""

    what: str
    works: str | None
    repaired: bool

    def __str__(self) -> str:
        remedy = f"; vot-toolkit {self.works} can" if self.works else "; no release can"
        return f"{self.what}{remedy}{', and lorat vot run mends it' if self.repaired else ''}"


def toolkit_version() -> str:
    """The installed toolkit's. Raises InputError if there is none, or one that no stack runs on."""
    try:
        installed = version("vot-toolkit")
    except PackageNotFoundError as error:
        raise InputError('vot-toolkit is not installed: pip install "lorat_plugin[vot]"') from error
    if installed not in USABLE:
        raise InputError(f"vot-toolkit {installed} does not work here: pip install vot-toolkit==0.9.0 (or 0.7.4)")
    return installed


def toolkit_stack(name: str) -> Path | None:
    """The file of one of the toolkit's stacks, e.g. vot2022/shorttermbox; it may not exist. None without a toolkit."""
    toolkit = importlib.util.find_spec("vot")  # not imported: only its stacks are looked at
    if toolkit is None or toolkit.origin is None:
        return None
    return Path(toolkit.origin).parent / "stack" / f"{name}.yaml"


def read_stack(file: Path, shown: str) -> str:
    """The text of a stack's file. Raises InputError, calling it `shown`, if there is none."""
    try:
        return read_plain_text(file)
    except (OSError, ValueError) as error:
        names = ", ".join(LOCAL_STACKS)
        raise InputError(
            f"stack {shown} does not exist: give {names}, a yaml file or the name of one of the toolkit's stacks"
        ) from error


def local_stack(name: str, lengths: Sequence[int] = ()) -> str:
    """The text of a stack of `LOCAL_STACKS`.

    With the lengths of the sequences, in frames, the expected average overlap covers runs from half of their lower
    quartile to their upper quartile; the challenges' intervals are those of their own sequences, and zero for shorter.
    """
    experiments = copy.deepcopy(LOCAL_STACKS[name])
    if lengths:
        low, high = (int(quartile) for quartile in np.quantile(lengths, [0.25, 0.75]))
        interval = {"low": low // 2, "high": max(high - 1, 1)}
        for analysis in (one for experiment in experiments.values() for one in experiment.get("analyses", [])):
            analysis.update({key: interval[key] for key in analysis.keys() & interval.keys()})
    return yaml.safe_dump({"title": f"Local sequences, {name}", "experiments": experiments}, sort_keys=False)


def parse_stack(text: str, shown: str) -> list[Experiment]:
    """The experiments of a stack, in order. Raises InputError, calling it `shown`, if it names none."""
    try:
        return [_experiment(name, facts) for name, facts in parse_yaml(text)["experiments"].items()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"stack {shown} names no experiments and their types: take the toolkit's as example"
        ) from error


def _experiment(name: str, facts: Mapping[str, Any]) -> Experiment:
    return Experiment(
        name,
        facts["type"],
        realtime=facts.get("realtime") is not None,
        multiobject=bool(facts.get("multiobject")),
        redetection="redetection" in [transformer["type"] for transformer in facts.get("transformers", [])],
        points=any("point" in analysis["type"] for analysis in facts.get("analyses", [])),
        analysed=bool(facts.get("analyses")),
        settings=str({key: value for key, value in sorted(facts.items()) if key != "analyses"}),
    )


def find_problems(
    experiments: Iterable[Experiment], installed: str, *, late_objects: bool = False, python_masks: bool = False
) -> list[Problem]:
    """What keeps the installed version of the toolkit from running these experiments.

    `late_objects`: a sequence has an object that is not there in its first frame; `python_masks`: a tracker of the
    python protocol answers masks.
    """
    problems = []
    for experiment in experiments:
        if experiment.type == "referral" or experiment.points:
            given = "a sentence" if experiment.type == "referral" else "a point"
            what = f"experiment {experiment.name} starts a tracker from {given}, and LoRAT needs a box"
            problems.append(Problem(what, None, False))
            continue
        late = late_objects and experiment.multiobject
        if late and experiment.realtime:
            what = f"experiment {experiment.name}: objects cannot appear late in a real-time experiment"
            problems.append(Problem(what, None, False))
        needs = {
            "multistart": experiment.type == "multistart",
            "supervised": experiment.type == "supervised",
            "realtime": experiment.realtime,
            "redetection": experiment.redetection,
            "late objects": late and not experiment.realtime,
        }
        for need in (name for name, needed in needs.items() if needed):
            problems += _broken(f"experiment {experiment.name} ({need})", need, installed)
    return problems + (_broken("masks by the python protocol", "python masks", installed) if python_masks else [])


def _broken(what: str, need: str, installed: str) -> list[Problem]:
    repair = REPAIRS[need]
    told = f"vot-toolkit {installed} cannot run {what}"
    return [Problem(told, repair.works, True)] if installed in repair.broken else []
