"""Decoded frames in the memory of a device: each is decoded and copied once, and trained on as often as it is drawn."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lorat_plugin.crop import mean_colour
from lorat_plugin.datasets.sequences import Dataset, Store, VideoSequence, image_size, read_frame
from lorat_plugin.errors import InputError
from lorat_plugin.training.device.pixels import pack
from lorat_plugin.video.source import read_image

GIGABYTE = 10**9
PIXEL_BYTES = 4
ROUND = 1024  # frames between two looks at the room


@dataclass(frozen=True, eq=False)
class BankFrame:
    """A frame in a bank; it stands for its pixels where only the size matters.

    Fields: start, index of its first pixel in the bank; shape, (height, width, channels); mean, (3,) float32, its mean
    colour, 0..255; read decodes it again.
    """

    start: int
    shape: tuple[int, int, int]
    mean: np.ndarray
    read: Callable[[], np.ndarray]


@dataclass(frozen=True)
class Request:
    """A frame that a bank is to hold.

    Fields: key, its name in the bank; size, which reads (width, height) from its header; read, which decodes it
    as (H, W, C) uint8 RGB or RGBA. Both raise InputError naming a file that cannot be read.
    """

    key: Hashable
    size: Callable[[], tuple[int, int]]
    read: Callable[[], np.ndarray]


class FrameBank:
    """Packed frames, see `device_pixels.pack`. Pickles as its index, without pixels: worker processes draw with it."""

    def __init__(self, requests: Iterable[Request], limit: float, device: torch.device) -> None:
        """Decode frames by threads and copy them to `device`.

        A frame that cannot be decoded is no error before it is drawn. Raises InputError if the frames take more than
        `limit` gigabytes (10^9 bytes), or than a CUDA GPU has free.
        """
        wanted = list(requests)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            counts = _count_pixels(wanted, limit, device, pool)
            starts = np.concatenate([[0], np.cumsum(counts)]).tolist()
            pixels = np.zeros(max(starts[-1], 1), np.int32)

            def fill(number: int) -> BankFrame | str:
                return _fill(wanted[number], pixels[starts[number] : starts[number + 1]], starts[number])

            frames = pool.map(fill, range(len(wanted)))
            self._frames = {request.key: frame for request, frame in zip(wanted, frames, strict=True)}
        self.pixels: torch.Tensor | None = torch.from_numpy(pixels).to(device)

    def __call__(self, key: Hashable) -> BankFrame:
        """A frame. Raises InputError naming its file if it could not be decoded."""
        frame = self._frames[key]
        if isinstance(frame, str):
            raise InputError(frame)
        return frame

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "pixels": None}


def _count_pixels(wanted: list[Request], limit: float, device: torch.device, pool: ThreadPoolExecutor) -> list[int]:
    """Pixels of each frame by its header, 0 if that cannot be read. Raises InputError as soon as they are too many."""
    room, remedy = limit * GIGABYTE, f"bank_gb is {limit:g}"
    if device.type == "cuda" and torch.cuda.mem_get_info(device)[0] < room:
        room = torch.cuda.mem_get_info(device)[0]
        remedy = f"the GPU has {room / GIGABYTE:.1f} GB free"
    counts: list[int] = []
    sizes = pool.map(_pixels, wanted)
    while part := list(islice(sizes, ROUND)):
        counts += part
        if sum(counts) * PIXEL_BYTES > room:
            about = sum(counts) / len(counts) * len(wanted) * PIXEL_BYTES / GIGABYTE
            pool.shutdown(cancel_futures=True)
            raise InputError(
                f"the {len(wanted):,} frames of this run take about {about:.3g} GB decoded, but {remedy}: set bank_gb"
                " to as much if the device has it, or to 0, which decodes the frames of each batch anew"
            )
    return counts


def _pixels(request: Request) -> int:
    try:
        width, height = request.size()
    except InputError:
        return 0
    return width * height


def _fill(request: Request, target: np.ndarray, start: int) -> BankFrame | str:
    try:
        image = request.read()
    except InputError as error:
        return str(error)
    if image.shape[0] * image.shape[1] != len(target):
        name = request.key[-1] if isinstance(request.key, tuple) else request.key
        return f"{name}: {image.shape[1]}x{image.shape[0]} pixels, but its header says {len(target)} in all"
    target[:] = pack(image)
    return BankFrame(start, image.shape, mean_colour(image), request.read)


class BankedDataset:
    """A data set whose frames lie in a bank under (`name`, key of the frame)."""

    def __init__(self, dataset: Dataset, name: Hashable) -> None:
        """Stand for `dataset`; the `bank` comes before the first frame is drawn."""
        self.dataset, self.name, self.key = dataset, dataset.name, name
        self.bank: FrameBank | None = None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> VideoSequence:
        """Sequence `index`."""
        return self.dataset[index]

    def frame(self, sequence: VideoSequence, index: int) -> Any:
        """Frame `index` of a sequence, a BankFrame. Raises InputError naming it if it could not be decoded."""
        assert self.bank
        return self.bank((self.key, sequence.frames.key(index)))

    def requests(self) -> Iterator[Request]:
        """The frames that show an object."""
        for number in range(len(self)):
            sequence = self[number]
            present = np.any([track.present for track in sequence.tracks], axis=0)
            for index in np.flatnonzero(present).tolist():
                yield self._request(sequence, index)

    def _request(self, sequence: VideoSequence, index: int) -> Request:
        key = sequence.frames.key(index)
        store = getattr(self.dataset, "store", None)
        size = partial(image_size, store, key) if store else lambda: sequence.size
        read = partial(read_frame, store, key) if store else partial(self.dataset.frame, sequence, index)
        return Request((self.key, key), size, read)


class BankedFiles:
    """The frames of clips by their paths, read from a bank."""

    def __init__(self, clips: Iterable[VideoSequence]) -> None:
        """Stand for the frames that show the target; the `bank` comes before the first is drawn."""
        shown = (pair for clip in clips for pair in zip(clip.frames, clip.present, strict=True))
        self.paths = list(dict.fromkeys(path for path, present in shown if present))
        self.bank: FrameBank | None = None

    def __call__(self, path: str) -> BankFrame:
        """A frame. Raises InputError naming it if it could not be decoded."""
        assert self.bank
        return self.bank(path)

    def requests(self) -> Iterator[Request]:
        """The frames, each once."""
        for path in self.paths:
            folder, name = os.path.split(path)
            yield Request(path, partial(image_size, Store(Path(folder)), name), partial(read_image, path))
