"""Long-term precision, recall and F-score equal the VOT toolkit's."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lorat_plugin.evaluation.registry import open_benchmark
from lorat_plugin.evaluation.results import notes_folder, result_files
from lorat_plugin.evaluation.scoring import (
    LongTermRun,
    long_term_run,
    measure_long_term,
    precision_recall,
    score_tracker,
)
from lorat_plugin.harness.vot_tools.workspace import create_workspace
from lorat_plugin.settings import TrackerSettings
from tests.helpers.sequences import write_frames

longterm = pytest.importorskip("vot.analysis.longterm")
SIZE = (120, 90)


def made_run(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth (N, 4) with NaN where the target is absent, boxes (N, 4) in whole pixels, and confidences (N,)."""
    rng = np.random.default_rng(seed)
    truth = np.concatenate([rng.integers(0, 60, (count, 2)), rng.integers(15, 45, (count, 2))], 1).astype(float)
    boxes = truth + rng.integers(-8, 9, (count, 4))
    confidences = rng.random(count).round(2)
    absent = rng.random(count) < 0.3
    absent[0] = False
    confidences[absent] *= rng.random(count)[absent] < 0.5
    truth[absent] = np.nan
    boxes[0] = truth[0]
    return truth, boxes, confidences.round(2)


def test_precision_and_recall_are_those_of_the_toolkit() -> None:
    from vot.region import Rectangle, Special

    truth, boxes, confidences = made_run(60, 0)
    present = np.isfinite(truth).all(axis=1)
    thresholds = np.unique(confidences[1:])
    ours = precision_recall(long_term_run(truth, present, boxes, confidences, SIZE), thresholds)
    regions = [Rectangle(*row) if seen else Special(0) for row, seen in zip(truth, present, strict=True)]
    sequence = SimpleNamespace(size=SIZE, groundtruth=lambda: regions[1:])
    theirs = longterm.compute_tpr_curves([Rectangle(*row) for row in boxes[1:]], confidences[1:], sequence, thresholds)
    np.testing.assert_allclose(ours, np.array(theirs), atol=1e-12)


def test_scores_are_those_of_the_toolkit_on_a_workspace(tmp_path: Path, tiny_weights: Path) -> None:
    """The same results in our files and in a workspace of the long-term stack.

    The toolkit counts the first frame, whose box it gives, as a visible one with overlap 0 and confidence 0.
    """
    from vot.analysis.longterm import PrecisionRecall
    from vot.analysis.processor import AnalysisProcessor
    from vot.region import Rectangle, Special
    from vot.tracker import Trajectory
    from vot.utilities import ThreadPoolExecutor
    from vot.workspace import Workspace

    made = {"one": made_run(40, 1), "two": made_run(55, 2)}
    for name, (truth, _, _) in made.items():
        write_frames(tmp_path / "clips" / name, [np.zeros((*SIZE[::-1], 3), np.uint8)] * len(truth))
        np.savetxt(tmp_path / "clips" / name / "groundtruth.txt", truth, fmt="%g", delimiter=",")
    settings = TrackerSettings(weights=str(tiny_weights), device="cpu")
    create_workspace(tmp_path / "workspace", tmp_path / "clips", settings, stack="longterm", protocols=["python"])
    workspace = Workspace.load(str(tmp_path / "workspace"))
    (tracker,) = workspace.registry.resolve("LoRATPython", storage=workspace.storage.substorage("results"))
    experiment = workspace.stack["longterm"]
    benchmark = open_benchmark("clips", tmp_path / "clips")
    files = result_files(benchmark, tmp_path / "results", "Made")
    scores = notes_folder(benchmark, tmp_path / "results", "Made") / "scores"
    scores.mkdir(parents=True)
    sequences = {sequence.name: sequence for sequence in benchmark.sequences}
    runs = []
    for sequence in workspace.dataset:
        truth, boxes, confidences = made[sequence.name]
        trajectory = Trajectory(len(boxes))
        trajectory.set(0, Special(Trajectory.INITIALIZATION), {})
        for frame in range(1, len(boxes)):
            trajectory.set(frame, Rectangle(*boxes[frame]), {"confidence": float(confidences[frame])})
        trajectory.write(experiment.results(tracker, sequence), f"{sequence.name}_001")
        files.begin(sequences[sequence.name])
        files.write(sequence.name, [boxes], np.zeros((len(boxes), 1)))
        np.savetxt(scores / f"{sequence.name}.txt", confidences)
        run = long_term_run(truth, np.isfinite(truth[:, 0]), boxes, confidences, SIZE)
        runs.append(LongTermRun(*(np.append(first, part) for first, part in zip((True, 0, 0, 1), run, strict=True))))
    with AnalysisProcessor(ThreadPoolExecutor(1), None) as processor:
        theirs = processor.run(PrecisionRecall(), experiment, [tracker], list(workspace.dataset))[0, 0]
    ours = measure_long_term(runs)
    assert (ours.precision, ours.recall, ours.f_score) == pytest.approx(theirs, abs=1e-6)
    reported = score_tracker(benchmark, files).long_term
    assert reported is not None
    assert reported == measure_long_term([LongTermRun(*(part[1:] for part in run)) for run in runs])
    assert reported.f_score > ours.f_score  # by the two first frames
