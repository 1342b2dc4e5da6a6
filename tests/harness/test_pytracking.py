"""LoRAT in trees with the interface of pytracking and OSTrack: what is copied, how it tracks, the result files."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lorat_plugin import LoRATTracker, MultiObjectTracker
from lorat_plugin.errors import InputError
from lorat_plugin.harness.pytracking import Follower, install, read_settings, set_parameters
from lorat_plugin.images import read_image
from lorat_plugin.settings import TrackerSettings
from tests.helpers.sequences import write_clip
from tests.helpers.tracker_trees import write_tree

KINDS = {"pytracking": "pytracking.evaluation.tracker", "ostrack": "lib.test.evaluation.tracker"}


@pytest.fixture(params=KINDS)
def tree(request, tmp_path, monkeypatch):
    """A tree of each kind with LoRAT in it, importable: kind, folder, class that drives a tracker."""
    folder = write_tree(tmp_path / "tree", request.param)
    monkeypatch.syspath_prepend(str(folder))
    install(folder, TrackerSettings())
    driver = importlib.import_module(KINDS[request.param])
    yield request.param, folder, driver.PytrackingTracker if request.param == "pytracking" else driver.OSTrackTracker
    for name in [n for n in sys.modules if n.split(".")[0] in ("pytracking", "lib")]:
        del sys.modules[name]


def files_of(folder: Path) -> dict[str, str]:
    found = [p for p in sorted(folder.rglob("*")) if p.is_file() and "__pycache__" not in p.parts]
    return {p.relative_to(folder).as_posix(): p.read_text(encoding="utf-8") for p in found}


def test_result_files_are_the_trees(tree, tmp_path):
    kind, _, driver = tree
    boxes = write_clip(tmp_path / "clip", 5)
    paths = sorted((tmp_path / "clip").glob("*.jpg"))
    truth = {} if kind == "pytracking" else {"gt_bbox": np.zeros(4)}  # handed over by OSTrack, and not to be looked at
    tracker = driver("lorat", "lorat_tiny", tmp_path / "results")
    tracker.save("clip", tracker.track(paths, [{"init_bbox": list(boxes[0])}, *[truth] * 4]))

    alone = LoRATTracker.from_pretrained("lorat_tiny", device="cpu")
    alone.init(read_image(paths[0]), boxes[0])
    results = [alone.update(read_image(p)) for p in paths[1:]]
    wanted = np.array([boxes[0], *(r.box for r in results)]).astype(int)
    home = tmp_path / "results" / "lorat" / "lorat_tiny"
    assert (home / "clip.txt").read_text() == "".join("\t".join(map(str, row)) + "\n" for row in wanted.tolist())
    assert np.loadtxt(home / "clip_time.txt").shape == (5,)
    if kind == "pytracking":
        scores = np.loadtxt(home / "clip_object_presence_scores.txt")
        np.testing.assert_allclose(scores, [1, *(r.score for r in results)], atol=1e-6)


def test_objects_of_pytracking_are_followed_together_and_enter_late(tmp_path):
    boxes = write_clip(tmp_path / "clip", 5)
    images = [read_image(p) for p in sorted((tmp_path / "clip").glob("*.jpg"))]
    follower = Follower(set_parameters(SimpleNamespace()))
    found = [follower.initialize(images[0], {"init_bbox": {"1": list(boxes[0])}, "init_object_ids": ["1"]})]
    found.append(follower.track(images[1], {}))
    found.append(follower.track(images[2], {"init_bbox": {"2": [5, 5, 20, 20]}, "init_object_ids": ["2"]}))
    found.append(follower.track(images[3]))

    many = MultiObjectTracker.from_pretrained("lorat_tiny", device="cpu")
    many.add(images[0], boxes[:1])
    wanted = [many.update(images[1]), many.update(images[2])]
    many.add(images[2], [[5, 5, 20, 20]])
    wanted.append(many.update(images[3]))
    assert [list(out["target_bbox"]) for out in found] == [["1"], ["1"], ["1", "2"], ["1", "2"]]
    assert found[0]["object_presence_score"] == {"1": 1.0} and found[2]["target_bbox"]["2"] == [5, 5, 20, 20]
    for out, results in zip(found[1:], wanted, strict=True):
        for key, result in results.items():
            np.testing.assert_allclose(out["target_bbox"][str(key + 1)], result.box, atol=1e-3)
            assert out["object_presence_score"][str(key + 1)] == pytest.approx(result.score, abs=1e-5)


def test_a_new_sequence_forgets_the_one_before_and_the_webcam_starts_without_objects(frames):
    follower = Follower(set_parameters(SimpleNamespace()))
    assert list(follower.track(frames[0], {"init_bbox": {1: [30, 20, 16, 16]}})["target_bbox"]) == [1]
    assert follower.initialize(frames[0], {"init_bbox": {}})["target_bbox"] == {}  # its key r
    first = follower.initialize(frames[0], {"init_bbox": [30, 20, 16, 16], "init_object_ids": ["1"]})
    assert first == {"target_bbox": [30, 20, 16, 16], "object_presence_score": 1.0}
    assert len(follower.track(frames[1])["target_bbox"]) == 4


def test_a_sequence_that_starts_from_a_mask_is_refused(frames):
    with pytest.raises(InputError, match="LoRAT needs a box"):
        Follower(set_parameters(SimpleNamespace())).initialize(frames[0], {"init_mask": np.ones((90, 120))})


def test_settings_reach_the_tracker_and_the_tree():
    params = set_parameters(SimpleNamespace(), absent_below=0.4)
    assert Follower(params)._tracker.presence.absent_below == 0.4
    assert params.object_presence_score_threshold == 0.4 and params.save_all_boxes is False
    with pytest.raises(InputError, match="no setting 'colour'"):
        set_parameters(SimpleNamespace(), colour="red")


def test_install_names_the_parameter_and_keeps_what_is_there(tree):
    kind, folder, driver = tree
    before = files_of(folder)
    install(folder, TrackerSettings())  # once more: nothing differs
    assert files_of(folder) == before
    written = install(folder, TrackerSettings("lorat_b_224", "/weights/my base.bin", absent_below=0.4))
    name = [p.stem for p in written[kind]]
    assert "my_base" in name and files_of(folder).keys() > before.keys()
    params = driver("lorat", "my_base", folder / "results").get_parameters()
    assert params.lorat["weights"] == "/weights/my base.bin" and params.lorat["absent_below"] == 0.4
    changed = files_of(folder)
    with pytest.raises(InputError, match="exists with other contents: --force"):
        install(folder, TrackerSettings("lorat_b_224"), name="my_base")
    assert files_of(folder) == changed
    install(folder, TrackerSettings("lorat_b_224"), name="my_base", force=True)
    assert {n for n, text in files_of(folder).items() if changed.get(n) != text} == {
        "pytracking/parameter/lorat/my_base.py" if kind == "pytracking" else "experiments/lorat/my_base.yaml"
    }


@pytest.mark.parametrize("name", ["b-224", "1st", "class"])
def test_names_that_no_tree_can_import_are_refused(tmp_path, name):
    folder = write_tree(tmp_path, "pytracking")
    before = files_of(folder)
    with pytest.raises(InputError, match="must be a Python name"):
        install(folder, TrackerSettings(), name=name)
    assert files_of(folder) == before


@pytest.mark.parametrize("text", [None, "- a", "a: [", "1: 2"])
def test_a_parameter_file_that_cannot_be_used_is_named(tmp_path, text):
    path = tmp_path / "b.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=r"b\.yaml"):
        read_settings(path)
