"""LaSOT (arXiv 1809.07845): boxes count pixels from 1; two files of flags say when the target is not to be seen."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from lorat_plugin.box_files import parse_boxes, parse_flags
from lorat_plugin.datasets.sequences import Entry, Frames, Store, VideoSequence, read_text, single_track
from lorat_plugin.errors import InputError

LAYOUT = "ROOT/airplane/airplane-1/ (or ROOT/airplane-1/) with img/00000001.jpg ... and groundtruth.txt"
FLAG_FILES = ("full_occlusion.txt", "out_of_view.txt")


@dataclass(frozen=True)
class LasotReader:
    """LaSOT's sequences: those of `chosen`, or the published split `subset`, train (1120) or test (280).

    `one_based`: whether the top left pixel is 1, 1, as in LaSOT itself; published readers take its extension otherwise.
    """

    chosen: tuple[str, ...] = ()
    subset: str = "train"
    name: str = "lasot"
    layout: str = LAYOUT
    mark: str = ""
    one_based: bool = True

    def labels(self, store: Store) -> list[str]:
        """Annotation files. Raises InputError if sequences are missing."""
        names = list(self.chosen) or lasot_split(self.subset)
        missing = [name for name in names if not store.exists(f"{lasot_home(store, name)}/groundtruth.txt")]
        if missing:
            raise InputError(
                f"{store.shown('')}: {len(missing)} of {len(names)} LaSOT sequences are missing, first"
                f" '{missing[0]}'; wanted {self.layout}; to use some only, give their names in a list"
            )
        return [f"{lasot_home(store, name)}/{file}" for name in names for file in ("groundtruth.txt", *FLAG_FILES)]

    def entries(self, store: Store) -> Iterator[Entry]:
        """The sequences in the order of the list."""
        for name in self.chosen or lasot_split(self.subset):
            yield Entry(name, partial(self._read, store, name))

    def _read(self, store: Store, name: str) -> VideoSequence:
        home = lasot_home(store, name)
        path = f"{home}/groundtruth.txt"
        boxes = parse_boxes(read_text(store, path), store.shown(path))
        hidden = hidden_frames(store, home, len(boxes))
        # as many frames as boxes: the folder of monkey-17 has more
        frames = Frames(f"{home}/img", "%08d.jpg", 1, len(boxes))
        return single_track(store, name, frames, boxes, ~hidden, one_based=self.one_based)


def lasot_class(name: str) -> str:
    """The class of a sequence, which is also the folder that it lies in."""
    return name.rpartition("-")[0]


def lasot_home(store: Store, name: str) -> str:
    """The folder of a sequence, in its class's folder or beside the others."""
    home = f"{lasot_class(name)}/{name}"
    return name if not store.exists(f"{home}/groundtruth.txt") and store.exists(f"{name}/groundtruth.txt") else home


def hidden_frames(store: Store, home: str, length: int) -> np.ndarray:
    """Frames in which a flag says that the target is not to be seen, (length,) bool.

    Raises InputError for a file that is missing or has not a flag for each frame.
    """
    paths = [f"{home}/{file}" for file in FLAG_FILES]
    flags = [parse_flags(read_text(store, path), length, store.shown(path)) for path in paths]
    return np.any([np.zeros(length, bool), *flags], axis=0)


def lasot_split(subset: str) -> list[str]:
    """Names of LaSOT's train (1120) or test (280) sequences, from the list that every release of got10k has."""
    found = find_spec("got10k")
    if not found or not found.submodule_search_locations:
        raise InputError(
            "LaSOT's split lists come with the package got10k; pip install got10k, or give a list of names"
        )
    path = Path(next(iter(found.submodule_search_locations))) / "datasets" / "lasot.json"
    splits: dict[str, list[str]] = json.loads(path.read_text(encoding="utf-8"))
    if subset not in splits:
        raise InputError(f"unknown LaSOT subset '{subset}': use {' or '.join(splits)}")
    return splits[subset]
