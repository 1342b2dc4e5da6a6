"""Speed of networks: counts, setups, rows of the report, and wrong names."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lorat_plugin.cli.main import run
from lorat_plugin.errors import InputError
from lorat_plugin.models import create_model
from lorat_plugin.settings import SpeedTrial
from lorat_plugin.speed import model as speed
from lorat_plugin.speed.model import PRODUCT, Setup, benchmark_model, count, encoded, find_setups, memory_of
from lorat_plugin.speed.rounds import in_process
from lorat_plugin.variants import Variant, get_variant
from tests.helpers.golden_v2 import variant_of

SMALL = replace(get_variant("lorat_tiny"), name="speed", dim=64, depth=1, heads=1, ffn_dim=128)


@pytest.fixture(autouse=True)
def _short_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "ROUND_SECONDS", 0.0)
    monkeypatch.setitem(speed.get_variant.__globals__["_VARIANTS"], SMALL.name, SMALL)


@pytest.mark.parametrize("variant", [SMALL, get_variant("lorat_tiny"), get_variant("lorat_s_378")])
def test_counts_are_those_of_the_arithmetic(variant: Variant) -> None:
    tokens, cells, dim = variant.template_grid**2 + variant.search_grid**2, variant.search_grid**2, variant.dim
    block = tokens * (4 * dim**2 + 2 * variant.ffn_dim * dim) + 2 * tokens**2 * dim
    patches, head = cells * 3 * variant.patch_size**2 * dim, cells * (4 * dim**2 + 5 * dim)
    counts = count(variant)
    assert counts["multiply-accumulates"] == variant.depth * block + patches + head
    assert counts["parameters"] == sum(p.numel() for p in create_model(variant).parameters())


def test_a_phase_two_is_counted_with_its_reference() -> None:
    variant = variant_of("p2", "small")
    kept, cells, dim = 4 + 4**2 + 6**2, 9**2, variant.dim  # tokens of registers, template and reference; of the search
    block = cells * 12 * dim**2 + 2 * cells * (kept + cells) * dim
    macs = variant.depth * block + cells * 3 * 14**2 * dim + cells * (4 * dim**2 + 5 * dim)
    assert count(variant)["multiply-accumulates"] == macs
    engine, _ = Setup("fused", "fp32", "cpu").make(variant)
    assert encoded(engine, 2, torch.device("cpu")).shape == (2, 3, 2, 4, kept, 16)


def test_each_engine_takes_part_with_the_precisions_that_it_has() -> None:
    setups = find_setups(["eager", "fused"], ["fp32", "fp16", "auto"], "cpu")
    assert setups == [Setup(*names, "cpu") for names in (("eager", "fp32"), ("eager", "fp16"), ("fused", "fp32"))]
    assert {"eager", "fused"} <= {setup.engine for setup in find_setups(["all"], ["fp32"], "cpu")}
    with pytest.raises(InputError, match="'fused' runs"):
        find_setups(["eager", "fused"], ["fp16"], "cpu")


def test_every_contestant_is_compared_with_the_baseline(tmp_path: Path) -> None:
    rounds: list[int] = []
    trial = SpeedTrial(rounds=2, device="cpu", on_round=lambda: rounds.append(1))
    report = benchmark_model(["speed"], trial, batches=[1, 2], memory=False)
    assert len(rounds) == 6  # a warm-up and two, for each batch
    assert [c.name for c in report.comparisons[:2]] == ["speed x1 eager fp32", "speed x1 fused fp32"]
    assert [(c.measure, c.reference) for c in report.comparisons[4:7:2]] == [
        ("network alone", "eager fp32"), ("share of the peak", PRODUCT),
    ]  # fmt: skip
    assert report.comparisons[0].ratio == report.comparisons[4].ratio == 1
    fast = report.comparisons[5]
    assert (fast.details["batch"], fast.details["engine"]) == (2, "fused")
    assert fast.details["ms a frame"] == pytest.approx(1e3 / fast.value)
    assert all(0 < c.low <= c.ratio <= c.high for c in report.comparisons)
    json.dumps(report.as_dict())
    report.plot(tmp_path / "ratios.png")


def test_the_baseline_may_be_another_engine() -> None:
    report = benchmark_model(["speed"], SpeedTrial(reference="fused", rounds=1, device="cpu"), memory=False)
    assert report.comparisons[1].ratio == 1 and report.comparisons[0].reference == "fused fp32"


def test_autocast_keeps_float32_weights() -> None:
    engine, device = Setup("autocast", "bf16", "cpu").make(SMALL)
    z, x = torch.randn(1, 3, 70, 70), torch.randn(1, 3, 140, 140)
    with torch.inference_mode():
        prediction = engine.predict([engine.encode_template(z, torch.ones(1, 5, 5, dtype=torch.int64))], x)
        exact = Setup("eager", "fp32", "cpu").make(SMALL)[0]
        template = exact.encode_template(z, torch.ones(1, 5, 5, dtype=torch.int64))
        difference = (prediction.boxes - exact.predict([template], x).boxes).abs().max()
    assert device.type == "cpu" and 0 < difference < 0.01
    with pytest.raises(InputError, match="autocast on cpu needs --precision bf16 or fp16, not auto"):
        find_setups(["autocast"], ["auto"], "cpu")


def test_memory_holds_the_weights_and_activations() -> None:
    setup = Setup("eager", "fp32", "cpu")
    few, many = (in_process(memory_of, SMALL, batch, setup, 1) for batch in (1, 256))
    assert many > few + 256 * 125 * 128 * 4


def test_a_baseline_that_is_not_named_takes_part_with_a_precision_that_it_has(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert find_setups(["auto"], ["auto"], "cpu", "eager") == [
        Setup("eager", "fp32", "cpu"),
        *find_setups(["auto"], ["auto"], "cpu"),
    ]
    setups = find_setups(["fused"], ["bf16"], "cpu", "eager")
    assert [setup.engine for setup in setups] == ["eager", "fused"] and setups[1].precision == "bf16"
    line = "benchmark model --model speed --engine auto --baseline eager --rounds 1 --device cpu --no-memory --json"
    assert run(line.split()) == 0
    rows = [c for c in json.loads(capsys.readouterr().out)["comparisons"] if c["measure"] == "network alone"]
    assert [row["details"]["engine"] for row in rows] == ["eager", "auto"] and rows[0]["ratio"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "lorat_c_224"}, "unknown model 'lorat_c_224'"),
        ({"contestants": ["eager", "warp"]}, "unknown engine 'warp'"),
        ({"precisions": ["fp4"]}, "unknown precision 'fp4'"),
        ({"reference": "warp"}, "unknown engine 'warp': use auto or eager"),
        ({"device": "tpu"}, "device 'tpu' cannot be used"),
    ],
)
def test_wrong_names_are_told(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        benchmark_model([options.pop("model", "speed")], SpeedTrial(**{"device": "cpu", **options}))  # type: ignore[arg-type, list-item]


def test_the_command_prints_ratios_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    line = "benchmark model --model lorat_tiny --batch 1 --engine eager,fused --rounds 1 --device cpu --threads 1"
    assert run([*line.split(), "--json", "--no-memory"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert all(isinstance(c["ratio"], float) for c in report["comparisons"]) and len(report["comparisons"]) == 4
    assert report["machine"]["threads"] == 1 and report["machine"]["versions"]["torch"]
    assert report["settings"]["counts"]["lorat_tiny"]["parameters"] == 11_511_173
