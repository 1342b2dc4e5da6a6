"""The index: made once, renewed when the source changes, exact, small to send to workers; and cleaning."""

from __future__ import annotations

import os
import pickle

import cv2
import numpy as np
import pytest

from lorat_plugin.datasets import index
from lorat_plugin.datasets.index import clean, fit_to_image
from lorat_plugin.datasets.registry import open_dataset
from lorat_plugin.datasets.sequences import Frames, Track, VideoSequence
from lorat_plugin.errors import InputError
from tests.helpers.datasets import write_got10k, write_lasot, write_rows


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LORAT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_made_once_and_renewed_when_annotations_change(tmp_path, cache, monkeypatch):
    root = write_got10k(tmp_path / "got10k")
    first = open_dataset("got10k", root)
    with monkeypatch.context() as patched:
        patched.setattr(index, "_write", None)  # a second index would call it
        assert open_dataset("got10k", root).folder == first.folder
    write_rows(root / "train" / first[0].name / "groundtruth.txt", np.full((7, 4), 20.5))
    second = open_dataset("got10k", root)
    assert second.folder != first.folder
    np.testing.assert_array_equal(second[0].tracks[0].boxes[0], [20.5, 20.5, 41, 41])
    assert open_dataset("got10k", root, excluded=(first[0].name,)).folder != second.folder
    assert sorted(cache.iterdir()) == sorted(
        [second.folder, open_dataset("got10k", root, excluded=(first[0].name,)).folder]
    )


def test_renewed_when_the_pictures_change_and_the_annotation_does_not(tmp_path, cache):
    root = write_got10k(tmp_path / "got10k")
    first = open_dataset("got10k", root)
    home = root / first[0].frames.folder
    annotation = first.record["annotation"]
    former = first[0].size
    picture = root / first[0].frames.key(0)
    picture.write_bytes(cv2.imencode(".jpg", np.zeros((31, 37, 3), np.uint8))[1].tobytes())
    second = open_dataset("got10k", root)
    assert second.folder == first.folder and former != (37, 31) == second[0].size
    assert second.record["annotation"] != annotation
    known = second.record["frames"]
    os.utime(home, (1, 1))  # as after a file is added or removed
    assert open_dataset("got10k", root).record["frames"] != known


def test_the_digest_of_the_annotation_does_not_depend_on_the_root(tmp_path, cache):
    one, two = (open_dataset("got10k", write_got10k(tmp_path / name)) for name in ("one", "two"))
    assert one.folder != two.folder and one.record["annotation"] == two.record["annotation"]


def test_boxes_stay_exact_and_whole_pixels_take_half_the_room(tmp_path, cache):
    got10k = open_dataset("got10k", write_got10k(tmp_path / "got10k"))
    assert got10k[0].tracks[0].boxes[0, 0] == 30.1234
    assert np.load(got10k.folder / "boxes.npy").dtype == np.float64
    lasot = open_dataset("lasot", write_lasot(tmp_path / "lasot"), chosen=("dog-7",))
    assert np.load(lasot.folder / "boxes.npy").dtype == np.float32
    assert lasot[0].tracks[0].boxes.dtype == np.float64


def test_arrays_are_mapped_and_pickles_hold_paths_only(tmp_path, cache):
    dataset = open_dataset("got10k", write_got10k(tmp_path / "got10k"))
    assert isinstance(dataset[1].tracks[0].present, np.memmap)
    packed = pickle.dumps(dataset)
    assert len(packed) < 1000
    again = pickle.loads(packed)
    np.testing.assert_array_equal(again[1].tracks[0].boxes, dataset[1].tracks[0].boxes)


def test_damaged_index_and_unusable_cache_are_named(tmp_path, cache, monkeypatch):
    root = write_got10k(tmp_path / "got10k")
    folder = open_dataset("got10k", root).folder
    (folder / "boxes.npy").write_bytes(b"x")
    with pytest.raises(InputError, match=r"the index is damaged .* delete the folder"):
        open_dataset("got10k", root)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LORAT_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match="cannot be written"):
        open_dataset("got10k", root)


def test_a_full_disk_leaves_no_index(tmp_path, cache, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(index.np, "save", full)
    with pytest.raises(InputError, match=r"No space left on device.*set LORAT_CACHE"):
        open_dataset("got10k", write_got10k(tmp_path / "got10k"))
    assert not list(cache.iterdir())


def test_fit_to_image_is_golden(golden):
    data = np.load(golden / "training" / "data_cleaning.npz")
    size = tuple(int(v) for v in data["image_wh"])
    np.testing.assert_array_equal(fit_to_image(data["boxes_in"], size), data["boxes_fitted"])
    for box, valid in zip(data["boxes_in"], data["valid_after"], strict=True):
        frames = Frames("", "%d.jpg", 0, 1)
        cleaned = clean(VideoSequence("one", frames, size, (Track(box[None], np.array([True])),)))
        assert (cleaned is not None) == valid


def test_cleaning_rules():
    inside, outside = [10.0, 10, 20, 20], [200.0, 10, 220, 20]
    boxes = np.array([outside, inside, [-5.0, 5, 15, 25], outside, inside, inside])
    present = np.array([True, True, True, True, True, False])
    sequence = VideoSequence("two", Frames("f", "%d.jpg", 5, 6), (100, 80), (Track(boxes, present),))
    cleaned = clean(sequence)
    assert cleaned is not None and cleaned.frames == Frames("f", "%d.jpg", 6, 4)
    np.testing.assert_array_equal(cleaned.tracks[0].present, [True, True, False, True])
    np.testing.assert_array_equal(cleaned.tracks[0].boxes[1], [0, 5, 15, 25])
    never = Track(boxes, np.zeros(6, bool))
    both = clean(VideoSequence("two", sequence.frames, (100, 80), (never, sequence.tracks[0])))
    assert both is not None and len(both.tracks) == 1
    assert clean(VideoSequence("none", sequence.frames, (100, 80), (never,))) is None
    assert clean(VideoSequence("flat", sequence.frames, (0, 80), sequence.tracks)) is None
    assert clean(VideoSequence("bare", sequence.frames, (100, 80), ())) is None


def test_cleaning_trims_listed_frames():
    boxes = np.tile([1.0, 1, 5, 5], (3, 1))
    track = Track(boxes, np.array([False, True, False]))
    cleaned = clean(VideoSequence("x", Frames.listed("f", ["a.jpg", "b.jpg", "c.jpg"]), (9, 9), (track,)))
    assert cleaned is not None and cleaned.frames.key(0) == "f/b.jpg" and cleaned.frames.count == 1
