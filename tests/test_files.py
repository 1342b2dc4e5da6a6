"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import lorat_plugin
from lorat_plugin.errors import InputError
from lorat_plugin.files import read_plain_text, whole_file, whole_folder


def test_a_block_that_fails_leaves_what_was_there(tmp_path):
    kept = tmp_path / "kept.txt"
    kept.write_text("old")
    with pytest.raises(KeyError), whole_file(kept) as part:
        part.write_text("half")
        raise KeyError
    assert kept.read_text() == "old" and os.listdir(tmp_path) == ["kept.txt"]


def test_files_and_folders_take_the_place_of_former_ones(tmp_path):
    for content in ("one", "two"):
        with whole_file(tmp_path / "new" / "file.txt") as part:
            part.write_text(content)
        with whole_folder(tmp_path / "folder") as part:
            (part / f"{content}.txt").write_text(content)
    assert (tmp_path / "new/file.txt").read_text() == "two"
    assert os.listdir(tmp_path / "folder") == ["two.txt"]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX modes")
def test_a_file_gets_the_users_usual_mode(tmp_path):
    (tmp_path / "usual").touch()
    with whole_file(tmp_path / "ours") as part:
        part.unlink()
        os.close(os.open(part, os.O_CREAT | os.O_WRONLY, 0o600))
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path):
    resource = pytest.importorskip("resource")
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    write = [lambda part: part.write_bytes(bytes(5000)), lambda part: save_file({"w": torch.zeros(5000)}, part)]
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, most))
    try:
        for fill in write:
            full = pytest.raises(InputError, match=r"weights: cannot be written .*too large.*: make room")
            with full, whole_folder(tmp_path / "run"), whole_file(tmp_path / "weights") as part:
                fill(part)
            assert list(tmp_path.iterdir()) == []
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


def test_what_is_in_the_way_is_named(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="a file of that name is in the way"), whole_folder(tmp_path / "file"):
        pass
    with pytest.raises(InputError, match="a folder of that name is in the way"), whole_file(tmp_path / "folder"):
        pass
    with pytest.raises(InputError, match="cannot be written"), whole_file(tmp_path / "file" / "below"):
        pass


ROWS = "1,2,3,4\n5,6,7,8\n"


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbf" + ROWS.encode(),
        ROWS.replace("\n", "\r\n").encode(),
        ROWS.replace("\n", "\r").encode(),
        b"\xef\xbb\xbf1,2,3,4\r\n\xef\xbb\xbf5,6,7,8\r\n",  # two files joined
    ],
)
def test_text_is_read_without_marks_and_with_one_line_end(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.txt").write_bytes(data)
    assert read_plain_text(tmp_path / "a.txt") == ROWS


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (ROWS.encode("utf-16"), "is UTF-16 text; save it as UTF-8"),
        (b"\xfe\xff" + ROWS.encode("utf-16-be"), "is UTF-16 text"),
        (ROWS.encode("utf-32"), "is UTF-32 text"),
        (ROWS.encode("utf-16-le"), "has NUL bytes: it is no text, damaged, or UTF-16"),
        (ROWS.encode() + bytes(512), "has NUL bytes"),
        ("Zürich".encode("latin-1"), "cannot be read as text .* save it as UTF-8"),
    ],
)
def test_text_in_another_encoding_is_refused_by_name(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(InputError, match=rf"a\.txt: {words}"):
        read_plain_text(tmp_path / "a.txt")


def test_every_reader_of_text_goes_through_one() -> None:
    """Exceptions: files of the package and of the system, and notes that only this package writes."""
    own = {
        *("speed/rounds.py", "devices.py", "cli/evaluate.py", "datasets/folders.py", "evaluation/evaluate.py"),
        *("digests.py", "harness/got10k_experiments.py", "harness/pytracking.py"),
        *("training/config.py", "training/journal.py", "training/state.py"),
        *("datasets/index.py", "harness/vot_tools/records.py"),
    }
    package = Path(lorat_plugin.__file__).parent
    readers = [path for path in package.rglob("*.py") if ".read_text(" in path.read_text("utf-8")]
    assert {path.relative_to(package).as_posix() for path in readers} <= own
