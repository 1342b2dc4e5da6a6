"""The training loop: official updates reproduced, loss falls, a stopped run goes on as if it had not stopped."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lorat_plugin import create_model, load_checkpoint
from lorat_plugin.crop import cells_on_target
from lorat_plugin.errors import CheckpointError
from lorat_plugin.network import LoRATNetwork
from lorat_plugin.training.adapters import use_merged_products
from lorat_plugin.training.config import TrainConfig, load_config
from lorat_plugin.training.recipe import Batch, PairDataset, collate, compute_loss, make_optimizer, train, train_step
from lorat_plugin.training.schedule import learning_rate
from lorat_plugin.training.state import STATE_NAME, read_journal, trained_parameters
from lorat_plugin.variants import Variant, get_variant, register_variant
from tests.small_variants import variant_of

TOY = Variant(
    "lorat_training_toy", "vit_small_patch14_dinov2", dim=48, depth=2, heads=2, ffn="mlp", ffn_dim=96,
    template_size=42, search_size=84, search_area_factor=4.0, lora_rank=4, lora_alpha=4.0, train_norm=True,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _toy() -> None:
    register_variant(TOY)


def _config(**changes: object) -> TrainConfig:
    settings = {"variant": TOY.name, "steps": 4, "validate_every": 2, "lr": 1e-3, **changes}
    return load_config("smoke", settings)


def _official_name(name: str) -> str:
    name = name.replace(".lora_A.default.weight", ".lora.A").replace(".lora_B.default.weight", ".lora.B")
    return name.replace(".base_layer.", ".linear.").replace("token_type_embed.weight", "token_type_embed")


def _official_network(golden: Path) -> LoRATNetwork:
    case = "mlp_224_lora"
    network = create_model(variant_of(case), backbone="random", lora=True)
    stored = load_file(golden / "network" / f"{case}.full.safetensors")
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            tensor.copy_(stored[_official_name(name)])
    return network


@pytest.mark.parametrize("micro_batch", [0, 1])
def test_twelve_updates_match_the_official_ones(golden: Path, micro_batch: int) -> None:
    record = json.loads((golden / "training" / "train_steps.json").read_text())
    after = load_file(golden / "training" / "train_steps.safetensors")
    inputs = np.load(golden / "network" / "mlp_224_lora.npz")
    network = _official_network(golden)
    use_merged_products(network)
    boxes = np.array(record["gt_boxes_px"])
    batch = Batch(
        torch.from_numpy(inputs["z_q"].astype(np.float32) / 32),
        torch.from_numpy(inputs["x_q"].astype(np.float32) / 32),
        torch.from_numpy(inputs["z_feat_mask"].astype(np.int64)),
        torch.from_numpy(boxes / 224).float(),
        torch.from_numpy(np.stack([cells_on_target(b, 224, 16) for b in boxes])),
    )
    config = TrainConfig(micro_batch=micro_batch)
    optimizer = make_optimizer(network, config)
    for update in range(12):
        rate = learning_rate(update, peak=1e-4, warmup=4, total=12)
        assert rate == pytest.approx(record["lr_used"][update], rel=1e-9)
        losses = train_step(network, optimizer, batch, rate, config)
        assert float(losses.total) == pytest.approx(record["loss"][update], rel=2e-6)
    for name, parameter in trained_parameters(network).items():
        np.testing.assert_allclose(parameter.detach(), after[f"after12.{_official_name(name)}"], atol=2e-6)


def test_merged_products_change_neither_result_nor_gradients() -> None:
    torch.manual_seed(0)
    network = create_model(TOY, lora=True)
    batch = collate([PairDataset(_config(), TOY)[i] for i in range(2)])
    for p in trained_parameters(network).values():
        torch.nn.init.normal_(p, std=0.05)
    results = []
    for _ in range(2):
        losses = compute_loss(network, batch)
        losses.total.backward()
        grads = {n: p.grad.clone() for n, p in trained_parameters(network).items() if p.grad is not None}
        results.append((losses.total.detach(), grads))
        network.zero_grad()
        use_merged_products(network)
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-6)


def test_overfits_two_pairs() -> None:
    torch.manual_seed(0)
    config = _config()
    network = create_model(TOY, lora=True)
    batch = collate([PairDataset(config, TOY)[i] for i in range(2)])
    optimizer = make_optimizer(network, config)
    losses = [float(train_step(network, optimizer, batch, 5e-3, config).total) for _ in range(50)]
    assert losses[-1] < 0.4 * losses[0]


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    train(_config(), tmp_path / "whole")

    class Stop(Exception):
        pass

    def stop(done: int, text: str) -> None:
        if done == 3:
            raise Stop

    with pytest.raises(Stop):
        train(_config(), tmp_path / "parts", on_step=stop)
    train(_config(), tmp_path / "parts")
    whole, parts = (load_file(tmp_path / name / STATE_NAME) for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    for name in whole:
        torch.testing.assert_close(whole[name], parts[name], rtol=0, atol=1e-6, msg=name)
    rows = read_journal(tmp_path / "parts" / "log.jsonl")
    assert [r["step"] for r in rows if "loss" in r] == [1, 2, 3, 4]
    assert [r["step"] for r in rows if "val_iou" in r] == [2, 4]


def test_what_a_run_leaves(tmp_path: Path) -> None:
    weights = train(_config(steps=2), tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        ["config.yaml", "curve.png", "log.jsonl", STATE_NAME, f"{TOY.name}.safetensors"]
    )
    assert load_config(str(tmp_path / "config.yaml")) == _config(steps=2)
    assert load_checkpoint(weights).variant.name == TOY.name


def test_a_run_can_start_from_anothers_weights(tmp_path: Path) -> None:
    train(_config(steps=2), tmp_path / "first")
    state = tmp_path / "first" / STATE_NAME
    train(_config(steps=1, lr=1e-9, final_lr=1e-9), tmp_path / "second", init_from=str(state))
    first, second = load_file(state), load_file(tmp_path / "second" / STATE_NAME)
    for name in first:
        if name.startswith("weight."):
            torch.testing.assert_close(first[name], second[name], rtol=0, atol=1e-6)


def test_states_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    train(_config(steps=1), tmp_path)
    other = replace(TOY, name="lorat_training_toy_2", lora_rank=2)
    register_variant(other)
    with pytest.raises(CheckpointError, match="another variant or rank"):
        train(_config(variant=other.name), tmp_path)
    (tmp_path / STATE_NAME).write_bytes(b"\x10\x00\x00\x00cut short")
    with pytest.raises(CheckpointError, match="cannot be read"):
        train(_config(), tmp_path)
    with pytest.raises(CheckpointError, match="is no file"):
        train(_config(), tmp_path, resume=str(tmp_path / "absent"))
    assert get_variant(TOY.name) is TOY
