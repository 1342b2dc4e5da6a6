"""README's commands and programs do what they say."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lorat_plugin import create_model, save_checkpoint
from lorat_plugin.checkpoints.loading import bundled_weights
from lorat_plugin.evaluation.clips import write_sequences
from lorat_plugin.variants import get_variant
from tests.helpers.sequences import square_sequence, write_clip, write_video

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
PROGRAMS = [text for language, text in BLOCKS if language == "python"]
LINES = [line.split(" #")[0].strip() for language, text in BLOCKS if language == "bash" for line in text.splitlines()]


def lines(start: str) -> list[str]:
    return [line for line in LINES if line.startswith(start)]


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with the files that README names."""
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "video.mp4")
    return tmp_path


def start(command: list[str], **environment: str) -> str:
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **environment}
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}"
    return done.stdout


def lorat(line: str, *more: str) -> str:
    program, *arguments = shlex.split(line)
    assert program == "lorat"
    return start([sys.executable, "-m", "lorat_plugin", *arguments, *more])


def test_weights_are_bundled():
    assert bundled_weights(get_variant("lorat_tiny")) is not None


def test_python_example_tracks_a_video(workplace):
    said = start([sys.executable, "-W", "ignore", "-c", PROGRAMS[0]])
    assert re.findall(r"^(\d+) \[", said, re.MULTILINE) == [str(number) for number in range(1, 8)]


def test_the_first_screen_is_short():
    first = README.split("\n## ")[0]
    assert len(PROGRAMS[0].splitlines()) <= 8 and "](docs/images/tracked.jpg)" in first and "\n|" in first
    assert all((ROOT / target).exists() for target in re.findall(r"\]\(([^)#:]+)\)", README))


def test_track_example_writes_what_readme_says(workplace):
    lorat(lines("lorat track")[0])
    names = {path.name for path in Path("lorat_track").rglob("*.*")}
    assert {"boxes.txt", "track.jsonl", "video.mp4"} <= names


@pytest.mark.toolkit
def test_got10k_example_reports(workplace):
    write_sequences({name: square_sequence(6) for name in ("one", "two")}, workplace / "GOT-10k")
    start([sys.executable, "-c", PROGRAMS[1].replace("/data/", f"{workplace}/")], MPLBACKEND="Agg")
    assert (workplace / "reports/GOT-10k/LoRAT/performance.json").is_file()


@pytest.mark.toolkit
def test_evaluate_examples_score_report_and_compare(workplace):
    for name in ("one", "two"):
        write_clip(workplace / "clips" / name)
    assert "success AUC" in lorat(lines("lorat evaluate")[0])
    lorat(lines("lorat report")[0])
    assert "data:image/svg+xml" in Path("report.html").read_text(encoding="utf-8")
    assert "95 % interval" in lorat(lines("lorat compare")[0])


@pytest.mark.toolkit
def test_vot_example_evaluates(workplace):
    for name in ("one", "two"):
        write_clip(workplace / "clips" / name)
    lorat(lines("lorat vot init")[0])
    program, *arguments = shlex.split(lines("vot evaluate")[0])
    said = start([str(Path(sys.executable).parent / program), *arguments])
    assert "Evaluation concluded" in said
    assert len(list((workplace / "workspace/results").rglob("*_001.bin"))) == 2
    lorat(lines("lorat vot run")[0])
    assert len(list((workplace / "workspace/results").rglob("*_001.bin"))) == 4  # of both protocols
    assert (workplace / "workspace/reports/lorat/report.html").is_file()


@pytest.mark.slow
def test_train_example_trains(workplace):
    torch.manual_seed(0)
    variant = get_variant("lorat_tiny")
    state = create_model(variant).state_dict()
    backbone = {n: t for n, t in state.items() if n.startswith(("patch_embed", "blocks", "norm"))}
    backbone |= {"pos_embed": torch.zeros(1, 1370, variant.dim), "cls_token": torch.zeros(1, 1, variant.dim)}
    save_file(backbone, "dinov2_vits14.safetensors")
    for folder, channels in (("objects", 4), ("photos", 3)):
        Path(folder).mkdir()
        for i in range(3):
            noise = np.random.default_rng(i).integers(0, 255, (12, 12, channels), np.uint8)
            cv2.imwrite(f"{folder}/{i}.png", cv2.resize(noise, (160, 160), interpolation=cv2.INTER_CUBIC))
    settings = ("batch_size=2", "validate_every=2", "validation_pairs=2", "checkpoint_every=2")
    lorat(lines("lorat train")[0], "--steps", "2", "--workers", "0", *(f"--set={s}" for s in settings))
    assert load_file("run/lorat_tiny.safetensors")


@pytest.mark.slow
def test_convert_example_makes_weights_that_track(workplace):
    torch.manual_seed(0)
    network = create_model("lorat_b_224", lora=True)
    save_checkpoint(network, "base_224.bin", "official")
    plain = {
        n: t for n, t in create_model("lorat_b_224").state_dict().items() if n.startswith(("patch", "blocks", "norm"))
    }
    extra = {
        "pos_embed": torch.zeros(1, 1370, 768),
        "cls_token": torch.zeros(1, 1, 768),
        "mask_token": torch.zeros(1, 768),
    }
    torch.save(plain | extra, "dinov2_vitb14_pretrain.pth")
    said = lorat(lines("lorat convert")[0])
    assert "LoRAT adapters (official), lorat_b_224" in said
    lorat(lines("lorat track")[1])
