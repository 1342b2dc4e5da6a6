"""Learning rate and parameter groups against the official implementation's numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from lorat_plugin import create_model
from lorat_plugin.training.recipe import learning_rate, parameter_groups


@pytest.mark.parametrize(("case", "epochs"), [("paper", 170), ("got10k", 100)])
def test_learning_rate_matches(golden: Path, case: str, epochs: int) -> None:
    data = np.load(golden / "training" / "lr.npz")
    got = [learning_rate(int(i), peak=1e-4, warmup=2048, total=epochs * 1024) for i in data[f"{case}_iterations"]]
    np.testing.assert_allclose(got, data[f"{case}_lr_used"], rtol=1e-12)


def test_parameter_groups_match_by_kind(golden: Path) -> None:
    """The official names differ from peft's; numbers and sizes of the groups, and their decay, are compared."""
    stored = json.loads((golden / "training" / "param_groups_B224.json").read_text())
    groups = parameter_groups(create_model("lorat_b_224", backbone="random", lora=True).named_parameters(), 0.1)
    assert [len(g["names"]) for g in groups] == [g["n_tensors"] for g in stored["groups_in_order"]]  # type: ignore[arg-type]
    assert [g["weight_decay"] for g in groups] == [g["weight_decay"] for g in stored["groups_in_order"]]
    for ours, theirs in zip(groups, stored["groups_in_order"], strict=True):
        heads = {n for n in ours["names"] if n.startswith("head")}  # type: ignore[union-attr]
        assert heads == {n for n in theirs["names"] if n.startswith("head")}


def test_frozen_parameters_are_left_out() -> None:
    layer = nn.Linear(3, 2)
    layer.bias.requires_grad_(False)
    (group,) = parameter_groups(layer.named_parameters(), 0.1)
    assert group["names"] == ["weight"]
