"""Pairs and epoch lists: golden draws, the same pairs from folders and LMDB, whoever makes them."""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_all_start_methods, get_context

import numpy as np
import pytest
from numpy.random import PCG64, Generator

from lorat_plugin.datasets.lmdb_build import build_lmdb
from lorat_plugin.datasets.registry import open_dataset
from lorat_plugin.errors import InputError
from lorat_plugin.training.augment import sample_generator
from lorat_plugin.training.pairs import DatasetPairs, epoch_list, sample_frames
from tests.helpers.datasets import OPTIONS, WRITERS, write_coco, write_got10k


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LORAT_CACHE", str(tmp_path / "cache"))


def test_frames_are_drawn_as_golden(golden):
    cases = json.loads((golden / "training" / "pair_sampling.json").read_text())
    for case in cases:
        present = np.ones(case["length"], bool)
        if case["mask"] is not None:
            present = np.isin(np.arange(case["length"]), case["mask"])
        rng = Generator(PCG64(tuple(case["seed"])))
        assert sample_frames(present, case["gap"], rng) == (case["z"], case["x"])
        # the stream stands where the recorded draws leave it
        other = Generator(PCG64(tuple(case["seed"])))
        mask = np.flatnonzero(present)
        if len(case["draws"]) > 0:
            assert int(other.choice(mask)) == case["z"]
        if len(case["draws"]) > 1:
            near = mask[(abs(mask - case["z"]) <= case["gap"]) & (mask != case["z"])]
            assert int(other.choice(near)) == case["x"]
        assert rng.bit_generator.state == other.bit_generator.state
    assert len(cases) == 80


def test_epoch_lists_are_golden(golden):
    case = json.loads((golden / "training" / "sequence_picker.json").read_text())
    rng = np.random.default_rng(case["seed"])
    for epoch in ("epoch1", "epoch2"):
        drawn = epoch_list(case["dataset_lengths"], case["weights"], case["total"], rng)
        np.testing.assert_array_equal(drawn, case[epoch])
        assert np.bincount(drawn[:, 0]).tolist() == case["sizes"]


def test_sample_generator_is_seeded_by_a_tuple():
    assert sample_generator(42, 1, 2, True, 3).random() == Generator(PCG64((42, 1, 2, 1, 3))).random()


def everything(pairs: DatasetPairs, count: int, epoch: int = 0) -> list[tuple[np.ndarray, ...]]:
    return [one(pairs, epoch, i) for i in range(count)]


def one(pairs: DatasetPairs, epoch: int, index: int) -> tuple[np.ndarray, ...]:
    pair = pairs.load(*pairs.scheduled(epoch, index), sample_generator(7, 0, epoch, True, index))
    assert pair is not None
    return pair[:4]  # frames and boxes; the origin names the data set's folder


def assert_same(a: list[tuple[np.ndarray, ...]], b: list[tuple[np.ndarray, ...]]) -> None:
    for left, right in zip(a, b, strict=True):
        for x, y in zip(left, right, strict=True):
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y)


def test_folders_and_lmdb_give_bit_identical_pairs(tmp_path):
    kinds: dict[str, DatasetPairs] = {}
    for kind in ("folder", "lmdb"):
        datasets = []
        for name, write in WRITERS.items():
            root = tmp_path / name
            if kind == "folder":
                write(root)
            else:
                build_lmdb(name, root, tmp_path / f"{name}_lmdb")
                root = tmp_path / f"{name}_lmdb"
            datasets.append(open_dataset(name, root, **OPTIONS.get(name, {})))
        kinds[kind] = DatasetPairs(datasets, seed=7, epoch_size=140)
    names = [d.name for d in kinds["lmdb"].datasets]
    assert names == list(WRITERS) and {type(d.store).__name__ for d in kinds["lmdb"].datasets} == {"LmdbStore"}
    assert_same(everything(kinds["folder"], 140), everything(kinds["lmdb"], 140))


def test_other_processes_make_the_same_pairs_from_lmdb(tmp_path):
    root = write_got10k(tmp_path / "got10k")
    build_lmdb("got10k", root, tmp_path / "lmdb")
    pairs = DatasetPairs([open_dataset("got10k", tmp_path / "lmdb")], epoch_size=20)
    here = everything(pairs, 6)  # the environment is open in this process when it forks
    for method in {"fork", "spawn"} & set(get_all_start_methods()):
        with ProcessPoolExecutor(1, mp_context=get_context(method)) as pool:
            assert_same(here, pool.submit(everything, pairs, 6).result())
    assert_same(here, everything(pairs, 6))  # what the children closed is open here


def test_any_order_of_samples_and_epochs_gives_the_same_pairs(tmp_path):
    datasets = [open_dataset("got10k", write_got10k(tmp_path / "g")), open_dataset("coco", write_coco(tmp_path / "c"))]
    forward = DatasetPairs(datasets, epoch_size=20)
    expected = {(epoch, i): one(forward, epoch, i) for epoch in (0, 1, 2) for i in (3, 11)}
    resumed = DatasetPairs(datasets, epoch_size=20)
    for key in ((2, 11), (0, 3), (1, 11), (1, 3), (0, 11), (2, 3)):
        assert_same([expected[key]], [one(resumed, *key)])
    lists = [[forward.scheduled(epoch, i) for i in range(20)] for epoch in (0, 1)]
    assert lists[0] != lists[1]


def test_stills_give_the_same_frame_twice_decoded_once(tmp_path, monkeypatch):
    dataset = open_dataset("coco", write_coco(tmp_path / "coco"))
    pairs, calls = DatasetPairs([dataset], epoch_size=3), []
    decode = dataset.frame
    monkeypatch.setattr(dataset, "frame", lambda *a: calls.append(a) or decode(*a))
    pair = pairs.sample(np.random.default_rng(0))
    assert len(calls) == 1 and pair.template_frame is pair.search_frame
    np.testing.assert_array_equal(pair.template_box, pair.search_box)


def test_weights_are_checked(tmp_path):
    dataset = open_dataset("got10k", write_got10k(tmp_path / "g"))
    assert DatasetPairs([dataset, dataset], [3, 1]).shares.tolist() == [0.75, 0.25]
    with pytest.raises(InputError, match="at least one data set"):
        DatasetPairs([])
    with pytest.raises(InputError, match="as many weights"):
        DatasetPairs([dataset], [0.5, 0.5])
