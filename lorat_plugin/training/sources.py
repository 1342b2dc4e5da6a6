"""Where the pairs of a run come from, data sets on the disk or material of which they are made, and its batches."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import torch
from torch.utils.data import DataLoader

from lorat_plugin.datasets.got10k import read_list
from lorat_plugin.datasets.index import IndexedDataset
from lorat_plugin.datasets.registry import open_dataset
from lorat_plugin.digests import Record, digest
from lorat_plugin.errors import InputError
from lorat_plugin.synthetic.material import Material
from lorat_plugin.synthetic.pairs import ObjectPairs, PairSource, PatchPairs
from lorat_plugin.training.config import MATERIAL, TrainConfig, check_data_rule
from lorat_plugin.training.device.bank import BankedDataset
from lorat_plugin.training.device.pairs import DevicePairs
from lorat_plugin.training.pairs import ClipPairs, DatasetPairs, MadePairs, Mix, WithAbsent, leaves, read_clips
from lorat_plugin.training.recipe import Batch, Pair, PairDataset
from lorat_plugin.variants import Variant, get_variant

logger = logging.getLogger(__name__)

HELD_OUT = {"lasot": {"subset": "test"}, "got10k": {"subset": "val"}, "coco": {"subset": "val2017"}}


def open_pairs(config: TrainConfig, variant: Variant | None = None) -> PairDataset:
    """The samples of a run, made where its settings say, for its variant unless another is given.

    Raises InputError as `training_source`, `validation_source` and `DevicePairs`.
    """
    kind = DevicePairs if config.pairs_on == "device" else PairDataset
    return kind(config, training_source(config), validation_source(config), variant)


def training_source(config: TrainConfig) -> PairSource:
    """Source of a run's pairs: its data sets, pairs of its material, or both by `dataset_share`.

    Raises InputError for data that are missing, malformed or against the run's rule (`protocol`), and for data sets and
    material of which one has no share.
    """
    check_data_rule(config)
    source: PairSource
    if not config.datasets:
        source = _made_pairs(config)
    else:
        datasets = [open_named(entry, config) for entry in config.datasets]
        source = _dataset_pairs(config, datasets, config.dataset_weights)
        material = [name for name in MATERIAL if getattr(config, name)]
        if material and not 0 < config.dataset_share < 1:
            raise InputError(
                f"{material[0]} and datasets are both given: set dataset_share, the data sets' share of all pairs,"
                " between 0 and 1, or leave one out"
            )
        if material:
            source = Mix([source, _made_pairs(config)], [config.dataset_share, 1 - config.dataset_share])
    return WithAbsent(source, config.absent_share) if config.absent_share else source


def validation_source(config: TrainConfig) -> PairSource | None:
    """The held-out splits that the settings name, or None. Raises InputError if there is no such split."""
    if not config.validation_datasets:
        return None
    return _dataset_pairs(config, [open_named(entry, config, held_out=True) for entry in config.validation_datasets])


def open_named(entry: str, config: TrainConfig, *, held_out: bool = False) -> IndexedDataset:
    """Open a data set as the settings write it, `NAME` or `NAME:FOLDER`; its held-out split on demand.

    Held out are GOT-10k's val, LaSOT's test and COCO's val2017 splits; other data sets are taken as they are.
    """
    name, _, folder = entry.partition(":")
    if held_out and name == "trackingnet":
        raise InputError("trackingnet has no held-out split with a box in every frame; validate on got10k, lasot, coco")
    options: dict[str, object] = {**HELD_OUT.get(name, {})} if held_out else {}
    if name == "coco":
        options["excluded"] = config.exclude
    if name == "got10k" and config.got10k_list and not held_out:
        options = {"chosen": read_list(Path(config.got10k_list)), "reading": config.got10k_reading}
    return open_dataset(name, folder or None, **options)


def data_record(config: TrainConfig, source: PairSource) -> Record:
    """The record of the data of a run, by the names in its settings: annotation of data sets, files of material."""
    record: Record = {}
    for pairs in (leaf for leaf, _ in leaves(source) if isinstance(leaf, DatasetPairs)):
        datasets = [d.dataset if isinstance(d, BankedDataset) else d for d in pairs.datasets]
        for entry, dataset in zip(config.datasets, datasets, strict=True):
            if isinstance(dataset, IndexedDataset):
                record[f"annotation of {entry}"] = dataset.record["annotation"]
    for name in MATERIAL:
        if folder := getattr(config, name):
            files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
            record[f"files of {name} {folder}"] = digest(f"{path.name} {path.stat().st_size}" for path in files)
    return record


def _dataset_pairs(config: TrainConfig, datasets: list[IndexedDataset], weights: Sequence[float] = ()) -> DatasetPairs:
    return DatasetPairs(
        datasets,
        weights or None,
        seed=config.seed,
        epoch_size=config.epoch_size,
        max_gap=config.max_gap,
        third=bool(get_variant(config.variant).reference_size),
    )


def _made_pairs(config: TrainConfig) -> Mix:
    cutouts, photos = (Path(f) if f else None for f in (config.cutouts, config.photos))
    material = Material(cutouts, photos, config.exclude, seed=config.seed)
    sources: list[MadePairs] = [ObjectPairs(material), PatchPairs(material)]
    weights = [config.object_weight, config.patch_weight]
    if config.clips:
        labels = Path(config.clip_labels) if config.clip_labels else None
        clips = read_clips(Path(config.clips), config.exclude, labels)
        sources.append(ClipPairs(clips, config.max_gap, third=bool(get_variant(config.variant).reference_size)))
        weights.append(config.clip_weight)
    if sum(weights) <= 0:
        raise InputError("clip_weight is the only share above 0, but no clips are given: name their folder (--clips)")
    return Mix(sources, weights)


class Unreadable:
    """Files that could not be decoded and were passed over; each counts once, however often it is drawn."""

    def __init__(self, limit: int) -> None:
        """Allow so many."""
        self.limit = limit
        self._seen: dict[str, None] = {}

    def note(self, messages: Iterable[str]) -> None:
        """Count files by the sentences that name them. Raises InputError beyond the limit."""
        for message in messages:
            if message not in self._seen:
                logger.warning("passed over: %s", message)
                self._seen[message] = None
        if len(self._seen) > self.limit:
            raise InputError(
                f"{len(self._seen)} files cannot be decoded, unreadable_limit is {self.limit}; repair the data,"
                f" the first are: {' | '.join([*self._seen][:3])}"
            )

    def summary(self) -> str:
        """All files that were passed over, one a line below their number; empty if there are none."""
        return "\n  ".join([f"{len(self._seen)} files could not be decoded:", *self._seen]) if self._seen else ""


class Batches:
    """One process's share of a run's batches, in order. `unreadable` counts the files that were passed over."""

    def __init__(self, loader: DataLoader[Pair], dataset: PairDataset, unreadable: Unreadable) -> None:
        """Go through `loader`, which has the samples of `dataset`, once."""
        self._loader, self._dataset, self.unreadable = loader, dataset, unreadable

    def __iter__(self) -> Iterator[Batch]:
        """The batches. Raises InputError beyond the number of unreadable files that is allowed."""
        try:
            for batch, names in self._loader:
                self.unreadable.note(names)
                yield self._dataset.receive(batch)
        except InputError as error:  # a worker's error comes with its traceback in front
            raise InputError(str(error).rstrip().rpartition("InputError: ")[2]) from error


def make_loader(
    dataset: PairDataset, config: TrainConfig, first_step: int = 0, rank: int = 0, ranks: int = 1
) -> Batches:
    """Batches of the steps from `first_step` on, the same whatever the number of workers.

    Step s has samples s * B to (s + 1) * B, B pairs over all processes; process `rank` of `ranks` gets every
    `ranks`-th of them, counted from its own rank. Raises InputError if that leaves a process without a pair.
    """
    size = config.batch_size
    if size < ranks:
        raise InputError(f"batch_size {size} is too small for {ranks} processes; each needs a pair in every update")
    cv2.setNumThreads(1)  # here as well: workers that are forked while OpenCV has a pool of threads hang
    starts = range(first_step * size, config.steps * size, size)
    loader = DataLoader(
        dataset,
        batch_sampler=[range(start + rank, start + size, ranks) for start in starts],  # type: ignore[misc]
        num_workers=config.workers,
        collate_fn=partial(_collate_named, dataset.collate),
        prefetch_factor=4 if config.workers else None,
        worker_init_fn=_one_thread,
        pin_memory=torch.cuda.is_available(),
    )
    return Batches(loader, dataset, Unreadable(config.unreadable_limit))


def _collate_named(stack: Callable[[list[Pair]], Batch], pairs: list[Pair]) -> tuple[Batch, list[str]]:
    return stack(pairs), [name for pair in pairs for name in pair.unreadable]


def _one_thread(worker: int) -> None:
    # a worker is one of many: its libraries must not start a thread for every core
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def validation_batches(config: TrainConfig, dataset: PairDataset) -> list[Batch]:
    """The pairs of every validation, from held-out splits if the settings name any."""
    size = min(config.micro_batch or config.batch_size, config.validation_pairs)
    steps = -(-config.validation_pairs // size)
    return list(make_loader(dataset.for_validation(), replace(config, steps=steps, batch_size=size)))
