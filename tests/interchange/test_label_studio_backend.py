"""LoRAT as an ML backend: a request as Label Studio sends it, answered by the server of label-studio-ml."""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from pathlib import Path

import pytest

from lorat_plugin import MultiObjectTracker
from lorat_plugin.video import open_source
from tests.helpers.sequences import write_video

pytest.importorskip("label_studio_ml")
SCRIPT = Path(__file__).parents[2] / "integration" / "label_studio" / "lorat_backend.py"
CONFIG = (
    '<View><Video name="film" value="$clip"/><VideoRectangle name="rect" toName="film"/>'
    '<Labels name="kinds" toName="film"><Label value="car"/></Labels></View>'
)


@pytest.fixture
def backend(monkeypatch):
    spec = importlib.util.spec_from_file_location("lorat_backend", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "lorat_backend", module)
    spec.loader.exec_module(module)
    tracker = MultiObjectTracker.from_pretrained("lorat_tiny", device="cpu", absent_below=None)
    monkeypatch.setattr(module, "tracker", cache(lambda: tracker))
    client = module.init_app(module.LoRATBackend).test_client()
    assert client.post("/setup", json={"project": "1.1", "schema": CONFIG}).status_code == 200
    return client


def ask(client, video: Path, *boxes: dict) -> list[dict]:
    value = {"framesCount": 8, "duration": 0.32, "sequence": list(boxes), "labels": ["car"]}
    region = {"id": "aB3x", "type": "videorectangle", "from_name": "rect", "to_name": "film", "value": value}
    tasks = [{"id": 1, "data": {"clip": f"/data/local-files/?d={video}"}}]
    request = {"tasks": tasks, "label_config": CONFIG, "project": "1.1"}
    answer = client.post("/predict", json={**request, "params": {"context": {"result": [region] if boxes else []}}})
    assert answer.status_code == 200, answer.get_data(as_text=True)
    return answer.get_json()["results"]


def test_a_drawn_box_is_answered_by_a_box_for_every_frame(backend, tmp_path: Path) -> None:
    write_video(tmp_path / "car.mp4")
    percents = {"x": 37.5, "y": 100 / 3, "width": 20, "height": 20}
    (answer,) = ask(backend, tmp_path / "car.mp4", {"frame": 1, "enabled": True, "rotation": 0, **percents})
    (region,) = answer["result"]
    assert [region[key] for key in ("id", "from_name", "to_name", "type")] == ["aB3x", "rect", "film", "videorectangle"]
    boxes = region["value"]["sequence"]
    assert [box["frame"] for box in boxes] == list(range(1, 9)) and region["value"]["labels"] == ["car"]
    tracker = MultiObjectTracker.from_pretrained("lorat_tiny", device="cpu")
    with open_source(tmp_path / "car.mp4") as frames:
        for frame, box in zip(frames, boxes, strict=True):
            given = [box["x"] * 3.2, box["y"] * 2.4, box["width"] * 3.2, box["height"] * 2.4]
            if frame.number == 0:
                tracker.add(frame.image, [given])
            else:
                assert given == pytest.approx(tracker.update(frame.image)[0].box.tolist(), abs=0.01)
    assert boxes[-1]["x"] > boxes[0]["x"] + 1 and all(box["enabled"] for box in boxes[:-1])


def test_nothing_drawn_is_answered_by_nothing(backend, tmp_path: Path) -> None:
    assert ask(backend, tmp_path / "none.mp4") == []
