"""The `compiled` engine: any network, by torch's compiler with frozen weights on a CPU, as CUDA graphs on a GPU.

On a CPU the compiler folds constants, packs the weights and fuses what lies between the products. On a GPU a frame of
one target is too little work to hide the launches of some hundred kernels: a graph launches them all at once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import nn

from lorat_plugin.errors import InputError, first_line
from lorat_plugin.network import LoRATNetwork, Prediction

GRAPHS = 16  # batch sizes that are kept ready on a GPU


class CompiledEngine:
    """A `lorat_plugin.tracking.Engine` made from a network, which it keeps."""

    @torch.inference_mode()
    def __init__(self, network: LoRATNetwork) -> None:
        """Compile for one target at once, which takes a minute on a CPU; a batch is compiled for when it comes.

        On a CPU there are two programs, for one target and for any greater number; on a GPU one for each number.
        Raises InputError if there is no C++ compiler, or the network cannot be compiled.
        """
        self.variant, self.encode_template = network.variant, network.encode_template
        place, variant = network.pos_embed.device, network.variant
        z, x = (torch.zeros(1, 3, size, size, device=place) for size in (variant.template_size, variant.search_size))
        mask = torch.zeros(1, variant.template_grid, variant.template_grid, dtype=torch.int64, device=place)
        template = network.encode_template(z, mask)
        if place.type == "cuda":
            self._run: Callable[[torch.Tensor, torch.Tensor], Prediction] = _Graphs(network)
            self._run(template, x)
            return
        self._run = torch.compile(_Predict(network), fullgraph=True, dynamic=False, options={"freezing": True})
        try:
            self._run(template, x)
        except RuntimeError as error:  # torch's own, around whatever went wrong
            told = first_line(getattr(error, "inner_exception", error))
            remedy = "install a C++ compiler such as g++, name it in CXX" if "ompiler" in told else "report the network"
            raise InputError(f"engine 'compiled' cannot compile ({told}): {remedy}, or use engine auto") from error

    @torch.inference_mode()
    def predict(self, template: torch.Tensor, x: torch.Tensor) -> Prediction:
        """Score map and boxes for search regions; see `LoRATNetwork.predict`."""
        if len(x) > 1 and x.device.type == "cpu":
            for tensor in (template, x):
                torch._dynamo.maybe_mark_dynamic(tensor, 0)
        return self._run(template, x)


class _Predict(nn.Module):
    def __init__(self, network: LoRATNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, template: torch.Tensor, x: torch.Tensor) -> Prediction:
        return self.network.predict(template, x)


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
                self.network.predict(*inputs)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool):
            outputs = self.network.predict(*inputs)
        return graph, inputs, outputs
