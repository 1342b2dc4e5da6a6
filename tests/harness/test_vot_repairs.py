"""The launcher that mends the toolkit: attributee's trap; what it mends in stacks is run in test_vot_run."""

from __future__ import annotations

import sys
import typing
from pathlib import Path

import pytest

from lorat_plugin.harness.vot_tools import repairs as vot_repairs

ATTRIBUTEE = """
import typing
assert "dataclass_transform" not in vars(typing)
"""


@pytest.mark.skipif(sys.version_info < (3, 11), reason="typing has no dataclass_transform")
def test_attributee_is_imported_without_the_decorator_it_misuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "attributee.py").write_text(ATTRIBUTEE)
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "attributee"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(vot_repairs, "version", lambda _: "0.1.10")
    decorator = typing.dataclass_transform
    vot_repairs.mend_attributee()
    assert sys.modules.pop("attributee").__file__ == str(tmp_path / "attributee.py")
    assert typing.dataclass_transform is decorator
    monkeypatch.setattr(vot_repairs, "version", lambda _: "0.1.9")
    vot_repairs.mend_attributee()
    assert "attributee" not in sys.modules  # nothing to mend, nothing imported


@pytest.mark.toolkit
def test_masks_and_polygons_pass_the_python_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    python = pytest.importorskip("vot.tracker.python")
    import numpy as np
    from vot.region import Mask, Polygon, Rectangle

    for name in ("_encode_region", "_decode_region"):
        monkeypatch.setattr(python, name, getattr(python, name))  # put back after the test
    vot_repairs.mend_python_masks()
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
