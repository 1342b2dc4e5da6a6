"""Which frames are trained on: epoch lists and pairs, draw for draw as in the official code of LoRAT."""

from __future__ import annotations

from collections.abc import Sequence as ListOf

import numpy as np
from numpy.random import PCG64, Generator

from lorat_plugin.boxes import area
from lorat_plugin.datasets.index import fit_to_image
from lorat_plugin.datasets.sequences import Dataset
from lorat_plugin.errors import InputError
from lorat_plugin.synthetic.pairs import FramePair

EPOCH_SIZE = 131_072
MAX_GAP = 100


def sample_generator(seed: int, rank: int, epoch: int, training: bool, index: int) -> Generator:
    """The random generator of one sample.

    With rank 0 and samples numbered over all ranks, pairs are the same whatever the number of ranks and workers.
    """
    return Generator(PCG64((seed, rank, epoch, int(training), index)))


def epoch_list(lengths: ListOf[int], weights: ListOf[float], total: int, rng: Generator) -> np.ndarray:
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
    lengths: ListOf[int], weights: ListOf[float], total: int, rng: Generator
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


class DatasetPairs:
    """Pairs from several data sets; sample `index` of an epoch is the same whoever makes it."""

    def __init__(
        self,
        datasets: ListOf[Dataset],
        weights: ListOf[float] | None = None,
        *,
        seed: int = 42,
        epoch_size: int = EPOCH_SIZE,
        max_gap: int = MAX_GAP,
    ) -> None:
        """Draw from `datasets`, by equal shares if no weights are given."""
        if not datasets or any(len(dataset) == 0 for dataset in datasets):
            raise InputError("pairs need at least one data set, and none without sequences")
        shares = np.array(weights if weights is not None else [1.0] * len(datasets), np.float64)
        if len(shares) != len(datasets) or not (shares >= 0).all() or shares.sum() <= 0:
            raise InputError(f"{len(datasets)} data sets need as many weights of 0 or more, not all 0; got {weights}")
        self.datasets, self.shares = list(datasets), shares / shares.sum()
        self.seed, self.epoch_size, self.max_gap = seed, epoch_size, max_gap
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
        z, x = sample_frames(track.present, self.max_gap, rng)
        template = source.frame(chosen, z)
        search = template if x == z else source.frame(chosen, x)
        z_box, x_box = (fit_to_image(track.boxes[i], f.shape[1::-1]) for i, f in ((z, template), (x, search)))
        origin = f"{source.name} {chosen.name}"
        return FramePair(template, z_box, search, x_box, origin) if min(area(z_box), area(x_box)) > 0 else None
