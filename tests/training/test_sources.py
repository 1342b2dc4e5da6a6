"""Where pairs come from: data sets from folders and LMDB, shares of processes, unreadable files, protocols."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.random import PCG64, Generator

from lorat_plugin.datasets.lmdb_build import build_lmdb
from lorat_plugin.errors import InputError
from lorat_plugin.training.config import TrainConfig, check_weights_rule, load_config
from lorat_plugin.training.recipe import Batch, collate
from lorat_plugin.training.sources import (
    Unreadable,
    make_loader,
    open_named,
    open_pairs,
    training_source,
    validation_source,
)
from tests.helpers.datasets import LASOT_NAMES, WRITERS, write_clips, write_got10k

NAMES = ("lasot", "got10k", "trackingnet", "coco")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("lorat_plugin.datasets.folders.lasot_split", lambda subset: list(LASOT_NAMES))


def settings(**changes: object) -> TrainConfig:
    return load_config("smoke", {"epoch_size": 20, "batch_size": 5, "steps": 3, "max_gap": 3, **changes})


def same(a: Batch, b: Batch) -> bool:
    parts, others = a.tensors(), b.tensors()
    return parts.keys() == others.keys() and all(
        torch.equal(tensor, others[name]) and tensor.dtype == others[name].dtype for name, tensor in parts.items()
    )


@pytest.fixture
def got10k(tmp_path: Path) -> str:
    return f"got10k:{write_got10k(tmp_path / 'got10k')}"


def test_folders_and_lmdb_give_bit_identical_batches(tmp_path: Path) -> None:
    batches = []
    for kind in ("", "_lmdb"):
        for name in NAMES:
            if kind:
                build_lmdb(name, tmp_path / name, tmp_path / f"{name}_lmdb")
            else:
                WRITERS[name](tmp_path / name)
        dataset = open_pairs(settings(datasets=[f"{name}:{tmp_path / name}{kind}" for name in NAMES]))
        assert [d.name for d in dataset.source.datasets] == list(NAMES)  # type: ignore[attr-defined]
        batches.append(collate([dataset[i] for i in range(30)]))  # the second epoch too
    assert same(*batches)


def test_a_redraw_goes_on_with_the_sample_s_own_generator(got10k: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = open_pairs(settings(datasets=[got10k]))
    calls: list[object] = []
    monkeypatch.setattr("lorat_plugin.training.recipe.make_pair", lambda *a: calls.append(a[0]) or len(calls) > 1)
    assert dataset[27] is True
    rng = Generator(PCG64((42, 0, 1, 1, 7)))  # seed, rank, epoch, training, index
    source = dataset.source
    for frames in (source.planned(1, 7, rng), source.sample(rng)):
        for drawn, expected in zip(calls.pop(0), frames, strict=True):  # type: ignore[call-overload]
            np.testing.assert_array_equal(drawn, expected)


def test_batches_are_the_same_for_any_number_of_workers_and_processes(got10k: str) -> None:
    config = settings(datasets=[got10k], dataset_weights=[1])
    dataset = open_pairs(config)
    whole = list(make_loader(dataset, config))
    assert len(whole) == 3 and all(len(batch.box) == 5 for batch in whole)
    assert all(map(same, whole, make_loader(dataset, replace(config, workers=2))))
    assert same(whole[2], next(iter(make_loader(dataset, config, 2))))
    for ranks in (2, 3):
        shares = [list(make_loader(dataset, config, 0, rank, ranks)) for rank in range(ranks)]
        for step, batch in enumerate(whole):
            for rank in range(ranks):
                assert same(shares[rank][step], Batch(*(t[rank::ranks] for t in batch.tensors().values())))
    with pytest.raises(InputError, match="batch_size 5 is too small for 6 processes"):
        make_loader(dataset, config, 0, 0, 6)


def test_validation_has_the_held_out_split_or_samples_that_training_never_meets(tmp_path: Path, got10k: str) -> None:
    root = Path(got10k.partition(":")[2])
    (root / "val").mkdir()
    (root / "val" / "list.txt").write_text("GOT-10k_Train_000002\n")
    (root / "train" / "GOT-10k_Train_000002").rename(root / "val" / "GOT-10k_Train_000002")
    (root / "train" / "list.txt").write_text("GOT-10k_Train_000001\n")
    dataset = open_pairs(settings(datasets=[got10k], validation_datasets=[got10k]))
    held_out = dataset.for_validation()
    names = [s.datasets[0][0].name for s in (dataset.source, held_out.source)]  # type: ignore[attr-defined]
    assert names == ["GOT-10k_Train_000001", "GOT-10k_Train_000002"]
    assert held_out[0].search.shape == dataset[0].search.shape
    without = open_pairs(settings(datasets=[got10k]))
    assert validation_source(without.config) is None
    assert not torch.equal(without[3].search, without.for_validation()[3].search)
    clips = write_clips(tmp_path / "clips")
    assert len(open_named(f"clips:{clips}", without.config, held_out=True)) == 2
    with pytest.raises(InputError, match="trackingnet has no held-out split"):
        open_named("trackingnet", without.config, held_out=True)


def test_the_list_of_got10k_and_its_two_readings(tmp_path: Path, got10k: str) -> None:
    (tmp_path / "list.txt").write_text("1\n3\n")
    for reading, expected in (("index", [2, 5]), ("name", [1, 3])):
        config = settings(datasets=[got10k], got10k_list=str(tmp_path / "list.txt"), got10k_reading=reading)
        dataset = open_named(got10k, config)
        assert [int(dataset[i].name[-1]) for i in range(len(dataset))] == expected


@pytest.mark.parametrize("kind", ["folder", "lmdb"])
@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_frames_are_passed_over_counted_and_named(tmp_path: Path, kind: str, workers: int) -> None:
    root = write_got10k(tmp_path / "got10k")
    damaged = root / "train" / "GOT-10k_Train_000001" / "00000002.jpg"
    damaged.write_bytes(damaged.read_bytes()[:150])
    if kind == "lmdb":
        build_lmdb("got10k", root, tmp_path / "lmdb")
        root = tmp_path / "lmdb"
    config = settings(datasets=[f"got10k:{root}"], workers=workers, steps=12, unreadable_limit=1)
    dataset = open_pairs(config)
    batches = make_loader(dataset, config)
    again = open_pairs(config)
    for step, batch in enumerate(batches):
        if step == 7:
            assert same(batch, collate([again[i] for i in range(35, 40)]))
    assert batches.unreadable.summary().count("00000002.jpg") == 1  # drawn several times, counted once
    assert batches.unreadable.summary().startswith("1 files could not be decoded:\n  ")
    strict = replace(config, unreadable_limit=0)
    with pytest.raises(InputError, match=r"1 files cannot be decoded, unreadable_limit is 0; .*00000002\.jpg") as error:
        list(make_loader(dataset, strict))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_data_set_that_went_away_stops_the_run_with_one_sentence(got10k: str, workers: int) -> None:
    config = settings(datasets=[got10k], workers=workers, unreadable_limit=100_000)
    dataset = open_pairs(config)
    for frame in Path(got10k.partition(":")[2]).rglob("*.jpg"):
        frame.unlink()
    with pytest.raises(InputError, match=r"^sample 0: 100 draws in a row .*\.jpg: cannot be read: [^\n]*$"):
        list(make_loader(dataset, config))


def test_unreadable_files_up_to_the_limit() -> None:
    unreadable = Unreadable(2)
    assert unreadable.summary() == ""
    unreadable.note(["a", "b", "a"])
    unreadable.note(["b"])
    assert unreadable.summary() == "2 files could not be decoded:\n  a\n  b"
    with pytest.raises(InputError, match=r"3 files cannot be decoded, unreadable_limit is 2; .*: a \| b \| c"):
        unreadable.note(["c"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"datasets": ["got10k", "lasot:/data/lasot"]}, "leave out datasets lasot:/data/lasot"),
        ({"datasets": ["got10k"], "clips": "mine"}, "leave out clips mine"),
        ({"datasets": ["got10k"], "cutouts": "c", "init_from": "w"}, "leave out cutouts c, init_from w"),
        ({"datasets": ["got10k"], "validation_datasets": ["coco"]}, "leave out validation_datasets coco"),
        ({}, "trains on GOT-10k alone; give --dataset"),
    ],
)
def test_the_got10k_protocol_names_what_it_refuses(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        training_source(settings(protocol="got10k", **changes))


@pytest.mark.parametrize(
    ("trained", "message"),
    [
        ({"datasets": ["got10k:/data/got10k"], "protocol": "got10k"}, None),
        (
            {"datasets": ["got10k:/data/got10k", "lasot:/data/lasot"]},
            r"first\.safetensors was trained with datasets lasot:",
        ),
        (
            {"cutouts": "/data/mine", "init_from": "other"},
            "trained with cutouts mine, init_from other; give the weights",
        ),
    ],
)
def test_the_got10k_protocol_asks_the_weights_of_phase_one(trained: dict[str, object], message: str | None) -> None:
    config = settings(variant="lorat2_b_378", protocol="got10k", datasets=["got10k"], init_from="first.safetensors")
    header = {"recipe": settings(variant="lorat2_b_224", **trained).portable()}
    if message is None:
        check_weights_rule(config, header)
    else:
        with pytest.raises(InputError, match=message):
            check_weights_rule(config, header)
        check_weights_rule(settings(variant="lorat2_b_378", init_from="first.safetensors"), header)


def test_weights_that_say_nothing_of_their_data_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    config = settings(variant="lorat2_b_378", protocol="got10k", datasets=["got10k"], init_from="first.safetensors")
    for header in ({}, {"recipe": "adam"}, {"recipe": "[]"}):
        check_weights_rule(config, header)
    assert caplog.text.count("first.safetensors does not say on what data it was trained") == 3


def test_the_got10k_protocol_allows_got10k(got10k: str) -> None:
    source = training_source(settings(protocol="got10k", datasets=[got10k], validation_datasets=["got10k"]))
    assert source.datasets[0].name == "got10k"  # type: ignore[attr-defined]


def test_unusable_settings_are_named(got10k: str) -> None:
    with pytest.raises(InputError, match="clips and datasets are both given: set dataset_share"):
        training_source(settings(datasets=[got10k], clips="mine"))
    with pytest.raises(InputError, match="1 data sets need as many weights"):
        training_source(settings(datasets=[got10k], dataset_weights=[1, 2]))
    with pytest.raises(InputError, match="unknown data set 'other'"):
        training_source(settings(datasets=["other:C:\\data"]))
    with pytest.raises(InputError, match=r"C:\\data is no folder"):
        training_source(settings(datasets=["got10k:C:\\data"]))


def test_data_sets_and_made_pairs_mix_by_their_share(got10k: str, tmp_path: Path) -> None:
    write_clips(tmp_path / "own")
    changes = {"datasets": [got10k], "clips": str(tmp_path / "own"), "dataset_share": 0.7, "clip_weight": 0.5}
    source = training_source(settings(**changes, object_weight=0.5, patch_weight=0.0))
    origins = [source.planned(0, i % 20, np.random.default_rng(i)) for i in range(300)]
    names = [pair.origin for pair in origins if pair]
    listed, made = sum(n.startswith("got10k") for n in names), sum(n.startswith("cutout") for n in names)
    assert listed / len(names) == pytest.approx(0.7, abs=0.09)
    assert made / len(names) == pytest.approx(0.15, abs=0.09)
    assert len(names) - listed - made > 15  # clips
    again = training_source(settings(**changes, object_weight=0.5, patch_weight=0.0))
    for index in (3, 17):  # the same whoever draws it
        one, two = (s.planned(0, index, np.random.default_rng(index)) for s in (source, again))
        assert one and two and np.array_equal(one.search_frame, two.search_frame)


def test_images_of_coco_can_be_left_out(tmp_path: Path) -> None:
    WRITERS["coco"](tmp_path / "coco")
    entry = f"coco:{tmp_path / 'coco'}"
    names = [open_named(entry, settings())[i].name for i in range(len(open_named(entry, settings())))]
    rest = open_named(entry, settings(exclude=(names[0],)))
    assert [rest[i].name for i in range(len(rest))] == names[1:]
