"""Raw results of others: where they are found, which frames their rows stand for, what their first rows tell."""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest

from lorat_plugin.datasets.sequences import box_sequence
from lorat_plugin.errors import InputError
from lorat_plugin.evaluation.benchmarks import Benchmark, as_trees_start
from lorat_plugin.evaluation.raw_results import compare_runs, find_results, fit_lengths, start_notes
from lorat_plugin.evaluation.results import ResultFiles, names_elsewhere, result_files
from lorat_plugin.evaluation.scoring import score_tracker

SIZE = (120, 90)
RNG = np.random.default_rng(0)
TRUTH = {name: RNG.uniform((10, 10, 20, 20), (40, 30, 50, 40), (6, 4)) for name in ("cat-1", "dog-2")}
OTB = ("Jogging.1", "Jogging.2", "Human4", "Boy")
TIGER = np.column_stack([np.arange(354) % 40, np.full(354, 20), np.full(354, 30), np.full(354, 25)]).astype(float)


def make(name: str, boxes: dict[str, np.ndarray], origin: int = 0) -> Benchmark:
    sequences = [
        box_sequence(n, [f"{i}.jpg" for i in range(len(b))], b, np.ones(len(b), bool), SIZE) for n, b in boxes.items()
    ]
    return Benchmark(name, "Set", tuple(sequences), "flat", origin)


def benchmark(name: str = "lasot", origin: int = 1) -> Benchmark:
    return make(name, TRUTH, origin)


def write(files: ResultFiles, boxes: dict[str, np.ndarray]) -> ResultFiles:
    for name, rows in boxes.items():
        files.write(name, [rows], np.zeros((len(rows), 1)))
    return files


@pytest.mark.parametrize(
    ("below", "layout", "name", "prefix"),
    [
        ("", "nested", "lasot", ""),
        ("GOT-10k/LoRAT", "nested", "lasot", ""),
        ("", "flat", "lasot", ""),
        ("lorat/base_224", "pytracking", "lasot", ""),
        ("ostrack/vitb/trackingnet", "pytracking", "lasot", ""),
        ("a/b/c/d/e/f", "pytracking", "lasot", ""),
        ("lorat/base_224", "pytracking", "uav123", "uav_"),
        ("lorat/base_224", "pytracking", "nfs", "nfs_"),
    ],
)
def test_layouts_are_recognised(below: str, layout: str, name: str, prefix: str, tmp_path: Path) -> None:
    names = {sequence: prefix + sequence for sequence in TRUTH if prefix}
    write(ResultFiles("x", tmp_path / "theirs" / below, layout, 1, names=names), TRUTH)
    (tmp_path / "theirs" / "plots").mkdir()
    files = find_results(tmp_path / "theirs", benchmark(name))
    assert files == ResultFiles("theirs", (tmp_path / "theirs" / below).resolve(), layout, 1, names=names)
    np.testing.assert_allclose(files.read(benchmark().sequence("dog-2")), TRUTH["dog-2"], atol=6e-4)
    assert files.times_path("dog-2").is_file()


def test_folders_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder of results; wanted <sequence>"):
        find_results(tmp_path / "nowhere", benchmark())
    with pytest.raises(InputError, match="no result of lasot there"):
        find_results(tmp_path, benchmark())
    for name in ("one", "two"):
        write(ResultFiles("x", tmp_path / name, "flat"), TRUTH)
    with pytest.raises(InputError, match=r"several trackers \(one, two\)"):
        find_results(tmp_path, benchmark())
    assert find_results(tmp_path / "two", benchmark(), "mine").tracker == "mine"


def test_a_benchmarks_own_results_are_found_by_the_folder_of_results(tmp_path: Path) -> None:
    files = write(result_files(benchmark(), tmp_path, "LoRAT"), TRUTH)
    scores = tmp_path / "lorat" / "Set" / "LoRAT" / "scores"
    scores.mkdir(parents=True)
    (scores / "dog-2.txt").write_text("1\n")
    assert find_results(tmp_path, benchmark()).folder == files.folder


@pytest.mark.parametrize("style", range(5))
def test_otbs_sequences_of_two_targets_are_known_by_the_names_of_other_trees(style: int, tmp_path: Path) -> None:
    otb = make("otb", dict.fromkeys(OTB, TRUTH["cat-1"]))
    wanted = [
        ("Jogging_1", "Jogging_2", "Human4_2", "Boy"),
        ("otb_Jogging_1", "otb_Jogging_2", "otb_Human4_2", "otb_Boy"),
        ("Jogging-1", "Jogging-2", "Human4-2", "Boy"),
        ("otb_Jogging.1", "otb_Jogging.2", "otb_Human4", "otb_Boy"),
        OTB,
    ][style]
    assert tuple(names_elsewhere("otb", name)[style] for name in OTB) == wanted
    for name in wanted:
        np.savetxt(tmp_path / f"{name}.txt", TRUTH["cat-1"], delimiter="\t")
    files = find_results(tmp_path, otb)
    assert [files.boxes_path(name).stem for name in OTB] == list(wanted)
    assert fit_lengths(otb, [files])[2] == []


@pytest.mark.parametrize(
    ("benchmark_name", "sequence", "name"),
    [
        ("otb", "Skating2.2", "Skating2_2"),
        ("uav123", "bike1", "uav_bike1"),
        ("uav20l", "bike1", "uav_bike1"),
        ("nfs", "dog_1", "nfs_dog_1"),
        ("tcolor128", "Yo-yos_ce1", "tpl_Yo_yos_ce1"),
        ("lasot_ext", "atv-1", "atv-1"),
        ("tnl2k", "Boat_video", "Boat_video"),
    ],
)
def test_files_in_pytrackings_format_have_its_names(
    benchmark_name: str, sequence: str, name: str, tmp_path: Path
) -> None:
    opened = make(benchmark_name, {sequence: TRUTH["cat-1"]})
    files = write(result_files(opened, tmp_path, "lorat/base", "pytracking"), {sequence: TRUTH["cat-1"]})
    assert sorted(path.name for path in files.folder.iterdir()) == [f"{name}.txt", f"{name}_time.txt"]
    assert find_results(tmp_path, opened).boxes_path(sequence) == files.boxes_path(sequence)
    assert result_files(opened, tmp_path, "lorat").boxes_path(sequence).name == f"{sequence}.txt"


DUMPS = {
    "twelve columns": ("ind", "gt_obj_exist", "pred_conf", "pred_x", "pred_y", "pred_w", "pred_h", "gt_x"),
    "six columns": ("ind", "pred_conf", "pred_x", "pred_y", "pred_w", "pred_h"),
}


@pytest.mark.parametrize("columns", DUMPS.values(), ids=DUMPS)
@pytest.mark.parametrize("zipped", [True, False])
def test_the_dump_of_official_lorat_is_read_by_its_headings(
    columns: tuple[str, ...], zipped: bool, tmp_path: Path
) -> None:
    """Its boxes count from 0 on LaSOT too, whose own files count from 1."""
    dumped = {}
    for name, boxes in TRUTH.items():
        table = np.full((6, len(columns)), 99.0)
        table[:, 0] = np.arange(6)
        table[:, columns.index("pred_x") : columns.index("pred_h") + 1] = boxes
        text = io.StringIO()
        np.savetxt(text, table, fmt="%.3f", delimiter=",", header=",".join(columns))
        dumped[f"LoRAT-B/LaSOT-test/{name}/eval.csv"] = text.getvalue()
    place = pack(tmp_path / "eval.zip", dumped) if zipped else unpack(tmp_path / "eval", dumped)
    files = find_results(place, benchmark())
    assert files.tracker == "eval" and files.layout == "dump"
    np.testing.assert_allclose(files.read(benchmark().sequence("dog-2")), TRUTH["dog-2"], atol=6e-4)
    assert start_notes(benchmark(), files) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# ind,pred_conf,pred_x\n0.000,1.000,3\n", "wanted columns ind, pred_x, pred_y, pred_w, pred_h"),
        ("# ind,pred_x,pred_y,pred_w,pred_h\n0,1,2,x,4\n", "of numbers .could not convert"),
        ("# ind,pred_x,pred_y,pred_w,pred_h\n5,1,2,3,4\n", "has not a row for each of the frames 0, 1, 2"),
        ("# ind,pred_x,pred_y,pred_w,pred_h\n", "has not a row for each"),
    ],
)
def test_another_dump_is_refused(text: str, message: str, tmp_path: Path) -> None:
    place = unpack(tmp_path / "x", {f"{name}/eval.csv": text for name in TRUTH})
    with pytest.raises(InputError, match=message):
        fit_lengths(benchmark(), [find_results(place, benchmark())])


def pack(path: Path, texts: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in texts.items():
            archive.writestr(name, text)
    return path


def unpack(folder: Path, texts: dict[str, str]) -> Path:
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def rows_of(boxes: np.ndarray, origin: int = 1) -> str:
    return "".join("\t".join(f"{v:.3f}" for v in row) + "\n" for row in boxes + np.array([origin, origin, 0, 0]))


@pytest.mark.parametrize(
    "form",
    ["LoRAT-B/{0}.txt", "LoRAT-B_tracking_result/{0}.txt", "LoRAT-B/{0}/{0}_001.txt", "LoRAT-B/{0}/{0}.txt", "{0}.txt"],
)
def test_zips_of_official_lorat_are_read_without_unpacking(form: str, tmp_path: Path) -> None:
    path = pack(tmp_path / "pytracking.zip", {form.format(name): rows_of(boxes) for name, boxes in TRUTH.items()})
    common, (files,), notes = fit_lengths(benchmark(), [find_results(path, benchmark())])
    ours = write(ResultFiles("ours", tmp_path / "ours", "flat", 1), TRUTH)
    found = compare_runs(common, ours, files)
    assert found.overall.above_99 == 1 and notes == found.notes == []
    assert found.theirs.startswith(str(path.resolve())) and files.read_times("dog-2") is None
    assert [path] == sorted(tmp_path.glob("*.zip"))


def test_archives_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    texts = {f"{run}/{name}.txt": rows_of(boxes) for run in ("a_001", "a_002") for name, boxes in TRUTH.items()}
    several = pack(tmp_path / "several.zip", texts)
    with pytest.raises(InputError, match=r"several trackers \(a_001, a_002\); unpack it and name one"):
        find_results(several, benchmark())
    (tmp_path / "text.zip").write_text("no archive")
    with pytest.raises(InputError, match=r"text\.zip: is neither a folder nor a zip archive that can be read"):
        find_results(tmp_path / "text.zip", benchmark())
    damaged = bytearray(several.read_bytes())
    damaged[40] ^= 255
    (tmp_path / "damaged.zip").write_bytes(damaged)
    with pytest.raises(InputError, match=r"damaged\.zip: is neither"):
        find_results(tmp_path / "damaged.zip", benchmark())
    with pytest.raises(InputError, match=r"no result of lasot there; name an archive, such as .*\.zip"):
        find_results(tmp_path, benchmark())


def test_results_of_another_length_are_compared_on_the_frames_that_both_have(tmp_path: Path) -> None:
    """The published results of LaSOT's extension are longer than some sequences, those of OTB shorter."""
    ours = write(ResultFiles("ours", tmp_path / "ours", "flat", 1), TRUTH)
    rows = {"cat-1": TRUTH["cat-1"][:4] + 0.5, "dog-2": np.vstack([TRUTH["dog-2"], TRUTH["dog-2"]])}
    theirs = write(ResultFiles("theirs", tmp_path / "theirs", "flat", 1), rows)
    with pytest.raises(InputError, match=r"cat-1\.txt: 4 rows for 6 frames"):
        compare_runs(benchmark(), ours, theirs)
    common, (fitted,), notes = fit_lengths(benchmark(), [theirs])
    assert notes == [
        "theirs: frames without a row are left out: cat-1 (4 rows, 6 frames)",
        "theirs: rows behind the last frame are left out: dog-2 (12 rows, 6 frames)",
    ]
    found = compare_runs(common, ours, fitted)
    assert {name: row.frames for name, row in found.sequences.items()} == {"cat-1": 4, "dog-2": 6}
    assert found.sequences["dog-2"].mean_iou == 1 and found.sequences["cat-1"].corner == pytest.approx(0.75, abs=1e-3)
    assert score_tracker(common, ours).sequences["cat-1"].frames == 4
    assert score_tracker(common, ours).overall.auc == pytest.approx(20 / 21)  # no overlap passes the threshold 1


def test_missing_rows_are_failures_where_the_protocol_has_it(tmp_path: Path) -> None:
    opened = benchmark("lasot_ext", 0)
    short = write(ResultFiles("short", tmp_path, "flat"), {"cat-1": TRUTH["cat-1"][:3], "dog-2": TRUTH["dog-2"]})
    for protocol, auc, frames in (("lorat", 20 / 21, 3), ("pytracking", 10 / 21, 6), ("stark", 10 / 21, 6)):
        common, (files,), notes = fit_lengths(opened, [short], protocol)
        found = score_tracker(common, files, protocol).sequences["cat-1"]
        assert (found.auc, found.frames) == (pytest.approx(auc, abs=0.01), frames), protocol
        assert ("failures" in notes[0]) == (protocol != "lorat")
    with pytest.raises(
        InputError, match=r"cat-1\.txt: 3 rows for 6 frames, and stark refuses that on LaSOT.*--skip cat-1"
    ):
        fit_lengths(benchmark(origin=0), [short], "stark")
    write(short, {"cat-1": TRUTH["cat-1"][:1]})
    with pytest.raises(InputError, match="1 rows for 6 frames, too few to compare"):
        fit_lengths(opened, [short])


def test_sequences_without_raw_results_are_named_before_any_work(tmp_path: Path) -> None:
    files = write(ResultFiles("theirs", tmp_path, "flat", 1), {"dog-2": TRUTH["dog-2"]})
    with pytest.raises(InputError, match=r"1 of 2 sequences have no raw results: cat-1; .*--skip cat-1"):
        fit_lengths(benchmark(), [files])
    common, _, notes = fit_lengths(benchmark(), [files], partial=True)
    assert common.seq_names == ["dog-2"] and "cat-1; they are left out" in notes[0]


@pytest.mark.parametrize(("protocol", "frames"), [("got10k", 354), ("lorat", 349), ("pytracking", 349), ("stark", 349)])
def test_tiger1_begins_at_its_sixth_frame_where_trees_of_trackers_have_it(
    protocol: str, frames: int, tmp_path: Path
) -> None:
    pytest.importorskip("got10k.utils.metrics")
    opened = make("otb", {"Tiger1": TIGER})
    rows = TIGER.copy()
    rows[:5] += [60, 60, 0, 0]  # misses, which 349 frames do not have
    ours = write(ResultFiles("ours", tmp_path / "ours", "flat"), {"Tiger1": rows})
    score = score_tracker(opened, ours, protocol)
    assert score.sequences["Tiger1"].frames == frames
    # the toolkit takes the first box as given
    assert score.overall.auc == pytest.approx(20 / 21 * (350 / 354 if protocol == "got10k" else 1))
    assert len(score.overlaps["Tiger1"]) == 354


@pytest.mark.parametrize("protocol", ["got10k", "lorat", "pytracking"])
def test_349_rows_of_tiger1_are_those_of_the_last_frames(protocol: str, tmp_path: Path) -> None:
    pytest.importorskip("got10k.utils.metrics")
    opened = make("otb", {"Tiger1": TIGER})
    theirs = write(ResultFiles("theirs", tmp_path / "theirs", "pytracking"), {"Tiger1": TIGER[5:]})
    ours = write(ResultFiles("ours", tmp_path / "ours", "flat"), {"Tiger1": TIGER})
    common, (files,), notes = fit_lengths(opened, [theirs], protocol)
    assert notes == ["theirs: the rows begin at frame 6, and only these frames count: Tiger1 (349 rows, 354 frames)"]
    assert compare_runs(common, ours, files).overall.mean_iou == 1 and start_notes(common, files) == []
    assert score_tracker(common, files, protocol).sequences["Tiger1"].frames == 349
    assert score_tracker(common, files, protocol).overall.auc == pytest.approx(20 / 21)
    as_theirs = as_trees_start(opened)
    np.testing.assert_array_equal(theirs.read(as_theirs.sequence("Tiger1")), TIGER[5:])
    assert score_tracker(as_theirs, theirs, protocol).sequences["Tiger1"].frames == 349


FORMS = {
    "corners x1,y1,x2,y2": lambda b: np.hstack([b[:, :2], b[:, :2] + b[:, 2:]]),
    "corners x1,y1,x2,y2 ": lambda b: np.hstack([b[:, :2] - 0.5, b[:, :2] + b[:, 2:] - 1]),
    "centres cx,cy,w,h": lambda b: np.hstack([b[:, :2] + b[:, 2:] / 2, b[:, 2:]]),
    "y,x,h,w": lambda b: b[:, [1, 0, 3, 2]],
    "fractions of the frame's size": lambda b: b / (SIZE * 2),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("origin", [0, 1])
def test_rows_that_are_no_sizes_are_told_by_the_first(form: str, origin: int, tmp_path: Path) -> None:
    opened = make("lasot", {**TRUTH, "dog-3": TRUTH["dog-2"] + np.array([30, 0, 0, 10])}, origin)
    files = ResultFiles("theirs", tmp_path, "flat", origin)
    for sequence in opened.sequences:
        rows = FORMS[form](sequence.boxes + np.array([origin, origin, 0, 0]))
        np.savetxt(files.boxes_path(sequence.name), rows, delimiter=",")
    (note,) = start_notes(opened, files)
    assert "sequences start from another box than the given one" in note and "other numbers than x,y,w,h: cat-1" in note


@pytest.mark.parametrize(("declared", "real"), [(0, 1), (1, 0)])
def test_another_first_pixel_is_told_by_the_first_rows(declared: int, real: int, tmp_path: Path) -> None:
    files = write(ResultFiles("theirs", tmp_path, "flat", real), TRUTH)
    (note,) = start_notes(benchmark(origin=declared), ResultFiles("theirs", tmp_path, "flat", declared))
    assert f"seem to count pixels from {real}, and those of lasot from {declared}" in note
    assert start_notes(benchmark(), files) == []
    rounded = write(ResultFiles("theirs", tmp_path, "ostrack", real, rasterize=True), TRUTH)
    assert start_notes(benchmark(), rounded) == []
    rows = {"cat-1": TRUTH["cat-1"], "dog-2": TRUTH["dog-2"] + 3}
    assert re.search("1 sequences start from another box .*: dog-2", start_notes(benchmark(), write(files, rows))[0])
