"""`lorat data check` and `lorat lmdb build`: output and exit codes."""

from __future__ import annotations

import json

import pytest

from lorat_plugin.cli.main import run
from tests.helpers.datasets import GOT10K_NAMES, write_coco, write_got10k

pytest.importorskip("lmdb")


@pytest.mark.parametrize("arguments", [["data", "check"], ["lmdb", "build"]])
def test_help_has_an_example(arguments, capsys):
    assert run([*arguments, "--help"]) == 0
    assert f"Example: lorat {' '.join(arguments)}" in capsys.readouterr().out


def test_check_of_several_data_sets_as_text_and_json(tmp_path, capsys):
    write_got10k(tmp_path / "got10k")
    write_coco(tmp_path / "coco")
    assert run(["data", "check", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert f"got10k in {tmp_path / 'got10k'} (folder)" in text and "nothing is missing or malformed" in text
    assert "4 sequences, 4 objects, 28 frames after cleaning" in text and "28 frames decoded on trial" in text
    assert run(["data", "check", str(tmp_path), "--json"]) == 0
    found = {report["dataset"]: report for report in json.loads(capsys.readouterr().out)}
    assert found["coco"]["tracks"] == 6 and found["got10k"]["present"] == 24


def test_problems_are_listed_and_the_exit_code_is_2(tmp_path, capsys):
    root = write_got10k(tmp_path / "got10k")
    (root / "train" / GOT10K_NAMES[1] / "groundtruth.txt").write_text("1,2,3\n")
    assert run(["data", "check", str(root)]) == 2
    assert f"problem: {GOT10K_NAMES[1]}: " in capsys.readouterr().out


def test_a_split_list_that_disagrees(tmp_path, capsys):
    root = write_got10k(tmp_path / "got10k")
    (tmp_path / "list.txt").write_text("0\n3\n")
    arguments = ["data", "check", str(root), "--list", str(tmp_path / "list.txt")]
    assert run(arguments) == 0 and "2 sequences" in capsys.readouterr().out
    assert run([*arguments, "--reading", "name"]) == 0 and "1 sequences" in capsys.readouterr().out
    assert run([*arguments, "--reading", "other"]) == 2 and "use index or name" in capsys.readouterr().err
    (tmp_path / "list.txt").write_text("0\n4\n")
    assert run(arguments) == 2 and "which fits none of the 4 sequences" in capsys.readouterr().out


def test_lmdb_is_built_and_checked(tmp_path, capsys):
    root = write_got10k(tmp_path / "got10k")
    assert run(["lmdb", "build", "got10k", str(root), str(tmp_path / "got10k_lmdb")]) == 0
    assert "37 files" in capsys.readouterr().out
    assert run(["data", "check", str(tmp_path / "got10k_lmdb")]) == 0
    assert "(LMDB)" in capsys.readouterr().out
    assert run(["lmdb", "build", "got10k", str(root), str(tmp_path / "got10k_lmdb")]) == 2
    assert "is there already" in capsys.readouterr().err
    assert run(["lmdb", "build", "nothing", str(root), str(tmp_path / "new")]) == 2
    assert "unknown data set 'nothing'" in capsys.readouterr().err
