"""Experiments with the interface of the GOT-10k toolkit: ours for the benchmarks that it lacks, else its own.

experiment = toolkit_experiment(open_benchmark("otb", "OTB100"), "results", "reports")
experiment.report(["LoRAT", "SiamFC"])
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from got10k import experiments as toolkit
from got10k.utils.metrics import rect_iou
from matplotlib.figure import Figure

from lorat_plugin.box_files import read_boxes
from lorat_plugin.datasets.sequences import box_sequence
from lorat_plugin.errors import InputError
from lorat_plugin.evaluation.benchmarks import Benchmark
from lorat_plugin.evaluation.provenance import changed_data, settle_settings
from lorat_plugin.evaluation.registry import BENCHMARKS, open_benchmark, toolkit_dataset
from lorat_plugin.evaluation.results import ResultFiles
from lorat_plugin.files import whole_file

logger = logging.getLogger(__name__)

NORMALIZED_THRESHOLDS = np.arange(51) / 100  # centre error in units of the target's width and height
NORMALIZED_RANK = 20  # index of 0.20, where published tables read it

Invisible = Literal["penalize", "drop"]


class ExperimentBenchmark(toolkit.ExperimentOTB):
    """One-pass evaluation on any benchmark: `run(tracker)`, then `report([names])`, as every experiment of the toolkit.

    Overlap and centre are the toolkit's (no added pixel), averaged over frames and then over sequences; the first
    frame counts, as the toolkit has it. The report has `success_*` and `precision_*` as for OTB, and in addition
    `normalized_precision_curve` (share of frames whose centre error, in widths and heights of the target, is at most
    0, 0.01 ... 0.5), `normalized_precision_score` (at 0.2) and `normalized_precision_auc` (mean of the curve), for
    each sequence and overall, and a plot of the curves.

    Frames in which the target is invisible, by the data set's flags or because its box is NaN or has no area:
    - `invisible="penalize"` (default) counts them as failures in every measure. That is what LaSOT's own toolkit
      does: it removes them and still divides by the number of all frames.
    - `invisible="drop"` leaves them out.
    """

    def __init__(
        self,
        benchmark: Benchmark,
        result_dir: str | Path = "results",
        report_dir: str | Path = "reports",
        invisible: Invisible = "penalize",
    ) -> None:
        """Results go to `<result_dir>/<benchmark.folder>/<tracker>/<sequence>.txt`; both folders are made absolute."""
        # not super().__init__: it downloads OTB
        if invisible not in ("penalize", "drop"):
            raise InputError(f"invisible='{invisible}': use 'penalize' or 'drop'")
        folder = benchmark.folder
        self.dataset = _truth(benchmark)
        self.title = folder
        self.origin = benchmark.origin
        self.result_dir = str(Path(result_dir).expanduser().resolve() / folder)
        self.notes = Path(result_dir).expanduser().resolve() / "lorat" / folder  # as `results.notes_folder`
        self.report_dir = str(Path(report_dir).expanduser().resolve() / folder)
        self.nbins_iou = 21
        self.nbins_ce = 51
        self.invisible = invisible

    def run(self, tracker: Any, *args: Any, **keywords: Any) -> None:
        """Track every sequence without a result of its present data; results that are there are kept.

        Takes what this release's `ExperimentOTB.run` takes. Raises InputError for results of other `tracker.settings`,
        or of data from another folder; see `provenance`.
        """
        files = self._files(tracker.name)
        if settings := getattr(tracker, "settings", None):
            settle_settings(self.notes / tracker.name, settings, files)
        for name in self.dataset.seq_names:
            if files.has(name) and (changed := changed_data(files, self.dataset.sequence(name))):
                logger.warning("%s; tracked again", changed)
                files.boxes_path(name).unlink()
        super().run(tracker, *args, **keywords)

    def _record(self, record_file: str, boxes: np.ndarray, times: np.ndarray) -> None:
        """The toolkit's step that writes a result: the record of its data goes first."""
        path = Path(record_file)
        self._files(path.parent.name).begin(self.dataset.sequence(path.stem))
        super()._record(record_file, boxes, times)

    def _files(self, tracker: str) -> ResultFiles:
        home = Path(self.result_dir) / tracker
        return ResultFiles(tracker, home, "flat", self.origin, records=self.notes / tracker / "data")

    def report(self, tracker_names: Sequence[str], *args: Any, **keywords: Any) -> dict[str, Any]:
        """Score recorded results and plot the curves.

        Takes what this release's `ExperimentOTB.report` takes. Returns the content of
        `<report_dir>/<folder>/<first tracker>/performance.json`. Raises InputError if a tracker has no result for a
        sequence, or one with another number of rows, if the truth is not public, or if a sequence has one frame.
        """
        names = list(tracker_names)
        truths = {name: self.dataset[name][1] for name in self.dataset.seq_names}
        for sequence, truth in truths.items():
            if len(truth) == 1:
                raise InputError(f"{sequence}: the toolkit cannot score a sequence of one frame; leave it out")
            if np.isnan(truth[1:]).all():
                raise InputError(
                    f"{self.title}: {sequence} has no box after the first frame, so it cannot be scored here; where the"
                    " truth is not public, the benchmark's server scores"
                )
            for name in names:
                self._files(name).read(self.dataset.sequence(sequence))
        super().report(names, *args, **keywords)
        folder = Path(self.report_dir) / names[0]
        performance: dict[str, Any] = json.loads((folder / "performance.json").read_text(encoding="utf-8"))
        for name in names:
            self._add_normalized_precision(name, performance[name], truths)
        with whole_file(folder / "performance.json") as part:
            part.write_text(json.dumps(performance, indent=4), encoding="utf-8")
        _plot_normalized(performance, folder / "normalized_precision_plots.png", self.title)
        return performance

    def _calc_metrics(self, boxes: np.ndarray, anno: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Overlaps (M,) and centre errors (M,) in pixels by this experiment's rule for invisible frames."""
        visible = ~np.isnan(anno).any(axis=1)
        ious = self._by_rule(rect_iou(boxes[visible], anno[visible]), visible, -1.0)
        errors = np.linalg.norm(_centres(boxes[visible]) - _centres(anno[visible]), axis=1)
        return ious, self._by_rule(errors, visible, np.inf)

    def _by_rule(self, values: np.ndarray, visible: np.ndarray, failure: float) -> np.ndarray:
        if self.invisible == "drop":
            return values
        filled = np.full(len(visible), failure)
        filled[visible] = values
        return filled

    def _add_normalized_precision(self, tracker: str, found: dict[str, Any], truths: dict[str, np.ndarray]) -> None:
        curves = []
        for name, truth in truths.items():
            boxes = read_boxes(Path(self.result_dir) / tracker / f"{name}.txt")
            boxes[0] = truth[0]
            visible = ~np.isnan(truth).any(axis=1)
            offsets = (_centres(boxes[visible]) - _centres(truth[visible])) / truth[visible, 2:]
            errors = self._by_rule(np.linalg.norm(offsets, axis=1), visible, np.inf)
            curves.append((errors[:, None] <= NORMALIZED_THRESHOLDS).mean(axis=0))
            found["seq_wise"][name].update(_summary(curves[-1]))
        found["overall"].update(_summary(np.mean(curves, axis=0)))


class _Opened(ExperimentBenchmark):
    """An experiment on the benchmark that the class names."""

    benchmark = ""

    def __init__(
        self,
        root_dir: str | Path | None = None,
        result_dir: str | Path = "results",
        report_dir: str | Path = "reports",
        sequences: Sequence[str] | None = None,
        invisible: Invisible = "penalize",
        subset: str | None = None,
    ) -> None:
        """`root_dir`, `sequences`, `subset`: as for `open_benchmark`; the others as for `ExperimentBenchmark`."""
        opened = open_benchmark(self.benchmark, root_dir, subset, sequences)
        super().__init__(opened, result_dir, report_dir, invisible)


class ExperimentLaSOT(_Opened):
    """LaSOT's split `subset`, "test" or "train"; results in `LaSOT`, boxes counted from 1 as in its files."""

    benchmark = "lasot"

    def __init__(
        self,
        root_dir: str | Path | None = None,
        subset: str = "test",
        result_dir: str | Path = "results",
        report_dir: str | Path = "reports",
        sequences: Sequence[str] | None = None,
        invisible: Invisible = "penalize",
    ) -> None:
        """As for its sisters, with `subset` in second place as in the toolkit's newer releases."""
        super().__init__(root_dir, result_dir, report_dir, sequences, invisible, subset)


class ExperimentLaSOTExt(_Opened):
    """The 150 sequences of LaSOT's extension; results in `LaSOT_ext`, boxes as in its files."""

    benchmark = "lasot_ext"


class ExperimentTNL2K(_Opened):
    """TNL2K's sequences; results in `TNL2K`."""

    benchmark = "tnl2k"


class ExperimentVastTrack(_Opened):
    """VastTrack's sequences; results in `VastTrack`, boxes counted from 1 as in its files."""

    benchmark = "vasttrack"


class ExperimentTrackingNet(_Opened):
    """TrackingNet's test videos; results in `TrackingNet`. `report` says that only the server can score."""

    benchmark = "trackingnet"


class ExperimentClips(_Opened):
    """Any folder of frames with groundtruth.txt; results in `clips`."""

    benchmark = "clips"


def toolkit_experiment(
    benchmark: Benchmark, result_dir: str | Path = "results", report_dir: str | Path = "reports"
) -> Any:
    """The GOT-10k toolkit's own experiment on the sequences of a benchmark, or ours where it has none.

    `report([names])` reads the files that `results.ResultFiles` wrote in the layout "got10k", and other trackers', in
    `<result_dir>/<benchmark.folder>`.
    """
    name = BENCHMARKS[benchmark.name].toolkit if benchmark.name in BENCHMARKS else ""
    frames = benchmark.sequences[0].frames
    if not name or not frames.root:
        return ExperimentBenchmark(benchmark, result_dir, report_dir)
    make = getattr(toolkit, f"Experiment{name}")
    places = [str(Path(folder).expanduser().resolve()) for folder in (result_dir, report_dir)]
    if benchmark.name == "got10k":  # by keywords: their order differs between releases
        experiment = make(root_dir=frames.root, subset=benchmark.subset, result_dir=places[0], report_dir=places[1])
    else:
        experiment = make.__new__(make)  # its __init__ may want to download
        layout = BENCHMARKS[benchmark.name].layout
        experiment.dataset = toolkit_dataset(benchmark.name, Path(frames.root), benchmark.subset, layout)
        experiment.result_dir, experiment.report_dir = (f"{place}/{benchmark.folder}" for place in places)
        experiment.nbins_iou, experiment.nbins_ce = 21, 51
    dataset = experiment.dataset
    kept = [dataset.seq_names.index(name) for name in benchmark.seq_names]
    for field in ("seq_names", "seq_dirs", "anno_files", "range_files"):
        if hasattr(dataset, field):
            setattr(dataset, field, [getattr(dataset, field)[index] for index in kept])
    return experiment


def _truth(benchmark: Benchmark) -> Benchmark:
    """A benchmark whose boxes are NaN where the target is invisible or the truth is not public: N rows for N frames."""
    sequences = []
    for sequence in benchmark.sequences:
        given, boxes = sequence.boxes, np.full((len(sequence), 4), np.nan)
        seen = sequence.present & np.isfinite(given).all(axis=1) & (given[:, 2:] > 0).all(axis=1)
        seen[0] = True  # a tracker starts from it, whatever the flags say
        boxes[: len(given)][seen] = given[seen]
        sequences.append(box_sequence(sequence.name, sequence.frames, boxes, ~np.isnan(boxes[:, 0]), sequence.size))
    return replace(benchmark, sequences=tuple(sequences))


def _centres(boxes: np.ndarray) -> np.ndarray:
    return boxes[:, :2] + boxes[:, 2:] / 2


def _summary(curve: np.ndarray) -> dict[str, Any]:
    return {
        "normalized_precision_curve": curve.tolist(),
        "normalized_precision_score": float(curve[NORMALIZED_RANK]),
        "normalized_precision_auc": float(curve.mean()),
    }


def _plot_normalized(performance: dict[str, Any], path: Path, title: str) -> None:
    figure = Figure(layout="tight")
    axes = figure.subplots()
    ranked = sorted(performance.items(), key=lambda item: -item[1]["overall"]["normalized_precision_score"])
    for name, scores in ranked:
        label = f"{name}: [{scores['overall']['normalized_precision_score']:.3f}]"
        axes.plot(NORMALIZED_THRESHOLDS, scores["overall"]["normalized_precision_curve"], label=label)
    axes.set(xlabel="Normalised location error threshold", ylabel="Precision", xlim=(0, 0.5), ylim=(0, 1))
    axes.set_title(f"Normalised precision plots of OPE on {title}")
    axes.grid(True)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=150)
