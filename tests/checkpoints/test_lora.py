"""Adapters of peft: loaded as peft itself merges them, or refused, whatever their options."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lorat_plugin import create_model, load_checkpoint, register_variant
from lorat_plugin.checkpoints.adapters import merge, split_qkv
from lorat_plugin.checkpoints.loading import read_weights
from lorat_plugin.checkpoints.saving import convert
from lorat_plugin.errors import CheckpointError
from tests.helpers.small_variants import variant_of
from tests.test_network import inputs

CASE = "mlp_224_lora"
ALL = r"blocks\.\d+\.(attn\.qkv|attn|mlp)\.(q|k|v|proj|fc1|fc2)"


@pytest.fixture
def backbone(golden: Path) -> str:
    return str(golden / f"network/{CASE}.backbone_meta.safetensors")


def save_adapter(folder: Path, backbone: str, **options: Any) -> Any:
    """A random adapter that peft saved with these options of `LoraConfig`; returns peft's model."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    variant = variant_of(CASE)
    settings = {"r": 4, "lora_alpha": 12, "target_modules": ALL, "modules_to_save": variant.trained_modules} | options
    model = get_peft_model(split_qkv(create_model(variant, backbone)), LoraConfig(**settings)).eval()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.data.add_(0.1 * torch.randn_like(parameter)) if "magnitude" not in name else parameter.data.mul_(
                2
            )
    model.save_pretrained(str(folder))
    return model


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "lora_bias": {"lora_bias": True},
    "use_rslora": {"use_rslora": True},
    "lora_bias and use_rslora": {"lora_bias": True, "use_rslora": True},
    "use_dora": {"use_dora": True},
    "rank_pattern": {"rank_pattern": {r".*\.fc1": 2}},
    "alpha_pattern": {"alpha_pattern": {r".*\.0\.attn\.qkv\.q": 3}},
    "patterns and lora_bias": {"rank_pattern": {r".*\.fc1": 2}, "alpha_pattern": {"fc2": 3}, "lora_bias": True},
    "fan_in_fan_out": {"fan_in_fan_out": True},
    "exclude_modules": {"target_modules": ["q", "k", "v", "fc1"], "exclude_modules": r"blocks\.0\..*"},
    "layers_to_transform": {"target_modules": ["q", "fc2"], "layers_to_transform": [1], "layers_pattern": "blocks"},
    "bias all": {"bias": "all"},
    "bias lora_only": {"bias": "lora_only", "target_modules": ["q", "v"]},
    "modules_to_save": {"modules_to_save": ["token_type_embed", "head", "norm", "patch_embed"]},
    "convolution": {"target_modules": ["q", "proj"]},
    "fused layer": {"target_modules": r"blocks\.\d+\.mlp\.fc[12]"},
}


@torch.inference_mode()
@pytest.mark.parametrize("name", OPTIONS)
def test_an_adapter_computes_what_peft_does(golden: Path, backbone: str, tmp_path: Path, name: str) -> None:
    model = save_adapter(tmp_path / "adapter", backbone, **OPTIONS[name])
    given = inputs(np.load(golden / f"network/{CASE}.npz"))
    wanted = model(*given)
    plain = create_model(variant_of(CASE), backbone)(*given)
    assert (wanted.score_map - plain.score_map).abs().max() > 0.01
    found = load_checkpoint(tmp_path / "adapter", variant_of(CASE), backbone)(*given)
    torch.testing.assert_close(found.score_map, wanted.score_map, atol=5e-4, rtol=0)
    torch.testing.assert_close(found.boxes, wanted.boxes, atol=5e-4, rtol=0)


@pytest.mark.parametrize(
    ("option", "value"),
    [("layer_replication", [[0, 2], [1, 2]]), ("trainable_token_indices", {"token_type_embed": [0]}),
     ("target_parameters", ["pos_embed"]), ("alora_invocation_tokens", [1]), ("use_qalora", True),
     ("megatron_config", {"a": 1}), ("arrow_config", {"top_k": 1}), ("use_bdlora", {"a": 1}), ("kasa_config", {"a": 1}),
     ("an_option_of_next_year", True)],
)  # fmt: skip
def test_options_that_change_what_is_computed_are_refused(
    backbone: str, tmp_path: Path, option: str, value: object
) -> None:
    save_adapter(tmp_path, backbone)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {option: value}))
    with pytest.raises(CheckpointError, match=f"peft's option {option} cannot be applied here: merge the adapter"):
        load_checkpoint(tmp_path, variant_of(CASE), backbone)


@torch.inference_mode()
def test_a_file_of_adapters_is_read_with_the_configuration_beside_it(backbone: str, tmp_path: Path) -> None:
    save_adapter(tmp_path, backbone)
    file = tmp_path / "adapter_model.safetensors"
    assert read_weights(file).alpha == {"": 12.0}
    by_folder, by_file = (load_checkpoint(path, variant_of(CASE), backbone).state_dict() for path in (tmp_path, file))
    assert all(torch.equal(by_folder[name], by_file[name]) for name in by_folder)
    torch.save(load_file(file), tmp_path / "adapter_model.bin")
    file.unlink()
    assert read_weights(tmp_path).alpha == {"": 12.0}
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(CheckpointError, match="peft's adapters without alpha: give the folder"):
        read_weights(tmp_path / "adapter_model.bin")


def test_parts_of_an_adapter_that_are_not_known_are_refused(backbone: str, tmp_path: Path) -> None:
    save_adapter(tmp_path, backbone)
    file = tmp_path / "adapter_model.safetensors"
    layer = "base_model.model.blocks.0.mlp.fc1"
    for part in ("lora_magnitude_vector", "lora_embedding_A", "lora_new.weight"):
        save_file(load_file(file) | {f"{layer}.{part}": torch.ones(3)}, file)
        with pytest.raises(CheckpointError, match=f"fc1.{part} is no known part of an adapter"):
            load_checkpoint(tmp_path, variant_of(CASE), backbone)
        save_adapter(tmp_path, backbone)


@pytest.mark.parametrize("option", ["lora_bias", "bias all"])
@pytest.mark.parametrize("target", ["peft", "official"])
def test_biases_are_not_lost_by_a_layout_without_names_for_them(
    backbone: str, tmp_path: Path, option: str, target: Any
) -> None:
    save_adapter(tmp_path / "adapter", backbone, **OPTIONS[option])
    register_variant(variant_of(CASE))
    with pytest.raises(CheckpointError, match=f"for which '{target}' has no name: write it as merged"):
        convert(tmp_path / "adapter", tmp_path / "out", variant_of(CASE).name, backbone, target)
    assert not (tmp_path / "out").exists()


def test_biases_of_adapters_in_training_are_merged(golden: Path, backbone: str) -> None:
    from peft import LoraConfig

    from lorat_plugin.checkpoints.adapters import inject

    variant = variant_of(CASE)
    config = LoraConfig(r=variant.lora_rank, lora_alpha=variant.lora_alpha, target_modules=ALL, lora_bias=True)
    network = inject(create_model(variant, backbone), "normal", config).eval()
    given = inputs(np.load(golden / f"network/{CASE}.npz"))
    with torch.inference_mode():
        torch.testing.assert_close(merge(network)(*given).score_map, network(*given).score_map, atol=1e-4, rtol=1e-4)
