"""A data set as LMDB, in the layout of the STARK and OSTrack family: key = relative path, value = the file's bytes.

One environment below the root holds everything, or (TrackingNet) one for each part: the files of `TRAIN_0/` lie in
`TRAIN_0_lmdb/` under keys without `TRAIN_0/`.
"""

from __future__ import annotations

import io
import os
import threading
from pathlib import Path
from typing import Any, BinaryIO

from lorat_plugin.datasets.sequences import Store
from lorat_plugin.errors import InputError

SUFFIX = "_lmdb"  # of the folders of parts
DATA_FILE = "data.mdb"
_open_here: dict[tuple[int, str], Any] = {}  # environments by process and path: one must not cross a fork
_opening = threading.Lock()


def environment(path: Path) -> Any:
    """The LMDB environment at `path`, opened for reading at most once in each process.

    Raises InputError if the package lmdb is missing or the files are no LMDB.
    """
    try:
        import lmdb
    except ImportError as error:
        raise InputError(f"{path}: reading an LMDB needs the package lmdb; pip install lmdb") from error
    key = (os.getpid(), str(path.resolve()))
    with _opening:  # LMDB refuses to open the same files twice
        if key not in _open_here:
            for other in [k for k in _open_here if k[0] != key[0]]:
                _open_here.pop(other).close()  # came by a fork; this closes it here, not in the parent
            try:
                _open_here[key] = lmdb.open(str(path), readonly=True, lock=False, readahead=False, meminit=False)
            except lmdb.Error as error:
                raise InputError(f"{path}: cannot be opened as LMDB ({error}); copy or build it again") from error
            used = _open_here[key].stat()["psize"] * (_open_here[key].info()["last_pgno"] + 1)
            if (path / DATA_FILE).stat().st_size < used:  # LMDB would read past the end, which ends the process
                _open_here.pop(key).close()
                raise InputError(f"{path / DATA_FILE}: is cut short; copy or build it again")
        return _open_here[key]


def is_lmdb(root: Path) -> bool:
    """Whether a data set's root holds an LMDB, whole or in parts."""
    return (root / DATA_FILE).is_file() or any(root.glob(f"*{SUFFIX}/{DATA_FILE}"))


class LmdbStore(Store):
    """A data set in LMDB. Picklable: each process opens its environments when it reads."""

    def __init__(self, root: Path) -> None:
        """Read the environment at `root`, or those of its parts."""
        super().__init__(root)
        self._whole = (root / DATA_FILE).is_file()

    def open(self, key: str) -> BinaryIO:
        """The value of `key` as a file. Raises InputError if there is none."""
        value = self._get(key)
        if value is None:
            raise InputError(f"{self.shown(key)}: no such key in the LMDB; build it again or name the right data set")
        return io.BytesIO(value)

    def exists(self, key: str) -> bool:
        """Whether there is a value for `key`."""
        return self._get(key) is not None

    def names(self, folder: str) -> list[str]:
        """First parts of the keys below a folder, sorted; for the root of an LMDB in parts, the parts' names."""
        if not folder and not self._whole:
            parts = self.root.glob(f"*{SUFFIX}/{DATA_FILE}")
            return sorted(path.parent.name.removesuffix(SUFFIX) for path in parts)
        path, inner = self._place(folder)
        if not (path / DATA_FILE).is_file():
            return []
        prefix = f"{inner}/".encode() if inner else b""
        found = []
        with environment(path).begin() as transaction, transaction.cursor() as cursor:
            more = cursor.set_range(prefix) if prefix else cursor.first()
            while more and cursor.key().startswith(prefix):
                name, slash, _ = cursor.key()[len(prefix) :].partition(b"/")
                found.append(name.decode(errors="replace"))
                more = cursor.set_range(prefix + name + b"0") if slash else cursor.next()  # "0" comes after "/"
        return sorted(set(found))

    def stamp(self, key: str) -> str:
        """Size and time of the environment that holds `key`; empty if there is none."""
        path = self._place(key)[0] / DATA_FILE
        return f"{path.stat().st_size} {path.stat().st_mtime_ns}" if path.is_file() else ""

    def shown(self, key: str) -> str:
        """The environment and the key in it."""
        path, inner = self._place(key)
        return f"{path}:{inner}" if key and (inner or self._whole) else str(self.root / key)

    def _place(self, key: str) -> tuple[Path, str]:
        if self._whole:
            return self.root, key
        part, _, inner = key.partition("/")
        return self.root / f"{part}{SUFFIX}", inner

    def _get(self, key: str) -> bytes | None:
        if not self._whole and "/" not in key:  # a file beside the parts
            return (self.root / key).read_bytes() if (self.root / key).is_file() else None
        path, inner = self._place(key)
        if not inner or not (path / DATA_FILE).is_file():
            return None
        # a transaction for each value: they are cheap without locks, and threads may read side by side
        with environment(path).begin() as transaction:
            value: bytes | None = transaction.get(inner.encode())
        return value
