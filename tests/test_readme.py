"""README's commands and programs do what they say."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from lorat_plugin.datasets.clips import write_sequences
from lorat_plugin.models import bundled_weights
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
    assert len(README.splitlines()) <= 110
    assert len(PROGRAMS[0].splitlines()) <= 8 and "](docs/images/tracked.jpg)" in first and "\n|" in first
    assert "make demo" in first and "make test" in first
    assert all((ROOT / target).exists() for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", README))


def test_the_statement_on_gpus_is_near_the_top_as_long_as_there_are_no_figures():
    measured = (ROOT / "docs/benchmarks/gpu.json").exists()
    assert ("Nothing here has run on a GPU yet" in " ".join(README.splitlines()[:10])) != measured


def test_the_scores_are_those_of_the_weights_page():
    scores = [line for line in README.splitlines() if line.startswith("|") and "0." in line]
    page = (ROOT / "weights/README.md").read_text(encoding="utf-8").splitlines()
    assert len(scores) >= 3 and set(scores) <= set(page)


def test_track_example_writes_what_readme_says(workplace):
    lorat(lines("lorat track")[0])
    names = {path.name for path in Path("lorat_track").rglob("*.*")}
    assert {"boxes.txt", "track.jsonl", "video.mp4"} <= names


@pytest.mark.toolkit
def test_got10k_example_reports(workplace):
    write_sequences({name: square_sequence(6) for name in ("one", "two")}, workplace / "GOT-10k")
    start([sys.executable, "-c", PROGRAMS[1].replace("/data/", f"{workplace}/")], MPLBACKEND="Agg")
    assert (workplace / "reports/GOT-10k/LoRAT/performance.json").is_file()


def test_annotate_example_reads_boxes_of_cvat(workplace):
    lorat("lorat track video.mp4 --box 30,20,16,16 --format cvat --output drawn")
    next(Path("drawn").rglob("*.xml")).rename("boxes.xml")
    lorat(lines("lorat annotate")[0])
    assert list(Path().glob("lorat_*/**/*cvat.xml"))


@pytest.mark.toolkit
def test_evaluate_example_scores(workplace):
    for name in ("one", "two"):
        write_clip(workplace / "clips" / name)
    assert "success AUC" in lorat(lines("lorat evaluate")[0])


@pytest.mark.toolkit
def test_vot_example_makes_a_workspace(workplace):
    write_clip(workplace / "clips" / "one")
    lorat(lines("lorat vot init")[0])
    assert Path("workspace/trackers.ini").is_file()


@pytest.mark.slow
def test_train_example_trains(workplace):
    for seed, name in enumerate(("one", "two")):
        write_clip(workplace / "my_videos" / name, 8, seed)
    settings = ("batch_size=2", "validate_every=2", "validation_pairs=2", "checkpoint_every=2")
    lorat(lines("lorat train")[0], "--steps", "2", "--workers", "0", *(f"--set={s}" for s in settings))
    assert load_file("run/lorat_tiny.safetensors")
