"""Settings of a training run: one frozen dataclass, filled from a YAML recipe and typed overrides."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml

from lorat_plugin.errors import InputError
from lorat_plugin.files import parse_yaml, read_plain_text


@dataclass(frozen=True)
class TrainConfig:
    """Every setting of a run. Defaults are the paper's where it names a value (arXiv 2403.05231, section 4.1)."""

    variant: str = "lorat_b_224"
    backbone: str = "pretrained"  # "random", "pretrained", or a backbone file
    backbone_model: str = ""  # another backbone than the variant's, by timm's name
    mode: str = "lora"  # "lora" (adapters), "full" (all weights), "baseline" (full, two tables, convolutional head)
    adapter: str = "lora"  # lora, rslora, or another that peft has a configuration of: loha for peft.LoHaConfig
    adapter_settings: tuple[str, ...] = ()  # NAME=VALUE of that configuration, e.g. use_dora=true
    rank: int = 0  # of LoRA; 0: the variant's
    alpha: float = 0.0  # of LoRA; 0: the variant's
    targets: tuple[str, ...] = ()  # adapted layers out of q, k, v, proj, fc1, fc2; empty: all
    drop_path: float = -1.0  # rate of stochastic depth; below 0: the variant's
    init_from: str = ""  # weights, or state of another run, whose trained part is the start; empty: none
    datasets: tuple[str, ...] = ()  # NAME or NAME:FOLDER; empty: pairs made of the material below
    dataset_weights: tuple[float, ...] = ()  # shares of the data sets; empty: equal
    dataset_share: float = 1.0  # of all pairs, where material is given too
    absent_share: float = 0.0  # of pairs whose search region does not show the target
    got10k_list: str = ""  # file with the chosen sequences of GOT-10k, by number or name; empty: all
    got10k_reading: str = "index"  # how numbers are understood: "index" (place in list.txt) or "name"
    protocol: str = ""  # "got10k": nothing but GOT-10k's training split may be trained on
    epoch_size: int = 131_072  # samples
    cutouts: str = ""  # folder of RGBA cut-outs; empty: procedural shapes
    photos: str = ""  # folder of photos; empty: procedural scenes
    clips: str = ""  # folder of labelled clips; empty: none
    clip_labels: str = ""  # folder of labels for more targets in these clips; empty: none
    exclude: tuple[str, ...] = ()  # files whose names start so are left out
    object_weight: float = 1.0  # shares of the three sources; a source without material has none
    patch_weight: float = 0.0
    clip_weight: float = 0.0
    max_gap: int = 100  # frames between the two frames of a pair
    ema_decay: float = 0.0  # per step, of an average of the weights that is validated and saved; 0: none
    unreadable_limit: int = 100  # frames that may be passed over because they cannot be decoded; more stop the run
    scale_jitter: float = 0.25  # deviation of the log of the search crop's scale
    translation_jitter: float = 3.0  # largest shift of the search crop either way, in mean target sides
    flip_chance: float = 0.5
    third_chance: float = 1.0  # share of pairs turned grey, solarised or blurred
    eight_bit: bool = False  # colours in 8-bit arithmetic: pairs in less time, a grey level beside the float32 ones
    pairs_on: str = "worker"  # where pixels are made: "worker" processes, or the "device" that trains
    bank_gb: float = 0.0  # device memory for decoded frames, 10^9 bytes; 0: none, each batch brings its own
    seed: int = 42
    steps: int = 174_080
    batch_size: int = 128  # pairs in an update, over all processes
    micro_batch: int = 0  # pairs that a process sends through the network at once; 0: its whole share of the batch
    lr: float = 1e-4
    final_lr: float = 1e-6
    warmup_steps: int = 2048
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    precision: str = "auto"  # "fp32", "bf16", "fp16"; auto: bf16, else fp16, on a CUDA GPU, fp32 elsewhere
    checkpointing: bool = False  # compute activations again in the backward pass: less memory, a third slower
    compile: bool = False  # torch.compile; goes on without where that fails
    workers: int = 1  # processes that make pairs, beside each trainer; 0: none
    threads: int = 0  # compute threads; 0: torch decides
    device: str = "auto"  # CUDA, MPS or CPU, the first there is
    log_every: int = 10
    trackers: tuple[str, ...] = ("tensorboard",)  # where figures go beside log.jsonl: tensorboard, wandb
    checkpoint_every: int = 100
    keep: int = 2  # checkpoints that stay on the disk, the newest; the best is kept besides
    validate_every: int = 500
    validation_pairs: int = 256
    validation_datasets: tuple[str, ...] = ()  # NAME or NAME:FOLDER of held-out splits; empty: fresh training pairs
    validation_clips: str = ""  # folder of labelled clips to track through; empty: none

    def save(self, path: Path) -> None:
        """Write all settings as YAML, a recipe that `load_config` reads back."""
        values = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")

    def portable(self) -> str:
        """All settings as JSON with the last part of each path alone: what goes into weights that others get."""
        paths = (
            "backbone",
            "init_from",
            "got10k_list",
            "cutouts",
            "photos",
            "clips",
            "clip_labels",
            "validation_clips",
        )
        named = {
            kind: [":".join(filter(None, (name, Path(folder).name))) for name, _, folder in parts]
            for kind in ("datasets", "validation_datasets")
            if (parts := [entry.partition(":") for entry in getattr(self, kind)])
        }
        return json.dumps({k: Path(v).name if k in paths else v for k, v in asdict(self).items()} | named)


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    folder = resources.files("lorat_plugin.training") / "recipes"
    return sorted(p.name.removesuffix(".yaml") for p in folder.iterdir() if p.name.endswith(".yaml"))


def load_config(recipe: str, overrides: Mapping[str, Any] | None = None) -> TrainConfig:
    """Read a recipe and apply overrides; None among the overrides means "as in the recipe".

    Args:
        recipe: name of a bundled recipe, or path of a YAML file.
        overrides: field name -> value; strings are converted to the field's type.
    Raises InputError for an unknown recipe or field, or a value of the wrong type or range.
    """
    path = Path(recipe)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise InputError(f"recipe {recipe} is no file; give an existing YAML file or one of {recipe_names()}")
        text = read_plain_text(path)
    elif recipe in recipe_names():
        bundled = resources.files("lorat_plugin.training") / "recipes" / f"{recipe}.yaml"
        text = bundled.read_text(encoding="utf-8")
    else:
        raise InputError(f"unknown recipe {recipe!r}; use one of {recipe_names()} or the path of a YAML file")
    try:
        values = parse_yaml(text) or {}
    except ValueError as error:
        raise InputError(f"recipe {recipe} is no valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f"recipe {recipe} must hold `name: value` lines")
    values = {k: v for k, v in values.items() if v is not None}  # `name:` without a value means the default
    values |= {k: v for k, v in (overrides or {}).items() if v is not None}
    hints = get_type_hints(TrainConfig)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise InputError(f"recipe {recipe}: unknown setting {unknown[0]!r}; known are {sorted(hints)}")
    return checked(TrainConfig(**{k: _convert(k, v, hints[k]) for k, v in values.items()}))


def checked(config: TrainConfig) -> TrainConfig:
    """Return the config if its values make sense together; raises InputError naming the first that does not."""
    positive = {"steps", "batch_size", "lr", "clip_norm", "log_every", "checkpoint_every", "validate_every", "keep"}
    positive |= {"epoch_size", "validation_pairs"}
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name == "drop_path" or not isinstance(value, (int, float)):
            continue
        if value < 0 or (value == 0 and field.name in positive):
            bound = "above 0" if field.name in positive else "at least 0"
            raise InputError(f"setting {field.name} must be {bound}; got {value}")
        if field.name in ("absent_share", "ema_decay") and value >= 1:
            raise InputError(f"setting {field.name} must be below 1; got {value}")
    from lorat_plugin.training.methods import check_method

    check_method(config)
    for name, known in _CHOICES.items():
        if getattr(config, name) not in known:
            raise InputError(
                f"setting {name} must be one of {', '.join(map(repr, known))}; got {getattr(config, name)!r}"
            )
    if config.bank_gb and config.pairs_on != "device":
        raise InputError(f"bank_gb {config.bank_gb:g} is for pairs_on device; set that too, or bank_gb to 0")
    if not config.datasets and config.object_weight + config.patch_weight + config.clip_weight <= 0:
        raise InputError("object_weight, patch_weight and clip_weight are all 0; one source of pairs is needed")
    return config


_CHOICES = {
    "precision": ("auto", "fp32", "bf16", "fp16"),
    "pairs_on": ("worker", "device"),
    "protocol": ("", "got10k"),
    "got10k_reading": ("index", "name"),
}


def _convert(name: str, value: Any, kind: Any) -> Any:
    try:
        if kind is bool:
            return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[str(value).lower()]
        if kind in (int, float, str):
            converted = kind(value)
            if kind is not str and not math.isfinite(converted):
                raise ValueError("not finite")
            if kind is int and float(value) != converted:
                raise ValueError("not whole")
            return converted
        values = value.split(",") if isinstance(value, str) else value
        return tuple(_convert(name, v, get_args(kind)[0]) for v in values if v != "")
    except (TypeError, ValueError, OverflowError, KeyError) as error:
        wanted = {bool: "true or false"}.get(kind) or getattr(kind, "__name__", "a list")
        raise InputError(f"setting {name} must be {wanted}; got {value!r}") from error
