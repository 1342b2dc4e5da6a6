"""Folders as the hub keeps them, pushed to and read from a stand-in of the hub by the hub's own client."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard

from lorat_plugin import LoRATTracker, create_model, load_checkpoint, save_checkpoint, save_pretrained
from lorat_plugin.checkpoints.adapters import inject
from lorat_plugin.checkpoints.loading import read_weights
from lorat_plugin.checkpoints.saving import weights_digest
from lorat_plugin.cli.main import run
from lorat_plugin.errors import CheckpointError, InputError
from lorat_plugin.evaluation.registry import open_benchmark
from lorat_plugin.evaluation.results import result_files
from lorat_plugin.evaluation.scoring import score_tracker
from lorat_plugin.evaluation.tables import write_tables
from lorat_plugin.models import load_pretrained
from lorat_plugin.network import LoRATNetwork
from lorat_plugin.variants import Variant
from tests.helpers.hub_server import TOKEN, Hub, running_hub
from tests.helpers.sequences import write_clip

VARIANT = Variant(
    "my_tracker", "vit_small_patch14_dinov2", dim=16, depth=1, heads=2, ffn="mlp", ffn_dim=32, template_size=28,
    search_size=42, search_area_factor=4.0, lora_rank=2, lora_alpha=2.0,
)  # fmt: skip


@pytest.fixture
def network() -> LoRATNetwork:
    torch.manual_seed(0)
    return create_model(VARIANT, backbone="random")


@pytest.fixture
def scores(tmp_path: Path) -> Path:
    """What lorat evaluate writes for results that are the truth moved by a pixel."""
    write_clip(tmp_path / "clips" / "one")
    benchmark = open_benchmark("clips", tmp_path / "clips")
    files = result_files(benchmark, tmp_path / "results", "LoRAT")
    files.write("one", [benchmark.sequences[0].boxes + np.array([1, 0, 0, 0])], np.full((6, 1), 0.01))
    write_tables([score_tracker(benchmark, files)], tmp_path / "notes")
    return tmp_path / "notes" / "scores.json"


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with running_hub() as hub:
        yield hub


def client(hub: Hub, cache: Path, code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a program whose hub is the stand-in: the client reads its variables once, when it is imported."""
    settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(cache), "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", **settings, **variables}
    environment.pop("HF_HUB_CACHE", None)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)


def test_a_folder_is_read_back(network: LoRATNetwork, tmp_path: Path) -> None:
    folder = save_pretrained(network, tmp_path / "mine")
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LoRAT"] and Variant(**config["variant"]) == VARIANT
    assert weights_digest(load_pretrained(str(folder))) == weights_digest(network)
    tracker = LoRATTracker.from_pretrained(str(folder), device="cpu")
    tracker.init(np.zeros((60, 80, 3), np.uint8), [10, 10, 20, 20])
    assert tracker.update(np.zeros((60, 80, 3), np.uint8)).box.shape == (4,)


def test_config_names_the_variant_where_the_header_does_not(network: LoRATNetwork, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = save_pretrained(network, tmp_path / "mine")
    save_file(load_file(folder / "model.safetensors"), folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"SHA-256 is not the one in config\.json"):
        load_checkpoint(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"sha256": {}}))
    assert load_checkpoint(folder).variant == VARIANT
    (folder / "config.json").write_text(json.dumps({"model_type": "lorat", "sha256": 3}))
    with pytest.raises(CheckpointError, match="not a configuration of LoRAT"):
        load_checkpoint(folder)
    (folder / "config.json").write_text(json.dumps({"architecture": "vit_small"}))  # timm's
    with pytest.raises(CheckpointError, match="no variants have its sizes"):
        load_checkpoint(folder)


def test_a_card_has_the_measured_table(network: LoRATNetwork, scores: Path, tmp_path: Path) -> None:
    folder = save_pretrained(network, tmp_path / "mine", scores=[scores], licence="apache-2.0")
    card = ModelCard.load(folder / "README.md")
    (row,) = json.loads(scores.read_text())
    found = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert found["auc"] == round(row["auc"], 4) and "ao" not in found
    assert card.data.license == "apache-2.0" and card.data.base_model == "timm/vit_small_patch14_dinov2.lvd142m"
    assert f"| LoRAT | 6 | {row['auc']:.3f} |" in card.content
    plain = ModelCard.load(save_pretrained(network, tmp_path / "plain") / "README.md")
    assert plain.data.eval_results is None and "Measured" not in plain.content
    with pytest.raises(InputError, match=r"no scores\.json of lorat evaluate"):
        save_pretrained(network, tmp_path / "other", scores=[folder / "config.json"])
    assert not (tmp_path / "other").exists()


def test_other_folders_are_left_alone(network: LoRATNetwork, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"holds other files, such as thesis\.tex"):
        save_pretrained(network, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_adapters_are_peft_s_folder_with_a_card(network: LoRATNetwork, tmp_path: Path) -> None:
    from peft import PeftConfig

    adapted = inject(network)
    folder = save_pretrained(adapted, tmp_path / "adapters", adapters_only=True)
    names = ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    assert sorted(p.name for p in folder.iterdir()) == names
    assert PeftConfig.from_pretrained(str(folder)).r == 2
    assert read_weights(folder).layout == "LoRAT adapters (peft)"
    assert ModelCard.load(folder / "README.md").data.library_name == "peft"
    with pytest.raises(CheckpointError):
        save_pretrained(create_model(VARIANT, backbone="random"), tmp_path / "none", adapters_only=True)


def test_the_command_line_writes_the_folder(network: LoRATNetwork, scores: Path, tmp_path: Path) -> None:
    source = save_checkpoint(network, tmp_path / "a.safetensors", metadata={"training": "kept"})
    command = ["convert", str(source), str(tmp_path / "mine"), "--to", "hub", "--scores", str(scores)]
    assert run(command) == 0
    assert read_weights(tmp_path / "mine").metadata["training"] == "kept"
    assert run([*command, "--force"]) == 0
    assert run(["convert", str(source), str(tmp_path / "b"), "--to", "hub", "--scores", str(source)]) == 2
    assert not (tmp_path / "b").exists()


@pytest.mark.slow
def test_pushed_pinned_read_and_kept_for_offline_use(network: LoRATNetwork, hub: Hub, tmp_path: Path) -> None:
    first = save_pretrained(network, tmp_path / "first")
    torch.manual_seed(1)
    second = save_pretrained(create_model(VARIANT, backbone="random"), tmp_path / "second")
    push = (
        "from lorat_plugin import push_to_hub\n"
        f"print(push_to_hub({str(first)!r}, 'someone/mine'))\n"
        f"print(push_to_hub({str(second)!r}, 'someone/mine'))\n"
        f"print(push_to_hub({str(first)!r}, 'someone/mine', revision='trial'))"
    )
    told = client(hub, tmp_path / "home", push)
    pinned, latest, trial = told.stdout.split()
    assert hub.branches["someone/mine"] == {"main": latest, "trial": trial} and pinned not in (latest, trial)
    old, new = (weights_digest(load_checkpoint(folder)) for folder in (first, second))

    read = (
        "from lorat_plugin.models import load_pretrained\n"
        "from lorat_plugin.checkpoints.saving import weights_digest\n"
        f"for model, revision in (('', None), ('', {pinned!r}), ('@{pinned}', None), ('', 'trial')):\n"
        "    print(weights_digest(load_pretrained('someone/mine' + model, revision=revision)))"
    )
    assert client(hub, tmp_path / "cache", read).stdout.split() == [new, old, old, old]
    asked = len(hub.asked)
    assert client(hub, tmp_path / "cache", read, HF_HUB_OFFLINE="1").stdout.split() == [new, old, old, old]
    assert len(hub.asked) == asked
    done = client(hub, tmp_path / "cache", read.replace("'trial'", "'no-such-branch'"))
    assert "someone/mine@no-such-branch' is no file here and could not be had from the hub" in done.stderr


@pytest.mark.slow
def test_adapters_take_the_place_of_merged_weights(network: LoRATNetwork, hub: Hub, tmp_path: Path) -> None:
    merged = save_pretrained(network, tmp_path / "merged")
    adapters = save_pretrained(inject(network), tmp_path / "adapters", adapters_only=True)
    code = (
        f"from lorat_plugin import push_to_hub\nfor folder in ({str(merged)!r}, {str(adapters)!r}):\n"
        "    push_to_hub(folder, 'someone/both')\n"
        "from lorat_plugin.checkpoints.loading import read_weights; print(read_weights('someone/both').layout)"
    )
    assert client(hub, tmp_path / "home", code).stdout.strip() == "LoRAT adapters (peft)"
    files = hub.commits[hub.branches["someone/both"]["main"]]
    assert "adapter_model.safetensors" in files and "model.safetensors" not in files and "config.json" not in files


@pytest.mark.slow
def test_a_damaged_download_and_a_refused_token_get_a_sentence(network: LoRATNetwork, hub: Hub, tmp_path: Path) -> None:
    folder = save_pretrained(network, tmp_path / "mine")
    code = f"from lorat_plugin import push_to_hub; push_to_hub({str(folder)!r}, 'someone/damaged')"
    refused = client(hub, tmp_path / "home", code, HF_TOKEN="hf_wrong")
    assert "InputError: 'someone/damaged' could not be pushed to the hub" in refused.stderr
    assert client(hub, tmp_path / "home", code).returncode == 0
    weights = hub.commits[hub.branches["someone/damaged"]["main"]]
    weights["model.safetensors"] = weights["model.safetensors"][:-1] + b"\x01"
    load = "from lorat_plugin.models import load_pretrained; load_pretrained('someone/damaged')"
    assert "its SHA-256 is not the one in config.json" in client(hub, tmp_path / "home", load).stderr
    with pytest.raises(InputError, match="holds no weights"):
        from lorat_plugin import push_to_hub

        push_to_hub(tmp_path / "empty", "someone/none")


def test_revisions_are_of_hub_ids(tmp_path: Path) -> None:
    for model in ("lorat_tiny", str(tmp_path)):
        with pytest.raises(CheckpointError, match="is no hub id"):
            LoRATTracker.from_pretrained(model, revision="main")
