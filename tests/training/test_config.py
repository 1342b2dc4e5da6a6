"""Recipes: what is read, what is refused."""

from __future__ import annotations

import json
from dataclasses import fields
from importlib import resources
from pathlib import Path

import pytest
import yaml

from lorat_plugin.errors import InputError
from lorat_plugin.training.config import TrainConfig, load_config, recipe_names


def test_bundled_recipes_load() -> None:
    second = [f"paper2_p{phase}{data}" for phase in (1, 2) for data in ("", "_got10k")]
    assert recipe_names() == ["got10k", "paper", *second, "smoke", "tiny"]
    for name in recipe_names():
        second = {"paper2_p1": "lorat2_b_224", "paper2_p2": "lorat2_b_378"}.get(
            name.removesuffix("_got10k"), "lorat_b_224"
        )
        assert load_config(name).variant == ("lorat_tiny" if name in ("smoke", "tiny") else second)


def test_the_paper_s_recipe_writes_out_every_setting() -> None:
    text = (resources.files("lorat_plugin.training") / "recipes" / "paper.yaml").read_text()
    assert list(yaml.safe_load(text)) == [field.name for field in fields(TrainConfig)]
    paper, got10k = load_config("paper"), load_config("got10k")
    changed = {f.name for f in fields(TrainConfig) if getattr(paper, f.name) != getattr(TrainConfig(), f.name)}
    assert changed == {
        "datasets", "workers", "log_every", "checkpoint_every", "validate_every",
        "validation_pairs", "validation_datasets",
    }  # fmt: skip
    changed = {f.name for f in fields(TrainConfig) if getattr(paper, f.name) != getattr(got10k, f.name)}
    assert changed == {"datasets", "protocol", "steps"}
    assert paper.steps * paper.batch_size == 170 * paper.epoch_size
    assert got10k.steps * got10k.batch_size == 100 * got10k.epoch_size


def test_overrides_are_typed_and_none_means_unchanged() -> None:
    config = load_config("tiny", {"steps": "7", "lr": "1e-3", "seed": None, "exclude": "a_"})
    assert (config.steps, config.lr, config.seed, config.exclude) == (7, 1e-3, TrainConfig().seed, ("a_",))


def test_the_former_name_of_a_setting_is_read(tmp_path: Path) -> None:
    path = tmp_path / "former.yaml"
    path.write_text("trackers: [wandb]")
    assert load_config(str(path)).loggers == ("wandb",)


def test_saved_config_is_a_recipe(tmp_path: Path) -> None:
    config = load_config("tiny", {"steps": 9})
    config.save(tmp_path / "config.yaml")
    assert load_config(str(tmp_path / "config.yaml")) == config


@pytest.mark.parametrize(
    ("recipe", "overrides", "words"),
    [
        ("nonsense", {}, "unknown recipe 'nonsense'"),
        ("absent.yaml", {}, "absent.yaml is no file"),
        ("tiny", {"stepz": 3}, "unknown setting 'stepz'; known are absent_share, adapter, "),
        ("tiny", {"steps": "many"}, "steps must be int"),
        ("tiny", {"steps": 2.5}, "steps must be int"),
        ("tiny", {"steps": 0}, "steps must be above 0"),
        ("tiny", {"compile": "maybe"}, "compile must be true or false; got 'maybe'"),
        ("tiny", {"lr": "nan"}, "lr must be float"),
        ("tiny", {"datasets": 5}, "datasets must be a list"),
        ("tiny", {"precision": "fp8"}, "precision must be one of 'auto', 'fp32', 'bf16', 'fp16'; got 'fp8'"),
        ("tiny", {"weight_decay": -1}, "weight_decay must be at least 0"),
        ("tiny", {"flip_chance": 50}, "flip_chance must be at most 1; got 50"),
        ("tiny", {"dataset_share": 1.5}, "dataset_share must be at most 1; got 1.5"),
        ("tiny", {"seed": 2**64}, "seed must be below"),
        ("tiny", {"got10k_list": "list.txt"}, "got10k_list is for datasets, of which the run has none"),
        ("tiny", {"clip_labels": "more"}, "clip_labels is for clips, of which the run has none"),
        ("tiny", {"object_weight": 0, "patch_weight": 0, "clip_weight": 0}, "one source of pairs"),
    ],
)
def test_bad_settings_are_refused_by_name(recipe: str, overrides: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        load_config(recipe, overrides)


def test_broken_yaml_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("steps: [1")
    with pytest.raises(InputError, match="no valid YAML"):
        load_config(str(path))


def test_weights_of_others_tell_no_local_folders() -> None:
    config = load_config("smoke", {"datasets": ["clips:/home/me/own", "lasot"], "init_from": "/home/me/run"})
    portable = config.portable()
    assert "/home" not in portable
    assert json.loads(portable)["datasets"] == ["clips:own", "lasot"]
