"""Files of weights: located here or on the hub, read without running code, and their layout recognised.

The common names of tensors are the network's own, with adapters as peft calls them: `<layer>.lora_A.weight`, and q, k
and v under `attn.qkv.{q,k,v}`. Known layouts: DINOv2 (Meta's, also within a training checkpoint, timm's,
transformers'), other ViTs (timm's, transformers'), official LoRAT (adapters only, full, merged), peft.
"""

from __future__ import annotations

import pickle
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Literal, TypeVar, cast

import torch
from safetensors import SafetensorError, safe_open

from lorat_plugin.digests import file_digest
from lorat_plugin.errors import CheckpointError, InputError, first_line
from lorat_plugin.files import parse_json, read_plain_text

T = TypeVar("T")
Layout = Literal[
    "DINOv2 (Meta)",
    "DINOv2 (timm)",
    "DINOv2 (transformers)",
    "ViT (timm)",
    "ViT (transformers)",
    "LoRAT adapters (official)",
    "LoRAT full (official)",
    "LoRAT merged",
    "LoRAT adapters (peft)",
    "LoRAT adapters (peft, not LoRA)",
]
_PREFIX = re.compile(r"^((module|model|net|network|ema|ema_model|base_model\.model)\.)+")
_WRAPPED = re.compile(r"\.(base_layer|modules_to_save\.default)\.")  # peft's names of layers with adapters
_CONTAINERS = (
    "teacher",
    "state_dict",
    "model",
    "model_state_dict",
    "net",
    "network",
    "ema",
    "state_dict_ema",
    "model_ema",
)
_OFFICIAL = (  # official name -> common name
    (re.compile(r"^token_type_embed$"), "token_type_embed.weight"),
    (re.compile(r"^register_tokens$"), "reg_token"),
    (re.compile(r"\.lora\.([AB])$"), r".lora_\1.weight"),
    (re.compile(r"^(blocks\..*)\.linear\.(weight|bias)$"), r"\1.\2"),
    (re.compile(r"\.mlp\.w12\."), ".mlp.fc1."),
    (re.compile(r"\.mlp\.w3\."), ".mlp.fc2."),
)
_TRANSFORMERS = (  # name in transformers' Dinov2Model, Dinov2WithRegistersModel and ViTModel -> timm's
    (re.compile(r"^.*?\bembeddings\.(cls_token|mask_token|register_tokens)$"), r"\1"),
    (re.compile(r"^.*?\bembeddings\.position_embeddings$"), "pos_embed"),
    (re.compile(r"^.*?\bembeddings\.patch_embeddings\.projection\."), "patch_embed.proj."),
    (re.compile(r"^.*?\bencoder\.layer\.(\d+)\."), r"blocks.\1."),
    (re.compile(r"\.attention\.(?:attention\.)?(q|k|v)(?:uery|ey|alue|_proj)\."), r".attn.\1_proj."),
    (re.compile(r"\.attention\.(?:output\.dense|o_proj)\."), ".attn.proj."),
    (re.compile(r"\.mlp\.gate_proj\."), ".mlp.fc1_g."),
    (re.compile(r"\.mlp\.up_proj\."), ".mlp.fc1_x."),
    (re.compile(r"\.layer_scale([12])\.lambda1$"), r".ls\1.gamma"),
    (re.compile(r"\.mlp\.weights_in\.|(?<=\d)\.intermediate\.dense\."), ".mlp.fc1."),
    (re.compile(r"\.mlp\.(?:weights_out|down_proj)\.|(?<=\d)\.output\.dense\."), ".mlp.fc2."),
    (re.compile(r"\.layernorm_before\."), ".norm1."),
    (re.compile(r"\.layernorm_after\."), ".norm2."),
    (re.compile(r"^(?:\w+\.)?layernorm\."), "norm."),
)
_OF_BACKBONE = ("blocks.", "norm.", "patch_embed.", "pos_embed", "cls_token", "mask_token", "register_")
_CHUNK = re.compile(r"^blocks\.\d+\.(?=\d+\.)")  # of blocks, in checkpoints of DINOv2's training
_ADAPTED = re.compile(
    r"^(blocks\.\d+\.(?:attn\.qkv\.(?:\d\.)?[qkv]|(?:attn\.proj|mlp\.fc[12])(?:\.\d)?))\.(weight|bias)$"
)
_CHUNKS_LAYER = re.compile(r"^(blocks\.\d+\.(?:attn\.proj|mlp\.fc[12]))\.(\d)\.lora_A\.weight$")  # LoRATv2's


@dataclass(frozen=True)
class Weights:
    """Tensors of one file under common names, and what the file says about them."""

    source: str
    layout: Layout
    tensors: dict[str, torch.Tensor]
    alpha: dict[str, float] = field(default_factory=dict)  # by adapted layer; "" stands for all; empty: scaling 1
    rslora: bool = False
    metadata: dict[str, str] = field(default_factory=dict)
    chunks: int = 0  # of LoRATv2: 2 of its phase 1, 3 of phase 2; 0 for other networks

    @property
    def has_adapters(self) -> bool:
        """Whether low-rank factors are there, to be merged."""
        return any(".lora_A." in name for name in self.tensors)

    @property
    def is_backbone(self) -> bool:
        """Whether it is a backbone alone, without anything of LoRAT's."""
        return self.layout.startswith(("DINOv2", "ViT"))

    @property
    def by_peft(self) -> bool:
        """Whether the adapters are of a kind that peft alone rebuilds and merges."""
        return self.layout == "LoRAT adapters (peft, not LoRA)"

    @property
    def has_backbone(self) -> bool:
        """Whether the blocks' own weights are there; adapters may come with single modules of the backbone."""
        layers = [name for name in self.tensors if name.startswith("blocks.0.mlp.fc2.")]
        wanted = {re.sub(r"\.(lora_[AB]\.)?\w+$", ".weight", name) for name in layers}
        return bool(wanted) and wanted | {"patch_embed.proj.weight"} <= self.tensors.keys()

    def scaling(self, layer: str, rank: int) -> float:
        """Factor of B A for a layer. A file without alpha means 1, as the official loader reads it."""
        alpha = self.alpha.get(layer, self.alpha.get(""))
        if alpha is None:
            return 1.0
        return alpha / (rank**0.5 if self.rslora else rank)


def recognise(source: str, raw: dict[str, object], metadata: dict[str, str]) -> Weights:
    """Find out what a file holds.

    Args:
        source: its name, for messages.
        raw: what was read: names -> tensors, perhaps inside a container or behind prefixes of DDP, EMA or compile.
        metadata: strings of a safetensors header.
    Raises CheckpointError if it is none of the known layouts.
    """
    tensors = _backbone_part(_plain_names(raw))
    if any(name.endswith("flat_param") for name in tensors):
        raise CheckpointError(
            f"{source}: one process's part of a sharded checkpoint (FSDP): give the gathered one, in DINOv2's training "
            "eval/*/teacher_checkpoint.pth"
        )
    peft_names = any(".lora_A." in name for name in tensors)
    origin = "Meta" if {"mask_token", "blocks.0.mlp.w12.weight"} & tensors.keys() else "timm"
    if any("embeddings.patch_embeddings.projection." in name for name in tensors):
        origin = "transformers"
        tensors = {n: t for n, t in _renamed(tensors, _TRANSFORMERS).items() if n.startswith(_OF_BACKBONE)}
    alpha, rslora = _lora_settings(tensors, metadata)
    tensors = _renamed(tensors, _OFFICIAL)
    chunks = max(
        (2 + int(name[-1]) for name in tensors if name.startswith("search_region_token_type_embed.")), default=0
    )
    tensors = _unshared(tensors) if chunks else tensors
    weights = Weights(source, "LoRAT merged", tensors, alpha, rslora, metadata, chunks)
    layout: str
    if metadata.get("peft_type"):
        layout = "LoRAT adapters (peft, not LoRA)"
    elif "blocks.0.ls1.gamma" in tensors and "cls_token" in tensors and "pos_embed" in tensors:
        layout = f"DINOv2 ({origin})"
    elif weights.has_adapters:
        if weights.has_backbone:
            layout = "LoRAT full (official)"
        else:
            layout = f"LoRAT adapters ({'peft' if peft_names else 'official'})"
            if peft_names and not alpha:
                raise CheckpointError(
                    f"{source}: peft's adapters without alpha: give the folder of adapter_config.json"
                )
    elif any(name.startswith(("head.cls_", "heads.")) for name in tensors) and weights.has_backbone:
        layout = "LoRAT merged"
    elif {"patch_embed.proj.weight", "blocks.0.norm1.weight"} <= tensors.keys():
        layout = f"ViT ({'transformers' if origin == 'transformers' else 'timm'})"
    else:
        some = ", ".join(list(tensors)[:3]) or "no tensors"
        raise CheckpointError(
            f"{source}: neither LoRAT nor DINOv2 weights (it holds {some}): give a LoRAT file, a peft adapter folder "
            "or a DINOv2 ViT/14 backbone, the latter as Meta, timm or transformers' Dinov2Model name its tensors"
        )
    return replace(weights, layout=cast(Layout, layout))


def to_official(tensors: dict[str, torch.Tensor], swiglu: bool, full: bool = False) -> dict[str, torch.Tensor]:
    """Common names -> the official ones; `full` marks base weights of adapted layers by `.linear.` in the name."""
    renamed = {}
    for name, tensor in tensors.items():
        if full and (match := _ADAPTED.match(name)) and f"{match[1]}.lora_A.weight" in tensors:
            name = f"{match[1]}.linear.{match[2]}"
        name = re.sub(r"\.lora_([AB])\.weight$", r".lora.\1", name)
        if swiglu:
            name = name.replace(".mlp.fc1.", ".mlp.w12.").replace(".mlp.fc2.", ".mlp.w3.")
        renamed["token_type_embed" if name == "token_type_embed.weight" else name] = tensor
    return renamed


def _plain_names(raw: dict[str, object]) -> dict[str, torch.Tensor]:
    for container in _CONTAINERS:
        if isinstance(inner := raw.get(container), dict):
            return _plain_names(inner)
    tensors = {name: value for name, value in raw.items() if isinstance(value, torch.Tensor)}
    return {
        _PREFIX.sub("", _WRAPPED.sub(".", name.replace("_orig_mod.", ""))): tensor
        for name, tensor in tensors.items()
        if name != "n_averaged" and ".original_module." not in name  # torch's AveragedModel; peft's unused copy
    }


def _backbone_part(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The backbone of a checkpoint of DINOv2's training or of another model around it, the teacher's if it has two."""
    for prefix in ("teacher.backbone.", "backbone."):
        if f"{prefix}patch_embed.proj.weight" in tensors:
            inner = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
            return {_CHUNK.sub("blocks.", name): tensor for name, tensor in inner.items()}
    return {_CHUNK.sub("blocks.", name): tensor for name, tensor in tensors.items()}


def _unshared(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """With the layers that LoRATv2's adapted chunks share, which the official files hold once, for each chunk."""
    for name in sorted(tensors):
        if match := _CHUNKS_LAYER.match(name):
            for kind in ("weight", "bias"):
                first = f"{match[1]}.{min(n[len(match[1]) + 1] for n in tensors if n.startswith(match[1]))}.{kind}"
                if first in tensors:
                    tensors.setdefault(f"{match[1]}.{match[2]}.{kind}", tensors[first].clone())
    return tensors


def _lora_settings(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> tuple[dict[str, float], bool]:
    """Take alpha and the rsLoRA flag out of the tensors or the metadata."""
    alpha = {"": float(metadata["lora_alpha"])} if "lora_alpha" in metadata else {}
    rslora = metadata.get("rslora", "").lower() == "true"
    for name in list(tensors):
        if name == "lora_alpha":
            alpha[""] = float(tensors.pop(name))
        elif name.endswith(".lora.alpha"):
            alpha[f"{name.removesuffix('.lora.alpha')}."] = float(tensors.pop(name))
        elif name == "use_rslora" or name.endswith(".lora.use_rslora"):
            rslora = bool(tensors.pop(name))
    return {layer.removesuffix("."): value for layer, value in _renamed(alpha, _OFFICIAL).items()}, rslora


def _renamed(values: Mapping[str, T], table: Sequence[tuple[re.Pattern[str], str]]) -> dict[str, T]:
    """The same values, with every pattern of a table replaced in their names."""
    renamed = {}
    for name, value in values.items():
        for pattern, replacement in table:
            name = pattern.sub(replacement, name)
        renamed[name] = value
    return renamed


HUB_ID = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
INDEX = ".index.json"  # ends the name of a list of shards: tensor -> file
SUFFIXES = (".safetensors", ".bin", ".pth", ".pt", INDEX)
_SHARD = re.compile(r"-\d+-of-\d+(\.\w+)$")


def locate(source: str | Path) -> Path:
    """A file or folder, fetched from the hub if it is an id. Honours the hub's cache and offline variables."""
    if str(source) and (path := Path(source)).exists():  # Path("") is the current folder
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
