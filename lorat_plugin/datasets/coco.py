"""COCO 2017 (arXiv 1405.0312): stills, each a sequence of one frame with a track for each object that is no crowd."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

import numpy as np

from lorat_plugin.boxes import xywh_to_xyxy
from lorat_plugin.datasets.sequences import Entry, Frames, Store, Track, VideoSequence, image_size, read_text
from lorat_plugin.errors import InputError
from lorat_plugin.files import parse_json

LAYOUT = "ROOT/annotations/instances_train2017.json and ROOT/images/train2017/000000000009.jpg ..."


@dataclass(frozen=True)
class CocoReader:
    """The images of `subset`, in the order of the annotation file, without those whose names start as `excluded`."""

    subset: str = "train2017"
    excluded: tuple[str, ...] = ()
    name: str = "coco"
    layout: str = LAYOUT
    mark: str = "annotations"

    def labels(self, store: Store) -> list[str]:
        """The annotation file. Raises InputError if it is missing."""
        path = f"annotations/instances_{self.subset}.json"
        if not store.exists(path):
            raise InputError(f"{store.shown(path)}: is missing; COCO wants {LAYOUT}")
        return [path]

    def entries(self, store: Store) -> Iterator[Entry]:
        """The images. Raises InputError if the annotation file is damaged or another."""
        (path,) = self.labels(store)
        try:
            content = parse_json(read_text(store, path))
            boxes: dict[int, list[Any]] = defaultdict(list)
            for annotation in content["annotations"]:
                if not annotation.get("iscrowd", 0):
                    boxes[annotation["image_id"]].append(annotation.get("bbox"))
            counts = Counter(image["id"] for image in content["images"])
            if stray := [number for number in boxes if number not in counts]:
                yield Entry(self.name, partial(_refuse, store.shown(path), "of annotations are of no image", stray))
            if twice := [number for number, count in counts.items() if count > 1]:
                yield Entry(self.name, partial(_refuse, store.shown(path), "are of several images", twice))
            for image in content["images"]:
                if str(image["file_name"]).startswith(self.excluded):
                    continue
                yield Entry(str(image["file_name"]), partial(self._read, store, path, image, boxes[image["id"]]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"{store.shown(path)}: is damaged or no COCO instances file ({error!r}); restore it"
            ) from error

    def _read(self, store: Store, path: str, image: dict[str, Any], boxes_xywh: list[Any]) -> VideoSequence:
        name = str(image["file_name"])
        frames = Frames.listed(f"images/{self.subset}", [name])
        if not store.exists(frames.key(0)):
            raise InputError(
                f"{store.shown(frames.key(0))}: is missing, but listed in {path}; extract the images again"
            )
        try:
            boxes = xywh_to_xyxy(np.array(boxes_xywh, np.float64).reshape(len(boxes_xywh), 1, 4))
        except (ValueError, TypeError, OverflowError) as error:
            raise InputError(
                f"{store.shown(path)}: image {name} has a box without 4 numbers ({error!r:.80}); restore it"
            ) from error
        size, stated = image_size(store, frames.key(0)), (image.get("width"), image.get("height"))
        note = (
            f"{store.shown(frames.key(0))}: is {size[0]}x{size[1]} pixels, {path} says {stated[0]}x{stated[1]}: do its"
            " boxes fit the picture?"
        )
        tracks = tuple(Track(box, np.isfinite(box).all(axis=1)) for box in boxes)
        return VideoSequence(name, frames, size, tracks, () if stated in (size, (None, None)) else (note,))


def _refuse(shown: str, problem: str, numbers: list[Any]) -> NoReturn:
    raise InputError(f"{shown}: {len(numbers)} ids {problem}, first {numbers[0]!r}; correct the file")
