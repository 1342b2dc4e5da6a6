"""Networks in other runtimes: traced by torch.export, converted, and the engines `onnxruntime` and `openvino`.

There are two graphs, since a template is encoded once for each target and a search region once for each frame:

    template: template, template_mask -> tokens
    search:   tokens, search          -> score_map, boxes

Shapes and units are those of `LoRATNetwork.encode_template` and `LoRATNetwork.predict`; all is float32 but the mask.
The engines run the search graph on a CPU; templates stay with torch.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import platform
import sys
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from torch import nn

from lorat_plugin.boxes import xywh_to_xyxy
from lorat_plugin.checkpoints.adapters import adapters, merge
from lorat_plugin.devices import cpu_capabilities
from lorat_plugin.errors import InputError
from lorat_plugin.network import LoRATNetwork, Prediction, cell_centres
from lorat_plugin.tracking import check_frame, start, step

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from lorat_plugin.engines.select import Calibration

logger = logging.getLogger(__name__)

Part = Literal["template", "search"]
INPUTS: dict[Part, tuple[str, str]] = {"template": ("template", "template_mask"), "search": ("tokens", "search")}
OUTPUTS: dict[Part, tuple[str, ...]] = {"template": ("tokens",), "search": ("score_map", "boxes")}
PRECISIONS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}  # OpenVINO's names
LAYERS = 4  # products of a block
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
        return tuple(self.network.predict([first], second))


def plain(network: LoRATNetwork) -> LoRATNetwork:
    """The network itself if it is merged, float32 and on the CPU; else a copy that is. InputError for LoRATv2."""
    if network.variant.chunks:
        raise InputError(f"{network.variant.name} has no graphs for other runtimes: use engine auto or eager")
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


class OnnxRuntimeEngine:
    """A `lorat_plugin.tracking.Engine` made from a network, which is not changed; takes batches of any size."""

    def __init__(self, network: LoRATNetwork, precision: str = "fp32", calibration: object = None) -> None:
        """Trace and compile, with as many threads as torch has now. Raises InputError if the extra is missing."""
        network = plain(network)
        self.variant, self.encode_template = network.variant, template_side(network).encode_template
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            path = Path(folder) / "search.onnx"
            to_onnx(trace(network, "search"), "search", simplify=False).save(path)
            self._session = open_session(path)

    def predict(self, memories: Sequence[torch.Tensor], x: torch.Tensor) -> Prediction:
        """Score map and boxes for search regions; see `LoRATNetwork.predict`."""
        inputs = {"tokens": torch.cat(list(memories)).detach().numpy(), "search": x.detach().numpy()}
        return Prediction(*map(torch.from_numpy, self._session.run(None, inputs)))


def open_session(path: Path) -> Any:
    """An `onnxruntime.InferenceSession` of a file, on the CPU with torch's number of threads.

    Raises InputError if the extra is missing.
    """
    require("onnxruntime", "onnx")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class OpenVINOEngine:
    """A `lorat_plugin.tracking.Engine` made from a network, which is not changed; takes batches of any size."""

    def __init__(self, network: LoRATNetwork, precision: str = "fp32", calibration: Calibration | None = None) -> None:
        """Convert and compile, with as many threads as torch has now.

        Args:
            network: merged or not.
            precision: "fp32"; "bf16" or "fp16" on processors that compute in it; "int8", see `quantise`.
            calibration: tracks for int8.
        Raises InputError if the extra is missing, the processor lacks the precision, or int8 has no tracks.
        """
        check_precision(precision)
        network = plain(network)
        self.variant, self.encode_template = network.variant, template_side(network).encode_template
        model = to_openvino(trace(network, "search"), "search")
        if precision == "int8":
            if calibration is None:
                raise InputError("int8 is calibrated on frames: give tracks by calibration=")
            model, precision = quantise(model, network, cut_crops(network, calibration())), "fp32"
        self._request = compile_model(model, precision).create_infer_request()

    def predict(self, memories: Sequence[torch.Tensor], x: torch.Tensor) -> Prediction:
        """Score map and boxes for search regions; see `LoRATNetwork.predict`."""
        inputs = [torch.cat(list(memories)).detach().numpy(), x.detach().numpy()]
        outputs = self._request.infer(inputs, share_inputs=True)
        return Prediction(torch.from_numpy(outputs[0]), torch.from_numpy(outputs[1]))


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

    arrays = [(network.encode_template(z, mask).numpy(), x.numpy()) for z, mask, x in crops]
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


@torch.inference_mode()
def cut_crops(network: LoRATNetwork, tracks: Iterable[tuple[Iterable[np.ndarray], np.ndarray]]) -> Iterator[Crops]:
    """Crops that the tracker cuts along tracks, one at a time; it follows the true boxes as far as they are known.

    Args:
        network: on the CPU, float32; it is run on each.
        tracks: frames (H, W, 3) uint8 RGB, and boxes (N, 4) xywh of the first N of them, from the template's on.
    """
    recorder, cpu = _Recorder(network), torch.device("cpu")
    for frames, boxes in tracks:
        target = None
        for number, frame in enumerate(frames):
            if target is None:
                target = start(recorder, cpu, frame, boxes[0])
                continue
            if number <= len(boxes) and not np.isnan(boxes[number - 1]).any():
                target.box = xywh_to_xyxy(boxes[number - 1])  # a weak network would lose the target
            step(recorder, cpu, [target], [check_frame(frame)])
            yield Crops(*recorder.template, recorder.search)


class _Recorder:
    """The network as an engine that keeps its last inputs."""

    def __init__(self, network: LoRATNetwork) -> None:
        self.network, self.variant = network, network.variant

    def encode_template(self, z: torch.Tensor, z_mask: torch.Tensor) -> torch.Tensor:
        self.template = z, z_mask
        return self.network.encode_template(z, z_mask)

    def predict(self, memories: Sequence[torch.Tensor], x: torch.Tensor) -> Prediction:
        self.search = x
        return self.network.predict(memories, x)


def sums_in_16_bits() -> bool:
    """Whether the processor adds pairs of 8-bit products in 16 bits, which may overflow: x86 without VNNI."""
    able = cpu_capabilities()
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    return x86 and not (able.get("avx512_vnni") or able.get("avx_vnni"))
