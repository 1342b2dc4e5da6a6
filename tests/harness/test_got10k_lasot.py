"""ExperimentLaSOT against hand computations."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lorat_plugin import LoRATTracker
from lorat_plugin.errors import InputError
from lorat_plugin.network import LoRATNetwork
from tests.helpers.sequences import square_sequence, write_frames

pytest.importorskip("got10k.experiments")
import matplotlib

from lorat_plugin.datasets.folders import lasot_split
from lorat_plugin.evaluation import ExperimentLaSOT
from lorat_plugin.harness.got10k import TrackerLoRAT

matplotlib.use("Agg")
pytestmark = pytest.mark.toolkit


def write_lasot(home: Path, boxes: np.ndarray, occluded: tuple[int, ...] = (), gone: tuple[int, ...] = ()) -> None:
    write_frames(home / "img", square_sequence(len(boxes))[0])
    np.savetxt(home / "groundtruth.txt", boxes, fmt="%d", delimiter=",")
    for name, frames in (("full_occlusion.txt", occluded), ("out_of_view.txt", gone)):
        (home / name).write_text(",".join(str(int(i in frames)) for i in range(len(boxes))))


def write_results(root: Path, tracker: str, sequence: str, boxes: np.ndarray) -> None:
    home = root / "LaSOT" / tracker
    (home / "times").mkdir(parents=True, exist_ok=True)
    np.savetxt(home / f"{sequence}.txt", boxes, fmt="%.3f", delimiter=",")
    np.savetxt(home / "times" / f"{sequence}_time.txt", np.full(len(boxes), 0.02), fmt="%.8f")


TRUTH = np.tile([11.0, 21.0, 20.0, 10.0], (5, 1))
FOUND = TRUTH + np.array([[0, 0, 0, 0], [0, 0, 0, 0], [10, 0, 0, 0], [2, 1, 0, 0], [0, 5, 0, 0]])
# frame 2: IoU 100 / 300, 10 px, 0.5 widths; frame 3: 162 / 238, sqrt(5) px, sqrt(0.02); frame 4: 100 / 300, 5 px, 0.5
IOUS = np.array([1, 1, 1 / 3, 162 / 238, 1 / 3])
ERRORS = np.array([0, 0, 10, 5**0.5, 5])
NORMALIZED = np.array([0, 0, 0.5, 0.02**0.5, 0.5])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_lasot(tmp_path / "data" / "dog" / "dog-1", TRUTH)
    write_lasot(tmp_path / "data" / "cat-2", TRUTH, occluded=(3,), gone=(4,))  # flat layout
    return tmp_path / "data"


def test_both_layouts_are_read_and_invisible_frames_are_nan(root: Path) -> None:
    dataset = ExperimentLaSOT(root, sequences=["dog-1", "cat-2"]).dataset
    assert len(dataset) == 2
    files, boxes = dataset[0]
    assert files[0].endswith("00000001.jpg") and Path(files[0]).is_absolute()
    np.testing.assert_array_equal(boxes, TRUTH)
    assert np.isnan(dataset["cat-2"][1]).all(axis=1).tolist() == [False, False, False, True, True]
    assert len(list(dataset)) == 2  # the old sequence protocol ends by IndexError


def test_the_split_is_the_toolkits() -> None:
    assert len(lasot_split("test")) == 280 and len(lasot_split("train")) == 1120
    assert "airplane-1" in lasot_split("test")


@pytest.mark.parametrize("rule", ["penalize", "drop"])
def test_scores_equal_a_hand_computation(rule: str, root: Path, tmp_path: Path) -> None:
    experiment = ExperimentLaSOT(
        root,
        result_dir=tmp_path / "results",
        report_dir=tmp_path / "reports",
        sequences=["dog-1", "cat-2"],
        invisible=rule,
    )
    for sequence in ("dog-1", "cat-2"):
        write_results(tmp_path / "results", "mine", sequence, FOUND)
    performance = experiment.report(["mine"])["mine"]

    seen = np.array([1, 1, 1, 0, 0], bool)
    frames = 5 if rule == "penalize" else 3
    thresholds = np.linspace(0, 1, 21)
    dog = (IOUS[:, None] > thresholds).mean(axis=0)
    cat = (IOUS[seen, None] > thresholds).sum(axis=0) / frames
    by_name = performance["seq_wise"]
    np.testing.assert_allclose(by_name["dog-1"]["success_curve"], dog)
    np.testing.assert_allclose(by_name["cat-2"]["success_curve"], cat)
    assert performance["overall"]["success_score"] == pytest.approx((dog.mean() + cat.mean()) / 2)
    assert by_name["dog-1"]["precision_curve"][5] == pytest.approx(0.8)
    assert by_name["cat-2"]["precision_score"] == pytest.approx(3 / frames)

    at = np.arange(51) / 100
    dog = (NORMALIZED[:, None] <= at).mean(axis=0)
    cat = (NORMALIZED[seen, None] <= at).sum(axis=0) / frames
    np.testing.assert_allclose(by_name["dog-1"]["normalized_precision_curve"], dog)
    np.testing.assert_allclose(by_name["cat-2"]["normalized_precision_curve"], cat)
    assert by_name["dog-1"]["normalized_precision_score"] == pytest.approx(3 / 5)
    assert by_name["cat-2"]["normalized_precision_score"] == pytest.approx(2 / frames)
    assert performance["overall"]["normalized_precision_auc"] == pytest.approx((dog.mean() + cat.mean()) / 2)
    folder = tmp_path / "reports" / "LaSOT" / "mine"
    assert json.loads((folder / "performance.json").read_text())["mine"] == performance
    assert sorted(path.name for path in folder.glob("*.png")) == [
        "normalized_precision_plots.png",
        "precision_plots.png",
        "success_plots.png",
    ]


def test_lorat_runs_and_is_reported_beside_another(
    tiny_network: LoRATNetwork, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    experiment = ExperimentLaSOT(root, sequences=["dog-1"])  # default folders
    assert os.path.isabs(experiment.result_dir) and os.path.isabs(experiment.report_dir)
    experiment.run(TrackerLoRAT(tracker=LoRATTracker(tiny_network, device="cpu")))
    assert (tmp_path / "results/LaSOT/LoRAT/times/dog-1_time.txt").is_file()
    write_results(tmp_path / "results", "mine", "dog-1", FOUND)
    performance = experiment.report(["LoRAT", "mine"])
    assert set(performance) == {"LoRAT", "mine"}
    assert performance["mine"]["overall"]["speed_fps"] == pytest.approx(50)


def test_missing_data_say_which_layout_is_wanted(root: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere is no folder.*its layout is ROOT/airplane/airplane-1/"):
        ExperimentLaSOT(root / "nowhere")
    with pytest.raises(InputError, match=r"279 of 280 LaSOT sequences are missing, first 'airplane-1'"):
        ExperimentLaSOT(root)
    with pytest.raises(InputError, match="1 of 2 LaSOT sequences are missing, first 'dog-9'"):
        ExperimentLaSOT(root, sequences=["dog-1", "dog-9"])
    with pytest.raises(InputError, match="lasot has no subset 'val'"):
        ExperimentLaSOT(root, subset="val")
    with pytest.raises(InputError, match="no sequences"):
        ExperimentLaSOT(root, sequences=[])
    with pytest.raises(InputError, match="'penalize' or 'drop'"):
        ExperimentLaSOT(root, sequences=["dog-1"], invisible="ignore")


def test_bad_files_are_named(root: Path) -> None:
    home = root / "dog" / "dog-1"
    (home / "out_of_view.txt").write_text("0,0,1")
    with pytest.raises(InputError, match=r"out_of_view\.txt: wanted 5 numbers"):
        ExperimentLaSOT(root, sequences=["dog-1"])
    (home / "groundtruth.txt").write_text("1,2,3,4\n")
    (home / "out_of_view.txt").write_text("0")
    (home / "full_occlusion.txt").write_text("0")
    with pytest.raises(InputError, match="5 frames in img but 1 rows"):
        ExperimentLaSOT(root, sequences=["dog-1"])


def test_missing_and_short_results_are_named(root: Path, tmp_path: Path) -> None:
    experiment = ExperimentLaSOT(root, result_dir=tmp_path / "r", report_dir=tmp_path / "p", sequences=["dog-1"])
    with pytest.raises(InputError, match=r"dog-1\.txt: no result of mine"):
        experiment.report(["mine"])
    write_results(tmp_path / "r", "mine", "dog-1", FOUND[:3])
    with pytest.raises(InputError, match="3 rows for 5 frames"):
        experiment.report(["mine"])


def test_importing_the_package_imports_no_toolkit() -> None:
    code = (
        "import sys, lorat_plugin.evaluation as e; assert 'ExperimentLaSOT' in dir(e);"
        "bad = {'got10k', 'matplotlib', 'torch'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "MPLBACKEND": "Agg"})
