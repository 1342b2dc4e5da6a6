"""Records of what files were made from: what changes them, and how a difference is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorat_plugin.digests import describe_frames, describe_options, difference, digest
from lorat_plugin.errors import InputError


def write(folder: Path, *contents: bytes) -> list[Path]:
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{number}.bmp" for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    return paths


@pytest.mark.parametrize(
    ("contents", "subject"),
    [
        ((b"aa", b"bbb"), ""),
        ((b"aa", b"bbbb"), "content of the frames"),
        ((b"ax", b"bbb"), "content of the frames"),
        ((b"aa", b"bbb", b"c"), "number of frames 2, now 3"),
    ],
)
def test_frames_differ_by_number_size_and_the_first_s_content(
    tmp_path: Path, contents: tuple[bytes, ...], subject: str
) -> None:
    former = describe_frames(write(tmp_path / "a", b"aa", b"bbb"))
    assert difference(former, describe_frames(write(tmp_path / "b", *contents))) == subject


def test_all_bytes_count_where_sizes_tell_nothing(tmp_path: Path) -> None:
    former = describe_frames(write(tmp_path, b"aa", b"bb", b"cc"))
    (tmp_path / "1.bmp").write_bytes(b"bx")
    assert difference(former, describe_frames(sorted(tmp_path.iterdir()))) == "content of the frames"


def test_names_count_and_a_missing_frame_is_named(tmp_path: Path) -> None:
    paths = write(tmp_path, b"aa", b"bbb")
    former = describe_frames(paths)
    renamed = paths[1].rename(tmp_path / "7.bmp")
    assert difference(former, describe_frames([paths[0], renamed])) == "names of the frames"
    with pytest.raises(InputError, match=r"1\.bmp: cannot be read"):
        describe_frames(paths)


def test_options_count_by_the_content_of_files(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(b"1")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "a.bin").write_bytes(b"1")
    options = {"weights": tmp_path / "w.bin", "masks": str(tmp_path / "adapter"), "device": "cpu", "absent": 0.5}
    former = describe_options(options)
    assert former["device"] == "cpu" and former["absent"] == 0.5
    (tmp_path / "moved.bin").write_bytes(b"1")
    (tmp_path / "moved.bin").rename(tmp_path / "w.bin")
    assert difference(former, describe_options(options)) == ""
    (tmp_path / "w.bin").write_bytes(b"2")
    assert difference(former, describe_options(options)) == "content of weights"
    (tmp_path / "w.bin").write_bytes(b"1")
    (tmp_path / "adapter" / "a.bin").write_bytes(b"2")
    assert difference(former, describe_options(options)) == "content of masks"


def test_a_difference_shows_values_but_no_digests() -> None:
    assert difference({"a": 1, "b": 2}, {"a": 1, "b": 3}) == "b 2, now 3"
    assert difference({"a": 1}, {}) == "a 1, now none"
    assert difference({"a": digest(["x"])}, {"a": digest(["y"])}) == "a"
    assert difference({"a": 1}, {"a": 2}, ignored=["a"]) == ""
    assert digest(["ab", "c"]) != digest(["a", "bc"])
