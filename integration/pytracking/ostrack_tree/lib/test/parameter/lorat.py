"""Parameters of LoRAT: belongs in lib/test/parameter of OSTrack's tree. They stand in experiments/lorat/NAME.yaml."""

from pathlib import Path

from lib.test.utils import TrackerParams

from lorat_plugin.harness.pytracking import read_settings, set_parameters

EXPERIMENTS = Path(__file__).resolve().parents[3] / "experiments" / "lorat"


def parameters(yaml_name, *_, **__):  # forks of the tree pass more, such as an epoch
    """What the tree asks this module for."""
    return set_parameters(TrackerParams(), **read_settings(EXPERIMENTS / f"{yaml_name}.yaml"))
