"""What `lorat demo` does: sequences in GOT-10k layout, trackers through the real GOT-10k toolkit, scores and a video.

Three steps, in this order: `prepare_sequences`, `run_tracker` for each tracker, `summarize`. Everything goes into one
folder:

    sequences/val/<sequence>/          the frames, as the toolkit reads them
    results/GOT-10k/<tracker>/         boxes and times that the toolkit recorded
    reports/GOT-10k/<first tracker>/   the toolkit's performance.json and success_plot.png
    demo.mp4, results.json             ours
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from lorat_plugin.apps.demo_video import write_video
from lorat_plugin.box_files import read_boxes
from lorat_plugin.boxes import iou, success_auc, xywh_to_xyxy
from lorat_plugin.datasets.clips import find_scorable_clips, link_clips, write_sequences
from lorat_plugin.errors import InputError
from lorat_plugin.evaluation.runner import FrameTracker
from lorat_plugin.files import whole_file
from lorat_plugin.video.demo_clips import CLIPS, read_demo_clip

logger = logging.getLogger(__name__)

FOLDER = "lorat_demo"


@dataclass(frozen=True)
class Score:
    """How well a tracker follows the sequences.

    ao, sr50, sr75: the toolkit's average overlap and success rates, over all frames together. auc: success averaged
    over the overlap thresholds 0, 0.05 ... 1, then over sequences. fps: frames/s of the updates, without reading and
    decoding. sequence_auc: name -> auc. The first frame and frames without a target are left out of all of them.
    """

    ao: float
    sr50: float
    sr75: float
    auc: float
    fps: float
    sequence_auc: dict[str, float]


@dataclass(frozen=True)
class DemoReport:
    """Which model LoRAT is; scores by tracker, best auc first; frames by sequence; and where the files are."""

    model: str
    scores: dict[str, Score]
    lengths: dict[str, int]
    success_plot: Path
    video: Path
    results: Path


def prepare_sequences(folder: Path, data: Path | None = None) -> dict[str, int]:
    """Write the sequences to `<folder>/sequences`, replacing those and the reports of an earlier run.

    Args:
        folder: the demonstration's folder, made if need be.
        data: folder of the user's clips (see `find_scorable_clips`); None takes those in the package.
    Returns frames by sequence. Raises InputError if `folder` is a file or the clips cannot be used.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: a file of that name is in the way; remove it or work in another folder")
    if data is not None:
        clips = find_scorable_clips(data)
        link_clips(clips, folder / "sequences")
        lengths = {clip.name: len(clip.frames) for clip in clips}
    else:
        bundled = {name: read_demo_clip(name) for name in CLIPS}
        write_sequences(bundled, folder / "sequences")
        lengths = {name: len(frames) for name, (frames, _) in bundled.items()}
    # what an earlier run said about other sequences must not be taken for this one's
    shutil.rmtree(folder / "reports", ignore_errors=True)
    for name in ("demo.mp4", "results.json"):
        (folder / name).unlink(missing_ok=True)
    return lengths


def run_tracker(folder: Path, tracker: FrameTracker) -> None:
    """Run a tracker on the sequences by `ExperimentGOT10k.run`.

    What an earlier run recorded under the same name is deleted first: the toolkit would skip those sequences. What
    the toolkit prints goes to the debug log.
    """
    experiment = _experiment(folder)
    shutil.rmtree(Path(experiment.result_dir) / tracker.name, ignore_errors=True)
    with _toolkit_output():
        experiment.run(tracker)


def summarize(folder: Path, tracker_names: Sequence[str], model: str) -> DemoReport:
    """Report by `ExperimentGOT10k.report`, score, and write the video and results.json.

    The report and the video are about the first tracker; the video shows the best of the others beside it.
    """
    import matplotlib.pyplot as plt

    experiment = _experiment(folder)
    with _toolkit_output():
        performance = experiment.report(list(tracker_names))
    plt.close("all")
    scores = {name: _score(experiment, name, performance[name]["overall"]) for name in tracker_names}
    scores = dict(sorted(scores.items(), key=lambda item: -item[1].auc))
    first = tracker_names[0]
    rivals = [name for name in scores if name != first][:1]
    experiment.dataset.return_meta = False
    sequences = {name: experiment.dataset[name] for name in experiment.dataset.seq_names}
    shown = {
        tracker: {name: read_boxes(_record(experiment, tracker, name)) for name in sequences}
        for tracker in (first, *rivals)
    }
    report = DemoReport(
        model,
        scores,
        {name: len(anno) for name, (_, anno) in sequences.items()},
        Path(experiment.report_dir) / first / "success_plot.png",
        folder.resolve() / "demo.mp4",
        folder.resolve() / "results.json",
    )
    write_video(report.video, sequences, shown)
    with whole_file(report.results) as part:
        part.write_text(json.dumps(as_dict(report), indent=2) + "\n", encoding="utf-8")
    return report


def as_dict(report: DemoReport) -> dict[str, Any]:
    """The report as plain values for JSON."""
    return {
        "model": report.model,
        "opencv": cv2.__version__,
        "trackers": {name: asdict(score) for name, score in report.scores.items()},
        "sequences": report.lengths,
        "success_plot": str(report.success_plot),
        "video": str(report.video),
    }


def _experiment(folder: Path) -> Any:
    import matplotlib

    matplotlib.use("Agg")  # the toolkit imports pyplot, and there may be no display
    from got10k.experiments import ExperimentGOT10k

    # keywords and absolute folders: the order of arguments differs between releases, and a report may change folders
    root = folder.resolve()
    return ExperimentGOT10k(
        root_dir=str(root / "sequences"),
        subset="val",
        result_dir=str(root / "results"),
        report_dir=str(root / "reports"),
    )


@contextlib.contextmanager
def _toolkit_output() -> Iterator[None]:
    text = io.StringIO()
    try:
        with contextlib.redirect_stdout(text):
            yield
    finally:
        logger.debug("%s", text.getvalue().rstrip())


def _record(experiment: Any, tracker: str, sequence: str) -> Path:
    return Path(experiment.result_dir) / tracker / sequence / f"{sequence}_001.txt"


def _score(experiment: Any, tracker: str, overall: dict[str, Any]) -> Score:
    aucs, seconds = {}, []
    experiment.dataset.return_meta = True
    for name in experiment.dataset.seq_names:
        _, anno, meta = experiment.dataset[name]
        record = _record(experiment, tracker, name)
        overlaps = iou(xywh_to_xyxy(read_boxes(record)), xywh_to_xyxy(anno))[1:]
        aucs[name] = success_auc(overlaps[meta["cover"][1:] > 0])
        times = np.loadtxt(record.with_name(f"{name}_time.txt"), delimiter=",", ndmin=2)
        seconds.append(times[1:, 0])
    return Score(
        ao=float(overall["ao"]),
        sr50=float(overall["sr"]),
        sr75=float(overall["succ_curve"][75]),  # the toolkit's 101 thresholds are hundredths
        auc=float(np.mean(list(aucs.values()))),
        fps=float(1 / np.concatenate(seconds).mean()),
        sequence_auc=aucs,
    )
