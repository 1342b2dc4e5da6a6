"""The `onnxruntime` engine: the search graph in ONNX Runtime, float32 on a CPU; templates stay with torch."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from lorat_plugin.engines.graphs import plain, require, template_side, to_onnx, trace
from lorat_plugin.network import LoRATNetwork, Prediction


class OnnxRuntimeEngine:
    """A `lorat_plugin.tracking.Engine` made from a network, which is not changed; takes batches of any size."""

    def __init__(self, network: LoRATNetwork) -> None:
        """Trace and compile, with as many threads as torch has now. Raises InputError if the extra is missing."""
        network = plain(network)
        self.variant, self.encode_template = network.variant, template_side(network).encode_template
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            path = Path(folder) / "search.onnx"
            to_onnx(trace(network, "search"), "search", simplify=False).save(path)
            self._session = open_session(path)

    def predict(self, template: torch.Tensor, x: torch.Tensor) -> Prediction:
        """Score map and boxes for search regions; see `LoRATNetwork.predict`."""
        inputs = {"tokens": template.detach().numpy(), "search": x.detach().numpy()}
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
