"""Trackers as the Hugging Face hub keeps models: a folder of weights, config.json and a model card; pushed or local.

    save_pretrained(network, "my_tracker", scores=["results/lorat/LaSOT/LoRAT/scores.json"])
    revision = push_to_hub("my_tracker", "owner/my_tracker")
    LoRATTracker.from_pretrained("owner/my_tracker", revision=revision)

The hub's own client does the traffic, so its variables hold: HF_TOKEN, HF_ENDPOINT (a mirror), HF_HUB_OFFLINE, HF_HOME.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from lorat_plugin.backbones import hub_id
from lorat_plugin.checkpoints.layouts import Weights
from lorat_plugin.checkpoints.loading import HUB_CONFIG, HUB_WEIGHTS
from lorat_plugin.checkpoints.saving import convert, save_checkpoint
from lorat_plugin.digests import file_digest
from lorat_plugin.errors import CheckpointError, InputError, first_line
from lorat_plugin.files import parse_json, read_plain_text, whole_folder
from lorat_plugin.network import LoRATNetwork
from lorat_plugin.score_rows import MEASURES, PROTOCOLS, markdown
from lorat_plugin.variants import Variant

CARD = "README.md"
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
OWN_FILES = {HUB_CONFIG, HUB_WEIGHTS, CARD, *ADAPTER_FILES, ".gitattributes"}


def save_pretrained(
    network: LoRATNetwork,
    folder: str | Path,
    *,
    adapters_only: bool = False,
    dtype: torch.dtype | None = None,
    scores: Sequence[str | Path] = (),
    licence: str = "",
) -> Path:
    """Write a network as a folder that `from_pretrained` reads, here or on the hub.

    Args:
        network: with adapters or merged; it is not changed.
        folder: appears whole, in place of a former one of the same kind.
        adapters_only: write peft's layout (adapter_config.json, adapter_model.safetensors), which needs a backbone to
            track, instead of config.json and a merged model.safetensors.
        dtype: of the weights; left out, the widest of what there is.
        scores: scores.json files that `lorat evaluate` wrote; they become the card's table and its `model-index`.
        licence: the hub's short name of the weights' licence, such as apache-2.0.
    Returns the folder. Raises InputError for a folder of other things, scores that cannot be read, or no adapters.
    """
    folder = Path(folder)
    check_place(folder)
    rows = read_scores(scores)
    with whole_folder(folder) as part:
        weights = part / "adapters" if adapters_only else part / HUB_WEIGHTS
        save_checkpoint(network, weights, "peft" if adapters_only else "merged", dtype)
        if adapters_only:
            for name in ADAPTER_FILES:
                (weights / name).rename(part / name)
            for rest in weights.iterdir():
                rest.unlink()  # peft's empty card
            weights.rmdir()
        describe(part, network.variant, folder.name, rows, licence)
    return folder


def convert_for_hub(
    source: str | Path,
    folder: Path,
    model: str | None = None,
    backbone: str | None = None,
    dtype: torch.dtype | None = None,
    scores: Sequence[str | Path] = (),
    licence: str = "",
) -> tuple[Weights, Variant]:
    """Write weights of any layout as `save_pretrained` does; the header of the file is kept.

    Arguments are those of `saving.convert` and `save_pretrained`. Returns what was recognised. Raises InputError.
    """
    check_place(folder)
    rows = read_scores(scores)
    with whole_folder(folder) as part:
        weights, variant, _ = convert(source, part / HUB_WEIGHTS, model, backbone, "merged", dtype)
        describe(part, variant, folder.name, rows, licence)
    return weights, variant


def check_place(folder: Path) -> None:
    """Raise InputError if a folder holds anything but what `save_pretrained` writes."""
    foreign = sorted(p.name for p in folder.iterdir() if p.name not in OWN_FILES) if folder.is_dir() else []
    if foreign:
        raise InputError(f"{folder}: holds other files, such as {foreign[0]}: name a new folder")


def read_scores(files: Sequence[str | Path]) -> list[dict[str, Any]]:
    """The rows of scores.json files. Raises InputError for others."""
    rows: list[dict[str, Any]] = []
    for file in map(Path, files):
        try:
            found = [
                {k: v for k, v in row.items() if not k.endswith("_curve")} for row in parse_json(read_plain_text(file))
            ]
            wanted = {"tracker", "benchmark", "protocol", "frames", *MEASURES}
            if not found or any(wanted - row.keys() for row in found):
                raise ValueError("a row lacks " + ", ".join(sorted(wanted)))
            for row in found:
                if not isinstance(row["benchmark"], str) or row["protocol"] not in PROTOCOLS:
                    raise ValueError(f"no benchmark and protocol: {row['benchmark']!r:.40}, {row['protocol']!r:.40}")
                if wrong := [f for f in MEASURES if not isinstance(row[f], float | int | None)]:
                    raise ValueError(f"{wrong[0]} is no number")
        except (ValueError, AttributeError, TypeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{file}: is no scores.json of lorat evaluate ({first_line(error)}): name one") from error
        rows += found
    return rows


def describe(folder: Path, variant: Variant, name: str, rows: Sequence[dict[str, Any]], licence: str = "") -> None:
    """Write the card into a folder of weights, and config.json unless these are adapters in peft's layout.

    config.json has the variant and the weights' SHA-256. `rows` are of `read_scores`.
    """
    if (folder / HUB_WEIGHTS).is_file():
        config = {
            "architectures": ["LoRAT"],
            "model_type": "lorat",
            "library_name": "lorat_plugin",
            "library_version": version("lorat_plugin"),
            "variant": json.loads(variant.to_json()),
            "sha256": {HUB_WEIGHTS: file_digest(folder / HUB_WEIGHTS)},
        }
        (folder / HUB_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    adapters = (folder / ADAPTER_FILES[0]).is_file()
    (folder / CARD).write_text(model_card(variant, name, rows, licence, adapters), encoding="utf-8")


def model_card(
    variant: Variant, name: str, rows: Sequence[dict[str, Any]], licence: str = "", adapters: bool = False
) -> str:
    """A model card: the hub's metadata with the measured figures, how to track, sizes, and a table of the scores."""
    from huggingface_hub import EvalResult, ModelCardData

    try:
        base = hub_id(variant)
    except CheckpointError:
        base = None
    results = [
        EvalResult(
            "visual-object-tracking", row["benchmark"], row["benchmark"], field, round(row[field], 4),
            metric_name=MEASURES[field], dataset_args={"protocol": row["protocol"]},
        )
        for row in rows for field in MEASURES if row[field] is not None
    ]  # fmt: skip
    data = ModelCardData(
        library_name="peft" if adapters else "lorat_plugin",
        license=licence or None,
        base_model=base,
        tags=["visual-object-tracking", "single-object-tracking", "lorat"],
        model_name=name if results else None,
        eval_results=results or None,
    )
    call = '"owner/name", backbone="dinov2.pth"' if adapters else '"owner/name"'
    sizes = f"{variant.template_size} px template, {variant.search_size} px search region, {variant.depth} blocks"
    lines = [
        f"---\n{data.to_yaml()}\n---\n",
        f"# {name}\n",
        "A single-object tracker: given a box in the first frame of a video, it follows what is inside. Method: LoRAT, "
        "[arXiv 2403.05231](https://arxiv.org/abs/2403.05231).\n",
        "```python\nfrom lorat_plugin import LoRATTracker\n\n"
        f"tracker = LoRATTracker.from_pretrained({call})\n"
        "tracker.init(frame, box)  # (H, W, 3) uint8 RGB; x, y, w, h in pixels\n"
        "result = tracker.update(next_frame)  # result.box, result.score\n```\n",
        f"Variant `{variant.name}` ({sizes}), backbone `{base or variant.backbone}`"
        + (f"; LoRA adapters of rank {variant.lora_rank}, not merged.\n" if adapters else "; adapters merged.\n"),
    ]
    if rows:
        lines += ["Measured by `lorat evaluate`, one run from the first box, no restart.\n", "\n".join(markdown(rows))]
    return "\n".join(lines) + "\n"


def push_to_hub(
    folder: str | Path,
    repo: str,
    *,
    revision: str | None = None,
    private: bool | None = None,
    token: str | None = None,
    message: str = "Tracker by lorat_plugin",
) -> str:
    """Upload a folder of `save_pretrained` to the hub; the repository and the branch are made if they are missing.

    Args:
        folder: the folder.
        repo: owner/name.
        revision: branch; the hub's main one if left out.
        private: for a new repository.
        token: of access; left out, HF_TOKEN or that of `hf auth login`.
        message: of the commit.
    Returns the commit's hash, to pin by `revision=`. Raises InputError for a folder of other things, a name that the
    hub refuses, or a hub that cannot be reached or gives no access.
    """
    from huggingface_hub import HfApi

    folder = Path(folder)
    check_place(folder)
    if not any((folder / name).is_file() for name in (HUB_WEIGHTS, ADAPTER_FILES[1])):
        raise InputError(f"{folder}: holds no weights: write the folder with save_pretrained first")
    api = HfApi(token=token)
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        if revision:
            api.create_branch(repo, branch=revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            revision=revision,
            commit_message=message,
            delete_patterns=[HUB_CONFIG, HUB_WEIGHTS, *ADAPTER_FILES],  # of a former push of the other kind
        )
    except Exception as error:  # the hub's client raises many kinds
        raise InputError(
            f"'{repo}' could not be pushed to the hub ({first_line(error)}): check the name, the token (HF_TOKEN, or "
            "hf auth login) and the connection"
        ) from error
    return commit.oid
