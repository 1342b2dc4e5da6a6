"""Scores of result files against the real toolkit, and the tables of them."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from lorat_plugin.box_files import read_boxes
from lorat_plugin.datasets.clips import write_sequences
from lorat_plugin.datasets.sequences import box_sequence
from lorat_plugin.errors import InputError
from lorat_plugin.evaluation.benchmarks import Benchmark
from lorat_plugin.evaluation.protocols import PROTOCOLS
from lorat_plugin.evaluation.results import ResultFiles, result_files
from lorat_plugin.evaluation.scoring import score_tracker
from lorat_plugin.evaluation.tables import show_table, write_tables

WIDTH, HEIGHT = 120, 90
LENGTHS = {"one": 12, "two": 9, "three": 15}


def truths(seed: int = 0) -> dict[str, np.ndarray]:
    """Boxes that reach over the border of the image, some of them absent."""
    rng = np.random.default_rng(seed)
    made = {}
    for name, length in LENGTHS.items():
        boxes = np.column_stack([rng.uniform(-10, 80, (length, 2)), rng.uniform(15, 40, (length, 2))])
        boxes[[3, 6]] = np.nan
        made[name] = boxes.round(4)
    return made


def results(truth: np.ndarray, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    boxes = np.nan_to_num(truth, nan=20.0) + rng.normal(0, 4, truth.shape)
    return np.maximum(boxes, [-50, -50, 1, 1]).round(3)


def benchmark_of(boxes: dict[str, np.ndarray], name: str, **rest: Any) -> Benchmark:
    attributes = {"one": ("Fast Motion",), "two": ("Fast Motion", "Blur")}
    sequences = tuple(
        box_sequence(
            sequence,
            tuple(f"{sequence}/{i}.jpg" for i in range(LENGTHS[sequence])),
            rows,
            ~(np.isnan(rows).any(axis=1) | (rows == 0).all(axis=1)),
            (WIDTH, HEIGHT),
            attributes.get(sequence, ()),
        )
        for sequence, rows in boxes.items()
    )
    return Benchmark(name, **{"folder": name.upper(), "protocol": "lorat", **rest}, sequences=sequences)


def write_results(benchmark: Benchmark, root: Path, tracker: str = "mine", seed: int = 1) -> ResultFiles:
    files = result_files(benchmark, root, tracker)
    for number, sequence in enumerate(benchmark.sequences):
        rng = np.random.default_rng(number)
        times = rng.uniform(0.01, 0.1, (len(sequence), 1)).round(8) * (number != 1)  # one sequence was not timed
        times[0] = 0
        boxes = results(sequence.boxes, seed + number)
        boxes[0] = sequence.boxes[0]
        files.write(sequence.name, [boxes], times)
    return files


@pytest.mark.toolkit
@pytest.mark.parametrize("runs", [1, 3])
def test_got10k_equals_the_toolkits_experiment(runs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiments = pytest.importorskip("got10k.experiments")
    monkeypatch.setenv("MPLBACKEND", "Agg")
    frames = {n: [np.zeros((HEIGHT, WIDTH, 3), np.uint8)] * length for n, length in LENGTHS.items()}
    write_sequences({n: (frames[n], boxes) for n, boxes in truths().items()}, tmp_path / "data")
    read = {n: read_boxes(tmp_path / "data" / "val" / n / "groundtruth.txt") for n in LENGTHS}
    benchmark = benchmark_of(read, "got10k", folder="GOT-10k", layout="nested", protocol="got10k")
    files = write_results(benchmark, tmp_path / "results")
    if runs == 3:  # a tracker that draws random numbers; all are pooled
        files.write("one", [results(read["one"], seed) for seed in range(3)], np.full((12, 3), 0.05))
    ours = score_tracker(benchmark, files)
    experiment = experiments.ExperimentGOT10k(
        root_dir=str(tmp_path / "data"),
        subset="val",
        result_dir=str(tmp_path / "results"),
        report_dir=str(tmp_path / "reports"),
    )
    theirs = experiment.report(["mine"])["mine"]
    assert ours.protocol == "got10k" and ours.overall.precision is None
    assert ours.overall.success.tolist() == theirs["overall"]["succ_curve"]
    for score, row in [(ours.overall, theirs["overall"])] + [(ours.sequences[n], theirs["seq_wise"][n]) for n in read]:
        # three files come in any order, and the order of a sum shows in its last digit
        assert score.ao == (row["ao"] if runs == 1 else pytest.approx(row["ao"], rel=1e-14))
        assert score.sr50 == row["sr"]
    assert ours.overall.sr75 == theirs["overall"]["succ_curve"][75]
    assert ours.overall.frames == sum(LENGTHS.values()) - 3 * 3 + (runs - 1) * (12 - 3)  # not first, not absent
    assert runs == 3 or ours.fps == pytest.approx(theirs["overall"]["speed_fps"], rel=1e-12)
    assert len(ours.overlaps["one"]) == 12
    assert not np.isnan(ours.overlaps["one"][[1, 2, 4]]).any() and np.isnan(ours.overlaps["one"][[0, 3, 6]]).all()


@pytest.mark.toolkit
@pytest.mark.parametrize("origin", [0, 1])
def test_other_sets_equal_the_toolkits_experiments(
    origin: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiments = pytest.importorskip("got10k.experiments")
    monkeypatch.setenv("MPLBACKEND", "Agg")

    class Experiment(experiments.ExperimentUAV123):
        def __init__(self, benchmark: Benchmark) -> None:
            self.dataset = benchmark
            self.result_dir, self.report_dir = (str(tmp_path / part / benchmark.folder) for part in ("r", "reports"))
            self.nbins_iou, self.nbins_ce = 21, 51

    benchmark = benchmark_of(truths(), "lasot" if origin else "uav123", origin=origin)
    files = write_results(benchmark, tmp_path / "r")
    ours = score_tracker(benchmark, files, "got10k")
    theirs = Experiment(benchmark).report(["mine"])["mine"]
    rows = [(ours.overall, theirs["overall"])] + [(ours.sequences[n], theirs["seq_wise"][n]) for n in LENGTHS]
    for score, row in rows:
        np.testing.assert_array_equal(score.success, row["success_curve"])
        np.testing.assert_array_equal(score.precision, row["precision_curve"])
        assert (score.auc, score.precision_score) == (row["success_score"], row["precision_score"])
        assert score.sr50 == row["success_rate"]
    assert ours.overall.ao is None and ours.overall.normalized_precision is None
    assert ours.fps == pytest.approx(theirs["overall"]["speed_fps"], rel=1e-12)


def test_attributes_are_means_over_their_sequences(tmp_path: Path) -> None:
    benchmark = benchmark_of(truths(), "tnl2k")
    score = score_tracker(benchmark, write_results(benchmark, tmp_path))
    by_name = {name: part.auc for name, part in score.sequences.items()}
    assert list(score.attributes) == ["Blur", "Fast Motion"]
    assert score.attributes["Blur"].auc == by_name["two"]
    assert score.attributes["Fast Motion"].auc == pytest.approx((by_name["one"] + by_name["two"]) / 2)
    assert score.overall.auc == pytest.approx(np.mean(list(by_name.values())))
    assert {name: len(rows) for name, rows in score.overlaps.items()} == LENGTHS


def test_times_of_a_batched_run_are_no_speed(tmp_path: Path) -> None:
    benchmark = benchmark_of(truths(), "tnl2k")
    files = write_results(benchmark, tmp_path)
    for sequence in benchmark.sequences:
        files.write(sequence.name, [np.nan_to_num(sequence.boxes)], np.zeros((len(sequence), 1)))
    assert score_tracker(benchmark, files).fps is None


def test_what_cannot_be_scored_says_why(tmp_path: Path) -> None:
    boxes = truths()
    benchmark = benchmark_of(boxes, "got10k", subset="test")
    files = write_results(benchmark, tmp_path)
    for protocol, message in {
        "otb": "unknown protocol 'otb'",
        "stark": r"one\.txt by stark: frame 4: nan.*UAV123",
    }.items():
        with pytest.raises(InputError, match=message):
            score_tracker(benchmark, files, protocol)
    files.boxes_path("two").write_text("1,2,3,4\n" * 5)
    with pytest.raises(InputError, match=r"two\.txt: 5 rows for 9 frames"):
        score_tracker(benchmark, files)
    files.boxes_path("two").unlink()
    with pytest.raises(InputError, match=r"two\.txt: no result of mine"):
        score_tracker(benchmark, files)
    hidden = benchmark_of({**boxes, "two": boxes["two"][:1]}, "got10k", subset="test")
    with pytest.raises(
        InputError, match=r"got10k test: cannot be scored here, only the first box of two.*lorat submit"
    ):
        score_tracker(hidden, files)
    short = box_sequence("short", ("1.jpg",), boxes["one"][:1], np.ones(1, bool), (WIDTH, HEIGHT))
    with pytest.raises(InputError, match="short has one frame only"):
        score_tracker(Benchmark("otb", "OTB", (short,)), files)
    with pytest.raises(InputError, match="no sequences"):
        score_tracker(Benchmark("otb", "OTB", ()), files)


def test_later_runs_are_checked_too(tmp_path: Path) -> None:
    benchmark = benchmark_of(truths(), "got10k", layout="nested")
    files = write_results(benchmark, tmp_path)
    files.boxes_path("one", 2).write_text("1,2,3,4\n")
    with pytest.raises(InputError, match=r"one_002\.txt: 1 rows for 12 frames"):
        score_tracker(benchmark, files)


def test_nan_predictions_name_their_file(tmp_path: Path) -> None:
    benchmark = benchmark_of({"one": np.nan_to_num(truths()["one"], nan=5.0)}, "otb")
    files = write_results(benchmark, tmp_path)
    path = files.boxes_path("one")
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:4], "nan,nan,nan,nan", *lines[5:]]))
    for protocol in ("pytracking", "stark", "got10k"):
        with pytest.raises(
            InputError, match=rf"{re.escape(str(path))} by {protocol}: frame 5: nan,nan,nan,nan is no box"
        ):
            score_tracker(benchmark, files, protocol)
    assert score_tracker(benchmark, files, "lorat").overlaps["one"][4] == 0


@pytest.fixture
def scored(tmp_path: Path) -> list:
    benchmark = benchmark_of(truths(), "tnl2k")
    files = [write_results(benchmark, tmp_path / "r", f"a|b{seed}", seed) for seed in (1, 5)]
    runs = [(files[0], "lorat"), (files[1], "lorat"), (files[0], "got10k")]
    return [score_tracker(benchmark, *run) for run in runs]


def test_tables_hold_every_score_and_name_the_protocol(scored: list, tmp_path: Path) -> None:
    paths = write_tables(scored, tmp_path / "t")
    assert sorted(p.name for p in (tmp_path / "t").iterdir()) == sorted(p.name for p in paths)
    assert len(paths) == 12  # csv, json and md of scores, sequences, attributes and long_term
    for kind, count in (("scores", 3), ("sequences", 9), ("attributes", 6)):
        rows = json.loads((tmp_path / "t" / f"{kind}.json").read_text())
        with (tmp_path / "t" / f"{kind}.csv").open(newline="") as stream:
            table = list(csv.DictReader(stream))
        assert len(rows) == len(table) == count
        for row, cells in zip(rows, table, strict=True):
            assert row["protocol"] == cells["protocol"] and row["tracker"] == cells["tracker"]
            assert float(cells["auc"]) == row["auc"]
            assert cells["ao"] == "" and row["ao"] is None
    overall = json.loads((tmp_path / "t" / "scores.json").read_text())
    assert overall[0]["success_curve"] == scored[0].overall.success.tolist()
    assert overall[2]["normalized_precision_curve"] is None
    text = (tmp_path / "t" / "scores.md").read_text()
    assert f"lorat: {PROTOCOLS['lorat']}." in text and f"got10k: {PROTOCOLS['got10k']}." in text
    assert f"| a\\|b1 | 36 | {scored[0].overall.auc:.3f} |" in text
    sequences = (tmp_path / "t" / "sequences.md").read_text()
    assert f"| a\\|b5 | two | 9 | {scored[1].sequences['two'].auc:.3f} |" in sequences


def test_tables_of_an_earlier_run_do_not_stay(scored: list, tmp_path: Path) -> None:
    write_tables(scored, tmp_path)
    benchmark = benchmark_of({"three": truths()["three"]}, "tnl2k")
    write_tables([score_tracker(benchmark, write_results(benchmark, tmp_path / "r"))], tmp_path)
    assert not list(tmp_path.glob("attributes.*"))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        write_tables(scored, tmp_path / "file")


def test_the_terminal_shows_a_table_for_each_protocol(scored: list) -> None:
    console = Console(file=io.StringIO(), width=140)
    show_table(scored, console)
    text = console.file.getvalue()
    assert "tnl2k, protocol lorat" in text and "tnl2k, protocol got10k" in text
    assert f"{scored[0].overall.normalized_precision_score:.3f}" in text
    headings = [line for line in text.splitlines() if "success AUC" in line]
    assert ["normalised precision" in line for line in headings] == [True, False]  # the toolkit has none
