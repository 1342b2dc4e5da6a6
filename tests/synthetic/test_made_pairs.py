"""Pairs and videos made on the fly: deterministic, with boxes inside frames, from folders or from nothing."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from lorat_plugin.boxes import area
from lorat_plugin.datasets.clips import read_clip
from lorat_plugin.errors import InputError
from lorat_plugin.synthetic.material import Material
from lorat_plugin.synthetic.pairs import FramePair, ObjectPairs, PatchPairs
from lorat_plugin.training.pairs import ClipPairs, read_clips


def _rng(*numbers: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(numbers))


def _check(pair: FramePair) -> None:
    for frame, box in ((pair.template_frame, pair.template_box), (pair.search_frame, pair.search_box)):
        assert frame.dtype == np.uint8 and frame.ndim == 3
        height, width = frame.shape[:2]
        assert (box >= 0).all() and (box <= [width, height, width, height]).all()
        assert area(box) > 0


@pytest.fixture(scope="module")
def material() -> Material:
    """Procedural cut-outs and photos."""
    return Material(None, None)


@pytest.mark.parametrize("source", [ObjectPairs, PatchPairs])
def test_pairs_are_a_function_of_the_generator(material: Material, source: type[ObjectPairs]) -> None:
    made = [source(material).sample(_rng(1, i)) for i in range(16)]
    usable = [p for p in made if p is not None]
    assert len(usable) > 5
    for pair in usable:
        _check(pair)
    again = source(Material(None, None)).sample(_rng(1, 7))
    assert (again is None) == (made[7] is None)
    if again is not None and made[7] is not None:
        assert all(np.array_equal(a, b) for a, b in zip(again, made[7], strict=True))


def test_targets_come_in_many_sizes(material: Material) -> None:
    pairs = [ObjectPairs(material).sample(_rng(2, i)) for i in range(60)]
    sizes = np.array([area(p.template_box) ** 0.5 for p in pairs if p is not None])
    assert sizes.min() < 18 and sizes.max() > 60


def _write_folders(folder: Path) -> tuple[Path, Path]:
    rng = np.random.default_rng(0)
    cutouts, photos = folder / "cutouts", folder / "photos"
    cutouts.mkdir()
    photos.mkdir()
    for name in ("coco_person_1_2", "coco_person_3_4", "coco_cup_1_5", "skip_me_1"):
        cv2.imwrite(str(cutouts / f"{name}.png"), np.dstack([rng.integers(0, 256, (30, 20, 3), np.uint8),
                                                              np.full((30, 20), 255, np.uint8)]))  # fmt: skip
    for name in ("a.jpg", "skip_b.jpg"):
        cv2.imwrite(str(photos / name), rng.integers(0, 256, (900, 700, 3), np.uint8))
    return cutouts, photos


def test_folders_kinds_and_exclusion(tmp_path: Path) -> None:
    material = Material(*_write_folders(tmp_path), exclude=["skip_"])
    assert (material.cutout_count, material.photo_count) == (3, 1)
    assert material.relatives(1) == [1, 2] and material.people == [1, 2]
    assert max(material.photo(0).shape) == 640
    pair = next(p for p in (ObjectPairs(material).sample(_rng(0, i)) for i in range(9)) if p)
    _check(pair)


def test_bad_folders_are_named(tmp_path: Path) -> None:
    cutouts, photos = _write_folders(tmp_path)
    with pytest.raises(InputError, match="absent is not a folder"):
        Material(tmp_path / "absent", photos)
    with pytest.raises(InputError, match="no usable image"):
        Material(cutouts, photos, exclude=["a", "skip"])
    (photos / "a.jpg").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"a\.jpg: cannot be decoded"):
        Material(None, photos).photo(0)
    cv2.imwrite(str(cutouts / "coco_cup_1_5.png"), np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(InputError, match=r"coco_cup_1_5\.png: has no alpha"):
        Material(cutouts, None).cutout(0)


def _write_clip(folder: Path, rows: str, frames: int = 3) -> Path:
    folder.mkdir(parents=True)
    for i in range(frames):
        cv2.imwrite(str(folder / f"{i:04d}.jpg"), np.full((40, 60, 3), 40 * i, np.uint8))
    (folder / "groundtruth.txt").write_text(rows)
    return folder


def test_clip_pairs_skip_absent_frames_and_keep_the_gap(tmp_path: Path) -> None:
    _write_clip(tmp_path / "one", "5,5,10,10\n0,0,0,0\n50,30,30,30\n")
    (tmp_path / "unlabelled").mkdir()
    (clip,) = read_clips(tmp_path)
    assert clip.present.tolist() == [True, False, True]
    pairs = [ClipPairs([clip]).sample(_rng(i)) for i in range(8)]
    for pair in pairs:
        assert pair is not None
        _check(pair)
        assert int(pair.template_frame[0, 0, 0]) != int(pair.search_frame[0, 0, 0])
    alone = ClipPairs([clip], max_gap=1).sample(_rng(0))
    assert alone is not None and np.array_equal(alone.template_frame, alone.search_frame)


def test_bad_clips_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no clip with a groundtruth"):
        read_clips(tmp_path)
    with pytest.raises(InputError, match="3 frames but 1 rows"):
        read_clip(_write_clip(tmp_path / "short", "1,2,3,4\n"))
    with pytest.raises(InputError, match="x,y,w,h"):
        read_clip(_write_clip(tmp_path / "words", "a,b,c,d\n" * 3))


def test_clips_with_unpadded_names_keep_frames_and_boxes_together(tmp_path):
    home = tmp_path / "clip"
    home.mkdir()
    for number in range(1, 13):
        cv2.imwrite(str(home / f"{number}.png"), np.full((20, 30, 3), number, np.uint8))
    (home / "groundtruth.txt").write_text("".join(f"{n},1,5,5\n" for n in range(1, 13)))
    clip = read_clip(home)
    assert [Path(path).stem for path in clip.frames] == [str(n) for n in range(1, 13)]
    assert clip.boxes[:, 0].tolist() == list(range(1, 13))
