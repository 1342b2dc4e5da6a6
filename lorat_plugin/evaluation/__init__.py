"""Benchmarks with the interfaces of the GOT-10k toolkit, baselines, and the demonstration.

The names load on first use, so that importing this package needs neither got10k nor matplotlib.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lorat_plugin.evaluation.baselines import BASELINES, create_baseline
    from lorat_plugin.evaluation.benchmark_sets import open_benchmark
    from lorat_plugin.evaluation.clips import link_clips
    from lorat_plugin.evaluation.experiments import (
        ExperimentBenchmark,
        ExperimentClips,
        ExperimentLaSOTExt,
        ExperimentTNL2K,
        ExperimentTrackingNet,
        ExperimentVastTrack,
        toolkit_experiment,
    )
    from lorat_plugin.evaluation.lasot import ExperimentLaSOT, LaSOT

__all__ = [
    "BASELINES",
    "ExperimentBenchmark",
    "ExperimentClips",
    "ExperimentLaSOT",
    "ExperimentLaSOTExt",
    "ExperimentTNL2K",
    "ExperimentTrackingNet",
    "ExperimentVastTrack",
    "LaSOT",
    "create_baseline",
    "link_clips",
    "open_benchmark",
    "toolkit_experiment",
]

_HOMES = {
    "BASELINES": "baselines",
    "ExperimentBenchmark": "experiments",
    "ExperimentClips": "experiments",
    "ExperimentLaSOT": "lasot",
    "ExperimentLaSOTExt": "experiments",
    "ExperimentTNL2K": "experiments",
    "ExperimentTrackingNet": "experiments",
    "ExperimentVastTrack": "experiments",
    "LaSOT": "lasot",
    "create_baseline": "baselines",
    "link_clips": "clips",
    "open_benchmark": "benchmark_sets",
    "toolkit_experiment": "experiments",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
