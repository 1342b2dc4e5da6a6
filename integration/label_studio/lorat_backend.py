"""LoRAT as an ML backend of Label Studio: it answers boxes drawn in a video by the boxes of all its frames.

LORAT_MODEL=lorat_tiny python lorat_backend.py --port 9090

LORAT_MODEL, LORAT_WEIGHTS and LORAT_DEVICE are those arguments of `MultiObjectTracker.from_pretrained`.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

from label_studio_ml.api import init_app
from label_studio_ml.model import LabelStudioMLBase

from lorat_plugin import MultiObjectTracker
from lorat_plugin.apps.annotate import annotate, read_hand_boxes
from lorat_plugin.interchange.json_formats import video_regions


@cache
def tracker() -> MultiObjectTracker:
    """The tracker of all requests; it reports absent targets."""
    given = {name: os.environ.get(f"LORAT_{name.upper()}") for name in ("model", "weights", "device")}
    return MultiObjectTracker.from_pretrained(absent_below=None, **{k: v for k, v in given.items() if v})


class LoRATBackend(LabelStudioMLBase):
    """Follows each drawn `VideoRectangle` between and behind its boxes, by the rule of `lorat annotate`."""

    def predict(
        self, tasks: list[dict[str, Any]], context: dict[str, Any] | None = None, **kwargs: Any
    ) -> list[dict[str, Any]]:
        """One prediction for the task whose regions are in `context`, with their ids and labels; none without a box."""
        drawn = [entry for entry in (context or {}).get("result", []) if entry["type"] == "videorectangle"]
        if not drawn:
            return []
        tags = self.parsed_label_config
        source = tags[drawn[0]["from_name"]]["inputs"][0]["value"]  # what the video is called in a task's data
        video = Path(self.get_local_path(tasks[0]["data"][source]))
        with tempfile.TemporaryDirectory() as folder:
            labels = Path(folder) / "drawn.json"
            numbered = [entry | {"id": str(number)} for number, entry in enumerate(drawn)]
            labels.write_text(json.dumps([{"data": {}, "annotations": [{"result": numbered}]}]), encoding="utf-8")
            keys, frames = read_hand_boxes(video, labels, 0, None)
        found = video_regions(annotate(video, keys, frames, tracker(), lambda _: nullcontext(lambda: None)))
        for region in found:
            own = drawn[int(region["id"])]
            region |= {name: own[name] for name in ("id", "from_name", "to_name")}
            region["value"]["labels"] = own["value"].get("labels", [])
        return [{"result": found, "score": sum(region["score"] for region in found) / len(found)}]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1", help="Address to serve; 0.0.0.0 for the network.")
    parser.add_argument("--port", type=int, default=9090)
    chosen = parser.parse_args()
    init_app(LoRATBackend).run(host=chosen.host, port=chosen.port)
