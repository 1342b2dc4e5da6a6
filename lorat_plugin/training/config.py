"""Settings of a training run: one frozen dataclass, filled from a YAML recipe and typed overrides."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le, Lt
from typing_extensions import Doc

from lorat_plugin.errors import InputError
from lorat_plugin.files import parse_json, parse_yaml, read_plain_text
from lorat_plugin.variants import Variant, baseline, get_variant

if TYPE_CHECKING:
    from pydantic import ValidationError

logger = logging.getLogger(__name__)

Count = Annotated[int, Ge(0)]
Number = Annotated[int, Gt(0)]
Amount = Annotated[float, Ge(0)]
Positive = Annotated[float, Gt(0)]
Share = Annotated[float, Ge(0), Lt(1)]
Chance = Annotated[float, Ge(0), Le(1)]
Names = tuple[str, ...]

PATHS = ["backbone", "init_from", "got10k_list", "cutouts", "photos", "clips", "clip_labels", "validation_clips"]
MATERIAL = ("cutouts", "photos", "clips", "clip_labels")
RENAMED = {"trackers": "loggers"}  # former name -> name, so that recipes and states of earlier runs are read


@dataclass(frozen=True)
class TrainConfig:
    """Every setting of a run. Defaults are the paper's where it names a value (arXiv 2403.05231, section 4.1)."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"allow_inf_nan": False, "coerce_numbers_to_str": True}

    variant: Annotated[str, Doc("Variant to train.")] = "lorat_b_224"
    backbone: Annotated[str, Doc("Backbone file, 'pretrained' or 'random'.")] = "pretrained"
    backbone_model: Annotated[str, Doc("Another backbone than the variant's, by timm's name.")] = ""
    mode: Annotated[str, Doc("lora, full (fine-tuning), or baseline (the paper's).")] = "lora"
    adapter: Annotated[str, Doc("lora, rslora, or another that peft has a configuration of, e.g. loha.")] = "lora"
    adapter_settings: Annotated[Names, Doc("NAME=VALUE of that configuration, e.g. use_dora=true.")] = ()
    rank: Annotated[Count, Doc("Rank of the adapters; 0: the variant's.")] = 0
    alpha: Annotated[Amount, Doc("Alpha of the adapters; 0: the variant's.")] = 0.0
    targets: Annotated[Names, Doc("Adapted layers out of q, k, v, proj, fc1, fc2; empty: all.")] = ()
    drop_path: Annotated[float, Doc("Rate of stochastic depth; below 0: the variant's.")] = -1.0
    init_from: Annotated[str, Doc("Weights, or state of a run, that a new run starts from.")] = ""
    datasets: Annotated[Names, Doc("Data set; repeat for more. None: pairs made of the material.")] = ()
    dataset_weights: Annotated[tuple[float, ...], Doc("Shares of the data sets; empty: equal.")] = ()
    dataset_share: Annotated[Chance, Doc("Of all pairs, where material is given too.")] = 1.0
    absent_share: Annotated[Share, Doc("Of pairs whose search region does not show the target.")] = 0.0
    got10k_list: Annotated[str, Doc("File that chooses sequences of GOT-10k, by number or name.")] = ""
    got10k_reading: Annotated[Literal["index", "name"], Doc("Numbers are list indices or names.")] = "index"
    protocol: Annotated[Literal["", "got10k"], Doc("got10k: refuse all data but GOT-10k's training split.")] = ""
    epoch_size: Annotated[Number, Doc("Samples in an epoch.")] = 131_072
    cutouts: Annotated[str, Doc("Folder of RGBA cut-outs; none: procedural shapes.")] = ""
    photos: Annotated[str, Doc("Folder of photos; none: procedural scenes.")] = ""
    clips: Annotated[str, Doc("Folder of labelled clips, mixed with made pairs.")] = ""
    clip_labels: Annotated[str, Doc("Folder of labels for more targets in the clips.")] = ""
    exclude: Annotated[Names, Doc("Files whose names start so are left out.")] = ()
    object_weight: Annotated[Amount, Doc("Share of moved objects.")] = 1.0
    patch_weight: Annotated[Amount, Doc("Share of moved patches.")] = 0.0
    clip_weight: Annotated[Amount, Doc("Share of clips.")] = 0.0
    max_gap: Annotated[Count, Doc("Frames between the two frames of a pair, at most.")] = 100
    ema_decay: Annotated[Share, Doc("Per step, of an average of the weights that is saved; 0: none.")] = 0.0
    unreadable_limit: Annotated[Count, Doc("Files that may fail to decode; more stop the run.")] = 100
    scale_jitter: Annotated[Amount, Doc("Deviation of the log of the search crop's scale.")] = 0.25
    translation_jitter: Annotated[Amount, Doc("Largest shift of the search crop, in mean target sides.")] = 3.0
    flip_chance: Annotated[Chance, Doc("Chance that a crop is mirrored.")] = 0.5
    third_chance: Annotated[Chance, Doc("Share of pairs turned grey, solarised or blurred.")] = 1.0
    eight_bit: Annotated[bool, Doc("8-bit colours: less time, a grey level beside float32.")] = False
    pairs_on: Annotated[Literal["worker", "device"], Doc("Where pixels of pairs are made.")] = "worker"
    bank_gb: Annotated[Amount, Doc("Device memory for decoded frames, GB (10^9); 0: none.")] = 0.0
    seed: Annotated[int, Ge(0), Lt(2**63), Doc("Seed of pairs and start values.")] = 42
    steps: Annotated[Number, Doc("Updates in all.")] = 174_080
    batch_size: Annotated[Number, Doc("Pairs in an update, over all processes.")] = 128
    micro_batch: Annotated[Count, Doc("Pairs through the network at once; 0: all.")] = 0
    lr: Annotated[Positive, Doc("Peak learning rate.")] = 1e-4
    final_lr: Annotated[Amount, Doc("Learning rate at the end.")] = 1e-6
    warmup_steps: Annotated[Count, Doc("Updates of linear warm-up.")] = 2048
    weight_decay: Annotated[Amount, Doc("Of matrices.")] = 0.1
    clip_norm: Annotated[Positive, Doc("Largest norm of the gradient.")] = 1.0
    precision: Annotated[Literal["auto", "fp32", "bf16", "fp16"], Doc("auto, fp32, bf16 or fp16.")] = "auto"
    checkpointing: Annotated[bool, Doc("Compute activations twice: less memory, a third slower.")] = False
    compile: Annotated[bool, Doc("torch.compile; parts that cannot be compiled run as they are.")] = False
    workers: Annotated[Count, Doc("Processes that make pairs, beside each trainer.")] = 1
    threads: Annotated[Count, Doc("Compute threads; 0: torch decides.")] = 0
    device: Annotated[str, Doc("auto, cpu, cuda, cuda:1, mps.")] = "auto"
    log_every: Annotated[Number, Doc("Updates between two lines of the log.")] = 10
    loggers: Annotated[Names, Doc("Where figures go beside log.jsonl: tensorboard, wandb.")] = ("tensorboard",)
    checkpoint_every: Annotated[Number, Doc("Updates between two checkpoints.")] = 100
    keep: Annotated[Number, Doc("Newest checkpoints that stay on the disk; the best stays too.")] = 2
    validate_every: Annotated[Number, Doc("Updates between two validations.")] = 500
    validation_pairs: Annotated[Number, Doc("Pairs in a validation.")] = 256
    validation_datasets: Annotated[Names, Doc("Held-out split; repeat for more. None: fresh training pairs.")] = ()
    validation_clips: Annotated[str, Doc("Folder of labelled clips to track through.")] = ""

    def save(self, path: Path) -> None:
        """Write all settings as YAML, a recipe that `load_config` reads back."""
        import yaml

        values = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")

    def portable(self) -> str:
        """All settings as JSON with the last part of each path alone: what goes into weights that others get."""
        named = {
            field: [":".join(filter(None, (name, Path(folder).name))) for name, _, folder in parts]
            for field in ("datasets", "validation_datasets")
            if (parts := [entry.partition(":") for entry in getattr(self, field)])
        }
        return json.dumps({k: Path(v).name if k in PATHS else v for k, v in asdict(self).items()} | named)


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
    values |= overrides or {}
    values = {RENAMED.get(k, k): v for k, v in values.items() if v is not None}  # `name:` without a value: the default
    known = sorted(field.name for field in fields(TrainConfig))
    if unknown := sorted(set(values) - set(known)):
        raise InputError(f"recipe {recipe}: unknown setting {unknown[0]!r}; known are {', '.join(known)}")
    return _validated(values)


def _validated(values: dict[str, Any]) -> TrainConfig:
    """Settings of the right types and ranges that make sense together; InputError names the first that is not."""
    from pydantic import TypeAdapter, ValidationError

    for name in values:
        if isinstance(getattr(TrainConfig, name), tuple):
            parts = values[name].split(",") if isinstance(values[name], str) else values[name]
            values[name] = [v for v in parts if v != ""] if isinstance(parts, (list, tuple)) else parts
    try:
        config = TypeAdapter(TrainConfig).validate_python(values)
    except ValidationError as error:
        raise InputError(_sentence(error)) from error
    if config.bank_gb and config.pairs_on != "device":
        raise InputError(f"bank_gb {config.bank_gb:g} is for pairs_on device; set that too, or bank_gb to 0")
    for name, owner in (("got10k_list", "datasets"), ("clip_labels", "clips")):
        if getattr(config, name) and not getattr(config, owner):
            raise InputError(f"{name} is for {owner}, of which the run has none: name them, or leave it out")
    if not config.datasets and config.object_weight + config.patch_weight + config.clip_weight <= 0:
        raise InputError("object_weight, patch_weight and clip_weight are all 0; one source of pairs is needed")
    return config


def _sentence(error: ValidationError) -> str:
    """The first thing that is wrong, as `lorat` says it."""
    first = error.errors()[0]
    name, limits = str(first["loc"][0]), first.get("ctx", {})
    type_name = type(getattr(TrainConfig, name)).__name__
    wanted = {"bool": "true or false", "tuple": "a list"}.get(type_name, type_name)
    for key, words in (("gt", "above"), ("ge", "at least"), ("lt", "below"), ("le", "at most")):
        if key in limits:
            wanted = f"{words} {limits[key]:g}"
    if first["type"] == "literal_error":
        wanted = "one of " + limits["expected"].replace(" or ", ", ")
    return f"setting {name} must be {wanted}; got {first['input']!r}"


def training_variant(config: TrainConfig) -> Variant:
    """The variant that a run trains: the one it names, with the run's backbone, rank, alpha, drop path and mode."""
    variant = get_variant(config.variant)
    if config.backbone_model:
        from lorat_plugin.backbones import with_backbone

        variant = with_backbone(variant, config.backbone_model)
    if config.mode == "baseline":
        variant = baseline(variant)
    return replace(
        variant,
        lora_rank=config.rank or variant.lora_rank,
        lora_alpha=config.alpha or variant.lora_alpha,
        rslora=variant.rslora or config.adapter == "rslora",
        drop_path=variant.drop_path if config.drop_path < 0 else config.drop_path,
    )


def check_data_rule(config: TrainConfig) -> None:
    """Raise InputError naming the data that the run's rule (`protocol`) does not allow.

    GOT-10k's: no other data than its training split, nor any that choose the best weights but its validation split.
    For the weights that LoRATv2's phase 2 starts from see `check_weights_rule`.
    """
    if not config.protocol:
        return
    if offenders := _other_data(config):
        raise InputError(f"protocol got10k allows no data but GOT-10k's; leave out {', '.join(offenders)}")
    if not config.datasets:
        raise InputError("protocol got10k trains on GOT-10k alone; give --dataset got10k:FOLDER")


def _other_data(config: TrainConfig) -> list[str]:
    """Settings of a run that name other data than GOT-10k's."""
    offenders = [
        f"{name} {getattr(config, name)}"
        for name in (*MATERIAL, "init_from", "validation_clips")
        if getattr(config, name) and not (name == "init_from" and get_variant(config.variant).reference_size)
    ]
    for setting in ("datasets", "validation_datasets"):
        offenders += [f"{setting} {entry}" for entry in getattr(config, setting) if entry.partition(":")[0] != "got10k"]
    return offenders


def check_weights_rule(config: TrainConfig, metadata: Mapping[str, str]) -> None:
    """As `check_data_rule`, of the weights in `init_from`, by the settings that `lorat train` writes in their header.

    Weights that say nothing of their data are logged.
    """
    if not config.protocol:
        return
    try:
        said = parse_json(metadata["recipe"])
        former = TrainConfig(**{k: v for k, v in said.items() if k in TrainConfig.__dataclass_fields__})
        offenders = _other_data(former)
    except (KeyError, ValueError, TypeError, AttributeError):
        logger.warning("%s does not say on what data it was trained: see that it is GOT-10k alone", config.init_from)
        return
    if offenders:
        raise InputError(
            f"protocol got10k: {config.init_from} was trained with {', '.join(offenders)}; give the weights of a phase "
            "1 on GOT-10k alone by init_from (--init-from)"
        )
