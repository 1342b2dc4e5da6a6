"""Benchmarks: trackers run on them, scored by named protocols, compared, reported and packed for servers.

The names load on first use, so that importing this package needs neither got10k nor matplotlib.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_MODULES = {
    "BASELINES": "evaluation.baselines",
    "create_baseline": "evaluation.baselines",
    "link_clips": "datasets.clips",
    "open_benchmark": "evaluation.registry",
    **dict.fromkeys(
        ("ExperimentBenchmark", "ExperimentClips", "ExperimentLaSOT", "ExperimentLaSOTExt", "ExperimentTNL2K",
         "ExperimentTrackingNet", "ExperimentVastTrack", "toolkit_experiment"),
        "harness.got10k_experiments",
    ),
}  # fmt: skip
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"lorat_plugin.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
