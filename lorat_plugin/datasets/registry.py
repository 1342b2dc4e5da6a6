"""The data sets by name: their readers, and where on this machine they lie."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from lorat_plugin.datasets.coco import CocoReader
from lorat_plugin.datasets.folders import clips_reader, tnl2k_reader, vasttrack_reader
from lorat_plugin.datasets.got10k import Got10kReader
from lorat_plugin.datasets.index import IndexedDataset, index_dataset
from lorat_plugin.datasets.lasot import LasotReader
from lorat_plugin.datasets.lmdb import LmdbStore, is_lmdb
from lorat_plugin.datasets.sequences import FolderStore, Reader, Store
from lorat_plugin.datasets.trackingnet import TrackingNetReader
from lorat_plugin.errors import InputError
from lorat_plugin.files import parse_yaml, read_plain_text
from lorat_plugin.plugins import load_plugin, plugin_names

GROUP = "lorat_plugin.datasets"  # entry points: name = something that returns a `Reader` when called
BUILT_IN: dict[str, Callable[..., Reader]] = {
    "lasot": LasotReader,
    "got10k": Got10kReader,
    "trackingnet": TrackingNetReader,
    "coco": CocoReader,
    "vasttrack": vasttrack_reader,
    "tnl2k": tnl2k_reader,
    "clips": clips_reader,
}


def dataset_names() -> list[str]:
    """Names of all data sets, those of other packages included."""
    return sorted({*BUILT_IN, *plugin_names(GROUP)})


def make_reader(name: str, **options: Any) -> Reader:
    """The reader of a data set. Raises InputError for an unknown name, option, or a broken entry point.

    Args:
        name: one of `dataset_names()`.
        options: of the reader, e.g. `chosen`, `subset`; `reading` and `excluded` for got10k.
    """
    make: Callable[..., Reader] | None = BUILT_IN.get(name) or load_plugin(GROUP, name, "data set")
    if make is None:
        raise InputError(f"unknown data set '{name}'; known are {', '.join(dataset_names())}")
    try:
        reader = make(**options)
    except TypeError as error:
        raise InputError(f"data set '{name}' does not know this option: {error}") from error
    missing = [part for part in ("name", "layout", "mark", "labels", "entries") if not hasattr(reader, part)]
    if missing:
        raise InputError(f"data set '{name}': {type(reader).__name__} is no reader, it lacks {', '.join(missing)}")
    return reader


def config_file() -> Path:
    """The user's settings: LORAT_CONFIG, or config.yaml in the system's place for settings."""
    if os.environ.get("LORAT_CONFIG"):
        return Path(os.environ["LORAT_CONFIG"]).expanduser()
    base = os.environ.get("XDG_CONFIG_HOME") or os.environ.get("APPDATA") or "~/.config"
    return Path(base).expanduser() / "lorat_plugin" / "config.yaml"


class Described(Protocol):
    """What has a name and a layout: a reader, or a benchmark."""

    @property
    def name(self) -> str:
        """As users write it."""

    @property
    def layout(self) -> str:
        """The folders and files, in words."""


def dataset_root(reader: Described, given: str | Path | None = None) -> Path:
    """The folder of a data set: as given, else LORAT_<NAME>_ROOT, LORAT_DATA/<name>, or the user's settings.

    Raises InputError that names these ways and the layout if none leads to a folder.
    """
    variable = f"LORAT_{reader.name.upper()}_ROOT"
    shared = os.environ.get("LORAT_DATA")
    place = given or os.environ.get(variable) or (_below(Path(shared), reader.name) if shared else None)
    root = Path(place or _configured(reader.name) or "").expanduser()
    if (place or str(root) != ".") and os.path.isdir(root):  # Path's would raise for a name that is too long
        return root
    told = f"{root} is no folder" if place or str(root) != "." else "no folder is known"
    raise InputError(
        f"{reader.name}: {told}; give the data set's folder, set {variable} or LORAT_DATA (the folder above it), or"
        f" write 'data: {{{reader.name}: FOLDER}}' into {config_file()}; its layout is {reader.layout}"
    )


def open_store(root: Path) -> Store:
    """The files of a data set, whichever way they are kept."""
    return LmdbStore(root) if is_lmdb(root) else FolderStore(root)


def open_dataset(name: str, root: str | Path | None = None, **options: Any) -> IndexedDataset:
    """Open a data set for training; the first time its annotations are indexed, which may take minutes.

    Args:
        name: one of `dataset_names()`.
        root: its folder, or LMDB; None as in `dataset_root`.
        options: as for `make_reader`.
    Raises InputError for whatever is missing or malformed.
    """
    reader = make_reader(name, **options)
    place = dataset_root(reader, root)
    return index_dataset(reader, open_store(place), place)


def plain_name(name: str) -> str:
    """A folder's name as data sets are called: GOT-10k, got10k_lmdb -> got10k."""
    return "".join(letter for letter in name.lower().removesuffix("_lmdb") if letter.isalnum())


def _below(folder: Path, name: str) -> Path:
    inside = sorted(folder.iterdir()) if folder.is_dir() else []
    named = [path for path in inside if path.is_dir() and plain_name(path.name) == plain_name(name)]
    return named[0] if named else folder / name


def _configured(name: str) -> str | None:
    path = config_file()
    if not path.is_file():
        return None
    try:
        content = parse_yaml(read_plain_text(path)) or {}
        value = (content.get("data") or {}).get(name)
    except InputError:
        raise
    except (ValueError, AttributeError) as error:
        raise InputError(f"{path}: is no valid settings file ({error}); write 'data: {{{name}: FOLDER}}'") from error
    return None if value is None else str(value)
