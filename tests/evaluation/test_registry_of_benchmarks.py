"""Every benchmark opened from a small folder in its own layout: the truth, the toolkit's view of it, and damage."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lorat_plugin.datasets.clips import write_sequences
from lorat_plugin.datasets.lmdb_build import build_lmdb
from lorat_plugin.errors import InputError
from lorat_plugin.evaluation.benchmarks import LASOT_ATTRIBUTES, Benchmark, add_attributes, read_attributes
from lorat_plugin.evaluation.registry import BENCHMARKS, LASOT_EXT_CLASSES, open_benchmark, toolkit_dataset
from tests.helpers import datasets
from tests.helpers.sequences import square_sequence

pytest.importorskip("got10k.datasets")
pytestmark = pytest.mark.toolkit

LASOT = ("airplane-1", "dog-7")
EXT = ("atv-1", "wingsuit-10")
SQUARE = square_sequence(9)[1]

# name, writer of its folder, subset, sequences to ask for, names found, folder of results
CASES = {
    "got10k": (datasets.write_got10k_val, None, None, ["GOT-10k_Val_000001", "GOT-10k_Val_000002"], "GOT-10k"),
    "got10k:test": (datasets.write_got10k_test, "test", None, ["GOT-10k_Test_000001"], "GOT-10k"),
    "lasot": (partial(datasets.write_lasot, names=LASOT, hidden=(3, 4)), None, LASOT, list(LASOT), "LaSOT"),
    "lasot_ext": (partial(datasets.write_lasot, names=EXT, hidden=(3, 4)), None, EXT, list(EXT), "LaSOT_ext"),
    "trackingnet": (datasets.write_trackingnet_test, None, None, ["a_0", "b_1"], "TrackingNet"),
    "tnl2k": (datasets.write_tnl2k, None, None, ["Arrow_video", "Boat_video"], "TNL2K"),
    "vasttrack": (datasets.write_vasttrack, None, ["Bee-2"], ["Bee-2"], "VastTrack"),
    "uav123": (datasets.write_uav, None, None, ["person8_2"], "UAV123"),
    "uav20l": (partial(datasets.write_uav, version="UAV20L", name="car3", folder="car3"), "", None, ["car3"], "UAV20L"),
    "nfs": (datasets.write_nfs, None, None, ["cup"], "NfS/30"),
    "nfs:240": (datasets.write_nfs, "240", None, ["cup"], "NfS/240"),
    "otb": (datasets.write_otb, None, None, ["Boy", "Football1", "Jogging.1", "Jogging.2"], "OTB2015"),
    "otb:2013": (datasets.write_otb, "2013", ["Boy", "Jogging.2"], ["Boy", "Jogging.2"], "OTB2013"),
    "dtb70": (datasets.write_dtb70, None, None, ["Animal1"], "DTB70"),
    "tcolor128": (datasets.write_tcolor128, None, None, ["Bee_ce"], "TColor128"),
    "vot": (datasets.write_vot, None, None, ["polygon", "rectangle", "mask"], "VOT"),
    "clips": (datasets.write_clips, None, ["two"], ["two"], "clips"),
}


def opened(case: str, root: Path) -> Benchmark:
    """The folder of a case, written if it is not there, as a benchmark."""
    write, subset, sequences, _, _ = CASES[case]
    if not root.exists():
        write(root)
    return open_benchmark(case.partition(":")[0], root, subset, sequences)


@pytest.mark.parametrize("case", CASES)
def test_sequences_frames_and_boxes_of_every_layout(case: str, tmp_path: Path) -> None:
    benchmark = opened(case, tmp_path / "data")
    name = case.partition(":")[0]
    assert (benchmark.seq_names, benchmark.folder, benchmark.name) == (*CASES[case][3:], name)
    assert (benchmark.layout == "nested") == (name == "got10k") == (benchmark.protocol == "got10k")
    assert benchmark.origin == (name in ("lasot", "vasttrack"))
    assert benchmark.rasterize == (name in ("got10k", "trackingnet"))
    for sequence in benchmark.sequences:
        assert sequence.size == (120, 90) and len(sequence) > 0
        assert all(Path(path).is_file() and Path(path).is_absolute() for path in sequence.frames)
        assert sequence.boxes.dtype == np.float64 and sequence.present.shape == (len(sequence.boxes),)
        start = SQUARE[2] if name == "tcolor128" else SQUARE[0]  # its frames count from 3
        shift = float(sequence.name.partition(".")[2] or 0) if name == "otb" else 0
        first = start + np.array([shift + (name == "lasot_ext"), name == "lasot_ext", 0, 0])  # the latter counts from 1
        np.testing.assert_allclose(sequence.boxes[0], first, atol=1e-9)
        assert sequence.scorable == (case not in ("got10k:test", "trackingnet"))
    files, boxes = benchmark[0]
    assert files == list(benchmark.sequences[0].frames)
    np.testing.assert_array_equal(
        boxes - benchmark.sequences[0].boxes, np.where(np.isnan(boxes), np.nan, [benchmark.origin] * 2 + [0, 0])
    )


@pytest.mark.parametrize(
    "case",
    [c for c in CASES if c.partition(":")[0] in ("got10k", "otb", "uav123", "uav20l", "nfs", "dtb70", "tcolor128")],
)
def test_the_truth_is_the_toolkit_s(case: str, tmp_path: Path) -> None:
    benchmark = opened(case, tmp_path / "data")
    if benchmark.name == "got10k":
        from got10k.datasets import GOT10k

        theirs = GOT10k(str(tmp_path / "data"), subset=benchmark.subset)
    else:
        theirs = toolkit_dataset(benchmark.name, tmp_path / "data", benchmark.subset, "")
    for name in benchmark.seq_names:
        (files, boxes), (their_files, their_boxes) = benchmark[name], theirs[name]
        assert files == their_files
        np.testing.assert_allclose(boxes, their_boxes, atol=1e-9)


def test_visibility_by_each_data_set_s_own_rule(tmp_path: Path) -> None:
    def hidden(case: str) -> list[int]:
        return np.flatnonzero(~opened(case, tmp_path / case).sequences[0].present).tolist()

    assert hidden("lasot") == hidden("lasot_ext") == [3, 4]
    assert hidden("got10k") == [3] and hidden("vasttrack") == [2] and hidden("vot") == [2]
    assert hidden("uav123") == [] and np.isnan(opened("uav123", tmp_path / "uav123").sequences[0].boxes[2]).all()
    home = tmp_path / "got10k" / "val" / "GOT-10k_Val_000001"
    (home / "cover.label").write_text("8\n0\n8\n8\n8\n8\n8\n")  # the toolkit's report looks at nothing else
    assert hidden("got10k") == [1]
    (home / "cover.label").write_text("8\n0\n8\n")
    with pytest.raises(InputError, match=r"cover\.label: wanted 7 numbers 0 to 8, one per frame; got 3"):
        hidden("got10k")


def test_vot_regions_become_upright_boxes(tmp_path: Path) -> None:
    benchmark = opened("vot", tmp_path / "data")
    for sequence in benchmark.sequences:
        keep = np.arange(7) != 2
        np.testing.assert_array_equal(sequence.boxes[keep], SQUARE[:7][keep])
        assert np.isnan(sequence.boxes[2]).all()
    path = tmp_path / "data" / "mask" / "groundtruth.txt"
    for line in ("m1,2,3", "m0,0,2,2,1,9", "1,2,3,4,5", "1,2,x,4", "m0,0,2,2,1,-1"):
        path.write_text(f"{line}\n" + "1,2,3,4\n" * 6)
        with pytest.raises(InputError, match=r"groundtruth\.txt, line 1: '.*' is no region"):
            opened("vot", tmp_path / "data")
    (tmp_path / "work").mkdir()
    (tmp_path / "data").rename(tmp_path / "work" / "sequences")  # a workspace of the toolkit
    (tmp_path / "work" / "sequences" / "list.txt").write_text("rectangle\n")
    assert opened("vot", tmp_path / "work").seq_names == ["rectangle"]


def test_names_roots_and_subsets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("LORAT_CONFIG", str(tmp_path / "config.yaml"))
    with pytest.raises(InputError, match=r"unknown benchmark 'imagenet': use one of got10k, lasot"):
        open_benchmark("imagenet", tmp_path)
    with pytest.raises(InputError, match="nfs has no subset '60': use 30 or 240"):
        open_benchmark("nfs", tmp_path, "60")
    with pytest.raises(InputError, match="dtb70 has no subset 'val': it has one only"):
        open_benchmark("dtb70", tmp_path, "val")
    with pytest.raises(InputError, match="no sequences were given"):
        open_benchmark("dtb70", tmp_path, sequences=[])
    with pytest.raises(InputError, match=r"lasot_ext: no folder is known.*LORAT_LASOT_EXT_ROOT.*ROOT/atv/atv-1/"):
        open_benchmark("lasot_ext")
    CASES["lasot_ext"][0](tmp_path / "LaSOT_ext")
    monkeypatch.setenv("LORAT_DATA", str(tmp_path))
    assert open_benchmark("lasot_ext", sequences=["wingsuit-10"]).seq_names == ["wingsuit-10"]
    with pytest.raises(InputError, match="148 of 150 LaSOT sequences are missing, first 'atv-2'"):
        open_benchmark("lasot_ext")
    assert len(LASOT_EXT_CLASSES.split()) == 15
    with caplog.at_level(logging.WARNING):
        opened("otb", tmp_path / "otb")
    assert "4 of otb's 100 sequences are there" in caplog.text
    build_lmdb("tnl2k", datasets.write_tnl2k(tmp_path / "tnl2k"), tmp_path / "tnl2k_lmdb")
    with pytest.raises(InputError, match="is an LMDB, and evaluation reads images by their paths"):
        open_benchmark("tnl2k", tmp_path / "tnl2k_lmdb")


@pytest.mark.parametrize("name", BENCHMARKS)
def test_an_empty_folder_and_an_unknown_sequence_are_told(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="ROOT/" if name != "clips" else "no clip"):
        open_benchmark(name, tmp_path / "empty")
    write = CASES[name][0]
    with pytest.raises(InputError, match=r"1 of 1 .*sequences.* are missing, first '?nobody-1'?"):
        open_benchmark(name, write(tmp_path / "data") or tmp_path / "data", sequences=["nobody-1"])


def _lines(path: Path, keep: int) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:keep]))


def _first_absent(path: Path, row: str = "nan,nan,nan,nan") -> None:
    path.write_text("\n".join([row, *path.read_text().splitlines()[1:]]) + "\n")


cut: Callable[[Path], None] = partial(_lines, keep=5)


@pytest.mark.parametrize(
    ("case", "path", "damage", "message"),
    [
        ("got10k", "val/GOT-10k_Val_000002/groundtruth.txt", cut, r"absence.label: wanted 5 numbers"),
        ("got10k", "val/GOT-10k_Val_000002/00000004.jpg", Path.unlink, r"00000004.jpg: is missing among the 6 images"),
        (
            "got10k:test",
            "test/GOT-10k_Test_000001/00000004.jpg",
            Path.unlink,
            r"00000004.jpg: is missing among the 6 images",
        ),
        ("lasot", "dog/dog-7/img/00000003.jpg", Path.unlink, r"00000003.jpg: is missing among the 6 images of dog-7"),
        ("trackingnet", "TEST/anno/a_0.txt", partial(_first_absent, row="1,2,0,0"), "a_0 is absent in the first frame"),
        ("trackingnet", "TEST/frames/a_0/5.jpg", Path.unlink, r"/5.jpg: is missing among the 11 images of a_0"),
        ("tnl2k", "Boat_video/groundtruth.txt", cut, "7 frames but 5 boxes"),
        ("vasttrack", "Bee/Bee-2/Groundtruth.txt", _first_absent, "Bee-2 is absent in the first frame"),
        (
            "uav123",
            "anno/UAV123/person8_2.txt",
            cut,
            r"person8_2.txt: the 5 rows of person8_2 do not fit the \d+ images",
        ),
        ("uav123", "anno/UAV123/person8_2.txt", _first_absent, "person8_2 is absent in the first frame"),
        (
            "uav123",
            "anno/UAV123/att/person8_2.txt",
            lambda p: p.write_text("1,0"),
            "wanted 12 numbers .* per attribute",
        ),
        ("nfs", "cup/30/cup.txt", cut, "the 5 rows of cup do not fit the 7 images"),
        (
            "nfs",
            "cup/30/cup.txt",
            lambda p: p.write_text("a b c\n"),
            r"the 1 rows of cup do not fit the 7 images in .*\(",
        ),
        ("otb", "Boy/groundtruth_rect.txt", cut, "the 5 rows of Boy do not fit the 7 images"),
        ("dtb70", "Animal1/img/00003.jpg", Path.unlink, "the 7 rows of Animal1 do not fit the 6 images"),
        ("tcolor128", "Bee_ce/img/0005.jpg", Path.unlink, r"0005.jpg: is missing among the 8 images of Bee_ce"),
        (
            "tcolor128",
            "Bee_ce/Bee_ce_frames.txt",
            Path.unlink,
            r"cannot be read as tcolor128 .*wanted ROOT/Airport_ce/",
        ),
        ("vot", "mask/groundtruth.txt", cut, "7 frames but 5 boxes"),
        ("vot", "mask/groundtruth.txt", partial(_first_absent, row="1"), "mask is absent in the first frame"),
        ("clips", "two/groundtruth.txt", cut, "7 frames but 5 rows"),
        ("clips", "two/groundtruth.txt", _first_absent, "first row of groundtruth.txt is no box"),
    ],
)
def test_damage_is_named(case: str, path: str, damage: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    opened(case, tmp_path / "data")
    damage(tmp_path / "data" / path)
    with pytest.raises(InputError, match=message):
        opened(case, tmp_path / "data")


def test_a_flag_on_the_first_frame_is_no_obstacle(tmp_path: Path) -> None:
    root = datasets.write_lasot(tmp_path, names=("dog-7",), hidden=(0, 4))
    (sequence,) = open_benchmark("lasot", root, sequences=["dog-7"]).sequences
    assert sequence.present.tolist() == [False, True, True, True, False, True, True] and sequence.boxes[0, 2] == 16


def test_more_frames_than_boxes_are_refused_except_where_they_were_published(tmp_path: Path) -> None:
    root = datasets.write_lasot(tmp_path, names=("monkey-17", "monkey-16"), hidden=(3, 4))
    for name in ("monkey-17", "monkey-16"):
        home = root / "monkey" / name
        (home / "img" / "00000008.jpg").write_bytes((home / "img" / "00000007.jpg").read_bytes())
    assert len(open_benchmark("lasot", root, sequences=["monkey-17"]).sequences[0]) == 7
    with pytest.raises(InputError, match="monkey-16: 8 frames in img but 7 rows of boxes"):
        open_benchmark("lasot", root, sequences=["monkey-16"])


def test_a_sequence_of_one_frame_is_opened(tmp_path: Path) -> None:
    datasets.write_rows(
        tmp_path / "A" / "groundtruth.txt", datasets.write_video(tmp_path / "A" / "imgs", "%d.jpg", 1, 1)
    )
    (sequence,) = open_benchmark("tnl2k", tmp_path).sequences
    assert len(sequence) == 1 and sequence.scorable
    home = tmp_path / "dtb70" / "A"
    datasets.write_rows(home / "groundtruth_rect.txt", datasets.write_video(home / "img", "%d.jpg", 1, 1))
    with pytest.raises(InputError, match="A has one frame, which the toolkit cannot read"):
        open_benchmark("dtb70", tmp_path / "dtb70")


def test_attributes_from_the_data_set_and_from_files(tmp_path: Path) -> None:
    assert opened("uav123", tmp_path / "uav").sequences[0].attributes == ("Fast Motion",)
    benchmark = opened("lasot", tmp_path / "lasot")
    assert benchmark.sequences[0].attributes == ()
    (tmp_path / "mine.csv").write_text("sequence,attributes\nairplane-1,Fast Motion; Rotation\ncat-3,\n")
    added = add_attributes(benchmark, read_attributes(tmp_path / "mine.csv"))
    assert [s.attributes for s in added.sequences] == [("Fast Motion", "Rotation"), ()]
    datasets.write_rows(tmp_path / "att" / "dog-7.txt", np.eye(14)[[13]], "%d")
    assert (
        read_attributes(tmp_path / "att") == {"dog-7": (LASOT_ATTRIBUTES[13],)} == {"dog-7": ("Aspect Ratio Change",)}
    )
    with pytest.raises(InputError, match="none of the attributes is of a sequence of lasot"):
        add_attributes(benchmark, {"nobody": ("Rotation",)})
    for content, message in (("dog-7 Rotation\n", "'dog-7 Rotation' has no attributes"), ("", "holds no attributes")):
        (tmp_path / "mine.csv").write_text(content)
        with pytest.raises(InputError, match=message):
            read_attributes(tmp_path / "mine.csv")
    with pytest.raises(InputError, match="cannot be read"):
        read_attributes(tmp_path / "nowhere.csv")


@pytest.mark.parametrize(
    ("case", "bad"),
    [("got10k", "GOT-10k_Val_000002"), ("lasot", "dog-7"), ("tnl2k", "Boat_video"), ("otb", "Boy"), ("clips", "one")],
)
def test_a_bad_sequence_is_named_and_can_be_left_out(case: str, bad: str, tmp_path: Path) -> None:
    write, _, sequences, _, _ = CASES[case]
    sequences = None if case == "clips" else sequences
    write(tmp_path / "data")
    for path in (tmp_path / "data").rglob("groundtruth*.txt"):
        if path.parent.name == bad:
            path.write_text("1,2,3\n")
    with pytest.raises(InputError, match=f"to go on without: --skip {bad}"):
        open_benchmark(case, tmp_path / "data", None, sequences)
    left = open_benchmark(case, tmp_path / "data", None, sequences, [bad])
    assert left.skipped == (bad,) and len(left) and bad not in left.seq_names
    assert left.title == f"{case} {left.subset}".strip() + f" without {bad}"


def test_all_bad_sequences_are_named_at_once_and_unknown_names_refused(tmp_path: Path) -> None:
    datasets.write_clips(tmp_path)
    with pytest.raises(InputError, match=r"--skip tow: no sequence of that name in .*; did you mean two"):
        open_benchmark("clips", tmp_path, skip=["tow"])
    with pytest.raises(InputError, match="all sequences are left out"):
        open_benchmark("clips", tmp_path, skip=["one", "two"])
    for name in ("one", "two"):
        (tmp_path / name / "groundtruth.txt").write_text("1,2,3,4\n")
    with pytest.raises(InputError, match=r"2 sequences are bad; the first: .*7 frames but 1 rows.*--skip one,two\)"):
        open_benchmark("clips", tmp_path)


def test_names_with_blanks_are_read_as_the_toolkit_reads_them(tmp_path: Path) -> None:
    from got10k.datasets import GOT10k

    write_sequences({name: square_sequence(5) for name in ("my dog 01", "cat_02")}, tmp_path)
    found = open_benchmark("got10k", tmp_path)
    assert found.seq_names == ["my dog 01", "cat_02"] == GOT10k(str(tmp_path), subset="val").seq_names
    assert found.sequence("my dog 01").frames[4].endswith("my dog 01/00000005.jpg")


@pytest.mark.parametrize("beside", [True, False])
def test_a_vot_sequence_of_several_objects_is_refused_or_left_out(beside: bool, tmp_path: Path) -> None:
    datasets.write_vot(tmp_path)
    home = tmp_path / "mask"
    text = (home / "groundtruth.txt").read_text()
    if not beside:
        (home / "groundtruth.txt").unlink()
    for number in (1, 2):
        (home / f"groundtruth_{number}.txt").write_text(text)
    with pytest.raises(InputError, match=r"mask: has a file of regions for each of 2 objects.*--skip mask"):
        open_benchmark("vot", tmp_path)
    assert open_benchmark("vot", tmp_path, skip=["mask"]).seq_names == ["polygon", "rectangle"]


ENCODINGS = {
    "mark": lambda text: b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode(),
    "cr": lambda text: text.replace("\n", "\r").encode(),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("case", CASES)
def test_byte_order_marks_and_line_ends_change_nothing(case: str, encoding: str, tmp_path: Path) -> None:
    plain = opened(case, tmp_path / "data")
    files = [path for path in (tmp_path / "data").rglob("*") if path.suffix in (".txt", ".label")]
    assert files
    for path in files:
        path.write_bytes(ENCODINGS[encoding](path.read_text()))
    marked = opened(case, tmp_path / "data")
    assert marked.seq_names == plain.seq_names
    for one, other in zip(marked.sequences, plain.sequences, strict=True):
        np.testing.assert_array_equal(one.boxes, other.boxes)
        np.testing.assert_array_equal(one.present, other.present)


@pytest.mark.parametrize("case", CASES)
def test_utf16_is_refused_by_name(case: str, tmp_path: Path) -> None:
    opened(case, tmp_path / "data")
    for path in (tmp_path / "data").rglob("*.txt"):
        path.write_bytes(path.read_text().encode("utf-16"))
    with pytest.raises(InputError, match=r"\.txt: is UTF-16 text; save it as UTF-8"):
        opened(case, tmp_path / "data")


def test_an_empty_field_makes_no_box_where_the_toolkit_takes_one(tmp_path: Path) -> None:
    opened("otb", tmp_path / "data")
    path = tmp_path / "data" / "Boy" / "groundtruth_rect.txt"
    first, _, rest = path.read_text().partition("\n")
    path.write_text(f"{first.replace(',', ',,', 1)}\n{rest}")
    with pytest.raises(InputError, match=r"groundtruth_rect\.txt.* is not a box"):
        opened("otb", tmp_path / "data")


def test_sizes_are_those_of_upright_pictures(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    for case in ("clips", "got10k", "otb", "vot"):
        opened(case, tmp_path / case)
        for path in (tmp_path / case).rglob("*.jpg"):
            Image.new("RGB", (64, 48)).save(path, exif=exif)
        assert {sequence.size for sequence in opened(case, tmp_path / case).sequences} == {(48, 64)}


def test_frames_named_by_seconds_stay_with_their_boxes(tmp_path: Path) -> None:
    home = tmp_path / "rec"
    home.mkdir()
    names = [f"{round(100 + 0.05 * number, 2)}.jpg" for number in range(16)]
    for number, name in enumerate(names):
        Image.new("RGB", (200, 100), (number,) * 3).save(home / name)
    np.savetxt(home / "groundtruth.txt", [[number, 1, 20, 20] for number in range(16)], fmt="%d", delimiter=",")
    (sequence,) = open_benchmark("clips", tmp_path).sequences
    assert [Path(frame).name for frame in sequence.frames] == names
