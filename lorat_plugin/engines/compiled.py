"""The `compiled` engine: any network on a CUDA GPU, as CUDA graphs.

One target is too little work to hide the launches of some hundred kernels: a graph launches them all at once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch

from lorat_plugin.devices import PRECISIONS
from lorat_plugin.network import LoRATNetwork, Prediction
from lorat_plugin.network_v2 import RemembersReferences

GRAPHS = 16  # batch sizes that are kept ready


class CompiledEngine(RemembersReferences):
    """A `lorat_plugin.tracking.Engine` made from a network on a CUDA GPU, which it keeps; LoRATv2's is unproven."""

    @torch.inference_mode()
    def __init__(self, network: LoRATNetwork, precision: str = "fp32", calibration: object = None) -> None:
        """Capture the graph of one target; others when they come."""
        self.network: Any = network.to(PRECISIONS[precision])
        self.variant, self.encode_template = network.variant, network.encode_template
        self.template_tokens = getattr(network, "template_tokens", 0)
        self._run = _Graphs(network)
        device, variant = network.pos_embed.device, network.variant
        z, x = (torch.zeros(1, 3, size, size, device=device) for size in (variant.template_size, variant.search_size))
        mask = torch.zeros(1, variant.template_grid, variant.template_grid, dtype=torch.int64, device=device)
        memory = network.encode_template(z, mask)
        if size := variant.reference_size:
            memory = self.encode_reference(memory, torch.zeros(1, 3, size, size, device=device))
        self._run(memory, x)

    def encode_reference(self, memory: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """Memory with another reference; see `LoRATv2Network.encode_reference`."""
        return self.network.encode_reference(memory, reference)

    @torch.inference_mode()
    def predict(self, memories: Sequence[torch.Tensor], x: torch.Tensor) -> Prediction:
        """Score map and boxes for search regions; see `LoRATNetwork.predict`."""
        return self._run(torch.cat(list(memories)), x)


class _Graphs:
    """One CUDA graph for each batch size, with inputs and outputs that stay in place; the latest sizes are kept.

    Source: torch's notes on CUDA semantics, section "CUDA Graphs": warm up on another stream, capture, then copy into
    the captured inputs and replay. Graphs may share their memory, as outputs are copied before another one runs.
    """

    def __init__(self, network: LoRATNetwork) -> None:
        self.network, self.pool = network, torch.cuda.graph_pool_handle()
        self.ready: OrderedDict[int, tuple[torch.cuda.CUDAGraph, tuple[torch.Tensor, ...], Prediction]] = OrderedDict()

    def __call__(self, template: torch.Tensor, x: torch.Tensor) -> Prediction:
        with torch.cuda.device(x.device):
            if len(x) not in self.ready:
                if len(self.ready) == GRAPHS:
                    self.ready.popitem(last=False)
                self.ready[len(x)] = self._capture(template, x)
            self.ready.move_to_end(len(x))
            graph, inputs, outputs = self.ready[len(x)]
            for static, given in zip(inputs, (template, x), strict=True):
                static.copy_(given)
            graph.replay()
            return Prediction(*(tensor.clone() for tensor in outputs))

    def _capture(
        self, template: torch.Tensor, x: torch.Tensor
    ) -> tuple[torch.cuda.CUDAGraph, tuple[torch.Tensor, ...], Prediction]:
        inputs = template.clone(), x.clone()
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):
                self.network.predict(inputs[:1], inputs[1])
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool):
            outputs = self.network.predict(inputs[:1], inputs[1])
        return graph, inputs, outputs
