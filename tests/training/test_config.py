"""Recipes: what is read, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorat_plugin.errors import InputError
from lorat_plugin.training.config import TrainConfig, load_config, recipe_names


def test_bundled_recipes_load() -> None:
    assert {"tiny", "smoke"} <= set(recipe_names())
    for name in recipe_names():
        assert load_config(name).variant == "lorat_tiny"


def test_overrides_are_typed_and_none_means_unchanged() -> None:
    config = load_config("tiny", {"steps": "7", "lr": "1e-3", "seed": None, "exclude": "a_"})
    assert (config.steps, config.lr, config.seed, config.exclude) == (7, 1e-3, TrainConfig().seed, ("a_",))


def test_saved_config_is_a_recipe(tmp_path: Path) -> None:
    config = load_config("tiny", {"steps": 9})
    config.save(tmp_path / "config.yaml")
    assert load_config(str(tmp_path / "config.yaml")) == config


@pytest.mark.parametrize(
    ("recipe", "overrides", "words"),
    [
        ("nonsense", {}, "unknown recipe 'nonsense'"),
        ("absent.yaml", {}, "absent.yaml is no file"),
        ("tiny", {"stepz": 3}, "unknown setting 'stepz'"),
        ("tiny", {"steps": "many"}, "steps must be int"),
        ("tiny", {"steps": 2.5}, "steps must be int"),
        ("tiny", {"steps": 0}, "steps must be above 0"),
        ("tiny", {"weight_decay": -1}, "weight_decay must be at least 0"),
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
