"""Text files of boxes: four numbers a line, VOT's regions, flags of frames."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from lorat_plugin.errors import InputError
from lorat_plugin.files import read_plain_text

MOST_PIXELS = 2**28  # of a mask's window; no frame has more


def read_boxes(path: Path) -> np.ndarray:
    """Read a text file of boxes, one row `x y w h` a line, separated by commas, tabs or spaces; blank lines at the end.

    Returns (N, 4) float64; "nan" is a value. Raises InputError that names the file and the line.
    """
    return parse_boxes(read_plain_text(path), str(path))


def parse_boxes(text: str, shown: str) -> np.ndarray:
    """Boxes from text, four numbers a line, separated by commas or by tabs and spaces; "nan" is a value.

    Fields must not be empty, and commas must separate all numbers of a row or none: "1 2,3 4" could mean 2.3.

    Returns (n, 4) float64 in the text's convention. Raises InputError naming the file `shown` and the line.
    """
    lines = text.strip().splitlines()
    if not lines:
        raise InputError(f"{shown}: is empty; write one row x,y,w,h per frame")
    try:
        table = np.loadtxt(io.StringIO(text), delimiter="," if "," in lines[0] else None, ndmin=2, comments=None)
        if table.shape == (len(lines), 4):
            return table
    except ValueError:
        pass
    boxes = []
    for number, line in enumerate(lines, start=1):  # finds the bad row, or reads rows with different separators
        try:
            boxes.append([float(value) for value in fields(line)])
        except ValueError:
            boxes.append([])
        if len(boxes[-1]) != 4 or "_" in line:  # Python reads 1_000 as a number
            raise InputError(f"{shown}, line {number}: '{line.strip():.80}' is not a box; write x,y,w,h")
    return np.array(boxes)


def fields(line: str) -> list[str]:
    """The fields of a row, split at commas if there are any, else at blanks."""
    return line.strip().split("," if "," in line else None)


def parse_flags(text: str, length: int, shown: str, each: str = "frame") -> np.ndarray:
    """Flags (length,) bool from zeros and ones, split at commas or line breaks. Raises InputError naming `shown`."""
    values = [value.strip() for line in text.strip().splitlines() for value in fields(line)]
    if len(values) != length or not set(values) <= {"0", "1"}:
        raise InputError(f"{shown}: wanted {length} numbers 0 or 1, one per {each}; got {len(values)} values")
    return np.array(values) == "1"


def parse_regions(text: str, shown: str) -> np.ndarray:
    """Upright boxes around regions, one region a line.

    A line is a rectangle x,y,w,h; a polygon x1,y1,x2,y2,x3,y3,...; a mask "mx,y,w,h,runs": alternating lengths of runs
    of zeros and ones, zeros first, row by row over a window of w x h pixels at x, y; or one number, the VOT toolkit's
    code of a frame without a region.

    Returns (n, 4) float64 x, y, w, h in pixels, NaN for a code or an empty mask. A mask's pixel is 1 wide; a polygon's
    box spans its smallest to its largest coordinates. Raises InputError naming the file `shown` and the line.
    """
    lines = text.strip().splitlines()
    if not lines:
        raise InputError(f"{shown}: is empty; write one region per frame")
    boxes = np.empty((len(lines), 4))
    for number, line in enumerate(lines, start=1):
        try:
            boxes[number - 1] = _bounds(line.strip())
        except (ValueError, OverflowError) as error:
            raise InputError(
                f"{shown}, line {number}: '{line.strip():.40}' is no region; write x,y,w,h, a polygon or VOT's mask"
            ) from error
    return boxes


def _bounds(line: str) -> tuple[float, ...]:
    if line.startswith("m"):
        return _mask_bounds([int(value) for value in line[1:].split(",")])
    numbers = np.array([float(value) for value in line.replace("\t", ",").split(",")])
    if len(numbers) == 1:
        return (np.nan,) * 4
    if len(numbers) == 4:
        return tuple(numbers)
    if len(numbers) < 6 or len(numbers) % 2:
        raise ValueError(line)
    low, high = numbers.reshape(-1, 2).min(axis=0), numbers.reshape(-1, 2).max(axis=0)
    return (*low, *(high - low))


def _mask_bounds(numbers: list[int]) -> tuple[float, ...]:
    x, y, width, height, *runs = numbers
    if min(width, height) < 1 or sum(runs) > width * height or width * height > MOST_PIXELS:
        raise ValueError(runs)
    mask = np.zeros(width * height, bool)
    mask[: sum(runs)] = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    rows, columns = np.nonzero(mask.reshape(height, width))
    if not len(rows):
        return (np.nan,) * 4
    left, top = columns.min(), rows.min()
    return x + left, y + top, columns.max() + 1 - left, rows.max() + 1 - top
