"""Which stacks the installed toolkit can run, told before anyone waits for it."""

from __future__ import annotations

import pytest
import yaml

from lorat_plugin.errors import InputError
from lorat_plugin.harness.vot_tools import stacks as vot_stacks
from lorat_plugin.harness.vot_tools.stacks import LOCAL_STACKS, find_problems, local_stack, parse_stack, toolkit_version


def problems(stack: str, installed: str, **facts: bool) -> list[str]:
    return [str(problem) for problem in find_problems(parse_stack(local_stack(stack), stack), installed, **facts)]


@pytest.mark.parametrize(
    ("stack", "installed", "facts", "said"),
    [
        ("unsupervised", "0.9.0", {}, []),
        ("unsupervised", "0.7.4", {}, []),
        ("multistart", "0.7.4", {}, []),
        ("multistart", "0.9.0", {}, ["experiment baseline (multistart); vot-toolkit 0.7.4 can"]),
        ("supervised", "0.8.1", {}, ["experiment baseline (supervised); vot-toolkit 0.7.4 can"]),
        ("realtime", "0.9.0", {}, ["experiment realtime (realtime); vot-toolkit 0.7.4 can"]),
        ("longterm", "0.7.4", {}, ["experiment redetection (redetection); no release can"]),
        ("multiobject", "0.9.0", {"late_objects": True}, []),
        ("multiobject", "0.7.4", {"late_objects": True}, ["experiment baseline (late objects); vot-toolkit 0.9.0 can"]),
        ("unsupervised", "0.9.0", {"python_masks": True}, ["masks by the python protocol; no release can"]),
        ("multistart", "0.9.1", {}, []),  # not known to be broken, so not touched
    ],
)
def test_what_is_broken_is_said_and_mended(stack: str, installed: str, facts: dict[str, bool], said: list[str]) -> None:
    expected = [f"vot-toolkit {installed} cannot run {text}, and lorat vot run mends it" for text in said]
    assert problems(stack, installed, **facts) == expected


@pytest.mark.parametrize(
    ("experiment", "sentence"),
    [
        ({"type": "referral"}, "starts a tracker from a sentence, and LoRAT needs a box; no release can"),
        (
            {"type": "unsupervised", "analyses": [{"type": "vot.analysis.point.AveragePointAccuracy"}]},
            "starts a tracker from a point",
        ),
        ({"type": "unsupervised", "multiobject": True, "realtime": {"grace": 3}}, "objects cannot appear late"),
    ],
)
def test_what_no_release_and_no_repair_can_run(experiment: dict[str, object], sentence: str) -> None:
    parsed = parse_stack(yaml.safe_dump({"experiments": {"one": experiment}}), "mine")
    (problem,) = find_problems(parsed, "0.8.1", late_objects=True)[:1]
    assert sentence in str(problem)
    assert not problem.repaired


@pytest.mark.parametrize("installed", ["0.6.4", "0.8.0"])
def test_a_toolkit_that_runs_nothing_is_refused(monkeypatch: pytest.MonkeyPatch, installed: str) -> None:
    monkeypatch.setattr(vot_stacks, "version", lambda _: installed)
    with pytest.raises(InputError, match=r"vot-toolkit==0\.9\.0"):
        toolkit_version()


@pytest.mark.toolkit
@pytest.mark.parametrize("stack", LOCAL_STACKS)
def test_the_toolkit_accepts_the_local_stacks(stack: str) -> None:
    pytest.importorskip("vot")
    from vot.stack import Stack

    read = Stack(**yaml.safe_load(local_stack(stack)))
    assert {experiment.name for experiment in parse_stack(local_stack(stack), stack)} == set(read.experiments)
