"""Every program of the documents runs, the tutorials are done from first line to last, and the site builds strictly."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lorat_plugin.datasets.clips import write_sequences
from tests.helpers.sequences import square_sequence, write_clip, write_video

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
# programs that test_docs runs, which looks at their results
RUN_ELSEWHERE = {"howto/data.md", "howto/evaluation.md", "howto/training.md"}
FOLDERS = {
    "Tutorials": "tutorials",
    "How-to": "howto",
    "Explanation": "explanation",
    "Figures": "figures",
    "Reference": "reference",
}
BLOCK = re.compile(r"^ *```(python|bash)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
FEW_STEPS = "--steps 2 --workers 0 --set batch_size=2 --set validate_every=2 --set validation_pairs=2"
NOT_HERE = re.compile(r"--select|^pip |^lorat vot init vot2022")  # need a display, or a network


def blocks(path: Path) -> list[tuple[str, str]]:
    return BLOCK.findall(path.read_text(encoding="utf-8"))


PROGRAMS = [
    pytest.param(path, id=path.relative_to(DOCS).as_posix())
    for path in sorted(DOCS.rglob("*.md"))
    if "tutorials" not in path.parts
    and path.relative_to(DOCS).as_posix() not in RUN_ELSEWHERE
    and any(kind == "python" for kind, _ in blocks(path))
]
TUTORIALS = [pytest.param(path, id=path.stem) for path in sorted((DOCS / "tutorials").glob("*.md"))]


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with the files that the documents name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.setenv("LORAT_CACHE", str(tmp_path / "cache"))
    write_video(tmp_path / "video.mp4")
    for folder in ("clips", "held_out"):
        for seed, name in enumerate(("one", "two")):
            write_clip(tmp_path / folder / name, 8, seed)
    return tmp_path


def start(command: list[str]) -> str:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ)
    assert done.returncode == 0, f"{command}\n{done.stdout}"
    return done.stdout


@pytest.mark.parametrize("path", PROGRAMS)
def test_programs_run(path: Path, workplace: Path) -> None:
    program = "\n".join(text for kind, text in blocks(path) if kind == "python")
    (workplace / "program.py").write_text(program)  # a file, since spawned processes read the program again
    start([sys.executable, "program.py"])


@pytest.mark.slow
@pytest.mark.toolkit
@pytest.mark.parametrize("path", TUTORIALS)
def test_tutorials_can_be_done(path: Path, workplace: Path) -> None:
    write_sequences({name: square_sequence(6) for name in ("one", "two")}, workplace / "GOT-10k")
    for kind, text in blocks(path):
        if kind == "python":
            start([sys.executable, "-c", text.replace("/data/", f"{workplace}/")])
            continue
        for line in text.strip().splitlines():
            line = line.split(" #")[0].strip().replace("--steps 300", FEW_STEPS)
            if not NOT_HERE.search(line):
                program, *arguments = shlex.split(line)
                assert program in ("lorat", "vot"), line
                start([str(Path(sys.executable).with_name(program)), *arguments])


def test_the_metrics_page_says_what_its_program_prints(workplace: Path) -> None:
    page = DOCS / "explanation/metrics.md"
    said = start([sys.executable, "-c", next(text for kind, text in blocks(page) if kind == "python")])
    table = re.findall(r"^\| `(\w+)` \| ([\d.]+) \| ([\d.]+) \|", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert table == re.findall(r"^(\w+) +AUC ([\d.]+)  precision ([\d.]+)$", said, re.MULTILINE)


def test_the_page_of_benchmarks_is_what_its_figures_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DOCS))
    import make

    assert make.benchmark_page() == (DOCS / "figures/benchmarks.md").read_text(encoding="utf-8")


def test_the_page_of_benchmarks_shows_what_a_gpu_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DOCS))
    import make

    assert "nothing here has run on a GPU yet" in make.gpu_section(tmp_path / "gpu.json")
    parts = {
        "tests": {"exit": 0, "result": "....\n==== 4 passed in 2.00s ====\n"},
        "networks": {"exit": 0, "result": json.loads((DOCS / "benchmarks/engines.json").read_text())},
        "data_bank": {"exit": 0, "result": [{"step": n, "pairs_per_second": 10.0 * n} for n in (1, 2, 3)]},
        "training": {"exit": 1, "result": "an error"},
    }
    (tmp_path / "gpu.json").write_text(json.dumps(parts))
    section = make.gpu_section(tmp_path / "gpu.json")
    assert "Tests: 4 passed in 2.00s. Parts that failed: training." in section
    assert "| networks: lorat_tiny x1 fused fp32 | network alone | 30.34 frames/s | 1.20 | 1.15 to 1.27 |" in section
    assert "| data_bank | 20 |" in section


def test_the_folders_are_those_of_the_menu() -> None:
    menu = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    sections = {title: pages for entry in menu for title, pages in entry.items() if isinstance(pages, list)}
    for title, folder in FOLDERS.items():
        listed = {page for entry in sections[title] for page in entry.values()} - {"reference/cli.md"}
        written = {path.relative_to(DOCS).as_posix() for path in (DOCS / folder).rglob("*.md")}
        assert {page for page in listed if not page.startswith("tree/")} == written, title
    names = [path.name for path in DOCS.rglob("*.md")]
    assert len(set(names)) == len(names)
    assert {path.name for path in DOCS.iterdir() if path.is_dir()} <= {*FOLDERS.values(), "images", "benchmarks"}


@pytest.mark.slow
def test_the_site_builds_strictly(tmp_path: Path) -> None:
    start([sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(ROOT / "mkdocs.yml"), "-d", str(tmp_path)])
    assert "lorat track" in (tmp_path / "reference/cli/index.html").read_text(encoding="utf-8")
    assert "encode_template" in (tmp_path / "reference/tracking/index.html").read_text(encoding="utf-8")
