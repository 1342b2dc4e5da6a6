"""OpenCV's trackers, to compare LoRAT with.

What OpenCV can do depends on the wheel: every one has MIL, the contrib ones have KCF and CSRT. VitTrack's model file is
in the package; NanoTrack needs `nanotrack_backbone_sim.onnx` and `nanotrack_head_sim.onnx` of HonglinChu/SiamTrackers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from lorat_plugin.errors import InputError
from lorat_plugin.evaluation.runner import FrameTracker

NANO_FILES = ("nanotrack_backbone_sim.onnx", "nanotrack_head_sim.onnx")
BUNDLED_MODELS = Path(str(files("lorat_plugin"))) / "assets" / "models"
IMAGENET_STD = (0.229, 0.224, 0.225)


class StaticTracker(FrameTracker):
    """A box that never moves: what any tracker has to beat."""

    def start(self, frame: np.ndarray, box_xywh: np.ndarray) -> None:
        """As of `FrameTracker`."""
        self.box = box_xywh

    def follow(self, frame: np.ndarray) -> np.ndarray:
        """As of `FrameTracker`."""
        return self.box


class OpenCVTracker(FrameTracker):
    """One of OpenCV's trackers. A frame in which it reports failure keeps the last box.

    Runs repeat, as OpenCV's generator is seeded for each sequence. Only MIL also has one that cannot be seeded: its
    results repeat for a whole run in a fresh process, not for a sequence by itself.
    """

    def __init__(self, name: str, create: Callable[[], Any]) -> None:
        """`create` makes a fresh OpenCV tracker; it is called for every sequence."""
        super().__init__(name)
        self.create = create

    def start(self, frame: np.ndarray, box_xywh: np.ndarray) -> None:
        """As of `FrameTracker`; the box is rounded and clipped to the frame."""
        cv2.setRNGSeed(0)
        height, width = frame.shape[:2]
        x, y, w, h = (round(float(v)) for v in box_xywh)
        left, top = min(max(x, 0), width - 1), min(max(y, 0), height - 1)
        right, bottom = min(max(x + w, left + 1), width), min(max(y + h, top + 1), height)
        self.box = box_xywh
        with _quiet():
            self.opencv = self.create()
        self.opencv.init(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), (left, top, right - left, bottom - top))

    def follow(self, frame: np.ndarray) -> np.ndarray:
        """As of `FrameTracker`; the last box if OpenCV reports failure."""
        found, box = self.opencv.update(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        if found:
            self.box = np.asarray(box, dtype=np.float64)
        return self.box


@dataclass(frozen=True)
class Baseline:
    """A row of the table: which OpenCV class makes the tracker and which model files it reads."""

    about: str
    create: Callable[[Path], Any] | None = None  # from the folder of model files; None: `create` of the OpenCV class
    opencv_name: str = ""  # attribute of cv2, or of cv2.legacy, that must exist
    files: tuple[str, ...] = ()


def _nano(models: Path) -> Any:
    params = cv2.TrackerNano.Params()
    params.backbone, params.neckhead = (str(models / name) for name in NANO_FILES)
    return cv2.TrackerNano.create(params)


def _vit(models: Path) -> Any:
    model = str(models / "vitTracker.onnx")
    return _create_vit(model, vit_stdvalue(model))


def _create_vit(model: str, stdvalue: tuple[float, ...]) -> Any:
    params = cv2.TrackerVit.Params()
    params.net = model
    params.stdvalue = stdvalue
    if hasattr(params, "tracking_score_threshold"):  # OpenCV 4.10 has none
        params.tracking_score_threshold = 0.0  # report every box, as all the other trackers do
    return cv2.TrackerVit.create(params)


@lru_cache
def vit_stdvalue(model: str) -> tuple[float, float, float, float]:
    """The `stdvalue` with which this OpenCV divides each channel of VitTrack's input by its ImageNet deviation.

    Some releases (4.14 and 5.0; not 4.10 or 5.1) take `1 / stdvalue` of a Scalar, and that is the inverse of a
    quaternion, (a, -b, -c, -d) / |q|^2, which mixes the channels. They get the quaternion inverse of the reciprocal
    deviations, so that their inverse gives these back. Which kind is installed shows in the fourth number: only a
    quaternion's inverse depends on it. `model` is the path of `vitTracker.onnx`.
    """
    plain = (*IMAGENET_STD, 0.0)
    frame = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    scores = []
    for stdvalue in (plain, (*IMAGENET_STD, 1e6)):
        tracker = _create_vit(model, stdvalue)
        tracker.init(frame, (16, 16, 32, 32))
        tracker.update(frame)
        scores.append(tracker.getTrackingScore())
    if scores[0] == scores[1]:
        return plain
    wanted = 1.0 / np.array(IMAGENET_STD)
    r, g, b = wanted / float(wanted @ wanted)
    return float(r), -float(g), -float(b), 0.0


BASELINES: dict[str, Baseline] = {
    "static": Baseline("the first box, never moved"),
    "MIL": Baseline("multiple instance learning, CVPR 2009", opencv_name="TrackerMIL"),
    "KCF": Baseline("kernelised correlation filter, TPAMI 2015", opencv_name="TrackerKCF"),
    "CSRT": Baseline("correlation filter with reliability maps, CVPR 2017", opencv_name="TrackerCSRT"),
    "NanoTrack": Baseline("small Siamese network", _nano, "TrackerNano", NANO_FILES),
    "VitTrack": Baseline("small vision transformer", _vit, "TrackerVit", ("vitTracker.onnx",)),
}


def unavailable(name: str, models: Path | None = None) -> str | None:
    """Why a baseline of `BASELINES` cannot run here with the model files in `models`, or None if it can.

    Without `models` the files in the package count.
    """
    row = BASELINES[name]
    if row.opencv_name and _find(row.opencv_name) is None:
        return f"OpenCV {cv2.__version__} here lacks {row.opencv_name}; install opencv-contrib-python in its place"
    missing = [file for file in row.files if not ((models or BUNDLED_MODELS) / file).is_file()]
    if missing and models is None:
        return f"needs {' and '.join(missing)}; name their folder with --baseline-models"
    return f"{', '.join(missing)} not found in {models}" if missing else None


def create_baseline(name: str, models: str | Path | None = None) -> FrameTracker:
    """Make a baseline of `BASELINES`; experiments of the GOT-10k toolkit take it too.

    `models` is the folder of the model files that NanoTrack and VitTrack read; None: VitTrack's in the package. Raises
    InputError for an unknown name, or one that cannot run here.
    """
    if name not in BASELINES:
        raise InputError(f"unknown baseline '{name}': use one of {', '.join(BASELINES)}")
    folder = Path(models) if models is not None else None
    reason = unavailable(name, folder)
    if reason:
        raise InputError(f"baseline {name} cannot run: {reason}")
    row = BASELINES[name]
    if not row.opencv_name:
        return StaticTracker(name)
    create = partial(row.create, folder or BUNDLED_MODELS) if row.create else _find(row.opencv_name)
    assert create is not None  # `unavailable` has found it
    return OpenCVTracker(name, create)


def choose_baselines(
    names: Sequence[str] | None = None, models: str | Path | None = None
) -> tuple[list[FrameTracker], dict[str, str]]:
    """Make the named baselines, or all that run here if `names` is None.

    Returns the trackers, and for the latter case the others: name -> why it cannot run.
    Raises InputError as `create_baseline` does, and for a folder of model files that does not exist.
    """
    folder = Path(models) if models is not None else None
    if folder is not None and not folder.is_dir():
        raise InputError(f"{folder}: no such folder of model files")
    if names is not None:
        return [create_baseline(name, folder) for name in dict.fromkeys(names)], {}
    reasons = {name: unavailable(name, folder) for name in BASELINES}
    usable = [create_baseline(name, folder) for name, reason in reasons.items() if reason is None]
    return usable, {name: reason for name, reason in reasons.items() if reason}


@contextmanager
def _quiet() -> Iterator[None]:
    # the network engine of OpenCV 5 warns on stderr about targets that nobody asked for; 4.x has no such module
    log = getattr(cv2.utils, "logging", None)
    level = log.getLogLevel() if log else None
    if log:
        log.setLogLevel(log.LOG_LEVEL_ERROR)
    try:
        yield
    finally:
        if log:
            log.setLogLevel(level)


def _find(opencv_name: str) -> Callable[[], Any] | None:
    """`cv2.TrackerX.create`, or the older `cv2.legacy.TrackerX_create`, or None."""
    if hasattr(cv2, opencv_name):
        return getattr(cv2, opencv_name).create
    return getattr(getattr(cv2, "legacy", None), f"{opencv_name}_create", None)
