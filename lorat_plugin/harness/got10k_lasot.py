"""LaSOT with the interface of the GOT-10k toolkit, for its releases without `ExperimentLaSOT` (PyPI's 0.1.3 is one).

from lorat_plugin.evaluation import ExperimentLaSOT
from lorat_plugin.harness.got10k import TrackerLoRAT

experiment = ExperimentLaSOT("LaSOTBenchmark", subset="test")
experiment.run(TrackerLoRAT())
experiment.report(["LoRAT"])
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from lorat_plugin.box_files import read_boxes
from lorat_plugin.datasets.lasot import LAYOUT, hidden_frames, lasot_home, lasot_split
from lorat_plugin.datasets.sequences import FolderStore
from lorat_plugin.errors import InputError
from lorat_plugin.evaluation.registry import WITH_MORE_FRAMES
from lorat_plugin.harness.got10k_experiments import ExperimentBenchmark, Invisible
from lorat_plugin.images import list_images


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
        homes = {name: root / lasot_home(FolderStore(root), name) for name in self.seq_names}
        missing = [n for n, h in homes.items() if not ((h / "groundtruth.txt").is_file() and (h / "img").is_dir())]
        if missing:
            raise InputError(
                f"{root}: {len(missing)} of {len(homes)} sequences are missing, first '{missing[0]}'; LaSOT wants"
                f" {LAYOUT}; for some of them only, give their names as sequences=[...]"
            )
        self.seq_dirs = list(homes.values())

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
        if len(frames) > len(boxes) and self.seq_names[index] in WITH_MORE_FRAMES:
            frames = frames[: len(boxes)]
        if len(frames) != len(boxes):
            raise InputError(f"{home}: {len(frames)} frames in img but {len(boxes)} rows in groundtruth.txt")
        invisible = ~np.isfinite(boxes).all(axis=1) | ~(boxes[:, 2:] > 0).all(axis=1)
        invisible |= hidden_frames(FolderStore(home), ".", len(boxes), optional=True)
        if invisible[0]:
            raise InputError(f"{home}: the target is invisible in the first frame, and a tracker starts from it")
        boxes[invisible] = np.nan
        return [str(frame) for frame in frames], boxes


class ExperimentLaSOT(ExperimentBenchmark):
    """One-pass evaluation on LaSOT; see `ExperimentBenchmark` for the measures and for `invisible`."""

    def __init__(
        self,
        root_dir: str | Path,
        subset: Literal["train", "test"] = "test",
        result_dir: str | Path = "results",
        report_dir: str | Path = "reports",
        sequences: Sequence[str] | None = None,
        invisible: Invisible = "penalize",
    ) -> None:
        """Arguments as for `LaSOT`; results go to `<result_dir>/LaSOT/<tracker>/<sequence>.txt`."""
        self.prepare(LaSOT(root_dir, subset, sequences), "LaSOT", result_dir, report_dir, invisible, origin=1)
