"""Archives for the servers: what is written, what a check finds, and the GOT-10k toolkit's own archive as referee."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lorat_plugin.cli.main import run
from lorat_plugin.datasets.sequences import box_sequence
from lorat_plugin.errors import InputError
from lorat_plugin.evaluation.benchmarks import Benchmark
from lorat_plugin.evaluation.registry import open_benchmark
from lorat_plugin.evaluation.results import ResultFiles, result_files
from lorat_plugin.evaluation.submit import check_archive, write_archive
from tests.helpers.datasets import write_got10k_test, write_trackingnet_test
from tests.helpers.sequences import square_sequence, write_frames

GIVEN = np.array([[10.4, 12.7, 20.5, 9.25]])


def make_benchmark(name: str = "got10k", count: int = 3, length: int = 4) -> Benchmark:
    names = [f"GOT-10k_Test_{i:06d}" if name == "got10k" else f"{i}_video" for i in range(1, count + 1)]
    frames = [f"{i}.jpg" for i in range(length)]
    sequences = tuple(box_sequence(n, frames, GIVEN, np.ones(1, bool), (120, 90)) for n in names)
    folder, layout = ("GOT-10k", "nested") if name == "got10k" else ("TrackingNet", "flat")
    return Benchmark(name, folder, sequences, layout, 0, True, subset="test")


def write_results(benchmark: Benchmark, root: Path, seconds: float = 0.02, runs: int = 1) -> ResultFiles:
    files = result_files(benchmark, root, "LoRAT")
    for sequence in benchmark.sequences:
        boxes = GIVEN + np.arange(len(sequence))[:, None] * np.array([1, 2, 0, 0])
        files.write(sequence.name, [boxes] * runs, np.full((len(sequence), runs), seconds))
    return files


@pytest.mark.parametrize("runs", [1, 3])
def test_got10k_archive(runs: int, tmp_path: Path) -> None:
    benchmark = make_benchmark(count=180)
    files = write_results(benchmark, tmp_path, runs=runs)
    found = write_archive(tmp_path / "one.zip", "got10k", benchmark, files)
    assert not found.problems and not found.warnings
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        assert len(archive.namelist()) == 180 * (runs + 1)
        text = archive.read("GOT-10k_Test_000180/GOT-10k_Test_000180_001.txt").decode()
        assert text.splitlines()[:2] == ["10.000,12.000,21.000,10.000", "11.000,14.000,21.000,10.000"]
        times = archive.read("GOT-10k_Test_000002/GOT-10k_Test_000002_time.txt").decode().splitlines()
        assert times == [",".join(["0.02000000"] * runs)] * 4
    write_archive(tmp_path / "two.zip", "got10k", benchmark, files)
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()


def test_trackingnet_archive(tmp_path: Path) -> None:
    benchmark = make_benchmark("trackingnet", 511)
    assert not write_archive(tmp_path / "a.zip", "trackingnet", benchmark, write_results(benchmark, tmp_path)).problems
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert sorted(archive.namelist()) == sorted(f"{name}.txt" for name in benchmark.seq_names)
        assert archive.read("7_video.txt").decode().splitlines()[0] == "10.00,12.00,21.00,10.00"


def test_results_of_pytracking_are_converted(tmp_path: Path) -> None:
    benchmark = make_benchmark()
    files = ResultFiles("them", tmp_path / "them", "ostrack")
    for name in benchmark.seq_names:
        files.write(name, [np.repeat(GIVEN, 4, axis=0)], np.full((4, 1), 0.1))
    write_archive(tmp_path / "a.zip", "got10k", benchmark, files, partial=True)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.read("GOT-10k_Test_000001/GOT-10k_Test_000001_001.txt").startswith(b"10.000,12.000,20.000,9.000")


def test_a_batched_runs_times_are_warned_of(tmp_path: Path) -> None:
    benchmark = make_benchmark()
    files = write_results(benchmark, tmp_path, seconds=0.0)
    (warning,) = write_archive(tmp_path / "a.zip", "got10k", benchmark, files, partial=True).warnings
    assert "the server will show no speed" in warning and "--batch 1" in warning


def test_nothing_is_written_when_a_problem_is_found(tmp_path: Path) -> None:
    benchmark = make_benchmark()
    files = write_results(benchmark, tmp_path)
    with pytest.raises(InputError, match="holds 3 sequences of 180"):
        write_archive(tmp_path / "a.zip", "got10k", benchmark, files)
    files.boxes_path("GOT-10k_Test_000001").write_text("1,2,3\n")
    files.times_path("GOT-10k_Test_000002").unlink()
    with pytest.raises(InputError, match=r"(?s)not written.*000001_001\.txt, line 1.*000002_time\.txt: no times there"):
        write_archive(tmp_path / "a.zip", "got10k", benchmark, files, partial=True)
    assert not list(tmp_path.glob("*.zip")) and not list(tmp_path.glob(".*"))


Change = Callable[[dict[str, str]], object]
ONE = "GOT-10k_Test_000001"


def edit(part: str, old: str, new: str, count: int = -1) -> Change:
    return lambda texts: texts.update({f"{ONE}/{ONE}{part}": texts[f"{ONE}/{ONE}{part}"].replace(old, new, count)})


def rename(pattern: str) -> Change:
    def change(texts: dict[str, str]) -> None:
        for name in list(texts):
            texts[pattern.format(name=name, file=name.split("/")[-1])] = texts.pop(name)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rename("LoRAT/{name}"), "does not belong into the archive, whose root holds <sequence>/<sequence>_001.txt"),
        (rename("{file}"), f"{ONE}_001.txt, {ONE}_time.txt, "),
        (rename("GOT-10k_Test_000009/{file}"), "does not belong"),
        (edit("_001.txt", ",", "\t"), f"{ONE}/{ONE}_001.txt: has not 4 numbers in each row, finite and with commas"),
        (edit("_001.txt", "21.000,", ""), f"{ONE}_001.txt: has not 4 numbers"),
        (edit("_001.txt", "11.000", "nan"), "finite"),
        (edit("_time.txt", "0.02000000", ""), f"{ONE}_time.txt: has not times in each row"),
        (edit("_001.txt", "10.000,12.000", "14.000,12.000"), "does not start with the given box"),
        (edit("_001.txt", "10.000,12.000,21.000,10.000\n", ""), f"{ONE}_001.txt: has not a row for every frame"),
        (edit("_time.txt", "0.02000000\n", "", 1), f"{ONE}_time.txt: has not a time for every frame"),
        (lambda texts: texts.pop(f"{ONE}/{ONE}_time.txt"), f"{ONE}: has no file of times"),
        (lambda texts: texts.pop(f"{ONE}/{ONE}_001.txt"), f"{ONE}: has no file of boxes"),
        (lambda texts: texts.update({"__MACOSX/._x": ""}), "__MACOSX/._x: does not belong into the archive"),
        (
            lambda texts: texts.update({f"{ONE[:-1]}7/{ONE[:-1]}7_001.txt": "1,2,3,4\n"}),
            f"{ONE[:-1]}7: is no sequence of the data set",
        ),
    ],
)
def test_a_check_finds_what_is_wrong(change: Change, message: str, tmp_path: Path) -> None:
    benchmark = make_benchmark()
    write_archive(tmp_path / "a.zip", "got10k", benchmark, write_results(benchmark, tmp_path), partial=True)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        texts = {name: archive.read(name).decode() for name in archive.namelist()}
    change(texts)
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        for name, text in texts.items():
            archive.writestr(name, text)
    problems = check_archive(tmp_path / "b.zip", "got10k", benchmark, partial=True).problems
    assert message in problems[0], problems


@pytest.mark.toolkit
def test_the_toolkits_archive_holds_the_same_files(tmp_path: Path) -> None:
    experiments = pytest.importorskip("got10k.experiments")
    benchmark = make_benchmark()
    files = write_results(benchmark, tmp_path / "results")
    for name in benchmark.seq_names:
        write_frames(tmp_path / "data" / "test" / name, square_sequence(4)[0])
        np.savetxt(tmp_path / "data" / "test" / name / "groundtruth.txt", GIVEN, delimiter=",")
    (tmp_path / "data" / "test" / "list.txt").write_text("\n".join(benchmark.seq_names))
    experiments.ExperimentGOT10k(
        root_dir=str(tmp_path / "data"),
        subset="test",
        result_dir=str(tmp_path / "results"),
        report_dir=str(tmp_path / "reports"),
    ).report(["LoRAT"])
    theirs = tmp_path / "results" / "GOT-10k" / "LoRAT.zip"
    assert not check_archive(theirs, "got10k", benchmark, partial=True).problems
    write_archive(tmp_path / "ours.zip", "got10k", benchmark, files, partial=True)
    with zipfile.ZipFile(theirs) as a, zipfile.ZipFile(tmp_path / "ours.zip") as b:
        names = [name for name in a.namelist() if not name.endswith("/")]
        assert sorted(names) == sorted(b.namelist()) and len(names) == 6
        assert all(a.read(name) == b.read(name) for name in names)


@pytest.mark.parametrize(
    ("server", "write", "where"),
    [("got10k", write_got10k_test, "results/GOT-10k/LoRAT"), ("trackingnet", write_trackingnet_test, "results")],
)
def test_the_command_writes_and_checks(
    server: str, write: Callable[[Path], Path], where: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    root = write(tmp_path / "data")
    benchmark = open_benchmark(server, root, "test" if server == "got10k" else None)
    files = result_files(benchmark, tmp_path / "results", "LoRAT")
    for sequence in benchmark.sequences:
        boxes = np.repeat(sequence.boxes[:1], len(sequence), axis=0)
        files.write(sequence.name, [boxes], np.zeros((len(sequence), 1)))
    out = tmp_path / "out.zip"
    arguments = ["submit", server, "--dataset", f"{server}:{root}"]
    written = [*arguments, "--results", str(tmp_path / where), "--out", str(out)]
    assert run(written) == 2 and not out.exists()
    assert f"{len(benchmark)} sequences of {180 if server == 'got10k' else 511}" in capsys.readouterr().err
    assert run([*written, "--partial"]) == 0
    assert f"out.zip: {len(benchmark)} sequences, checked" in capsys.readouterr().out
    assert run([*arguments, "--check", str(out), "--partial"]) == 0
    files.write(benchmark.seq_names[0], [boxes + 5], np.zeros((len(boxes), 1)))
    assert run([*written, "--partial"]) == 2
    assert ".txt: does not start with the given box" in capsys.readouterr().err


def test_the_command_checks_any_archive(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "mine.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("LoRAT/b.txt", "1,2,3,4\n")
        archive.writestr("a.txt", "1\t2\t3\t4\n")
        archive.writestr("b.txt", "1,2,3,4\n")
    assert run(["submit", "trackingnet", "--check", str(path)]) == 2
    shown = capsys.readouterr().err
    assert [line.split("; ")[0].strip() for line in shown.splitlines()[1:]] == [
        "LoRAT/b.txt: does not belong into the archive, whose root holds <sequence>.txt",
        "a.txt: has not 4 numbers in each row, finite and with commas between",
        "holds 2 sequences of 511",
    ]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("b.txt", "1,2,3,4\n")
    assert run(["submit", "trackingnet", "--check", str(path), "--partial"]) == 0
    assert "as the trackingnet server wants it" in capsys.readouterr().out
    for arguments, message in (
        (["trackingnet", "--check", __file__], "neither a folder nor a zip archive that can be read"),
        (["lasot", "--check", str(path)], "unknown server 'lasot': use one of got10k, trackingnet"),
    ):
        assert run(["submit", *arguments]) == 2
        assert message in capsys.readouterr().err
