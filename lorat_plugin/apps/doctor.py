"""The checks of `lorat doctor`: versions, devices, toolkits, weights, and combinations known to break.

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
PROBES = {  # subject: code that fails where it does not work, remedy
    "torch": (TORCH, "pip install --upgrade numpy torch torchvision"),
    "torchvision": ("import torchvision", "uninstall torch and torchvision, and install both from the same index"),
    "opencv": ("import cv2; cv2.VideoCapture", "reinstall OpenCV; opencv-python-headless needs no graphics libraries"),
    "got10k": ("import got10k.experiments", "pip install --upgrade got10k six matplotlib"),
    "vot-toolkit": ("import vot.tracker", 'pip install --upgrade vot-toolkit "attributee!=0.1.10"'),
    "bundled weights": (TRACK, "reinstall lorat_plugin, or mend what is broken above"),
}
TOOLKITS = {"got10k": "got10k", "vot-toolkit": "vot"}  # and the extra that brings each


class Answer(NamedTuple):
    """Answer of a fresh interpreter: the last line that it prints, or the last line of its error."""

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
    """Input of the checks.

    Attributes:
        versions: distribution -> version of what is installed, names as in `PACKAGES`.
        requirements: of lorat_plugin itself, as in its metadata.
        probe: runs Python code in a fresh interpreter.
        nvidia_driver: whether an NVIDIA driver is installed.
    """

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
    return Installation(found, required, functools.cache(run_fresh), nvidia_driver)


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
    """Findings of all checks, in the order of `CHECKS`."""
    with ThreadPoolExecutor(max_workers=4) as pool:  # `probe` remembers answers, so the checks do not wait again
        list(pool.map(installation.probe, [code for code, _ in PROBES.values()]))
    return [finding for check in CHECKS for finding in check(installation)]


def check_requirements(installation: Installation) -> Iterator[Finding]:
    """Check the versions of what lorat_plugin requires, of optional packages only where they are installed."""
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


def check_programs(installation: Installation) -> Iterator[Finding]:
    """Run each of `PROBES` in a fresh interpreter, those of toolkits only where they are installed."""
    for subject, (code, remedy) in PROBES.items():
        if subject in TOOLKITS and subject not in installation.versions:
            yield Finding("ok", subject, f'not installed (optional: pip install "lorat_plugin[{TOOLKITS[subject]}]")')
            continue
        answer = installation.probe(code)
        if answer.good:
            yield Finding("ok", subject, "works")
            continue
        if answer.text.startswith("ModuleNotFoundError: No module named "):
            remedy = f"pip install {answer.text.split(chr(39))[1].partition('.')[0]}"
        yield Finding("broken", subject, answer.text, remedy)


def check_gpu(installation: Installation) -> Iterator[Finding]:
    """Check that torch sees the GPU where an NVIDIA driver is installed."""
    devices = list_devices(installation)
    if devices and installation.nvidia_driver and not any(d["device"].startswith("cuda") for d in devices):
        text = f"{installation.versions.get('torch')} sees no GPU although an NVIDIA driver is installed"
        yield Finding("warning", "torch", text, "install the CUDA build of torch and torchvision, or update the driver")


def check_opencv(installation: Installation) -> Iterator[Finding]:
    """Check that no two builds of OpenCV share one folder."""
    present = [name for name in OPENCV if name in installation.versions]
    if len(present) > 1:
        best = max(present, key=lambda name: ("contrib" in name, "headless" not in name))
        text = f"{' and '.join(present)} overwrite each other's files; removing one breaks the other"
        remedy = f"if anything of it fails: pip uninstall -y {' '.join(present)}, then pip install {best}"
        yield Finding("warning", "opencv", text, remedy)


CHECKS = (check_requirements, check_programs, check_gpu, check_opencv)


def list_devices(installation: Installation) -> list[dict[str, Any]]:
    """Devices that torch can use, with name, threads or memory in GiB where torch states them; none if it is broken."""
    answer = installation.probe(TORCH)
    return json.loads(answer.text) if answer.good else []


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
