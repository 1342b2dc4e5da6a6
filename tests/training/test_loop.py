"""Training steps: official updates reproduced, the loss falls, a step that is not finite changes nothing."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from lorat_plugin import create_model
from lorat_plugin.crop import cells_on_target
from lorat_plugin.network import LoRATNetwork
from lorat_plugin.training.config import TrainConfig, load_config
from lorat_plugin.training.layers import use_merged_products
from lorat_plugin.training.recipe import (
    Batch,
    NotFinite,
    collate,
    compute_loss,
    learning_rate,
    make_optimizer,
    train_step,
)
from lorat_plugin.training.sources import open_pairs
from lorat_plugin.training.state import trained_parameters
from tests.helpers.small_variants import variant_of
from tests.helpers.toy import TOY


def _config(**changes: object) -> TrainConfig:
    return load_config("smoke", {"variant": TOY.name, "lr": 1e-3, **changes})


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
    config, accelerator = TrainConfig(micro_batch=micro_batch), Accelerator(cpu=True)
    optimizer = make_optimizer(network, config)
    for update in range(12):
        rate = learning_rate(update, peak=1e-4, warmup=4, total=12)
        assert rate == pytest.approx(record["lr_used"][update], rel=1e-9)
        losses = train_step(accelerator, network, optimizer, batch, rate, config)
        assert float(losses.total) == pytest.approx(record["loss"][update], rel=2e-6)
    for name, parameter in trained_parameters(network).items():
        np.testing.assert_allclose(parameter.detach(), after[f"after12.{_official_name(name)}"], atol=2e-6)


def test_merged_products_change_neither_result_nor_gradients() -> None:
    torch.manual_seed(0)
    network = create_model(TOY, lora=True)
    batch = collate([open_pairs(_config(), TOY)[i] for i in range(2)])
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


def test_merged_products_in_bfloat16_stay_near_float32() -> None:
    torch.manual_seed(0)
    network = create_model(TOY, lora=True)
    batch = collate([open_pairs(_config(), TOY)[i] for i in range(2)])
    for p in trained_parameters(network).values():
        torch.nn.init.normal_(p, std=0.05)
    use_merged_products(network)
    results = []
    for half in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            losses = compute_loss(network, batch)
        losses.total.backward()
        grads = [p.grad.flatten().clone() for p in trained_parameters(network).values() if p.grad is not None]
        results.append((float(losses.total), torch.cat(grads)))
        network.zero_grad()
    (loss, grads), (half_loss, half_grads) = results
    assert half_loss == pytest.approx(loss, rel=0.02)
    assert torch.nn.functional.cosine_similarity(grads, half_grads, dim=0) > 0.99


def test_overfits_two_pairs() -> None:
    torch.manual_seed(0)
    config = _config()
    network = create_model(TOY, lora=True)
    batch = collate([open_pairs(config, TOY)[i] for i in range(2)])
    optimizer = make_optimizer(network, config)
    accelerator = Accelerator(cpu=True)
    losses = [float(train_step(accelerator, network, optimizer, batch, 5e-3, config).total) for _ in range(50)]
    assert losses[-1] < 0.4 * losses[0]


@pytest.mark.parametrize("micro_batch", [0, 1])
def test_a_step_that_is_not_finite_changes_nothing(micro_batch: int) -> None:
    torch.manual_seed(0)
    config = _config(micro_batch=micro_batch)
    network = create_model(TOY, lora=True)
    batch = collate([open_pairs(config, TOY)[i] for i in range(2)])
    batch.search[1, 0, 3, 3] = math.nan
    before = {n: p.detach().clone() for n, p in trained_parameters(network).items()}
    with pytest.raises(NotFinite, match="loss is nan"):
        train_step(Accelerator(cpu=True), network, make_optimizer(network, config), batch, 1e-3, config)
    for name, parameter in trained_parameters(network).items():
        assert torch.equal(parameter, before[name]), name
