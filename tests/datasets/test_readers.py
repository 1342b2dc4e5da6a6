"""Data sets read from generated folders: what is found, by which conventions, and how damage is named."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lorat_plugin.datasets.folders import lasot_split
from lorat_plugin.datasets.lmdb_build import build_lmdb
from lorat_plugin.datasets.registry import check_dataset, open_dataset
from lorat_plugin.errors import InputError
from lorat_plugin.training.pairs import DatasetPairs
from tests.helpers.datasets import (
    GOT10K_NAMES,
    LASOT_NAMES,
    OPTIONS,
    WRITERS,
    write_coco,
    write_got10k,
    write_lasot,
    write_rows,
    write_trackingnet,
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LORAT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LORAT_CONFIG", str(tmp_path / "config.yaml"))


def opened(name: str, tmp_path: Path, **options: object):
    root = tmp_path / name
    if not root.exists():
        WRITERS[name](root)
    return open_dataset(name, root, **{**OPTIONS.get(name, {}), **options})


FOUND = {
    "lasot": (list(LASOT_NAMES), [6, 6, 6]),
    "got10k": (list(GOT10K_NAMES), [7, 7, 7, 7]),
    "trackingnet": (["a_1", "b-C_0", "c_2", "d_3"], [12] * 4),
    "coco": (["000000000009.jpg", "000000000025.jpg", "000000000030.jpg"], [1, 1, 1]),
    "vasttrack": (["Bee-1", "Bee-2"], [7, 7]),
    "tnl2k": (["Arrow_video", "Boat_video"], [7, 7]),
    "clips": (["one", "two"], [7, 7]),
}


@pytest.mark.parametrize("name", WRITERS)
def test_sequences_are_found_in_order(name, tmp_path):
    dataset = opened(name, tmp_path)
    names, lengths = FOUND[name]
    found = [dataset[i] for i in range(len(dataset))]
    assert [s.name for s in found] == names
    assert [s.frames.count for s in found] == lengths
    assert dataset.frame_count == sum(lengths)
    assert all(s.size == (120, 90) for s in found)
    with pytest.raises(IndexError):
        _ = dataset[len(dataset)]


@pytest.mark.parametrize("name", WRITERS)
def test_boxes_lie_on_the_square(name, tmp_path):
    dataset = opened(name, tmp_path)
    for i in range(len(dataset)):
        sequence = dataset[i]
        for frame in np.flatnonzero(sequence.tracks[0].present):
            x1, y1, x2, y2 = np.rint(sequence.tracks[0].boxes[frame]).astype(int)
            image = dataset.frame(sequence, int(frame)).astype(int)
            assert image.shape == (90, 120, 3) and sequence.tracks[0].boxes.dtype == np.float64
            inside = image[y1 + 1 : y2 - 1, x1 + 1 : x2 - 1]
            assert (x2 - x1, y2 - y1) == (16, 16) and (inside[..., 0] - inside[..., 1] > 100).all(), sequence.name


def test_presence_by_each_data_set_s_flags(tmp_path):
    lasot = opened("lasot", tmp_path)[0]
    assert lasot.frames.key(0) == "airplane/airplane-1/img/00000002.jpg"  # hidden in the first frame: trimmed
    np.testing.assert_array_equal(lasot.tracks[0].present, [1, 1, 1, 0, 1, 1])
    np.testing.assert_array_equal(opened("got10k", tmp_path)[0].tracks[0].present, [1, 1, 1, 0, 1, 1, 1])
    np.testing.assert_array_equal(opened("vasttrack", tmp_path)[0].tracks[0].present, [1, 1, 0, 1, 1, 1, 1])
    assert opened("trackingnet", tmp_path)[0].tracks[0].present.all()
    assert len(opened("coco", tmp_path)[0].tracks) == 2  # the third is a crowd


def test_got10k_split_in_both_readings(tmp_path):
    def names(**options):
        dataset = opened("got10k", tmp_path, **options)
        return [dataset[i].name for i in range(len(dataset))]

    assert names(chosen=("0", "3")) == [GOT10K_NAMES[0], GOT10K_NAMES[3]]
    assert names(chosen=("0", "3"), reading="name") == [GOT10K_NAMES[2]]
    assert names(chosen=(GOT10K_NAMES[1],)) == [GOT10K_NAMES[1]]
    assert names(excluded=(GOT10K_NAMES[0],)) == list(GOT10K_NAMES[1:])
    with pytest.raises(InputError, match="number 7, which fits none of the 4 sequences"):
        names(chosen=("7",))
    with pytest.raises(InputError, match=r"number 4, .*\(read as name\)"):
        names(chosen=("4",), reading="name")
    with pytest.raises(InputError, match="1 of 1 sequences in the list are missing, first GOT-10k_Train_000009"):
        names(chosen=("GOT-10k_Train_000009",))


def test_lasot_without_class_folders_and_with_missing_sequences(tmp_path):
    root = write_lasot(tmp_path / "lasot")
    for name in LASOT_NAMES:
        (root / name.rpartition("-")[0] / name).rename(root / name)
    assert open_dataset("lasot", root, chosen=LASOT_NAMES)[1].frames.key(0) == "dog-7/img/00000002.jpg"
    with pytest.raises(InputError, match="1 of 2 LaSOT sequences are missing, first 'dog-8'"):
        open_dataset("lasot", root, chosen=("dog-7", "dog-8"))


@pytest.mark.toolkit
def test_lasot_split_lists():
    pytest.importorskip("got10k")
    assert len(lasot_split("train")) == 1120 and len(lasot_split("test")) == 280
    with pytest.raises(InputError, match="unknown LaSOT subset"):
        lasot_split("val")


def _cut_rows(path: Path) -> None:
    path.write_text("\n".join(path.read_text().splitlines()[:-2]) + "\n")


def _cut_bytes(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


@pytest.mark.parametrize(
    ("name", "path", "damage", "message"),
    [
        ("lasot", "dog/dog-7/groundtruth.txt", _cut_rows, "full_occlusion.txt: wanted 5 numbers 0 or 1"),
        ("lasot", "dog/dog-7/groundtruth.txt", _cut_bytes, "groundtruth.txt, line 7: '.*' is not a box"),
        ("lasot", "dog/dog-7/out_of_view.txt", Path.unlink, "out_of_view.txt: cannot be read: No such file"),
        ("lasot", "dog/dog-7/img/00000007.jpg", Path.unlink, "00000007.jpg: is missing, but there are 7 boxes"),
        ("got10k", "train/list.txt", Path.unlink, "list.txt: is missing; GOT-10k wants"),
        ("got10k", f"train/{GOT10K_NAMES[1]}/absence.label", _cut_rows, "absence.label: wanted 7 numbers"),
        ("got10k", f"train/{GOT10K_NAMES[1]}/00000001.jpg", Path.unlink, "00000001.jpg: cannot be read"),
        (
            "got10k",
            f"train/{GOT10K_NAMES[1]}",
            shutil.rmtree,
            f"1 of 4 sequences are not there, first {GOT10K_NAMES[1]}",
        ),
        ("trackingnet", "TRAIN_2/anno/c_2.txt", _cut_rows, "has 10 rows, but there are more frames"),
        ("trackingnet", "TRAIN_2/frames/c_2/11.jpg", Path.unlink, "11.jpg: is missing"),
        ("coco", "annotations/instances_train2017.json", _cut_bytes, "is damaged or no COCO instances file"),
        ("coco", "images/train2017/000000000025.jpg", Path.unlink, "is missing, but listed in annotations"),
        ("tnl2k", "Boat_video/imgs/frame9.jpg", Path.unlink, "6 frames but 7 boxes"),
        ("clips", "two/groundtruth.txt", _cut_rows, "7 frames but 5 boxes"),
    ],
)
def test_damage_is_named_before_training(name, path, damage, message, tmp_path):
    root = WRITERS[name](tmp_path / name)
    damage(root / path)
    with pytest.raises(InputError, match=message):
        opened(name, tmp_path)
    assert not list((tmp_path / "cache").glob("*-*"))  # no index of half a data set


def test_unreadable_frame_is_named(tmp_path):
    root = write_got10k(tmp_path / "got10k")
    dataset = open_dataset("got10k", root)
    path = root / dataset[0].frames.key(2)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match=r"00000003.jpg: the image is incomplete"):
        dataset.frame(dataset[0], 2)


@pytest.mark.parametrize("name", WRITERS)
def test_an_empty_folder_names_the_layout(name, tmp_path):
    (tmp_path / name).mkdir()
    with pytest.raises(InputError, match="ROOT/"):
        open_dataset(name, tmp_path / name, **OPTIONS.get(name, {}))


@pytest.mark.parametrize("kind", ["folder", "lmdb"])
def test_trackingnet_s_sequence_list_is_compared_with_the_parts(kind, tmp_path, caplog):
    root = write_trackingnet(tmp_path / "folder")
    if kind == "lmdb":
        build_lmdb("trackingnet", root, tmp_path / "lmdb")
        root = tmp_path / "lmdb"
    videos = [[0, "b-C_0"], [0, "a_1"], [2, "c_2"], [10, "d_3"], [1, "in_a_part_that_is_missing"]]
    (root / "seq_list.json").write_text(json.dumps(videos))
    assert len(open_dataset("trackingnet", root)) == 4
    assert "9 of 12 training parts are missing: TRAIN_1, TRAIN_3" in caplog.text
    caplog.clear()
    assert len(open_dataset("trackingnet", root, chosen=("a_1",))) == 1 and not caplog.text  # a part is what is wanted
    (root / "seq_list.json").write_text(json.dumps([*videos, [2, "gone"]]))
    with pytest.raises(InputError, match=rf"{root}/seq_list.json: 1 of its videos .* first TRAIN_2/anno/gone.txt"):
        open_dataset("trackingnet", root)
    (root / "seq_list.json").write_text("{")
    with pytest.raises(InputError, match=r"is no list of \[part, video\]"):
        open_dataset("trackingnet", root)


@pytest.mark.parametrize("name", WRITERS)
def test_an_lmdb_of_another_layout_names_the_layout_that_is_wanted(name, tmp_path):
    other = "coco" if name == "got10k" else "got10k"
    build_lmdb(other, WRITERS[other](tmp_path / other), tmp_path / "lmdb")
    with pytest.raises(InputError, match="ROOT/"):
        open_dataset(name, tmp_path / "lmdb", **OPTIONS.get(name, {}))


def test_trackingnet_part_numbers_sort_as_numbers(tmp_path):
    dataset = open_dataset("trackingnet", write_trackingnet(tmp_path / "trackingnet"))
    assert dataset[3].frames.key(11) == "TRAIN_10/frames/d_3/11.jpg"


def moving_boxes(count: int, x: float, y: float, dx: float, dy: float, w: float, h: float) -> np.ndarray:
    """(count, 4) boxes x, y, w, h that move by dx, dy a frame."""
    return np.array([[x + i * dx, y + i * dy, w, h] for i in range(count)], float)


def turned(path: Path, width: int = 120, height: int = 160) -> None:
    """Write a picture that is shown `width` x `height` and stored lying on its side, as phones do."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (height, width), "grey").save(path, exif=exif)


@pytest.mark.parametrize("kind", ["folder", "lmdb"])
@pytest.mark.parametrize("name", ["clips", "got10k", "lasot", "tnl2k"])
def test_boxes_in_phone_pictures_are_cut_at_the_border_of_the_upright_picture(name, kind, tmp_path):
    root = WRITERS[name](tmp_path / name)
    boxes = moving_boxes(7, 10, 51, 4, 11, 30, 30)
    for home in {path.parent for path in root.rglob("groundtruth.txt")}:
        write_rows(home / "groundtruth.txt", boxes + ([1, 1, 0, 0] if name == "lasot" else 0))
    for path in root.rglob("*.jpg"):
        turned(path)
    if kind == "lmdb":
        build_lmdb(name, root, tmp_path / "lmdb")
        root = tmp_path / "lmdb"
    sequence = open_dataset(name, root, **OPTIONS.get(name, {}))[0]
    assert sequence.size == (120, 160)
    assert sequence.tracks[0].boxes[-3:, 3].tolist() == [125, 136, 147]
    report = check_dataset(name, root, **OPTIONS.get(name, {}))
    assert (report.problems, report.notes, report.outside) == ([], [], 0)


@pytest.mark.parametrize("stated", [(160, 120), (0, 0), (60, 80), (120, 160), (None, None)])
def test_coco_boxes_are_cut_by_the_picture_whatever_size_the_file_states(stated, tmp_path, caplog):
    root = write_coco(tmp_path / "coco")
    path = root / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    for image in content["images"]:
        image["width"], image["height"] = stated
        turned(root / "images" / "train2017" / image["file_name"])
    for annotation in content["annotations"]:
        annotation["bbox"] = [100, 130, 30, 20]
    path.write_text(json.dumps(content))
    dataset = open_dataset("coco", root)
    assert dataset[0].size == (120, 160)
    assert dataset[0].tracks[0].boxes.tolist() == [[100, 130, 120, 150]]
    fits = stated in ((120, 160), (None, None))
    assert ("3 sentences by lorat data check, such as" in caplog.text) is not fits
    problems = check_dataset("coco", root).problems
    assert len(problems) == (0 if fits else 3)
    assert all(f"says {stated[0]}x{stated[1]}: do its boxes fit" in problem for problem in problems)


def test_coco_ids_without_a_partner_are_refused_and_found_by_the_check(tmp_path):
    root = write_coco(tmp_path / "coco")
    path = root / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    whole = json.dumps(content)
    content["annotations"][4]["image_id"] = 99  # a crowd, which nobody uses
    content["annotations"][5]["image_id"] = 77
    content["images"].append(content["images"][0])
    path.write_text(json.dumps(content))
    report = check_dataset("coco", root)
    assert [p.partition("json: ")[2] for p in report.problems] == [
        "1 ids of annotations are of no image, first 77; correct the file",
        "1 ids are of several images, first 9; correct the file",
    ]
    assert report.sequences == 4  # the others are examined
    with pytest.raises(InputError, match="1 ids of annotations are of no image, first 77"):
        open_dataset("coco", root)
    path.write_text(whole)
    assert len(open_dataset("coco", root)) == 3


@pytest.mark.parametrize("box", ["missing", None, [], [1, 2, 3, 4, 5, 6, 7, 8]])  # a mask only; a polygon
def test_coco_annotations_without_a_box_are_refused_and_named(tmp_path, box):
    root = write_coco(tmp_path / "coco")
    path = root / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    content["annotations"][5] |= {"bbox": box, "segmentation": {"size": [90, 120], "counts": [5, 9, 10786]}}
    if box == "missing":
        del content["annotations"][5]["bbox"]
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"image 0+25\.jpg has a box without 4 numbers"):
        open_dataset("coco", root)


def resized(root: Path, scale: float, at: int = 5, count: int = 10) -> np.ndarray:
    """Write a GOT-10k sequence whose pictures, 160x120, change size at a frame; returns its boxes x, y, w, h."""
    home = root / "train" / "GOT-10k_Train_000001"
    home.mkdir(parents=True)
    boxes = moving_boxes(count, 20, 30, 12, 6, 30, 24)
    for number in range(count):
        size = (160, 120) if number < at else (round(160 * scale), round(120 * scale))
        Image.new("RGB", size, "grey").save(home / f"{number + 1:08d}.jpg")
    boxes[at:] *= scale
    write_rows(home / "groundtruth.txt", boxes)
    write_rows(home / "absence.label", np.zeros(count), "%d")
    (root / "train" / "list.txt").write_text("GOT-10k_Train_000001\n")
    return boxes


@pytest.mark.parametrize("scale", [1.5, 2 / 3, 0.5])
def test_boxes_in_pictures_that_change_size_are_cut_by_their_own_picture(scale, tmp_path):
    root = tmp_path / "got10k"
    x, y, w, h = resized(root, scale).T
    sequence = open_dataset("got10k", root)[0]
    limits = np.array([[160, 120]] * 5 + [[round(160 * scale), round(120 * scale)]] * 5)
    assert sequence.frames.count == 10 and sequence.tracks[0].present.all()
    wanted = np.minimum(np.stack([x + w, y + h], axis=1), limits)
    np.testing.assert_allclose(sequence.tracks[0].boxes[:, 2:], wanted, atol=1e-4)
    report = check_dataset("got10k", root, images=10)
    assert report.problems == [] and report.present == 10 and report.decoded == 10
    later = f"{round(160 * scale)}x{round(120 * scale)}"
    assert report.notes == [
        "GOT-10k_Train_000001: its pictures change size, from 160x120 to"
        f" {later} pixels at train/GOT-10k_Train_000001/00000006.jpg; each box is cut by its own picture"
    ]


def test_a_single_smaller_picture_cuts_its_box_when_a_pair_is_made(tmp_path):
    """Its header is not read for the index: only every 32nd is."""
    root = tmp_path / "got10k"
    resized(root, 1, count=3)
    path = root / "train" / "GOT-10k_Train_000001" / "00000002.jpg"
    Image.new("RGB", (50, 40)).save(path)
    pairs = DatasetPairs([open_dataset("got10k", root)])
    made = [pairs.sample(np.random.default_rng(seed)) for seed in range(20)]
    cut = {tuple(pair.search_box) for pair in made if pair.search_frame.shape == (40, 50, 3)}
    assert cut == {(32, 36, 50, 40)}
    Image.new("RGB", (30, 40)).save(path)  # now the box lies outside, and no pair may have it
    made = [pairs.sample(np.random.default_rng(seed)) for seed in range(20)]
    assert None in made and all(pair.search_frame.shape == (120, 160, 3) for pair in made if pair)
    report = check_dataset("got10k", root)
    assert report.outside == 1 and report.present == 2 and len(report.notes) == 1


def test_the_check_reads_every_header_and_names_frames_that_are_missing(tmp_path):
    root = tmp_path / "got10k"
    resized(root, 1, count=5)
    home = root / "train" / "GOT-10k_Train_000001"
    (home / "00000002.jpg").unlink()
    (home / "00000004.jpg").write_bytes(b"nothing")
    problems = check_dataset("got10k", root).problems
    assert ["00000002.jpg: cannot be read" in problems[0], "00000004.jpg: cannot be decoded" in problems[1]] == [1, 1]
    assert len(problems) == 2
    assert check_dataset("got10k", root, headers=False).problems == []


@pytest.mark.skipif(os.name == "nt", reason="Windows lets few users make links")
def test_the_check_names_links_in_circles(tmp_path):
    root = WRITERS["clips"](tmp_path / "clips")
    (root / "one" / "again").symlink_to(root, target_is_directory=True)
    (problem,) = check_dataset("clips", root).problems
    assert problem == f"{root / 'one' / 'again'}: is a link to a folder that it lies in; remove it"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_a_sequence_whose_name_is_no_utf8_is_refused_before_an_index_is_made(tmp_path):
    root = WRITERS["clips"](tmp_path / "clips")
    try:
        (root / "one").rename(os.fsdecode(os.fsencode(root) + b"/caf\xe9"))
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with pytest.raises(InputError, match=r"'caf\\udce9' is no UTF-8 name; rename it"):
        open_dataset("clips", root)
    assert not list((tmp_path / "cache").glob("*-*"))
