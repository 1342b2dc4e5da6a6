"""Which frames are trained on: epoch lists and pairs, draw for draw as in the official code of LoRAT."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.random import PCG64, Generator

from lorat_plugin.boxes import area, clip_to_image
from lorat_plugin.datasets.clips import read_clip
from lorat_plugin.datasets.index import fit_to_image
from lorat_plugin.datasets.sequences import Dataset, VideoSequence
from lorat_plugin.errors import InputError
from lorat_plugin.images import read_image
from lorat_plugin.synthetic.material import Cache
from lorat_plugin.synthetic.pairs import FramePair, PairSource

EPOCH_SIZE = 131_072
MAX_GAP = 100
MARGIN = 0.15  # how far beyond its box a target is painted over, in box sides
FEATHER = 5  # pixels over which the painted region fades into the frame


class MadePairs(Protocol):
    """Pairs that no list plans."""

    def sample(self, rng: Generator) -> FramePair | None:
        """Draw a pair, or None if the draw is of no use."""


def epoch_list(lengths: Sequence[int], weights: Sequence[float], total: int, rng: Generator) -> np.ndarray:
    """The sequences of one epoch: (total, 2) int64, data set and sequence, in the order of training.

    Args:
        lengths: sequences of each data set.
        weights: their shares, which add up to 1; the last data set takes what rounding leaves.
        total: samples.
        rng: goes on from epoch to epoch. Draws a permutation for each round through a data set, then one of the whole.
    """
    chosen, order = _epoch_draws(lengths, weights, total, rng)
    return np.concatenate([np.column_stack([np.full(len(c), i), c]) for i, c in enumerate(chosen)])[order]


def _epoch_draws(
    lengths: Sequence[int], weights: Sequence[float], total: int, rng: Generator
) -> tuple[list[np.ndarray], np.ndarray]:
    """All that an epoch list draws: the sequences of each data set, and the order of the whole."""
    sizes = [int(weight * total) for weight in weights]
    sizes[-1] = total - sum(sizes[:-1])
    chosen = []
    for length, size in zip(lengths, sizes, strict=True):
        rounds = [rng.permutation(length) for _ in range(-(-size // length))]
        chosen.append(np.concatenate([np.zeros(0, np.int64), *rounds])[:size])
    return chosen, rng.permutation(total)


def sample_frames(present: np.ndarray, max_gap: int, rng: Generator) -> tuple[int, int]:
    """Frames of the template and the search region.

    Args:
        present: (n,) bool, at least one True.
        max_gap: most frames between the two; the search frame may come first.
        rng: draws one or two choices.
    Returns two indices, the same twice if no other frame is near enough.
    """
    usable = np.flatnonzero(present)
    template = int(rng.choice(usable))
    near = usable[(np.abs(usable - template) <= max_gap) & (usable != template)]
    return template, int(rng.choice(near)) if len(near) else template


def draw_frames(present: np.ndarray, max_gap: int, rng: Generator, third: bool = False) -> list[int]:
    """As `sample_frames`; `third` adds any other frame than the first that shows the target, which itself if none does.

    LoRATv2's template is of the third frame, its reference of the first.
    """
    numbers = [*sample_frames(present, max_gap, rng)]
    if third:
        others = np.flatnonzero(present)
        others = others[others != numbers[0]]
        numbers.append(int(rng.choice(others)) if len(others) else numbers[0])
    return numbers


def _pair(frames: Sequence[np.ndarray], boxes: Sequence[np.ndarray], origin: str) -> FramePair | None:
    """The pair of two frames, perhaps with a third one; None if a box has no area."""
    if min(map(area, boxes)) <= 0:
        return None
    third = (frames[2], boxes[2]) if len(frames) == 3 else None
    return FramePair(frames[0], boxes[0], frames[1], boxes[1], origin, third=third)


class DatasetPairs:
    """Pairs from several data sets; sample `index` of an epoch is the same whoever makes it."""

    def __init__(
        self,
        datasets: Sequence[Dataset],
        weights: Sequence[float] | None = None,
        *,
        seed: int = 42,
        epoch_size: int = EPOCH_SIZE,
        max_gap: int = MAX_GAP,
        third: bool = False,
    ) -> None:
        """Draw from `datasets`, by equal shares if no weights are given; with a third frame on demand."""
        if not datasets or any(len(dataset) == 0 for dataset in datasets):
            raise InputError("pairs need at least one data set, and none without sequences")
        shares = np.array(weights if weights is not None else [1.0] * len(datasets), np.float64)
        if len(shares) != len(datasets) or not (shares >= 0).all() or shares.sum() <= 0:
            raise InputError(f"{len(datasets)} data sets need as many weights of 0 or more, not all 0; got {weights}")
        self.datasets, self.shares = list(datasets), shares / shares.sum()
        self.seed, self.epoch_size, self.max_gap, self.third = seed, epoch_size, max_gap, third
        self._epoch, self._list = -1, np.zeros((0, 2), np.int64)
        self._rng = Generator(PCG64(seed))

    def scheduled(self, epoch: int, index: int) -> tuple[int, int]:
        """Data set and sequence of sample `index` of an epoch, both 0-based."""
        if epoch < self._epoch:
            self._epoch, self._rng = -1, Generator(PCG64(self.seed))
        if self._epoch < epoch:  # lists come from one stream: those before are drawn and passed over
            draws = [len(d) for d in self.datasets], self.shares.tolist(), self.epoch_size, self._rng
            for _ in range(self._epoch + 1, epoch):
                _epoch_draws(*draws)  # a third of the time that the list itself takes
            self._epoch, self._list = epoch, epoch_list(*draws)
        dataset, sequence = self._list[index]
        return int(dataset), int(sequence)

    def redraw(self, rng: Generator) -> tuple[int, int]:
        """Another data set, by weight, and sequence for a sample whose first choice was of no use."""
        dataset = int(rng.choice(len(self.datasets), p=self.shares))
        return dataset, int(rng.integers(len(self.datasets[dataset])))

    def planned(self, epoch: int, index: int, rng: Generator) -> FramePair | None:
        """The pair of sample `index` of an epoch; its frames are drawn. Errors as for `load`."""
        return self.load(*self.scheduled(epoch, index), rng)

    def sample(self, rng: Generator) -> FramePair | None:
        """Draw a pair that no epoch list schedules."""
        return self.load(*self.redraw(rng), rng)

    def load(self, dataset: int, sequence: int, rng: Generator) -> FramePair | None:
        """Draw an object and two frames of a sequence and decode them, a frame that is drawn twice only once.

        Each box is cut by its own picture, whose size the index may not know. Returns None if one lies outside. Raises
        InputError naming a frame that cannot be decoded.
        """
        source = self.datasets[dataset]
        chosen = source[sequence]
        track = chosen.tracks[int(rng.integers(len(chosen.tracks))) if len(chosen.tracks) > 1 else 0]
        numbers = draw_frames(track.present, self.max_gap, rng, self.third)
        decoded = {number: source.frame(chosen, number) for number in dict.fromkeys(numbers)}
        frames = [decoded[number] for number in numbers]
        boxes = [fit_to_image(track.boxes[i], f.shape[1::-1]) for i, f in zip(numbers, frames, strict=True)]
        return _pair(frames, boxes, f"{source.name} {chosen.name}")


class WithAbsent:
    """Pairs of a source, of which a share has lost its target.

    Half of these search in another video or picture, a quarter where the target was painted over, a quarter elsewhere
    in that frame, where look-alikes of the target may be.
    """

    def __init__(self, source: PairSource, share: float) -> None:
        """`share` of the pairs is without target, 0 to below 1."""
        self.source, self.share = source, share

    def planned(self, epoch: int, index: int, rng: Generator) -> FramePair | None:
        """The planned pair of the source, or one made of it."""
        return self._absent_by_chance(self.source.planned(epoch, index, rng), rng)

    def sample(self, rng: Generator) -> FramePair | None:
        """Any pair of the source, or one made of it."""
        return self._absent_by_chance(self.source.sample(rng), rng)

    def _absent_by_chance(self, pair: FramePair | None, rng: Generator) -> FramePair | None:
        if pair is None or rng.random() >= self.share:
            return pair
        if rng.random() < 0.5:
            other = self.source.sample(rng)
            if other is None or other.origin == pair.origin:
                return None
            return pair._replace(search_frame=other.search_frame, search_box=other.search_box, present=False)
        frame = pair.search_frame if isinstance(pair.search_frame, np.ndarray) else pair.search_frame.read()
        painted = paint_over(frame, pair.search_box, rng)
        if painted is None:
            return None
        box = pair.search_box if rng.random() < 0.5 else moved_elsewhere(pair.search_box, painted.shape[:2], rng)
        return pair._replace(search_frame=painted, search_box=box, present=False)


def paint_over(frame: np.ndarray, box_xyxy: np.ndarray, rng: Generator) -> np.ndarray | None:
    """A copy of a frame in which a neighbouring region of the same size covers a target.

    Args:
        frame: (H, W, 3) uint8 RGB.
        box_xyxy: (4,) float64, frame pixels, inside the frame.
        rng: draws the side that the region is taken from.
    Returns None if no region of that size lies beside the target.
    """
    height, width = frame.shape[:2]
    pad = (box_xyxy[2:] - box_xyxy[:2]) * MARGIN + 1
    x1, y1 = np.maximum(np.floor(box_xyxy[:2] - pad), 0).astype(int)
    x2, y2 = np.minimum(np.ceil(box_xyxy[2:] + pad), (width, height)).astype(int)
    across, down = x2 - x1, y2 - y1
    sides = [(-across, 0), (across, 0), (0, -down), (0, down)]
    inside = [(dx, dy) for dx, dy in sides if 0 <= x1 + dx <= width - across and 0 <= y1 + dy <= height - down]
    if not inside:
        return None
    dx, dy = inside[int(rng.integers(len(inside)))]
    cover = frame[y1 + dy : y2 + dy, x1 + dx : x2 + dx].astype(np.float32)
    weight = np.zeros((down, across), np.float32)
    weight[1:-1, 1:-1] = 1
    weight = np.minimum(cv2.blur(weight, (FEATHER, FEATHER), borderType=cv2.BORDER_REPLICATE) * 2, 1)[..., None]
    painted = frame.copy()
    painted[y1:y2, x1:x2] = (cover * weight + painted[y1:y2, x1:x2] * (1 - weight)).round()
    return painted


def moved_elsewhere(box_xyxy: np.ndarray, frame_size: tuple[int, int], rng: Generator) -> np.ndarray:
    """A box of the same size anywhere in a frame of (height, width) pixels: (4,) float64 xyxy."""
    extent = box_xyxy[2:] - box_xyxy[:2]
    corner = rng.uniform(0, 1, 2) * np.maximum(np.array(frame_size[::-1]) - extent, 0)
    return np.concatenate([corner, corner + extent])


def read_clips(folder: Path, exclude: Sequence[str] = (), labels: Path | None = None) -> list[VideoSequence]:
    """Read every labelled clip of a folder, sorted by name; clips without `groundtruth.txt` are passed over.

    Args:
        folder: holds `<clip>/0000.jpg` and so on, `<clip>/groundtruth.txt` beside the frames.
        exclude: clips whose names start so are left out.
        labels: folder of more targets in these clips, `<clip>__<target>.txt`, in the format of a `groundtruth.txt`.
    Raises InputError if a folder is absent, no clip is labelled, or rows and frames of a clip differ in number.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; name a folder of clips or leave the option out")
    labelled = [p for p in sorted(folder.iterdir()) if (p / "groundtruth.txt").is_file()]
    clips = [read_clip(p) for p in labelled if not p.name.startswith(tuple(exclude))]
    if labels and not labels.is_dir():
        raise InputError(f"{labels} is no folder; name a folder of <clip>__<target>.txt files or leave the option out")
    for path in sorted(labels.glob("*__*.txt")) if labels else []:
        clip = folder / path.name.partition("__")[0]
        if clip.is_dir() and not clip.name.startswith(tuple(exclude)):
            clips.append(read_clip(clip, path))
    if not clips:
        raise InputError(f"{folder} holds no clip with a groundtruth.txt; expected {folder}/<clip>/0000.jpg beside it")
    return clips


class ClipPairs:
    """Two frames of one clip, at most `max_gap` frames apart, in either order."""

    def __init__(
        self, clips: Sequence[VideoSequence], max_gap: int = 100, cached: int = 1024, third: bool = False
    ) -> None:
        """Draw from clips in which the target is present at least once; decoded frames stay in memory."""
        self.third = third
        self.clips = [c for c in clips if c.present.any()]
        self.max_gap = max_gap
        self.read: Callable[[str], Any] = Cache(read_image, cached)

    def sample(self, rng: Generator) -> FramePair | None:
        """Draw one pair; None if a box lies outside its frame."""
        clip = self.clips[int(rng.integers(len(self.clips)))]
        chosen = draw_frames(clip.present, self.max_gap, rng, self.third)
        frames = [self.read(clip.frames[i]) for i in chosen]
        boxes = [clip_to_image(clip.tracks[0].boxes[i], f.shape[:2]) for i, f in zip(chosen, frames, strict=True)]
        return _pair(frames, boxes, str(Path(clip.frames[0]).parent))


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


def leaves(source: object, share: float = 1.0) -> Iterator[tuple[Any, float]]:
    """The sources that a source with `share` of all pairs is made of, each with its own share."""
    if isinstance(source, WithAbsent):
        yield from leaves(source.source, share * (1 - source.share))
    elif isinstance(source, Mix):
        for part, own in zip(source.sources, source.shares, strict=True):
            yield from leaves(part, share * float(own))
    else:
        yield source, share
