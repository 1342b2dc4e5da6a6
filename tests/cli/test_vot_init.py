"""`lorat vot init`: what it writes, and what it refuses."""

from __future__ import annotations

import configparser
import os
import shlex
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

from lorat_plugin.cli.main import run
from lorat_plugin.harness.vot_tools.stacks import LOCAL_STACKS


def write_clip(folder: Path, rows: list[str], ending: str = ".jpg") -> None:
    """Frames of a clip, each of its own grey, and its boxes."""
    folder.mkdir(parents=True)
    for i in range(1, len(rows) + 1):
        Image.new("L", (40, 40), i).save(folder / f"{i}{ending}")
    (folder / "groundtruth.txt").write_text("\n".join(rows) + "\n")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: clips/ (a clip of jpg frames, one of png) and tiny.safetensors."""
    rows = [f"{i},{i + 1},10,20" for i in range(11)]
    write_clip(tmp_path / "clips" / "car", rows)
    write_clip(tmp_path / "clips" / "dog_2", ["1.5\t2\t3\t4", "nan,nan,nan,nan", "0 0 0 0"], ".png")
    (tmp_path / "clips" / "README.md").touch()
    (tmp_path / "tiny.safetensors").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def init(*arguments: str) -> int:
    return run(["vot", "init", "ws", "--sequences", "clips", "--weights", "tiny.safetensors", *arguments])


def entries(workspace: Path) -> configparser.ConfigParser:
    """trackers.ini as the toolkit reads it."""
    parser = configparser.ConfigParser()
    parser.read(workspace / "trackers.ini")
    return parser


def test_sequences_are_in_the_toolkits_layout(place: Path) -> None:
    assert init() == 0
    sequences = place / "ws" / "sequences"
    assert (sequences / "list.txt").read_text() == "car\ndog_2\n"
    car, dog = sequences / "car", sequences / "dog_2"
    assert sorted(path.name for path in (car / "color").iterdir()) == [f"{i:08d}.jpg" for i in range(1, 12)]
    assert (car / "color" / "00000010.jpg").read_bytes() == (
        place / "clips" / "car" / "10.jpg"
    ).read_bytes()  # natural order of 1.jpg ... 11.jpg
    assert (car / "groundtruth.txt").read_text().splitlines()[1] == "1.0000,2.0000,10.0000,20.0000"
    assert "channels.color=color/%08d.jpg" in (car / "sequence").read_text().splitlines()
    assert "channels.color=color/%08d.png" in (dog / "sequence").read_text().splitlines()
    assert (dog / "absent.tag").read_text().split() == ["0", "1", "1"]
    assert (car / "anchor.value").read_text().split() == ["1", *["0"] * 9, "-1"]
    assert (dog / "groundtruth.txt").read_text().splitlines() == ["1.5000,2.0000,3.0000,4.0000", "0", "0"]
    assert sorted(path.name for path in place.iterdir()) == ["clips", "tiny.safetensors", "ws"]


def test_frames_are_copied_where_links_fail(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise OSError("not permitted")

    monkeypatch.setattr(Path, "symlink_to", no_links)
    assert init() == 0
    frame = place / "ws" / "sequences" / "car" / "color" / "00000003.jpg"
    assert frame.read_bytes() == (place / "clips" / "car" / "3.jpg").read_bytes()
    assert not frame.is_symlink()


def test_configuration_names_registry_and_stack(place: Path) -> None:
    assert init() == 0
    config = yaml.safe_load((place / "ws" / "config.yaml").read_text())
    assert config == {"registry": ["./trackers.ini"], "stack": "./stack.yaml"}
    stack = yaml.safe_load((place / "ws" / "stack.yaml").read_text())
    assert stack["experiments"]["baseline"]["type"] == "unsupervised"


def test_tracker_entries(place: Path) -> None:
    assert init("--device", "cpu") == 0
    found = entries(place / "ws")
    weights = str(place / "tiny.safetensors")
    assert found.sections() == ["LoRATPython", "LoRATTraX"]
    python, trax = found["LoRATPython"], found["LoRATTraX"]
    assert python["command"] == "lorat_plugin.harness.vot:LoRATPython"
    assert (python["arg_model"], python["arg_weights"], python["arg_device"]) == ("lorat_tiny", weights, "cpu")
    command = shlex.split(trax["command"])
    assert command[:3] == [sys.executable, "-m", "lorat_plugin.harness.vot"]
    assert dict(zip(command[3::2], command[4::2], strict=True))["--weights"] == weights
    assert python["timeout"] == trax["timeout"] == "120"


def test_paths_with_blanks_and_percent_signs_survive(place: Path) -> None:
    weights = place / "my 50% weights.bin"
    weights.touch()
    assert init("--weights", str(weights)) == 0
    found = entries(place / "ws")
    assert found["LoRATPython"]["arg_weights"] == str(weights)
    assert str(weights) in shlex.split(found["LoRATTraX"]["command"])


@pytest.mark.parametrize(("protocol", "section"), [("python", "LoRATPython"), ("trax", "LoRATTraX")])
def test_one_protocol(place: Path, capsys: pytest.CaptureFixture[str], protocol: str, section: str) -> None:
    assert init("--protocol", protocol) == 0
    assert entries(place / "ws").sections() == [section]
    assert f"lorat vot run ws {section}" in capsys.readouterr().out


def test_own_stack_is_copied_and_a_doubtful_one_named(
    place: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lorat_plugin.harness.vot_tools import stacks

    monkeypatch.setattr(stacks, "toolkit_version", lambda: "0.9.0")
    text = "experiments: {baseline: {type: supervised}}\n"
    (place / "mine.yaml").write_text(text)
    assert init("--stack", "mine.yaml") == 0
    assert (place / "ws" / "stack.yaml").read_text() == text
    assert "vot-toolkit 0.9.0 cannot run experiment baseline (supervised); vot-toolkit 0.7.4 can" in caplog.text


@pytest.mark.parametrize("stack", LOCAL_STACKS)
def test_local_stacks(place: Path, stack: str) -> None:
    (place / "clips" / "dog_2" / "groundtruth.txt").write_text("1,2,3,4\n" * 3)
    assert init("--stack", stack) == 0
    experiments = yaml.safe_load((place / "ws" / "stack.yaml").read_text())["experiments"]
    analyses = {a["type"]: a for e in experiments.values() for a in e.get("analyses", [])}
    published = {a["type"]: a for e in LOCAL_STACKS[stack].values() for a in e.get("analyses", [])}
    assert analyses.keys() == published.keys()
    for name in [name for name in analyses if "eao_score" in name]:
        assert (analyses[name]["low"], analyses[name]["high"]) == (2, 8)  # clips of 3 and 11 frames


@pytest.mark.toolkit
def test_sequences_are_left_to_the_toolkits_download(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("vot")
    online = ["vot", "init", "ws", "--weights", "tiny.safetensors", "--stack"]
    assert run([*online, "unsupervised"]) == 2
    assert "name a folder of clips by --sequences" in capsys.readouterr().err
    assert run([*online, "tests/basic"]) == 0
    assert "be online" in capsys.readouterr().out
    assert not (place / "ws" / "sequences").exists()  # its list would keep the toolkit from downloading


def test_masks_and_absence_reach_both_entries(place: Path) -> None:
    (place / "my_sam").mkdir()
    assert init("--masks", "my_sam", "--absent-below", "0.3") == 0
    python, trax = (entries(place / "ws")[name] for name in ("LoRATPython", "LoRATTraX"))
    assert (python["arg_masks"], python["arg_absent_below"]) == (str(place / "my_sam"), "0.3")
    assert f"--absent-below 0.3 --masks {place / 'my_sam'}" in trax["command"]
    assert init("--masks", "facebook/sam-vit-base", "--force") == 0
    assert entries(place / "ws")["LoRATPython"]["arg_masks"] == "facebook/sam-vit-base"
    assert "arg_absent_below" not in entries(place / "ws")["LoRATPython"]


@pytest.mark.toolkit
def test_stack_of_the_toolkit(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("vot")
    assert init("--stack", "tests/basic") == 0
    assert yaml.safe_load((place / "ws" / "config.yaml").read_text())["stack"] == "tests/basic"
    assert not (place / "ws" / "stack.yaml").exists()
    assert run(["vot", "init", "other", "--sequences", "clips", "--weights", "tiny.safetensors", "--stack", "no"]) == 2
    assert "stack no does not exist" in capsys.readouterr().err


def test_single_clip_and_model_file(place: Path) -> None:
    assert run(["vot", "init", "deep/ws", "--sequences", "clips/car", "--model", "tiny.safetensors"]) == 0
    assert (place / "deep" / "ws" / "sequences" / "list.txt").read_text() == "car\n"
    assert entries(place / "deep" / "ws")["LoRATPython"]["arg_model"] == str(place / "tiny.safetensors")


def test_existing_workspace_is_kept(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert init() == 0
    (place / "ws" / "results").mkdir()
    assert init() == 2
    assert "--force" in capsys.readouterr().err
    assert init("--force") == 0
    assert (place / "ws.old1" / "results").is_dir()
    assert not (place / "ws" / "results").exists()
    assert init("--force") == 0
    assert (place / "ws.old2" / "config.yaml").is_file()


def test_other_folders_are_never_touched(place: Path) -> None:
    (place / "ws").mkdir()
    assert init() == 0  # an empty folder is fine
    (place / "ws" / "config.yaml").unlink()
    assert init("--force") == 2
    assert run(["vot", "init", ".", "--sequences", "clips", "--weights", "tiny.safetensors"]) == 2
    assert run(["vot", "init", "tiny.safetensors", "--sequences", "clips", "--weights", "tiny.safetensors"]) == 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--sequences", "nowhere"], "nowhere: no such folder"),
        (["--sequences", "empty"], "no clip with a groundtruth.txt"),
        (["--sequences", "bare"], "groundtruth.txt: is empty"),
        (["--sequences", "mixed"], "has .jpg, .png images"),
        (["--sequences", "tiff"], ".tif images"),
        (["--sequences", "short"], "2 frames but 1 rows"),
        (["--sequences", "words"], "groundtruth.txt, line 2: '1,2,3' is not a box"),
        (["--sequences", "hidden"], "must be visible at first"),
        (["--sequences", "outside"], "its first region 40.0000,2.0000,3.0000,4.0000 lies outside the frames of 40x40"),
        (["--weights", ""], "--weights (empty) does not exist"),
        (["--weights", "nowhere.bin"], "--weights nowhere.bin does not exist"),
        (["--backbone", "nowhere.pth"], "--backbone nowhere.pth does not exist"),
        (["--model", "lorat_huge"], "lorat_huge"),
        (["--stack", "nowhere.yaml"], "stack nowhere.yaml does not exist"),
        (["--stack", "tiny.yaml"], "stack tiny.yaml names no experiments"),
        (["--absent-below", "1.5"], "absent_below is 1.5"),
        (["--sequences", "late"], "an object appears late"),
        (["--sequences", "never", "--stack", "multistart"], "no frame shows all objects"),
    ],
)
def test_bad_input_is_named_and_leaves_nothing(
    place: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    (place / "empty").mkdir()
    (place / "tiny.yaml").touch()
    write_clip(place / "bare", [])
    write_clip(place / "mixed", ["1,2,3,4", "1,2,3,4"])
    last = max((place / "mixed").glob("*.jpg"))
    last.rename(last.with_suffix(".png"))
    write_clip(place / "tiff", ["1,2,3,4"], ".tif")
    write_clip(place / "short", ["1,2,3,4"])
    (place / "short" / "2.jpg").touch()
    write_clip(place / "words", ["1,2,3,4", "1,2,3"])
    write_clip(place / "hidden", ["0,0,0,0", "1,2,3,4"])
    write_clip(place / "outside", ["40,2,3,4", "1,2,3,4"])
    for clip, second in [("late", ["0,0,0,0", "1,2,3,4"]), ("never", ["0,0,0,0", "0,0,0,0"])]:
        write_clip(place / clip, ["1,2,3,4", "1,2,3,4"])
        (place / clip / "groundtruth_b.txt").write_text("\n".join(second))
        (place / clip / "groundtruth.txt").rename(place / clip / "groundtruth_a.txt")
    before = sorted(os.listdir(place))
    assert init(*arguments) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert len(error.strip().splitlines()) == 1
    assert sorted(os.listdir(place)) == before


def test_model_without_weights_is_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["vot", "init", "ws", "--sequences", "clips", "--model", "lorat_b_224"]) == 2
    assert "lorat_b_224 has no bundled weights" in capsys.readouterr().err


def test_interrupted_writing_leaves_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lorat_plugin.harness.vot_tools import workspace as vot_workspace

    def full_disk(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(vot_workspace, "write_sequence", full_disk)
    assert init() == 1
    assert sorted(os.listdir(place)) == ["clips", "tiny.safetensors"]
