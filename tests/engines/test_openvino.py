"""OpenVINO follows the network, and declines precisions that the processor lacks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lorat_plugin import MultiObjectTracker
from lorat_plugin.engines import prepare
from lorat_plugin.engines.graphs import OpenVINOEngine, to_openvino
from lorat_plugin.errors import InputError
from lorat_plugin.models import load_pretrained

openvino = pytest.importorskip("openvino")

TOLERANCE = {"rtol": 1e-5, "atol": 1e-4}


@pytest.fixture(scope="module")
def engine():
    """Bundled weights in OpenVINO, and the network that they come from."""
    network = load_pretrained("lorat_tiny")
    return prepare(network, "cpu", "openvino")[0], network


@torch.inference_mode()
def test_it_equals_the_network_at_any_batch_size(engine):
    ours, network = engine
    v = network.variant
    for batch in (1, 3):
        torch.manual_seed(batch)
        z, x = (torch.randn(batch, 3, size, size) for size in (v.template_size, v.search_size))
        tokens = network.encode_template(z, torch.randint(0, 2, (batch, v.template_grid, v.template_grid)))
        first, second = ours.predict([tokens], x), ours.predict([tokens], x)
        for name in ("score_map", "boxes"):
            np.testing.assert_allclose(getattr(first, name), getattr(network.predict([tokens], x), name), **TOLERANCE)
            np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


@torch.inference_mode()
def test_a_prediction_is_not_overwritten_by_the_next(engine):
    ours, network = engine
    v = network.variant
    tokens, x = torch.randn(1, v.template_grid**2, v.dim), torch.randn(2, 3, v.search_size, v.search_size)
    first = ours.predict([tokens], x[:1])
    kept = first.boxes.clone()
    ours.predict([tokens], x[1:])
    assert torch.equal(first.boxes, kept)


def test_targets_may_come_and_go(engine, frames):
    ours, theirs = (MultiObjectTracker(engine[1], "cpu", "eager") for _ in range(2))
    ours.engine = engine[0]
    for tracker in (ours, theirs):
        tracker.add(frames[0], [[30, 20, 16, 16], [60, 40, 20, 20]])
    for number, frame in enumerate(frames[1:]):
        if number == 2:
            ours.drop(1)
            theirs.drop(1)
        a, b = ours.update(frame), theirs.update(frame)
        for key, result in b.items():
            np.testing.assert_allclose(a[key].box, result.box, atol=1e-2)


def test_a_precision_without_hardware_is_declined(tiny_network):
    able = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    for precision in {"bf16", "fp16"} - {name.lower() for name in able}:
        with pytest.raises(InputError, match=rf"does not compute in {precision} with OpenVINO: use fp32"):
            OpenVINOEngine(tiny_network, precision)


def test_a_missing_package_names_its_extra(monkeypatch):
    monkeypatch.setattr("lorat_plugin.engines.graphs.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"this needs openvino: pip install 'lorat_plugin\[openvino\]'"):
        to_openvino(None, "search")
