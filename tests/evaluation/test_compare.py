"""Trackers side by side: who may take part, what they are asked for, intervals, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lorat_plugin.cli.main import run
from lorat_plugin.errors import InputError
from tests.helpers.sequences import write_clip

pytest.importorskip("got10k.experiments")
pytest.importorskip("jinja2")
from lorat_plugin.evaluation import compare
from lorat_plugin.evaluation.benchmarks import Benchmark
from lorat_plugin.evaluation.registry import open_benchmark
from lorat_plugin.evaluation.results import ResultFiles, result_files

pytestmark = pytest.mark.toolkit

THEIRS = """
import numpy as np
from got10k.trackers import Tracker

class Moving(Tracker):
    def __init__(self):
        super().__init__("Moving", is_deterministic=True)

    def init(self, image, box):
        assert image.mode == "RGB" and image.size == (120, 90)
        self.box = box.astype(float)

    def update(self, image):
        self.box = self.box + [3, 2, 0, 0]
        return self.box

class Whole(Tracker):
    def __init__(self):
        super().__init__("Whole")

    def track(self, files, box, visualize=False):
        return np.repeat(box[None], len(files), axis=0), np.full(len(files), 0.5)

class Short(Whole):
    def track(self, files, box, visualize=False):
        return np.repeat(box[None], len(files) - 1, axis=0), np.full(len(files) - 1, 0.5)

class Broken(Moving):
    def update(self, image):
        raise KeyError("no such thing")

class Slashed(Moving):
    def __init__(self):
        super().__init__()
        self.name = "a/b"

class Nothing:
    pass
"""


@pytest.fixture
def clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two clips, in a working folder with a module of others' trackers."""
    for number in range(2):
        write_clip(tmp_path / "clips" / f"clip{number}", length=5, seed=number)
    (tmp_path / "theirs.py").write_text(THEIRS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(compare.sys.modules, "theirs", raising=False)
    return tmp_path / "clips"


@pytest.fixture
def benchmark(clips: Path) -> Benchmark:
    return open_benchmark("clips", clips)


def choose(benchmark: Benchmark, *specs: str) -> list[compare.Contestant]:
    return compare.choose_contestants(specs, benchmark, Path("results"), lambda: pytest.fail("not asked for"))


def test_the_interval_is_that_of_the_normal_law_for_many_sequences() -> None:
    differences = np.random.default_rng(1).normal(0.03, 0.1, 2000)
    low, high = compare.paired_interval(differences)
    reach = 1.96 * differences.std() / 2000**0.5
    assert low == pytest.approx(differences.mean() - reach, abs=reach / 15)
    assert high == pytest.approx(differences.mean() + reach, abs=reach / 15)
    assert compare.paired_interval(differences) == (low, high)
    assert compare.paired_interval(np.full(7, 0.25)) == pytest.approx((0.25, 0.25))


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(2)
    intervals = [compare.paired_interval(generator.exponential(0.1, 60)) for _ in range(100)]
    assert 0.87 < np.mean([low <= 0.1 <= high for low, high in intervals]) < 0.99


def test_anothers_tracker_is_run_on_the_same_frames(benchmark: Benchmark) -> None:
    contestants = choose(benchmark, "theirs:Moving", "theirs:Whole", "static")
    for one in contestants:
        done: list[int] = []
        compare.track(one, compare.missing_sequences(one, benchmark), done.append)
        assert sum(done) == 10
        assert compare.missing_sequences(one, benchmark) == []
    for name in benchmark.seq_names:
        sequence = benchmark.sequence(name)
        np.testing.assert_allclose(contestants[0].files.read(sequence), sequence.boxes)  # the square moves by 3, 2
        np.testing.assert_allclose(contestants[1].files.read(sequence), np.repeat(sequence.boxes[:1], 5, axis=0))
        assert (contestants[0].files.read_times(name) > 0).all()
        np.testing.assert_array_equal(contestants[1].files.read_times(name), 0.5)
    assert len(result_files(benchmark, Path("results"), "Moving").boxes_path("clip0").read_text().splitlines()) == 5


def test_a_damaged_result_is_tracked_again(benchmark: Benchmark, caplog: pytest.LogCaptureFixture) -> None:
    one, _ = choose(benchmark, "static", "theirs:Moving")
    compare.track(one, benchmark.sequences, lambda frames: None)
    path = one.files.boxes_path("clip1")
    path.write_text("\n".join(path.read_text().splitlines()[:3]))
    assert [sequence.name for sequence in compare.missing_sequences(one, benchmark)] == ["clip1"]
    assert "clip1.txt: 3 rows for 5 frames" in caplog.text and "tracked again" in caplog.text


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        (["static"], "one tracker alone is no comparison"),
        (["static", "SORT"], "unknown tracker 'SORT': use LoRAT, static, MIL"),
        (["static", "Mine="], "unknown tracker 'Mine=': use LoRAT, static, MIL"),
        (["static", "static"], "static: two trackers of that name"),
        (["static", "theirs:Moving", "theirs:Moving"], "Moving: two trackers of that name"),
        (["static", "theirs:Absent"], r"theirs:Absent: cannot be made \(AttributeError"),
        (["static", "absent_module:X"], "cannot be made .ModuleNotFoundError: No module named 'absent_module'"),
        (["static", "theirs:Nothing"], "wants the interface of got10k.trackers.Tracker: name, init and update"),
        (["static", "theirs:Slashed"], "tracker name 'a/b': it becomes the name of a folder"),
        (["static", "Mine=nowhere"], "nowhere: no such folder of results"),
        (["static", "NanoTrack"], "NanoTrack cannot run: needs nanotrack"),
    ],
)
def test_who_cannot_take_part_is_told(specs: list[str], message: str, benchmark: Benchmark) -> None:
    with pytest.raises(InputError, match=message):
        choose(benchmark, *specs)
    assert not Path("results").exists()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "theirs:Short",
            r"Whole on sequence clip0: wanted a finite box and a time for each of 5 frames, got .*\(4, 4\)",
        ),
        ("theirs:Broken", "Moving fails on sequence clip0 .KeyError: 'no such thing'"),
    ],
)
def test_a_tracker_that_fails_is_named(spec: str, message: str, benchmark: Benchmark) -> None:
    one, _ = choose(benchmark, spec, "static")
    with pytest.raises(InputError, match=message):
        compare.track(one, benchmark.sequences, lambda frames: None)


def test_the_command(clips: Path, tiny_weights: Path, capsys: pytest.CaptureFixture) -> None:
    truth = open_benchmark("clips", clips)
    raw = ResultFiles("raw", Path("raw/lorat/base"), "ostrack")
    for sequence in truth.sequences:
        raw.write(sequence.name, [sequence.boxes], np.zeros((5, 1)))
    arguments = ["compare", "--dataset", f"clips:{clips}", "--weights", str(tiny_weights), "--device", "cpu"]
    trackers = ["--trackers", "Perfect=raw, LoRAT, static, theirs:Moving, theirs:Whole"]
    assert run([*arguments, *trackers, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    names = ["Perfect", "LoRAT", "static", "Moving", "Whole"]
    assert list(content["trackers"]) == names and content["first"] == "Perfect"
    duels = {duel["rival"]: duel for duel in content["auc_difference"]}
    assert (duels["Moving"]["ties"], duels["static"]["wins"], duels["LoRAT"]["losses"]) == (2, 2, 0)
    aucs = content["sequence_auc"]
    gains = [aucs[name]["Perfect"] - aucs[name]["static"] for name in ("clip0", "clip1")]
    assert duels["static"]["difference"] == pytest.approx(np.mean(gains))
    assert duels["static"]["low"] == pytest.approx(min(gains)) and duels["static"]["high"] == pytest.approx(max(gains))
    assert content["trackers"]["Whole"]["fps"] == 2 and content["trackers"]["Perfect"]["fps"] is None
    notes = " ".join(content["notes"])
    assert "frames/s of LoRAT, static, Moving: one target at a time in one process" in notes and "LoRAT on cpu" in notes
    assert (
        "frames/s of Perfect: not measured" in notes and "frames/s of Whole: one target at a time, by its own" in notes
    )
    home = Path(content["folder"])
    assert home == Path("results/compare/clips").resolve()
    assert json.loads((home / "comparison.json").read_text()) == content
    assert "less that of Moving: " in (home / "report.html").read_text()
    assert len(np.loadtxt("results/lorat/clips/LoRAT/scores/clip0.txt")) == 5

    before = Path("results/clips/static/clip0.txt").stat().st_mtime_ns
    assert run([*arguments, *trackers]) == 0  # nothing is tracked again
    assert Path("results/clips/static/clip0.txt").stat().st_mtime_ns == before
    shown = capsys.readouterr().out
    assert "success AUC of Perfect less that of the other" in shown and "clip1" in shown and "95 % interval" in shown
    assert run([*arguments, "--trackers", "static,static"]) == 2
    assert "two trackers of that name" in capsys.readouterr().err


def test_raw_results_are_read_before_any_tracking_and_what_is_odd_is_said(
    clips: Path, capsys: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
) -> None:
    raw = ResultFiles("raw", Path("raw"), "flat")
    for sequence in open_benchmark("clips", clips).sequences:
        corners = np.hstack([sequence.boxes[:, :2], sequence.boxes[:, :2] + sequence.boxes[:, 2:]])
        raw.write(sequence.name, [corners[: 4 if sequence.name == "clip1" else 5]], np.zeros((5, 1)))
    line = ["compare", "--dataset", f"clips:{clips}", "--trackers", "static,Theirs=raw", "--json"]
    assert run(line) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["notes"][0] == "Theirs: frames without a row are left out: clip1 (4 rows, 5 frames)"
    assert content["notes"][1].startswith("Theirs: 2 sequences start from another box than the given one")
    assert all(note in caplog.text for note in content["notes"][:2]) and content["skipped"] == []
    page = (Path(content["folder"]) / "report.html").read_text()
    assert "frames without a row are left out: clip1" in page
    assert len(np.loadtxt("results/clips/static/clip1.txt", delimiter=",")) == 5, "tracked whole"
    (Path("raw") / "clip1.txt").unlink()
    for skip, code in ([], 2), (["--skip", "clip1"], 0):
        assert run([*line, *skip]) == code
    said = capsys.readouterr()
    assert "1 of 2 sequences have no raw results: clip1; complete them, or leave these out: --skip clip1" in said.err
    content = json.loads(said.out)
    assert content["skipped"] == ["clip1"] and list(content["sequence_auc"]) == ["clip0"]
    assert "clips without clip1, protocol lorat" in (Path(content["folder"]) / "scores.md").read_text()
    assert "clips without clip1" in (Path(content["folder"]) / "report.html").read_text()
