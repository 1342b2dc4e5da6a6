"""Benchmarks: trackers run on them, scored by named protocols, compared, reported and packed for servers.

The names load on first use, so that importing this package needs neither got10k nor matplotlib.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lorat_plugin.datasets.clips import link_clips
    from lorat_plugin.evaluation.baselines import BASELINES, create_baseline
    from lorat_plugin.evaluation.registry import open_benchmark
    from lorat_plugin.harness.got10k_experiments import (
        ExperimentBenchmark,
        ExperimentClips,
        ExperimentLaSOTExt,
        ExperimentTNL2K,
        ExperimentTrackingNet,
        ExperimentVastTrack,
        toolkit_experiment,
    )
    from lorat_plugin.harness.got10k_lasot import ExperimentLaSOT, LaSOT

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
    "evaluation.baselines": ("BASELINES", "create_baseline"),
    "evaluation.registry": ("open_benchmark",),
    "datasets.clips": ("link_clips",),
    "harness.got10k_lasot": ("ExperimentLaSOT", "LaSOT"),
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = next((home for home, names in _HOMES.items() if name in names), "harness.got10k_experiments")
    return getattr(import_module(f"lorat_plugin.{home}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
