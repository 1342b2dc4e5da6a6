"""Clips of any layout as a GOT-10k root."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lorat_plugin.box_files import read_boxes
from lorat_plugin.datasets.clips import find_scorable_clips, link_clips, write_sequences
from lorat_plugin.errors import InputError
from tests.helpers.sequences import SIZE, square_sequence, write_clip, write_frames


def test_clips_are_found_and_linked(tmp_path: Path) -> None:
    boxes = write_clip(tmp_path / "data" / "b", length=4)
    write_clip(tmp_path / "data" / "a", length=3)
    (tmp_path / "data" / "notes").mkdir()
    (tmp_path / "data" / "README.md").write_text("no clip")
    clips = find_scorable_clips(tmp_path / "data")
    assert [clip.name for clip in clips] == ["a", "b"]
    np.testing.assert_allclose(clips[1].boxes, boxes)
    link_clips(clips, tmp_path / "root")
    subset = tmp_path / "root" / "val"
    assert (subset / "list.txt").read_text().split() == ["a", "b"]
    names = {path.name for path in (subset / "b").iterdir()}
    assert {"00000004.jpg", "groundtruth.txt", "meta_info.ini", "cover.label", "absence.label"} <= names
    assert f"resolution: ({SIZE[1]}, {SIZE[0]})" in (subset / "b" / "meta_info.ini").read_text()
    link_clips(clips[:1], tmp_path / "root")  # again, with less
    assert not (subset / "b").exists()


def test_one_clip_img_folders_other_image_types_and_natural_order(tmp_path: Path) -> None:
    frames, boxes = square_sequence(11)
    write_frames(tmp_path / "clip" / "img", frames, digits=1, suffix=".png")  # 1.png ... 11.png
    (tmp_path / "clip" / "groundtruth.txt").write_text("\n".join("\t".join(map(str, row)) for row in boxes))
    (clip,) = find_scorable_clips(tmp_path / "clip")
    assert [Path(path).name for path in clip.frames][:3] == ["1.png", "2.png", "3.png"]
    np.testing.assert_array_equal(clip.boxes, boxes)


def test_a_got10k_root_is_accepted(tmp_path: Path) -> None:
    write_clip(tmp_path / "data" / "a")
    link_clips(find_scorable_clips(tmp_path / "data"), tmp_path / "root")
    assert [clip.name for clip in find_scorable_clips(tmp_path / "root")] == ["a"]


def test_frames_are_copied_where_links_are_impossible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError("a required privilege is not held by the client")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    write_clip(tmp_path / "data" / "a")
    link_clips(find_scorable_clips(tmp_path / "data"), tmp_path / "root")
    copy = tmp_path / "root" / "val" / "a" / "00000001.jpg"
    assert not copy.is_symlink() and copy.stat().st_size > 0


def test_absent_frames_are_labelled(tmp_path: Path) -> None:
    boxes = write_clip(tmp_path / "data" / "a", length=4)
    rows = [",".join(map(str, row)) for row in boxes]
    rows[1], rows[2] = "nan,nan,nan,nan", "5,5,0,0"
    (tmp_path / "data" / "a" / "groundtruth.txt").write_text("\n".join(rows))
    clips = find_scorable_clips(tmp_path / "data")
    assert np.isnan(clips[0].boxes).all(axis=1).tolist() == [False, True, True, False]
    link_clips(clips, tmp_path / "root")
    home = tmp_path / "root" / "val" / "a"
    assert np.loadtxt(home / "cover.label").tolist() == [8, 0, 0, 8]
    assert np.loadtxt(home / "absence.label").tolist() == [0, 1, 1, 0]
    assert np.loadtxt(home / "groundtruth.txt", delimiter=",")[1].tolist() == [0, 0, 0, 0]


def test_cut_by_image_is_labelled(tmp_path: Path) -> None:
    frames, boxes = square_sequence(2)
    boxes[1] = (SIZE[1] - 10, 5, 10, 10)
    write_sequences({"a": (frames, boxes)}, tmp_path)
    assert np.loadtxt(tmp_path / "val" / "a" / "cut_by_image.label").tolist() == [0, 1]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("1,2,3,4\n1,2,3", "line 2: '1,2,3' is not a box"),
        ("1,2,three,4\n1,2,3,4", "line 1: '1,2,three,4' is not a box"),
        ("", "is empty"),
        ("1,2,3,4", "2 frames but 1 rows"),
        ("nan,nan,nan,nan\n1,2,3,4", "first row"),
        ("1,2,3,4\n0,0,0,0", "no frame after the first"),
    ],
)
def test_bad_ground_truth_is_named(rows: str, message: str, tmp_path: Path) -> None:
    write_clip(tmp_path / "a", length=2)
    (tmp_path / "a" / "groundtruth.txt").write_text(rows)
    with pytest.raises(InputError, match=message):
        find_scorable_clips(tmp_path)


def test_missing_folders_say_which_layout_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such folder.*groundtruth\.txt"):
        find_scorable_clips(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"no clip.*groundtruth\.txt"):
        find_scorable_clips(tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        read_boxes(tmp_path / "none.txt")


def test_names_are_fit_for_the_toolkits_glob_patterns(tmp_path: Path) -> None:
    write_clip(tmp_path / "a[1]")
    assert [clip.name for clip in find_scorable_clips(tmp_path)] == ["a_1_"]


def test_an_undecodable_first_frame_leaves_the_old_root(tmp_path: Path) -> None:
    write_clip(tmp_path / "data" / "a")
    link_clips(find_scorable_clips(tmp_path / "data"), tmp_path / "root")
    (tmp_path / "data" / "a" / "00000001.jpg").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"00000001\.jpg"):
        link_clips(find_scorable_clips(tmp_path / "data"), tmp_path / "root")
    assert (tmp_path / "root" / "val" / "list.txt").is_file()


def test_clips_inside_the_folder_that_is_replaced_are_refused(tmp_path: Path) -> None:
    write_clip(tmp_path / "root" / "val" / "a")
    clips = find_scorable_clips(tmp_path / "root" / "val")
    with pytest.raises(InputError, match="written anew"):
        link_clips(clips, tmp_path / "root")
    assert Path(clips[0].frames[0]).is_file()
