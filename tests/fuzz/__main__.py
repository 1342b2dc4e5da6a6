"""Fuzz the readers: `python -m tests.fuzz [--seconds 600] [--seed 0] [NAME ...]`.

With the package atheris (Linux, Python 3.11 and 3.12) and one NAME, `--atheris` steers by coverage. Prints inputs and
findings for each reader; a finding's input is kept in `fuzz_findings/`. Exit code 1 if there are any.
"""

from __future__ import annotations

import argparse
import logging
import random
import re
import resource
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.fuzz.readers import Reader

MEMORY = 6 << 30
SLOW = 10.0  # seconds for one small file are a finding


def main() -> int:
    """Run; returns the number of kinds of findings, 1 at most."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="parts of readers' names; all if left out")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--atheris", action="store_true")
    options = parser.parse_args()
    logging.disable()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))  # a small file that wants more is a finding
    with tempfile.TemporaryDirectory() as folder:
        if options.atheris:
            return _steered(Path(folder), options)
        from tests.fuzz.readers import make_readers

        readers = make_readers(Path(folder))
        chosen = {n: r for n, r in readers.items() if not options.names or any(part in n for part in options.names)}
        found = [_fuzz(n, r, options.seconds / len(chosen), options.seed) for n, r in chosen.items()]
    return int(any(found))


def _fuzz(name: str, reader: Reader, seconds: float, seed: int) -> Counter[str]:
    assert reader.attempt(reader.good), f"{name}: the good file is refused"
    rng, found, tried, taken = random.Random(f"{seed} {name}"), Counter[str](), 0, 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        data, start = reader.damage(reader.good, rng), time.monotonic()
        tried += 1
        try:
            taken += reader.attempt(data)
            kind = "slow" if time.monotonic() - start > SLOW else ""
        except Exception as error:
            kind = _place(error)
        if kind:
            if kind not in found:
                folder = Path("fuzz_findings")
                folder.mkdir(exist_ok=True)
                (folder / re.sub(r"\W+", "_", f"{name} {len(found)}")).write_bytes(data)
            found[kind] += 1
    print(f"{name}: {tried} inputs, {taken} taken, {sum(found.values())} findings", flush=True)
    for kind, count in found.most_common(8):
        print(f"    {count} x {kind}", flush=True)
    return found


def _place(error: Exception) -> str:
    """An error's class and the line of the package that it came through last: the same for the same fault."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f"{Path(f.filename).name}:{f.lineno}" for f in frames if "lorat_plugin" in f.filename]
    told = re.sub(r"\d+|'.*?'|/\S+", "_", " ".join(str(error).split())[-200:])
    return f"{type(error).__name__} {lines[-1] if lines else ''} {told[-120:]}"


def _steered(folder: Path, options: argparse.Namespace) -> int:
    import atheris

    with atheris.instrument_imports(include=["lorat_plugin"]):
        from tests.fuzz.readers import make_readers

    reader = make_readers(folder)[options.names[0]]

    def damage(data: bytes, size: int, seed: int) -> bytes:
        return reader.damage(data or reader.good, random.Random(seed))[:size]

    corpus = folder / "corpus"
    corpus.mkdir()
    (corpus / "good").write_bytes(reader.good)
    flags = [
        f"-max_total_time={options.seconds:.0f}",
        f"-max_len={2 * len(reader.good) + 4096}",
        f"-seed={options.seed + 1}",
    ]
    atheris.Setup([sys.argv[0], *flags, str(corpus)], reader.attempt, custom_mutator=damage)
    atheris.Fuzz()  # leaves the process
    return 0


if __name__ == "__main__":
    sys.exit(main())
