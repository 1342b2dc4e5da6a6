"""Damage to files: bytes at random, values in JSON, YAML and safetensors headers, numbers and lines of text."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import yaml

ODD_VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1, 2, 3.5, 10**9, 2**63, 10**400, -(10**30), 1e308, float("nan"), float("inf"), "", "x", "nan",
    "1", "a/b", "../..", "\x00", "\ud800", "é\n", [], {}, [[]], [1], {"": None}, {"a": 1}, "lorat_tiny", "2026-01-01",
)  # fmt: skip
ODD_WORDS = (
    b"nan", b"-nan", b"inf", b"-1", b"0", b"1e400", b"9" * 30, b"1" * 5000, b"0x10", b"1_0", b"", b"\x00", b"\xff\xfe",
    b"\n\n", b"\r", b",", b"\t", b"#", b"m1,1,2,2,1,3", b"m0,0,9999999,9999999,1", b"m-1,-1,1,1,-5", b"\xc2\xa0", b"[",
    b"{", b"!!python/object/apply:os.system [x]", b"&a [*a]", b"? ", b": ", b"%", b"$(x)",
    b"\xe2\x80\xa8", b"\xef\xbc\x91",
)  # fmt: skip


def mutate(data: bytes, rng: random.Random) -> bytes:
    """A damaged copy; values are damaged where the content is understood, bytes otherwise and in two of five."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        structured = rng.random() < 0.6
        data = (_structured(data, rng) if structured else None) or _bytes(data, rng)
    return data


def cut_short(data: bytes, rng: random.Random) -> bytes:
    """The first part of a file, as a copy that was interrupted leaves it."""
    return data[: rng.randrange(len(data))]


def _structured(data: bytes, rng: random.Random) -> bytes | None:
    size = int.from_bytes(data[:8], "little")
    if data[8:9] == b"{" and 8 + size <= len(data):  # safetensors: length of the header, header, tensors
        header = _tree(data[8 : 8 + size], rng)
        return None if header is None else len(header).to_bytes(8, "little") + header + data[8 + size :]
    if len(data) > 100_000 or b"\x00" in data:
        return None
    return _tree(data, rng) if rng.random() < 0.7 else _words(data, rng)


def _tree(data: bytes, rng: random.Random) -> bytes | None:
    """JSON or YAML with one value, or name, replaced or left out."""
    load, dump = (json.loads, json.dumps) if data.lstrip()[:1] in (b"{", b"[") else (yaml.safe_load, yaml.safe_dump)
    try:
        tree = load(data)
        places = list(_places(tree))
        if not places:
            return None
        holder, key = rng.choice(places)
        action = rng.random()
        if action < 0.15:
            del holder[key]
        elif action < 0.25 and isinstance(holder, dict):
            holder[rng.choice(("", "x", "é", str(key) * 2))] = holder.pop(key)
        elif action < 0.4 and isinstance(holder[key], str) and holder[key][:1] in ("{", "["):  # JSON inside a string
            holder[key] = (_tree(holder[key].encode(), rng) or b"").decode()
        elif action < 0.5 and isinstance(holder, list):
            holder.insert(key, rng.choice(holder))
        else:
            holder[key] = rng.choice((*ODD_VALUES, rng.choice(places)[0]))
        return dump(tree).encode("utf-8", "surrogatepass")
    except (ValueError, TypeError, RecursionError, yaml.YAMLError):
        return None


def _places(tree: Any) -> Any:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in list(items):
        yield tree, key
        yield from _places(value)


def _words(data: bytes, rng: random.Random) -> bytes:
    """Text with a word replaced, or a line repeated, moved or left out."""
    if rng.random() < 0.5:
        lines = data.splitlines(keepends=True) or [b""]
        first, second = rng.randrange(len(lines)), rng.randrange(len(lines))
        lines[first : first + rng.randrange(3)] = rng.choice(([], [lines[second]], [lines[second]] * 3, [b"\n"]))
        return b"".join(lines)
    words = list(re.finditer(rb"[^\s,:\"]+", data))
    if not words:
        return rng.choice(ODD_WORDS)
    word = rng.choice(words)
    return data[: word.start()] + rng.choice(ODD_WORDS) + data[word.end() :]


def _bytes(data: bytes, rng: random.Random) -> bytes:
    """A bit flipped, bytes overwritten, left out, repeated or put in, or the end cut off; more often near the start."""
    at = int(rng.random() ** 3 * len(data)) if rng.random() < 0.5 else rng.randrange(len(data) + 1)
    length = rng.choice((1, 1, 2, 4, 8, 64, 4096))
    action = rng.randrange(6)
    if action == 0 and at < len(data):
        return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
    if action == 1:
        return data[:at]
    if action == 2:
        return data[:at] + data[at + length :]
    if action == 3:
        return data[:at] + data[at : at + length] + data[at:]
    new = rng.choice((rng.randbytes(length), b"\x00" * length, b"\xff" * length, *ODD_WORDS))
    return data[:at] + new + data[at + (len(new) if action == 4 else 0) :]
