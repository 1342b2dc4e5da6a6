"""Parameters of LoRAT: belongs in pytracking/parameter/lorat. A copy with other settings is another parameter."""

from pytracking.utils import TrackerParams

from lorat_plugin.harness.pytracking import set_parameters

SETTINGS = {"model": "lorat_tiny"}


def parameters():
    """What pytracking asks this module for."""
    return set_parameters(TrackerParams(), **SETTINGS)
