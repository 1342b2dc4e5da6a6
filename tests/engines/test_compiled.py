"""The compiled engine equals the network; it compiles twice at most; without a compiler it says so."""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from lorat_plugin import create_model
from lorat_plugin.engines import check_options, prepare
from lorat_plugin.engines.compiled import CompiledEngine
from lorat_plugin.errors import InputError
from lorat_plugin.variants import Variant
from tests.small_variants import variant_of

needs_compiler = pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler")


def shallow() -> Variant:
    return replace(variant_of("mlp_224_lora"), name="shallow", depth=1)


def inputs(network, batch, seed=0):
    torch.manual_seed(seed)
    v = network.variant
    z, mask = (
        torch.randn(batch, 3, v.template_size, v.template_size),
        torch.randint(0, 2, (batch, *[v.template_grid] * 2)),
    )
    return network.encode_template(z, mask), torch.randn(batch, 3, v.search_size, v.search_size)


@pytest.mark.slow
@needs_compiler
@torch.inference_mode()
def test_it_equals_the_network_for_every_batch_with_two_programs():
    torch.manual_seed(0)
    network = create_model(shallow())
    before, programs = copy.deepcopy(network.state_dict()), counters["stats"]["unique_graphs"]
    engine, _ = prepare(network, "cpu", "compiled")
    assert isinstance(engine, CompiledEngine)
    for batch in (1, 3, 2, 5, 1):
        template, x = inputs(network, batch, seed=batch)
        for ours, theirs in zip(engine.predict(template, x), network.predict(template, x), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert counters["stats"]["unique_graphs"] == programs + 2
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


@pytest.mark.slow
def test_no_compiler_is_one_sentence(monkeypatch):
    import torch._inductor.config as settings

    torch._dynamo.reset()
    wanted = r"engine 'compiled' cannot compile \(.*\): install a C\+\+ compiler"
    without = settings.patch({"cpp.cxx": ("absent-compiler",), "fx_graph_cache": False})
    with without, pytest.raises(InputError, match=wanted):
        CompiledEngine(create_model(shallow()))


def test_half_precision_on_a_cpu_is_declined():
    with pytest.raises(InputError, match="engine 'compiled' runs float32 on a CPU"):
        check_options("cpu", "compiled", "bf16")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
@torch.inference_mode()
def test_graphs_on_a_gpu_equal_the_network():
    network = create_model("lorat_tiny")
    engine, _ = prepare(network, "cuda", "compiled", "fp32")
    for batch in (1, 4, 1):
        template, x = (tensor.cuda() for tensor in inputs(create_model("lorat_tiny"), batch, seed=batch))
        for ours, theirs in zip(engine.predict(template, x), network.predict(template, x), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
