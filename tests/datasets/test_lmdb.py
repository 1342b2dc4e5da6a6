"""LMDB as the STARK and OSTrack family keeps it: keys, resuming, verification, full disks, other layouts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lorat_plugin.datasets import lmdb_build
from lorat_plugin.datasets.lmdb import LmdbStore
from lorat_plugin.datasets.lmdb_build import build_lmdb
from lorat_plugin.datasets.registry import open_dataset
from lorat_plugin.errors import InputError
from tests.helpers.datasets import (
    GOT10K_NAMES,
    LASOT_NAMES,
    write_clips,
    write_coco,
    write_got10k,
    write_lasot,
    write_trackingnet,
)

lmdb = pytest.importorskip("lmdb")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LORAT_CACHE", str(tmp_path / "cache"))


def content(path: Path) -> dict[str, bytes]:
    """All keys and values, read as the family's loaders read them."""
    with lmdb.open(str(path), readonly=True, lock=False, readahead=False, meminit=False) as env, env.begin() as reading:
        return {bytes(k).decode(): bytes(v) for k, v in reading.cursor()}


def test_keys_are_relative_paths_and_values_the_files(tmp_path):
    root = write_got10k(tmp_path / "got10k")
    files, size = build_lmdb("got10k", root, tmp_path / "lmdb")
    stored = content(tmp_path / "lmdb")
    on_disk = {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}
    assert stored == on_disk and files == len(on_disk) and size == sum(map(len, on_disk.values()))
    assert "train/list.txt" in stored and "train/GOT-10k_Train_000001/00000001.jpg" in stored
    assert not (tmp_path / "lmdb.part").exists()


def test_trackingnet_has_an_environment_for_each_part(tmp_path):
    build_lmdb("trackingnet", write_trackingnet(tmp_path / "t"), tmp_path / "lmdb")
    names = sorted(p.name for p in (tmp_path / "lmdb").iterdir())
    assert names == ["TRAIN_0_lmdb", "TRAIN_10_lmdb", "TRAIN_2_lmdb", "seq_list.json"]
    assert {"anno/a_1.txt", "frames/a_1/0.jpg"} < set(content(tmp_path / "lmdb" / "TRAIN_0_lmdb"))
    listed = json.loads((tmp_path / "lmdb" / "seq_list.json").read_text())
    assert sorted(listed) == [[0, "a_1"], [0, "b-C_0"], [2, "c_2"], [10, "d_3"]]


def test_lasot_without_class_folders_gets_the_family_s_keys(tmp_path):
    root = write_lasot(tmp_path / "lasot")
    for name in LASOT_NAMES:
        (root / name.rpartition("-")[0] / name).rename(root / name)
    build_lmdb("lasot", root, tmp_path / "lmdb")
    assert "airplane/airplane-10/img/00000001.jpg" in content(tmp_path / "lmdb")


def test_names_walk_the_keys(tmp_path):
    build_lmdb("lasot", write_lasot(tmp_path / "lasot"), tmp_path / "lmdb")
    store = LmdbStore(tmp_path / "lmdb")
    assert store.names("") == ["airplane", "dog"]
    assert store.names("airplane") == ["airplane-1", "airplane-10"]
    assert len(store.names("dog/dog-7/img")) == 7
    assert store.names("cat") == [] and not store.exists("airplane") and not store.exists("")


def test_a_stopped_build_goes_on(tmp_path, monkeypatch):
    root, done = write_got10k(tmp_path / "got10k"), []
    monkeypatch.setattr(lmdb_build, "BATCH_BYTES", 20_000)
    read = lmdb_build._content

    def stops(item):
        done.append(item.key)
        if len(done) == 15:
            raise KeyboardInterrupt
        return read(item)

    monkeypatch.setattr(lmdb_build, "_content", stops)
    with pytest.raises(KeyboardInterrupt):
        build_lmdb("got10k", root, tmp_path / "lmdb")
    assert not (tmp_path / "lmdb").exists()
    before = len(content(tmp_path / "lmdb.part"))
    assert 0 < before < 15
    written: list[str] = []
    monkeypatch.setattr(lmdb_build, "_content", lambda item: written.append(item.key) or read(item))
    files, _ = build_lmdb("got10k", root, tmp_path / "lmdb")
    assert len(written) == (files - before) + files  # the rest is stored, and everything is verified
    assert len(content(tmp_path / "lmdb")) == files


def test_a_file_that_changed_since_is_stored_anew(tmp_path, monkeypatch):
    root = write_clips(tmp_path / "clips")
    build_lmdb("clips", root, tmp_path / "lmdb")
    (tmp_path / "lmdb").rename(tmp_path / "lmdb.part")
    path = root / "one" / "groundtruth.txt"
    path.write_text(path.read_text().replace("30", "31"))
    build_lmdb("clips", root, tmp_path / "lmdb")
    assert content(tmp_path / "lmdb")["one/groundtruth.txt"] == path.read_bytes()
    (tmp_path / "lmdb").rename(tmp_path / "lmdb.part")
    (root / "one" / "0000.jpg").unlink()
    with pytest.raises(InputError, match="holds files that the data set has no more"):
        build_lmdb("clips", root, tmp_path / "lmdb")


@pytest.mark.skipif(sys.platform == "win32", reason="the limit that stands for a full disk is POSIX's")
def test_a_disk_that_fills_up_leaves_what_is_whole_and_the_build_goes_on(tmp_path):
    root = write_got10k(tmp_path / "got10k")
    code = (
        "import resource, signal, sys; from pathlib import Path; from lorat_plugin.datasets import lmdb_build as b;"
        "from lorat_plugin.errors import InputError; b.BATCH_BYTES = 20_000;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, -1))\n"
        "try: b.build_lmdb('got10k', Path(sys.argv[1]), Path(sys.argv[2]))\n"
        "except InputError as error: print(error); sys.exit(2)"
    )
    command = [sys.executable, "-c", code, str(root), str(tmp_path / "lmdb")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.getcwd()})
    assert done.returncode == 2 and "make room and run the same command again" in done.stdout, done.stdout + done.stderr
    assert not (tmp_path / "lmdb").exists()
    files, _ = build_lmdb("got10k", root, tmp_path / "lmdb")
    assert len(content(tmp_path / "lmdb")) == files


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda root: None, "is no folder of plain files"),
        (lambda root: root.mkdir(), "wanted ROOT/train/list.txt|GOT-10k wants ROOT/train"),
        (lambda root: write_coco(root), "GOT-10k wants ROOT/train/list.txt"),
    ],
)
def test_a_source_of_another_layout_is_refused(prepare, message, tmp_path):
    prepare(tmp_path / "source")
    with pytest.raises(InputError, match=message):
        build_lmdb("got10k", tmp_path / "source", tmp_path / "lmdb")
    assert not list(tmp_path.glob("lmdb*"))


def test_a_part_of_lasot_may_be_stored_but_nothing_else_in_its_place(tmp_path):
    build_lmdb("lasot", write_lasot(tmp_path / "lasot"), tmp_path / "lmdb")
    assert open_dataset("lasot", tmp_path / "lmdb", chosen=("dog-7",))[0].frames.count == 6
    pytest.importorskip("got10k")
    with pytest.raises(InputError, match="1120 of 1120 LaSOT sequences are missing"):
        build_lmdb("lasot", write_coco(tmp_path / "coco"), tmp_path / "other")


def test_a_target_in_the_way_is_refused(tmp_path):
    root = write_clips(tmp_path / "clips")
    build_lmdb("clips", root, tmp_path / "lmdb")
    with pytest.raises(InputError, match="is there already"):
        build_lmdb("clips", root, tmp_path / "lmdb")
    with pytest.raises(InputError, match="is no folder of plain files"):
        build_lmdb("clips", tmp_path / "lmdb", tmp_path / "other")


def test_lmdb_of_another_data_set_or_damaged_is_named(tmp_path):
    build_lmdb("coco", write_coco(tmp_path / "coco"), tmp_path / "lmdb")
    with pytest.raises(InputError, match=r"lmdb:train/list.txt: is missing; GOT-10k wants"):
        open_dataset("got10k", tmp_path / "lmdb")
    with pytest.raises(InputError, match="no videos of TrackingNet; wanted"):
        open_dataset("trackingnet", tmp_path / "lmdb")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "data.mdb").write_bytes(b"no lmdb at all" * 1000)
    with pytest.raises(InputError, match="cannot be opened as LMDB"):
        open_dataset("got10k", tmp_path / "bad")


def test_a_missing_frame_in_an_lmdb_is_named(tmp_path):
    root = write_got10k(tmp_path / "got10k")
    build_lmdb("got10k", root, tmp_path / "lmdb")
    with lmdb.open(str(tmp_path / "lmdb"), map_size=1 << 28) as env, env.begin(write=True) as writing:
        writing.delete(b"train/GOT-10k_Train_000002/00000004.jpg")
    dataset = open_dataset("got10k", tmp_path / "lmdb")
    with pytest.raises(InputError, match=r"lmdb:train/GOT-10k_Train_000002/00000004.jpg: no such key in the LMDB"):
        dataset.frame(dataset[1], 3)


@pytest.mark.skipif(os.name == "nt", reason="Windows lets few users make links")
def test_links_that_lead_in_circles_or_nowhere_are_named(tmp_path):
    root = write_got10k(tmp_path / "got10k")
    link = root / "train" / "parent"
    for target, words in ((root, "is a link to a folder that it lies in"), (tmp_path / "gone", "cannot be read")):
        link.symlink_to(target)
        with pytest.raises(InputError, match=f"parent: {words}"):
            build_lmdb("got10k", root, tmp_path / "lmdb")
        link.unlink()
    assert not (tmp_path / "lmdb").exists() and not (tmp_path / "lmdb.part").exists()
    elsewhere = tmp_path / "elsewhere"
    (root / "train" / GOT10K_NAMES[0]).rename(elsewhere)
    (root / "train" / GOT10K_NAMES[0]).symlink_to(elsewhere, target_is_directory=True)  # links that end are followed
    assert build_lmdb("got10k", root, tmp_path / "lmdb")[0] == 37
