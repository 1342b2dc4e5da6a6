"""The table of engines: what a row says is what the options allow, and what `auto` falls back to is told."""

from __future__ import annotations

import copy
import logging
import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest
import torch

from lorat_plugin import plugins
from lorat_plugin.devices import slow_precision
from lorat_plugin.engines import check_options, list_engines, list_precisions, prepare, select
from lorat_plugin.engines.select import ENGINES, EngineKind, choose_precision
from lorat_plugin.errors import InputError

CPU = torch.device("cpu")


def test_names_follow_from_the_table(monkeypatch):
    monkeypatch.setitem(ENGINES, "toy", EngineKind(lambda network, *_: network, {"cpu": ("fp32", "int4")}))
    assert "toy" in list_engines() and "int4" in list_precisions()
    assert check_options("cpu", "toy", "int4") == CPU
    with pytest.raises(InputError, match=r"engine 'eager' runs .*, not int4 on cpu: use engine auto or eager"):
        check_options("cpu", "eager", "int4")
    with pytest.raises(InputError, match=r"engine 'auto' has no int4 on cpu: name one \(toy\)"):
        check_options("cpu", "auto", "int4")
    with pytest.raises(InputError, match="unknown engine 'tor': use auto or eager, fused"):
        check_options("cpu", "tor", "auto")
    with pytest.raises(InputError, match="unknown precision 'int3': use auto, fp32"):
        check_options("cpu", "auto", "int3")


def test_an_engine_of_another_device_is_refused(monkeypatch):
    monkeypatch.setitem(ENGINES, "toy", EngineKind(lambda network, *_: network, {"cuda": ("bf16",)}))
    with pytest.raises(InputError, match="'toy' runs bfloat16 on a CUDA GPU, not auto on cpu"):
        check_options("cpu", "toy", "auto")


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(ENGINES, "toy", EngineKind(ENGINES["eager"].make, {"cpu": ("fp32",)}, "no_such_thing", "toys"))
    with pytest.raises(InputError, match=r"'toy' needs no_such_thing: pip install 'lorat_plugin\[toys\]'"):
        check_options("cpu", "toy", "auto")


def test_auto_stands_for_the_devices_best_precision_or_the_engines_first(monkeypatch):
    monkeypatch.setitem(ENGINES, "toy", EngineKind(ENGINES["eager"].make, {"cpu": ("int4", "bf16")}))
    assert choose_precision("toy", CPU, "auto") == "int4"
    assert choose_precision("toy", CPU, "bf16") == "bf16"
    assert choose_precision("eager", CPU, "auto") == choose_precision("auto", CPU, "auto") == "fp32"


def test_auto_tells_what_it_takes_instead(tiny_network, monkeypatch, caplog):
    def refuse(network, precision, calibration):
        raise InputError("engine 'fused' is out of order")

    monkeypatch.setitem(ENGINES, "fused", EngineKind(refuse, {"cpu": ("fp32",)}))
    with caplog.at_level(logging.INFO):
        assert prepare(tiny_network, "cpu")[0] is tiny_network
    assert "engine 'fused' is out of order; eager is used" in caplog.text
    with pytest.raises(InputError, match="out of order"):
        prepare(tiny_network, "cpu", "fused")


def test_memory_that_is_used_up_is_told(tiny_network, monkeypatch, caplog):
    def greedy(network, precision, calibration):
        raise torch.cuda.OutOfMemoryError("too much")

    monkeypatch.setitem(ENGINES, "greedy", EngineKind(greedy, {"any": ("fp32",)}))
    with pytest.raises(InputError, match="cpu has no memory left for engine 'greedy': use a smaller model"):
        prepare(tiny_network, "cpu", "greedy")
    monkeypatch.setattr(select, "AUTO", ("greedy", "eager"))
    with caplog.at_level(logging.INFO):
        assert prepare(tiny_network, "cpu")[0] is tiny_network
    assert "eager is used" in caplog.text


def test_a_precision_without_hardware_is_taken_when_named_and_told(tiny_network, caplog):
    assert next(prepare(copy.deepcopy(tiny_network), "cpu", "eager")[0].parameters()).dtype == torch.float32
    assert not caplog.text
    engine, _ = prepare(copy.deepcopy(tiny_network), "cpu", "eager", "fp16")
    assert next(engine.parameters()).dtype == torch.float16
    assert "cpu has no fast arithmetic for fp16" in caplog.text


@pytest.mark.parametrize(("able", "slow"), [({}, True), ({"avx2": True}, True), ({"amx_bf16": True}, False)])
def test_bf16_is_slow_on_a_processor_without_such_arithmetic(monkeypatch, able, slow):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able, raising=False)
    assert slow_precision(CPU, "bf16") is slow


def test_the_table_needs_no_torch():
    code = "import sys, lorat_plugin.engines; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_engines_of_other_packages_are_used_by_name(tiny_network, monkeypatch):
    points = [
        EntryPoint("theirs", f"{__name__}:THEIRS", select.GROUP),
        EntryPoint("broken", "no_such_package:thing", select.GROUP),
        EntryPoint("wrong", "builtins:dict", select.GROUP),
    ]
    monkeypatch.setattr(plugins, "entry_points", lambda group: points if group == "lorat_plugin.engines" else [])
    monkeypatch.setattr(select, "ENGINES", dict(ENGINES))
    assert {"theirs", "broken"} <= set(list_engines())
    assert prepare(tiny_network, "cpu", "theirs")[0] == (tiny_network, "int4")
    with pytest.raises(InputError, match="'broken': no_such_package:thing cannot be loaded"):
        check_options("cpu", "broken", "auto")
    with pytest.raises(InputError, match=r"engine 'wrong': .* is no EngineKind"):
        check_options("cpu", "wrong", "auto")
    with pytest.raises(InputError, match=r"unknown engine 'none': use auto or .*theirs"):
        check_options("cpu", "none", "auto")


THEIRS = EngineKind(lambda network, precision, calibration: (network, precision), {"cpu": ("int4",)})
