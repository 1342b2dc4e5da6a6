"""Both VOT protocols where toolkits and data misbehave: regions, absent objects, masks, and processes that end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorat_plugin import LoRATTracker, MultiObjectTracker, TrackResult
from lorat_plugin.harness import vot
from lorat_plugin.harness.vot import LoRATPython, SequenceTracker, region_to_box
from lorat_plugin.network import LoRATNetwork
from lorat_plugin.video.masks import box_masks, mask_maker

BOXES = [(30.0, 20.0, 16.0, 16.0), (60.5, 20.25, 20.0, 14.0), (5.0, 40.0, 30.0, 30.0), (80.0, 10.0, 12.0, 40.0)]
EMPTY_MASK = np.zeros((90, 120), np.uint8)
COMMAND = [sys.executable, "-m", "lorat_plugin.harness.vot", "--device", "cpu"]


@pytest.fixture(scope="module")
def bundled() -> MultiObjectTracker:
    return MultiObjectTracker.from_pretrained("lorat_tiny", device="cpu")


@pytest.fixture
def files(frames: list[np.ndarray], tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{i}.png" for i in range(len(frames))]
    for path, frame in zip(paths, frames, strict=True):
        cv2.imwrite(str(path), frame[:, :, ::-1])
    return paths


# --- regions ---------------------------------------------------------------------------------------------------------


@given(st.sets(st.tuples(st.integers(0, 19), st.integers(0, 29)), min_size=1))
def test_a_mask_and_its_toolkit_corners_give_the_box_that_just_holds_its_pixels(pixels: set[tuple[int, int]]) -> None:
    mask = np.zeros((20, 30), np.uint8)
    for row, column in pixels:
        mask[row, column] = 1
    box = region_to_box(mask)
    assert box is not None
    x, y, w, h = box
    assert mask[int(y) : int(y + h), int(x) : int(x + w)].sum() == len(pixels)
    assert all(part.any() for part in (mask[int(y)], mask[int(y + h) - 1], mask[:, int(x)], mask[:, int(x + w) - 1]))
    corners = [[x, y], [x + w - 1, y], [x + w - 1, y + h - 1], [x, y + h - 1]]  # as `convert = rectangle` gives them
    found = region_to_box(corners)  # None for one pixel, which looks like the toolkit's empty mask
    assert (w, h) == (1, 1) if found is None else found.tolist() == [x, y, w, h]


@given(st.lists(st.tuples(st.floats(-50, 50), st.floats(-50, 50)), min_size=3, max_size=8))
def test_a_polygons_points_may_be_tuples_or_lists(points: list[tuple[float, float]]) -> None:
    box, other = region_to_box(points), region_to_box([list(point) for point in points])
    if box is None or other is None:
        assert box is other and len(set(points)) == 1
    else:
        assert box.tolist() == other.tolist()
        assert min(box[2:]) >= 0


@pytest.mark.parametrize(
    "region", [EMPTY_MASK, (0, 0, 0, 0), (5.0, 5.0, 0.0, 9.0), (3.4e38, 3.4e38, -np.inf, -np.inf), [(7.0, 0.0)] * 4]
)
def test_an_empty_region_has_no_box(region: Any) -> None:
    assert region_to_box(region) is None


# --- objects ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("face", ["python", "core"])
def test_all_objects_at_once_equal_as_many_single_trackers(
    face: str, bundled: MultiObjectTracker, frames: list[np.ndarray]
) -> None:
    if face == "python":
        tracker = LoRATPython(device="cpu")
        tracker.init({"color": frames[0]}, [(box, {}) for box in BOXES], {})
        answers = [tracker.update({"color": frame}, [], {}) for frame in frames[1:]]
    else:
        core = SequenceTracker(bundled)
        core.initialize(frames[0], [np.array(box) for box in BOXES])
        answers = [core.update(frame) for frame in frames[1:]]
    single = LoRATTracker.from_pretrained("lorat_tiny", device="cpu")
    for i, box in enumerate(BOXES):
        single.init(frames[0], box)
        for frame, answer in zip(frames[1:], answers, strict=True):
            result = single.update(frame)
            np.testing.assert_allclose(answer[i][0], result.box, atol=1e-3)
            assert answer[i][1]["confidence"] == pytest.approx(result.score, abs=1e-4)


def test_an_object_with_an_empty_region_is_absent_and_leaves_the_others_alone(
    bundled: MultiObjectTracker, frames: list[np.ndarray]
) -> None:
    alone, beside = SequenceTracker(bundled), SequenceTracker(MultiObjectTracker.from_pretrained(device="cpu"))
    alone.initialize(frames[0], [np.array(BOXES[0])])
    given, absent = (vot.EMPTY, {}), (vot.EMPTY, {"confidence": 0.0})
    assert beside.initialize(frames[0], [None, np.array(BOXES[0]), None])[::2] == [given, given]
    for frame in frames[1:]:
        first, second, third = beside.update(frame)
        assert first == third == absent
        np.testing.assert_allclose(second[0], alone.update(frame)[0][0], atol=1e-3)
    assert beside.update(frames[0], [None])[3] == given
    assert beside.initialize(frames[0], [None]) == [given]  # a sequence of nothing else
    assert beside.update(frames[1]) == [absent]


@pytest.mark.parametrize("masks", [False, True])
def test_a_target_that_the_score_marks_absent_is_answered_by_an_empty_region(
    masks: bool, tiny_network: LoRATNetwork, frames: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = MultiObjectTracker(tiny_network, device="cpu")
    sequence = SequenceTracker(tracker, mask_maker("box") if masks else None)
    sequence.initialize(frames[0], [np.array(box) for box in BOXES[:2]])
    results = [TrackResult(np.array(BOXES[0]), 0.1, absent=True), TrackResult(np.array(BOXES[1]), 0.9)]
    monkeypatch.setattr(tracker, "update", lambda frame: dict(zip(sequence._ids, results, strict=True)))
    (lost, properties), (seen, _) = sequence.update(frames[1])
    assert properties == {"confidence": 0.1}
    if masks:
        assert not lost.any()
        assert (seen == box_masks([BOXES[1]], (90, 120))[0]).all()
    else:
        assert (lost, seen) == (vot.EMPTY, BOXES[1])


def test_python_protocol_answers_with_masks(frames: list[np.ndarray]) -> None:
    boxes, masks = LoRATPython(device="cpu"), LoRATPython(device="cpu", masks="box", absent_below="")
    new: list[tuple[Any, dict[str, Any]]] = [(region, {}) for region in (*BOXES, EMPTY_MASK)]
    for tracker in (boxes, masks):
        tracker.init({"color": frames[0]}, new, {})
    as_boxes, as_masks = (tracker.update({"color": frames[1]}, [], {}) for tracker in (boxes, masks))
    assert [mask.shape for mask, _ in as_masks] == [(90, 120)] * 5
    assert {mask.dtype for mask, _ in as_masks} == {np.dtype(np.uint8)}
    expected = box_masks([box for box, _ in as_boxes], (90, 120))
    assert (np.stack([mask for mask, _ in as_masks]) == expected).all()
    assert expected.any(axis=(1, 2)).tolist() == [True] * 4 + [False]
    assert [properties for _, properties in as_masks] == [properties for _, properties in as_boxes]


@pytest.mark.parametrize("value", ["much", "2", "-0.1"])
def test_python_protocol_refuses_a_threshold(value: str) -> None:
    with pytest.raises(RuntimeError, match="absent"):
        LoRATPython(device="cpu", absent_below=value)


# --- TraX server -----------------------------------------------------------------------------------------------------


class Server:
    """A server as the toolkit starts it, and the client's end; `said` is what came over the wire, `log` its stderr."""

    def __init__(self, folder: Path, *options: str) -> None:
        from trax.client import Client

        self.log = folder / "log"
        self._said: list[str] = []
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*COMMAND, *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, bufsize=0
            )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        streams = (self.process.stdin.fileno(), self.process.stdout.fileno())
        self.client = Client(stream=streams, log=self._said.append)

    def ask(self, file: Path, new: list[Any], *, first: bool = False) -> list[tuple[Any, dict[str, str]]]:
        """Send a frame with new objects; returns (region, properties) of each object."""
        import trax

        image = {"color": trax.FileImage.create(str(file))}
        objects: list[tuple[Any, dict[str, str]]] = [(region, {}) for region in new]
        status, _ = self.client.initialize(image, objects, {}) if first else self.client.frame(image, {}, objects)
        return list(status)

    def only_protocol_on_stdout(self) -> bool:
        """Whether every line that came over the wire is TraX's."""
        return all(line.startswith("@@TRAX:") for line in "".join(self._said).splitlines() if line)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Any]:
    pytest.importorskip("trax")
    servers: list[Server] = []

    def start(*options: str) -> Server:
        servers.append(Server(tmp_path, *options))
        return servers[-1]

    yield start
    for server in servers:
        with contextlib.suppress(Exception):
            server.client.quit()
        server.process.kill()
        server.process.wait()


@pytest.mark.toolkit
@pytest.mark.slow
@pytest.mark.parametrize("masks", [False, True])
def test_server_takes_every_kind_of_region_and_late_objects(
    serve: Any, masks: bool, files: list[Path], frames: list[np.ndarray]
) -> None:
    import trax

    server = serve(*(["--masks", "box"] if masks else []))
    x, y, w, h = BOXES[0]
    mask = np.ones((16, 16), np.uint8)
    polygon = [(x, y + 3), (x + 5, y), (x + w, y + 6), (x + 8, y + h)]
    new = [trax.Rectangle.create(*BOXES[0]), trax.Mask.create(mask, 30, 20), trax.Polygon.create(polygon)]
    new.append(trax.Mask.create(EMPTY_MASK))
    for _ in range(2):  # the second sequence of the same process
        first = server.ask(files[0], new, first=True)
        second = server.ask(files[1], [trax.Rectangle.create(*BOXES[1])])
        third = server.ask(files[2], [])
        core = SequenceTracker(MultiObjectTracker.from_pretrained(device="cpu"), mask_maker("box") if masks else None)
        expected = [core.initialize(frames[0], [np.array(BOXES[0])] * 3 + [None])]
        expected += [core.update(frames[1], [np.array(BOXES[1])]), core.update(frames[2])]
        for answers, wanted in zip((first, second, third), expected, strict=True):
            for (region, properties), (shape, score) in zip(answers, wanted, strict=True):
                told = {name: float(value) for name, value in dict(properties).items()}
                assert told == pytest.approx(score, abs=1e-4)
                if masks:
                    sent = region.array(True)
                    assert (np.pad(sent, [(0, 90 - sent.shape[0]), (0, 120 - sent.shape[1])]) == shape).all()
                else:
                    np.testing.assert_allclose(region.bounds(), shape, atol=1e-3)
    assert server.only_protocol_on_stdout()
    assert "which count as absent: 1" in server.log.read_text()


@pytest.mark.toolkit
@pytest.mark.slow
def test_server_ends_when_the_client_closes_the_pipe_while_a_frame_is_tracked(serve: Any, files: list[Path]) -> None:
    import trax

    server = serve()
    server.ask(files[0], [trax.Rectangle.create(*BOXES[0])], first=True)
    os.write(server.process.stdin.fileno(), f'@@TRAX:frame "file://{files[1]}" \n'.encode() * 3)
    server.process.stdout.close()
    server.process.stdin.close()
    assert server.process.wait(timeout=30) == 0
    assert "Traceback" not in server.log.read_text()


@pytest.mark.toolkit
@pytest.mark.slow
@pytest.mark.parametrize(
    ("message", "code", "sentence"),
    [
        ('@@TRAX:initialize "1"\n@@TRAX:frame "file://{}" \n', 2, "must be given as a rectangle"),
        ('@@TRAX:initialize "sphere:1,2,3"\n@@TRAX:frame "file://{}" \n', 0, "connection ended"),
    ],
)
def test_server_ends_on_what_it_cannot_use(files: list[Path], message: str, code: int, sentence: str) -> None:
    pytest.importorskip("trax")
    done = subprocess.run(COMMAND, input=message.format(files[0]), capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stderr
    assert sentence in done.stderr
    assert all(line.startswith("@@TRAX:") for line in done.stdout.splitlines() if line)


def test_server_says_that_vot_trax_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(vot, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as ended:
        vot.main([])
    assert ended.value.code == 2
    assert "vot-trax is not installed" in capsys.readouterr().err


TOOLKIT = {
    "trax": """
        import subprocess, sys, time
        from trax.client import Client

        pipe = subprocess.PIPE
        command = [sys.executable, "-m", "lorat_plugin.harness.vot", "--device", "cpu"]
        server = subprocess.Popen(command, stdin=pipe, stdout=pipe, bufsize=0)
        client = Client(stream=(server.stdin.fileno(), server.stdout.fileno()), log=lambda text: None)
        print(server.pid, flush=True)
        time.sleep(600)
    """,
    "python": """
        import multiprocessing, time
        from lorat_plugin.harness.vot import LoRATPython

        def work(tasks, results):
            LoRATPython(device="cpu")
            results.put("ready")
            tasks.get()

        if __name__ == "__main__":
            context = multiprocessing.get_context("spawn")
            tasks, results = context.Queue(), context.Queue()
            worker = context.Process(target=work, args=(tasks, results))
            worker.start()
            results.get()
            print(worker.pid, flush=True)
            time.sleep(600)
    """,
}


@pytest.mark.toolkit
@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["trax", "python"])
def test_no_process_is_left_when_the_toolkit_is_killed(tmp_path: Path, protocol: str) -> None:
    pytest.importorskip("trax")
    script = tmp_path / "toolkit.py"
    script.write_text(textwrap.dedent(TOOLKIT[protocol]))
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as toolkit:
        assert toolkit.stdout is not None
        pid = int(toolkit.stdout.readline())
        os.kill(pid, 0)
        toolkit.send_signal(signal.SIGKILL)
        toolkit.wait()
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return
        if state == "Z":  # ended; whoever adopted it has not asked for its exit code
            return
        time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    raise AssertionError(f"the tracker of the {protocol} protocol outlives the toolkit")
