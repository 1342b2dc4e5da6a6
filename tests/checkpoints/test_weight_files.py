"""Weights in shards: read through their index, or refused with a sentence that names what is missing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lorat_plugin import load_checkpoint
from lorat_plugin.checkpoints.loading import read_weights
from lorat_plugin.errors import CheckpointError
from lorat_plugin.models import load_pretrained

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def whole(tiny_weights: Path) -> dict[str, torch.Tensor]:
    return load_file(tiny_weights)


@pytest.fixture(scope="module")
def made(whole: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A merged file in two shards."""
    folder = tmp_path_factory.mktemp("shards")
    names = sorted(whole)
    halves = {FIRST: names[: len(names) // 2], SECOND: names[len(names) // 2 :]}
    for file, half in halves.items():
        save_file({name: whole[name] for name in half}, folder / file)
    index = {"metadata": {}, "weight_map": {name: file for file, half in halves.items() for name in half}}
    (folder / INDEX).write_text(json.dumps(index))
    return folder


@pytest.fixture
def shards(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "shards"))


@pytest.mark.parametrize("given", ["", INDEX])
def test_shards_give_the_same_network_as_one_file(made: Path, tiny_weights: Path, given: str) -> None:
    network = load_pretrained(str(made / given))
    assert network.variant.name == "lorat_tiny"
    found, wanted = network.state_dict(), load_checkpoint(tiny_weights).state_dict()
    assert found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_shards_of_torch_files_are_read_too(shards: Path) -> None:
    for file in (FIRST, SECOND):
        torch.save(load_file(shards / file), shards / file.replace(".safetensors", ".bin"))
        (shards / file).unlink()
    index = (shards / INDEX).read_text().replace(".safetensors", ".bin")
    (shards / INDEX).unlink()
    (shards / "pytorch_model.bin.index.json").write_text(index)
    assert read_weights(shards).layout == "LoRAT merged"


def refuse(source: Path, match: str) -> None:
    with pytest.raises(CheckpointError, match=match):
        load_checkpoint(source)


def test_a_missing_shard_is_named(shards: Path) -> None:
    (shards / SECOND).unlink()
    refuse(shards, f"{SECOND}: this shard is missing, 1 of 2 are: copy or download them beside the index")


def test_a_shard_without_its_index_or_alone_is_refused(shards: Path) -> None:
    refuse(shards / FIRST, f"one shard of several: give their folder, or {INDEX}")
    (shards / INDEX).unlink()
    refuse(shards, f"holds several files .{FIRST}, {SECOND} .* no .*index.json that joins them")


def test_a_shard_that_lacks_a_tensor_is_named(shards: Path) -> None:
    tensors = load_file(shards / SECOND)
    name = sorted(tensors)[0]
    save_file({n: t for n, t in tensors.items() if n != name}, shards / SECOND)
    refuse(shards, f"{SECOND}: holds no {name}, which {INDEX} expects there")


@pytest.mark.parametrize(
    "index", ["{", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 3}}', '{"weight_map": {"a": "../b"}}',
              '{"weight_map": {"a": "..\\\\b"}}', '{"weight_map": {"a": "/etc/passwd"}}', '{"weight_map": {}}'],
)  # fmt: skip
def test_a_damaged_index_is_refused_and_leads_to_no_other_folder(tmp_path: Path, index: str) -> None:
    (tmp_path / INDEX).write_text(index)
    refuse(tmp_path, "not an index of shards")


def test_of_several_files_in_a_folder_none_is_chosen_silently(tiny_weights: Path, tmp_path: Path) -> None:
    for name in ("a.safetensors", "b.safetensors"):
        shutil.copy(tiny_weights, tmp_path / name)
    refuse(tmp_path, "holds several files .a.safetensors, b.safetensors .*: name the weights file")
