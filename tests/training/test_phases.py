"""LoRATv2's two phases of training against the official ones: tuples, samples, updates, stochastic depth, rates."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from numpy.random import PCG64, Generator
from safetensors.torch import load_file

from lorat_plugin.checkpoints.adapters import inject
from lorat_plugin.checkpoints.loading import load_backbone, load_checkpoint
from lorat_plugin.crop import cells_on_target
from lorat_plugin.network_v2 import LoRATv2Network
from lorat_plugin.synthetic.pairs import FramePair
from lorat_plugin.training.augment import Jitter
from lorat_plugin.training.config import TrainConfig, load_config
from lorat_plugin.training.layers import add_stochastic_depth, use_merged_products
from lorat_plugin.training.pairs import draw_frames
from lorat_plugin.training.recipe import Batch, learning_rate, make_optimizer, make_pair, train_step
from lorat_plugin.training.state import trained_parameters
from lorat_plugin.variants import get_variant
from tests.helpers.golden_v2 import images, variant_of


def adapted_network(folder: Path, phase: str) -> LoRATv2Network:
    """The golden network of three blocks with its adapters beside the frozen layers, in train mode."""
    network = LoRATv2Network(variant_of(phase, "small"))
    backbone = folder / "network/d3.backbone_timm.safetensors"
    load_backbone(network, str(backbone))
    if phase == "p2":
        first = folder / "network/d3.p1.adapters.safetensors"
        carried = load_checkpoint(first, network.variant.phase1, backbone).state_dict()
        network.load_state_dict(carried, strict=False)
    inject(network)
    parameters = dict(network.named_parameters())
    for name, tensor in load_file(folder / f"network/d3.{phase}.adapters.safetensors").items():
        parameters[re.sub(r"\.lora\.([AB])", r".lora_\1.default.weight", name)].data.copy_(tensor)
    return network.train()


def golden_batch(folder: Path, phase: str) -> Batch:
    """The two samples of the recorded updates."""
    record = json.loads((folder / "training/train_steps.json").read_text())[phase]
    inputs, (size, grid) = images(folder, f"{phase}/small"), (84, 6) if phase == "p1" else (126, 9)
    boxes = np.array(record["boxes_px"])
    mask = torch.zeros(2, 4, 4, dtype=torch.int64)
    mask[0, 1:3, 1:3] = mask[1, 0:4, 0:2] = 1
    return Batch(
        inputs["z"][:2],
        inputs["x0" if phase == "p1" else "x1"][:2],
        mask,
        torch.from_numpy(boxes / size).float(),
        torch.from_numpy(np.stack([cells_on_target(box, size, grid) for box in boxes])),
        None if phase == "p1" else inputs["x0"][:2],
    )


@pytest.mark.parametrize("merged_products", [False, True])
@pytest.mark.parametrize("phase", ["p1", "p2"])
def test_three_updates_match_the_official_ones(golden2: Path, phase: str, merged_products: bool) -> None:
    record = json.loads((golden2 / "training/train_steps.json").read_text())[phase]
    stored = load_file(golden2 / "training/train_steps.safetensors")
    network, batch = adapted_network(golden2, phase), golden_batch(golden2, phase)
    if merged_products:
        use_merged_products(network)
    config, accelerator = TrainConfig(), Accelerator(cpu=True)
    optimizer = make_optimizer(network, config)

    def official(name: str) -> str:
        return re.sub(r"\.lora_([AB])\.default\.weight", r".lora.\1", name)

    found = [[official(n) for n in group["names"]] for group in optimizer.param_groups]
    assert found == [group["names"] for group in record["groups"]]
    assert [g["weight_decay"] for g in optimizer.param_groups] == [g["weight_decay"] for g in record["groups"]]
    worst = 0.0
    for update in range(3):
        losses = train_step(accelerator, network, optimizer, batch, 1e-4, config)
        assert float(losses.total) == pytest.approx(record["loss"][update], rel=1e-6)
        if update in (0, 2):
            for name, parameter in trained_parameters(network).items():
                if (key := f"{phase}.after{update + 1}.{official(name)}") in stored:
                    worst = max(worst, float((parameter.detach() - stored[key]).abs().max()))
    print(f"\n{phase}: parameters within {worst}")
    assert worst < 5e-6


@pytest.mark.parametrize("phase", ["p1", "p2"])
def test_layers_before_the_last_keys_have_a_gradient_of_zero(golden2: Path, phase: str) -> None:
    """AdamW decays them, as it does in the official code, where all chunks are one sequence."""
    record = json.loads((golden2 / "training/train_steps.json").read_text())[phase]
    network, batch = adapted_network(golden2, phase), golden_batch(golden2, phase)
    reference = [] if batch.reference is None else [batch.reference]
    network(batch.template, batch.search, batch.mask, *reference).score_map.sum().backward()
    assert not [n for n, p in trained_parameters(network).items() if p.grad is None and "reg_mlp" not in n]
    zero = [n for n, p in trained_parameters(network).items() if p.grad is not None and not p.grad.any()]
    found = {re.sub(r"\.lora_([AB])\.default\.weight", r".lora.\1", n) for n in zero}
    assert found == set(record["zero_gradient"])


@torch.no_grad()
def test_stochastic_depth_equals_the_reference(golden2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = np.load(golden2 / "training/drop_path.npz")
    network, inputs = adapted_network(golden2, "p1"), images(golden2, "p1/small")
    add_stochastic_depth(network, 0.1)
    torch.manual_seed(int(data["seed"]))
    scales = network.branch_scales(3, torch.device("cpu"))
    assert scales[0] == (None, None)
    for scale, name in zip(scales[1], ("attn", "ffn"), strict=True):
        assert scale is not None
        np.testing.assert_array_equal((scale.flatten() > 0).numpy(), data[f"block1_{name}_keep"] > 0)
    for scale, name in zip(scales[2], ("attn", "ffn"), strict=True):
        assert scale is not None
        kept = data[f"block2_{name}_order"][:2]
        assert sorted(np.flatnonzero(scale.flatten())) == sorted(kept.tolist())
        assert scale.max() == 1.5
    torch.manual_seed(int(data["seed"]))
    mask = torch.from_numpy(np.load(golden2 / "network/p1/small.npz")["in_z_feat_mask"]).long()
    score_map = network(inputs["z"], inputs["x0"], mask).score_map
    np.testing.assert_allclose(score_map, data["score_map"], atol=2e-5)
    assert network.eval().branch_scales(3, torch.device("cpu")) == [(None, None)] * 3


def presence(text: object, frames: int) -> np.ndarray:
    """Which frames show the target, (n,) bool, as the golden file describes it."""
    if isinstance(text, list):
        return np.isin(np.arange(frames), text)
    present = np.ones(frames, bool)
    if str(text).startswith("all but"):
        first, last = map(int, re.findall(r"\d+", str(text)))
        present[first : last + 1] = False
    return present


def test_tuples_are_drawn_as_golden(golden2: Path) -> None:
    record = json.loads((golden2 / "training/tuple_sampling.json").read_text())
    cases = record["samples"]["increased_difficulty"]
    for case in cases:
        dataset, sequence = case["pick"]
        tracks = record["datasets"][dataset][sequence]["tracks"]
        rng = Generator(PCG64((42, 0, 1, 1, case["index"])))
        track = tracks[int(rng.integers(len(tracks))) if len(tracks) > 1 else 0]
        present = presence(track["present"], track["frames"])
        z, x, third = draw_frames(present, 100, rng, third=True)
        found = [(track["id"], number) for number in (third, z, x)]
        assert found == [(entry[2], entry[3]) for entry in case["templates"] + case["search"]]
        other = Generator(PCG64((42, 0, 1, 1, case["index"])))
        for method, arguments, _, _ in case["draws"]:
            sizes = [a["count"] if isinstance(a, dict) else a for a in arguments]
            getattr(other, method)(*sizes)
        assert rng.bit_generator.state == other.bit_generator.state
    assert len(cases) == 18


@pytest.mark.parametrize("case", ["p1_0", "p2_3", "p2_1", "p2_8"])
def test_whole_samples_match_the_official_ones(golden2: Path, case: str) -> None:
    record = json.loads((golden2 / "training/samples.json").read_text())[case]
    stored = np.load(golden2 / "training/samples.npz")
    frames = np.load(golden2 / "tracking/sequence.npz")["frames"]
    rng, boxes = Generator(PCG64(tuple(record["seed"]))), np.array(record["boxes_frame"])
    for method, arguments, _, _ in record["draws_of_sampling"]:
        getattr(rng, method)(*arguments)
    (third,), (z, *search) = record["frames"]["templates"], record["frames"]["search"]
    if search:
        pair = FramePair(frames[z], boxes[1], frames[search[0]], boxes[2], third=(frames[third], boxes[0]))
        sample = make_pair(pair, get_variant("lorat2_b_378"), Jitter(), TrainConfig(), rng)
    else:
        pair = FramePair(frames[third], boxes[0], frames[z], boxes[1])
        sample = make_pair(pair, get_variant("lorat2_b_224"), Jitter(), TrainConfig(), rng)
    assert sample is not None
    shown = {"z_0": sample.template, "x_0": sample.reference, "x_1": sample.search} if search else {
        "z_0": sample.template, "x_0": sample.search,
    }  # fmt: skip
    for name, image in shown.items():
        assert image is not None
        np.testing.assert_allclose(image[:, ::9, ::9], stored[f"{case}_{name}_every9"], atol=1e-4)
    np.testing.assert_array_equal(sample.mask, stored[f"{case}_z_feat_mask"])
    assert np.flatnonzero(sample.positive).tolist() == record["positive_cells"]
    np.testing.assert_allclose(sample.box, record["box_target"], atol=1e-6)


@pytest.mark.parametrize(("recipe", "name"), [("paper2_p1", "170_epochs"), ("paper2_p1_got10k", "100_epochs_got10k")])
def test_learning_rates_equal_the_reference(golden2: Path, recipe: str, name: str) -> None:
    data, config = np.load(golden2 / "training/lr.npz"), load_config(recipe)
    rates = [
        learning_rate(int(i), peak=config.lr, warmup=config.warmup_steps, total=config.steps, final=config.final_lr)
        for i in data[f"{name}_update"]
    ]
    np.testing.assert_allclose(rates, data[f"{name}_lr"], rtol=1e-9)
