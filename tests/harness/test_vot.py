"""The VOT toolkit's two protocols: regions, order of objects, errors; and real runs of the toolkit."""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from lorat_plugin import LoRATTracker, MultiObjectTracker
from lorat_plugin.errors import InputError
from lorat_plugin.harness.vot import LoRATPython, SequenceTracker, region_to_box
from lorat_plugin.harness.vot_tools.workspace import create_workspace, tracker_entries
from lorat_plugin.network import LoRATNetwork
from lorat_plugin.settings import TrackerSettings

LENGTH = 8
README = Path(__file__).parents[2] / "integration" / "vot" / "README.md"
SERVER = [sys.executable, "-m", "lorat_plugin.harness.vot"]


def write_clip(folder: Path, seed: int) -> None:
    """A square that moves over noise: frames of 160 x 120 pixels and groundtruth.txt."""
    rng = np.random.default_rng(seed)
    background = rng.integers(0, 120, (120, 160, 3), np.uint8)
    folder.mkdir(parents=True)
    for i in range(LENGTH):
        frame = background.copy()
        frame[40 + i : 60 + i, 50 + 2 * i : 74 + 2 * i] = (220, 40, 30)
        cv2.imwrite(str(folder / f"{i + 1:08d}.jpg"), frame)
    (folder / "groundtruth.txt").write_text("".join(f"{50 + 2 * i},{40 + i},24,20\n" for i in range(LENGTH)))


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    for seed, name in enumerate(["one_clip", "two"]):
        write_clip(folder / name, seed)
    return folder


@pytest.fixture
def python_tracker(tiny_weights: Path) -> LoRATPython:
    return LoRATPython(model="lorat_tiny", weights=str(tiny_weights), device="cpu")


# --- regions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("region", "box"),
    [
        ((1.5, 2, 30, 40.25), [1.5, 2, 30, 40.25]),
        ([(5.5, 1.0), (9.5, 3.0), (7.0, 8.0)], [5.5, 1, 4, 7]),
        ([(3, 4), (12, 4), (12, 8), (3, 8)], [3, 4, 10, 5]),  # the corner pixels of a mask
    ],
)
def test_region_becomes_box(region: Any, box: list[float]) -> None:
    found = region_to_box(region)
    assert found is not None and found.tolist() == box


def test_mask_becomes_the_box_around_its_pixels() -> None:
    mask = np.zeros((20, 30), np.uint8)
    mask[4:9, 3:13] = 1
    found = region_to_box(mask)
    assert found is not None and found.tolist() == [3, 4, 10, 5]


@pytest.mark.parametrize("region", [(1.0, 2.0), [(1, 2), (3, 4)], None, "box", [[1], [2, 3]]])
def test_other_regions_are_refused(region: Any) -> None:
    with pytest.raises(InputError, match="target"):
        region_to_box(region)


# --- objects ---------------------------------------------------------------------------------------------------------


def test_objects_keep_their_order_and_may_appear_late(tiny_network: LoRATNetwork, frames: list[np.ndarray]) -> None:
    first, second, late = (np.array([x, 20.0, 16, 16]) for x in (30, 60, 10))
    tracker = SequenceTracker(MultiObjectTracker(tiny_network, device="cpu"))
    assert tracker.initialize(frames[0], [second, first]) == [
        ((60.0, 20.0, 16.0, 16.0), {}),
        ((30.0, 20.0, 16.0, 16.0), {}),
    ]
    answers = tracker.update(frames[1], [late])
    assert [answer[0] for answer in answers[2:]] == [(10.0, 20.0, 16.0, 16.0)]
    for start, (box, properties) in zip([second, first], answers, strict=False):
        single = LoRATTracker(tiny_network, device="cpu")
        single.init(frames[0], start)
        result = single.update(frames[1])
        np.testing.assert_allclose(box, result.box, atol=1e-3)
        assert properties["confidence"] == pytest.approx(result.score, abs=1e-5)
    assert len(tracker.update(frames[2])) == 3
    assert len(tracker.initialize(frames[0], [first])) == 1  # a new sequence forgets the objects of the former
    assert len(tracker.update(frames[1])) == 1


def test_python_protocol(python_tracker: LoRATPython, clips: Path) -> None:
    frame = clips / "two" / "00000001.jpg"
    ((box, properties),) = python_tracker.init(str(frame), [((50.0, 40.0, 24.0, 20.0), {})], {})
    assert box == (50.0, 40.0, 24.0, 20.0)
    assert properties == {}  # what is given is no prediction
    ((box, properties),) = python_tracker.update({"depth": "absent", "color": str(frame)}, [], {})
    assert isinstance(box, tuple)
    assert [type(value) for value in box] == [float] * 4
    assert 0 <= properties["confidence"] <= 1
    image = cv2.cvtColor(cv2.imread(str(frame)), cv2.COLOR_BGR2RGB)
    assert len(python_tracker.update({"color": image}, [((1.0, 1.0, 20.0, 20.0), {})], {})) == 2


@pytest.mark.parametrize(
    ("frame", "region", "sentence"),
    [
        ("nowhere.jpg", (1.0, 1.0, 9.0, 9.0), "nowhere.jpg"),
        ({"depth": "x"}, (1.0, 1.0, 9.0, 9.0), "color"),
        (None, (1.0, 1.0, 9.0, 9.0), "TypeError"),
        (np.zeros((50, 50, 3), np.uint8), (60.0, 1.0, 9.0, 9.0), "box"),
    ],
)
def test_python_protocol_reports_every_failure(
    python_tracker: LoRATPython, frame: Any, region: Any, sentence: str
) -> None:
    with pytest.raises(RuntimeError, match=sentence):
        python_tracker.init({"color": frame} if isinstance(frame, np.ndarray) else frame, [(region, {})], {})


def test_python_protocol_reports_weights_that_are_missing() -> None:
    with pytest.raises(RuntimeError, match="nowhere"):
        LoRATPython(weights="nowhere.safetensors")


# --- TraX server -----------------------------------------------------------------------------------------------------


@pytest.mark.toolkit
def test_server_serves_many_sequences_and_names_a_bad_frame(tiny_weights: Path, clips: Path, tmp_path: Path) -> None:
    trax = pytest.importorskip("trax")
    from trax.client import Client

    log = (tmp_path / "stderr").open("w+")
    server = subprocess.Popen(
        [*SERVER, "--weights", str(tiny_weights), "--device", "cpu"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        bufsize=0,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    seen: list[str] = []
    client = Client(stream=(server.stdin.fileno(), server.stdout.fileno()), log=seen.append)

    def image(path: Path) -> dict[str, Any]:
        return {"color": trax.FileImage.create(str(path))}

    files = sorted((clips / "two").glob("*.jpg"))
    boxes = [(50, 40, 24, 20), (10, 10, 30, 30)]
    for objects in (boxes, boxes[:1]):
        status, _ = client.initialize(image(files[0]), [(trax.Rectangle.create(*box), {}) for box in objects], {})
        assert [region.bounds() for region, _ in status] == objects
        status, _ = client.frame(image(files[1]), {}, [])
        assert len(status) == len(objects)
        assert all(0 <= float(properties.get("confidence")) <= 1 for _, properties in status)
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"not an image")
    with pytest.raises(trax.TraxException, match=r"bad\.jpg"):
        client.frame(image(bad), {}, [])
    assert server.wait(timeout=30) == 2
    assert all(line.startswith("@@TRAX:") for line in "".join(seen).splitlines() if line)
    log.seek(0)
    written = log.read()
    assert "Traceback" in written
    assert "bad.jpg" in written


@pytest.mark.toolkit
def test_server_ends_when_the_pipe_closes_and_says_why_it_cannot_start() -> None:
    pytest.importorskip("trax")
    command = [*SERVER, "--weights", "nowhere.safetensors"]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2
    assert "nowhere.safetensors" in ended.stderr
    assert all(line.startswith("@@TRAX:") for line in ended.stdout.splitlines() if line)


# --- the toolkit -----------------------------------------------------------------------------------------------------


def run_vot(*arguments: str, **environment: str) -> str:
    """Run the toolkit and return what it prints; no process of its own may be left."""
    process = subprocess.Popen(
        [sys.executable, "-m", "vot", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "NO_COLOR": "1"} | environment,
        start_new_session=True,
    )
    printed, _ = process.communicate(timeout=300)
    for _ in range(100):  # multiprocessing's own process ends a moment after the toolkit
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return printed
        time.sleep(0.1)
    raise AssertionError("a process of the toolkit is left")


def make_workspace(workspace: Path, clips: Path, weights: Path) -> None:
    create_workspace(workspace, clips, TrackerSettings(weights=str(weights), device="cpu"))


@pytest.fixture(scope="module")
def evaluated(clips: Path, tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace after the toolkit's own commands, nothing of it mended, have run in it."""
    pytest.importorskip("vot")
    workspace = tmp_path_factory.mktemp("plain") / "workspace"
    make_workspace(workspace, clips, tiny_weights)
    for words, command, *rest in (
        ("Evaluation concluded", "evaluate", "LoRATPython", "LoRATTraX"),
        ("Analysis successful", "analysis", "--name", "plain"),
        ("Report generation successful", "report", "--name", "plain"),
    ):
        assert words in run_vot(command, "--workspace", str(workspace), *rest, VOT_RESULTS_BINARY="0")
    return workspace


@pytest.mark.toolkit
@pytest.mark.slow
@pytest.mark.parametrize("tracker", ["LoRATPython", "LoRATTraX"])
def test_toolkit_evaluates(evaluated: Path, clips: Path, tiny_network: LoRATNetwork, tracker: str) -> None:
    results = evaluated / "results" / tracker / "baseline"
    assert sorted(path.name for path in results.rglob("*.*")) == [
        f"{clip}_001{ending}" for clip in ("one_clip", "two") for ending in (".txt", "_confidence.value", "_time.value")
    ]
    for clip in ("one_clip", "two"):
        lines = (results / clip / f"{clip}_001.txt").read_text().splitlines()
        assert lines[0] == "1"  # the toolkit's mark for the given box
        single = LoRATTracker(tiny_network, device="cpu")
        images = [cv2.cvtColor(cv2.imread(str(p)), cv2.COLOR_BGR2RGB) for p in sorted((clips / clip).glob("*.jpg"))]
        single.init(images[0], (50, 40, 24, 20))
        expected = [single.update(image).box for image in images[1:]]
        boxes = [[float(part) for part in line.split(",")] for line in lines[1:]]
        np.testing.assert_allclose(boxes, expected, atol=0.01)
        scores = (results / clip / f"{clip}_001_confidence.value").read_text().split("\n")
        assert (scores[0], scores[LENGTH:]) == ("", [""])
        assert all(0 <= float(score) <= 1 for score in scores[1:LENGTH])


@pytest.mark.toolkit
@pytest.mark.slow
def test_toolkit_analyses_and_reports(evaluated: Path) -> None:
    assert "Accuracy" in (evaluated / "analysis" / "plain.json").read_text()
    assert (evaluated / "reports" / "plain" / "report.html").stat().st_size > 0


@pytest.mark.toolkit
@pytest.mark.slow
@pytest.mark.parametrize("tracker", ["LoRATPython", "LoRATTraX"])
def test_toolkit_names_a_frame_that_cannot_be_read(tmp_path: Path, tiny_weights: Path, tracker: str) -> None:
    pytest.importorskip("vot")
    write_clip(tmp_path / "clips" / "one", 0)
    make_workspace(tmp_path / "workspace", tmp_path / "clips", tiny_weights)
    frame = tmp_path / "clips" / "one" / "00000004.jpg"
    frame.write_bytes(frame.read_bytes()[:300])
    printed = run_vot("evaluate", "--workspace", str(tmp_path / "workspace"), tracker)
    assert "Evaluation concluded" not in printed
    assert "00000004.jpg" in printed
    (log,) = (tmp_path / "workspace" / "logs").glob("*.log")
    assert "00000004.jpg" in log.read_text()
    assert not list((tmp_path / "workspace" / "results").rglob("*.bin"))


def test_readme_shows_the_entries_that_init_writes() -> None:
    text = README.read_text()
    shown, written = configparser.ConfigParser(), tracker_entries(TrackerSettings(), ["python", "trax"])
    shown.read_string(text.split("```ini\n")[1].split("```")[0])
    assert shown.sections() == written.sections()
    for section in shown.sections():
        assert set(shown[section]) <= set(written[section])
        for key in set(shown[section]) - {"label", "command"}:
            assert shown[section][key] == written[section][key]
    assert shown["LoRATPython"]["command"] == written["LoRATPython"]["command"]
    assert shown["LoRATTraX"]["command"].split()[1:] == written["LoRATTraX"]["command"].split()[1:5]
