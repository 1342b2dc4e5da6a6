"""The toolkit's experiments, and ours where it has none, read what was written for a benchmark."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("got10k.experiments")
import matplotlib
import matplotlib.pyplot as plt

from lorat_plugin.boxes import iou, xywh_to_xyxy
from lorat_plugin.datasets.sequences import VideoSequence
from lorat_plugin.errors import InputError
from lorat_plugin.evaluation import (
    ExperimentBenchmark,
    ExperimentClips,
    ExperimentLaSOT,
    ExperimentLaSOTExt,
    ExperimentTNL2K,
    ExperimentTrackingNet,
    ExperimentVastTrack,
    toolkit_experiment,
)
from lorat_plugin.evaluation.baselines import StaticTracker
from lorat_plugin.evaluation.benchmarks import Benchmark
from lorat_plugin.evaluation.results import result_files
from tests.evaluation.test_registry_of_benchmarks import CASES, opened
from tests.helpers import datasets

matplotlib.use("Agg")
pytestmark = pytest.mark.toolkit
TOOLKIT = {
    "got10k": "ExperimentGOT10k",
    "uav123": "ExperimentUAV123",
    "uav20l": "ExperimentUAV123",
    "nfs": "ExperimentNfS",
    "otb": "ExperimentOTB",
    "dtb70": "ExperimentDTB70",
    "tcolor128": "ExperimentTColor128",
}
SCORED = [case for case in CASES if case not in ("got10k:test", "trackingnet", "nfs:240", "uav20l")]


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")  # the toolkit leaves them open


def found(sequence: VideoSequence) -> np.ndarray:
    """Made-up results (N, 4): some pixels off, more so in later frames."""
    offsets = np.arange(len(sequence)) % 6
    return np.nan_to_num(sequence.boxes, nan=5.0) + np.stack([offsets, offsets * 0.5, 0 * offsets, offsets], axis=1)


def write(benchmark: Benchmark, results: Path, tracker: str, measured: bool) -> None:
    files = result_files(benchmark, results, tracker)
    for sequence in benchmark.sequences:
        boxes = found(sequence) if measured else np.tile(sequence.boxes[:1], (len(sequence), 1))
        files.write(sequence.name, [boxes], np.full((len(boxes), 1), 0.02 if measured else 0.0))


@pytest.mark.parametrize("case", SCORED)
def test_reports_read_what_was_written(case: str, tmp_path: Path) -> None:
    benchmark = opened(case, tmp_path / "data")
    experiment = toolkit_experiment(benchmark, tmp_path / "results", tmp_path / "reports")
    assert type(experiment).__name__ == TOOLKIT.get(benchmark.name, "ExperimentBenchmark")
    assert (type(experiment).__module__.partition(".")[0] == "got10k") == (benchmark.name in TOOLKIT)
    for tracker, measured in (("LoRAT", True), ("Still", False)):
        write(benchmark, tmp_path / "results", tracker, measured)
    performance = experiment.report(["LoRAT", "Still"])
    assert (tmp_path / "reports" / benchmark.folder / "LoRAT" / "performance.json").is_file()
    overall = {tracker: scores["overall"] for tracker, scores in performance.items()}
    assert overall["LoRAT"]["speed_fps"] == pytest.approx(50) and overall["Still"]["speed_fps"] == -1
    assert list(performance["LoRAT"]["seq_wise"]) == benchmark.seq_names
    if benchmark.name == "got10k":  # its mean is over frames, without the first of a sequence and those not visible
        files = result_files(benchmark, tmp_path / "results", "LoRAT")  # whole pixels
        pairs = [(files.read(s)[1:], s.boxes[1:], s.present[1:]) for s in benchmark.sequences]
        overlaps = [iou(xywh_to_xyxy(boxes), xywh_to_xyxy(truth))[seen] for boxes, truth, seen in pairs]
        assert overall["LoRAT"]["ao"] == pytest.approx(np.concatenate(overlaps).mean(), abs=1e-9)
        return
    rates = []
    for sequence in benchmark.sequences:
        overlaps = iou(xywh_to_xyxy(np.round(found(sequence), 3)), xywh_to_xyxy(sequence.boxes))
        seen = sequence.present & ~np.isnan(sequence.boxes[:, 0]) & (sequence.boxes[:, 2] > 0)
        frames = seen.sum() if benchmark.name == "uav123" else len(sequence)  # which leaves NaN boxes out
        rates.append((overlaps[seen, None] > np.linspace(0, 1, 21)).sum(axis=0).mean() / frames)
    assert overall["LoRAT"]["success_score"] == pytest.approx(np.mean(rates), abs=1e-9)


def test_got10k_test_is_packed_and_trackingnet_is_not_scored(tmp_path: Path) -> None:
    benchmark = opened("got10k:test", tmp_path / "got10k")
    write(benchmark, tmp_path / "results", "LoRAT", True)
    assert toolkit_experiment(benchmark, tmp_path / "results").report(["LoRAT"]) is None
    assert (tmp_path / "results" / "GOT-10k" / "LoRAT.zip").is_file()
    datasets.write_trackingnet_test(tmp_path / "trackingnet")
    experiment = ExperimentTrackingNet(tmp_path / "trackingnet", tmp_path / "results", tmp_path / "reports")
    experiment.run(StaticTracker("Still"))
    assert len((tmp_path / "results" / "TrackingNet" / "Still" / "a_0.txt").read_text().splitlines()) == 12
    with pytest.raises(InputError, match=r"a_0 has no box after the first frame.*server"):
        experiment.report(["Still"])


@pytest.mark.parametrize(
    ("case", "make"),
    [
        ("lasot_ext", ExperimentLaSOTExt),
        ("tnl2k", ExperimentTNL2K),
        ("vasttrack", ExperimentVastTrack),
        ("clips", ExperimentClips),
    ],
)
def test_ours_run_a_tracker_of_the_toolkit_s(case: str, make: type, tmp_path: Path) -> None:
    benchmark = opened(case, tmp_path / "data")
    experiment = make(tmp_path / "data", tmp_path / "results", tmp_path / "reports", sequences=benchmark.seq_names[:1])
    experiment.run(StaticTracker("Still"))
    written = result_files(benchmark, tmp_path / "results", "Still").read(benchmark.sequences[0])
    np.testing.assert_allclose(written, np.tile(benchmark.sequences[0].boxes[:1], (len(written), 1)), atol=1e-3)


def test_lasot_by_its_class_and_as_a_benchmark_scores_alike(tmp_path: Path) -> None:
    benchmark = opened("lasot", tmp_path / "data")
    write(benchmark, tmp_path / "results", "LoRAT", True)
    places = {"result_dir": tmp_path / "results", "report_dir": tmp_path / "reports"}
    theirs = ExperimentLaSOT(tmp_path / "data", sequences=benchmark.seq_names, **places).report(["LoRAT"])
    assert ExperimentBenchmark(benchmark, **places).report(["LoRAT"]) == theirs


def test_what_the_toolkit_cannot_score_is_told(tmp_path: Path) -> None:
    datasets.write_rows(tmp_path / "d/A/groundtruth.txt", datasets.write_video(tmp_path / "d/A/imgs", "%d.jpg", 1, 1))
    experiment = ExperimentTNL2K(tmp_path / "d", tmp_path / "results", tmp_path / "reports")
    experiment.run(StaticTracker("Still"))
    with pytest.raises(InputError, match="A: the toolkit cannot score a sequence of one frame; leave it out"):
        experiment.report(["Still"])
    assert not (tmp_path / "reports").exists()
