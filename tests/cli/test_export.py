"""`lorat export`, and a tracker that has nothing but what it wrote."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from lorat_plugin import LoRATTracker, create_model, save_checkpoint
from lorat_plugin.cli.main import run
from lorat_plugin.engines.export import DESCRIPTION, compare, export
from lorat_plugin.engines.graphs import OPSET, Crops, cut_crops
from lorat_plugin.variants import get_variant
from lorat_plugin.video.demo_clips import boxed_frames

SCRIPT = Path(__file__).resolve().parents[2] / "integration/onnx/track_onnx.py"


@pytest.fixture(scope="module")
def small_network():
    """A network of two blocks that look at all they see; trained ones are too large to trace in many tests."""
    torch.manual_seed(0)
    variant = replace(get_variant("lorat_tiny"), name="small", dim=64, depth=2, heads=2, ffn_dim=128)
    return create_model(variant)


@pytest.fixture(scope="module")
def small_weights(small_network, tmp_path_factory):
    """Its weights file."""
    return save_checkpoint(small_network, tmp_path_factory.mktemp("weights") / "small.safetensors")


@pytest.fixture(scope="module")
def exported(small_weights, tmp_path_factory):
    """A folder of ONNX files for any batch, and what the command said."""
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("export") / "tiny"
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert run(["export", str(small_weights), "--format", "onnx", "--out", str(folder)]) == 0
    return folder, out.getvalue()


def test_onnx_files_say_what_they_are(exported):
    onnx = pytest.importorskip("onnx")
    folder, out = exported
    assert "8 crops of the demo" in out and "score_map" in out
    about = json.loads((folder / DESCRIPTION).read_text())
    assert about["variant"]["name"] == "small" and len(about["weights_sha256"]) == 64
    assert about["opset"] == OPSET
    assert {path.name for path in folder.iterdir()} == {DESCRIPTION, about["template"]["file"], about["search"]["file"]}
    for part in ("template", "search"):
        model = onnx.load(folder / about[part]["file"])
        onnx.checker.check_model(model)
        assert {entry.key: json.loads(entry.value) for entry in model.metadata_props}["lorat"] == about
        assert [entry.version for entry in model.opset_import if not entry.domain] == [OPSET]
        for port in model.graph.input:
            shape = [size.dim_param or size.dim_value for size in port.type.tensor_type.shape.dim]
            assert shape == about[part]["inputs"][port.name]["shape"] and shape[0] == "batch"


def test_a_consumer_with_numpy_and_onnxruntime_tracks_as_we_do(exported, small_network, frames, tmp_path):
    box = [30, 20, 16, 16]
    for number, frame in enumerate(frames):
        cv2.imwrite(str(tmp_path / f"{number:04d}.png"), frame[..., ::-1])
    code = [sys.executable, str(SCRIPT), str(exported[0]), str(tmp_path / "%04d.png"), "--box", ",".join(map(str, box))]
    done = subprocess.run(code, capture_output=True, text=True, check=True)
    rows = np.loadtxt(done.stdout.splitlines(), delimiter=",", ndmin=2)
    imported = {line.split()[1] for line in SCRIPT.read_text().splitlines() if line.startswith(("import ", "from "))}
    assert imported == {"argparse", "json", "pathlib", "cv2", "numpy", "onnxruntime"}
    tracker = LoRATTracker(small_network, "cpu", "eager")
    tracker.init(frames[0], box)
    np.testing.assert_allclose(rows[0], [*box, 1])
    for row, frame in zip(rows[1:], frames[1:], strict=True):
        result = tracker.update(frame)
        np.testing.assert_allclose(row[:4], result.box, atol=0.05)  # pixels
        assert row[4] == pytest.approx(result.score, abs=1e-3)


def test_a_fixed_batch_for_torch_is_checked_on_the_users_clip(tmp_path, frames, small_weights, capsys):
    clip, out = tmp_path / "clip", tmp_path / "out"
    clip.mkdir()
    for number, frame in enumerate(frames):
        cv2.imwrite(str(clip / f"{number:04d}.png"), frame[..., ::-1])
    np.savetxt(clip / "groundtruth.txt", [[30 + 3 * i, 20 + 2 * i, 16, 16] for i in range(6)], delimiter=",")
    arguments = ["export", str(small_weights), "--format", "torch", "--batch", "4", "--out", str(out)]
    assert run([*arguments, "--check-frames", str(clip)]) == 0
    assert "5 crops of" in capsys.readouterr().out
    about = json.loads((out / DESCRIPTION).read_text())
    assert about["batch"] == 4 and about["search"]["inputs"]["search"]["shape"] == [4, 3, 140, 140]
    program = torch.export.load(out / about["search"]["file"])
    assert len(program.module()(torch.zeros(4, 25, 64), torch.zeros(4, 3, 140, 140))) == 2
    assert run(arguments) == 2 and "--force" in capsys.readouterr().err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/precious.txt").touch()
    assert run([*arguments[:-1], str(tmp_path / "mine"), "--force"]) == 2
    assert "holds no export" in capsys.readouterr().err and (tmp_path / "mine/precious.txt").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--batch", "0"], "give a number above 0, or dynamic"),
        (["--batch", "many"], "give a number above 0, or dynamic"),
        (["--format", "torch", "--check-frames", "nowhere"], "no such folder"),
    ],
)
def test_bad_input_is_said_and_nothing_written(arguments, said, tmp_path, capsys):
    assert run(["export", "lorat_tiny", "--out", str(tmp_path / "out"), *arguments]) == 2
    assert said in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_graph_that_differs_gets_no_name(tmp_path, small_network, monkeypatch):
    network, crops = small_network, list(cut_crops(small_network, boxed_frames(None, 8)))

    def template(z, mask):
        return [network.encode_template(*map(torch.from_numpy, (z, mask))).numpy()]

    def search(tokens, x):
        return [output.numpy() + 1e-3 for output in network.predict([torch.from_numpy(tokens)], torch.from_numpy(x))]

    with pytest.raises(RuntimeError, match="score_map of the exported model differs"):
        compare(
            network, {"template": template, "search": search}, Crops(*map(torch.cat, zip(*crops, strict=True))), None
        )
    monkeypatch.setattr(
        "lorat_plugin.engines.export.open_graph", lambda path: template if "template" in path.name else search
    )
    with pytest.raises(RuntimeError, match="nothing written"):
        export(network, tmp_path / "out", crops, "torch")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_openvino_files_keep_float32(tmp_path, small_network, small_weights):
    openvino = pytest.importorskip("openvino")
    out = tmp_path / "out"
    assert run(["export", str(small_weights), "--format", "openvino", "--out", str(out)]) == 0
    about = json.loads((out / DESCRIPTION).read_text())
    model = openvino.Core().read_model(out / about["search"]["file"])
    assert json.loads(model.get_rt_info(["lorat"]).value) == about
    assert [port.any_name for port in [*model.inputs, *model.outputs]] == ["tokens", "search", "score_map", "boxes"]
    assert (out / "small_search.bin").stat().st_size > 4 * sum(p.numel() for p in small_network.blocks.parameters())
