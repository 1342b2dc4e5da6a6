"""A run looked at without training: its data, schedule, sizes, memory and first batch, and a failed step again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.modules.module import register_module_forward_hook

from lorat_plugin.crop import NORMALIZATIONS
from lorat_plugin.datasets.sequences import VideoSequence
from lorat_plugin.devices import PRECISIONS, best_precision, find_device
from lorat_plugin.errors import InputError
from lorat_plugin.files import whole_file
from lorat_plugin.synthetic.pairs import ObjectPairs, PairSource
from lorat_plugin.training.config import TrainConfig, load_config
from lorat_plugin.training.methods import check_method, training_network
from lorat_plugin.training.pairs import ClipPairs, DatasetPairs, WithAbsent, leaves, read_clips
from lorat_plugin.training.recipe import Batch, collate, compute_loss, learning_rate, step_seed
from lorat_plugin.training.sources import open_pairs
from lorat_plugin.training.state import STATE_NAME, read_state, spread_state
from lorat_plugin.variants import Variant

SHOWN = 8  # pairs in the picture


@dataclass(frozen=True)
class Source:
    """One source of pairs, with `share` of 1 of them; sequences, frames and boxes that it holds, 0 if they are made."""

    use: str
    name: str
    share: float
    sequences: int = 0
    frames: int = 0
    boxes: int = 0

    def __str__(self) -> str:
        """The source in one line."""
        held = f", {self.sequences:,} sequences, {self.frames:,} frames, {self.boxes:,} boxes" if self.sequences else ""
        return f"{self.use}: {self.name}, {self.share:.0%} of the pairs{held}"


@dataclass(frozen=True)
class Memory:
    """Bytes that a process needs while training, without FSDP."""

    weights: int  # float32
    gradients: int
    moments: int  # AdamW's two
    activations: int  # what the backward pass keeps

    @property
    def total(self) -> int:
        """All of them. Peaks measured on a CPU lie up to a third above: workspaces, gradients of activations."""
        return self.weights + self.gradients + self.moments + self.activations


@dataclass(frozen=True)
class Plan:
    """Plan of a run. `rates` are (update, learning rate); `unreadable` names files met in the first batch."""

    variant: str
    mode: str
    precision: str
    sources: tuple[Source, ...]
    updates: int
    epochs: float
    batch_size: int
    micro_batch: int
    rates: tuple[tuple[int, float], ...]
    parameters: int
    trained: int
    memory: Memory
    picture: str
    unreadable: tuple[str, ...]

    def __str__(self) -> str:
        """The plan in lines."""
        lines = [f"{self.variant}, mode {self.mode}, precision {self.precision}"]
        lines += map(str, self.sources)
        rates = ", ".join(f"{rate:.3g} at {update:,}" for update, rate in self.rates)
        memory = ", ".join(f"{name} {_gigabytes(size)}" for name, size in asdict(self.memory).items())
        lines += [
            f"schedule: {self.updates:,} updates of {self.batch_size} pairs, {self.epochs:.4g} epochs",
            f"learning rate: {rates}",
            f"parameters: {self.parameters:,}, trained {self.trained:,} ({self.trained / self.parameters:.2%})",
            f"memory: about {_gigabytes(self.memory.total)} with {self.micro_batch} pairs at once ({memory})",
            f"first batch: {self.picture}",
        ]
        return "\n".join(lines + [f"cannot be read: {message}" for message in self.unreadable])


def dry_run(config: TrainConfig, out: Path) -> Plan:
    """Open all data and the network of a run, and draw its first batch as `first_batch.png` into the folder `out`.

    Raises InputError for whatever would stop the run before its first update.
    """
    check_method(config)
    dataset = open_pairs(replace(config, pairs_on="worker"))
    if config.bank_gb:
        open_pairs(config)  # does the bank fit?
    sources = _sources("training", dataset.source)
    if config.validation_datasets:
        sources += _sources("validation", dataset.for_validation().source)
    if config.validation_clips:
        sources.append(_clips("validation, tracked", read_clips(Path(config.validation_clips)), 1.0))
    pairs = [dataset[i] for i in range(min(SHOWN, config.batch_size))]
    batch = collate(pairs)
    picture = out / "first_batch.png"
    with whole_file(picture) as part:
        cv2.imwrite(str(part), cv2.cvtColor(draw_batch(batch, dataset.variant), cv2.COLOR_RGB2BGR))
    network = training_network(config)
    precision = best_precision(find_device(config.device)) if config.precision == "auto" else config.precision
    micro_batch = config.micro_batch or config.batch_size
    marks = sorted({0, config.warmup_steps // 2, config.warmup_steps + 1, config.steps // 2, config.steps - 1})
    schedule = {"peak": config.lr, "warmup": config.warmup_steps, "total": config.steps, "final": config.final_lr}
    return Plan(
        variant=config.variant,
        mode=f"{config.mode} ({config.adapter})" if config.mode == "lora" else config.mode,
        precision=precision,
        sources=tuple(sources),
        updates=config.steps,
        epochs=config.steps * config.batch_size / config.epoch_size,
        batch_size=config.batch_size,
        micro_batch=micro_batch,
        rates=tuple((m, learning_rate(m, **schedule)) for m in marks if m < config.steps),  # type: ignore[arg-type]
        parameters=sum(p.numel() for p in network.parameters()),
        trained=sum(p.numel() for p in network.parameters() if p.requires_grad),
        memory=estimate_memory(network, batch, micro_batch, precision, config.checkpointing),
        picture=str(picture),
        unreadable=tuple(dict.fromkeys(name for pair in pairs for name in pair.unreadable)),
    )


def estimate_memory(network: nn.Module, batch: Batch, pairs: int, precision: str, checkpointing: bool) -> Memory:
    """Memory of training with `pairs` pairs sent through the network at once.

    4 bytes for each parameter; 4 for the gradient and 8 for the moments of each trained one; and what autograd keeps,
    counted in passes of one and two pairs on the CPU: a part that every pass has, and a part for each pair. With
    activation checkpointing a block keeps its input (4 bytes a value) and one block at a time keeps the rest.
    """
    one, two = (kept_bytes(network, batch.part(0, n), precision) for n in (1, min(2, len(batch.box))))
    each = two - one or one
    kept = one - each + pairs * each
    if checkpointing:
        variant: Variant = network.variant  # type: ignore[assignment]
        tokens = variant.template_grid**2 + variant.search_grid**2
        kept = kept // variant.depth + pairs * variant.depth * tokens * variant.dim * 4
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    weights = sum(t.numel() for t in (*network.parameters(), *network.buffers()))
    return Memory(4 * weights, 4 * trained, 8 * trained, kept)


def kept_bytes(network: nn.Module, batch: Batch, precision: str) -> int:
    """Bytes of all tensors that the backward pass of a batch needs, the network's own left out."""
    own = {t.untyped_storage().data_ptr() for t in (*network.parameters(), *network.buffers())}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor), autocast("cpu", precision):
        loss = compute_loss(network, batch).total  # alive here, so that no storage is freed and its address used again
        return sum(size for address, size in kept.items() if address not in own) if loss.requires_grad else 0


def draw_batch(batch: Batch, variant: Variant) -> np.ndarray:
    """The pairs of a batch as a (H, W, 3) uint8 RGB picture, two in a row.

    Each as template, template with its foreground cells in green, search region with its positive cells in green and
    the box in red.
    """
    mean, std = (np.array(v, np.float32) for v in NORMALIZATIONS[variant.normalization])
    tiles = []
    for z, x, mask, box, positive in zip(*batch[:5], strict=True):
        template, search = (np.clip((t.permute(1, 2, 0).numpy() * std + mean) * 255, 0, 255) for t in (z, x))
        panels = [template, _tinted(template, mask.numpy() > 0), _tinted(search, positive.numpy())]
        corners = np.rint(box.numpy() * variant.search_size).astype(int).tolist()
        if positive.any():
            cv2.rectangle(panels[2], corners[:2], corners[2:], (255, 40, 30), 1)
        low = variant.search_size - variant.template_size
        tiles.append(np.hstack([np.pad(p, ((0, low), (0, 4), (0, 0))) for p in panels[:2]] + [panels[2]]))
    tiles += [np.zeros_like(tiles[0])] * (len(tiles) % 2)
    rows = [np.hstack([left, right]) for left, right in zip(tiles[::2], tiles[1::2], strict=True)]
    return np.vstack(rows).astype(np.uint8)


def _tinted(image: np.ndarray, cells: np.ndarray) -> np.ndarray:
    wide = np.kron(cells, np.ones((image.shape[0] // len(cells),) * 2, bool))[..., None]
    return np.ascontiguousarray(np.where(wide, 0.7 * image + 0.3 * np.array([0, 255, 60]), image), np.float32)


def _sources(use: str, source: PairSource) -> list[Source]:
    """Lines for all that the pairs of a source are made of."""
    rows: list[Source] = []
    for leaf, whole in leaves(source):
        if isinstance(leaf, DatasetPairs):
            indexed: Any
            for indexed, share in zip(leaf.datasets, leaf.shares, strict=True):
                name, held = f"{indexed.name} in {indexed.store.shown('')}", (indexed.frame_count, indexed.box_count)
                rows.append(Source(use, name, whole * float(share), len(indexed), *held))
        elif isinstance(leaf, ClipPairs):
            rows.append(_clips(use, leaf.clips, whole))
        elif whole:
            material = leaf.material
            content = f"{material.cutout_count} objects moved" if isinstance(leaf, ObjectPairs) else "patches moved"
            rows.append(Source(use, f"{content} over {material.photo_count} photos", whole))
    if isinstance(source, WithAbsent):
        rows.append(Source(use, "pairs of these without their target", source.share))
    return rows


def _clips(use: str, clips: Sequence[VideoSequence], share: float) -> Source:
    frames = sum(len(clip.frames) for clip in clips)
    return Source(use, "labelled clips", share, len(clips), frames, sum(int(clip.present.sum()) for clip in clips))


def _gigabytes(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"


def replay(folder: Path, device: str = "cpu") -> list[str]:
    """Do a written step again, on one process, and say where it goes wrong.

    Args:
        folder: `not_finite_step_*` of a run.
        device: torch's name of the device.
    Returns one line for each share of the batch: its loss, and the first input, layer or gradient that is not finite.
    Raises InputError for any other folder.
    """
    shares = sorted(folder.glob("batch_*.safetensors"))
    if not shares or not (folder / STATE_NAME).is_file():
        raise InputError(f"{folder} holds no step to replay; name a not_finite_step_* folder of a run")
    config = load_config(str(folder / "config.yaml"))
    network = training_network(config)
    spread_state(network, None, read_state(folder / STATE_NAME)[0], folder)
    network.to(device)
    lines = []
    for rank, path in enumerate(shares):
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata()
            step, count = int(metadata["step"]), float(metadata["count"])
            batch = Batch(**load_file(path, device=device))
        except (OSError, SafetensorError, TypeError, KeyError, ValueError) as error:
            raise InputError(f"{path} cannot be read ({error}); it belongs to a step that was not finite") from error
        torch.manual_seed(step_seed(config.seed, step, rank))
        with autocast(torch.device(device).type, metadata.get("precision", "no")):
            lines.append(f"share {rank}: {_inspect(network, batch, count)}")
    return lines


def autocast(device: str, precision: str) -> torch.autocast:
    """Autocast on a device type to "bf16" or "fp16"; any other precision computes as it is."""
    return torch.autocast(device, PRECISIONS.get(precision), enabled=precision in ("bf16", "fp16"))


def _inspect(network: nn.Module, batch: Batch, count: float) -> str:
    for field, value in batch.tensors().items():
        if not torch.isfinite(value).all():
            return f"the {field} of pair {int((~torch.isfinite(value)).nonzero()[0, 0])} is not finite"
    names = {module: name for name, module in network.named_modules() if not any(module.children())}
    broken: list[str] = []

    def watch(module: nn.Module, inputs: object, output: object) -> None:
        parts = output if isinstance(output, tuple) else (output,)
        if module in names and any(isinstance(t, torch.Tensor) and not torch.isfinite(t).all() for t in parts):
            broken.append(names[module])

    with register_module_forward_hook(watch):
        losses = compute_loss(network, batch, count)
    total, cls, box = (float(loss.detach()) for loss in losses[:3])
    text = f"loss {total:.6g} (cls {cls:.6g}, giou {box:.6g})"
    if broken:
        return f"{text}; the first layer whose output is not finite is {broken[0]}"
    network.zero_grad(set_to_none=True)
    losses.total.backward()
    for name, parameter in network.named_parameters():
        if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
            return f"{text}; the gradient of {name} is not finite"
    return f"{text}; everything is finite here"
