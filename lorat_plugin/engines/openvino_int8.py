"""The `openvino` engine with int8: NNCF's static quantisation of the blocks' products.

Weights have a scale for each output, activations a range for each layer. Patch embedding, attention between tokens and
the head stay float32.
"""

from __future__ import annotations

import contextlib
import logging
import platform
import sys
from pathlib import Path

from lorat_plugin.devices import cpu_capabilities
from lorat_plugin.engines.calibration import calibration_inputs
from lorat_plugin.engines.graphs import plain, require, template_side, to_openvino, trace
from lorat_plugin.engines.openvino import OpenVINOEngine, compile_model
from lorat_plugin.network import LoRATNetwork

LAYERS = 4  # products of a block


class OpenVINOInt8Engine(OpenVINOEngine):
    """As `OpenVINOEngine`, calibrated on crops of the tracker."""

    def __init__(self, network: LoRATNetwork, source: str | Path | None = None) -> None:
        """Calibrate, quantise and compile a network, which is not changed.

        Args:
            network: merged or not.
            source: of frames, see `calibration_inputs`.
        Raises InputError if the extra is missing or the source is bad.
        """
        require("openvino", "openvino")
        require("nncf", "openvino")
        import nncf

        network = plain(network)
        self.variant, self.encode_template = network.variant, template_side(network).encode_template
        inputs = [(template.numpy(), x.numpy()) for template, x in calibration_inputs(network, source)]
        model = to_openvino(trace(network, "search"), "search")
        products = [op.get_friendly_name() for op in model.get_ordered_ops() if op.get_type_name() == "MatMul"]
        kept = nncf.IgnoredScope(
            names=products[LAYERS * len(network.blocks) :],
            types=["Convolution", "ScaledDotProductAttention"],
            validate=False,
        )
        narrow = nncf.OverflowFix.ENABLE if sums_in_16_bits() else nncf.OverflowFix.DISABLE
        logging.getLogger("nncf").setLevel(logging.ERROR)
        with contextlib.redirect_stdout(sys.stderr):  # NNCF draws its progress on the standard output
            quantised = nncf.quantize(
                model,
                nncf.Dataset(inputs),
                preset=nncf.QuantizationPreset.MIXED,  # signed weights, activations in a range of their own
                subset_size=len(inputs),
                model_type=nncf.ModelType.TRANSFORMER,
                ignored_scope=kept,
                advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=narrow),
            )
        self._request = compile_model(quantised).create_infer_request()


def sums_in_16_bits() -> bool:
    """Whether the processor adds pairs of 8-bit products in 16 bits, which may overflow: x86 without VNNI."""
    able = cpu_capabilities()
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    return x86 and not (able.get("avx512_vnni") or able.get("avx_vnni"))
