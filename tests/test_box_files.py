"""Text files of boxes and flags: what a row is, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from lorat_plugin.box_files import parse_boxes, parse_flags, parse_regions
from lorat_plugin.errors import InputError


@pytest.mark.parametrize(
    "text",
    ["1,2,3,4", "1 2 3 4", "1\t2\t3\t4", " 1, 2,\t3 ,4 \n", "1,2,3,4\n1 2 3 4\n", "1.0 2e0 +3 4.\n\n", "1,2,3,4\r\n"],
)
def test_four_numbers_are_a_box(text: str) -> None:
    assert set(map(tuple, parse_boxes(text, "a.txt"))) == {(1, 2, 3, 4)}


@pytest.mark.parametrize(
    "row",
    [
        *("1,,2,3,4", "1,2,3", "1 2 3", "1 2, 3 4", "1 2,3 4", "1,5 2,5 3,5 4,5", "1,2,3,4,", ",1,2,3,4", "1,2,3,4,5"),
        *("1;2;3;4", "1_0,2,3,4", "a,2,3,4", "1,2,3, ", "", "# 1,2,3,4"),
    ],
)
def test_anything_else_is_refused_with_its_line(row: str) -> None:
    with pytest.raises(InputError, match=r"^a\.txt, line 2: .* is not a box; write x,y,w,h$"):
        parse_boxes(f"1,2,3,4\n{row}\n5,6,7,8\n", "a.txt")


def test_absent_boxes_are_not_a_number() -> None:
    boxes = parse_boxes("nan,nan,nan,nan\nNaN NaN NaN NaN\n", "a.txt")
    assert boxes.shape == (2, 4) and np.isnan(boxes).all()


def test_empty_fields_are_no_regions_and_no_flags() -> None:
    for row in ("1,,2,3,4", "1,2,3,4,", "1,2,3"):
        with pytest.raises(InputError, match=r"line 1: .* is no region"):
            parse_regions(row, "a.txt")
    for text in ("0,1\n0\n", "0 1 0", "0\n1\n0"):
        assert parse_flags(text, 3, "a.txt").tolist() == [False, True, False]
    for text in ("0,,1,0", "0,1", "0,1,2", ""):
        with pytest.raises(InputError, match=r"a\.txt: wanted 3 numbers 0 or 1"):
            parse_flags(text, 3, "a.txt")
