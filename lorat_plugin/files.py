"""Files and folders that are written whole or not at all, and text files read with clear errors."""

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

# Numbers of errors that say that a disk or a quota is full, or a file too large; safetensors gives them in words.
_FULL = re.compile(r"\[Errno (27|28|122)\]|\(os error (27|28|122)\)")
_OTHER_ENCODINGS = {  # checked in this order: the marks of UTF-32 begin with those of UTF-16
    "UTF-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE),
    "UTF-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
}


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to `path` when the block ends without an error.

    Creates missing parent folders. Raises InputError if the path cannot be written or the disk is full.
    """
    with _replacing(path, folder=False) as part:
        yield part


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file; it appears whole or not at all. Raises InputError if it cannot be written."""
    with whole_file(path) as part:
        part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` that replaces `path` when the block ends without an error."""
    with _replacing(path, folder=True) as part:
        yield part


def walk_files(top: Path) -> Iterator[Path]:
    """The files at any depth below a folder; follows links, skips hidden files and folders.

    Raises InputError for a link to one of its parent folders, a folder that cannot be read, and a name that is not
    UTF-8.
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
    """Make `target` a symbolic link to a file, or a copy where links are not possible."""
    try:
        target.symlink_to(source.resolve())
    except OSError:  # Windows without the right to make links, or a file system without links
        shutil.copyfile(source, target)


def read_plain_text(path: Path) -> str:
    """The content of a text file as `decode_text` gives it. Raises InputError if it cannot be read or is not text."""
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        raise InputError(f"{path}: cannot be read as text: {error}") from error
    return decode_text(data, str(path))


def decode_text(data: bytes, shown: str) -> str:
    """The content of a UTF-8 text file with LF line ends and without byte order marks.

    Raises InputError naming the file `shown` for UTF-16, UTF-32, NUL bytes and any other bytes that are not UTF-8.
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
    """Raise InputError if a file's name is not UTF-8 and so cannot be written into result files."""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        where = shown.encode(errors="backslashreplace").decode()
        raise InputError(f"{where}: {name!a} is no UTF-8 name; rename it") from error


def parse_yaml(text: str) -> Any:
    """The value of a YAML text, by the safe loader, which runs no code. Raises ValueError if it is not YAML."""
    import yaml

    try:
        return yaml.safe_load(text)
    except Exception as error:  # YAMLError, and errors of int(), datetime, look-ups and deep nesting
        raise ValueError(" ".join(str(error).split())) from error


def parse_json(text: str) -> Any:
    """The value of a JSON text. Raises ValueError if it is not JSON."""
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
        mode = part.stat().st_mode  # by the user's umask; some libraries write files that only their owner may read
        yield part
        os.chmod(part, mode)
        if path.is_dir() != folder and path.exists():
            other = "file" if folder else "folder"
            raise InputError(f"{path}: a {other} of that name is in the way: remove it or choose another name")
        if folder and path.exists():
            path.rename(holder / "former")
        os.replace(part, path)
    except Exception as error:  # of whatever writes
        if isinstance(error, InputError) or not _FULL.search(str(error)):
            raise
        raise InputError(
            f"{path}: cannot be written ({first_line(error)}): make room or choose another place"
        ) from error
    finally:
        shutil.rmtree(holder, ignore_errors=True)
