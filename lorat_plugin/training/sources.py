"""Where the pairs of a run come from: data sets on the disk, and material of which pairs are made on the fly."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.random import Generator

from lorat_plugin.datasets.got10k import read_list
from lorat_plugin.datasets.index import IndexedDataset
from lorat_plugin.datasets.registry import open_dataset
from lorat_plugin.digests import Record, digest
from lorat_plugin.errors import InputError
from lorat_plugin.files import parse_json
from lorat_plugin.synthetic.material import Material
from lorat_plugin.synthetic.pairs import FramePair, ObjectPairs, PatchPairs
from lorat_plugin.training.config import TrainConfig
from lorat_plugin.training.device.bank import BankedDataset
from lorat_plugin.training.pairs import ClipPairs, DatasetPairs, MadePairs, PairSource, WithAbsent, read_clips
from lorat_plugin.variants import get_variant

HELD_OUT = {"lasot": {"subset": "test"}, "got10k": {"subset": "val"}, "coco": {"subset": "val2017"}}
MATERIAL = ("cutouts", "photos", "clips", "clip_labels")

logger = logging.getLogger(__name__)


class Mix:
    """Pairs of several sources, by shares."""

    def __init__(self, sources: Sequence[MadePairs], weights: Sequence[float]) -> None:
        """Weights are 0 or more and not all 0."""
        self.sources, self.shares = list(sources), np.array(weights) / sum(weights)

    def planned(self, epoch: int, index: int, rng: Generator) -> FramePair | None:
        """Draw a source, then its planned pair; made pairs are not planned by a list."""
        source = self._draw(rng)
        return source.planned(epoch, index, rng) if isinstance(source, (DatasetPairs, Mix)) else source.sample(rng)

    def sample(self, rng: Generator) -> FramePair | None:
        """Draw a source, then a pair."""
        return self._draw(rng).sample(rng)

    def _draw(self, rng: Generator) -> MadePairs:
        return self.sources[int(rng.choice(len(self.sources), p=self.shares))]


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
    for pairs in _dataset_pairs_within(source):
        datasets = [d.dataset if isinstance(d, BankedDataset) else d for d in pairs.datasets]
        for entry, dataset in zip(config.datasets, datasets, strict=True):
            if isinstance(dataset, IndexedDataset):
                record[f"annotation of {entry}"] = dataset.record["annotation"]
    for name in MATERIAL:
        if folder := getattr(config, name):
            files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
            record[f"files of {name} {folder}"] = digest(f"{path.name} {path.stat().st_size}" for path in files)
    return record


def _dataset_pairs_within(source: object) -> Iterator[DatasetPairs]:
    """The pairs of data sets in a source."""
    if isinstance(source, DatasetPairs):
        yield source
    elif isinstance(source, WithAbsent):
        yield from _dataset_pairs_within(source.source)
    elif isinstance(source, Mix):
        for part in source.sources:
            yield from _dataset_pairs_within(part)


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
