"""The app as its visitors use it, in a real browser."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from lorat_plugin import LoRATTracker, MultiObjectTracker
from lorat_plugin.errors import InputError
from lorat_plugin.interchange import VideoInfo, read_tracks
from lorat_plugin.settings import TrackerSettings
from lorat_plugin.video.source import open_source
from tests.helpers.sequences import SIZE, square_sequence

pytest.importorskip("gradio", reason="needs the extra app")
from lorat_plugin.apps.page import Page, PageOptions, served

pytestmark = pytest.mark.slow
LENGTH, LONG = 24, 1200
START = (30.0, 20.0, 16.0, 16.0)


def write_video(path: Path, frames: list[np.ndarray]) -> Path:
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25, (width, height))
    for frame in frames:
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    writer.release()
    return path


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "square.mp4", square_sequence(LENGTH)[0])


@pytest.fixture(scope="module")
def long_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "long.mp4", square_sequence(1)[0] * LONG)


@pytest.fixture(scope="module")
def app() -> Iterator[Page]:
    with served(PageOptions(TrackerSettings(device="cpu", engine="eager"), max_frames=LONG, max_megabytes=1)) as page:
        yield page


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
def visit(app: Page, browser: Any) -> Iterator[Callable[[], Any]]:
    """Opens the page as a new visitor; errors in it, or requests to elsewhere, fail the test."""
    trouble: list[str] = []
    opened = []

    def note(request: Any) -> None:
        if not request.url.startswith((app.address, "data:", "blob:")):
            trouble.append(request.url)

    def open_page() -> Any:
        page = browser.new_page(viewport={"width": 1280, "height": 1100})
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("request", note)
        page.goto(app.address)
        page.get_by_role("button", name="Track").wait_for()
        opened.append(page)
        return page

    yield open_page
    for page in opened:
        page.close()
    assert not trouble


def upload(page: Any, video: Path) -> None:
    page.locator("input[type=file]").first.set_input_files(str(video))


def click(page: Any, x: float, y: float) -> None:
    """Click a point of the frame, in its pixels; the picture lies in the middle of its place and is not enlarged."""
    image = page.locator(".image-frame img")
    place, natural = image.bounding_box(), image.evaluate("i => [i.naturalWidth, i.naturalHeight]")
    zoom = min(place["width"] / natural[0], place["height"] / natural[1], 1)
    left = place["x"] + (place["width"] - natural[0] * zoom) / 2
    top = place["y"] + (place["height"] - natural[1] * zoom) / 2
    page.mouse.click(left + x * zoom * natural[0] / SIZE[1], top + y * zoom * natural[1] / SIZE[0])


def type_box(page: Any, box: tuple[float, ...]) -> None:
    field = page.get_by_label("Its box here")
    field.fill(",".join(map(str, box)))
    field.press("Enter")


def choose(page: Any, label: str, option: str) -> None:
    page.get_by_label(label).click()
    page.get_by_role("option", name=option).click()
    page.wait_for_timeout(1500)  # the page has answered, which would overwrite what is typed


def track(page: Any) -> None:
    page.get_by_role("button", name="Track").click()
    page.get_by_text("Tracked to the end").wait_for()


def downloads(page: Any, folder: Path) -> dict[str, Path]:
    page.get_by_role("button", name="Write files").click()
    links = page.locator("#results a[download]")
    links.first.wait_for()
    files = {}
    for link in links.all():
        with page.expect_download() as started:
            link.click()
        path = folder / started.value.suggested_filename
        started.value.save_as(path)
        files[path.name] = path
    return files


def test_upload_draw_track_correct_download(visit: Callable[[], Any], video: Path, tmp_path: Path) -> None:
    page = visit()
    upload(page, video)
    page.get_by_text(f"{LENGTH} frames of 120x90").wait_for()
    page.wait_for_timeout(500)  # the picture is laid out
    click(page, 30, 20)
    page.get_by_text("Click the opposite corner").wait_for()
    click(page, 46, 36)
    page.get_by_text("Object 0 is drawn in frame 0").wait_for()
    drawn = [float(value) for value in page.get_by_label("Its box here").input_value().split(",")]
    np.testing.assert_allclose(drawn, START, atol=0.5)
    type_box(page, START)
    track(page)
    page.get_by_label("number input for Frame").fill("12")
    page.get_by_label("number input for Frame").press("Enter")
    page.wait_for_timeout(1000)
    corrected = (66.0, 44.0, 16.0, 16.0)
    type_box(page, corrected)
    page.get_by_text("Object 0 is drawn in frame 12").wait_for()
    track(page)
    assert page.locator("canvas, svg.marks").count() >= 1  # the curve
    for name in ("COCO-video", "MOT"):
        page.get_by_label(name).check()
    files = downloads(page, tmp_path)

    tracker = LoRATTracker.from_pretrained(device="cpu", engine="eager")
    wanted = []
    with open_source(video) as source:
        for frame in source:
            if frame.number in (0, 12):
                box = START if frame.number == 0 else corrected
                tracker.init(frame.image, box)
                wanted.append(np.array(box))
            else:
                wanted.append(tracker.update(frame.image).box)
    np.testing.assert_allclose(np.loadtxt(files["boxes.txt"], delimiter=","), wanted, atol=1e-3)
    assert len(files["track.jsonl"].read_text().splitlines()) == LENGTH
    info = VideoInfo("square", SIZE[1], SIZE[0], range(LENGTH), 25.0)
    for name in ("track_coco.json", "track_mot.txt", "track.jsonl"):
        rows = read_tracks(files[name], info).rows
        np.testing.assert_allclose([row.box for row in rows], wanted, atol=0.01)
    capture = cv2.VideoCapture(str(files["video.mp4"]))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == LENGTH and capture.get(cv2.CAP_PROP_FPS) == 25


def test_bad_uploads_get_a_sentence(visit: Callable[[], Any], video: Path, tmp_path: Path) -> None:
    page = visit()
    broken = tmp_path / "<img src=x>.mp4"
    broken.write_bytes(video.read_bytes()[:600])
    upload(page, broken)
    page.get_by_text(re.compile("cannot be opened; it is damaged")).first.wait_for()
    assert page.locator("img[src=x]").count() == 0 and page.get_by_text("lorat_app_").count() == 0
    page.get_by_text("Drop File Here").wait_for()  # for another one
    page = visit()
    (tmp_path / "large.mp4").write_bytes(bytes(2**20 + 1))
    upload(page, tmp_path / "large.mp4")
    page.get_by_text(re.compile("exceeded|too large|maximum", re.IGNORECASE)).first.wait_for()
    page = visit()
    upload(page, write_video(tmp_path / "longer.mp4", square_sequence(1)[0] * (LONG + 1)))
    page.get_by_text(f"longer.mp4: has more than {LONG} frames").first.wait_for()
    page.get_by_role("button", name="Track").click()
    page.get_by_text("draw a box first").first.wait_for()
    assert page.get_by_text("Loading the model").count() == page.get_by_text("Waiting").count() == 0


def test_two_visitors_at_once_each_with_own_boxes_and_model(
    visit: Callable[[], Any], long_video: Path, video: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    first, second = visit(), visit()
    upload(first, long_video)
    first.get_by_text(f"{LONG} frames of").wait_for()
    type_box(first, START)
    first.get_by_text("Object 0 is drawn").wait_for()
    first.get_by_role("button", name="Track").click()
    first.get_by_text("frames/s").wait_for()
    upload(second, video)
    second.get_by_text(f"{LENGTH} frames of").wait_for()
    starts = [(30.0, 20.0, 15.0, 14.0), (60.0, 40.0, 20.0, 20.0)]
    for number, start in enumerate(starts):
        choose(second, "Object to draw", "new object")
        type_box(second, start)
        second.get_by_text(f"Object {number} is drawn").wait_for()
    second.get_by_text("Model", exact=True).first.click()
    second.get_by_label("Weights").fill("nowhere.safetensors")
    second.get_by_role("button", name="Track").click()
    second.get_by_text("nowhere.safetensors' not found").first.wait_for()
    second.get_by_label("Weights").fill(str(tiny_weights))
    choose(second, "Engine", "fused")
    track(second)
    assert second.evaluate("[...document.querySelectorAll('.mark-line path')].filter(e => e.getAttribute('stroke'))"
                           ".length") == len(starts)  # fmt: skip
    first.get_by_text("frames/s").wait_for()  # still at work
    first.get_by_role("button", name="Stop").click()
    first.get_by_text("where it was stopped").wait_for()

    files = downloads(second, tmp_path)
    with open_source(video) as source:
        images = [frame.image for frame in source]
    tracker = MultiObjectTracker.from_pretrained(weights=tiny_weights, device="cpu", engine="fused")
    ids = tracker.add(images[0], starts)
    rows = [tracker.update(image) for image in images[1:]]
    for own, start in zip(ids, starts, strict=True):
        wanted = [start, *(row[own].box for row in rows)]
        np.testing.assert_allclose(np.loadtxt(files[f"boxes_{own}.txt"], delimiter=","), wanted, atol=1e-3)
    np.testing.assert_array_equal(np.loadtxt(downloads(first, tmp_path)["boxes.txt"], delimiter=",")[0], START)


def test_a_page_closed_in_mid_track_ends_the_run(visit: Callable[[], Any], app: Page, long_video: Path) -> None:
    before = set(app._sessions)
    page = visit()
    upload(page, long_video)
    page.get_by_text(f"{LONG} frames of").wait_for()
    type_box(page, START)
    page.get_by_text("Object 0 is drawn").wait_for()
    page.get_by_role("button", name="Track").click()
    page.get_by_text("frames/s").wait_for()
    (session,) = (app._sessions[key] for key in set(app._sessions) - before if app._sessions[key].length == LONG)
    page.close()
    deadline = time.monotonic() + 30
    done = -1
    while done != (done := session.tracks[0].end) and time.monotonic() < deadline:
        time.sleep(2)
    assert 0 < session.tracks[0].end == done < LONG
    home = session._home
    app.sweep(3600)
    assert home.is_dir()
    app.sweep(-1)
    assert not home.exists()


def test_the_page_fits_a_phone(visit: Callable[[], Any]) -> None:
    page = visit()
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize(("name", "length"), [("davis_camel", 90), ("davis_bmx-trees", 80)])
def test_a_bundled_clip_opens(app: Page, name: str, length: int) -> None:
    view = app._open_clip(name, SimpleNamespace(session_hash=name))
    assert view[app.status] == f"{length} frames. Click two opposite corners of an object."
    height, width, _ = view[app.picture].shape  # small frames are enlarged
    assert height * 400 == width * 224


def test_visitors_from_elsewhere_cannot_name_files() -> None:
    assert PageOptions().local and PageOptions(host="::1").local and PageOptions(host="localhost").local
    assert not PageOptions(host="0.0.0.0").local and not PageOptions(host="example.org").local


def test_a_taken_port_is_told(app: Page) -> None:
    port = int(app.address.rstrip("/").rpartition(":")[2])
    with (
        pytest.raises(InputError, match=f"^127.0.0.1, port {port}: cannot be served; the port is taken"),
        served(PageOptions(port=port)),
    ):
        pass


@pytest.mark.parametrize("proxy", ["http_proxy=http", "all_proxy=socks5", "HTTPS_PROXY=socks5h"])
def test_the_page_starts_and_answers_where_a_proxy_that_refuses_it_is_set(proxy: str, tmp_path: Path) -> None:
    """The proxy is a closed port; the variables stay set for what the process requests later."""
    name, _, scheme = proxy.partition("=")
    code = (
        "import os\nfrom lorat_plugin.processes import no_proxies\nwith no_proxies():\n"
        "    from lorat_plugin.apps.page import PageOptions, served\n"
        "    from lorat_plugin.settings import TrackerSettings\n"
        "with served(PageOptions(TrackerSettings(device='cpu'))) as page:\n    import urllib.request\n"
        "    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))\n"
        "    status = direct.open(page.address).status\n"
        f"print(status, os.environ['{name}'], os.environ['no_proxy'], 'NO_PROXY' in os.environ)"
    )
    address = f"{scheme}://127.0.0.1:9"
    environment = {**os.environ, name: address, "no_proxy": "example.org", "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.split() == ["200", address, "example.org", "False"], done.stderr


def test_the_command_serves_the_network_when_told_warns_and_cleans_up(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lorat_plugin", "app", "--host", "0.0.0.0"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert re.match(r"http://localhost:\d+/ ", process.stdout.readline())
        assert list(tmp_path.glob("lorat_app_*"))
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        said = process.stderr.read()
        assert "Everyone who reaches this machine can use the page" in said and "Traceback" not in said
    assert not list(tmp_path.glob("lorat_app_*"))
