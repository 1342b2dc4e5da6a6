"""`lorat pytracking install` as a process."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.helpers.tracker_trees import write_tree


def lorat(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lorat_plugin", "pytracking", "install", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize(("kind", "program"), [("pytracking", "run_tracker.py"), ("ostrack", "tracking/test.py")])
def test_it_says_what_it_wrote_and_what_to_run(tmp_path, kind, program):
    tree = write_tree(tmp_path / "tree", kind)
    done = lorat(tree, "--absent-below", 0.4, "--name", "far")
    assert done.returncode == 0, done.stderr
    *paths, last = done.stdout.splitlines()
    assert f"{program} lorat far --dataset_name lasot" in last
    written = [p for p in tree.rglob("*") if p.is_file() and "lorat" in p.as_posix().split("tree/")[1]]
    assert sorted(paths) == sorted(map(str, written))
    assert "0.4" in next(p for p in written if p.stem == "far").read_text()


def test_bad_input_is_one_sentence_and_writes_nothing(tmp_path):
    for folder, options, message in [
        (tmp_path, [], "no tree of pytracking"),
        (write_tree(tmp_path / "tree", "ostrack"), ["--model", "lorat_b_224"], "has no bundled weights"),
        (tmp_path / "tree", ["--weights", "none.bin"], "none.bin"),
        (tmp_path / "tree", ["--absent-below", "2"], "absent_below is 2"),
    ]:
        done = lorat(folder, *options)
        assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
    assert not [p for p in (tmp_path / "tree").rglob("*lorat*")]
