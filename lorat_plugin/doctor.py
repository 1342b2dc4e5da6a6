"""What `lorat doctor` looks at: versions, devices, toolkits, weights, and combinations known to break.

Every check takes an `Installation` and gives findings. What may crash is imported in an interpreter of its own.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from packaging.requirements import Requirement
from packaging.version import InvalidVersion, Version

PACKAGES = [
    "lorat_plugin", "torch", "torchvision", "timm", "peft", "accelerate", "transformers", "safetensors",
    "huggingface_hub", "supervision", "numpy", "opencv-python", "opencv-python-headless", "opencv-contrib-python",
    "opencv-contrib-python-headless", "got10k", "six", "matplotlib", "vot-toolkit", "vot-trax", "attributee", "lmdb",
    "onnx", "onnxruntime", "onnxruntime-gpu", "openvino", "onnxscript", "nncf",
]  # fmt: skip
OPENCV = [name for name in PACKAGES if name.startswith("opencv")]
PROBE_SECONDS = 180
TORCH = """
import json, torch
torch.zeros(1).numpy()
devices = [{"device": "cpu", "threads": torch.get_num_threads()}]
for index in range(torch.cuda.device_count()):
    found = torch.cuda.get_device_properties(index)
    devices.append({"device": f"cuda:{index}", "name": found.name, "memory_gib": round(found.total_memory / 2**30, 1)})
if torch.backends.mps.is_available():
    devices.append({"device": "mps"})
print(json.dumps(devices))
"""
TRACK = """
import numpy as np
from lorat_plugin import LoRATTracker
tracker = LoRATTracker.from_pretrained("lorat_tiny")
frame = np.random.default_rng(0).integers(0, 255, (240, 320, 3), np.uint8)
tracker.init(frame, (120, 90, 60, 50))
assert np.isfinite(tracker.update(frame).box).all()
"""


class Answer(NamedTuple):
    """What a fresh interpreter said: the last line that it printed, or the error's last line."""

    good: bool
    text: str


@dataclass(frozen=True)
class Finding:
    """One result of a check; `remedy` says what to do unless all is well."""

    level: Literal["ok", "warning", "broken"]
    subject: str
    text: str
    remedy: str = ""


@dataclass(frozen=True)
class Installation:
    """What the checks look at; tests give made-up ones.

    Attributes:
        python: version of the interpreter, e.g. (3, 11).
        versions: distribution -> version of what is installed, names as in `PACKAGES`.
        requirements: of lorat_plugin itself, as in its metadata.
        probe: runs Python code in a fresh interpreter.
        nvidia_driver: whether an NVIDIA driver is installed.
    """

    python: tuple[int, int]
    versions: Mapping[str, str]
    requirements: Sequence[str]
    probe: Callable[[str], Answer]
    nvidia_driver: bool = False


def this_installation() -> Installation:
    """The interpreter that runs this and what is installed for it."""
    required = (importlib.metadata.requires("lorat_plugin") if _version("lorat_plugin") else None) or []
    names = dict.fromkeys([*PACKAGES, *(need.name for need in map(Requirement, required) if need.marker is None)])
    found = {name: version for name in names if (version := _version(name)) is not None}
    nvidia_driver = shutil.which("nvidia-smi") is not None
    return Installation(sys.version_info[:2], found, required, functools.cache(run_fresh), nvidia_driver)


def run_fresh(code: str) -> Answer:
    """Run Python code in a fresh interpreter."""
    command = [sys.executable, "-c", code]
    try:
        with tempfile.TemporaryDirectory() as empty:  # a torch.py in the working folder is not torch
            done = subprocess.run(
                command, cwd=empty, capture_output=True, text=True, timeout=PROBE_SECONDS, check=False
            )
    except subprocess.TimeoutExpired:
        return Answer(False, f"no answer in {PROBE_SECONDS} s")
    said = [line for line in (done.stderr if done.returncode else done.stdout).splitlines() if line.strip()]
    silent = f"the interpreter ended with code {done.returncode}" if done.returncode else ""
    return Answer(done.returncode == 0, said[-1].strip() if said else silent)


def examine(installation: Installation) -> list[Finding]:
    """Run all checks, those that wait for an interpreter side by side. Findings come in the order of `CHECKS`."""
    with ThreadPoolExecutor(max_workers=4) as pool:
        return [finding for found in pool.map(lambda check: list(check(installation)), CHECKS) for finding in found]


def check_requirements(installation: Installation) -> Iterator[Finding]:
    """Whether what lorat_plugin needs is there in a version that it takes; optional packages only if installed."""
    for text in installation.requirements:
        requirement = Requirement(text)
        name, specifier = requirement.name, requirement.specifier
        optional = requirement.marker is not None and not requirement.marker.evaluate({"extra": ""})
        version = installation.versions.get(name)
        if version is None:
            replaced = name in OPENCV and any(other in installation.versions for other in OPENCV)
            if not optional and not replaced:
                yield Finding("broken", name, "is not installed", f'pip install "{name}{specifier}"')
        elif not specifier.contains(version, prereleases=True):
            text = f"{version} is installed, lorat_plugin needs {specifier}"
            yield Finding("warning" if optional else "broken", name, text, f'pip install "{name}{specifier}"')


def check_torch(installation: Installation) -> Iterator[Finding]:
    """Whether torch works, also with numpy, and sees the GPU that the machine seems to have."""
    answer = installation.probe(TORCH)
    if not answer.good:
        remedy = "pip install --upgrade numpy torch torchvision" if "umpy" in answer.text else "reinstall torch"
        yield Finding("broken", "torch", answer.text, remedy)
    elif installation.nvidia_driver and '"cuda:' not in answer.text:
        text = f"{installation.versions.get('torch')} sees no GPU although an NVIDIA driver is installed"
        yield Finding("warning", "torch", text, "install the CUDA build of torch and torchvision, or update the driver")
    else:
        yield Finding("ok", "torch", "works")


def check_torchvision(installation: Installation) -> Iterator[Finding]:
    """Whether torchvision, which timm imports, fits torch; builds for different devices do not."""
    answer = installation.probe("import torchvision")
    if answer.good:
        yield Finding("ok", "torchvision", "works")
    elif "nms does not exist" in answer.text:
        versions = installation.versions
        yield Finding(
            "broken",
            "torchvision",
            f"{answer.text}: torchvision {versions.get('torchvision')} is built for another torch than"
            f" {versions.get('torch')}, e.g. one for CUDA and one for the CPU only",
            "pip uninstall -y torch torchvision, then install both in one command from the same index",
        )
    else:
        yield Finding("broken", "torchvision", answer.text, "install the torchvision that belongs to this torch")


def check_opencv(installation: Installation) -> Iterator[Finding]:
    """Whether OpenCV works and reads videos, and whether several builds of it share one folder."""
    present = [name for name in OPENCV if name in installation.versions]
    wanted = max(present or ["opencv-python"], key=lambda name: ("contrib" in name, "headless" not in name))
    remedy = f"pip uninstall -y {' '.join(present)}, then pip install {wanted}" if present else f"pip install {wanted}"
    answer = installation.probe("import cv2; cv2.VideoCapture; print(cv2.videoio_registry.hasBackend(cv2.CAP_FFMPEG))")
    if not answer.good:
        if "libGL" in answer.text or "libgthread" in answer.text:
            remedy += "-headless, which needs no graphics libraries"
        yield Finding("broken", "opencv", answer.text, remedy)
    elif answer.text == "False":
        yield Finding("warning", "opencv", "is built without FFmpeg: files work, streams and video.mp4 do not", remedy)
    else:
        yield Finding("ok", "opencv", "works and reads streams")
    if len(present) > 1:
        builds = " and ".join(f"{name} {installation.versions[name]}" for name in present)
        text = f"{builds} overwrite each other's files; removing one breaks the other"
        yield Finding("warning", "opencv", text, f"if anything of it fails: {remedy}")


def check_got10k(installation: Installation) -> Iterator[Finding]:
    """Whether the GOT-10k toolkit imports, and whether it is too old for this numpy."""
    versions = installation.versions
    if "got10k" not in versions:
        yield Finding("ok", "got10k", 'not installed (optional: pip install "lorat_plugin[got10k]")')
        return
    if "six" not in versions:
        yield Finding(
            "broken", "got10k", "imports six, which it does not declare and which is missing", "pip install six"
        )
        return
    if _older(versions["got10k"], "0.1.3") and not _older(versions.get("numpy", "0"), "1.24"):
        text = f"{versions['got10k']} uses names that numpy {versions['numpy']} and matplotlib no longer have"
        yield Finding("broken", "got10k", text, 'pip install "got10k>=0.1.3"')
        return
    yield _imported(installation, "got10k", "import got10k.experiments", "pip install --upgrade got10k six matplotlib")


def check_vot(installation: Installation) -> Iterator[Finding]:
    """Whether the VOT toolkit imports; attributee 0.1.10 keeps it from that on Python 3.11 and later."""
    if "vot-toolkit" not in installation.versions:
        yield Finding("ok", "vot-toolkit", 'not installed (optional: pip install "lorat_plugin[vot]")')
        return
    if installation.versions.get("attributee") == "0.1.10" and installation.python >= (3, 11):
        text = "attributee 0.1.10 breaks `import vot` on Python 3.11 and later"
        yield Finding("broken", "vot-toolkit", text, 'pip install "attributee!=0.1.10"')
        return
    yield _imported(installation, "vot-toolkit", "import vot.tracker", "pip install --upgrade vot-toolkit")


def check_onnxruntime(installation: Installation) -> Iterator[Finding]:
    """Whether two builds of onnxruntime share one folder."""
    if {"onnxruntime", "onnxruntime-gpu"} <= set(installation.versions):
        yield Finding(
            "warning",
            "onnxruntime",
            "onnxruntime and onnxruntime-gpu overwrite each other's files; the GPU may not be found",
            "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install onnxruntime-gpu",
        )


def check_weights(installation: Installation) -> Iterator[Finding]:
    """Whether the bundled weights are found, load and track a generated frame."""
    answer = installation.probe(TRACK)
    if answer.good:
        yield Finding("ok", "bundled weights", "lorat_tiny loads and tracks a generated frame")
    else:
        text = answer.text.rpartition("Error: ")[2]
        yield Finding("broken", "bundled weights", text, "reinstall lorat_plugin, or mend what is broken above")


CHECKS = (
    check_requirements,
    check_torch,
    check_torchvision,
    check_opencv,
    check_got10k,
    check_vot,
    check_onnxruntime,
    check_weights,
)


def list_devices(installation: Installation) -> list[dict[str, Any]]:
    """Devices that torch can use: kind, name and, where known, threads or memory in GiB. Empty if torch is broken."""
    answer = installation.probe(TORCH)
    return json.loads(answer.text) if answer.good else []


def _imported(installation: Installation, name: str, code: str, remedy: str) -> Finding:
    answer = installation.probe(code)
    if answer.good:
        return Finding("ok", name, "works")
    if answer.text.startswith("ModuleNotFoundError: No module named "):
        missing = answer.text.split("'")[1].partition(".")[0]
        remedy = f"pip install {missing}"
    return Finding("broken", name, answer.text, remedy)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _older(version: str, than: str) -> bool:
    try:
        return Version(version) < Version(than)
    except InvalidVersion:
        return False
