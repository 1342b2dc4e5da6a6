"""Steps in every mode, their memory, and wrong settings."""

from __future__ import annotations

import pytest

from lorat_plugin.errors import InputError
from lorat_plugin.settings import SpeedTrial
from lorat_plugin.speed.train import benchmark_train, make_step, random_batch
from lorat_plugin.training.config import TrainConfig
from lorat_plugin.variants import get_variant


@pytest.mark.parametrize("mode", ["lora", "peft", "full", "baseline", "lora+checkpointing"])
def test_every_mode_trains(mode: str) -> None:
    config = TrainConfig(variant="lorat_tiny", backbone="random", batch_size=1, device="cpu", precision="fp32")
    assert make_step(mode, config)() > 0


def test_batches_have_targets() -> None:
    variant = get_variant("lorat_b_224")
    batch = random_batch(variant, 2)
    assert batch.search.shape == (2, 3, 224, 224) and batch.mask.shape == (2, 8, 8)
    assert batch.positive.flatten(1).any(1).all() and batch.mask.flatten(1).any(1).all()


@pytest.mark.slow
def test_time_and_memory_are_compared_with_a_baseline_that_is_not_named() -> None:
    report = benchmark_train(SpeedTrial(["lora"], "full", rounds=1, device="cpu"), "lorat_tiny", 1)
    assert [(c.name, c.measure) for c in report.comparisons] == [
        ("full", "time of a step"), ("lora", "time of a step"), ("full", "peak memory"), ("lora", "peak memory"),
    ]  # fmt: skip
    assert all(c.ratio > 0 for c in report.comparisons)


@pytest.mark.parametrize(
    ("modes", "message"),
    [(["lora", "half"], "unknown mode 'half': use lora"), (["full+speed"], "checkpointing")],
)
def test_wrong_modes_are_named(modes: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        benchmark_train(SpeedTrial(modes, "full"), "lorat_tiny")
