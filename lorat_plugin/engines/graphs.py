"""A network as graphs that other runtimes understand: traced by torch.export, then ONNX or OpenVINO.

There are two, since a template is encoded once for each target and a search region once for each frame:

    template: template, template_mask -> tokens
    search:   tokens, search          -> score_map, boxes

Shapes and units are those of `LoRATNetwork.encode_template` and `LoRATNetwork.predict`; all is float32 but the mask.
"""

from __future__ import annotations

import copy
import logging
import warnings
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from lorat_plugin.checkpoints.adapters import adapters, merge
from lorat_plugin.errors import InputError
from lorat_plugin.network import LoRATNetwork, cell_centres

if TYPE_CHECKING:
    from torch.export import ExportedProgram

Part = Literal["template", "search"]
INPUTS: dict[Part, tuple[str, str]] = {"template": ("template", "template_mask"), "search": ("tokens", "search")}
OUTPUTS: dict[Part, tuple[str, ...]] = {"template": ("tokens",), "search": ("score_map", "boxes")}
OPSET = 18  # the exporter's oldest, for old runtimes; from 17 on LayerNorm is one operation, which keeps fp16 exact


class Graph(nn.Module):
    """One of the two graphs of a network."""

    def __init__(self, network: LoRATNetwork, part: Part) -> None:
        super().__init__()
        self.network, self.part = (template_side(network) if part == "template" else network), part

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The graph's two inputs -> its outputs, in the order of `INPUTS` and `OUTPUTS`."""
        if self.part == "template":
            return (self.network.encode_template(first, second),)
        return tuple(self.network.predict(first, second))


def plain(network: LoRATNetwork) -> LoRATNetwork:
    """The network itself if it is merged, float32 and on the CPU; else a copy that is."""
    network = network if adapters(network) is None else merge(network)
    table = network.pos_embed
    if table.dtype == torch.float32 and table.device.type == "cpu":
        return network
    return copy.deepcopy(network).to("cpu", torch.float32)


def template_side(network: LoRATNetwork) -> LoRATNetwork:
    """What `encode_template` needs of a network, without its blocks and head; tensors are shared."""
    small = copy.copy(network)
    small._modules = {n: m for n, m in network._modules.items() if n not in ("blocks", "norm", "head")}
    return small


def example_inputs(network: LoRATNetwork, part: Part, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tensors of the shapes and types that a graph takes."""
    variant = network.variant
    template = torch.zeros(batch, 3, variant.template_size, variant.template_size)
    mask = torch.zeros(batch, variant.template_grid, variant.template_grid, dtype=torch.int64)
    if part == "template":
        return template, mask
    search = torch.zeros(batch, 3, variant.search_size, variant.search_size)
    return torch.zeros_like(network.encode_template(template, mask)), search


@torch.no_grad()
def trace(network: LoRATNetwork, part: Part, batch: int | None = None) -> ExportedProgram:
    """Trace one graph of a `plain` network in eval mode.

    Args:
        network: is not changed.
        part: which graph.
        batch: the fixed batch size, or None for any.
    """
    graph = Graph(network, part).eval()
    inputs = example_inputs(network, part, batch or 2)  # of an example batch of 1 the tracer makes a constant
    dynamic = None if batch else _any_batch()
    cell_centres(network.variant.search_grid, inputs[0].device)  # cached before, not as a tensor of the tracer's
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(graph, inputs, dynamic_shapes=dynamic, strict=False)


def to_onnx(program: ExportedProgram, part: Part, *, simplify: bool = True) -> torch.onnx.ONNXProgram:
    """A traced graph as ONNX of opset `OPSET`; `.save(path)` puts weights of 2 GB and more beside the file.

    `simplify` folds constants and patterns, which takes as long again and which ONNX Runtime does by itself.
    Raises InputError if the extra `onnx` is not installed.
    """
    require("onnx", "onnx")
    require("onnxscript", "onnx")
    for name in ("onnx_ir", "onnxscript"):  # they tell of every constant and node that they remove
        logging.getLogger(name).setLevel(logging.WARNING)
    dynamic = _any_batch() if program.range_constraints else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = torch.onnx.export(
            program,
            program.example_inputs[0],
            input_names=INPUTS[part],
            output_names=OUTPUTS[part],
            opset_version=OPSET,
            dynamic_shapes=dynamic,
            dynamo=True,
            optimize=simplify,
            verbose=False,
        )
    assert made is not None
    return made


def to_openvino(program: ExportedProgram, part: Part) -> Any:
    """A traced graph as `openvino.Model`. Raises InputError if the extra `openvino` is not installed."""
    require("openvino", "openvino")
    import openvino

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = openvino.convert_model(program)
    for ports, names in ((model.inputs, INPUTS[part]), (model.outputs, OUTPUTS[part])):
        for port, name in zip(ports, names, strict=True):
            port.get_tensor().set_names({name})
    shapes = [list(tensor.shape) for tensor in program.example_inputs[0]]
    batch = [-1] if program.range_constraints else shapes[0][:1]
    model.reshape({name: batch + shape[1:] for name, shape in zip(INPUTS[part], shapes, strict=True)})
    return model


def require(package: str, extra: str) -> None:
    """Raise InputError that names the extra to install unless a package is there."""
    if not find_spec(package):
        raise InputError(f"this needs {package}: pip install 'lorat_plugin[{extra}]'")


def _any_batch() -> tuple[dict[int, Any], dict[int, Any]]:
    batch = torch.export.Dim("batch", min=1, max=1 << 16)
    return {0: batch}, {0: batch}
