"""The checks of `lorat doctor` on made-up installations, and on fresh interpreters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from lorat_plugin import doctor
from lorat_plugin.doctor import Answer, Finding, Installation

GOOD = Answer(True, '[{"device": "cpu", "threads": 2}]')
VERSIONS = {"torch": "2.14.1", "torchvision": "0.29.1", "numpy": "2.4.6", "opencv-python": "5.0.0.93"}


def installation(
    versions: Mapping[str, str | None] | None = None,
    answers: Mapping[str, Answer] | None = None,
    python: tuple[int, int] = (3, 12),
    **options,
) -> Installation:
    """A sound installation, but for the versions (None: not installed) and the answers to code with a given word."""
    known = {name: version for name, version in {**VERSIONS, **(versions or {})}.items() if version is not None}

    def probe(code: str) -> Answer:
        return next((answer for word, answer in (answers or {}).items() if word in code), GOOD)

    return Installation(python, known, options.pop("requirements", []), probe, **options)


def problems(check: Callable, *arguments, **options) -> list[Finding]:
    return [finding for finding in check(installation(*arguments, **options)) if finding.level != "ok"]


def only(check: Callable, *arguments, **options) -> Finding:
    (finding,) = problems(check, *arguments, **options)
    return finding


def test_a_sound_installation_has_no_problem() -> None:
    toolkits = {"got10k": "0.1.3", "six": "1.17", "vot-toolkit": "0.9.0", "attributee": "0.1.9"}
    findings = doctor.examine(installation(toolkits))
    assert {finding.level for finding in findings} == {"ok"}
    subjects = [finding.subject for finding in findings]
    assert subjects == ["torch", "torchvision", "opencv", "got10k", "vot-toolkit", "bundled weights"]


@pytest.mark.parametrize("python, broken", [((3, 10), False), ((3, 11), True), ((3, 13), True)])
def test_attributee(python: tuple[int, int], broken: bool) -> None:
    found = problems(doctor.check_vot, {"vot-toolkit": "0.9.0", "attributee": "0.1.10"}, python=python)
    assert [finding.level for finding in found] == ["broken"] * broken
    assert not broken or found[0].remedy == 'pip install "attributee!=0.1.10"'


def test_toolkits_that_do_not_import() -> None:
    failing = {"import vot": Answer(False, "ImportError: cannot import name 'get_cmap'")}
    assert "get_cmap" in only(doctor.check_vot, {"vot-toolkit": "0.6.4"}, failing).text
    missing = {"import got10k": Answer(False, "ModuleNotFoundError: No module named 'fire.core'")}
    assert only(doctor.check_got10k, {"got10k": "0.1.3", "six": "1"}, missing).remedy == "pip install fire"
    assert only(doctor.check_got10k, {"got10k": "0.1.3"}).remedy == "pip install six"
    old = only(doctor.check_got10k, {"got10k": "0.1.2", "six": "1"})
    assert old.level == "broken" and "0.1.3" in old.remedy
    assert not problems(doctor.check_got10k, {"got10k": "0.1.2", "six": "1", "numpy": "1.23.5"})
    assert not problems(doctor.check_got10k)


def test_torchvision_of_another_index() -> None:
    answer = Answer(False, "RuntimeError: operator torchvision::nms does not exist")
    found = only(doctor.check_torchvision, {"torch": "2.14.1+cpu"}, {"import torchvision": answer})
    assert found.level == "broken" and "2.14.1+cpu" in found.text and "same index" in found.remedy
    other = only(doctor.check_torchvision, {}, {"import torchvision": Answer(False, "ImportError: no")})
    assert other.level == "broken"


def test_torch() -> None:
    abi = Answer(False, "RuntimeError: Numpy is not available")
    assert "numpy" in only(doctor.check_torch, {}, {"import json, torch": abi}).remedy
    assert only(doctor.check_torch, nvidia_driver=True).level == "warning"
    gpu = {"import json, torch": Answer(True, '[{"device": "cpu"}, {"device": "cuda:0", "name": "a GPU"}]')}
    assert not problems(doctor.check_torch, {}, gpu, nvidia_driver=True)
    assert [d["device"] for d in doctor.list_devices(installation({}, gpu))] == ["cpu", "cuda:0"]
    assert doctor.list_devices(installation({}, {"torch": abi})) == []


def test_several_opencv_builds() -> None:
    found = only(doctor.check_opencv, {"opencv-python-headless": "5.0.0.93"})
    assert found.level == "warning" and "pip install opencv-python" in found.remedy
    assert "uninstall -y opencv-python opencv-python-headless" in found.remedy
    both = only(doctor.check_opencv, {"opencv-contrib-python": "5.1.0.95"})
    assert both.remedy.endswith("pip install opencv-contrib-python")


def test_opencv_that_does_not_work() -> None:
    library = Answer(False, "ImportError: libGL.so.1: cannot open shared object file: No such file or directory")
    found = only(doctor.check_opencv, {}, {"cv2": library})
    assert found.level == "broken" and found.remedy.endswith("-headless, which needs no graphics libraries")
    removed = {"cv2": Answer(False, "AttributeError: module 'cv2' has no attribute 'VideoCapture'")}
    assert only(doctor.check_opencv, {}, removed).level == "broken"
    assert only(doctor.check_opencv, {"opencv-python": None}, removed).remedy == "pip install opencv-python"
    assert "FFmpeg" in only(doctor.check_opencv, {}, {"cv2": Answer(True, "False")}).text


def test_requirements() -> None:
    needs = ["timm>=1.0.9", "opencv-python", "peft>=0.10; extra == 'train'", "attributee!=0.1.10; extra == 'vot'"]
    assert not problems(doctor.check_requirements, {"timm": "1.0.31"}, requirements=needs)
    assert only(doctor.check_requirements, {"timm": "0.9.2"}, requirements=needs).level == "broken"
    assert only(doctor.check_requirements, requirements=needs).remedy == 'pip install "timm>=1.0.9"'
    old = only(doctor.check_requirements, {"timm": "1.1", "peft": "0.9"}, requirements=needs)
    assert (old.level, old.subject) == ("warning", "peft")
    contrib = {"timm": "1.1", "opencv-python": None, "opencv-contrib-python": "5.1"}
    assert not problems(doctor.check_requirements, contrib, requirements=needs)


def test_onnxruntime_builds_and_weights() -> None:
    assert only(doctor.check_onnxruntime, {"onnxruntime": "1.24", "onnxruntime-gpu": "1.24"}).level == "warning"
    answer = Answer(False, "lorat_plugin.errors.CheckpointError: weights/lorat_tiny.safetensors: the file is truncated")
    found = only(doctor.check_weights, {}, {"lorat_tiny": answer})
    assert (found.level, found.text) == ("broken", "weights/lorat_tiny.safetensors: the file is truncated")


def test_fresh_interpreters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.run_fresh("print('a'); print('b')") == Answer(True, "b")
    assert doctor.run_fresh("pass") == Answer(True, "")
    assert doctor.run_fresh("raise ValueError('no')") == Answer(False, "ValueError: no")
    assert "code -6" in doctor.run_fresh("import os; os.abort()").text
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = list(doctor.check_torchvision(Installation((3, 12), VERSIONS, [], doctor.run_fresh)))
    assert found[0].level == "broken" and "same index" in found[0].remedy
    monkeypatch.setattr(doctor, "PROBE_SECONDS", 0.2)
    assert doctor.run_fresh("import time; time.sleep(9)") == Answer(False, "no answer in 0.2 s")


def test_this_installation() -> None:
    found = doctor.this_installation()
    assert {"torch", "timm", "numpy"} <= set(found.versions)
    assert not [finding for finding in doctor.check_requirements(found) if finding.level == "broken"]
