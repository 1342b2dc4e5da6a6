"""What an engine or a precision costs in accuracy: the same sequences tracked both ways."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from lorat_plugin.evaluation.agreement import Agreement, compare_runs
from lorat_plugin.evaluation.benchmarks import Benchmark
from lorat_plugin.evaluation.evaluate import Evaluation
from lorat_plugin.evaluation.scoring import score_tracker
from lorat_plugin.network import LoRATNetwork


@dataclass(frozen=True)
class AccuracyChange:
    """Two runs over a benchmark: auc and reference_auc, in [0, 1]; agreement, frame by frame, with the mean box IoU."""

    auc: float
    reference_auc: float
    agreement: Agreement

    @property
    def mean_iou(self) -> float:
        """Mean IoU of the two runs' boxes, over all frames."""
        return self.agreement.overall.mean_iou


def accuracy_change(
    benchmark: Benchmark,
    network: LoRATNetwork,
    device: str = "auto",
    engine: str = "auto",
    precision: str = "int8",
    *,
    reference: tuple[str, str] = ("auto", "fp32"),
    batch: int = 8,
    on_frames: Callable[[int], None] = lambda frames: None,
) -> AccuracyChange:
    """Track a benchmark with an engine and with the reference, each in its own way from the first frame on.

    Args:
        benchmark: with a box for every frame.
        network: not changed.
        device, engine, precision: as for `LoRATTracker.from_pretrained`.
        reference: engine and precision to compare with.
        batch: sequences at once.
        on_frames: called with the number of frames done since the last call; there are twice the benchmark's.
    Raises InputError as `Evaluation` and `score_tracker`.
    """
    exact = replace(benchmark, rasterize=False)
    with tempfile.TemporaryDirectory() as place:
        files = []
        for home, (its_engine, its_precision) in (("ours", (engine, precision)), ("reference", reference)):
            run = Evaluation(
                copy.deepcopy(network),
                exact,
                Path(place) / home,
                f"{its_engine} {its_precision}",
                device=device,
                engine=its_engine,
                precision=its_precision,
                batch=batch,
            )
            run.play(on_frames)
            for error in run.failures.values():
                raise error
            files.append(run.files)
        auc, reference_auc = (score_tracker(exact, found).overall.auc for found in files)
        agreement = replace(compare_runs(exact, *files), theirs=files[1].tracker)
        return AccuracyChange(auc, reference_auc, agreement)
