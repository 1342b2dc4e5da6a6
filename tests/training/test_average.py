"""The moving average of the trained weights."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from lorat_plugin.training.launch import train
from lorat_plugin.training.state import WeightAverage
from tests.helpers.toy import toy_config


def test_the_average_follows_by_its_decay() -> None:
    network = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        network.weight.fill_(1.0)
    average = WeightAverage(network, 0.5, {})
    with torch.no_grad():
        network.weight.fill_(3.0)
    average.update(1000)
    assert float(average.average["weight"]) == 2.0
    with average.applied():
        assert float(network.weight.detach()) == 2.0
    assert float(network.weight.detach()) == 3.0
    early = WeightAverage(network, 0.999, {})
    with torch.no_grad():
        network.weight.fill_(4.0)
    early.update(0)
    assert abs(float(early.average["weight"]) - 3.9) < 1e-6  # decay 1 / 10 at the first step


def test_the_average_is_saved_and_resumed(tmp_path: Path) -> None:
    whole = toy_config(ema_decay=0.9, steps=4, checkpoint_every=2, keep=5)
    train(whole, tmp_path / "whole")
    state = tmp_path / "whole" / "checkpoints" / "step_0000002" / "state.safetensors"
    train(whole, tmp_path / "resumed", resume=str(state))
    one, two = (
        load_file(tmp_path / name / "checkpoints" / "step_0000004" / "state.safetensors")
        for name in ("whole", "resumed")
    )
    names = [name for name in one if name.startswith("ema.")]
    assert names and one.keys() == two.keys()
    for name in names:
        torch.testing.assert_close(one[name], two[name], rtol=1e-6, atol=1e-7)
        assert not torch.equal(one[name], one[name.replace("ema.", "weight.")])
    plain = toy_config(steps=4, checkpoint_every=2, keep=5)
    train(plain, tmp_path / "plain")
    half = [
        load_file(tmp_path / run / "checkpoints" / "step_0000002" / "state.safetensors") for run in ("whole", "plain")
    ]
    assert {name for name in half[0] if not name.startswith("ema.")} == half[1].keys()
    for name, tensor in half[1].items():  # averaging does not change the training itself
        torch.testing.assert_close(tensor, half[0][name], rtol=1e-4, atol=1e-6)
    weights = [load_file(tmp_path / run / f"{plain.variant}.safetensors") for run in ("whole", "plain")]
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
