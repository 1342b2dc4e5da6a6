"""LoRATv2 in ONNX Runtime and OpenVINO against the network itself; its exported files and int8."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lorat_plugin import save_checkpoint
from lorat_plugin.cli.main import run
from lorat_plugin.engines.export import DESCRIPTION, export
from lorat_plugin.engines.graphs import Crops, OnnxRuntimeEngine, OpenVINOEngine, cut_crops
from lorat_plugin.network_v2 import LoRATv2Network
from lorat_plugin.tracking import start, step
from tests.engines.test_fused_v2 import random_network

TOLERANCE = 2e-5
ENGINES = {
    "onnxruntime": ("onnxruntime", "onnxscript", OnnxRuntimeEngine),
    "openvino": ("openvino", "openvino", OpenVINOEngine),
}
CPU = torch.device("cpu")
BOX = [30, 20, 16, 16]


def inputs_of(network: LoRATv2Network, batch: int) -> Crops:
    variant = network.variant
    torch.manual_seed(batch)
    sizes = (variant.template_size, variant.search_size, variant.reference_size)
    z, x, reference = (torch.randn(batch, 3, size, size) for size in sizes)
    return Crops(z, torch.randint(2, (batch, variant.template_grid, variant.template_grid)), x, reference)


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("phase", ["p1", pytest.param("p2", marks=pytest.mark.slow)])
@torch.inference_mode()
def test_it_equals_the_network_at_any_batch_size(phase: str, name: str, frames: list[np.ndarray]) -> None:
    *packages, kind = ENGINES[name]
    for package in packages:
        pytest.importorskip(package)
    network = random_network(phase)
    engine = kind(network)
    for batch in (1, 3):
        z, mask, x, reference = inputs_of(network, batch)
        found = []
        for runs in (network, engine):
            memory = runs.encode_template(z, mask)
            if phase == "p2":
                memory = runs.encode_reference(memory, reference)
                memory = runs.encode_reference(memory, reference.flip(-1))  # replaces the one before
            found.append([memory, *runs.predict(memory.split(1), x)])
        worst = [float((ours - theirs).abs().max()) for ours, theirs in zip(*found, strict=True)]
        print(f"\n{phase} {name} x{batch}: {worst}")
        assert max(worst) < TOLERANCE
    targets = [start(runs, CPU, frames[0], BOX) for runs in (network, engine)]
    for frame in frames[1:]:
        ours, theirs = (step(e, CPU, [t], [frame])[0] for e, t in zip((network, engine), targets, strict=True))
        np.testing.assert_allclose(ours.box, theirs.box, atol=1e-2)  # pixels


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "openvino", "torch"])
def test_phase_two_is_written_as_three_checked_files(form: str, frames: list[np.ndarray], tmp_path: Path) -> None:
    for package in {"onnx": ("onnxruntime", "onnxscript"), "openvino": ("openvino",), "torch": ()}[form]:
        pytest.importorskip(package)
    network = random_network("p2")
    crops = list(cut_crops(network, [(frames, np.array([BOX], float))]))
    assert [tuple(c.reference.shape) for c in crops] == [(1, 3, 84, 84)] * (len(frames) - 1)
    done = export(network, tmp_path / "out", crops, form)  # type: ignore[arg-type]
    print(f"\n{form}: {done.differences}")
    assert max(done.differences.values()) < TOLERANCE
    about = json.loads((tmp_path / "out" / DESCRIPTION).read_text())
    kv = {"type": "float32", "shape": ["batch", 3, 2, 4, 20, 16]}
    added = {"type": "float32", "shape": ["batch", 3, 2, 4, 36, 16]}
    image = {"type": "float32", "shape": ["batch", 3, 126, 126]}
    assert about["search"]["inputs"] == {"template_kv": kv, "reference_kv": added, "search": image}
    assert about["reference"]["outputs"] == ["reference_kv"] and about["variant"]["update_above"] == 0.9
    blocks = sum(p.numel() for p in network.blocks.parameters())
    written = sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    assert written < 3 * 4 * (blocks + 37**2 * 64), "each file holds its own chunk's layers alone"


@pytest.mark.slow
@torch.inference_mode()
def test_int8_is_near_the_network_and_not_equal(frames: list[np.ndarray]) -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    network = random_network("p2")
    for block in network.blocks:
        block.ls1.gamma.fill_(1)
        block.ls2.gamma.fill_(1)
    engine = OpenVINOEngine(network, "int8", lambda: [(frames, np.array([BOX], float))])
    z, mask, x, reference = next(iter(cut_crops(network, [(frames, np.array([BOX], float))])))
    ours, theirs = (
        e.predict([e.encode_reference(e.encode_template(z, mask), reference)], x).score_map for e in (engine, network)
    )
    error = float((ours - theirs).std() / theirs.std())
    print(f"\nint8: {error}")
    assert 1e-4 < error < 0.1


@pytest.mark.slow
def test_the_command_names_shapes_of_all_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = save_checkpoint(random_network("p2"), tmp_path / "small.safetensors")
    assert run(["export", str(weights), "--format", "torch", "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "_reference.pt2: template_kv [batch, 3, 2, 4, 20, 16] float32, reference [batch, 3, 84, 84] float32" in said
    assert "-> reference_kv" in said and "-> score_map, boxes" in said and "8 crops of the demo" in said
