"""Results as supervision's detections, drawn by its annotators."""

from __future__ import annotations

import numpy as np
import supervision

from lorat_plugin.tracking import TrackResult
from lorat_plugin.video.drawing import to_detections

RESULTS = {
    4: TrackResult(np.array([30.0, 20.0, 16.0, 10.0]), 0.75),
    5: TrackResult(np.array([1.0, 1.0, 5.0, 5.0]), 0.1, absent=True),
    9: TrackResult(np.array([60.0, 40.0, 30.0, 20.0]), 0.5),
}


def test_detections_hold_what_was_found() -> None:
    masks = {number: np.zeros((90, 120), bool) for number in RESULTS}
    masks[9][40:60, 60:90] = True
    found = to_detections(RESULTS, {4: "dog", 9: "cat"}, masks)
    assert found.xyxy.tolist() == [[30, 20, 46, 30], [60, 40, 90, 60]]
    assert found.tracker_id.tolist() == [4, 9] and found.confidence.tolist() == [0.75, 0.5]
    assert found["class_name"].tolist() == ["dog", "cat"] and found.class_id.tolist() == [0, 1]
    assert found.mask.sum(axis=(1, 2)).tolist() == [0, 600]
    assert found[found.confidence > 0.6].tracker_id.tolist() == [4]


def test_nothing_found_is_empty() -> None:
    assert len(to_detections({5: RESULTS[5]})) == 0 == len(to_detections({}))


def test_annotators_draw_them(frames: list[np.ndarray]) -> None:
    found = to_detections(RESULTS)
    drawn = supervision.BoxAnnotator(thickness=1).annotate(frames[0].copy(), found)
    drawn = supervision.LabelAnnotator().annotate(drawn, found, labels=[f"#{number}" for number in found.tracker_id])
    drawn = supervision.TraceAnnotator().annotate(drawn, found)
    assert drawn.shape == frames[0].shape and (drawn[20, 31:46] != frames[0][20, 31:46]).any()
