"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lorat_plugin.errors import InputError, first_line


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; what is written there becomes `path` when the block ends well.

    Missing parent folders are made. Raises InputError if nothing can be written there.
    """
    with _replacing(path, folder=False) as part:
        yield part


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its place, contents and all, when the block ends well."""
    with _replacing(path, folder=True) as part:
        yield part


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` a link to a file, or a copy where the system has no symbolic links."""
    try:
        target.symlink_to(source.resolve())
    except OSError:  # Windows without the right to make links, or a file system that has none
        shutil.copyfile(source, target)


def read_plain_text(path: Path) -> str:
    """The content of a text file. Raises InputError if it cannot be read or is no text."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text: {error}") from error


def parse_yaml(text: str) -> Any:
    """What a YAML text holds, by the safe loader, which runs nothing. Raises ValueError for all that is no YAML."""
    import yaml

    try:
        return yaml.safe_load(text)
    except Exception as error:  # beside YAMLError what int(), datetime, look-ups and deep nesting raise
        raise ValueError(" ".join(str(error).split())) from error


def parse_json(text: str) -> Any:
    """What a JSON text holds. Raises ValueError for all that is no JSON."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("too deeply nested") from error


@contextlib.contextmanager
def _replacing(path: Path, folder: bool) -> Iterator[Path]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        holder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({first_line(error)}): choose another place") from error
    try:
        part = holder / path.name
        if folder:
            part.mkdir()
        else:
            part.touch()
        mode = part.stat().st_mode  # as the user's umask says; some libraries write files for their owner alone
        yield part
        os.chmod(part, mode)
        if path.is_dir() != folder and path.exists():
            kind = "file" if folder else "folder"
            raise InputError(f"{path}: a {kind} of that name is in the way: remove it or choose another name")
        if folder and path.exists():
            path.rename(holder / "former")
        os.replace(part, path)
    finally:
        shutil.rmtree(holder, ignore_errors=True)
