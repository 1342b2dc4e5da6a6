"""LaSOT with the interface of the GOT-10k toolkit, for its releases without `ExperimentLaSOT` (PyPI's 0.1.3 is one).

from lorat_plugin.evaluation import ExperimentLaSOT
from lorat_plugin.harness.got10k import TrackerLoRAT

experiment = ExperimentLaSOT("LaSOTBenchmark", subset="test")
experiment.run(TrackerLoRAT())
experiment.report(["LoRAT"])
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from got10k.experiments import ExperimentOTB
from got10k.utils.metrics import rect_iou

from lorat_plugin.data.clips import read_boxes
from lorat_plugin.data.lasot import LAYOUT, lasot_class, lasot_split
from lorat_plugin.data.sequences import parse_flags
from lorat_plugin.errors import InputError
from lorat_plugin.video import list_images

NORMALIZED_THRESHOLDS = np.arange(51) / 100  # centre error in units of the target's width and height
NORMALIZED_RANK = 20  # index of 0.20, where published tables read it

Invisible = Literal["penalize", "drop"]


class LaSOT:
    """LaSOT's sequences: `dataset[i]` and `dataset["airplane-1"]` give (frame files, boxes).

    boxes: (N, 4) float64, left, top, width, height in pixels as in groundtruth.txt, which counts from 1: results
    stay comparable with the files that other toolkits write. A row is NaN where the target is invisible:
    full_occlusion.txt or out_of_view.txt says so, or the box has no area.
    """

    def __init__(
        self,
        root_dir: str | Path,
        subset: Literal["train", "test"] = "test",
        sequences: Sequence[str] | None = None,
    ) -> None:
        """Find the sequences.

        Args:
            root_dir: folder of LaSOT, with or without a folder for each class.
            subset: the split, from the list in the toolkit (1120 or 280 sequences).
            sequences: names to use instead of a split, e.g. ["airplane-1", "dog-7"].
        Raises InputError for a missing folder or sequence; it says which layout is expected.
        """
        root = Path(root_dir).expanduser().resolve()
        if not root.is_dir():
            raise InputError(f"{root}: no such folder; LaSOT wants {LAYOUT}")
        self.seq_names = list(sequences) if sequences is not None else lasot_split(subset)
        if not self.seq_names:
            raise InputError("no sequences were given; leave `sequences` out for the whole split")
        homes = {name: _home(root, name) for name in self.seq_names}
        missing = [name for name, home in homes.items() if home is None]
        if missing:
            raise InputError(
                f"{root}: {len(missing)} of {len(homes)} sequences are missing, first '{missing[0]}'; LaSOT wants"
                f" {LAYOUT}; for some of them only, give their names as sequences=[...]"
            )
        self.seq_dirs = [home for home in homes.values() if home is not None]

    def __len__(self) -> int:
        return len(self.seq_names)

    def __getitem__(self, index: int | str) -> tuple[list[str], np.ndarray]:
        """Frame files and boxes of a sequence, by number or name; IndexError ends the toolkit's loops."""
        if isinstance(index, str):
            if index not in self.seq_names:
                raise InputError(f"no sequence '{index}' among the {len(self)} of this experiment")
            index = self.seq_names.index(index)
        home = self.seq_dirs[index]
        frames = list_images(home / "img")
        boxes = read_boxes(home / "groundtruth.txt")
        if len(frames) != len(boxes):
            raise InputError(f"{home}: {len(frames)} frames in img but {len(boxes)} rows in groundtruth.txt")
        invisible = ~np.isfinite(boxes).all(axis=1) | ~(boxes[:, 2:] > 0).all(axis=1)
        for name in ("full_occlusion.txt", "out_of_view.txt"):
            invisible |= _flags(home / name, len(boxes))
        if invisible[0]:
            raise InputError(f"{home}: the target is invisible in the first frame, and a tracker starts from it")
        boxes[invisible] = np.nan
        return [str(frame) for frame in frames], boxes


class ExperimentLaSOT(ExperimentOTB):
    """One-pass evaluation on LaSOT: `run(tracker)`, then `report([names])`, as for every experiment of the toolkit.

    Overlap and centre are the toolkit's (no added pixel), averaged over frames and then over sequences; the first
    frame counts, as the toolkit has it. The report has `success_*` and `precision_*` as for OTB, and in addition
    `normalized_precision_curve` (share of frames whose centre error, in widths and heights of the target, is at most
    0, 0.01 ... 0.5), `normalized_precision_score` (at 0.2) and `normalized_precision_auc` (mean of the curve), for
    each sequence and overall, and a plot of the curves.

    Frames in which the target is invisible:
    - `invisible="penalize"` (default) counts them as failures in every measure. That is what LaSOT's own toolkit
      does: it removes them and still divides by the number of all frames.
    - `invisible="drop"` leaves them out.
    """

    def __init__(
        self,
        root_dir: str | Path,
        subset: Literal["train", "test"] = "test",
        result_dir: str | Path = "results",
        report_dir: str | Path = "reports",
        sequences: Sequence[str] | None = None,
        invisible: Invisible = "penalize",
    ) -> None:
        """Arguments as for `LaSOT`; results go to `<result_dir>/LaSOT/<tracker>/<sequence>.txt`.

        Both folders are made absolute at once, so changing the working folder later moves nothing.
        """
        # not super().__init__: it downloads OTB
        if invisible not in ("penalize", "drop"):
            raise InputError(f"invisible='{invisible}': use 'penalize' or 'drop'")
        self.dataset = LaSOT(root_dir, subset, sequences)
        self.result_dir = str(Path(result_dir).expanduser().resolve() / "LaSOT")
        self.report_dir = str(Path(report_dir).expanduser().resolve() / "LaSOT")
        self.nbins_iou = 21
        self.nbins_ce = 51
        self.invisible = invisible

    def report(self, tracker_names: Sequence[str], *args: Any, **keywords: Any) -> dict[str, Any]:
        """Score recorded results and plot the curves.

        Args:
            tracker_names: folders of results; the first one names the folder of the report.
            args, keywords: what else this release's `ExperimentOTB.report` takes.
        Returns the content of `<report_dir>/LaSOT/<first tracker>/performance.json`.
        Raises InputError if a tracker has no result for a sequence, or one with another number of rows.
        """
        names = list(tracker_names)
        for name in names:
            self._check_results(name)
        super().report(names, *args, **keywords)
        folder = Path(self.report_dir) / names[0]
        performance: dict[str, Any] = json.loads((folder / "performance.json").read_text(encoding="utf-8"))
        for name in names:
            self._add_normalized_precision(name, performance[name])
        part = folder / f".performance.{os.getpid()}.part"
        part.write_text(json.dumps(performance, indent=4), encoding="utf-8")
        os.replace(part, folder / "performance.json")
        _plot_normalized(performance, folder / "normalized_precision_plots.png")
        return performance

    def _check_results(self, tracker: str) -> None:
        for index, sequence in enumerate(self.dataset.seq_names):
            path = Path(self.result_dir) / tracker / f"{sequence}.txt"
            if not path.is_file():
                raise InputError(f"{path}: no result of {tracker} there; run the experiment first")
            rows, wanted = len(read_boxes(path)), len(self.dataset[index][1])
            if rows != wanted:
                raise InputError(f"{path}: {rows} rows for {wanted} frames; delete the file and run again")

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

    def _add_normalized_precision(self, tracker: str, performance: dict[str, Any]) -> None:
        curves = []
        for name in self.dataset.seq_names:
            _, anno = self.dataset[name]
            boxes = read_boxes(Path(self.result_dir) / tracker / f"{name}.txt")
            boxes[0] = anno[0]
            visible = ~np.isnan(anno).any(axis=1)
            offsets = (_centres(boxes[visible]) - _centres(anno[visible])) / anno[visible, 2:]
            errors = self._by_rule(np.linalg.norm(offsets, axis=1), visible, np.inf)
            curves.append((errors[:, None] <= NORMALIZED_THRESHOLDS).mean(axis=0))
            performance["seq_wise"][name].update(_summary(curves[-1]))
        performance["overall"].update(_summary(np.mean(curves, axis=0)))


def _home(root: Path, name: str) -> Path | None:
    for home in (root / lasot_class(name) / name, root / name):
        if (home / "groundtruth.txt").is_file() and (home / "img").is_dir():
            return home
    return None


def _flags(path: Path, length: int) -> np.ndarray:
    """(length,) bool; all False if there is no file."""
    if not path.is_file():
        return np.zeros(length, dtype=bool)
    return parse_flags(path.read_text(encoding="utf-8"), length, str(path))


def _centres(boxes: np.ndarray) -> np.ndarray:
    return boxes[:, :2] + boxes[:, 2:] / 2


def _summary(curve: np.ndarray) -> dict[str, Any]:
    return {
        "normalized_precision_curve": curve.tolist(),
        "normalized_precision_score": float(curve[NORMALIZED_RANK]),
        "normalized_precision_auc": float(curve.mean()),
    }


def _plot_normalized(performance: dict[str, Any], path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots()
    ranked = sorted(performance.items(), key=lambda item: -item[1]["overall"]["normalized_precision_score"])
    for name, scores in ranked:
        label = f"{name}: [{scores['overall']['normalized_precision_score']:.3f}]"
        axes.plot(NORMALIZED_THRESHOLDS, scores["overall"]["normalized_precision_curve"], label=label)
    axes.set(xlabel="Normalised location error threshold", ylabel="Precision", xlim=(0, 0.5), ylim=(0, 1))
    axes.set_title("Normalised precision plots of OPE on LaSOT")
    axes.grid(True)
    axes.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)
