"""Clips as sequences of the VOT toolkit: masks, several objects, anchors, and clips that are refused."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from lorat_plugin.box_files import parse_regions
from lorat_plugin.errors import InputError
from lorat_plugin.harness.vot_tools.sequences import (
    ANCHOR_SPACING,
    anchors,
    find_sequences,
    mask_line,
    sequence_problems,
    write_sequence,
)
from tests.helpers.sequences import write_clip


def write_masks(home: Path, masks: list[np.ndarray]) -> None:
    (home / "mask").mkdir()
    for number, mask in enumerate(masks):
        Image.fromarray(mask).save(home / "mask" / f"{number}.png")


def squares(length: int, **places: tuple[int, int]) -> list[np.ndarray]:
    """Masks (90, 120) uint8 with squares of side 10: object's value -> x, y in frame 0, moving by 1, 1."""
    made = []
    for i in range(length):
        mask = np.zeros((90, 120), np.uint8)
        for value, (x, y) in places.items():
            mask[y + i : y + i + 10, x + i : x + i + 10] = int(value.strip("_"))
        made.append(mask)
    return made


@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12)))
def test_mask_line_says_the_mask(mask: np.ndarray) -> None:
    line = mask_line(mask)
    if not mask.any():
        assert line == "0"
        return
    x, y, w, h, *runs = map(int, line[1:].split(","))
    window = np.repeat(np.arange(len(runs)) % 2, runs).reshape(h, w)
    read = np.zeros_like(mask)
    read[y : y + h, x : x + w] = window
    assert (read == mask).all()
    rows, columns = np.nonzero(mask)
    assert (x, y) == (columns.min(), rows.min())  # no larger than it must be
    assert parse_regions(line, "")[0].tolist() == [x, y, w, h]


@given(hnp.arrays(bool, st.integers(1, 400)))
def test_anchors_stand_on_visible_frames_and_see_the_longer_part(present: np.ndarray) -> None:
    values = anchors(present)
    frames = np.flatnonzero(values)
    assert present[frames].all()
    last = len(present) - 1
    assert all((values[f] > 0) == (f <= last - f) for f in frames)


@given(st.integers(1, 1000))
def test_anchors_of_a_visible_target_are_about_50_frames_apart(length: int) -> None:
    frames = np.flatnonzero(anchors(np.ones(length, bool)))
    assert {0, length - 1} <= set(frames)
    if length > ANCHOR_SPACING:
        assert 33 <= np.diff(frames).min() <= np.diff(frames).max() <= 75
    else:
        assert len(frames) <= 2


def test_an_anchor_moves_to_where_the_target_is_seen() -> None:
    present = np.ones(101, bool)
    present[[0, 1, 45, 46, 47, 48, 49, 50, 51]] = False
    assert np.flatnonzero(anchors(present)).tolist() == [2, 52, 100]
    present[20:90] = False
    assert np.flatnonzero(anchors(present)).tolist() == [2, 100]


def test_masks_of_one_object_and_of_several(tmp_path: Path) -> None:
    write_clip(tmp_path / "clips" / "one", 3)
    write_masks(tmp_path / "clips" / "one", [mask > 0 for mask in squares(3, _1=(5, 7))])
    write_clip(tmp_path / "clips" / "two", 3)
    masks = squares(3, _1=(5, 7), _4=(40, 20), _255=(80, 40))
    masks[0][masks[0] == 4] = 0  # appears late
    write_masks(tmp_path / "clips" / "two", masks)
    one, two = find_sequences(tmp_path / "clips")
    assert list(one.targets) == [""]
    assert parse_regions("\n".join(one.targets[""].lines), "").tolist() == [[5 + i, 7 + i, 10, 10] for i in range(3)]
    assert list(two.targets) == ["1", "4"]
    assert two.late
    assert two.targets["4"].present.tolist() == [False, True, True]
    write_sequence(tmp_path / "written", two)
    assert (tmp_path / "written" / "groundtruth_4.txt").read_text().splitlines() == list(two.targets["4"].lines)
    assert not (tmp_path / "written" / "groundtruth.txt").exists()
    assert (tmp_path / "written" / "anchor.value").read_text().split() == ["0", "1", "-1"]
    boxes = find_sequences(tmp_path / "clips", boxes=True)[0]
    assert boxes.targets[""].lines[0] == "30.0000,20.0000,16.0000,16.0000"


def test_a_sequence_in_the_toolkits_layout_is_linked_as_it_is(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip", 3)
    write_sequence(tmp_path / "made", *find_sequences(tmp_path / "clip"))
    (tmp_path / "made" / "anchor.value").write_text("0\n1\n0\n")
    (again,) = find_sequences(tmp_path / "made")
    write_sequence(tmp_path / "again", again)
    names = {path.relative_to(tmp_path / "made") for path in (tmp_path / "made").rglob("*")}
    assert {path.relative_to(tmp_path / "again") for path in (tmp_path / "again").rglob("*")} == names
    assert (tmp_path / "again" / "anchor.value").read_text() == "0\n1\n0\n"
    assert again.targets[""].present.all()


@pytest.mark.parametrize(
    ("masks", "sentence"),
    [
        (squares(2, _1=(5, 7)), "3 frames but 2 masks"),
        (squares(3), "all masks are empty"),
        ([np.zeros((90, 120, 3), np.uint8)] * 3, "is a colour image"),
        ([np.ones((9, 12), np.uint8)] * 3, "is 12 x 9 pixels, the frames 120 x 90"),
        ([np.zeros((90, 120), np.uint8), *squares(2, _1=(5, 7))], "no target has a region in frame 1"),
    ],
)
def test_bad_masks_are_named(tmp_path: Path, masks: list[np.ndarray], sentence: str) -> None:
    write_clip(tmp_path / "clip", 3)
    write_masks(tmp_path / "clip", masks)
    with pytest.raises(InputError, match=sentence):
        find_sequences(tmp_path / "clip")


def test_a_mask_that_is_no_image_is_named(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip", 1)
    (tmp_path / "clip" / "mask").mkdir()
    (tmp_path / "clip" / "mask" / "0.png").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"0\.png: cannot be read as an image"):
        find_sequences(tmp_path / "clip")


def test_objects_in_files_of_their_own(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip", 2)
    os.rename(tmp_path / "clip" / "groundtruth.txt", tmp_path / "clip" / "groundtruth_left.txt")
    (tmp_path / "clip" / "groundtruth_right.txt").write_text("0,0,0,0\n1,2,3,4\n")
    (sequence,) = find_sequences(tmp_path / "clip")
    assert list(sequence.targets) == ["left", "right"]
    assert sequence.targets["right"].lines == ("0", "1.0000,2.0000,3.0000,4.0000")
    assert sequence.all_present.tolist() == [False, True]


def turned(path: Path) -> None:
    """Make a frame one that is stored lying on its side, as phones do."""
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(path) as image:
        image.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)


def test_upright_masks_fit_phone_pictures(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip", 3)
    for frame in (tmp_path / "clip").glob("*.jpg"):
        turned(frame)
    assert Image.open(tmp_path / "clip" / "00000001.jpg").size == (90, 120)  # stored
    write_masks(tmp_path / "clip", squares(3, _1=(100, 70)))
    (sequence,) = find_sequences(tmp_path / "clip")
    assert parse_regions("\n".join(sequence.targets[""].lines), "")[2].tolist() == [102, 72, 10, 10]


def test_pictures_that_change_size_are_refused(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip", 3)
    write_sequence(tmp_path / "made", *find_sequences(tmp_path / "clip"))
    Image.new("RGB", (90, 120)).save(tmp_path / "clip" / "00000002.jpg")
    for home, name in (("clip", "00000002.jpg"), ("made", "00000002.jpg")):
        with pytest.raises(InputError, match=rf"clip {home}: .* from 120x90 to 90x120 pixels at {name}"):
            find_sequences(tmp_path / home)


def test_a_sequence_in_the_toolkits_layout_without_its_frames_is_refused(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip", 3)
    write_sequence(tmp_path / "made", *find_sequences(tmp_path / "clip"))
    made, facts = tmp_path / "made", (tmp_path / "made" / "sequence").read_text()
    cases = {
        f"{facts}width=90\nheight=120\n": "says 90x120 pixels, the frames are 120x90",
        facts.replace("color/%08d.jpg", "color/frame.jpg"): "is no pattern such as",
        facts.replace("color/%08d.jpg", "colour"): r"3 rows of regions but 0 frames colour",
        f"{facts}channels.depth=depth/%08d.png\n": r"3 rows of regions but 0 frames depth/%08d\.png",
    }
    for text, words in cases.items():
        (made / "sequence").write_text(text)
        with pytest.raises(InputError, match=words):
            find_sequences(made)
    truth = (made / "groundtruth.txt").read_text()
    (made / "groundtruth.txt").write_text("-9,2,9,4" + truth[truth.index("\n") :])
    (made / "sequence").write_text(facts)
    with pytest.raises(InputError, match="first region -9,2,9,4 lies outside the frames of 120x90 pixels"):
        find_sequences(made)
    (made / "groundtruth.txt").write_text(truth)
    (made / "sequence").write_text(facts.replace("color/%08d.jpg", "color") + "width=120\nheight=90\n")
    assert len(find_sequences(made)) == 1
    (made / "color" / "00000002.jpg").unlink()
    problems = list(sequence_problems(tmp_path, ["made", "clip", "gone"]))
    assert [p.partition(": ")[2].partition(",")[0] for p in problems] == [
        "3 rows of regions but 1 frames color",
        "is no sequence",
    ]
    (made / "color" / "again").symlink_to(made, target_is_directory=True)
    with pytest.raises(InputError, match="again: is a link to a folder that it lies in"):
        find_sequences(made)
