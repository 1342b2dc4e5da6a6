"""`lorat evaluate` as users start it: alone, under torchrun, killed and gone on with, beside another run."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from lorat_plugin.cli import main
from lorat_plugin.datasets.sequences import box_sequence
from lorat_plugin.evaluation.evaluate import Claims
from lorat_plugin.evaluation.registry import open_benchmark
from lorat_plugin.evaluation.results import ResultFiles, read_confidences
from tests.helpers.sequences import square_sequence, write_clip

LENGTHS = {"ant": 24, "bee": 40, "cat": 16, "dog": 30}
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clips")
    for seed, (name, length) in enumerate(LENGTHS.items()):
        write_clip(root / name, length, seed)
    return root


def command(clips: Path, results: Path, *options: str) -> list[str]:
    start = [sys.executable, "-m", "lorat_plugin", "evaluate", "--dataset", f"clips:{clips}"]
    return [*start, "--results", str(results), "--name", "LoRAT", "--device", "cpu", *options]


def run(clips: Path, results: Path, *options: str) -> subprocess.CompletedProcess[str]:
    line = command(clips, results, *options)
    return subprocess.run(line, capture_output=True, text=True, env=ENVIRONMENT, check=False)


def here(clips: Path, results: Path, *options: str) -> int:
    """The same in this process, which saves its start; returns the exit code."""
    return main.run(command(clips, results, *options)[3:])


def contents(results: Path) -> dict[str, bytes]:
    """Every file of boxes, times and scores; nothing hidden may have been left over."""
    files = {p.relative_to(results).as_posix(): p for p in results.rglob("*") if p.is_file()}
    assert not [name for name in files if "/." in name], "temporary files"
    return {n: p.read_bytes() for n, p in files.items() if n.startswith("clips/") or "/scores/" in n}


@pytest.fixture(scope="module")
def undisturbed(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("undisturbed")
    assert here(clips, results, "--batch", "3") == 0
    return results


def test_files_are_the_toolkits(clips: Path, undisturbed: Path) -> None:
    benchmark = open_benchmark("clips", clips)
    home = undisturbed / "clips" / "LoRAT"
    assert sorted(p.name for p in home.iterdir()) == [*(f"{name}.txt" for name in LENGTHS), "times"]
    for sequence in benchmark.sequences:
        lines = (home / f"{sequence.name}.txt").read_text().splitlines()
        assert len(lines) == len(sequence) and lines[0] == "30.000,20.000,16.000,16.000"
        times = np.loadtxt(home / "times" / f"{sequence.name}_time.txt")
        assert times.shape == (len(sequence),) and not times.any(), "a batch's times are no single-target speed"
        scores = read_confidences(undisturbed / "lorat" / "clips" / "LoRAT", sequence)
        assert scores is not None and scores[0] == 1 and ((scores >= 0) & (scores <= 1)).all()
    line = json.loads((undisturbed / "lorat" / "clips" / "LoRAT" / "throughput.jsonl").read_text())
    assert line["frames"] == 110 and line["sequences_at_once"] == 3 and not line["single_target_speed"]
    settings = json.loads((undisturbed / "lorat" / "clips" / "LoRAT" / "run.json").read_text())
    assert settings["model"] == "lorat_tiny" and len(settings["weights"]) == 64 and settings["precision"] == "fp32"


@pytest.mark.parametrize("style", ["pytracking", "ostrack"])
def test_one_at_a_time_measures_times(clips: Path, undisturbed: Path, tmp_path: Path, style: str) -> None:
    assert here(clips, tmp_path, "--batch", "1", "--format", style, "--sequences", "cat,ant") == 0
    home = tmp_path / "LoRAT"
    assert sorted(p.name for p in home.iterdir()) == ["ant.txt", "ant_time.txt", "cat.txt", "cat_time.txt"]
    found = np.loadtxt(home / "cat.txt", delimiter="\t")
    wanted = np.loadtxt(undisturbed / "clips" / "LoRAT" / "cat.txt", delimiter=",")
    np.testing.assert_allclose(found, np.trunc(wanted) if style == "ostrack" else wanted, atol=1e-3)
    assert (np.loadtxt(home / "cat_time.txt") > 0).all()


def test_processes_share_the_sequences(clips: Path, undisturbed: Path, tmp_path: Path) -> None:
    line = command(clips, tmp_path, "--batch", "2")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "lorat_plugin"]
    done = subprocess.run(
        [sys.executable, *launcher, *line[3:]], capture_output=True, text=True, env=ENVIRONMENT, check=False
    )
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path) == contents(undisturbed)
    assert done.stdout.count("AUC") == 1, "the first process alone reports"


def play_quietly(arguments: list[str], errors: str) -> None:
    """What a process does that is to be killed."""
    sys.stderr = open(errors, "w", buffering=1)  # noqa: SIM115  # until it is killed
    torch.set_num_threads(1)
    main.run(arguments)


def kill_at_random(clips: Path, results: Path, chance: random.Random, errors: Path) -> None:
    # from a process that has torch and timm loaded, which take longer than the run
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "lorat_plugin.evaluation.evaluate"])
    arguments = command(clips, results, "--batch", "2")[3:]
    process = context.Process(target=play_quietly, args=(arguments, str(errors)))
    process.start()
    while process.is_alive() and not (errors.is_file() and "frames to track" in errors.read_text()):
        time.sleep(0.02)
    time.sleep(chance.uniform(0.0, 2.5))
    process.kill()
    process.join()


@pytest.mark.slow
def test_killed_five_times_and_finished(
    clips: Path, undisturbed: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    chance = random.Random(0)
    for number in range(5):
        kill_at_random(clips, tmp_path, chance, tmp_path_factory.mktemp("errors") / f"{number}.txt")
    for part in tmp_path.rglob(".*"):  # what a killed process was writing
        assert part.is_dir(), part
    done = run(clips, tmp_path, "--batch", "3")
    assert done.returncode == 0, done.stderr
    found = {
        n: b for n, b in ((p.relative_to(tmp_path).as_posix(), p) for p in tmp_path.rglob("*.txt")) if "/." not in n
    }
    assert {n: p.read_bytes() for n, p in found.items()} == contents(undisturbed)


def test_what_is_there_is_kept_and_what_is_broken_is_made_again(
    clips: Path, undisturbed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(undisturbed, tmp_path / "results")
    home = tmp_path / "results" / "clips" / "LoRAT"
    (home / "ant.txt").write_text("1,2,3,4\n")
    (home / "bee.txt").unlink()
    before = (home / "cat.txt").stat().st_mtime_ns
    with caplog.at_level("INFO"):
        assert here(clips, tmp_path / "results", "--batch", "3") == 0
    assert "ant.txt: 1 rows for 24 frames" in caplog.text and "64 frames to track" in caplog.text
    assert contents(tmp_path / "results") == contents(undisturbed)
    assert (home / "cat.txt").stat().st_mtime_ns == before


@pytest.fixture
def refused(clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., None]:
    """Runs a command line in this process; it must end with code 2 and say these words."""

    def refuse(*words: str, where: Path = tmp_path / "new", options: tuple[str, ...] = ()) -> None:
        assert main.run(command(clips, where, *options)[3:]) == 2
        said = capsys.readouterr().err
        assert said.startswith("lorat: ") and all(word in said for word in words), said

    return refuse


def test_bad_input(refused: Callable[..., None], undisturbed: Path, tmp_path: Path) -> None:
    refused("precision fp32", "bf16", "--name", where=undisturbed, options=("--precision", "bf16"))
    refused("absent_below 0.0", "0.4", where=undisturbed, options=("--absent-below", "0.4"))
    refused("absent_below is 1.5", options=("--absent-below", "1.5"))
    refused("unicorn", options=("--sequences", "ant,unicorn"))
    refused("repetitions", options=("--repetitions", "3"))
    refused("'excel'", "ostrack", options=("--format", "excel"))
    refused("'../up'", "name of a folder", options=("--name", "../up"))
    refused("'mine'", "lorat_plain", options=("--protocol", "mine"))
    refused("nowhere", options=("--check-official", str(tmp_path / "nowhere")))
    (tmp_path / "file").write_text("")
    refused("file", "--results", where=tmp_path / "file" / "results")
    others = ResultFiles("LoRAT", tmp_path / "taken" / "clips" / "LoRAT", "flat")
    others.write("ant", [np.ones((24, 4))], np.zeros((24, 1)))
    refused("ant.txt", "--name", where=tmp_path / "taken")
    assert not (tmp_path / "new" / "clips").exists()


def test_results_of_someone_else_are_compared(
    clips: Path, undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = ("--check-official", str(undisturbed / "clips" / "LoRAT"), "--json")
    assert here(clips, tmp_path, "--batch", "2", "--sequences", "ant,cat", *theirs) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["agreement"]["overall"]["frames"] == 40 and said["agreement"]["overall"]["mean_iou"] == 1
    assert said["frames"] == 40 and said["scores"][0]["protocol"] == "lorat"


def test_results_of_someone_else_are_read_before_any_tracking(
    clips: Path, undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], refused: Callable[..., None]
) -> None:
    theirs = tmp_path / "theirs"
    shutil.copytree(undisturbed / "clips" / "LoRAT", theirs)
    rows = (theirs / "ant.txt").read_text().splitlines()
    (theirs / "ant.txt").write_text("\n".join([*rows, *rows[:2]]) + "\n")
    (theirs / "bee.txt").unlink()
    official = ("--check-official", str(theirs), "--json")
    assert here(clips, undisturbed, "--sequences", "ant,bee", *official) == 0
    found = json.loads(capsys.readouterr().out)["agreement"]
    assert found["sequences"]["ant"]["mean_iou"] == 1 and list(found["sequences"]) == ["ant"]
    assert found["notes"][:2] == [
        "1 of 2 sequences have no raw results: bee; they are left out",
        "theirs: rows behind the last frame are left out: ant (26 rows, 24 frames)",
    ]
    (theirs / "ant.txt").write_text("1,2,x,4\n")
    refused("ant.txt, line 1", options=official)
    assert not (tmp_path / "new" / "clips").exists()


def test_the_scores_say_which_sequences_were_left_out(
    clips: Path, undisturbed: Path, capsys: pytest.CaptureFixture[str], refused: Callable[..., None]
) -> None:
    assert here(clips, undisturbed, "--skip", "bee") == 0
    assert "clips without bee, protocol lorat" in capsys.readouterr().out
    scores = json.loads((undisturbed / "lorat" / "clips" / "LoRAT" / "scores.json").read_text())
    assert scores[0]["skipped"] == "bee" and scores[0]["benchmark"] == "clips"
    refused("--skip been", "did you mean bee", options=("--skip", "been"))


def test_a_frame_that_cannot_be_read_is_named_and_the_rest_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("good", "bad"):
        write_clip(tmp_path / "data" / name)
    path = tmp_path / "data" / "bad" / "00000003.jpg"
    path.write_bytes(path.read_bytes()[:200])
    assert here(tmp_path / "data", tmp_path / "results") == 2
    said = capsys.readouterr().err
    assert "1 of 2 sequences could not be tracked" in said and "frame 2 of sequence bad" in said
    assert [p.name for p in (tmp_path / "results" / "clips" / "LoRAT").glob("*.txt")] == ["good.txt"]
    write_clip(tmp_path / "data" / "bad")
    assert here(tmp_path / "data", tmp_path / "results") == 0


def test_a_benchmark_whose_truth_is_hidden(tmp_path: Path) -> None:
    """TrackingNet's test set: tracked, not scored, rounded, counted from 0."""
    home = tmp_path / "data" / "TEST"
    for seed, name in enumerate(("v_0", "w_1")):
        frames, boxes = square_sequence(5, seed)
        (home / "frames" / name).mkdir(parents=True)
        for number, frame in enumerate(frames):
            cv2.imwrite(str(home / "frames" / name / f"{number}.jpg"), frame)
        (home / "anno").mkdir(exist_ok=True)
        np.savetxt(home / "anno" / f"{name}.txt", boxes[:1] + 0.25, fmt="%.2f", delimiter=",")
    line = command(tmp_path / "data", tmp_path / "results")[3:]
    line[line.index("--dataset") + 1] = f"trackingnet:{tmp_path / 'data'}"
    assert main.run(line) == 0
    rows = np.loadtxt(tmp_path / "results" / "TrackingNet" / "LoRAT" / "w_1.txt", delimiter=",")
    assert rows.shape == (5, 4) and (rows == np.floor(rows)).all() and rows[0].tolist() == [30, 20, 17, 17]
    assert not (tmp_path / "results" / "lorat" / "TrackingNet" / "LoRAT" / "scores.json").exists()


def test_claims_are_exclusive_and_end_with_their_process(tmp_path: Path) -> None:
    boxes = np.ones((1, 4))
    sequences = [box_sequence(n, ["x"] * k, boxes, boxes[:, 0] > 0, (9, 9)) for n, k in (("a", 2), ("b", 5))]
    mine, theirs = (Claims(tmp_path, sequences, lambda name: False) for _ in range(2))
    first = mine.take()
    assert first is not None and first.name == "b", "the longest first"
    second = theirs.take()
    assert second is not None and second.name == "a" and mine.take() is None and theirs.take() is None
    code = (
        "import sys, os\nfrom filelock import FileLock\n"
        f"lock = FileLock({str(tmp_path / 'c.lock')!r})\nlock.acquire()\nprint('held', flush=True)\nsys.stdin.read()"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    third = Claims(tmp_path, [box_sequence("c", ["x"], boxes, boxes[:, 0] > 0, (9, 9))], lambda name: False)
    assert third.take() is None
    holder.kill()
    holder.communicate()
    assert third.take() is not None
