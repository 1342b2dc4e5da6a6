"""The launcher that repairs the toolkit: masks; what it repairs in stacks is run in test_vot_run."""

from __future__ import annotations

import pytest

from lorat_plugin.harness.vot_tools import repairs as vot_repairs


@pytest.mark.toolkit
def test_masks_and_polygons_pass_the_python_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    python = pytest.importorskip("vot.tracker.python")
    import numpy as np
    from vot.region import Mask, Polygon, Rectangle

    for name in ("_encode_region", "_decode_region"):
        monkeypatch.setattr(python, name, getattr(python, name))  # put back after the test
    vot_repairs.repair_python_masks()
    pixels = np.zeros((20, 30), np.uint8)
    pixels[4:9, 3:13] = 1
    sent = python._encode_region(Mask(pixels, optimize=True))
    assert np.argwhere(sent).tolist() == np.argwhere(pixels).tolist()
    answer = python._decode_region(pixels)
    assert isinstance(answer, Mask)
    assert (answer.rasterize((0, 0, 29, 19)) == pixels).all()
    assert isinstance(python._decode_region(np.zeros((20, 30), np.uint8)), Mask)  # an absent target
    corners = [(1.0, 2.0), (5.0, 2.0), (5.0, 9.5)]
    assert isinstance(python._decode_region(corners), Polygon)
    assert isinstance(python._decode_region((1.0, 2.0, 3.0, 4.0)), Rectangle)
