"""`lorat demo`: sequences in GOT-10k layout, trackers through the real GOT-10k toolkit, scores and a video.

Three steps, in this order: `prepare_sequences`, `run_tracker` for each tracker, `summarize`. Everything goes into one
folder:

    sequences/val/<sequence>/          the frames, as the toolkit reads them
    results/GOT-10k/<tracker>/         boxes and times that the toolkit records
    reports/GOT-10k/<first tracker>/   the toolkit's performance.json and success_plot.png
    demo.mp4, results.json             written here
"""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from lorat_plugin.box_files import read_boxes
from lorat_plugin.boxes import iou, success_auc, xywh_to_xyxy
from lorat_plugin.datasets.clips import find_scorable_clips, link_clips, write_sequences
from lorat_plugin.errors import InputError
from lorat_plugin.evaluation.benchmarks import Benchmark
from lorat_plugin.evaluation.registry import open_benchmark
from lorat_plugin.evaluation.results import ResultFiles
from lorat_plugin.evaluation.runner import FrameTracker
from lorat_plugin.evaluation.scoring import score_tracker
from lorat_plugin.files import write_json
from lorat_plugin.images import read_image
from lorat_plugin.tracking import TrackResult
from lorat_plugin.video.demo_clips import CLIPS, read_demo_clip
from lorat_plugin.video.outputs import AnnotatedVideo
from lorat_plugin.video.source import Frame

logger = logging.getLogger(__name__)

FOLDER = "lorat_demo"
FPS = 20
MAX_FRAMES = 1500  # later sequences are left out of the video
MAX_SIDE = 960  # pixels; larger frames are shrunk


def prepare_sequences(folder: Path, data: Path | None = None) -> dict[str, int]:
    """Write the sequences to `<folder>/sequences`, replacing those and the reports of an earlier run.

    Args:
        folder: of the demonstration; it is created where it is missing.
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
    # the report of an earlier run must not be taken for this one's
    shutil.rmtree(folder / "reports", ignore_errors=True)
    for name in ("demo.mp4", "results.json"):
        (folder / name).unlink(missing_ok=True)
    return lengths


def run_tracker(folder: Path, tracker: FrameTracker) -> None:
    """Run a tracker on the sequences by `ExperimentGOT10k.run`.

    Records of an earlier run under the same name are deleted first: the toolkit would skip those sequences. What the
    toolkit prints goes to the debug log.
    """
    experiment = _experiment(folder)
    shutil.rmtree(Path(experiment.result_dir) / tracker.name, ignore_errors=True)
    with _toolkit_output():
        experiment.run(tracker)


def summarize(folder: Path, trackers: Sequence[str], model: str) -> dict[str, Any]:
    """Report by `ExperimentGOT10k.report`, score, and write the video and results.json.

    The toolkit's report and the video are about the first tracker; the video shows the best of the others beside it.
    Returns the content of results.json: `model`; `opencv`, its version; `trackers`, by name, the best AUC first: `ao`,
    `sr50`, `sr75` of all frames together, `auc`, success averaged over the overlap thresholds 0, 0.05 ... 1, then over
    sequences, `fps` and `sequence_auc`, each without the first frame and frames without a target; `sequences`, frames
    by name; `success_plot` and `video`, paths.
    """
    import matplotlib.pyplot as plt

    experiment = _experiment(folder)
    with _toolkit_output():
        experiment.report(list(trackers))
    plt.close("all")
    benchmark = open_benchmark("got10k", folder / "sequences", "val", experiment.dataset.seq_names)
    home = Path(experiment.result_dir)
    files = {name: ResultFiles(name, home / name, benchmark.layout, benchmark.origin) for name in trackers}
    scores = {name: _score(benchmark, files[name]) for name in trackers}
    scores = dict(sorted(scores.items(), key=lambda item: -item[1]["auc"]))
    rivals = [name for name in scores if name != trackers[0]][:1]
    video = folder.resolve() / "demo.mp4"
    write_video(video, benchmark, {name: files[name] for name in (trackers[0], *rivals)})
    report = {
        "model": model,
        "opencv": cv2.__version__,
        "trackers": scores,
        "sequences": {sequence.name: len(sequence) for sequence in benchmark.sequences},
        "success_plot": str(Path(experiment.report_dir) / trackers[0] / "success_plot.png"),
        "video": str(video),
    }
    write_json(folder.resolve() / "results.json", report)
    return report


def _score(benchmark: Benchmark, files: ResultFiles) -> dict[str, Any]:
    score = score_tracker(benchmark, files, "got10k")
    aucs = {name: success_auc(overlaps[~np.isnan(overlaps)]) for name, overlaps in score.overlaps.items()}
    return {
        "ao": score.overall.ao,
        "sr50": score.overall.sr50,
        "sr75": score.overall.sr75,
        "auc": float(np.mean(list(aucs.values()))),
        "fps": score.fps,
        "sequence_auc": aucs,
    }


def write_video(path: Path, benchmark: Benchmark, files: Mapping[str, ResultFiles]) -> None:
    """Write an mp4 of the truth and of trackers, by name, on all sequences, each box with its overlap as the score.

    Frames are shrunk and padded to one size. Raises InputError if this OpenCV cannot write the file.
    """
    names = dict(enumerate(("ground truth", *files)))
    sizes = np.array([read_image(Path(sequence.frames[0])).shape[:2] for sequence in benchmark.sequences])
    zoom = min(1.0, MAX_SIDE / float(sizes.max()))
    height, width = (max(2, int(side * zoom) // 2 * 2) for side in sizes.max(axis=0))  # encoders want even sizes
    written = 0
    with AnnotatedVideo(path, FPS, names) as video:
        for sequence in benchmark.sequences:
            if written and written + len(sequence) > MAX_FRAMES:
                break
            tracks = [sequence.boxes, *(read_boxes(one.boxes_path(sequence.name)) for one in files.values())]
            for index, file in enumerate(islice(sequence.frames, MAX_FRAMES)):
                image = cv2.resize(read_image(Path(file)), None, fx=zoom, fy=zoom, interpolation=cv2.INTER_AREA)
                image = image[:height, :width]
                padding = ((0, height - image.shape[0]), (0, width - image.shape[1]), (0, 0))
                truth = xywh_to_xyxy(sequence.boxes[index])
                results = {
                    number: TrackResult(boxes[index] * zoom, float(iou(xywh_to_xyxy(boxes[index]), truth)))
                    for number, boxes in enumerate(tracks)
                    if min(boxes[index][2:]) > 0
                }
                video.write(Frame(written, file, np.pad(image, padding)), results, 0.0)
                written += 1


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
