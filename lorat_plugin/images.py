"""Image files: their names and order, their size, and how they are decoded.

Images are always upright: decoding applies the EXIF orientation, and sizes are those of the upright image.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin

from lorat_plugin.errors import InputError
from lorat_plugin.files import require_utf8

IMAGE_NAME = re.compile(
    r"[^.].*\.(avif|bmp|dib|exr|gif|hdr|jp2|jpe|jpeg|jpg|pbm|pfm|pgm|pic|png|pnm|ppm|pxm|ras|sr|tif|tiff|webp)",
    re.IGNORECASE,
)
_RGB: int = getattr(cv2, "IMREAD_COLOR_RGB", 0)  # decodes JPEG as RGB, from OpenCV 4.11 on
_TIFF = (b"II*\0", b"MM\0*")
_FLIPS = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}  # EXIF orientation -> code of cv2.flip, after a transposition from 5 on
# "100.05": a decimal, unless more numbers with dots follow or precede, as in a date or a version
_DECIMAL = re.compile(r"(?<![0-9.,])([0-9]+)[.,]([0-9]+)(?![.,]?[0-9])")
_EXPONENT = re.compile(r"[-+]?[0-9]+(?:[.,][0-9]+)?e[-+][0-9]+", re.IGNORECASE)  # how programs print 0.00005
_COUNTER = re.compile(r"%(?:(0)?([1-9][0-9]*))?[di]")  # of printf


def read_image(path: str | Path, *, alpha: bool = False) -> np.ndarray:
    """Read one image of any type that OpenCV reads as (H, W, 3) uint8 RGB, upright by its EXIF orientation.

    16-bit images keep their high byte, grey and palette images become RGB, alpha is dropped; with `alpha` the result is
    (H, W, 4) RGBA. Raises InputError if the file is missing, truncated, not an image, has floating-point pixels, or no
    alpha where it is requested.
    """
    try:
        data = Path(path).read_bytes()  # cv2.imread prints messages and fails on some names on Windows
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    return decode_image(data, str(path), alpha=alpha)


def decode_image(data: bytes, shown: str, *, alpha: bool = False) -> np.ndarray:
    """Decode the content of an image file as `read_image` does; errors name it `shown`."""
    if _is_truncated(data):
        raise InputError(f"{shown}: the image is incomplete; copy or extract it again")
    direct = _RGB if data.startswith(b"\xff\xd8") and not alpha else 0
    flags = cv2.IMREAD_UNCHANGED if alpha else (direct or cv2.IMREAD_COLOR) | cv2.IMREAD_ANYDEPTH
    if not alpha:
        flags |= cv2.IMREAD_IGNORE_ORIENTATION  # its versions apply it to different file types
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error as error:
        raise InputError(f"{shown}: cannot be decoded as an image ({error.err})") from error
    if image is None:
        raise InputError(f"{shown}: cannot be decoded as an image")
    if image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)
    if image.dtype != np.uint8:
        raise InputError(f"{shown}: has {image.dtype} pixels; convert it to 8 or 16 bits per channel")
    if alpha and (image.ndim != 3 or image.shape[2] != 4):
        raise InputError(f"{shown}: has no alpha channel; write it as RGBA")
    if not data.startswith(_TIFF):  # OpenCV rotates TIFF by itself
        image = _upright(image, _header(io.BytesIO(data))[1])
    if direct:
        return image
    return cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA if alpha else cv2.COLOR_BGR2RGB)


def read_size(path: Path) -> tuple[int, int]:
    """Width and height in pixels of the image that `read_image` returns, from the file's header where possible.

    Raises InputError if the file cannot be read or is not an image.
    """
    try:
        with path.open("rb") as file:
            return image_size(file, str(path))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def image_size(file: BinaryIO, shown: str) -> tuple[int, int]:
    """Width and height of an open image file as `read_size` does; errors name it `shown`."""
    size, orientation = _header(file)
    if size is None:  # a type unknown to Pillow
        file.seek(0)
        height, width = decode_image(file.read(), shown).shape[:2]
        return width, height
    return size[::-1] if orientation >= 5 else size


def _header(file: BinaryIO) -> tuple[tuple[int, int] | None, int]:
    """Stored width and height, None if Pillow cannot read them; EXIF orientation, 1 if there is none."""
    try:
        image = Image.open(file)
    except Exception:  # Pillow raises errors of many classes
        return None, 1
    size = image.size
    if image.format == "PNG" and "exif" not in image.info:  # Pillow would decode all pixels to search behind them
        return size, 1
    if isinstance(image, TiffImagePlugin.TiffImageFile):  # some of its versions give the upright size here
        size = image.tag_v2[TiffImagePlugin.IMAGEWIDTH], image.tag_v2[TiffImagePlugin.IMAGELENGTH]
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged metadata: the pixels may be intact
        return size, 1
    return size, orientation if orientation in range(1, 9) else 1


def _upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """An image (H, W, C) rotated and mirrored by its EXIF orientation, 1 to 8."""
    if orientation >= 5:
        image = cv2.transpose(image)
    return cv2.flip(image, _FLIPS[orientation]) if orientation in _FLIPS else image


def _is_truncated(data: bytes) -> bool:
    """True for a JPEG or PNG without its end, of which OpenCV decodes the first part and leaves the rest grey."""
    if data.startswith(b"\xff\xd8"):
        return data.rfind(b"\xff\xd9", _start_of_scan(data)) < 0  # no end marker is in the pixels
    return data.startswith(b"\x89PNG") and b"IEND\xaeB`\x82" not in data


def _start_of_scan(jpeg: bytes) -> int:
    """Offset of the pixels of a JPEG, after its headers, in which a thumbnail may have an end marker."""
    position = 2
    while position + 4 <= len(jpeg) and jpeg[position] == 0xFF and jpeg[position + 1] != 0xDA:
        position += 2 + int.from_bytes(jpeg[position + 2 : position + 4], "big")
    return position


def list_images(folder: Path) -> list[Path]:
    """Image files of a folder by their suffix, in natural order. Raises InputError as `image_names` does."""
    with os.scandir(folder) as entries:  # gives the type of an entry without a system call for each
        names = [entry.name for entry in entries if not entry.is_dir()]
    return [folder / name for name in image_names(names, str(folder))]


def image_names(names: Sequence[str], shown: str) -> list[str]:
    """The names of image files among `names`, in natural order: 2.png before 10.png.

    Numbers count as numbers: negative ones, and decimals such as seconds (100.05 before 100.1). Hidden files are
    skipped. Raises InputError naming the folder `shown` if a frame exists in two formats, a name is not UTF-8 or has an
    exponent in its number, or numbers with dots have two readings that differ in order.
    """
    found = [name for name in names if IMAGE_NAME.fullmatch(name)]
    by_stem: dict[str, str] = {}
    for name in found:
        require_utf8(name, shown)
        other = by_stem.setdefault(name.rpartition(".")[0], name)
        if other != name:
            first, second = sorted([other, name])
            raise InputError(f"{shown}: {first} and {second} are one frame in two formats; keep one of them there")
    if power := next(filter(_EXPONENT.fullmatch, by_stem), None):
        raise InputError(f"{shown}: frame {by_stem[power]} has an exponent in its number; number the frames instead")
    stems = _in_order(list(by_stem), shown)
    return [by_stem[stem] for stem in stems]


def pattern_images(pattern: Path) -> list[Path] | None:
    """Images whose names match a printf pattern such as img_%04d.png, by number; None if the name is no such pattern.

    Numbers may have gaps. Raises InputError if no file matches.
    """
    parts = _COUNTER.split(pattern.name.replace("%%", "\0"))
    if len(parts) != 4 or not IMAGE_NAME.fullmatch(pattern.name):
        return None
    before, zero, width, after = parts
    digits = f"[0-9]{{{width}}}|[1-9][0-9]{{{width},}}" if zero else " *(?:0|[1-9][0-9]*)"
    before, after = (re.escape(text.replace("\0", "%")) for text in (before, after))
    expression = re.compile(f"{before}({digits}){after}")
    inside = pattern.parent.iterdir() if pattern.parent.is_dir() else ()
    matches = [(match, path) for path in inside if (match := expression.fullmatch(path.name))]
    if not matches:
        raise InputError(f"{pattern}: no file in {pattern.parent} has such a name; give the folder, or its pattern")
    return [path for _, path in sorted(matches, key=lambda item: int(item[0][1]))]


def _in_order(stems: list[str], shown: str) -> list[str]:
    """Stems of file names in natural order; raises InputError naming the folder `shown` if it is ambiguous."""
    heads = {_head(stem) for stem in stems}

    def by(number: re.Pattern[str], value: Callable[[str], Any]) -> list[str]:
        def key(stem: str) -> tuple[list[tuple[int, Any]], str]:
            parts: list[tuple[int, Any]] = []
            end = 0
            for match in number.finditer(stem):
                parts += [(0, stem[end : match.start()].lower())] if match.start() > end else []
                parts.append((1, value(match[0].replace(",", "."))))
                end = match.end()
            parts += [(0, stem[end:].lower())] if end < len(stem) else []
            head = _head(stem)
            if head.endswith("-") and head[:-1] in heads and len(head) < len(stem):  # other names lack the minus
                parts[:2] = [*([(0, head[:-1].lower())] if head[:-1] else []), (1, -parts[1][1])]
            return parts, stem

        return sorted(stems, key=key)

    counted = by(re.compile("[0-9]+"), int)
    decimal = by(re.compile(f"{_DECIMAL.pattern}|[0-9]+"), Decimal)
    if counted == decimal:
        return counted
    fractions = [match[2] for stem in stems if (match := _DECIMAL.search(stem))]
    shortest = min(map(len, fractions))
    # a counter does not print 05 beside 1, and a decimal of varying length does not end in 0
    as_decimal = any(part.startswith("0") and len(part) > shortest for part in fractions)
    as_counter = any(part.endswith("0") and len(part) > 1 for part in fractions)
    if as_decimal == as_counter:
        first, second = next(pair for pair in zip(counted, decimal, strict=True) if pair[0] != pair[1])
        raise InputError(
            f"{shown}: which frame comes first, {first} or {second}? Numbers with a dot can be decimals or two"
            " counters; rename the frames, with as many digits in each"
        )
    return decimal if as_decimal else counted


def _head(stem: str) -> str:
    """The part of a name before its first digit."""
    return re.split("[0-9]", stem, maxsplit=1)[0]
