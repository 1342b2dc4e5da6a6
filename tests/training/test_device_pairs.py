"""Pairs made on the device are the pairs of the worker processes, and train as those do."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lorat_plugin.crop import NORMALIZATIONS
from lorat_plugin.errors import InputError
from lorat_plugin.training.config import TrainConfig, load_config
from lorat_plugin.training.device import pairs as device_pairs
from lorat_plugin.training.device import pixels as device_pixels
from lorat_plugin.training.device.pairs import BANKED, DRAWN, TRAVELS, DevicePairs, PlannedBatch
from lorat_plugin.training.dry_run import dry_run
from lorat_plugin.training.launch import train
from lorat_plugin.training.recipe import Batch, collate
from lorat_plugin.training.sources import data_record, make_loader, open_pairs
from tests.helpers.datasets import write_got10k
from tests.helpers.sequences import write_clip
from tests.helpers.toy import TOY, toy_config

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def data(tmp_path: Path) -> TrainConfig:
    """Settings with two small data sets."""
    write_clip(tmp_path / "own" / "a", 6, 3)
    names = f"clips:{tmp_path / 'own'}", f"got10k:{write_got10k(tmp_path / 'got10k')}"
    return TrainConfig(variant=TOY.name, datasets=names, pairs_on="device", device="cpu", workers=0, steps=2)


def _made(dataset: DevicePairs, indices: range) -> Batch:
    return dataset.receive(dataset.collate([dataset[i] for i in indices])).to(CPU)  # type: ignore[misc]


def _levels(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Mean difference of each pair's crops, grey levels."""
    deviation = torch.tensor(NORMALIZATIONS["imagenet"][1]).view(3, 1, 1) * 255
    return ((one - other).abs() * deviation).mean((1, 2, 3))


@pytest.mark.parametrize("bank_gb", [0.0, 0.1])
def test_pairs_of_a_cpu_are_those_of_workers_with_eight_bits(data: TrainConfig, bank_gb: float) -> None:
    config = replace(data, bank_gb=bank_gb, third_chance=0.7)
    made, host = _made(open_pairs(config), range(40)), open_pairs(replace(config, eight_bit=True, pairs_on="worker"))
    wanted = collate([host[i] for i in range(40)])
    assert all(map(torch.equal, made.tensors().values(), wanted.tensors().values()))


@pytest.mark.parametrize("bank_gb", [0.0, 0.1])
def test_pairs_made_together_are_those_of_the_workers(
    data: TrainConfig, bank_gb: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_pixels, "ONE_BY_ONE", ())
    config = replace(data, bank_gb=bank_gb)
    made = _made(open_pairs(config), range(60))
    for eight_bit, limit in ((False, 0.6), (True, 1.0)):
        host = open_pairs(replace(config, eight_bit=eight_bit, pairs_on="worker"))
        wanted = collate([host[i] for i in range(60)])
        for name in ("mask", "box", "positive"):
            assert torch.equal(getattr(made, name), getattr(wanted, name)), name
        for name in ("template", "search"):
            off = _levels(getattr(made, name), getattr(wanted, name))
            assert off.mean() < limit and off.max() < 3, (name, float(off.mean()), float(off.max()))


def test_statistics_of_many_pairs_agree(data: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_pixels, "ONE_BY_ONE", ())
    config = replace(data, flip_chance=0.3, third_chance=0.4)
    device, host = open_pairs(config), open_pairs(replace(config, pairs_on="worker"))
    plans = [device[i] for i in range(240)]
    pairs = [host[i] for i in range(240)]
    made, wanted = device.receive(device.collate(plans)).to(CPU), collate(pairs)  # type: ignore[arg-type]
    for name in ("template", "search"):
        for statistic in (torch.mean, torch.std):
            ours, theirs = (statistic(getattr(batch, name), (0, 2, 3)) for batch in (made, wanted))
            np.testing.assert_allclose(ours, theirs, atol=0.01)
    sizes = [(b.box[:, 2:] - b.box[:, :2]).quantile(torch.tensor([0.1, 0.5, 0.9]), 0) for b in (made, wanted)]
    assert torch.equal(*sizes)
    flips = np.array([plan.changes.flips for plan in plans])  # type: ignore[attr-defined]
    thirds = np.array([plan.changes.third for plan in plans])  # type: ignore[attr-defined]
    np.testing.assert_allclose(flips.mean(0), 0.3, atol=0.08)
    np.testing.assert_allclose(
        [(thirds == choice).mean() for choice in (-1, 0, 1, 2)], [0.6] + [0.4 / 3] * 3, atol=0.08
    )


@pytest.mark.parametrize("drawing", [(), ("cpu",)])
def test_pairs_of_all_sources_are_those_of_the_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drawing: tuple[str, ...]
) -> None:
    monkeypatch.setattr(device_pairs, "DRAWING", drawing)
    write_clip(tmp_path / "clips" / "a", 5, 0)
    shares = {"clip_weight": 1, "patch_weight": 1, "absent_share": 0.3, "clips": str(tmp_path / "clips")}
    config = load_config("smoke", {"variant": TOY.name, **shares})
    config = replace(config, pairs_on="device", bank_gb=0.3, device="cpu")
    device, host = open_pairs(config), open_pairs(replace(config, pairs_on="worker"))
    origin = device.collate([device[i] for i in range(20)]).origin  # type: ignore[misc]
    assert (origin == TRAVELS).any() and (origin == BANKED).any()
    assert bool((origin >= DRAWN).any()) == bool(drawing)
    made, wanted = _made(device, range(20)), collate([host[i] for i in range(20)])
    for name in ("box", "mask", "positive"):
        assert torch.equal(getattr(made, name), getattr(wanted, name)), name
    off = _levels(made.search, wanted.search)
    assert off.median() < 2 and off.max() < 12, off


def test_pairs_without_target_are_those_of_the_workers(data: TrainConfig) -> None:
    config = replace(data, absent_share=0.6, bank_gb=0.1)
    host = open_pairs(replace(config, pairs_on="worker"))
    made, wanted = _made(open_pairs(config), range(30)), collate([host[i] for i in range(30)])
    shown = made.positive.flatten(1).any(1)
    assert 5 < shown.sum() < 25 and torch.equal(made.positive, wanted.positive)
    assert _levels(made.search, wanted.search).max() < 3


def test_large_windows_travel_as_crops(data: TrainConfig) -> None:
    planned = open_pairs(replace(data, variant="lorat_tiny"))[0]
    batch = PlannedBatch.of([planned])  # type: ignore[list-item]
    assert len(batch.pixels) <= 140**2 + 70**2


@pytest.mark.parametrize("bank_gb", [0.0, 0.1])
def test_batches_do_not_depend_on_workers(data: TrainConfig, bank_gb: float) -> None:
    batches = []
    for workers in (0, 1):
        config = replace(data, bank_gb=bank_gb, workers=workers, batch_size=3)
        batches.append([batch.to(CPU) for batch in make_loader(open_pairs(config), config)])
    for one, other in zip(*batches, strict=True):
        assert all(map(torch.equal, one.tensors().values(), other.tensors().values()))


def test_the_record_of_a_run_names_data_sets_in_a_bank(data: TrainConfig) -> None:
    config = replace(data, bank_gb=0.1, absent_share=0.1)
    record = data_record(config, open_pairs(config).source)
    assert list(record) == [f"annotation of {entry}" for entry in data.datasets]
    assert record == data_record(data, open_pairs(replace(data, pairs_on="worker")).source)


def test_an_unreadable_frame_in_the_bank_gives_way_to_another(tmp_path: Path, data: TrainConfig) -> None:
    folder = write_got10k(tmp_path / "damaged")
    for path in folder.glob("train/*/0000000[3-6].jpg"):
        path.write_bytes(b"no image")
    config = replace(data, datasets=(f"got10k:{folder}",), bank_gb=0.1)
    plans = [open_pairs(config)[i] for i in range(8)]
    assert any(plan.unreadable and "cannot be decoded" in plan.unreadable[0] for plan in plans)


def test_a_bank_without_room_is_refused_before_training(data: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"frames of this run take about 0\.00\d+ GB decoded, but bank_gb is 0\.0001"):
        train(replace(data, bank_gb=0.0001, loggers=()), tmp_path / "run")
    assert not (tmp_path / "run" / "log.jsonl").exists()
    with pytest.raises(InputError, match="to 0, which decodes the frames of each batch anew"):
        dry_run(replace(data, bank_gb=0.0001), tmp_path / "run")


def test_a_bank_needs_pairs_of_the_device() -> None:
    with pytest.raises(InputError, match="bank_gb 4 is for pairs_on device; set that too, or bank_gb to 0"):
        load_config("smoke", {"bank_gb": 4})
    with pytest.raises(InputError, match="setting pairs_on must be one of 'worker', 'device'; got 'gpu'"):
        load_config("smoke", {"pairs_on": "gpu"})


@pytest.mark.slow
def test_training_with_pairs_of_the_device_is_training_with_those_of_workers(tmp_path: Path) -> None:
    losses = {}
    for place in ("worker", "device"):
        out = tmp_path / place
        train(toy_config(pairs_on=place, log_every=1), out)
        lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
        losses[place] = [line["loss"] for line in lines if "loss" in line]
    assert len(losses["worker"]) >= 4
    np.testing.assert_allclose(losses["device"], losses["worker"], rtol=0.02)
