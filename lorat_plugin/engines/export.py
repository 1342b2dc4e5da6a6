"""Write a network as files that other runtimes read, and check them against the network on real crops first.

A folder holds one file for each of the graphs of `lorat_plugin.engines.graphs` and `lorat.json`, which says all
that a tracker needs to know beside them: sizes, area factors, window weight, normalisation, names and shapes. The same
text is in the metadata of each file under the key "lorat".
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from lorat_plugin.checkpoints.saving import weights_digest
from lorat_plugin.crop import NORMALIZATIONS
from lorat_plugin.engines.graphs import (
    GRAPHS,
    OPSET,
    Crops,
    Part,
    Run,
    chained,
    compile_model,
    example_inputs,
    plain,
    run_eagerly,
    run_onnx,
    to_onnx,
    to_openvino,
    trace,
)
from lorat_plugin.errors import InputError
from lorat_plugin.files import whole_folder
from lorat_plugin.network import LoRATNetwork

Format = Literal["onnx", "openvino", "torch"]
SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}
DESCRIPTION = "lorat.json"
TOLERANCE = 1e-4  # absolute below 1, relative above; float32 of trained networks differs by a tenth of it
_TYPES = {torch.float32: "float32", torch.int64: "int64"}


@dataclass(frozen=True)
class Exported:
    """What was written: the folder, its `lorat.json`, crops checked, and output -> largest difference from eager."""

    folder: Path
    description: dict[str, Any]
    crops: int
    differences: dict[str, float]


def export(
    network: LoRATNetwork, folder: Path, crops: Iterable[Crops], form: Format = "onnx", batch: int | None = None
) -> Exported:
    """Write a network's graphs and their description.

    Args:
        network: in eval mode, adapters merged or not; is not changed.
        folder: to write; one that an earlier export wrote is replaced.
        crops: to check the files with, at least one; see `graphs.cut_crops`.
        form: "onnx", "openvino" (IR) or "torch" (`torch.export.load` reads it).
        batch: the fixed batch size, or None for any.
    Raises InputError for a batch below 1, a folder that holds something else, or an extra that is missing;
    RuntimeError if the files differ from the network by more than `TOLERANCE`, in which case nothing is written.
    """
    if batch is not None and batch < 1:
        raise InputError(f"batch {batch} must be at least 1, or dynamic")
    if folder.exists() and not (folder / DESCRIPTION).is_file():
        raise InputError(f"{folder} exists and holds no export: choose another folder")
    network, rows = plain(network), Crops(*map(torch.cat, zip(*crops, strict=True)))
    described = describe(network, form, batch)
    text = json.dumps(described, indent=2)
    with whole_folder(folder) as part:
        files = {name: part / described[name]["file"] for name in GRAPHS[network.variant.chunks]}
        for name, path in files.items():
            _write(network, name, path, form, batch, text)
        (part / DESCRIPTION).write_text(text + "\n", encoding="utf-8")
        graphs = {name: open_graph(path) for name, path in files.items()}
        differences = compare(network, graphs, rows, batch)
    return Exported(folder, described, len(rows.search), differences)


def describe(network: LoRATNetwork, form: Format, batch: int | None) -> dict[str, Any]:
    """What `lorat.json` says."""
    variant = network.variant
    mean, deviation = NORMALIZATIONS[variant.normalization]
    try:
        own = version("lorat_plugin")
    except PackageNotFoundError:  # a source tree that is not installed
        own = "unknown"
    described: dict[str, Any] = {
        "format": form,
        "batch": batch or "dynamic",
        "variant": asdict(variant) | {"template_grid": variant.template_grid, "search_grid": variant.search_grid},
        "mean": mean,
        "deviation": deviation,
        "weights_sha256": weights_digest(network),
        "versions": {"lorat_plugin": own, "torch": str(torch.__version__)},
    }
    if form == "onnx":
        described["opset"] = OPSET
    shapes = {
        name: {"type": _TYPES[tensor.dtype], "shape": [batch or "batch", *tensor.shape[1:]]}
        for name, tensor in example_inputs(network, 1).items()
    }
    for part, ports in GRAPHS[variant.chunks].items():
        inputs = {name: shapes[name] for name in ports.inputs}
        described[part] = {"file": f"{variant.name}_{part}{SUFFIXES[form]}", "inputs": inputs, "outputs": ports.outputs}
    return described


@torch.inference_mode()
def compare(network: LoRATNetwork, graphs: Mapping[Part, Run], crops: Crops, batch: int | None) -> dict[str, float]:
    """Run the graphs on crops, all together and one by one if the batch is free, else `batch` at a time.

    Returns output -> largest difference from the network. Raises RuntimeError if one is above `TOLERANCE`.
    """
    count, chunks = len(crops.search), network.variant.chunks
    differences = {name: 0.0 for ports in GRAPHS[chunks].values() for name in ports.outputs}
    for size in [batch] if batch else sorted({1, count}):
        for start in range(0, count, size):
            rows = torch.arange(start, start + size) % count
            given = {name: tensor[rows] for name, tensor in crops._asdict().items()}
            expected = run_eagerly(network, given)
            made = chained(chunks, graphs, {name: tensor.numpy() for name, tensor in given.items()})
            for name, former in differences.items():
                ours, theirs = made[name], expected[name].numpy()
                differences[name] = max(former, float(np.abs(ours - theirs).max()))
                if not np.allclose(ours, theirs, rtol=TOLERANCE, atol=TOLERANCE):
                    gap = differences[name]
                    raise RuntimeError(f"{name} of the exported model differs by {gap:.2g}: nothing written")
    return differences


def open_graph(path: Path) -> Run:
    """A written graph as a function of arrays. Raises InputError if what runs it is not installed."""
    if path.suffix == SUFFIXES["onnx"]:
        return run_onnx(path)
    if path.suffix == SUFFIXES["openvino"]:
        model = compile_model(path)
        return lambda *inputs: list(model(list(inputs)).to_tuple())
    module = torch.export.load(path).module()
    return lambda *inputs: [output.numpy() for output in module(*map(torch.from_numpy, inputs))]


def _write(network: LoRATNetwork, part: Part, path: Path, form: Format, batch: int | None, text: str) -> None:
    program, ports = trace(network, part, batch), GRAPHS[network.variant.chunks][part]
    if form == "torch":
        torch.export.save(program, path, extra_files={DESCRIPTION: text})
    elif form == "onnx":
        made = to_onnx(program, ports)
        made.model.metadata_props["lorat"] = text
        made.save(path)
    else:
        model = to_openvino(program, ports)
        import openvino

        model.set_rt_info(text, ["lorat"])
        openvino.save_model(model, path, compress_to_fp16=False)
