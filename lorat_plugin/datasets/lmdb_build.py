"""Writes a data set's folder as LMDB. A build that was stopped goes on; the LMDB takes its name when it is verified."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from lorat_plugin.datasets.folders import lasot_class
from lorat_plugin.datasets.lmdb import SUFFIX, is_lmdb
from lorat_plugin.datasets.registry import make_reader
from lorat_plugin.datasets.sequences import Store
from lorat_plugin.datasets.trackingnet import training_parts
from lorat_plugin.errors import InputError
from lorat_plugin.files import walk_files

PAGE = 4096
BATCH_BYTES = 64 << 20  # written between two commits
SPARE = 1 << 28  # map beyond the expected size, for LMDB's own pages; costs no disk until used
LEFT_OUT = (".mdb", ".zip", ".tar", ".gz", ".tgz", ".part")

logger = logging.getLogger(__name__)


class Item(NamedTuple):
    """One file to be stored; size in bytes."""

    path: str
    key: str
    size: int


def build_lmdb(
    dataset: str, source: Path, target: Path, *, on_file: Callable[[], None] = lambda: None
) -> tuple[int, int]:
    """Store all files of a data set under their relative paths, in the layout of the STARK and OSTrack family.

    The work is done in `<target>.part`, which stays if the build is stopped or the disk is full; the same call goes
    on from there. At the end every value is read back and compared with its file, and the folder gets its name.

    `on_file` is called for each file after it was verified. Returns the number of files and of bytes. Raises InputError
    for a source of another layout, a target in the way, a full disk, or a file that changed or cannot be read.
    """
    layout = make_reader(dataset).layout
    if target.exists():
        raise InputError(f"{target}: is there already; remove it or choose another name")
    if not source.is_dir() or is_lmdb(source):
        raise InputError(f"{source}: is no folder of plain files; give the data set's folder; wanted {layout}")
    store = Store(source)
    # LaSOT's reader wants the whole split, but a part of LaSOT may be stored as well
    homes = [*source.glob("*/groundtruth.txt"), *source.glob("*/*/groundtruth.txt")] if dataset == "lasot" else []
    make_reader(dataset, **({"chosen": tuple(sorted(p.parent.name for p in homes))} if homes else {})).labels(store)
    parts = training_parts(store) if dataset == "trackingnet" else [""]
    working = target.with_name(f"{target.name}.part")
    files = size = 0
    videos: list[list[int | str]] = []
    for part in parts:  # one at a time: TrackingNet has millions of files
        items = sorted(list_items(dataset, source, part), key=lambda item: item.key.encode())
        _fill(working / f"{part}{SUFFIX}" if part else working, items, on_file)
        files, size = files + len(items), size + sum(item.size for item in items)
        if part:
            videos += [[int(part[6:]), Path(i.key).stem] for i in items if i.key.startswith("anno/")]
    if dataset == "trackingnet":
        (working / "seq_list.json").write_text(json.dumps(videos), encoding="utf-8")
    os.replace(working, target)
    return files, size


def list_items(dataset: str, source: Path, part: str = "") -> Iterator[Item]:
    """The files below `source`/`part` with their keys; hidden files and archives are left out.

    Raises InputError as `walk_files` does, and for a link that leads nowhere.
    """
    top = source / part if part else source
    for path in walk_files(top):
        if path.name.endswith(LEFT_OUT):
            continue
        key = path.relative_to(top).as_posix()
        head = key.partition("/")[0]
        if dataset == "lasot" and (source / head / "groundtruth.txt").is_file():
            key = f"{lasot_class(head)}/{key}"
        try:
            size = path.stat().st_size
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); restore or remove it") from error
        yield Item(str(path), key, size)


def _fill(path: Path, items: list[Item], on_file: Callable[[], None]) -> None:
    try:
        import lmdb
    except ImportError as error:
        raise InputError("writing an LMDB needs the package lmdb; pip install lmdb") from error
    # a value has pages of its own; a quarter of a page for its key is generous
    room = sum(-(-(item.size + 16) // PAGE) * PAGE + PAGE // 4 for item in items) + SPARE
    try:
        path.mkdir(parents=True, exist_ok=True)
        with lmdb.open(str(path), map_size=room, readahead=False, meminit=False) as env:
            _write(env, items)
            if env.stat()["entries"] != len(items):
                raise InputError(
                    f"{path}: holds files that the data set has no more; remove the folder and start again"
                )
            for item in items:
                _verify(env, item)
                on_file()
    except (lmdb.Error, OSError) as error:
        raise InputError(
            f"{path}: cannot be written ({error}); what it holds is whole: make room and run the same command again"
        ) from error


def _write(env: Any, items: list[Item]) -> None:
    """Store what is not there yet, some tens of megabytes at a time."""
    with env.begin(buffers=True) as transaction:
        found = (transaction.get(item.key.encode()) for item in items)
        todo = [i for i, value in zip(items, found, strict=True) if value is None or len(value) != i.size]
    if len(todo) < len(items):
        logger.info("%d of %d files are stored already", len(items) - len(todo), len(items))
    todo.reverse()
    while todo:
        with env.begin(write=True) as transaction:
            written = 0
            while todo and written < BATCH_BYTES:
                item = todo.pop()
                transaction.put(item.key.encode(), _content(item))
                written += item.size


def _verify(env: Any, item: Item) -> None:
    key, content = item.key.encode(), _content(item)
    for _ in range(2):
        with env.begin(buffers=True) as transaction:
            if bytes(transaction.get(key)) == content:
                return
        with env.begin(write=True) as transaction:  # the file changed since a former run stored it
            transaction.put(key, content)
    raise InputError(f"{item.path}: does not come back from the LMDB as it was stored; is the disk sound?")


def _content(item: Item) -> bytes:
    try:
        return Path(item.path).read_bytes()
    except OSError as error:
        raise InputError(f"{item.path}: cannot be read ({error.strerror}); restore it and run again") from error
