"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import sys

import pytest

from lorat_plugin.errors import InputError
from lorat_plugin.files import whole_file, whole_folder


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


def test_what_is_in_the_way_is_named(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="a file of that name is in the way"), whole_folder(tmp_path / "file"):
        pass
    with pytest.raises(InputError, match="a folder of that name is in the way"), whole_file(tmp_path / "folder"):
        pass
    with pytest.raises(InputError, match="cannot be written"), whole_file(tmp_path / "file" / "below"):
        pass
