"""TrackerLoRAT in the real GOT-10k toolkit."""

from __future__ import annotations

import runpy
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from lorat_plugin import LoRATTracker
from lorat_plugin.errors import InputError
from lorat_plugin.network import LoRATNetwork
from tests.helpers.sequences import SIZE, square_sequence, write_clip, write_frames

pytest.importorskip("got10k.experiments")
import matplotlib
from got10k.experiments import ExperimentGOT10k
from got10k.trackers import Tracker
from PIL import Image

from lorat_plugin.datasets.clips import find_scorable_clips, link_clips
from lorat_plugin.evaluation.runner import FrameTracker
from lorat_plugin.harness.got10k import TrackerLoRAT

matplotlib.use("Agg")
pytestmark = pytest.mark.toolkit
INTEGRATION = Path(__file__).parents[2] / "integration" / "got10k"


@pytest.fixture(scope="module")
def lorat(tiny_network: LoRATNetwork) -> TrackerLoRAT:
    return TrackerLoRAT(tracker=LoRATTracker(tiny_network, device="cpu"))


@pytest.fixture
def got10k_root(tmp_path: Path) -> Path:
    for number in range(2):
        write_clip(tmp_path / "clips" / f"clip{number}", length=5, seed=number)
    link_clips(find_scorable_clips(tmp_path / "clips"), tmp_path / "GOT-10k")
    return tmp_path / "GOT-10k"


class Recorder(FrameTracker):
    """Answers with the last box; keeps the frames that it was given."""

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__("Recorder")
        self.seconds, self.frames = seconds, []

    def start(self, frame: np.ndarray, box_xywh: np.ndarray) -> None:
        self.frames, self.box = [frame], box_xywh

    def follow(self, frame: np.ndarray) -> np.ndarray:
        time.sleep(self.seconds)
        self.frames.append(frame)
        return self.box + 1


def test_it_is_a_tracker_of_the_toolkit(lorat: TrackerLoRAT) -> None:
    assert isinstance(lorat, Tracker)
    assert lorat.is_deterministic
    assert lorat.name == "LoRAT"


def test_init_and_update_take_pil_images(lorat: TrackerLoRAT) -> None:
    frames, boxes = square_sequence(2)
    lorat.init(Image.fromarray(frames[0]), boxes[0])
    box = lorat.update(Image.fromarray(frames[1]))
    assert box.shape == (4,) and box.dtype == np.float64 and np.isfinite(box).all()


def test_phone_pictures_come_upright_from_the_toolkit_and_from_files(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 40)).save(tmp_path / "a.jpg", exif=exif)
    recorder = Recorder()
    with Image.open(tmp_path / "a.jpg") as image:
        recorder.init(image, np.array([1, 2, 3, 4]))
        recorder.update(image)
    assert [frame.shape for frame in recorder.frames] == [(60, 40, 3)] * 2
    recorder.track([str(tmp_path / "a.jpg")] * 2, np.array([1, 2, 3, 4]))
    assert [frame.shape for frame in recorder.frames] == [(60, 40, 3)] * 2


def test_pictures_that_change_size_are_tracked_to_the_end(lorat: TrackerLoRAT, tmp_path: Path) -> None:
    frames, boxes = square_sequence(4)
    for number, frame in enumerate(frames):
        image = Image.fromarray(frame)
        image.resize((image.width * 2, image.height * 2) if number > 1 else image.size).save(tmp_path / f"{number}.png")
    found, _ = lorat.track(sorted(map(str, tmp_path.glob("*.png"))), boxes[0])
    assert found.shape == (4, 4) and np.isfinite(found).all()


def test_track_equals_the_toolkits_own_loop(lorat: TrackerLoRAT, tmp_path: Path) -> None:
    frames, boxes = square_sequence(4)
    write_frames(tmp_path, frames, suffix=".png")
    files = sorted(str(path) for path in tmp_path.glob("*.png"))
    ours, _ = lorat.track(files, boxes[0])
    theirs, _ = Tracker.track(lorat, files, boxes[0])
    np.testing.assert_array_equal(ours, theirs)


def test_track_gives_rgb_frames_in_order_and_the_first_box_unchanged(tmp_path: Path) -> None:
    frames, boxes = square_sequence(12)
    write_frames(tmp_path, frames, suffix=".png")
    recorder = Recorder()
    counted = []
    recorder.on_frame = lambda: counted.append(1)
    tracked, times = recorder.track(sorted(map(str, tmp_path.glob("*.png"))), boxes[0])
    np.testing.assert_array_equal(recorder.frames, frames)
    np.testing.assert_array_equal(tracked[0], boxes[0])
    np.testing.assert_array_equal(tracked[1:], np.tile(boxes[0] + 1, (11, 1)))
    assert times.shape == (12,) and (times > 0).all() and len(counted) == 12


def test_times_count_the_tracker_and_not_the_decoder(tmp_path: Path) -> None:
    frames, boxes = square_sequence(3)
    big = [np.kron(frame, np.ones((20, 20, 1), np.uint8)) for frame in frames]  # 1800 x 2400: some 20 ms to decode
    write_frames(tmp_path, big, suffix=".png")
    files = sorted(map(str, tmp_path.glob("*.png")))
    _, quick = Recorder().track(files, boxes[0])
    _, slow = Recorder(seconds=0.03).track(files, boxes[0])
    assert quick.max() < 0.01
    assert slow[1:].min() >= 0.03
    assert slow[0] < 0.01


def test_memory_is_bounded_by_the_frames_decoded_ahead(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    decoded = []
    frame = np.zeros((*SIZE, 3), np.uint8)
    monkeypatch.setattr("lorat_plugin.evaluation.runner.read_image", lambda path: decoded.append(path) or frame)
    lead = []

    class Slow(Recorder):
        def follow(self, frame: np.ndarray) -> np.ndarray:
            time.sleep(0.005)
            lead.append(len(decoded) - len(lead))
            return self.box

    Slow().track([f"{i}.jpg" for i in range(40)], np.array([1.0, 2, 3, 4]))
    assert len(decoded) == 40
    assert max(lead) <= 8


@pytest.mark.parametrize("content", [b"", b"no image", None], ids=["empty", "text", "missing"])
def test_a_frame_that_cannot_be_decoded_is_named(content: bytes | None, tmp_path: Path) -> None:
    frames, boxes = square_sequence(3)
    write_frames(tmp_path, frames)
    broken = tmp_path / "00000002.jpg"
    files = sorted(map(str, tmp_path.glob("*.jpg")))
    broken.unlink()
    if content is not None:
        broken.write_bytes(content)
    with pytest.raises(InputError, match=r"00000002\.jpg"):
        Recorder().track(files, boxes[0])


def test_a_box_that_the_tracker_refuses_is_reported_with_its_file(lorat: TrackerLoRAT, tmp_path: Path) -> None:
    write_frames(tmp_path, square_sequence(2)[0])
    with pytest.raises(InputError, match=r"00000001\.jpg: .*box"):
        lorat.track(sorted(map(str, tmp_path.glob("*.jpg"))), np.array([1.0, 2, np.nan, 4]))
    with pytest.raises(InputError, match="no frames"):
        lorat.track([], np.array([1.0, 2, 3, 4]))


def test_got10k_run_and_report(lorat: TrackerLoRAT, got10k_root: Path, tmp_path: Path) -> None:
    experiment = ExperimentGOT10k(
        root_dir=str(got10k_root),
        subset="val",
        result_dir=str(tmp_path / "results"),
        report_dir=str(tmp_path / "reports"),
    )
    experiment.run(lorat)
    performance = experiment.report([lorat.name])
    home = tmp_path / "results" / "GOT-10k" / "LoRAT" / "clip0"
    assert sorted(path.name for path in home.iterdir()) == ["clip0_001.txt", "clip0_time.txt"]  # one run: deterministic
    assert np.loadtxt(home / "clip0_001.txt", delimiter=",").shape == (5, 4)
    assert np.loadtxt(home / "clip0_time.txt").shape == (5,)
    assert 0 <= performance["LoRAT"]["overall"]["ao"] <= 1
    assert (tmp_path / "reports" / "GOT-10k" / "LoRAT" / "success_plot.png").stat().st_size > 1000


def test_got10k_test_subset_is_packed_for_the_server(
    lorat: TrackerLoRAT, got10k_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (got10k_root / "val").rename(got10k_root / "test")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    experiment = ExperimentGOT10k(root_dir=str(got10k_root), subset="test", result_dir=str(tmp_path / "results"))
    experiment.run(lorat)
    assert experiment.report([lorat.name]) is None
    assert (tmp_path / "results" / "GOT-10k" / "LoRAT.zip").is_file()


def run_script(name: str, arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", [name, *arguments])
    runpy.run_path(str(INTEGRATION / name), run_name="__main__")


def test_the_got10k_script_runs(
    got10k_root: Path,
    tiny_weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    run_script(
        "run_got10k.py", [str(got10k_root), "--weights", str(tiny_weights), "--out", str(tmp_path / "out")], monkeypatch
    )
    assert "SR0.75" in capsys.readouterr().out
    assert (tmp_path / "out/reports/GOT-10k/LoRAT/success_plot.png").is_file()


def test_the_otb_script_runs_without_a_network(
    tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    frames, boxes = square_sequence(4)
    write_frames(tmp_path / "OTB" / "Bolt" / "img", frames, digits=4)
    np.savetxt(tmp_path / "OTB" / "Bolt" / "groundtruth_rect.txt", boxes, fmt="%d", delimiter=",")
    monkeypatch.setattr("got10k.datasets.otb.download", lambda *_: pytest.fail("it went to the network"))
    run_script(
        "run_otb.py",
        [str(tmp_path / "OTB"), "--weights", str(tiny_weights), "--out", str(tmp_path / "out")],
        monkeypatch,
    )
    assert "precision" in capsys.readouterr().out
    assert (tmp_path / "out/reports/OTB2015/LoRAT/precision_plots.png").is_file()


def test_the_lasot_script_runs(
    tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    frames, boxes = square_sequence(4)
    home = tmp_path / "LaSOT" / "dog" / "dog-1"
    write_frames(home / "img", frames)
    np.savetxt(home / "groundtruth.txt", boxes + np.array([1, 1, 0, 0]), fmt="%d", delimiter=",")
    for flags in ("full_occlusion.txt", "out_of_view.txt"):
        (home / flags).write_text("0,0,0,0\n")
    arguments = [str(tmp_path / "LaSOT"), "--sequences", "dog-1", "--weights", str(tiny_weights)]
    run_script("run_lasot.py", [*arguments, "--out", str(tmp_path / "out")], monkeypatch)
    assert "normalised precision" in capsys.readouterr().out


def test_the_readme_example_runs(got10k_root: Path, tiny_weights: Path, tmp_path: Path) -> None:
    text = (INTEGRATION / "README.md").read_text(encoding="utf-8")
    code = text.split("```python\n")[1].split("```")[0]
    code = code.replace('root_dir="GOT-10k"', f"root_dir={str(got10k_root)!r}").replace("/absolute", str(tmp_path))
    code = code.replace('model="lorat_tiny"', f'model="lorat_tiny", weights={str(tiny_weights)!r}')
    exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "reports/GOT-10k/LoRAT/performance.json").is_file()
