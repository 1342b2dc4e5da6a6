"""What is trained: modes, peft's methods, their merging and their files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lorat_plugin import LoRATTracker, load_checkpoint
from lorat_plugin.checkpoints.adapters import merge
from lorat_plugin.checkpoints.saving import convert
from lorat_plugin.errors import CheckpointError, InputError
from lorat_plugin.models import load_pretrained
from lorat_plugin.network import LoRATNetwork
from lorat_plugin.training.config import TrainConfig, training_variant
from lorat_plugin.training.layers import MergedLoraLinear
from lorat_plugin.training.methods import check_method, save_trained, training_network
from lorat_plugin.training.recipe import Batch, compute_loss, make_optimizer
from lorat_plugin.variants import Variant, get_variant, list_variants, register_variant

TOY = Variant(
    "lorat_methods_toy", "vit_small_patch14_dinov2", dim=64, depth=2, heads=2, ffn="mlp", ffn_dim=128,
    template_size=42, search_size=84, search_area_factor=4.0, lora_rank=8, lora_alpha=8.0, train_norm=True,
)  # fmt: skip


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small random DINOv2 file in Meta's layout whose blocks count."""
    register_variant(TOY)
    torch.manual_seed(0)
    network = LoRATNetwork(TOY)
    for block in network.blocks:
        block.ls1.gamma.data.uniform_(0.5, 1), block.ls2.gamma.data.uniform_(0.5, 1)
    tensors = {n: t for n, t in network.state_dict().items() if n.startswith(("patch_embed", "blocks", "norm"))}
    tensors |= {"cls_token": torch.zeros(1, 1, 64), "mask_token": torch.zeros(1, 64)}
    tensors["pos_embed"] = torch.randn(1, 1370, 64) * 0.02
    path = tmp_path_factory.mktemp("backbone") / "dinov2.safetensors"
    save_file(tensors, path)
    return str(path)


@pytest.fixture
def config(backbone: str) -> TrainConfig:
    return TrainConfig(variant=TOY.name, backbone=backbone, precision="fp32", device="cpu")


@pytest.fixture(scope="module")
def batch() -> Batch:
    """Two pairs."""
    torch.manual_seed(2)
    box = torch.tensor([[0.2, 0.3, 0.6, 0.7], [0.4, 0.1, 0.9, 0.6]])
    positive = torch.zeros(2, 6, 6, dtype=torch.bool)
    positive[0, 2:4, 1:4] = positive[1, 1:4, 2:5] = True
    mask = torch.zeros(2, 3, 3, dtype=torch.long)
    mask[:, 1, 1] = 1
    return Batch(torch.randn(2, 3, 42, 42), torch.randn(2, 3, 84, 84), mask, box, positive)


def fit(network: LoRATNetwork, batch: Batch, config: TrainConfig, steps: int = 12) -> tuple[float, float]:
    """First and last loss."""
    optimizer = make_optimizer(network, replace(config, lr=5e-3))
    losses = []
    for _ in range(steps):
        loss = compute_loss(network, batch).total
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses[0], losses[-1]


def difference(one: LoRATNetwork, other: LoRATNetwork, batch: Batch) -> float:
    """Largest difference of what two networks in eval mode say about the batch."""
    with torch.no_grad():
        pairs = zip(one.eval()(batch[0], batch[1], batch[2]), other.eval()(batch[0], batch[1], batch[2]), strict=True)
        return max(float((a - b).abs().max()) for a, b in pairs)


@pytest.mark.parametrize(
    ("adapter", "settings"),
    [
        ("lora", ()),
        ("lora", ("use_dora=true",)),
        ("loha", ()),
        pytest.param("rslora", (), marks=pytest.mark.slow),
        pytest.param("rslora", ("init_lora_weights=pissa",), marks=pytest.mark.slow),
        pytest.param("lokr", ("r=4", "alpha=4"), marks=pytest.mark.slow),
        pytest.param("hra", (), marks=pytest.mark.slow),
        pytest.param("oft", (), marks=pytest.mark.slow),
        pytest.param("randlora", ("save_projection=false",), marks=pytest.mark.slow),
        pytest.param("ia3", (r"feedforward_modules=.*\.mlp\.fc2",), marks=pytest.mark.slow),
        pytest.param("lntuning", (r"target_modules=blocks\.\d+\.norm[12]",), marks=pytest.mark.slow),
    ],
)
def test_each_method_trains_merges_and_is_read_again(
    config: TrainConfig, batch: Batch, backbone: str, tmp_path: Path, adapter: str, settings: tuple[str, ...]
) -> None:
    torch.manual_seed(1)
    start = training_network(replace(config, adapter_settings=("use_dora=true",)))  # outputs are the backbone's
    config = replace(config, adapter=adapter, adapter_settings=settings)
    network = training_network(config)
    frozen = {n: p.clone() for n, p in network.named_parameters() if not p.requires_grad}
    start.token_type_embed.load_state_dict(network.token_type_embed.state_dict())
    start.head.load_state_dict(network.head.state_dict())
    assert difference(start, network, batch) < 1e-4
    first, last = fit(network.train(), batch, config)
    assert last < 0.9 * first
    assert all(torch.equal(frozen[n], p) for n, p in network.named_parameters() if n in frozen)
    changed = [n for n, p in network.named_parameters() if p.requires_grad and n.startswith("blocks.")]
    assert changed and all(adapter in ("lntuning",) or "base_layer" not in n for n in changed)
    plain = merge(network)
    assert type(plain) is LoRATNetwork and not any("peft" in type(m).__module__ for m in plain.modules())
    assert difference(network, plain, batch) < 1e-4
    assert difference(start, plain, batch) > 1e-2  # not vacuous
    folder = save_trained(network, tmp_path / "weights", {"steps": "12"})
    names = sorted(p.name for p in folder.iterdir())
    assert folder.is_dir() and {"adapter_config.json", "adapter_model.safetensors"} <= set(names)
    loaded = load_checkpoint(folder, backbone=backbone)
    assert difference(loaded, plain, batch) < 1e-4 and loaded.variant == network.variant
    convert(folder, tmp_path / "merged.safetensors", backbone=backbone)
    assert difference(load_pretrained(str(tmp_path / "merged.safetensors")), plain, batch) < 1e-4


@pytest.mark.parametrize(("mode", "frozen"), [("full", {"pos_embed"}), ("baseline", set())])
def test_full_and_baseline_train_all_weights(
    config: TrainConfig, batch: Batch, tmp_path: Path, frames: list[np.ndarray], mode: str, frozen: set[str]
) -> None:
    torch.manual_seed(1)
    config = replace(config, mode=mode)
    network = training_network(config)
    assert {n for n, p in network.named_parameters() if not p.requires_grad} == frozen
    before = {n: p.clone() for n, p in network.named_parameters()}
    first, last = fit(network, batch, config)
    assert last < 0.9 * first
    unmoved = {n for n, p in network.named_parameters() if torch.equal(before[n], p)}
    assert unmoved == frozen
    path = save_trained(network, tmp_path / "weights")
    assert path == tmp_path / "weights.safetensors"
    boxes = []
    for same in (merge(network), load_pretrained(TOY.name + "_baseline" * (mode == "baseline"), str(path))):
        assert same.variant == network.variant and difference(same, network, batch) < 1e-5
        tracker = LoRATTracker(same, device="cpu")
        tracker.init(frames[0], [30, 20, 16, 16])
        boxes.append(np.stack([tracker.update(frame).box for frame in frames[1:]]))
    np.testing.assert_allclose(boxes[0], boxes[1], atol=1e-4)


def test_trackers_agree_before_and_after_merging(config: TrainConfig, batch: Batch, frames: list[np.ndarray]) -> None:
    network = training_network(replace(config, adapter="loha"))
    fit(network, batch, config)
    boxes = []
    for same in (network, merge(network)):
        tracker = LoRATTracker(same, device="cpu")
        tracker.init(frames[0], [30, 20, 16, 16])
        boxes.append(np.stack([tracker.update(frame).box for frame in frames[1:]]))
    np.testing.assert_allclose(boxes[0], boxes[1], atol=1e-4)


def test_baseline_has_two_tables_and_convolutions(config: TrainConfig, backbone: str) -> None:
    network = training_network(replace(config, mode="baseline"))
    names = set(network.state_dict())
    assert {"pos_embed", "template_pos_embed", "head.cls_convs.0.weight"} <= names
    assert not any(n.startswith(("token_type", "head.cls_mlp")) for n in names)
    table = training_network(replace(config, mode="full")).pos_embed
    torch.testing.assert_close(network.pos_embed, table)
    assert network.template_pos_embed.shape == (1, 9, 64)
    assert float(network.template_pos_embed.std()) == pytest.approx(0.02, rel=0.3)  # from the backbone, not zero
    variant = get_variant("lorat_b_224_baseline")
    assert variant == get_variant("LoRAT-B-224-baseline") and variant.name == "lorat_b_224_baseline"
    assert (variant.head, variant.position, variant.drop_path) == ("conv", "separate", 0)
    assert "lorat_b_224_baseline" not in list_variants()
    with pytest.raises(InputError, match="unknown model"):
        get_variant("baseline")


def test_adapters_on_the_baselines_network(config: TrainConfig, batch: Batch, backbone: str, tmp_path: Path) -> None:
    """The paper's ablation of LoRA without its two designs."""
    config = replace(config, variant=f"{TOY.name}_baseline", targets=("q", "v"))
    network = training_network(config)
    first, last = fit(network, batch, config)
    assert last < 0.9 * first
    folder = save_trained(network, tmp_path / "weights")
    assert difference(load_checkpoint(folder, backbone=backbone), merge(network), batch) < 1e-4


def test_another_backbone_comes_by_name(config: TrainConfig) -> None:
    variant = training_variant(
        replace(config, variant="lorat_b_224", backbone_model="vit_base_patch16_224.mae", mode="baseline")
    )
    assert (variant.backbone, variant.patch_size, variant.search_grid) == ("vit_base_patch16_224.mae", 16, 16)
    assert (variant.head, variant.lora_rank) == ("conv", 64) and "mae" in variant.name


@pytest.mark.parametrize("kind", ["eva02_base_patch14_224.mim_in22k", "vit_small_patch14_reg4_dinov2"])
def test_adapters_and_stochastic_depth_fit_other_backbones(config: TrainConfig, batch: Batch, kind: str) -> None:
    eva = kind.startswith("eva")
    other = replace(TOY, name=f"toy_{kind}", backbone=kind, ffn="swiglu" if eva else "mlp", ffn_dim=176 if eva else 128)
    register_variant(other)
    network = training_network(replace(config, variant=other.name, backbone="random", drop_path=0.4))
    compute_loss(network, batch).total.backward()
    assert all(p.grad is not None for n, p in network.named_parameters() if ".lora_" in n)
    assert difference(network, merge(network), batch) < 1e-4


def test_rank_alpha_and_targets_reach_adapters_and_files(
    config: TrainConfig, batch: Batch, backbone: str, tmp_path: Path
) -> None:
    config = replace(config, rank=2, alpha=6.0, targets=("q", "fc2"), drop_path=0.2, adapter="rslora")
    network = training_network(config)
    adapted = {n.split(".lora_A")[0].split(".")[-1] for n, _ in network.named_parameters() if ".lora_A" in n}
    assert adapted == {"q", "fc2"}
    v = network.variant
    assert (v.lora_rank, v.lora_alpha, v.rslora, v.drop_path) == (2, 6.0, True, 0.2)
    fit(network, batch, config)
    folder = save_trained(network, tmp_path / "weights")
    assert json.loads((folder / "adapter_config.json").read_text())["target_modules"].endswith("(q|fc2)")
    loaded = load_checkpoint(folder, backbone=backbone)
    assert loaded.variant == v != get_variant(TOY.name)
    assert difference(loaded, network, batch) < 1e-4


@pytest.mark.parametrize(
    ("changes", "fast"),
    [
        ({}, True),
        ({"precision": "auto"}, True),
        ({"precision": "bf16"}, True),
        ({"precision": "fp16"}, False),
        ({"adapter_settings": ("use_dora=true",)}, False),
    ],
)
def test_merged_products_serve_plain_lora_in_float32_and_on_a_cpu_in_bfloat16(
    config: TrainConfig, changes: dict[str, object], fast: bool
) -> None:
    network = training_network(replace(config, **changes))  # type: ignore[arg-type]
    assert any(isinstance(m, MergedLoraLinear) for m in network.modules()) is fast


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "half"}, "unknown mode 'half': use one of lora, full, baseline"),
        ({"mode": "full", "rank": 4}, "mode full trains all weights and has no adapters: leave out rank"),
        ({"mode": "baseline", "adapter": "loha"}, "leave out adapter"),
        ({"mode": "full", "adapter_settings": ("use_dora=true",)}, "leave out adapter_settings"),
        ({"adapter": "nora"}, "unknown adapter 'nora': use lora, rslora or another of peft's"),
        ({"targets": ("q", "qkv")}, "unknown layer 'qkv' in targets: use some of q, k, v, proj"),
        ({"adapter": "ia3", "rank": 4}, "rank and alpha are LoRA's: give those of adapter ia3 by adapter_settings"),
        ({"adapter": "loha", "alpha": 4.0}, "rank and alpha are LoRA's"),
        ({"adapter_settings": ("r=4",)}, r"LoraConfig cannot be made \(.*multiple values for keyword argument 'r'"),
        ({"adapter": "loha", "adapter_settings": ("rang=4",)}, r"LoHaConfig cannot be made \(.*'rang'"),
        ({"adapter_settings": ("use_dora",)}, "adapter_settings are NAME=VALUE"),
        ({"adapter_settings": ("use_dora=[",)}, "peft.LoraConfig cannot be made"),
        ({"adapter": "prompttuning"}, r"PromptTuningConfig cannot be made \(.*target_modules"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    config: TrainConfig, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        check_method(replace(config, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("adapter", "settings"),
    [("vera", ()), ("lora", ("use_bdlora=true",)), ("lora", ("alora_invocation_tokens=[1]",)), ("poly", ())],
)
def test_adapters_that_cannot_be_merged_are_refused(
    config: TrainConfig, adapter: str, settings: tuple[str, ...]
) -> None:
    with pytest.raises(InputError, match=f"adapter {adapter}.*"):
        training_network(replace(config, adapter=adapter, adapter_settings=settings))


def test_files_of_variants_that_are_in_no_table(config: TrainConfig, batch: Batch, tmp_path: Path) -> None:
    network = training_network(replace(config, mode="full"))
    network.variant = replace(TOY, name="unheard_of", window_weight=0.3)
    path = save_trained(network, tmp_path / "weights")
    assert load_checkpoint(path).variant == network.variant
    for fields, reason in (
        ("{", "cannot be used"),
        ("[1]", "cannot be used"),
        (json.dumps({"name": "x"}), "missing"),
        (network.variant.to_json().replace('"depth": 2', '"depth": 3'), "has 2 blocks, but its header says 3"),
        (network.variant.to_json().replace('"depth": 2', '"depth": "2"'), "depth is '2'"),
        (network.variant.to_json().replace('"mlp"', '"tree"'), "is 'tree'"),
        (network.variant.to_json().replace('"heads"', '"ears"'), "ears"),
        (network.variant.to_json().replace('"heads": 2', '"heads": 5'), "multiple of heads"),
    ):
        save_file(network.state_dict(), path, {"variant_fields": fields})
        with pytest.raises(CheckpointError, match=f"weights.safetensors.*{reason}"):
            load_checkpoint(path)


def test_damaged_adapters_of_other_methods_are_refused(config: TrainConfig, backbone: str, tmp_path: Path) -> None:
    folder = save_trained(training_network(replace(config, adapter="loha")), tmp_path / "weights")
    with pytest.raises(CheckpointError, match="names or shapes of tensors differ"):
        load_checkpoint(folder, replace(TOY, depth=1), backbone)
    settings = json.loads((folder / "adapter_config.json").read_text())
    for kind, reason in (
        ("NOSUCH", "cannot be rebuilt"),
        ("LORA", "peft's option alpha cannot be applied"),
        ("HRA", "differ"),
    ):
        (folder / "adapter_config.json").write_text(json.dumps({**settings, "peft_type": kind}))
        with pytest.raises(CheckpointError, match=reason):
            load_checkpoint(folder, TOY, backbone)
