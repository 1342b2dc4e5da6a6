"""The compiled engine equals the network on a CUDA GPU, and is refused elsewhere."""

from __future__ import annotations

import pytest
import torch

from lorat_plugin import create_model
from lorat_plugin.engines import check_options, prepare
from lorat_plugin.errors import InputError


def inputs(network, batch, seed=0):
    torch.manual_seed(seed)
    v = network.variant
    z, mask = (
        torch.randn(batch, 3, v.template_size, v.template_size),
        torch.randint(0, 2, (batch, *[v.template_grid] * 2)),
    )
    return network.encode_template(z, mask), torch.randn(batch, 3, v.search_size, v.search_size)


def test_a_cpu_is_refused():
    with pytest.raises(InputError, match=r"'compiled' runs bfloat16 .* float32 on a CUDA GPU, not auto on cpu"):
        check_options("cpu", "compiled", "auto")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
@torch.inference_mode()
def test_graphs_on_a_gpu_equal_the_network():
    network = create_model("lorat_tiny")
    engine, _ = prepare(network, "cuda", "compiled", "fp32")
    for batch in (1, 4, 1):
        template, x = (tensor.cuda() for tensor in inputs(create_model("lorat_tiny"), batch, seed=batch))
        for ours, theirs in zip(engine.predict([template], x), network.predict([template], x), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
