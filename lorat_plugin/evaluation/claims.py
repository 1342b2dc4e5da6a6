"""Who tracks which sequence: any number of processes on any machines that share the folder of results.

A process that takes a sequence holds a lock on a file for as long as it lives. The system lets go of the lock when the
process ends, however it ends, so a sequence whose process was killed is free again and nothing has to be tidied up.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from lorat_plugin.errors import InputError
from lorat_plugin.evaluation.benchmarks import EvaluationSequence


@dataclass(frozen=True)
class Place:
    """Number of this process among those that torchrun or `accelerate launch` started, of how many, on its machine."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @classmethod
    def from_environment(cls) -> Place:
        """As the launcher says; alone if there was none."""
        return cls(*(int(os.environ.get(name, alone)) for name, alone in zip(_VARIABLES, (0, 1, 0), strict=True)))


_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")


class Claims:
    """The sequences that are not done, the longest first, and which of them this process holds."""

    def __init__(self, folder: Path, sequences: Sequence[EvaluationSequence], finished: Callable[[str], bool]) -> None:
        """Share out what is not `finished` (asked by name) among all processes that use the same `folder`."""
        self._folder = folder
        self._finished = finished
        self.open = [s for s in sorted(sequences, key=len, reverse=True) if not finished(s.name)]
        self._held: dict[str, FileLock] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def take(self) -> EvaluationSequence | None:
        """The longest sequence that is neither done nor held by anyone, held from now on; None if there is none."""
        for sequence in list(self.open):
            if sequence.name in self._held:
                continue
            if self._finished(sequence.name):
                self.open.remove(sequence)
            elif (lock := self._lock(sequence.name)) is not None:
                if self._finished(sequence.name):  # between the look and the lock
                    lock.release()
                    self.open.remove(sequence)
                    continue
                self._held[sequence.name] = lock
                return sequence
        return None

    def settle(self, sequence: EvaluationSequence) -> None:
        """Give back a sequence that is done, or that cannot be done."""
        self.open.remove(sequence)
        self._held.pop(sequence.name).release()

    def _lock(self, name: str) -> FileLock | None:
        lock = FileLock(self._folder / f"{name}.lock")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            return None
        except (OSError, NotImplementedError) as error:
            raise InputError(
                f"{self._folder}: files cannot be locked there ({error}); choose --results on a disk that can"
            ) from error
        return lock
