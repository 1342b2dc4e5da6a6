"""Image files: order of names, size and orientation, and what is refused."""

from __future__ import annotations

import io
import os
import random
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from lorat_plugin.errors import InputError
from lorat_plugin.images import image_names, image_size, pattern_images, read_image, read_size
from lorat_plugin.video.source import open_source

ORIENTATION = 0x0112


def corners() -> np.ndarray:
    """(32, 48, 3) uint8 RGB with another colour in each quarter."""
    picture = np.zeros((32, 48, 3), np.uint8)
    picture[:16, :24], picture[:16, 24:], picture[16:, :24] = (200, 0, 0), (0, 200, 0), (0, 0, 200)
    return picture


def write_turned(path: Path, orientation: int, picture: np.ndarray | None = None) -> Path:
    """Write a picture as stored, with a note how to turn it."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"quality": 95} if path.suffix in (".jpg", ".webp", ".avif") else {}
    Image.fromarray(corners() if picture is None else picture).save(path, exif=exif, **options)
    return path


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".avif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_size_and_pixels_are_those_of_the_upright_picture(tmp_path: Path, suffix: str, orientation: int) -> None:
    path = write_turned(tmp_path / f"a{suffix}", orientation)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(path)))
    image = read_image(path)
    assert image.shape == ((48, 32, 3) if orientation >= 5 else (32, 48, 3)) == upright.shape
    assert np.abs(image.astype(int) - upright).mean() < 4
    assert read_size(path) == image.shape[1::-1]


def test_transparent_pictures_come_upright_too(tmp_path: Path) -> None:
    rgba = np.dstack([corners(), corners()[..., 0]])
    path = write_turned(tmp_path / "a.png", 6, rgba)
    np.testing.assert_array_equal(read_image(path, alpha=True), np.rot90(rgba, -1))


@pytest.mark.parametrize(
    "suffix, convert",
    [
        (".png", lambda rgb: rgb.astype(np.uint16) * 257),
        (".tif", lambda rgb: rgb.astype(np.uint16) * 257),
        (".bmp", lambda rgb: rgb),
        (".pgm", lambda rgb: rgb[..., 0]),
        (".jp2", lambda rgb: rgb),
        (".ras", lambda rgb: rgb),
        (".hdr", lambda rgb: rgb.astype(np.float32)),
    ],
)
def test_size_is_that_of_the_decoded_picture_in_every_format(tmp_path: Path, suffix: str, convert: Callable) -> None:
    path = tmp_path / f"a{suffix}"
    assert cv2.imwrite(str(path), convert(corners()))
    if suffix == ".hdr":  # decoding refuses it, so there is no size
        with pytest.raises(InputError, match="float32 pixels"):
            read_size(path)
    else:
        assert read_size(path) == read_image(path).shape[1::-1] == (48, 32)


def test_damaged_or_absurd_orientation_leaves_the_picture_as_stored(tmp_path: Path) -> None:
    for orientation in (0, 9, 6000):
        assert read_size(write_turned(tmp_path / "a.jpg", orientation)) == (48, 32)
        assert read_image(tmp_path / "a.jpg").shape == (32, 48, 3)
    buffer = io.BytesIO()
    Image.fromarray(corners()).save(buffer, "jpeg", exif=b"Exif\0\0MM\0\x2a\xff\xff\xff\xff")
    (tmp_path / "b.jpg").write_bytes(buffer.getvalue())
    assert read_size(tmp_path / "b.jpg") == (48, 32) == read_image(tmp_path / "b.jpg").shape[1::-1]


def test_size_of_what_is_no_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.jpg: cannot be decoded"):
        image_size(io.BytesIO(b"no image"), "a.jpg")
    with pytest.raises(InputError, match=r"gone\.jpg: cannot be read"):
        read_size(tmp_path / "gone.jpg")


def test_size_of_a_png_is_read_without_its_pixels(tmp_path: Path) -> None:
    Image.fromarray(corners()).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[: whole.index(b"IDAT") + 4])
    assert read_size(tmp_path / "a.png") == (48, 32)


ORDERS = {
    "seconds": "100.0 100.05 100.1 100.15 100.2 100.25 101.0",
    "seconds from nought": "0.0 0.033 0.067 0.1 0.133 0.2 1.0 10.0",
    "six decimals": "1305031102.175304 1305031102.211214 1305031103.043223",
    "nanoseconds": "1403636579763555584 1403636579813555456 1403636580013555456",
    "seconds and nanoseconds": "100.5000000 100.55000000 100.100000000 101.0",
    "negative": "-10 -9 -1 0 1 9 10",
    "negative decimals": "-1.5 -0.5 -0.05 0.0 0.05 0.5",
    "negative behind a name": "t-2 t-1 t0 t1",
    "negative behind a hyphen": "img--2 img--1 img-0 img-1",
    "hyphens": "img-1 img-2 img-10",
    "only hyphens": "-1 -2 -10",
    "leading zeros": "007 08 9 010",
    "padded and more": "08 09 10 99 100 101",
    "counters behind a dot": "shot.8 shot.9 shot.10 shot.11",
    "two counters": "1.8 1.9 1.10 1.11 2.1",
    "padded counters that overflow": "1.08 1.09 1.10 1.99 1.100",
    "decimal commas": "100,0 100,05 100,1",
    "dates": "2024.01.02 2024.1.10 2024.12.1",
    "decimals in words": "cam9.5s cam10.0s cam10.05s cam10.1s",
}


@pytest.mark.parametrize("case", ORDERS)
def test_numbers_in_names_order_frames_as_numbers(case: str) -> None:
    names = [f"{stem}.jpg" for stem in ORDERS[case].split()]
    shuffled = random.Random(0).sample(names, len(names))
    assert image_names(shuffled, "folder") == names


@pytest.mark.parametrize("stems", ["100.0 100.25 100.5 100.75", "1.5 1.25", "1.05 1.1 1.10"])
def test_numbers_with_two_readings_are_refused(stems: str) -> None:
    with pytest.raises(InputError, match=r"folder: which frame comes first.* as many digits"):
        image_names([f"{stem}.png" for stem in stems.split()], "folder")


@pytest.mark.parametrize("stems", ["5e-05 0.0001", "1.0e+01 2.0e+00"])
def test_numbers_with_an_exponent_are_refused(stems: str) -> None:
    with pytest.raises(InputError, match=r"folder: frame .*e[-+]0.\.jpg has an exponent in its number"):
        image_names([f"{stem}.jpg" for stem in stems.split()], "folder")
    assert image_names(["1e5.jpg", "3f1e-4a2b.jpg"], "folder")  # parts of hashes are none


@pytest.mark.parametrize("names", [("1.jpg", "1.png"), ("a.JPG", "a.jpg"), ("100.5.tif", "100.5.webp")])
def test_a_frame_in_two_formats_is_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    for name in (*names, "other.jpg"):
        Image.fromarray(corners()).save(tmp_path / name)
    with pytest.raises(InputError, match=rf"{names[0]} and {names[1]} are one frame in two formats"):
        open_source(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_names_that_are_no_utf8_are_refused(tmp_path: Path) -> None:
    Image.fromarray(corners()).save(tmp_path / "b.png")
    try:
        (tmp_path / "b.png").rename(os.fsdecode(os.fsencode(tmp_path / "caf") + b"\xe9.png"))
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with pytest.raises(InputError, match=r"'caf\\udce9\.png' is no UTF-8 name; rename it"):
        open_source(tmp_path)
    with pytest.raises(InputError, match="is no UTF-8 name"):
        open_source(os.fsdecode(os.fsencode(tmp_path) + b"/\xe9.mp4"))


PATTERNS = {
    "img_%04d.png": ["img_0008.png", "img_0009.png", "img_0010.png", "img_12345.png"],
    "img_%d.png": ["img_8.png", "img_9.png", "img_10.png"],
    "50%%_%02i.jpg": ["50%_01.jpg", "50%_02.jpg", "50%_100.jpg"],
}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_printf_pattern_names_images_by_number(tmp_path: Path, pattern: str) -> None:
    others = [
        "img_0008.jpg",
        "img_.png",
        "img_0008_mask.png",
        "img_00009.png",
        "ximg_8.png",
        "50%_1.jpg",
        "50%%_01.jpg",
    ]
    for name in [*PATTERNS[pattern], *others]:
        Image.fromarray(corners()).save(tmp_path / name)
    with open_source(str(tmp_path / pattern)) as source:
        assert [Path(frame.origin).name for frame in source] == PATTERNS[pattern]
    assert (source.name, source.length, source.live) == (tmp_path.name, len(PATTERNS[pattern]), False)


def test_printf_pattern_without_images_is_refused(tmp_path: Path) -> None:
    for pattern in (tmp_path / "img_%04d.png", tmp_path / "nowhere" / "%d.jpg"):
        with pytest.raises(InputError, match=r"no file in .* has such a name"):
            open_source(pattern)
    for name in ("a%20b.mp4", "%d%d.png", "%s.png", "100%.png"):
        assert pattern_images(tmp_path / name) is None
    with pytest.raises(InputError, match="no such video or folder"):
        open_source(tmp_path / "a%20b.mp4")


def test_a_file_with_a_percent_sign_in_its_name_is_that_file(tmp_path: Path) -> None:
    Image.fromarray(corners()).save(tmp_path / "%d.png")
    with pytest.raises(InputError, match="single image"):
        open_source(tmp_path / "%d.png")
