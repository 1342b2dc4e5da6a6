"""Examples of the how-tos that need files beside them: convert, train, enter a VOT workspace, compare and report."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lorat_plugin import LoRATTracker, create_model, save_checkpoint
from lorat_plugin.cli.main import run
from lorat_plugin.variants import get_variant, register_variant
from tests.helpers.datasets import write_got10k
from tests.helpers.golden_v2 import variant_of as small_lorat2
from tests.helpers.sequences import write_clip, write_video
from tests.test_readme import lorat, start

DOCS = Path(__file__).parents[1] / "docs"


def lines(page: str, beginning: str) -> list[str]:
    """Command lines of a page that begin so, without comments."""
    text = (DOCS / page).read_text(encoding="utf-8")
    fences = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    commands = [line.split(" #")[0].strip() for fence in fences for line in fence.splitlines()]
    return [command for command in commands if command.startswith(beginning)]


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with the files that the pages name."""
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "video.mp4")
    for name in ("one", "two"):
        write_clip(tmp_path / "clips" / name)
    return tmp_path


@pytest.mark.toolkit
def test_report_and_compare(workplace):
    for line in lines("tutorials/got10k.md", "lorat "):
        said = lorat(line)
    assert "95 % interval" in said
    assert "data:image/svg+xml" in Path("report.html").read_text(encoding="utf-8")


@pytest.mark.toolkit
def test_vot_example_evaluates(workplace):
    lorat(lines("tutorials/vot.md", "lorat vot init workspace")[0])
    program, *arguments = shlex.split(lines("tutorials/vot.md", "vot evaluate")[0])
    said = start([str(Path(sys.executable).parent / program), *arguments])
    assert "Evaluation concluded" in said
    assert len(list((workplace / "workspace/results").rglob("*_001.bin"))) == 2
    lorat("lorat vot run workspace")
    assert len(list((workplace / "workspace/results").rglob("*_001.bin"))) == 4  # of both protocols
    assert (workplace / "workspace/reports/lorat/report.html").is_file()


@pytest.mark.slow
def test_train_example_trains(workplace):
    torch.manual_seed(0)
    variant = get_variant("lorat_tiny")
    state = create_model(variant).state_dict()
    backbone = {n: t for n, t in state.items() if n.startswith(("patch_embed", "blocks", "norm"))}
    backbone |= {"pos_embed": torch.zeros(1, 1370, variant.dim), "cls_token": torch.zeros(1, 1, variant.dim)}
    save_file(backbone, "dinov2_vits14.safetensors")
    for folder, channels in (("objects", 4), ("photos", 3)):
        Path(folder).mkdir()
        for i in range(3):
            noise = np.random.default_rng(i).integers(0, 255, (12, 12, channels), np.uint8)
            cv2.imwrite(f"{folder}/{i}.png", cv2.resize(noise, (160, 160), interpolation=cv2.INTER_CUBIC))
    settings = ("batch_size=2", "validate_every=2", "validation_pairs=2", "checkpoint_every=2")
    lorat(
        lines("howto/training.md", "lorat train --recipe tiny --backbone")[0],
        "--steps",
        "2",
        "--workers",
        "0",
        *(f"--set={s}" for s in settings),
    )
    assert load_file("run/lorat_tiny.safetensors")


@pytest.mark.slow
def test_both_phases_of_lorat2_train_by_the_protocol(workplace, monkeypatch):
    """The commands of the page, with small variants, few updates and made data."""
    monkeypatch.setenv("LORAT_DATA", str(workplace))
    monkeypatch.setenv("LORAT_CACHE", str(workplace / "cache"))
    write_got10k(workplace / "got10k")
    shutil.copytree(workplace / "got10k/train", workplace / "got10k/val")
    settings = ("batch_size=2", "validate_every=2", "validation_pairs=2", "checkpoint_every=2", "epoch_size=4")
    extra = ["--backbone", "random", "--steps", "2", "--workers", "0", *(f"--set={s}" for s in settings)]
    first, second = small_lorat2("p1", "small"), small_lorat2("p2", "small")
    for variant, recipe in ((first, "paper2_p1_got10k"), (second, "paper2_p2_got10k")):
        register_variant(variant)
        line = lines("howto/lorat2.md", f"lorat train --recipe {recipe}")[0].replace("lorat2_b_224", first.name)
        assert run([*shlex.split(line)[1:], "--variant", variant.name, *extra]) == 0
    tracker = LoRATTracker.from_pretrained(f"phase2_got10k/{second.name}.safetensors", device="cpu")
    frame = np.zeros((120, 160, 3), np.uint8)
    tracker.init(frame, [40, 40, 30, 30])
    assert tracker.update(frame).box.shape == (4,)


@pytest.mark.slow
def test_convert_example_makes_weights_that_track(workplace):
    torch.manual_seed(0)
    network = create_model("lorat_b_224", lora=True)
    save_checkpoint(network, "base_224.bin", "official")
    plain = {
        n: t for n, t in create_model("lorat_b_224").state_dict().items() if n.startswith(("patch", "blocks", "norm"))
    }
    extra = {
        "pos_embed": torch.zeros(1, 1370, 768),
        "cls_token": torch.zeros(1, 1, 768),
        "mask_token": torch.zeros(1, 768),
    }
    torch.save(plain | extra, "dinov2_vitb14_pretrain.pth")
    said = lorat(lines("howto/weights.md", "lorat convert")[0])
    assert "LoRAT adapters (official), lorat_b_224" in said
    lorat(lines("howto/weights.md", "lorat track")[0])


def counts(name: str) -> tuple[int, int, int]:
    """Parameters with adapters, the trained ones of them, and parameters after merging."""
    with torch.device("meta"):
        adapted, merged = list(create_model(name, lora=True).parameters()), list(create_model(name).parameters())
    trained = [parameter for parameter in adapted if parameter.requires_grad]
    return tuple(sum(parameter.numel() for parameter in group) for group in (adapted, trained, merged))


def test_the_table_of_models_is_right():
    page = (DOCS / "howto/weights.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| `(lorat_\w+)`.*?\| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \|$", page, re.MULTILINE)
    written = {name: tuple(int(number.replace(",", "")) for number in numbers) for name, *numbers in table}
    assert {"lorat_tiny", "lorat_s_224", "lorat_b_224", "lorat_l_224", "lorat_g_224"} == set(written)
    assert {name: counts(name) for name in ("lorat_tiny", "lorat_b_224")}.items() <= written.items()


@pytest.mark.slow
def test_the_table_of_models_is_right_for_large_ones():
    page = (DOCS / "howto/weights.md").read_text(encoding="utf-8")
    for name in ("lorat_s_224", "lorat_l_224", "lorat_g_224"):
        assert " | ".join(f"{number:,}" for number in counts(name)) in page
