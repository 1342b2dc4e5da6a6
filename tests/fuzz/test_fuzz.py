"""Damaged files of every kind are refused with a sentence or read, and never end in another error."""

from __future__ import annotations

import logging
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz.mutations import ODD_WORDS
from tests.fuzz.readers import Reader, make_readers

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="readers in C run in a forked process"),
]
for package in ("lmdb", "accelerate", "peft"):
    pytest.importorskip(package)


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Reader]]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("LORAT_CONFIG", "LORAT_CACHE"):
            patch.setenv(name, "")  # make_readers sets them
        logging.disable()
        yield make_readers(tmp_path_factory.mktemp("fuzz"))
        logging.disable(logging.NOTSET)


def try_all(readers: dict[str, Reader], inputs: int, seed: str) -> None:
    failed = []
    for name, reader in readers.items():
        assert reader.attempt(reader.good), name
        rng = random.Random(f"{seed} {name}")
        for number in range(max(1, inputs // reader.cost)):
            try:
                reader.attempt(reader.damage(reader.good, rng))
            except Exception as error:
                failed.append(f"{name}, input {number} of '{seed}': {error!r}")
                break
    assert not failed, "\n".join(failed)


def test_damaged_files_are_refused(readers: dict[str, Reader]) -> None:
    try_all(readers, 3, "short")


@pytest.mark.slow
def test_many_damaged_files_are_refused(readers: dict[str, Reader]) -> None:
    try_all(readers, 60, "long")


def test_a_fault_is_found(tmp_path: Path) -> None:
    """A reader that breaks on a rare input, in this process and in a child."""
    file = tmp_path / "numbers.txt"
    file.write_text("1\n2\n")
    for forks in (False, True):
        with pytest.raises(AssertionError, match="ValueError"):
            try_all({"broken": Reader(file, lambda: [int(x) for x in file.read_bytes().split()], forks)}, 300, "short")
    assert file.read_text() == "1\n2\n" and len(set(ODD_WORDS)) == len(ODD_WORDS)
