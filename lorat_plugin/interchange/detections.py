"""Results as `supervision.Detections`, whose annotators draw them and whose tools count, slice and smooth them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from lorat_plugin.boxes import xywh_to_xyxy
from lorat_plugin.interchange.tracks import LABEL

if TYPE_CHECKING:
    import supervision

    from lorat_plugin.tracking import TrackResult


def to_detections(
    results: Mapping[int, TrackResult],
    labels: Mapping[int, str] | None = None,
    masks: Mapping[int, np.ndarray] | None = None,
) -> supervision.Detections:
    """One frame's results for supervision; absent objects are left out.

    Args:
        results: id -> result, as `MultiObjectTracker.update` returns it; of `LoRATTracker`, `{0: result}`.
        labels: id -> what the object is; "object" for those left out.
        masks: id -> (H, W) bool, for all objects or none.
    Returns detections with xyxy in pixels, confidence, tracker_id, class_id (the label's place among the labels) and
    class_name.
    """
    import supervision

    seen = {number: result for number, result in results.items() if not result.absent}
    names = [(labels or {}).get(number, LABEL) for number in seen]
    classes = list(dict.fromkeys((labels or {}).values())) or [LABEL]
    classes += [LABEL] if LABEL not in classes else []
    return supervision.Detections(
        xyxy=xywh_to_xyxy(np.array([result.box for result in seen.values()], np.float64).reshape(-1, 4)),
        mask=np.stack([masks[number] for number in seen]) if masks and seen else None,
        confidence=np.array([result.score for result in seen.values()], np.float64),
        class_id=np.array([classes.index(name) for name in names], np.int64),
        tracker_id=np.array(list(seen), np.int64),
        data={"class_name": np.array(names, str)},
    )
