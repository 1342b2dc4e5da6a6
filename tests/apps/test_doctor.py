"""The checks of `lorat doctor` on made-up installations, and on fresh interpreters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from lorat_plugin.apps import doctor
from lorat_plugin.apps.doctor import Answer, Finding, Installation

GOOD = Answer(True, '[{"device": "cpu", "threads": 2}]')
VERSIONS = {"torch": "2.14.1", "torchvision": "0.29.1", "numpy": "2.4.6", "opencv-python": "5.0.0.93"}


def installation(
    versions: Mapping[str, str | None] | None = None,
    answers: Mapping[str, Answer] | None = None,
    **options,
) -> Installation:
    """A sound installation, but for the versions (None: not installed) and the answers to code with a given word."""
    known = {name: version for name, version in {**VERSIONS, **(versions or {})}.items() if version is not None}

    def probe(code: str) -> Answer:
        return next((answer for word, answer in (answers or {}).items() if word in code), GOOD)

    return Installation(known, options.pop("requirements", []), probe, **options)


def problems(check: Callable, *arguments, **options) -> list[Finding]:
    return [finding for finding in check(installation(*arguments, **options)) if finding.level != "ok"]


def only(check: Callable, *arguments, **options) -> Finding:
    (finding,) = problems(check, *arguments, **options)
    return finding


def test_a_sound_installation_has_no_problem() -> None:
    findings = doctor.examine(installation({"got10k": "0.1.3", "vot-toolkit": "0.9.0"}))
    assert {finding.level for finding in findings} == {"ok"}
    subjects = [finding.subject for finding in findings]
    assert subjects == ["torch", "torchvision", "opencv", "got10k", "vot-toolkit", "bundled weights"]
    assert not problems(doctor.check_programs, {}, {"import vot": Answer(False, "no")})  # is not installed


@pytest.mark.parametrize(
    ("code", "text", "subject", "remedy"),
    [
        ("import vot", "ImportError: cannot import name 'get_cmap'", "vot-toolkit", "attributee!=0.1.10"),
        ("import got10k", "ModuleNotFoundError: No module named 'fire.core'", "got10k", "pip install fire"),
        ("import torchvision", "RuntimeError: operator torchvision::nms does not exist", "torchvision", "same index"),
        ("import json, torch", "RuntimeError: Numpy is not available", "torch", "numpy"),
        ("cv2", "ImportError: libGL.so.1: cannot open shared object file", "opencv", "headless"),
        ("lorat_tiny", "CheckpointError: lorat_tiny.safetensors: is truncated", "bundled weights", "reinstall"),
    ],
)
def test_what_does_not_work_is_told_with_its_remedy(code: str, text: str, subject: str, remedy: str) -> None:
    found = only(doctor.check_programs, {"got10k": "0.1.3", "vot-toolkit": "0.9.0"}, {code: Answer(False, text)})
    assert (found.level, found.subject, found.text) == ("broken", subject, text) and remedy in found.remedy


def test_devices() -> None:
    assert only(doctor.check_gpu, nvidia_driver=True).level == "warning"
    gpu = {"import json, torch": Answer(True, '[{"device": "cpu"}, {"device": "cuda:0", "name": "a GPU"}]')}
    assert not problems(doctor.check_gpu, {}, gpu, nvidia_driver=True)
    assert [d["device"] for d in doctor.list_devices(installation({}, gpu))] == ["cpu", "cuda:0"]
    assert doctor.list_devices(installation({}, {"torch": Answer(False, "")})) == []


def test_several_opencv_builds() -> None:
    found = only(doctor.check_opencv, {"opencv-python-headless": "5.0.0.93"})
    assert found.level == "warning" and found.remedy.endswith("pip install opencv-python")
    assert "uninstall -y opencv-python opencv-python-headless" in found.remedy
    both = only(doctor.check_opencv, {"opencv-contrib-python": "5.1.0.95"})
    assert both.remedy.endswith("pip install opencv-contrib-python")


def test_requirements() -> None:
    needs = ["timm>=1.0.9", "opencv-python", "peft>=0.10; extra == 'train'", "attributee!=0.1.10; extra == 'vot'"]
    assert not problems(doctor.check_requirements, {"timm": "1.0.31"}, requirements=needs)
    assert only(doctor.check_requirements, {"timm": "0.9.2"}, requirements=needs).level == "broken"
    assert only(doctor.check_requirements, requirements=needs).remedy == 'pip install "timm>=1.0.9"'
    old = only(doctor.check_requirements, {"timm": "1.1", "peft": "0.9"}, requirements=needs)
    assert (old.level, old.subject) == ("warning", "peft")
    contrib = {"timm": "1.1", "opencv-python": None, "opencv-contrib-python": "5.1"}
    assert not problems(doctor.check_requirements, contrib, requirements=needs)


def test_fresh_interpreters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.run_fresh("print('a'); print('b')") == Answer(True, "b")
    assert doctor.run_fresh("pass") == Answer(True, "")
    assert doctor.run_fresh("raise ValueError('no')") == Answer(False, "ValueError: no")
    assert "code -6" in doctor.run_fresh("import os; os.abort()").text
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert "nms does not exist" in doctor.run_fresh(doctor.PROBES["torchvision"][0]).text
    monkeypatch.setattr(doctor, "PROBE_SECONDS", 0.2)
    assert doctor.run_fresh("import time; time.sleep(9)") == Answer(False, "no answer in 0.2 s")


def test_this_installation() -> None:
    found = doctor.this_installation()
    assert {"torch", "timm", "numpy"} <= set(found.versions)
    assert not [finding for finding in doctor.check_requirements(found) if finding.level == "broken"]
