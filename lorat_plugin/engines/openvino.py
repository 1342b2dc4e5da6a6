"""The `openvino` engine: the search graph in OpenVINO on a CPU; templates stay with torch."""

from __future__ import annotations

from typing import Any

import torch

from lorat_plugin.engines.graphs import plain, require, template_side, to_openvino, trace
from lorat_plugin.errors import InputError
from lorat_plugin.network import LoRATNetwork, Prediction

PRECISIONS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}  # OpenVINO's names


class OpenVINOEngine:
    """A `lorat_plugin.tracking.Engine` made from a network, which is not changed; takes batches of any size."""

    def __init__(self, network: LoRATNetwork, precision: str = "fp32") -> None:
        """Convert and compile, with as many threads as torch has now.

        Args:
            network: merged or not.
            precision: "fp32"; "bf16" or "fp16" on processors that compute in it.
        Raises InputError if the extra is missing or the processor lacks the precision.
        """
        check_precision(precision)
        network = plain(network)
        self.variant, self.encode_template = network.variant, template_side(network).encode_template
        self._request = compile_model(to_openvino(trace(network, "search"), "search"), precision).create_infer_request()

    def predict(self, template: torch.Tensor, x: torch.Tensor) -> Prediction:
        """Score map and boxes for search regions; see `LoRATNetwork.predict`."""
        inputs = [template.detach().numpy(), x.detach().numpy()]
        found = self._request.infer(inputs, share_inputs=True)
        return Prediction(torch.from_numpy(found[0]), torch.from_numpy(found[1]))


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
    if precision.upper() not in able:
        known = [name for name in PRECISIONS if name.upper() in able]
        raise InputError(f"this processor does not compute in {precision} with OpenVINO: use {' or '.join(known)}")
