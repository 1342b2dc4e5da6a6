"""Image files: which names they have, in which order, and how they are decoded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from lorat_plugin.errors import InputError

_RGB: int = getattr(cv2, "IMREAD_COLOR_RGB", 0)  # JPEG as RGB spares a conversion; OpenCV before 4.11 cannot
IMAGE_NAME = re.compile(
    r"[^.].*\.(avif|bmp|dib|exr|gif|hdr|jp2|jpe|jpeg|jpg|pbm|pfm|pgm|pic|png|pnm|ppm|pxm|ras|sr|tif|tiff|webp)",
    re.IGNORECASE,
)


def read_image(path: Path, *, alpha: bool = False) -> np.ndarray:
    """Read one image of any type that OpenCV reads as (H, W, 3) uint8 RGB.

    16-bit images keep their high byte, grey and palette images become RGB, alpha is dropped; with `alpha` the result is
    (H, W, 4) RGBA. Raises InputError if the file is missing, truncated, not an image, has floating-point pixels, or no
    alpha where it is asked for.
    """
    try:
        data = path.read_bytes()  # not cv2.imread, which prints its own messages and fails on some names on Windows
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    return decode_image(data, str(path), alpha=alpha)


def decode_image(data: bytes, shown: str, *, alpha: bool = False) -> np.ndarray:
    """Decode the content of an image file as `read_image` does; errors name it `shown`."""
    if _is_truncated(data):
        raise InputError(f"{shown}: the image is incomplete; copy or extract it again")
    direct = _RGB if data.startswith(b"\xff\xd8") and not alpha else 0
    flags = cv2.IMREAD_UNCHANGED if alpha else (direct or cv2.IMREAD_COLOR) | cv2.IMREAD_ANYDEPTH
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
    if direct:
        return image
    return cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA if alpha else cv2.COLOR_BGR2RGB)


def _is_truncated(data: bytes) -> bool:
    """Whether a JPEG or PNG lacks its end. OpenCV decodes the first part of such a JPEG and leaves the rest grey."""
    if data.startswith(b"\xff\xd8"):
        return data.rfind(b"\xff\xd9", _start_of_scan(data)) < 0  # pixels never hold an end marker; more may follow it
    return data.startswith(b"\x89PNG") and b"IEND\xaeB`\x82" not in data


def _start_of_scan(jpeg: bytes) -> int:
    """Where the pixels of a JPEG begin, behind its headers, which may hold a thumbnail with markers of its own."""
    position = 2
    while position + 4 <= len(jpeg) and jpeg[position] == 0xFF and jpeg[position + 1] != 0xDA:
        position += 2 + int.from_bytes(jpeg[position + 2 : position + 4], "big")
    return position


def list_images(folder: Path) -> list[Path]:
    """Image files of a folder by their suffix, in natural order: 2.png before 10.png. Hidden files are left out."""
    return [path for path in map(folder.joinpath, image_names([p.name for p in folder.iterdir()])) if not path.is_dir()]


def image_names(names: Sequence[str]) -> list[str]:
    """Those of some file names that are an image's, in natural order; hidden files are left out."""

    def natural(name: str) -> tuple[list[tuple[int, str]], str]:
        parts = re.findall("[0-9]+|[^0-9]+", name.lower())
        return [(int(part), "") if part[0] in "0123456789" else (-1, part) for part in parts], name

    return sorted((name for name in names if IMAGE_NAME.fullmatch(name)), key=natural)
