"""Agreement of two runs against hand computations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lorat_plugin.datasets.sequences import box_sequence
from lorat_plugin.errors import InputError
from lorat_plugin.evaluation.benchmarks import Benchmark
from lorat_plugin.evaluation.raw_results import compare_runs
from lorat_plugin.evaluation.results import ResultFiles

SIZE = (120, 90)
RNG = np.random.default_rng(0)
TRUTH = {name: RNG.uniform((10, 10, 20, 20), (40, 30, 50, 40), (6, 4)) for name in ("cat-1", "dog-2")}


def benchmark(name: str = "lasot", origin: int = 1, public: bool = True) -> Benchmark:
    sequences = [
        box_sequence(
            sequence, [f"{i}.jpg" for i in range(6)], b if public else b[:1], np.ones(6 if public else 1, bool), SIZE
        )
        for sequence, b in TRUTH.items()
    ]
    return Benchmark(name, "Set", tuple(sequences), "flat", origin)


def write(files: ResultFiles, boxes: dict[str, np.ndarray]) -> ResultFiles:
    for name, rows in boxes.items():
        files.write(name, [rows], np.zeros((len(rows), 1)))
    return files


def test_figures_equal_a_hand_computation(tmp_path: Path) -> None:
    still = {name: np.tile([10.25, 10.25, 20, 10], (6, 1)) for name in TRUTH}
    other = {name: boxes.copy() for name, boxes in still.items()}
    other["dog-2"][3, 0] += 0.5  # IoU 19.5 / 20.5, edges differ by 0.5, 0, 0.5, 0
    other["dog-2"][4, 0] += 10  # 100 / 300: diverged
    other["dog-2"][5] = np.nan
    ours, theirs = (ResultFiles(name, tmp_path / name, "flat", 1) for name in ("ours", "theirs"))
    found = compare_runs(benchmark(), write(ours, still), write(theirs, other))
    dog = found.sequences["dog-2"]
    assert dog.mean_iou == pytest.approx((3 + 19.5 / 20.5 + 1 / 3) / 6)
    assert (dog.above_99, dog.above_90, dog.first_divergence, dog.frames) == (3 / 6, 4 / 6, 4, 6)
    assert dog.corner == pytest.approx((0.25 + 5) / 5)  # the NaN row has no edges
    cat = found.sequences["cat-1"]
    assert (cat.mean_iou, cat.above_99, cat.first_divergence, cat.corner) == (1, 1, None, 0)
    assert found.overall.mean_iou == pytest.approx((dog.mean_iou + 1) / 2)
    assert cat.auc_difference == 0 and dog.auc_difference is not None
    assert all("start from another box" in note for note in found.notes)


def test_equal_boxes_without_area_agree(tmp_path: Path) -> None:
    boxes = {name: np.array([[10.5, 10, 20, 10], *[[120, 40, 0, 8]] * 5]) for name in TRUTH}
    files = [write(ResultFiles(n, tmp_path / n, "flat", 1), boxes) for n in ("ours", "theirs")]
    assert compare_runs(benchmark(public=False), *files).overall.mean_iou == 1
    assert compare_runs(benchmark(public=False), *files).overall.auc_difference is None


@pytest.mark.parametrize(("layout", "rasterize"), [("ostrack", False), ("pytracking", True)])
def test_files_of_whole_pixels_are_named(layout: str, rasterize: bool, tmp_path: Path) -> None:
    ours = write(ResultFiles("ours", tmp_path / "ours", "flat", 1), TRUTH)
    theirs = write(ResultFiles("theirs", tmp_path / "theirs", layout, 1, rasterize), TRUTH)
    assert compare_runs(benchmark(), ours, theirs).notes[0].startswith("Their files hold whole pixels")
    assert compare_runs(benchmark(), theirs, ours).notes[0].startswith("Our files hold whole pixels")


def test_other_data_and_missing_sequences_are_told(tmp_path: Path) -> None:
    ours = write(ResultFiles("ours", tmp_path / "ours", "flat", 1), TRUTH)
    theirs = write(ResultFiles("theirs", tmp_path / "theirs", "flat", 1), {"dog-2": TRUTH["dog-2"] + 3})
    notes = compare_runs(benchmark(), ours, theirs).notes
    assert "1 of 2 sequences have results of one run only, first cat-1" in notes[0]
    assert notes[1].startswith("theirs: 1 sequences start from another box") and notes[1].endswith("dog-2.")
    assert not compare_runs(benchmark(), ours, write(ResultFiles("x", tmp_path / "x", "flat", 0), TRUTH)).notes
    with pytest.raises(InputError, match="no sequence of lasot in common"):
        compare_runs(benchmark(), ours, ResultFiles("none", tmp_path, "flat"))
    write(theirs, {"dog-2": TRUTH["dog-2"][:3]})
    with pytest.raises(InputError, match=r"dog-2\.txt: 3 rows for 6 frames"):
        compare_runs(benchmark(), ours, theirs)
