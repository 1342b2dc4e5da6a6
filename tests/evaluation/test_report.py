"""The report's page in a real browser, its plots and strips, and the command that writes it."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorat_plugin.cli.main import run
from lorat_plugin.errors import InputError
from lorat_plugin.evaluation.benchmarks import Benchmark
from lorat_plugin.evaluation.registry import open_benchmark
from lorat_plugin.evaluation.report import TRUTH, choose_frames, draw_strip
from lorat_plugin.evaluation.results import ResultFiles, notes_folder, result_files
from lorat_plugin.evaluation.scoring import TrackerScore, score_tracker
from lorat_plugin.images import decode_image
from tests.helpers.sequences import write_clip

pytest.importorskip("matplotlib")
from lorat_plugin.evaluation.plots import as_svg, draw_curves, rgb, write_plots
from lorat_plugin.evaluation.report import write_report

ODD = """<script>window.pwned = 1</script>'"&$x$"""  # a tracker's name
ODD_CLIP = '"><img src=x onerror="window.pwned = 1">'
LENGTH = 12


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> Benchmark:
    """Four clips of a moving square, the first with an odd name, with attributes."""
    root = tmp_path_factory.mktemp("clips")
    for number, name in enumerate((ODD_CLIP, "clip2", "clip10", "clip3")):
        write_clip(root / name, LENGTH, seed=number)
    found = open_benchmark("clips", root)
    named = [replace(s, attributes=("Fast <i>Motion</i>",) if n % 2 else ()) for n, s in enumerate(found.sequences)]
    return replace(found, sequences=tuple(named))


@pytest.fixture(scope="module")
def results(benchmark: Benchmark, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of `good`, with scores and settings, which drifts most in clip2, and of `bad`, with times."""
    root = tmp_path_factory.mktemp("results")
    good, bad = (result_files(benchmark, root, name) for name in ("good", "bad"))
    notes = notes_folder(benchmark, root, "good")
    (notes / "scores").mkdir(parents=True)
    (notes / "run.json").write_text(json.dumps({"model": "lorat_tiny", "batch": 8, "engine": None}), encoding="utf-8")
    for number, sequence in enumerate(benchmark.sequences):
        drift = np.arange(LENGTH)[:, None] * np.array([0.2 + 0.3 * number + (sequence.name == "clip2"), 0, 0, 0])
        good.write(sequence.name, [sequence.boxes + drift], np.zeros((LENGTH, 1)))
        bad.write(sequence.name, [np.tile(sequence.boxes[0], (LENGTH, 1))], np.full((LENGTH, 1), 0.02))
        np.savetxt(notes / "scores" / f"{sequence.name}.txt", np.linspace(1, 0.3, LENGTH))
    return root


@pytest.fixture(scope="module")
def evaluated(benchmark: Benchmark, results: Path) -> tuple[list[TrackerScore], dict[str, ResultFiles]]:
    """Scores and files of `good` and of `bad`, the second under an odd name."""
    files = {"good": result_files(benchmark, results, "good")}
    files[ODD] = replace(result_files(benchmark, results, "bad"), tracker=ODD)
    return [score_tracker(benchmark, one, "lorat") for one in files.values()], files


@pytest.fixture(scope="module")
def page_file(benchmark: Benchmark, results: Path, evaluated: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page about both trackers, with pictures of two sequences."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    notes = {"good": notes_folder(benchmark, results, "good")}
    plots = write_report(benchmark, *evaluated, notes, path, worst=2)
    assert list(plots) == ["success", "precision", "normalised precision", "calibration"]
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs `pip install playwright`")
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("needs the program chromium or google-chrome")
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def page(browser: Any, page_file: Path) -> Iterator[Any]:
    """The page, opened; what it complains about or asks the network for fails the test."""
    opened = browser.new_page(viewport={"width": 390, "height": 800})
    trouble: list[str] = []
    opened.on("console", lambda message: trouble.append(message.text))
    opened.on("pageerror", lambda error: trouble.append(str(error)))
    address = page_file.as_uri()
    asked = lambda request: trouble.append(request.url) if not request.url.startswith((address, "data:")) else None  # noqa: E731
    opened.on("request", asked)
    opened.goto(address)
    yield opened
    opened.close()
    assert not trouble


def column(page: Any, table: str, number: int) -> list[str]:
    cells = page.locator(f"[aria-label='{table}'] tbody tr > :nth-child({number + 1})")
    return [text.strip() for text in cells.all_inner_texts()]


def test_pictures_are_there_and_nothing_is_wider_than_a_phone(page: Any) -> None:
    sizes = page.eval_on_selector_all("img", "all => all.map(i => [i.naturalWidth, i.naturalHeight, i.alt])")
    assert len(sizes) == 4 + 2 * 8  # plots, strips
    assert all(width > 0 and height > 0 and alt for width, height, alt in sizes)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_odd_names_are_text(page: Any) -> None:
    assert page.evaluate("window.pwned") is None
    assert ODD in column(page, "All trackers", 0) and ODD_CLIP in column(page, "AUC by sequence", 0)
    assert column(page, "AUC by attribute", 0) == ["Fast <i>Motion</i>"] and column(page, "AUC by attribute", 1) == [
        "2"
    ]
    assert page.locator("script").count() == 1 and page.locator("i").count() == 0


def test_a_heading_sorts_both_ways_by_mouse_and_keyboard(page: Any, evaluated: Any) -> None:
    table, head = "AUC by sequence", page.locator("[aria-label='AUC by sequence'] thead th").nth(2)
    truth = {name: f"{score.auc:.3f}" for name, score in evaluated[0][0].sequences.items()}
    assert len(set(truth.values())) == 4 and head.get_attribute("aria-sort") == "none"
    head.locator("button").click()
    assert column(page, table, 2) == sorted(truth.values(), reverse=True)
    assert head.get_attribute("aria-sort") == "descending"
    head.locator("button").press("Enter")
    assert column(page, table, 2) == sorted(truth.values()) and head.get_attribute("aria-sort") == "ascending"
    assert dict(zip(column(page, table, 0), column(page, table, 2), strict=True)) == truth  # rows stay whole
    page.locator(f"[aria-label='{table}'] thead button").first.click()
    assert column(page, table, 0) == [ODD_CLIP, "clip2", "clip3", "clip10"]  # 2 before 10
    assert head.get_attribute("aria-sort") == "none"
    page.locator("[aria-label='All trackers'] thead button").last.click()
    page.locator("[aria-label='All trackers'] thead button").last.click()
    assert column(page, "All trackers", 6) == ["50.0", "-"]  # a missing speed stays last


def test_the_page_says_what_was_measured(page: Any, evaluated: Any) -> None:
    text = page.inner_text("main") + page.inner_text("header")
    overall = evaluated[0][0].overall
    for value in (overall.auc, overall.precision_score, overall.normalized_precision_score, overall.sr50, overall.sr75):
        assert f"{value:.3f}" in text
    for words in ("Protocol lorat: official LoRAT", "4 sequences, 48 frames", "AUROC", "lorat_tiny", "one target at a"):
        assert words in text
    assert page.locator("h3").all_inner_texts()[0] == "clip2"  # the worst
    overlaps = evaluated[0][0].overlaps["clip2"]
    assert f"12/12\n{overlaps[-1]:.2f}" in page.locator("figcaption").nth(7).inner_text().replace(" ", "\n")


def test_one_tracker_without_notes_has_all_measures_by_sequence(
    benchmark: Benchmark, evaluated: Any, tmp_path: Path
) -> None:
    scores, files = evaluated
    write_report(benchmark, scores[1:], files, {ODD: tmp_path / "nowhere"}, tmp_path / "report.html", worst=0)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert text.count("SR 0.75") == 3  # the trackers' table, sequences, attributes
    assert "<h2>" in text and not any(
        part in text for part in ("AUROC", "Worst sequences", "Settings", "<script>window")
    )


def test_what_cannot_go_on_one_page_is_refused(benchmark: Benchmark, evaluated: Any, tmp_path: Path) -> None:
    scores, files = evaluated
    for wrong, message in (
        ([scores[0], scores[0]], "good: two trackers of that name"),
        ([scores[0], replace(scores[1], protocol="stark")], "different benchmarks or protocols"),
        ([], "no tracker is named"),
    ):
        with pytest.raises(InputError, match=message):
            write_report(benchmark, wrong, files, {}, tmp_path / "report.html")
    (tmp_path / "run.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match=r"run\.json: cannot be read as a record"):
        write_report(benchmark, scores[:1], files, {"good": tmp_path}, tmp_path / "report.html", worst=0)
    assert not (tmp_path / "report.html").exists()


def test_legends_are_sorted_and_plots_repeat(evaluated: Any, tmp_path: Path) -> None:
    scores = [replace(evaluated[0][1], tracker="_$worse$"), evaluated[0][0]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures = draw_curves(scores)
    legend = [text.get_text() for text in figures["success"].axes[0].get_legend().get_texts()]
    assert legend == [f"good [{scores[1].overall.auc:.3f}]", f"_$worse$ [{scores[0].overall.auc:.3f}]"]
    assert figures["success"].axes[0].get_title() == "success on clips, protocol lorat"
    colours = [line.get_color() for line in figures["precision"].axes[0].get_legend().get_lines()]
    assert colours == ["#D55E00", "#0072B2"] and rgb(0) == (0, 0x72, 0xB2)  # by the order in which they were named
    assert as_svg(figures["success"]) == as_svg(draw_curves(scores)["success"])
    write_plots(figures, tmp_path)
    only = [replace(s, overall=replace(s.overall, precision=None, normalized_precision=None)) for s in scores]
    (path,) = write_plots(draw_curves(only), tmp_path)
    assert list(tmp_path.iterdir()) == [path]  # those of other protocols are gone
    assert cv2.imread(str(path)).shape[1] > 600


@given(st.lists(st.one_of(st.floats(0, 1), st.just(np.nan)), min_size=1, max_size=60), st.integers(2, 9))
def test_strips_have_the_first_and_the_worst_frame(overlaps: list[float], count: int) -> None:
    chosen = choose_frames(np.array(overlaps), count)
    assert chosen[0] == 0 and chosen == sorted(set(chosen)) and len(chosen) == min(count, len(overlaps))
    assert chosen[-1] < len(overlaps)
    rest = [value for value in overlaps[1:] if value == value]
    if rest:
        assert overlaps.index(min(rest), 1) in chosen


def test_boxes_of_a_strip_lie_where_they_are(benchmark: Benchmark) -> None:
    sequence = benchmark.sequence("clip3")
    away = sequence.boxes + np.array([40.0, 20, 0, 0])
    away[3] = np.nan
    for number, jpeg in draw_strip(sequence, [(away, rgb(1))], [2, 3]):
        image = decode_image(jpeg, "strip")
        assert image.shape[0] == 200
        zoom = 200 / 90

        def at(box: np.ndarray, image: np.ndarray = image, zoom: float = zoom) -> np.ndarray:
            x, y = box[0] * zoom, (box[1] + box[3] / 2) * zoom  # in the middle of the left edge
            return image[round(y), round(x) - 1 : round(x) + 2].astype(int)

        assert np.abs(at(sequence.boxes[number]) - TRUTH).max(axis=1).min() < 60
        if number == 2:
            assert np.abs(at(away[2]) - rgb(1)).max(axis=1).min() < 60


def test_the_command_writes_page_plots_and_tables(benchmark: Benchmark, results: Path, tmp_path: Path) -> None:
    root = Path(benchmark.sequences[0].frames[0]).parents[1]
    arguments = ["report", "--dataset", f"clips:{root}", "--results", str(results), "--trackers", "good, bad"]
    options = ["--worst", "1", "--sequences", "clip2,clip3", "--out", str(tmp_path / "my page.html")]
    assert run([*arguments, *options]) == 0
    text = (tmp_path / "my page.html").read_text(encoding="utf-8")
    assert "2 trackers, 2 sequences, 24 frames" in text and text.count("<figure>") == 8
    names = {path.name for path in (tmp_path / "my page_files").iterdir()}
    assert {"success.png", "calibration.png", "scores.csv", "sequences.json"} <= names


@pytest.mark.parametrize(
    ("trackers", "message"), [("good,good", "good: two trackers of that name"), ("other", "there are bad, good")]
)
def test_wrong_trackers_are_one_sentence(
    trackers: str, message: str, benchmark: Benchmark, results: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    root = Path(benchmark.sequences[0].frames[0]).parents[1]
    arguments = ["report", "--dataset", f"clips:{root}", "--results", str(results), "--out", str(tmp_path / "x")]
    assert run([*arguments, "--trackers", trackers]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_what_is_odd_about_raw_results_stands_on_the_page(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    truth = {name: write_clip(tmp_path / "clips" / name, LENGTH) for name in ("a", "b")}
    opened = open_benchmark("clips", tmp_path / "clips")
    shifted = result_files(opened, tmp_path / "results", "theirs")
    for name, boxes in truth.items():
        shifted.write(name, [np.vstack([boxes, boxes[-1:]]) + np.array([1, 1, 0, 0])], np.zeros((LENGTH + 1, 1)))
    line = ["report", "--dataset", f"clips:{tmp_path / 'clips'}", "--trackers", "theirs", "--skip", "b"]
    page = tmp_path / "page.html"
    assert run([*line, "--results", str(tmp_path / "results"), "--out", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    for note in ("rows behind the last frame are left out: a (13 rows, 12 frames)", "seem to count pixels from 1"):
        assert note in text and note in caplog.text
    assert "Tracking on clips without b" in text
    notes_folder(opened, tmp_path / "results", "theirs").mkdir(parents=True)
    (notes_folder(opened, tmp_path / "results", "theirs") / "run.json").write_text("{}")
    assert run([*line, "--results", str(tmp_path / "results"), "--out", str(page)]) == 2, "half written by us"
