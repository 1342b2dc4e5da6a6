"""A training sample: eight whole samples of the official implementation, and what every sample must hold."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.random import PCG64, Generator

from lorat_plugin.errors import InputError
from lorat_plugin.synthetic.pairs import FramePair
from lorat_plugin.training.augment import Jitter
from lorat_plugin.training.config import TrainConfig, load_config
from lorat_plugin.training.recipe import PairDataset, collate, make_pair
from lorat_plugin.training.sources import Mix, open_pairs
from lorat_plugin.variants import get_variant


@pytest.mark.parametrize("case", range(8))
def test_whole_samples_match_the_official_ones(golden: Path, case: int) -> None:
    sequence = np.load(golden / "tracking" / "sequence.npz")
    stored = np.load(golden / "training" / "transform.npz")
    record = json.loads((golden / "training" / "transform.json").read_text())[case]
    z, x = record["template_frame"], record["search_frame"]
    boxes = sequence["gt_boxes_xyxy"]
    frames = FramePair(sequence["frames"][z], boxes[z], sequence["frames"][x], boxes[x])
    rng = Generator(PCG64(tuple(record["seed"])))
    pair = make_pair(frames, get_variant("lorat_b_224"), Jitter(), TrainConfig(), rng)
    assert pair is not None
    np.testing.assert_allclose(pair.template[:, ::8, ::8], stored[f"{case}_z_sub"], atol=1e-4)
    np.testing.assert_allclose(pair.search[:, ::16, ::16], stored[f"{case}_x_sub"], atol=1e-4)
    for image, name in ((pair.template, "z"), (pair.search, "x")):
        flat = image.double().flatten(1)
        statistics = torch.stack([flat.mean(1), flat.std(1)])
        np.testing.assert_allclose(statistics, stored[f"{case}_{name}_stat"], atol=1e-4)
    assert np.array_equal(pair.mask, stored[f"{case}_mask"])
    assert np.array_equal(np.flatnonzero(pair.positive), stored[f"{case}_pos_idx"])
    np.testing.assert_allclose(pair.box, stored[f"{case}_box_norm"], atol=1e-7)


@pytest.fixture(scope="module")
def dataset() -> PairDataset:
    """Procedural pairs for lorat_tiny."""
    config = load_config("smoke")
    return open_pairs(config, get_variant(config.variant))


def test_samples_are_a_function_of_the_index(dataset: PairDataset) -> None:
    again = open_pairs(dataset.config, dataset.variant)
    again[3]  # what was made before must not matter
    first, second = dataset[5], again[5]
    assert torch.equal(first.search, second.search) and torch.equal(first.box, second.box)
    assert not torch.equal(first.search, dataset[6].search)
    assert not torch.equal(first.search, dataset.for_validation()[5].search)


def test_a_worker_process_makes_the_same_samples(dataset: PairDataset) -> None:
    sent = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(sent[2].search, dataset[2].search)


def test_shapes_and_ranges(dataset: PairDataset) -> None:
    variant = dataset.variant
    batch = collate([dataset[i] for i in range(6)])
    assert batch.template.shape == (6, 3, variant.template_size, variant.template_size)
    assert batch.search.shape == (6, 3, variant.search_size, variant.search_size)
    assert batch.mask.shape == (6, variant.template_grid, variant.template_grid)
    assert batch.positive.shape == (6, variant.search_grid, variant.search_grid)
    assert (batch.template.dtype, batch.mask.dtype, batch.box.dtype) == (torch.float32, torch.int64, torch.float32)
    assert batch.positive.flatten(1).any(1).all() and batch.mask.flatten(1).any(1).all()
    assert ((batch.box >= 0) & (batch.box <= 1)).all()
    assert (batch.box[:, 2:] > batch.box[:, :2]).all()


class _Broken:
    """A source whose first draws fail."""

    def __init__(self, failures: int, source: object) -> None:
        self.failures, self.source = failures, source

    def sample(self, rng: Generator) -> FramePair | None:
        self.failures -= 1
        if self.failures >= 0:
            raise InputError("x.jpg cannot be decoded")
        return self.source.sample(rng)  # type: ignore[attr-defined, no-any-return]


def test_a_bad_file_is_passed_over_and_named(dataset: PairDataset) -> None:
    broken = open_pairs(dataset.config, dataset.variant)
    broken.source = Mix([_Broken(2, dataset.source)], [1])
    assert broken[0].search.shape[0] == 3
    broken.source = Mix([_Broken(2, dataset.source)], [1])
    assert broken[0].unreadable == ("x.jpg cannot be decoded",) * 2 and dataset[0].unreadable == ()


def test_many_bad_files_stop_the_run(dataset: PairDataset) -> None:
    broken = open_pairs(dataset.config, dataset.variant)
    broken.source = Mix([_Broken(100, None)], [1])
    with pytest.raises(InputError, match=r"sample 0: 100 draws in a row gave no usable pair: x\.jpg"):
        broken[0]


def test_useless_material_stops_the_run(dataset: PairDataset) -> None:
    class Empty:
        def sample(self, rng: Generator) -> None:
            return None

    useless = open_pairs(dataset.config, dataset.variant)
    useless.source = Mix([Empty()], [1])
    with pytest.raises(InputError, match="no usable pair: check the data"):
        useless[0]


def test_eight_bit_arithmetic_draws_the_same_and_stays_near(golden: Path) -> None:
    sequence = np.load(golden / "tracking" / "sequence.npz")
    frames, boxes = sequence["frames"], sequence["gt_boxes_xyxy"]
    variant, off = get_variant("lorat_b_224"), []
    for index in range(20):
        given = FramePair(frames[index], boxes[index], frames[index + 1], boxes[index + 1])
        exact, near = (
            make_pair(given, variant, Jitter(), TrainConfig(eight_bit=e), Generator(PCG64(index)))
            for e in (False, True)
        )
        assert exact is not None and near is not None and near.search.is_contiguous()
        assert torch.equal(exact.box, near.box) and torch.equal(exact.mask, near.mask)
        levels = (exact.search - near.search).abs() * torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1) * 255
        off.append(float(levels.mean()))
    assert np.mean(off) < 1 and max(off) < 2.5
