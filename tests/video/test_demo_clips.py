"""The clips in the package: every frame has its box, and the boxes lie on the target."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lorat_plugin.errors import InputError
from lorat_plugin.images import read_image
from lorat_plugin.video import demo_clips
from lorat_plugin.video.demo_clips import CLIPS, read_demo_clip

LENGTHS = {"davis_camel": 90, "davis_bmx-trees": 80}


@pytest.mark.parametrize("name", CLIPS)
def test_each_frame_of_a_clip_has_a_box_within_it(name: str) -> None:
    frames, boxes = read_demo_clip(name)
    assert len(frames) == len(boxes) == LENGTHS[name]
    assert {frame.shape for frame in frames} == {(224, 400, 3)} and frames[0].dtype == np.uint8
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] > 8).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= (400, 224)).all()


@pytest.mark.parametrize("name", CLIPS)
def test_the_frames_are_those_the_boxes_were_made_for(name: str, shared: Path) -> None:
    """The frame before or after differs more from the source than the frame itself."""
    frames, boxes = read_demo_clip(name)
    home = shared / "data" / name
    np.testing.assert_array_equal(boxes, np.loadtxt(home / "groundtruth.txt", delimiter=","))
    for number in (0, 1, len(frames) // 2, len(frames) - 2, len(frames) - 1):
        source = read_image(home / f"{number + 1:08d}.jpg")[:224].astype(int)
        gaps = [np.abs(frames[i] - source).mean() for i in (number - 1, number, number + 1) if 0 <= i < len(frames)]
        assert min(gaps) == np.abs(frames[number] - source).mean() < 5
        assert sorted(gaps)[1] > 1.5 * min(gaps)


def test_a_clip_that_lacks_frames_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "davis_camel.mp4"
    path.write_bytes(CLIPS["davis_camel"].read_bytes())
    rows = CLIPS["davis_camel"].with_suffix(".txt").read_text().splitlines()
    path.with_suffix(".txt").write_text("\n".join([*rows, rows[-1]]) + "\n")
    monkeypatch.setitem(demo_clips.CLIPS, "davis_camel", path)
    with pytest.raises(InputError, match=r"davis_camel\.mp4: 90 frames were decoded but 91 have a box"):
        read_demo_clip("davis_camel")
