"""TrackingNet (arXiv 1803.10794): YouTube videos without flags of visibility."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from lorat_plugin.box_files import parse_boxes
from lorat_plugin.datasets.sequences import Entry, Frames, Store, VideoSequence, read_text, select, single_track
from lorat_plugin.errors import InputError
from lorat_plugin.files import parse_json
from lorat_plugin.images import image_names

PARTS = 12
SEQUENCE_LIST = "seq_list.json"  # beside an LMDB's parts: [part, video] of all of them
LAYOUT = "ROOT/TRAIN_0/ ... TRAIN_11/ with frames/<video>/0.jpg ... and anno/<video>.txt (LMDB: ROOT/TRAIN_0_lmdb/ ...)"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrackingNetReader:
    """The videos of the parts of `subset` that are there, or those that `chosen` names.

    Of a video of the subset "test" only the first box is public.
    """

    chosen: tuple[str, ...] = ()
    name: str = "trackingnet"
    layout: str = LAYOUT
    mark: str = "TRAIN_0"
    subset: str = "train"

    def labels(self, store: Store) -> list[str]:
        """Annotation files, by part and name.

        Raises InputError if there is none, or a video of a list is missing: of `chosen`, or seq_list.json if there is
        one. Warns of parts that are missing unless `chosen` says what is wanted.
        """
        if not self.chosen and (problem := missing_parts(store)):
            logger.warning("%s", problem)
        _check_list(store)
        return self._paths(store)

    def entries(self, store: Store) -> Iterator[Entry]:
        """The videos by part and name."""
        for path in self._paths(store):
            yield Entry(_video(path), partial(self._read, store, path))

    def _paths(self, store: Store) -> list[str]:
        found = _annotations(store, ["TEST"] if self.subset == "test" else training_parts(store))
        if not found:
            raise InputError(f"{store.shown('')}: no videos of TrackingNet; wanted {self.layout}")
        by_name = {_video(path): path for path in found}
        return [by_name[name] for name in select(list(by_name), self.chosen, store.shown(""))]

    def _read(self, store: Store, path: str) -> VideoSequence:
        boxes = parse_boxes(read_text(store, path), store.shown(path))
        name = _video(path)
        frames = Frames(f"{path.partition('/')[0]}/frames/{name}", "%d.jpg", 0, len(boxes))
        if self.subset == "test":
            names = image_names(store.names(frames.folder), store.shown(frames.folder))
            frames = replace(frames, count=len(names))
            return single_track(store, name, frames, boxes, np.ones(len(boxes), bool), first_only=True)
        if store.exists(frames.key(len(boxes))):
            raise InputError(f"{store.shown(path)}: has {len(boxes)} rows, but there are more frames; restore the file")
        return single_track(store, name, frames, boxes, np.ones(len(boxes), bool))


def training_parts(store: Store) -> list[str]:
    """The training parts that are there, TRAIN_2 before TRAIN_10."""
    return sorted((n for n in store.names("") if re.fullmatch("TRAIN_[0-9]+", n)), key=lambda name: int(name[6:]))


def missing_parts(store: Store) -> str:
    """A sentence that names the training parts that are not there; empty if all are."""
    found = training_parts(store)
    missing = [f"TRAIN_{i}" for i in range(PARTS) if f"TRAIN_{i}" not in found]
    if not missing:
        return ""
    return f"{store.shown('')}: {len(missing)} of {PARTS} training parts are missing: {', '.join(missing)}"


def _annotations(store: Store, parts: list[str]) -> list[str]:
    return [f"{part}/anno/{file}" for part in parts for file in store.names(f"{part}/anno") if file.endswith(".txt")]


def _check_list(store: Store) -> None:
    """Raise InputError if seq_list.json names a video that a part lacks."""
    if not store.exists(SEQUENCE_LIST):
        return
    try:
        listed = {f"TRAIN_{int(part)}/anno/{video}.txt" for part, video in parse_json(read_text(store, SEQUENCE_LIST))}
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"{store.shown(SEQUENCE_LIST)}: is no list of [part, video]; remove or restore it") from error
    parts = training_parts(store)
    absent = sorted(path for path in listed - set(_annotations(store, parts)) if path.partition("/")[0] in parts)
    if absent:
        raise InputError(
            f"{store.shown(SEQUENCE_LIST)}: {len(absent)} of its videos are not there, first {absent[0]}; copy them or"
            " correct the list"
        )


def _video(path: str) -> str:
    return path.rpartition("/")[2].removesuffix(".txt")
