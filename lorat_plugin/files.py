"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lorat_plugin.errors import InputError, first_line

_OTHER_ENCODINGS = {  # the marks of UTF-32 begin with those of UTF-16
    "UTF-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE),
    "UTF-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
}


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; what is written there becomes `path` when the block ends well.

    Missing parent folders are made. Raises InputError if nothing can be written there.
    """
    with _replacing(path, folder=False) as part:
        yield part


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file; it appears whole or not at all. Raises InputError if it cannot be written."""
    with whole_file(path) as part:
        part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its place, contents and all, when the block ends well."""
    with _replacing(path, folder=True) as part:
        yield part


def walk_files(top: Path) -> Iterator[Path]:
    """The files at any depth below a folder, links followed, hidden files and folders left out.

    Raises InputError for a link that leads back to a folder above it, a folder that cannot be read, and a name that is
    no UTF-8.
    """

    def fail(error: OSError) -> None:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror}); make it readable") from error

    for where, folders, files in os.walk(top, onerror=fail, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        home = Path(where)
        for name in folders:
            if (home / name).is_symlink() and home.resolve().is_relative_to((home / name).resolve()):
                raise InputError(f"{home / name}: is a link to a folder that it lies in; remove it")
        for name in (name for name in files if not name.startswith(".")):
            require_utf8(name, where)
            yield home / name


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` a link to a file, or a copy where the system has no symbolic links."""
    try:
        target.symlink_to(source.resolve())
    except OSError:  # Windows without the right to make links, or a file system that has none
        shutil.copyfile(source, target)


def read_plain_text(path: Path) -> str:
    """The content of a text file as `decode_text` gives it. Raises InputError if it cannot be read or is no text."""
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        raise InputError(f"{path}: cannot be read as text: {error}") from error
    return decode_text(data, str(path))


def decode_text(data: bytes, shown: str) -> str:
    """The content of a text file in UTF-8, its lines ended by LF alone, without byte order marks.

    Raises InputError naming the file `shown` for UTF-16, UTF-32, NUL bytes and whatever else is no UTF-8.
    """
    for name, marks in _OTHER_ENCODINGS.items():
        if data.startswith(marks):
            raise InputError(f"{shown}: is {name} text; save it as UTF-8")
    if b"\0" in data:
        raise InputError(f"{shown}: has NUL bytes: it is no text, damaged, or UTF-16; restore it or save it as UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{shown}: cannot be read as text ({error}); save it as UTF-8") from error
    return re.sub("\r\n?", "\n", text).replace("\n\ufeff", "\n")  # files that were joined keep a mark each


def require_utf8(name: str, shown: str) -> None:
    """Raise InputError if a file's name is no UTF-8: what is written about the file would hold it."""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        where = shown.encode(errors="backslashreplace").decode()
        raise InputError(f"{where}: {name!a} is no UTF-8 name; rename it") from error


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
