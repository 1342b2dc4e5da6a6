"""Weights files of every layout: recognised, put together, written back, refused."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lorat_plugin import create_model, load_checkpoint, register_variant, save_checkpoint
from lorat_plugin.checkpoints.adapters import inject, split_qkv
from lorat_plugin.checkpoints.loading import backbone_tensors, infer_variant, read_weights
from lorat_plugin.checkpoints.saving import convert
from lorat_plugin.errors import CheckpointError, InputError
from lorat_plugin.models import load_pretrained
from lorat_plugin.network import LoRATNetwork
from lorat_plugin.settings import TrackerSettings
from lorat_plugin.tracker import LoRATTracker
from tests.helpers.small_variants import CASES, variant_of
from tests.test_network import assert_equal, inputs


@pytest.fixture
def folder(golden):
    return golden / "network"


def reference(golden, case):
    return np.load(golden / f"network/{case}.npz")


@torch.inference_mode()
@pytest.mark.parametrize("case", [c for c in CASES if "224" in c])
def test_merged_file_gives_the_reference(golden, folder, case):
    weights = read_weights(folder / f"{case}.merged.safetensors")
    assert weights.layout == "LoRAT merged"
    network = load_checkpoint(folder / f"{case}.merged.safetensors", variant_of(case))
    data = reference(golden, case)
    assert_equal(network(*inputs(data)), data, "_merged")


@torch.inference_mode()
@pytest.mark.parametrize("case", CASES)
def test_adapters_without_alpha_mean_scaling_1_and_with_it_the_true_one(golden, folder, case, tmp_path):
    data, variant = reference(golden, case), variant_of(case)
    adapters, backbone = folder / f"{case}.adapters.safetensors", folder / f"{case}.backbone_meta.safetensors"
    assert read_weights(adapters).layout == "LoRAT adapters (official)"
    network = load_checkpoint(adapters, variant, backbone)
    if "score_map_merged_from_adapters_no_meta" in data:
        assert_equal(network(*inputs(data)), data, "_merged_from_adapters_no_meta")
    tensors = load_file(adapters) | {
        "lora_alpha": torch.tensor(variant.lora_alpha), "use_rslora": torch.tensor(variant.rslora)
    }  # fmt: skip
    save_file(tensors, tmp_path / "with_alpha.bin")  # the published files are safetensors named .bin
    assert_equal(load_checkpoint(tmp_path / "with_alpha.bin", variant, backbone)(*inputs(data)), data)


@torch.inference_mode()
def test_alpha_may_stand_in_each_layer(golden, folder, tmp_path):
    case = "swiglu_224_rslora"
    data, variant = reference(golden, case), variant_of(case)
    tensors = load_file(folder / f"{case}.adapters.safetensors")
    for name in [n for n in tensors if n.endswith(".lora.A")]:
        tensors[name[:-1] + "alpha"] = torch.tensor(variant.lora_alpha)
        tensors[name[:-1] + "use_rslora"] = torch.tensor(True)
    save_file(tensors, tmp_path / "a.safetensors")
    network = load_checkpoint(tmp_path / "a.safetensors", variant, folder / f"{case}.backbone_meta.safetensors")
    assert_equal(network(*inputs(data)), data)


@torch.inference_mode()
@pytest.mark.parametrize("wrap", ["module.", "_orig_mod.", "module._orig_mod.", "ema.module.", "model."])
def test_prefixes_and_containers_of_torch_files_are_understood(golden, folder, tmp_path, wrap):
    case = "mlp_224_lora"
    state = {wrap + n: t for n, t in load_file(folder / f"{case}.full.safetensors").items()}
    state["n_averaged"] = torch.tensor(3)
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "checkpoint.pth")
    data = reference(golden, case)
    assert_equal(load_checkpoint(tmp_path / "checkpoint.pth", variant_of(case))(*inputs(data)), data)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("target", ["peft", "official", "official-full", "merged"])
def test_every_layout_survives_a_round_trip(golden, folder, tmp_path, case, target):
    """full -> target -> merged equals full -> merged."""
    register_variant(variant_of(case))
    backbone = str(folder / f"{case}.backbone_meta.safetensors")
    out = tmp_path / ("adapters" if target == "peft" else "out.safetensors")
    weights, variant, written = convert(folder / f"{case}.full.safetensors", out, model=case, target=target)
    assert (weights.layout, variant.name, written) == ("LoRAT full (official)", case, target)
    assert infer_variant(read_weights(out)).name == case  # from metadata
    data = reference(golden, case)
    assert_equal(load_checkpoint(out, None, backbone)(*inputs(data)), data)
    if target == "official":
        ours, theirs = load_file(out), load_file(folder / f"{case}.adapters.safetensors")
        assert set(ours) - {"lora_alpha", "use_rslora"} == set(theirs)
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    if target == "official-full":
        ours, theirs = load_file(out), load_file(folder / f"{case}.full.safetensors")
        assert set(theirs) - {"lora_alpha", "use_rslora"} == set(ours) - {"lora_alpha", "use_rslora"}
        assert all(torch.equal(ours[name], theirs[name]) for name in ours if name in theirs)


@pytest.mark.parametrize("letter", ["B", "L", "g"])
def test_names_and_shapes_equal_the_official_ones(golden, letter):
    """All tensors of the big variants, in three layouts, without their memory."""
    from lorat_plugin.checkpoints.adapters import network_tensors
    from lorat_plugin.checkpoints.layouts import to_official

    keys = json.loads((golden / "network/checkpoint_keys.json").read_text())[f"{letter}-224"]
    with torch.device("meta"):
        plain, adapted = create_model(f"lorat_{letter}_224"), create_model(f"lorat_{letter}_224", lora=True)
    swiglu = letter == "g"
    merged = to_official(network_tensors(plain), swiglu)
    full = to_official(network_tensors(adapted), swiglu, full=True)
    trained = {n for n, p in adapted.named_parameters() if p.requires_grad}
    adapters = to_official(
        {
            n: t
            for n, t in network_tensors(adapted).items()
            if n.replace(".weight", ".default.weight") in trained or n in trained
        },
        swiglu,
    )
    for ours, layout in ((merged, "merged_inference"), (full, "full_lora"), (adapters, "adapters")):
        shapes = {n: list(t.shape) for n, t in ours.items()}
        assert shapes == {n: s for n, s in keys[layout].items() if n not in ("lora_alpha", "use_rslora")}, layout


def test_peft_itself_reads_our_adapter_folder(golden, folder, tmp_path):
    from peft import PeftModel

    case = "mlp_224_lora"
    variant, data = variant_of(case), reference(golden, case)
    register_variant(variant)
    convert(folder / f"{case}.full.safetensors", tmp_path / "adapters", model=case)
    base = split_qkv(create_model(variant, backbone=str(folder / f"{case}.backbone_meta.safetensors")))
    model = PeftModel.from_pretrained(base, str(tmp_path / "adapters")).eval()
    with torch.inference_mode():
        assert_equal(model(*inputs(data)), data)


@torch.inference_mode()
def test_a_network_in_training_is_saved_in_each_layout(tmp_path, folder):
    case = "mlp_378_rslora"
    variant, backbone = variant_of(case), str(folder / f"{case}.backbone_meta.safetensors")
    register_variant(variant)
    network = create_model(variant, backbone=backbone, lora=True).eval()
    z, x = torch.randn(1, 3, 196, 196), torch.randn(1, 3, 378, 378)
    mask = torch.zeros(1, 14, 14, dtype=torch.long)
    before = network(z, x, mask)
    for target, name in (("merged", "m.safetensors"), ("peft", "p"), ("official", "o.safetensors")):
        save_checkpoint(network, tmp_path / name, target, metadata={"recipe": "test"})
        after = load_checkpoint(tmp_path / name, backbone=backbone)(z, x, mask)
        assert (after.score_map - before.score_map).abs().max() < 1e-5
    with safe_open(tmp_path / "m.safetensors", "pt") as stream:
        metadata = stream.metadata()
    assert metadata["variant"] == case and metadata["recipe"] == "test" and metadata["version_torch"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.safetensors", "o.safetensors", "p"]  # no temporary left


def test_timm_and_meta_layouts_give_the_same_backbone(tmp_path, folder):
    meta = backbone_tensors(
        variant_of("swiglu_224_rslora"), str(folder / "swiglu_224_rslora.backbone_meta.safetensors")
    )
    raw = load_file(folder / "swiglu_224_rslora.backbone_meta.safetensors")
    raw.pop("mask_token")
    save_file({n.replace("w12", "fc1").replace("w3", "fc2"): t for n, t in raw.items()}, tmp_path / "timm.safetensors")
    timm_file = backbone_tensors(variant_of("swiglu_224_rslora"), str(tmp_path / "timm.safetensors"))
    assert read_weights(tmp_path / "timm.safetensors").layout == "DINOv2 (timm)"
    assert meta.keys() == timm_file.keys() and all(torch.equal(meta[n], timm_file[n]) for n in meta)


def test_half_precision_and_fewer_blocks(tmp_path, tiny_network):
    path = save_checkpoint(tiny_network, tmp_path / "half.safetensors", dtype=torch.float16)
    network = load_checkpoint(path)
    assert network.variant.name == "lorat_tiny" and network.pos_embed.dtype == torch.float32
    assert (network.pos_embed - tiny_network.pos_embed).abs().max() < 1e-4


def test_a_model_may_be_a_path(tiny_weights):
    assert load_pretrained(tiny_weights).variant.name == load_pretrained(str(tiny_weights)).variant.name == "lorat_tiny"


def test_variant_is_inferred_from_shapes(tmp_path, tiny_weights):
    save_file(load_file(tiny_weights), tmp_path / "bare.safetensors")  # without metadata
    assert infer_variant(read_weights(tmp_path / "bare.safetensors")).name == "lorat_tiny"
    with torch.device("meta"):
        shapes = {n: t.shape for n, t in create_model("lorat_b_224").state_dict().items()}
    weights = replace(read_weights(tiny_weights), metadata={})
    big = replace(weights, tensors={n: torch.empty(s, device="meta") for n, s in shapes.items()})
    assert infer_variant(big).name == "lorat_b_224"
    big.tensors.pop("pos_embed")
    with pytest.raises(CheckpointError, match=r"several variants.*--model: lorat_b_224, lorat_b_378"):
        infer_variant(big)


# --- refused ---------------------------------------------------------------------------------------------------------


def refuse(path, match, **options):
    with pytest.raises(CheckpointError, match=match):
        load_checkpoint(path, **options)


def test_missing_empty_and_html_files_are_refused(tmp_path):
    refuse(tmp_path / "none.safetensors", "not found: give an existing file")
    (tmp_path / "empty.bin").touch()
    refuse(tmp_path / "empty.bin", "empty.bin: the file is empty")
    (tmp_path / "page.bin").write_text("<!DOCTYPE html><html>quota exceeded</html>")
    refuse(tmp_path / "page.bin", "an HTML page")
    (tmp_path / "noise.bin").write_bytes(os.urandom(4000))
    refuse(tmp_path / "noise.bin", "noise.bin: ")
    (tmp_path / "noise.pth").write_bytes(bytes(range(1, 200)) * 20)
    refuse(tmp_path / "noise.pth", "noise.pth: ")
    refuse(tmp_path, "holds no .safetensors file")


def test_truncated_files_are_refused(tmp_path, tiny_weights):
    content = tiny_weights.read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[: len(content) // 2])
    refuse(tmp_path / "cut.safetensors", "cut short or damaged")
    torch.save({"a": torch.zeros(1000)}, tmp_path / "whole.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:1500])
    refuse(tmp_path / "cut.pth", "cut.pth: ")


class Evil:
    """Unpickling it would write a file."""

    def __reduce__(self):
        return (open, ("pwned.txt", "w"))


def test_a_pickle_that_needs_code_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Evil()}, "evil.pth")
    refuse(tmp_path / "evil.pth", "a pickle that needs code")
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Evil()))
    refuse(tmp_path / "evil.pkl", "evil.pkl: ")
    assert not (tmp_path / "pwned.txt").exists()


def test_wrong_variants_backbones_and_foreign_files_are_refused(tmp_path, tiny_weights, folder):
    refuse(tiny_weights, "tensors do not fit lorat_s_224", variant="lorat_s_224")
    case = "mlp_224_lora"
    refuse(
        folder / f"{case}.full.safetensors", "pos_embed is .*wanted", variant=replace(variant_of(case), search_size=378)
    )
    refuse(folder / f"{case}.backbone_meta.safetensors", "a DINOv2 .Meta. backbone without", variant=variant_of(case))
    other = folder / "swiglu_224_rslora.backbone_meta.safetensors"
    refuse(folder / f"{case}.adapters.safetensors", "do not fit", variant=variant_of(case), backbone=other)
    refuse(
        folder / f"{case}.adapters.safetensors",
        "not a DINOv2 backbone",
        variant=variant_of(case),
        backbone=tiny_weights,
    )
    save_file({"fc.weight": torch.zeros(3)}, tmp_path / "resnet.safetensors")
    refuse(tmp_path / "resnet.safetensors", "neither LoRAT nor DINOv2 weights .it holds fc.weight")
    torch.save(torch.zeros(3), tmp_path / "tensor.pth")
    refuse(tmp_path / "tensor.pth", "holds a Tensor")
    with pytest.raises(CheckpointError, match="only be written as merged"):
        convert(tiny_weights, tmp_path / "adapters")
    assert not (tmp_path / "adapters").exists()


@pytest.mark.parametrize("target", ["peft", "official", "official-full", "merged"])
def test_adapters_are_written_only_under_a_variant_that_they_fit(tmp_path, folder, target):
    source, case = folder / "mlp_224_lora.adapters.safetensors", "swiglu_224_rslora"
    register_variant(variant_of(case))
    with pytest.raises(CheckpointError, match=f"do not fit|tensors do not fit {case}"):
        convert(source, tmp_path / "out", model=case, target=target)
    assert not list(tmp_path.iterdir())


def test_incomplete_adapters_are_refused(tmp_path, folder):
    case = "mlp_224_lora"
    register_variant(variant_of(case))
    whole = load_file(folder / f"{case}.adapters.safetensors")
    for left_out, match in (("head.", "holds no head.cls_mlp"), (".lora.B", "do not fit")):
        save_file({n: t for n, t in whole.items() if left_out not in n}, tmp_path / "part.safetensors")
        with pytest.raises(CheckpointError, match=match):
            convert(tmp_path / "part.safetensors", tmp_path / "out", model=case)


@torch.inference_mode()
def test_float32_adapters_on_a_half_precision_backbone_keep_their_precision(tmp_path, folder):
    case = "mlp_224_lora"
    half = {n: t.half() for n, t in load_file(folder / f"{case}.backbone_meta.safetensors").items()}
    save_file(half, tmp_path / "half.safetensors")
    save_file({n: t.float() for n, t in half.items()}, tmp_path / "full.safetensors")
    z, x, mask = torch.randn(1, 3, 112, 112), torch.randn(1, 3, 224, 224), torch.zeros(1, 8, 8, dtype=torch.long)
    maps = [
        load_checkpoint(folder / f"{case}.adapters.safetensors", variant_of(case), tmp_path / name)(
            z, x, mask
        ).score_map
        for name in ("half.safetensors", "full.safetensors")
    ]
    assert (maps[0] - maps[1]).abs().max() < 1e-5


def test_models_without_weights_say_what_to_give():
    with pytest.raises(CheckpointError, match="lorat_b_224 has no bundled weights"):
        load_pretrained("lorat_b_224")
    with pytest.raises(InputError, match="unknown model 'lorat_q'"):
        load_pretrained("lorat_q")
    with pytest.raises(CheckpointError, match="weights '' not found"):  # of a shell's variable that is not set
        load_pretrained("lorat_tiny", "")
    with pytest.raises(InputError, match=r"--weights \(empty\) does not exist"):
        TrackerSettings(weights="").absolute()


def test_options_of_another_type_get_a_sentence():
    for options, says in (({"device": None}, "device 'None' cannot be"), ({"absent_below": "0.5"}, "is '0.5': give")):
        with pytest.raises(InputError, match=says):
            LoRATTracker.from_pretrained(**options)


def test_hub_ids_come_from_the_offline_cache_with_their_checksum(tmp_path, tiny_weights, monkeypatch):
    """A cache laid out as huggingface_hub lays it out; the blob's name is its SHA-256."""
    import hashlib

    repo = tmp_path / "models--someone--lorat"
    digest = hashlib.sha256(tiny_weights.read_bytes()).hexdigest()
    revision = "a" * 40
    (repo / "blobs").mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "snapshots" / revision).mkdir(parents=True)
    (repo / "refs/main").write_text(revision)
    (repo / "blobs" / digest).write_bytes(tiny_weights.read_bytes())
    (repo / "snapshots" / revision / "model.safetensors").symlink_to(repo / "blobs" / digest)
    code = """from lorat_plugin.models import load_pretrained
print(load_pretrained('someone/lorat').variant.name)"""
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "lorat_tiny", done.stderr
    damaged = bytearray(tiny_weights.read_bytes())
    damaged[-1] ^= 1
    (repo / "blobs" / digest).write_bytes(damaged)
    done = subprocess.run(run, capture_output=True, text=True, env=environment)
    assert "SHA-256 is not the hub's" in done.stderr
    done = subprocess.run(
        [*run[:2], code.replace("someone", "nobody")], capture_output=True, text=True, env=environment
    )
    assert "could not be had from the hub" in done.stderr


def test_peft_start_equals_the_base_network(folder):
    """With B = 0 the network in training equals its base at step 0."""
    variant = replace(variant_of("mlp_224_lora"), train_norm=True)
    torch.manual_seed(0)
    base = LoRATNetwork(variant).eval()
    z, x, mask = torch.randn(1, 3, 112, 112), torch.randn(1, 3, 224, 224), torch.zeros(1, 8, 8, dtype=torch.long)
    with torch.inference_mode():
        before = base(z, x, mask)
        after = inject(base).eval()(z, x, mask)
    assert (before.score_map - after.score_map).abs().max() < 1e-6
