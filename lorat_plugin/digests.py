"""Records of the inputs of files that are reused: names and digests, stored beside them and compared before reuse.

A record maps a subject in words, such as "content of the frames", to a number, a text or a SHA-256.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lorat_plugin.errors import InputError
from lorat_plugin.files import parse_json

Record = dict[str, Any]
BLOCK = 1 << 20  # bytes of a read


def digest(parts: Iterable[str | bytes]) -> str:
    """SHA-256, in hexadecimal, of texts or bytes and of their lengths."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(b"%d\n" % len(data))
        total.update(data)
    return total.hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    total = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            total.update(block)
    return total.hexdigest()


def describe_frames(frames: Sequence[str | os.PathLike[str]]) -> Record:
    """The record of a sequence's frames: their number, their names in order, and their content.

    The content is the size in bytes of each file and the bytes of the first one, so only one file is read. Where all
    files have the same size, as in uncompressed formats, the bytes of all count.

    Args:
        frames: paths of at least one image, in order.
    Raises InputError if a file cannot be read.
    """
    paths = [os.fspath(frame) for frame in frames]
    try:
        sizes = [os.stat(path).st_size for path in paths]
        read = paths if len(set(sizes)) == 1 else paths[:1]
        content = digest([" ".join(map(str, sizes)), *(file_digest(Path(path)) for path in read)])
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror}); restore the frame") from error
    return {
        "number of frames": len(paths),
        "names of the frames": digest(["\n".join(map(os.path.basename, paths))]),
        "content of the frames": content,
    }


def describe_files(root: Path, paths: Iterable[Path]) -> Record:
    """The record of the contents of files, by their paths below `root`. Raises InputError if one is unreadable."""
    record = {}
    for path in paths:
        try:
            record[f"content of {path.relative_to(root).as_posix()}"] = file_digest(path)
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); restore the file") from error
    return record


def describe_options(options: Mapping[str, object]) -> Record:
    """The record of a program's options: the value of each, or the content of a file or folder that it names.

    The content of a folder is that of the files directly in it.

    Raises InputError if a file cannot be read.
    """
    record: Record = {}
    for name, value in options.items():
        path = Path(str(value))
        if value in (None, "") or not path.exists():
            record[name] = value if isinstance(value, int | float | None) else str(value)
        elif path.is_file():
            record |= {f"content of {name}": digest(describe_files(path.parent, [path]).values())}
        else:
            files = describe_files(path, sorted(file for file in path.iterdir() if file.is_file()))
            record |= {f"content of {name}": digest(f"{key} {value}" for key, value in files.items())}
    return record


def read_record(path: Path, remedy: str) -> Record:
    """The record in a JSON file. Raises InputError, whose sentence ends with the remedy, if there is none."""
    try:
        return dict(parse_json(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path}: cannot be read as a record ({error}); {remedy}") from error


def difference(former: Mapping[str, Any], now: Mapping[str, Any], ignored: Collection[str] = ()) -> str:
    """The first subject in which two records differ, with both values unless they are digests; "" if they agree.

    Args:
        former: the stored record.
        now: the record of the present inputs.
        ignored: subjects that may differ.
    """
    for subject in [*now, *(key for key in former if key not in now)]:
        old, new = former.get(subject), now.get(subject)
        if subject not in ignored and old != new:
            return subject if _is_digest(old) or _is_digest(new) else f"{subject} {_shown(old)}, now {_shown(new)}"
    return ""


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and len(value) == hashlib.sha256().digest_size * 2 and value.isalnum()


def _shown(value: object) -> str:
    return "none" if value is None else str(value)
