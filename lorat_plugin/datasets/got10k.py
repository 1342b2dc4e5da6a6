"""GOT-10k (arXiv 1810.11981), whole or without the sequences that share scenes with the VOT challenge.

The list of the 7,086 sequences for VOT is the file `got10k_vot_train_split.txt` of OSTrack, STARK or pytracking; it
is not part of the data set. Its numbers are used in two readings. "index": a number is a place in `list.txt`, counted
from 0, as published models were trained; most of the sequences that the list means to leave out stay in. "name": a
number is the one in the sequence's name, which really leaves them out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from lorat_plugin.box_files import parse_boxes, parse_flags
from lorat_plugin.datasets.sequences import Entry, Frames, Store, VideoSequence, read_text, select, single_track
from lorat_plugin.errors import InputError
from lorat_plugin.files import read_plain_text
from lorat_plugin.images import image_names

LAYOUT = (
    "ROOT/train/list.txt and ROOT/train/GOT-10k_Train_000001/ with 00000001.jpg ..., groundtruth.txt, absence.label"
)
Reading = Literal["index", "name"]


@dataclass(frozen=True)
class Got10kReader:
    """GOT-10k's sequences: those of `subset` ("train", "val" or "test") that `chosen` names, or all.

    `chosen` holds names, or numbers in the sense of `reading`; names in `excluded` are left out in any case. A sequence
    of "test" has the box of its first frame only.
    """

    chosen: tuple[str, ...] = ()
    subset: str = "train"
    reading: Reading = "index"
    excluded: tuple[str, ...] = ()
    name: str = "got10k"
    layout: str = LAYOUT
    mark: str = "train/list.txt"

    def labels(self, store: Store) -> list[str]:
        """Annotation files. Raises InputError if the list is missing or names a sequence that is not there."""
        files = ("groundtruth.txt", "absence.label")
        names, there = self._names(store), set(store.names(self.subset))
        if missing := [name for name in names if name not in there]:
            raise InputError(
                f"{store.shown(f'{self.subset}/list.txt')}: {len(missing)} of {len(names)} sequences are not there,"
                f" first {missing[0]}; extract them, or choose those that are there by a list"
            )
        return [f"{self.subset}/list.txt"] + [f"{self.subset}/{n}/{f}" for n in names for f in files]

    def entries(self, store: Store) -> Iterator[Entry]:
        """The sequences in the order of list.txt."""
        for name in self._names(store):
            yield Entry(name, partial(self._read, store, name))

    def _names(self, store: Store) -> list[str]:
        path = f"{self.subset}/list.txt"
        if not store.exists(path):
            raise InputError(f"{store.shown(path)}: is missing; GOT-10k wants {self.layout}")
        listed = lines_of(read_text(store, path))
        chosen = numbered(self.chosen, listed, self.reading) if self.chosen else listed
        excluded = set(self.excluded)
        return [name for name in select(listed, tuple(chosen), store.shown(path)) if name not in excluded]

    def _read(self, store: Store, name: str) -> VideoSequence:
        home = f"{self.subset}/{name}"
        path = f"{home}/groundtruth.txt"
        boxes = parse_boxes(read_text(store, path), store.shown(path))
        if self.subset == "test":
            frames = Frames(home, "%08d.jpg", 1, len(image_names(store.names(home), store.shown(home))))
            return single_track(store, name, frames, boxes, np.ones(len(boxes), bool), first_only=True)
        path = f"{home}/absence.label"
        absent = parse_flags(read_text(store, path), len(boxes), store.shown(path))
        return single_track(store, name, Frames(home, "%08d.jpg", 1, len(boxes)), boxes, ~absent)


def numbered(chosen: tuple[str, ...], listed: list[str], reading: Reading) -> list[str]:
    """Names of the sequences that a split file chooses by names or numbers.

    Numbers are indices into `listed` from 0, or with reading "name" those at the end of a name. No name ends in number
    0, so a 0 chooses nothing then. Raises InputError for a number that fits no sequence.
    """
    by_number = {int(name.rpartition("_")[2]): name for name in listed if name.rpartition("_")[2].isdecimal()}
    by_place = dict(enumerate(listed))
    table = by_place if reading == "index" else by_number
    names = []
    for entry in chosen:
        if not entry.isdecimal():
            names.append(entry)
        elif int(entry) in table:
            names.append(table[int(entry)])
        elif reading == "index" or int(entry) != 0:
            raise InputError(
                f"the split list has the number {entry}, which fits none of the {len(listed)} sequences of list.txt"
                f" (read as {reading}); give the list that belongs to this data set"
            )
    return names


def lines_of(text: str) -> list[str]:
    """Entries of a list, one a line, as the toolkits read them: a name may hold blanks."""
    return [line.strip() for line in text.split("\n") if line.strip()]


def read_list(path: Path) -> tuple[str, ...]:
    """Entries of a split file, one a line. Raises InputError if it cannot be read or is empty."""
    try:
        entries = tuple(lines_of(read_plain_text(path)))
    except InputError as error:
        raise InputError(f"the split list cannot be read: {error}") from error
    if not entries:
        raise InputError(f"{path}: the split list is empty; write one sequence a line")
    return entries
