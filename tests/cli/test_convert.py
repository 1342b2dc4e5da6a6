"""`lorat convert`: between layouts, with what it says."""

from __future__ import annotations

from safetensors import safe_open

from lorat_plugin import create_model, load_checkpoint, save_checkpoint
from lorat_plugin.cli.main import run


def test_adapters_become_a_merged_file_with_their_backbone(tmp_path, shared, capsys):
    backbone = str(shared / "pretrained/dinov2_vits14_9blocks_fp16.safetensors")
    network = create_model("lorat_tiny", backbone=backbone, lora=True)
    save_checkpoint(network, tmp_path / "adapters.bin", "official")
    arguments = ["convert", str(tmp_path / "adapters.bin"), str(tmp_path / "merged.safetensors")]
    assert run([*arguments, "--backbone", backbone, "--precision", "fp16"]) == 0
    out = capsys.readouterr().out
    assert "LoRAT adapters (official), lorat_tiny" in out and "written as merged" in out
    with safe_open(tmp_path / "merged.safetensors", "pt") as stream:
        assert str(stream.get_tensor("norm.weight").dtype) == "torch.float16"
    assert load_checkpoint(tmp_path / "merged.safetensors").variant.name == "lorat_tiny"


def test_an_existing_file_is_kept_unless_forced(tmp_path, tiny_weights, capsys):
    kept = tmp_path / "kept.safetensors"
    kept.write_text("mine")
    assert run(["convert", str(tiny_weights), str(kept)]) == 2
    assert kept.read_text() == "mine" and "--force" in capsys.readouterr().err
    assert run(["convert", str(tiny_weights), str(kept), "--force"]) == 0
    assert load_checkpoint(kept).variant.name == "lorat_tiny"


def test_wrong_variant_writes_nothing(tmp_path, tiny_weights, capsys):
    assert run(["convert", str(tiny_weights), str(tmp_path / "b.safetensors"), "--model", "lorat_b_224"]) == 2
    assert "do not fit lorat_b_224" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
