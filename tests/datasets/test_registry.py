"""Data sets by name: where they lie, other packages' data sets, and what a check finds."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from lorat_plugin import plugins
from lorat_plugin.datasets import registry as catalogue
from lorat_plugin.datasets.folders import FolderReader
from lorat_plugin.datasets.got10k import Got10kReader, read_list
from lorat_plugin.datasets.registry import (
    check_dataset,
    dataset_names,
    dataset_root,
    find_datasets,
    make_reader,
    open_dataset,
)
from lorat_plugin.errors import InputError
from tests.helpers.datasets import OPTIONS, WRITERS, write_clips, write_coco, write_got10k, write_trackingnet


@pytest.fixture(autouse=True)
def _nothing_configured(tmp_path, monkeypatch):
    for name in ("LORAT_DATA", "LORAT_GOT10K_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LORAT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LORAT_CONFIG", str(tmp_path / "config.yaml"))


def test_root_by_argument_then_variable_then_shared_folder_then_settings(tmp_path, monkeypatch):
    reader = Got10kReader()
    for name in ("flag", "variable", "data/GOT-10k", "settings"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "config.yaml").write_text(f"data: {{got10k: {tmp_path / 'settings'}}}\n")
    assert dataset_root(reader) == tmp_path / "settings"
    monkeypatch.setenv("LORAT_DATA", str(tmp_path / "data"))
    assert dataset_root(reader) == tmp_path / "data" / "GOT-10k"
    monkeypatch.setenv("LORAT_GOT10K_ROOT", str(tmp_path / "variable"))
    assert dataset_root(reader) == tmp_path / "variable"
    assert dataset_root(reader, tmp_path / "flag") == tmp_path / "flag"


def test_unknown_root_names_every_way_and_the_layout(tmp_path, monkeypatch):
    with pytest.raises(
        InputError, match=r"no folder is known; .*LORAT_GOT10K_ROOT or LORAT_DATA.*config.yaml.*ROOT/train"
    ):
        dataset_root(Got10kReader())
    with pytest.raises(InputError, match=r"absent is no folder; give the data set's folder"):
        dataset_root(Got10kReader(), tmp_path / "absent")
    monkeypatch.setenv("LORAT_DATA", str(tmp_path / "absent"))
    with pytest.raises(InputError, match=r"absent/got10k is no folder"):
        dataset_root(Got10kReader())
    monkeypatch.delenv("LORAT_DATA")
    (tmp_path / "config.yaml").write_text("data: [")
    with pytest.raises(InputError, match="is no valid settings file"):
        dataset_root(Got10kReader())


def mine(chosen: tuple[str, ...] = ()) -> FolderReader:
    return replace(make_reader("clips"), name="mine", chosen=chosen)  # type: ignore[type-var]


def test_data_sets_of_other_packages(tmp_path, monkeypatch):
    points = [
        EntryPoint("mine", f"{__name__}:mine", catalogue.GROUP),
        EntryPoint("broken", "no_such_package:thing", catalogue.GROUP),
        EntryPoint("wrong", "builtins:dict", catalogue.GROUP),
    ]
    monkeypatch.setattr(plugins, "entry_points", lambda group: points if group == "lorat_plugin.datasets" else [])
    assert {"mine", "lasot", "coco"} < set(dataset_names())
    assert open_dataset("mine", write_clips(tmp_path / "clips"), chosen=("two",))[0].name == "two"
    with pytest.raises(InputError, match="'broken': no_such_package:thing cannot be loaded"):
        make_reader("broken")
    with pytest.raises(InputError, match="'wrong': dict is no reader, it lacks name"):
        make_reader("wrong")
    with pytest.raises(InputError, match="unknown data set 'other'; known are"):
        make_reader("other")
    with pytest.raises(InputError, match="does not know this option"):
        make_reader("coco", chosen=())


def test_split_lists(tmp_path):
    (tmp_path / "list.txt").write_text("3\n\n 17 \n")
    assert read_list(tmp_path / "list.txt") == ("3", "17")
    (tmp_path / "list.txt").write_text("\n")
    with pytest.raises(InputError, match="is empty"):
        read_list(tmp_path / "list.txt")
    with pytest.raises(InputError, match="cannot be read"):
        read_list(tmp_path / "absent.txt")


@pytest.mark.parametrize("name", WRITERS)
def test_check_of_a_whole_data_set(name, tmp_path):
    report = check_dataset(name, WRITERS[name](tmp_path / name), images=5, **OPTIONS.get(name, {}))
    missing = "9 of 12 training parts are missing: TRAIN_1, TRAIN_3, TRAIN_4"
    assert [missing in problem for problem in report.problems] == [True] * (name == "trackingnet")
    assert report.sequences > 0 and report.kind == "folder"
    assert report.decoded == min(5, report.frames) and report.present <= report.frames * 2


def test_check_lists_every_problem(tmp_path):
    root = write_got10k(tmp_path / "got10k")
    homes = sorted(p for p in (root / "train").iterdir() if p.is_dir())
    (homes[0] / "groundtruth.txt").unlink()
    (homes[1] / "absence.label").write_text("0\n")
    (homes[2] / "00000003.jpg").write_bytes(b"\xff\xd8\xff")
    report = check_dataset("got10k", root, images=14)
    assert report.sequences == 2 and report.decoded == 13
    assert [p.partition(":")[0] for p in report.problems] == [home.name for home in homes[:3]]


def test_check_of_a_part_of_lasot_counts_what_is_there(tmp_path):
    report = check_dataset("lasot", WRITERS["lasot"](tmp_path / "lasot"), chosen=("dog-7", "dog-8"))
    assert report.sequences == 1 and report.frames == 6
    assert "1 of 2 LaSOT sequences are missing, first 'dog-8'" in report.problems[0]
    assert report.problems[1].startswith("dog-8: ") and len(report.problems) == 2
    assert len(check_dataset("coco", tmp_path / "lasot").problems) == 1


def test_data_sets_are_recognised(tmp_path):
    write_got10k(tmp_path / "data" / "anything")
    write_coco(tmp_path / "data" / "MS-COCO")
    write_trackingnet(tmp_path / "data" / "TrackingNet")
    write_clips(tmp_path / "data" / "other")
    found = find_datasets(tmp_path / "data")
    assert found == [
        ("coco", tmp_path / "data" / "MS-COCO"),
        ("trackingnet", tmp_path / "data" / "TrackingNet"),
        ("got10k", tmp_path / "data" / "anything"),
    ]
    assert find_datasets(tmp_path / "data" / "anything") == [found[2]]
    assert find_datasets(tmp_path / "data" / "other", "clips") == [("clips", tmp_path / "data" / "other")]
    with pytest.raises(InputError, match="no data set is recognised"):
        find_datasets(tmp_path / "data" / "other")
    with pytest.raises(InputError, match="no such folder"):
        find_datasets(Path(tmp_path / "absent"))
