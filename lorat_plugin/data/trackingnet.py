"""TrackingNet's training parts (arXiv 1803.10794): YouTube videos without flags of visibility."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from lorat_plugin.data.sequences import Entry, Frames, Sequence, Store, parse_boxes, read_text, select, single_track
from lorat_plugin.errors import InputError

LAYOUT = "ROOT/TRAIN_0/ ... TRAIN_11/ with frames/<video>/0.jpg ... and anno/<video>.txt (LMDB: ROOT/TRAIN_0_lmdb/ ...)"


@dataclass(frozen=True)
class TrackingNetReader:
    """The videos of all parts that are there, or those that `chosen` names."""

    chosen: tuple[str, ...] = ()
    name: str = "trackingnet"
    layout: str = LAYOUT
    mark: str = "TRAIN_0"

    def labels(self, store: Store) -> list[str]:
        """Annotation files, by part and name. Raises InputError if there is none or a chosen video is missing."""
        parts = training_parts(store)
        found = [
            f"{part}/anno/{file}" for part in parts for file in store.names(f"{part}/anno") if file.endswith(".txt")
        ]
        if not found:
            raise InputError(f"{store.shown('')}: no videos of TrackingNet; wanted {LAYOUT}")
        by_name = {_video(path): path for path in found}
        return [by_name[name] for name in select(list(by_name), self.chosen, store.shown(""))]

    def entries(self, store: Store) -> Iterator[Entry]:
        """The videos by part and name."""
        for path in self.labels(store):
            yield Entry(_video(path), partial(self._read, store, path))

    def _read(self, store: Store, path: str) -> Sequence:
        boxes = parse_boxes(read_text(store, path), store.shown(path))
        name = _video(path)
        frames = Frames(f"{path.partition('/')[0]}/frames/{name}", "%d.jpg", 0, len(boxes))
        if store.exists(frames.key(len(boxes))):
            raise InputError(f"{store.shown(path)}: has {len(boxes)} rows, but there are more frames; restore the file")
        return single_track(store, name, frames, boxes, np.ones(len(boxes), bool))


def training_parts(store: Store) -> list[str]:
    """The training parts that are there, TRAIN_2 before TRAIN_10."""
    return sorted((n for n in store.names("") if re.fullmatch("TRAIN_[0-9]+", n)), key=lambda name: int(name[6:]))


def _video(path: str) -> str:
    return path.rpartition("/")[2].removesuffix(".txt")
