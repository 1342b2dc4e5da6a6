"""What only a CUDA GPU can show: the same results as on the CPU, and training in half precision."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lorat_plugin import LoRATTracker, create_model
from lorat_plugin.devices import find_device
from lorat_plugin.engines import prepare
from lorat_plugin.errors import InputError
from lorat_plugin.network import LoRATNetwork
from lorat_plugin.synthetic.material import Material
from lorat_plugin.synthetic.pairs import ObjectPairs
from lorat_plugin.training.config import TrainConfig
from lorat_plugin.training.device.bank import FrameBank
from lorat_plugin.training.device.pixels import Windows, cut
from lorat_plugin.training.device.records import BankedMaterial, Recorder
from lorat_plugin.training.device.scenes import Scenes, render
from lorat_plugin.training.launch import train
from lorat_plugin.training.sources import make_loader, open_pairs
from tests.helpers.datasets import write_got10k
from tests.helpers.toy import TOY, toy_config

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
GPU = torch.device("cuda")


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    """Settings with a small data set."""
    monkeypatch.setenv("LORAT_CACHE", str(tmp_path / "cache"))
    folder = write_got10k(tmp_path / "got10k")
    return TrainConfig(
        variant=TOY.name, datasets=(f"got10k:{folder}",), pairs_on="device", workers=0, steps=2, batch_size=16
    )


@pytest.mark.parametrize("bank_gb", [0.0, 0.1])
def test_pairs_of_a_gpu_are_those_of_the_cpu(data: TrainConfig, bank_gb: float) -> None:
    here, there = (
        next(iter(make_loader(open_pairs(config), config))).to(torch.device(device))
        for device in ("cpu", "cuda")
        for config in (replace(data, bank_gb=bank_gb, device=device),)
    )
    for name in ("mask", "box", "positive"):
        assert torch.equal(getattr(here, name), getattr(there, name).cpu())
    for name in ("template", "search"):
        off = (getattr(here, name) - getattr(there, name).cpu()).abs() * 0.226 * 255
        assert off.mean() < 0.6, (name, float(off.mean()))


def test_crops_cut_on_a_gpu_are_those_of_the_cpu(data: TrainConfig) -> None:
    dataset = open_pairs(replace(data, device="cpu"))
    plan = dataset.collate([dataset[i] for i in range(16)])  # type: ignore[misc]
    windows = Windows(*(t[16:] for t in plan.windows))
    there = cut(plan.pixels.to(GPU), Windows(*(t.to(GPU) for t in windows)), TOY.search_size)
    torch.testing.assert_close(there.cpu(), cut(plan.pixels, windows, TOY.search_size), atol=0.02, rtol=0)


def test_made_frames_drawn_on_a_gpu_are_those_of_the_cpu() -> None:
    material = BankedMaterial(Material(None, None))
    material.bank = FrameBank(material.requests(), 1.0, torch.device("cpu"))
    pairs = ObjectPairs(material, Recorder())  # type: ignore[arg-type]
    drawn = [pair for seed in range(24) if (pair := pairs.sample(np.random.default_rng(seed)))]
    scenes = Scenes.of([frame for pair in drawn for frame in (pair.template_frame, pair.search_frame)])  # type: ignore[misc]
    bank = material.bank.pixels
    assert bank is not None
    here, there = (render(scenes, bank.to(device))[0].cpu() for device in ("cpu", "cuda"))
    off = (here.view(torch.uint8).float() - there.view(torch.uint8).float()).abs()
    assert off.mean() < 0.1


def test_a_bank_beyond_the_memory_of_the_gpu_is_refused(data: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 10**9))
    with pytest.raises(InputError, match=r"the GPU has 0\.0 GB free"):
        open_pairs(replace(data, bank_gb=1))


@pytest.mark.parametrize(("precision", "limit"), [("fp32", 1e-3), ("bf16", 0.1), ("fp16", 0.1)])
def test_the_loss_on_a_gpu_is_that_of_the_cpu(tmp_path: Path, precision: str, limit: float) -> None:
    losses = {}
    for device in ("cpu", "cuda"):
        out = tmp_path / device
        chosen = precision if device == "cuda" else "fp32"
        train(toy_config(device=device, precision=chosen, log_every=1, workers=0), out)
        lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
        losses[device] = [line["loss"] for line in lines if "loss" in line]
    np.testing.assert_allclose(losses["cuda"], losses["cpu"], rtol=limit)


def test_training_with_a_bank_on_a_gpu_ends_with_weights(data: TrainConfig, tmp_path: Path) -> None:
    config = replace(data, backbone="random", bank_gb=0.1, workers=2, trackers=(), validation_pairs=16)
    assert train(config, tmp_path / "run").is_file()


@pytest.mark.parametrize("engine", ["eager", "compiled"])
def test_tracks_on_a_gpu_are_those_on_the_cpu(
    tiny_network: LoRATNetwork, frames: list[np.ndarray], engine: str
) -> None:
    boxes = {}
    for device, name in (("cpu", "eager"), ("cuda", engine)):
        tracker = LoRATTracker(tiny_network, device=device, engine=name, precision="fp32")
        tracker.init(frames[0], (30, 20, 16, 16))
        boxes[device] = [tracker.update(frame).box for frame in frames[1:]]
    np.testing.assert_allclose(boxes["cuda"], boxes["cpu"], atol=0.2)


@torch.inference_mode()
def test_half_precision_on_a_gpu_stays_near() -> None:
    torch.manual_seed(0)
    network = create_model("lorat_tiny", backbone="random").eval()
    z, x = torch.randn(2, 3, 70, 70), torch.randn(2, 3, 140, 140)
    mask = torch.ones(2, 5, 5, dtype=torch.int64)
    wanted = network.predict([network.encode_template(z, mask)], x).score_map.sigmoid()
    engine, device = prepare(network, "cuda", "eager", "bf16")
    found = engine.predict([engine.encode_template(z.to(device), mask.to(device))], x.to(device)).score_map.float()
    assert find_device("auto").type == "cuda"
    np.testing.assert_allclose(found.sigmoid().cpu(), wanted, atol=0.03)
