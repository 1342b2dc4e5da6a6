"""Data sets of one folder for each video with a text file of boxes: LaSOT, VastTrack, TNL2K, VOT, and own clips."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from lorat_plugin.box_files import parse_boxes, parse_flags, parse_regions
from lorat_plugin.datasets.sequences import Entry, Frames, Store, VideoSequence, read_text, select, single_track
from lorat_plugin.errors import InputError
from lorat_plugin.images import image_names

LASOT_LAYOUT = "ROOT/airplane/airplane-1/ (or ROOT/airplane-1/) with img/00000001.jpg ... and groundtruth.txt"
FLAG_FILES = ("full_occlusion.txt", "out_of_view.txt")


@dataclass(frozen=True)
class FolderReader:
    """Videos in folders, found by their box file.

    Fields: images, the frames' folder in a video's folder, or "" for beside the boxes; files, names of the box file,
    the first that is there counts; depth, folders between root and boxes; one_based, whether the top left pixel is
    1, 1; regions, whether VOT's polygons and masks are understood, and frames found beside the boxes if there is no
    folder of images. A frame whose box has no area does not show the object.
    """

    name: str
    layout: str
    images: str
    files: tuple[str, ...] = ("groundtruth.txt",)
    depth: int = 1
    one_based: bool = False
    regions: bool = False
    chosen: tuple[str, ...] = ()
    mark: str = ""

    def labels(self, store: Store) -> list[str]:
        """Box files, sorted by folder. Raises InputError if there is none or a chosen video is missing."""
        homes = [""]
        for _ in range(self.depth):
            homes = [f"{home}/{name}".lstrip("/") for home in homes for name in store.names(home)]
        found = {}
        for home in homes:
            paths = [f"{home}/{file}" for file in self.files if store.exists(f"{home}/{file}")]
            if self.regions:  # a file for each object counts in place of the one for all
                paths = self._objects(store, home) or paths
            if paths:
                found[home.rpartition("/")[2]] = paths[0]
        if not found:
            raise InputError(f"{store.shown('')}: no video with {' or '.join(self.files)}; wanted {self.layout}")
        return [found[name] for name in select(list(found), self.chosen, store.shown(""))]

    def entries(self, store: Store) -> Iterator[Entry]:
        """The videos, sorted by folder."""
        for path in self.labels(store):
            yield Entry(path.split("/")[-2], partial(self._read, store, path))

    def _objects(self, store: Store, home: str) -> list[str]:
        return [f"{home}/{name}" for name in store.names(home) if re.fullmatch(r"groundtruth_.*\.txt", name)]

    def _read(self, store: Store, path: str) -> VideoSequence:
        home = path.rpartition("/")[0]
        if self.regions and (objects := self._objects(store, home)):
            raise InputError(
                f"{store.shown(home)}: has a file of regions for each of {len(objects)} objects, and one target a"
                " sequence is read here; run the VOT toolkit on them (lorat vot init), or give one object a folder with"
                " groundtruth.txt"
            )
        folder = f"{home}/{self.images}".rstrip("/")
        names = image_names(store.names(folder), store.shown(folder))
        if not names and self.regions:
            folder, names = home, image_names(store.names(home), store.shown(home))
        if not names:
            raise InputError(f"{store.shown(folder)}: holds no images; wanted {self.layout}")
        parse = parse_regions if self.regions else parse_boxes
        boxes = parse(read_text(store, path), store.shown(path))
        present = np.asarray((boxes[:, 2:] > 0).all(axis=1))
        return single_track(
            store, path.split("/")[-2], Frames.listed(folder, names), boxes, present, one_based=self.one_based
        )


def vasttrack_reader(chosen: tuple[str, ...] = ()) -> FolderReader:
    """VastTrack (arXiv 2403.03493); boxes count pixels from 1."""
    layout = "ROOT/<category>/<category>-1/ with imgs/00001.jpg ... and Groundtruth.txt"
    files = ("Groundtruth.txt", "groundtruth.txt")
    return FolderReader("vasttrack", layout, "imgs", files, depth=2, one_based=True, chosen=chosen)


def tnl2k_reader(chosen: tuple[str, ...] = ()) -> FolderReader:
    """TNL2K (arXiv 2103.16746); its training and test videos have a root each."""
    return FolderReader("tnl2k", "ROOT/<video>/ with imgs/ and groundtruth.txt", "imgs", chosen=chosen)


def vot_reader(chosen: tuple[str, ...] = ()) -> FolderReader:
    """Sequences of the VOT challenges and of the toolkit's workspaces; upright boxes around polygons and masks."""
    layout = "ROOT/<sequence>/ with color/00000001.jpg ... (or the frames themselves) and groundtruth.txt"
    return FolderReader("vot", layout, "color", regions=True, chosen=chosen)


def clips_reader(chosen: tuple[str, ...] = ()) -> FolderReader:
    """One's own videos; boxes count pixels from 0."""
    return FolderReader("clips", "ROOT/<video>/ with 0000.jpg ... and groundtruth.txt (x,y,w,h)", "", chosen=chosen)


@dataclass(frozen=True)
class LasotReader:
    """LaSOT's sequences: those of `chosen`, or the published split `subset`, train (1120) or test (280).

    `one_based`: whether the top left pixel is 1, 1, as in LaSOT itself; published readers take its extension otherwise.
    """

    chosen: tuple[str, ...] = ()
    subset: str = "train"
    name: str = "lasot"
    layout: str = LASOT_LAYOUT
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
        paths = [f"{home}/{file}" for file in FLAG_FILES]
        flags = [parse_flags(read_text(store, flag), len(boxes), store.shown(flag)) for flag in paths]
        # as many frames as boxes: the folder of monkey-17 has more
        frames = Frames(f"{home}/img", "%08d.jpg", 1, len(boxes))
        return single_track(store, name, frames, boxes, ~np.any(flags, axis=0), one_based=self.one_based)


def lasot_class(name: str) -> str:
    """The class of a sequence, which is also the folder that it lies in."""
    return name.rpartition("-")[0]


def lasot_home(store: Store, name: str) -> str:
    """The folder of a sequence, in its class's folder or beside the others."""
    home = f"{lasot_class(name)}/{name}"
    return name if not store.exists(f"{home}/groundtruth.txt") and store.exists(f"{name}/groundtruth.txt") else home


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
