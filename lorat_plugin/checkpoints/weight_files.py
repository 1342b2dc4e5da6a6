"""Files of weights: found here or on the hub, whole or in shards, read without running code."""

from __future__ import annotations

import pickle
import re
from collections import defaultdict
from pathlib import Path, PurePosixPath

import torch
from safetensors import SafetensorError, safe_open

from lorat_plugin.digests import file_digest
from lorat_plugin.errors import CheckpointError, InputError, first_line
from lorat_plugin.files import parse_json, read_plain_text

HUB_ID = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
INDEX = ".index.json"  # ends the name of a list of shards: tensor -> file
SUFFIXES = (".safetensors", ".bin", ".pth", ".pt", INDEX)
_SHARD = re.compile(r"-\d+-of-\d+(\.\w+)$")


def locate(source: str | Path) -> Path:
    """A file or folder, fetched from the hub if it is an id. Honours the hub's cache and offline variables."""
    if (path := Path(source)).exists():
        return path
    match = HUB_ID.fullmatch(str(source))
    if not match or str(source).endswith(SUFFIXES):
        raise CheckpointError(f"weights '{source}' not found: give an existing file, an adapter folder or a hub id")
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(match[1], revision=match[2], allow_patterns=["*.json", "*.safetensors"]))
    except Exception as error:  # the hub's client raises many kinds
        raise CheckpointError(
            f"'{source}' is no file here and could not be had from the hub ({first_line(error)}): check the name, go "
            "online, or download it once into the hub's cache"
        ) from error
    for path in folder.glob("*.safetensors"):
        _verify_checksum(path)
    return folder


def weights_file(folder: Path) -> Path:
    """The weights file of a folder, or its index of shards. Raises CheckpointError if there is none or no only one."""
    found = sorted(folder.glob("*.safetensors"))
    single = found if len(found) == 1 and not _SHARD.search(found[0].name) else []
    first, others = (sorted(folder.glob(f"*{kind}{INDEX}")) for kind in (".safetensors", ""))
    for path in (folder / "model.safetensors", *first, *single, *others):
        if path.is_file():
            return path
    if not found:
        raise CheckpointError(f"{folder}: holds no .safetensors file and no adapter_config.json: name the weights file")
    if len(found) > 1:
        raise CheckpointError(
            f"{folder}: holds several files ({found[0].name}, {found[1].name} ...) and no *{INDEX} that joins them: "
            "name the weights file, or copy the index too"
        )
    return found[0]


def _verify_checksum(path: Path) -> None:
    """The hub's cache names large files by their SHA-256; compare it with the content."""
    expected = path.resolve().name
    if re.fullmatch(r"[0-9a-f]{64}", expected) and file_digest(path) != expected:
        raise CheckpointError(f"{path}: its SHA-256 is not the hub's: delete it and download it again")


def read_tensors(path: Path) -> tuple[dict[str, object], dict[str, str]]:
    """Content of a weights file, or of the shards that an index lists, and the strings of a safetensors header.

    Safetensors are known by their header under any suffix; everything else is read as a torch file that may hold only
    tensors and plain containers. Raises CheckpointError for what is missing, cut short, foreign or needs code to load.
    """
    if path.name.endswith(INDEX):
        return _read_shards(path)
    if shard := _SHARD.search(path.name):
        whole = f"{path.name[: shard.start()]}{shard[1]}{INDEX}"
        raise CheckpointError(f"{path}: one shard of several: give their folder, or {whole}")
    return _read_file(path)


def _read_shards(path: Path) -> tuple[dict[str, object], dict[str, str]]:
    try:
        index = parse_json(read_plain_text(path))
        shards = defaultdict(list)
        for name, file in dict(index["weight_map"]).items():
            if PurePosixPath(file).name != file or "\\" in file:
                raise ValueError(f"{file!r} is no file beside it")
            shards[file].append(name)
        if not shards:
            raise ValueError("it lists no tensors")
    except (InputError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: not an index of shards ({error}): copy or download it again") from error
    if lacking := [file for file in shards if not (path.parent / file).is_file()]:
        raise CheckpointError(
            f"{path.parent / lacking[0]}: this shard is missing, {len(lacking)} of {len(shards)} are: copy or download "
            "them beside the index"
        )
    raw: dict[str, object] = {}
    for file, names in shards.items():
        content, metadata = _read_file(path.parent / file)
        if absent := [name for name in names if name not in content]:
            raise CheckpointError(
                f"{path.parent / file}: holds no {absent[0]}, which {path.name} expects there: download both again"
            )
        raw.update((name, content[name]) for name in names)
    return raw, metadata


def _read_file(path: Path) -> tuple[dict[str, object], dict[str, str]]:
    with path.open("rb") as stream:
        head = stream.read(512)
    if not head:
        raise CheckpointError(f"{path}: the file is empty: download it again")
    if head.lstrip()[:1] == b"<":
        raise CheckpointError(
            f"{path}: an HTML page, not weights; the download site answered with a page: download again"
        )
    try:
        if head[8:9] == b"{":
            with safe_open(path, framework="pt") as stream:
                return {name: stream.get_tensor(name) for name in stream.keys()}, dict(stream.metadata() or {})  # noqa: SIM118
        raw = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: cut short or damaged ({error}): download or copy it again") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: a pickle that needs code to be loaded, which is refused: save its tensors alone (safetensors)"
        ) from error
    except Exception as error:  # a damaged pickle can raise anything
        reason = first_line(error)
        raise CheckpointError(f"{path}: neither a safetensors nor a readable torch file ({reason})") from error
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path}: holds a {type(raw).__name__}, not a dictionary of tensors: save the state dict")
    return raw, {}
