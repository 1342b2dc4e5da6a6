"""The crops that eight-bit engines are calibrated on where the user names no frames."""

from __future__ import annotations

import torch

from lorat_plugin.engines.graphs import cut_crops
from lorat_plugin.video.demo_clips import boxed_frames


def test_the_bundled_clips_are_used_where_no_frames_are_named(tiny_network) -> None:
    first, again = ([crop.search for crop in cut_crops(tiny_network, boxed_frames(None, 4))] for _ in range(2))
    assert len(first) == 4
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert len({float(x.mean()) for x in first}) == 4  # of both clips, spread over each
