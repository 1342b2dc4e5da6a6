"""Networks in other runtimes: traced by torch.export, converted, and the engines `onnxruntime` and `openvino`.

A template is encoded once for each target and a search region once for each frame, so they have graphs of their own;
LoRATv2 has a third one for the reference in its phase 2:

               LoRAT                             LoRATv2
    template:  template, template_mask -> tokens   template, template_mask -> template_kv
    reference:                                     template_kv, reference -> reference_kv
    search:    tokens, search -> score_map, boxes  template_kv, (reference_kv,) search -> score_map, boxes

Shapes and units are those of the networks' `encode_template`, `encode_reference` and `predict`; all is float32 but the
mask. The engines run all graphs on a CPU.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from torch import nn

from lorat_plugin.boxes import xywh_to_xyxy
from lorat_plugin.checkpoints.adapters import adapters, merge
from lorat_plugin.devices import sums_in_16_bits
from lorat_plugin.errors import InputError
from lorat_plugin.network import LoRATNetwork, Prediction, cell_centres
from lorat_plugin.network_v2 import RemembersReferences
from lorat_plugin.tracking import check_frame, start, step

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from lorat_plugin.engines.select import Calibration

logger = logging.getLogger(__name__)

T = TypeVar("T")
Part = Literal["template", "reference", "search"]


class Ports(NamedTuple):
    """Names of a graph's inputs and outputs, in their order."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


_IMAGE, _RESULT = ("template", "template_mask"), ("score_map", "boxes")
GRAPHS: dict[int, dict[Part, Ports]] = {  # by chunks of the variant, in the order in which a tracker runs them
    0: {"template": Ports(_IMAGE, ("tokens",)), "search": Ports(("tokens", "search"), _RESULT)},
    2: {"template": Ports(_IMAGE, ("template_kv",)), "search": Ports(("template_kv", "search"), _RESULT)},
    3: {
        "template": Ports(_IMAGE, ("template_kv",)),
        "reference": Ports(("template_kv", "reference"), ("reference_kv",)),
        "search": Ports(("template_kv", "reference_kv", "search"), _RESULT),
    },
}
PRECISIONS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}  # OpenVINO's names
LAYERS = 4  # products of a block
OPSET = 18  # the exporter's oldest, for old runtimes; from 17 on LayerNorm is one operation, which keeps fp16 exact


class Graph(nn.Module):
    """One of the graphs of a network, with no other tensors than its own."""

    def __init__(self, network: LoRATNetwork, part: Part) -> None:
        super().__init__()
        chunk = list(GRAPHS[network.variant.chunks]).index(part)
        others = "-" if part == "search" else r"(blocks|norm|head)\."
        if network.variant.chunks:
            others = rf"blocks\..*\.(qkv|proj|fc1|fc2)\.(?!{chunk}\.)" + ("" if part == "search" else r"|(norm|head)s")
        self.network, self.part = _without(network, re.compile(others)), part

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The graph's inputs -> its outputs, in the order of `GRAPHS`."""
        network: Any = self.network
        if self.part == "template":
            return (network.encode_template(*inputs),)
        if self.part == "reference":
            return (network.encode_reference(*inputs)[..., network.template_tokens :, :],)
        return tuple(network.predict([torch.cat(inputs[:-1], -2)], inputs[-1]))


def _without(module: nn.Module, left_out: re.Pattern[str], path: str = "") -> Any:
    """A copy of a module that shares its tensors, but has None for those whose names start with a pattern."""
    small = copy.copy(module)
    parameters, modules = module._parameters.items(), module._modules.items()
    small._parameters = {n: None if left_out.match(path + n) else tensor for n, tensor in parameters}
    small._modules = {n: m and _without(m, left_out, f"{path}{n}.") for n, m in modules}
    return small


def plain(network: LoRATNetwork) -> LoRATNetwork:
    """The network itself if it is merged, float32 and on the CPU; else a copy that is."""
    network = network if adapters(network) is None else merge(network)
    table = network.pos_embed
    if table.dtype == torch.float32 and table.device.type == "cpu":
        return network
    return copy.deepcopy(network).to("cpu", torch.float32)


@torch.no_grad()
def example_inputs(network: LoRATNetwork, batch: int) -> dict[str, torch.Tensor]:
    """Tensors of the names, shapes and types that a network's graphs take and give each other."""
    variant = network.variant
    sizes = {"template": variant.template_size, "reference": variant.reference_size, "search": variant.search_size}
    values = {name: torch.zeros(batch, 3, size, size) for name, size in sizes.items()}
    values["template_mask"] = torch.zeros(batch, variant.template_grid, variant.template_grid, dtype=torch.int64)
    return run_eagerly(network, values, "search")


def chained(chunks: int, graphs: Mapping[Part, Callable[..., Sequence[T]]], values: Mapping[str, T]) -> dict[str, T]:
    """Values by name with the outputs of graphs (of a variant with so many chunks), each run on those before it."""
    found = dict(values)
    for part, graph in graphs.items():
        ports = GRAPHS[chunks][part]
        found |= zip(ports.outputs, graph(*(found[name] for name in ports.inputs)), strict=True)
    return found


def run_eagerly(network: LoRATNetwork, values: Mapping[str, torch.Tensor], *without: Part) -> dict[str, torch.Tensor]:
    """As `chained`, of a network's own graphs; some may be left out."""
    chunks = network.variant.chunks
    return chained(chunks, {part: Graph(network, part) for part in GRAPHS[chunks] if part not in without}, values)


@torch.no_grad()
def trace(network: LoRATNetwork, part: Part, batch: int | None = None) -> ExportedProgram:
    """Trace one graph of a `plain` network in eval mode.

    Args:
        network: is not changed.
        part: which graph.
        batch: the fixed batch size, or None for any.
    """
    graph, values = Graph(network, part).eval(), example_inputs(network, batch or 2)  # a batch of 1 becomes a constant
    inputs = tuple(values[name] for name in GRAPHS[network.variant.chunks][part].inputs)
    dynamic = None if batch else _any_batch(inputs)
    cell_centres(network.variant.search_grid, inputs[0].device)  # cached before, not as a tensor of the tracer's
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(graph, inputs, dynamic_shapes=dynamic, strict=False)


def to_onnx(program: ExportedProgram, ports: Ports, *, simplify: bool = True) -> torch.onnx.ONNXProgram:
    """A traced graph as ONNX of opset `OPSET`; `.save(path)` puts weights of 2 GB and more beside the file.

    `simplify` folds constants and patterns, which takes as long again and which ONNX Runtime does by itself.
    Raises InputError if the extra `onnx` is not installed.
    """
    require("onnx", "onnx")
    require("onnxscript", "onnx")
    for name in ("onnx_ir", "onnxscript"):  # they tell of every constant and node that they remove
        logging.getLogger(name).setLevel(logging.WARNING)
    dynamic = _any_batch(program.example_inputs[0]) if program.range_constraints else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = torch.onnx.export(
            program,
            program.example_inputs[0],
            input_names=ports.inputs,
            output_names=ports.outputs,
            opset_version=OPSET,
            dynamic_shapes=dynamic,
            dynamo=True,
            optimize=simplify,
            verbose=False,
        )
    assert made is not None
    return made


def to_openvino(program: ExportedProgram, ports: Ports) -> Any:
    """A traced graph as `openvino.Model`. Raises InputError if the extra `openvino` is not installed."""
    require("openvino", "openvino")
    import openvino

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = openvino.convert_model(program)
    for found, names in ((model.inputs, ports.inputs), (model.outputs, ports.outputs)):
        for port, name in zip(found, names, strict=True):
            port.get_tensor().set_names({name})
    shapes = [list(tensor.shape) for tensor in program.example_inputs[0]]
    batch = [-1] if program.range_constraints else shapes[0][:1]
    model.reshape({name: batch + shape[1:] for name, shape in zip(ports.inputs, shapes, strict=True)})
    return model


def require(package: str, extra: str) -> None:
    """Raise InputError that names the extra to install unless a package is there."""
    if not find_spec(package):
        raise InputError(f"this needs {package}: pip install 'lorat_plugin[{extra}]'")


def _any_batch(inputs: tuple[torch.Tensor, ...]) -> tuple[tuple[dict[int, Any], ...]]:
    return (({0: torch.export.Dim("batch", min=1, max=1 << 16)},) * len(inputs),)


Run = Callable[..., Sequence[np.ndarray]]  # a graph's inputs, contiguous -> its outputs


class GraphEngine(RemembersReferences):
    """A `lorat_plugin.tracking.Engine` made from the compiled graphs of a network; takes batches of any size."""

    def __init__(self, network: LoRATNetwork, compiled: Callable[[ExportedProgram, Part], Run]) -> None:
        """Trace each graph of a `plain` network and compile it."""
        self.variant, self.template_tokens = network.variant, getattr(network, "template_tokens", 0)
        self._graphs = {part: compiled(trace(network, part), part) for part in GRAPHS[network.variant.chunks]}

    def encode_template(self, z: torch.Tensor, z_mask: torch.Tensor) -> torch.Tensor:
        """Memory of new targets; see the network's `encode_template`."""
        return self._run("template", z, z_mask)[0]

    def encode_reference(self, memory: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """Memory with another reference; see `LoRATv2Network.encode_reference`."""
        template = memory[..., : self.template_tokens, :]
        return torch.cat([template, self._run("reference", template, reference)[0]], -2)

    def predict(self, memories: Sequence[torch.Tensor], x: torch.Tensor) -> Prediction:
        """Score map and boxes for search regions; see the network's `predict`."""
        memory = torch.cat(list(memories))
        parts = memory.tensor_split([self.template_tokens], -2) if self.variant.reference_size else [memory]
        return Prediction(*self._run("search", *parts, x))

    def _run(self, part: Part, *inputs: torch.Tensor) -> list[torch.Tensor]:
        outputs = self._graphs[part](*(tensor.detach().contiguous().numpy() for tensor in inputs))
        return [torch.from_numpy(output) for output in outputs]


class OnnxRuntimeEngine(GraphEngine):
    """A network, which is not changed, in ONNX Runtime."""

    def __init__(self, network: LoRATNetwork, precision: str = "fp32", calibration: object = None) -> None:
        """Trace and compile, with as many threads as torch has now. Raises InputError if the extra is missing."""

        def compiled(program: ExportedProgram, part: Part) -> Run:
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                path = Path(folder) / "graph.onnx"
                to_onnx(program, GRAPHS[network.variant.chunks][part], simplify=False).save(path)
                return run_onnx(path)

        super().__init__(plain(network), compiled)


def run_onnx(path: Path) -> Run:
    """A file as a function of arrays, on the CPU with torch's number of threads; InputError without the extra."""
    require("onnxruntime", "onnx")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [port.name for port in session.get_inputs()]
    return lambda *inputs: session.run(None, dict(zip(names, inputs, strict=True)))


class OpenVINOEngine(GraphEngine):
    """A network, which is not changed, in OpenVINO."""

    def __init__(self, network: LoRATNetwork, precision: str = "fp32", calibration: Calibration | None = None) -> None:
        """Convert and compile, with as many threads as torch has now.

        Args:
            network: merged or not.
            precision: "fp32"; "bf16" or "fp16" on processors that compute in it; "int8" for the search graph alone.
            calibration: tracks for int8.
        Raises InputError if the extra is missing, the processor lacks the precision, or int8 has no tracks.
        """
        check_precision(precision)
        network = plain(network)
        if precision == "int8" and calibration is None:
            raise InputError("int8 is calibrated on frames: give tracks by calibration=")

        def compiled(program: ExportedProgram, part: Part) -> Run:
            model = to_openvino(program, GRAPHS[network.variant.chunks][part])
            if calibration is not None and precision == "int8" and part == "search":
                model = quantise(model, network, cut_crops(network, calibration()))
            request = compile_model(model, "fp32" if precision == "int8" else precision).create_infer_request()
            return lambda *inputs: request.infer(list(inputs), share_inputs=True).to_tuple()

        super().__init__(network, compiled)


def compile_model(model: Any, precision: str = "fp32") -> Any:
    """Compile an `openvino.Model` or the path of one for the CPU, with torch's number of threads.

    Raises InputError if the processor does not compute in the precision, or the extra is missing.
    """
    check_precision(precision)
    import openvino

    options = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_PRECISION_HINT": PRECISIONS[precision],  # left out, processors with bf16 would use it
    }
    return openvino.Core().compile_model(model, "CPU", options)


def check_precision(precision: str) -> None:
    """Raise InputError if the processor does not compute in a precision, or the extra is missing."""
    require("openvino", "openvino")
    import openvino

    able = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if precision != "int8" and precision.upper() not in able:
        known = [name for name in PRECISIONS if name.upper() in able]
        raise InputError(f"this processor does not compute in {precision} with OpenVINO: use {' or '.join(known)}")


@torch.inference_mode()
def quantise(model: Any, network: LoRATNetwork, crops: Iterable[Crops]) -> Any:
    """The search graph as `openvino.Model` with the blocks' products in int8, by NNCF's static quantisation.

    Weights have a scale for each output, activations a range for each layer. Patch embedding, attention between tokens
    and the head stay float32. Raises InputError if the extra is missing.
    """
    require("nncf", "openvino")
    import nncf

    values = (run_eagerly(network, crop._asdict(), "search") for crop in crops)
    names = GRAPHS[network.variant.chunks]["search"].inputs
    arrays = [tuple(value[name].contiguous().numpy() for name in names) for value in values]
    logger.info("int8 is calibrated on %d crops", len(arrays))
    products = [op.get_friendly_name() for op in model.get_ordered_ops() if op.get_type_name() == "MatMul"]
    kept = nncf.IgnoredScope(
        names=products[LAYERS * len(network.blocks) :],
        types=["Convolution", "ScaledDotProductAttention"],
        validate=False,
    )
    narrow = nncf.OverflowFix.ENABLE if sums_in_16_bits() else nncf.OverflowFix.DISABLE
    logging.getLogger("nncf").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(sys.stderr):  # NNCF draws its progress on the standard output
        return nncf.quantize(
            model,
            nncf.Dataset(arrays),
            preset=nncf.QuantizationPreset.MIXED,  # signed weights, activations in a range of their own
            subset_size=len(arrays),
            model_type=nncf.ModelType.TRANSFORMER,
            ignored_scope=kept,
            advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=narrow),
        )


class Crops(NamedTuple):
    """Inputs of a network, as many of each."""

    template: torch.Tensor  # (N, 3, template_size, template_size) float32, normalised
    template_mask: torch.Tensor  # (N, template_grid, template_grid) int64
    search: torch.Tensor  # (N, 3, search_size, search_size) float32, normalised
    reference: torch.Tensor  # (N, 3, reference_size, reference_size) float32, normalised; size 0 without references


@torch.inference_mode()
def cut_crops(network: LoRATNetwork, tracks: Iterable[tuple[Iterable[np.ndarray], np.ndarray]]) -> Iterator[Crops]:
    """Crops that the tracker cuts along tracks, one at a time; it follows the true boxes as far as they are known.

    Args:
        network: on the CPU, float32; it is run on each.
        tracks: frames (H, W, 3) uint8 RGB, and boxes (N, 4) xywh of the first N of them, from the template's on.
    """
    cpu, engine = torch.device("cpu"), copy.copy(network)
    seen: dict[str, Any] = {"reference": torch.empty(1, 3, 0, 0)}

    def recorded(method: str, *names: str) -> None:
        def call(*inputs: Any) -> Any:
            seen.update(zip(names, inputs, strict=True))
            return getattr(network, method)(*inputs)

        setattr(engine, method, call)

    recorded("encode_template", "template", "template_mask")
    recorded("encode_reference", "memory", "reference")
    recorded("predict", "memories", "search")
    for frames, boxes in tracks:
        target = None
        for number, frame in enumerate(frames):
            if target is None:
                target = start(engine, cpu, frame, boxes[0])
                continue
            if number <= len(boxes) and not np.isnan(boxes[number - 1]).any():
                target.box = xywh_to_xyxy(boxes[number - 1])  # a weak network would lose the target
            step(engine, cpu, [target], [check_frame(frame)])
            yield Crops(*(seen[name] for name in Crops._fields))
