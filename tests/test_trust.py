"""What lets the package be trusted: no file runs code, memory stays flat, licences are known."""

from __future__ import annotations

import ast
import os
import pickle
import subprocess
import sys
import zipfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

import lorat_plugin
from lorat_plugin import LoRATTracker, create_model, load_checkpoint
from lorat_plugin.checkpoints.loading import backbone_tensors
from lorat_plugin.datasets.index import ARRAYS, IndexedDataset
from lorat_plugin.datasets.registry import open_store
from lorat_plugin.errors import InputError
from lorat_plugin.evaluation.submit import check_archive
from lorat_plugin.harness.pytracking import read_settings
from lorat_plugin.harness.vot_tools.stacks import parse_stack
from lorat_plugin.interchange import VideoInfo, read_tracks
from lorat_plugin.training.config import load_config
from lorat_plugin.training.state import read_state
from lorat_plugin.variants import Variant, get_variant
from lorat_plugin.video.mobile_sam import load_mobile_sam
from tests.helpers.sequences import write_clip

PACKAGE = Path(lorat_plugin.__file__).parent
FORBIDDEN = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "marshal.loads", "marshal.load", "pickle.load",
    "pickle.loads", "pickle.Unpickler", "shelve.open", "joblib.load", "dill.load", "yaml.load", "yaml.load_all",
    "yaml.unsafe_load", "yaml.full_load", "runpy.run_path", "pd.read_pickle", "torch.hub.load", "torch.jit.load",
    "torch.package.PackageImporter", "shutil.unpack_archive",
}  # fmt: skip
UNPACKING = (".extractall", ".extract")  # of archives, whose names may lead out of the folder
UNSAFE_MODULES = {"shelve", "marshal", "dill", "cloudpickle", "joblib", "jsonpickle", "xml.sax", "lxml", "xml.dom"}


def unsafe_calls(text: str) -> list[str]:
    """Calls that could run what a file holds."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            aliases = {alias.name for alias in node.names if isinstance(node, ast.ImportFrom)}
            unsafe = UNSAFE_MODULES & {*names} or {f"{names[0]}.{alias}" for alias in aliases} & FORBIDDEN
            unsafe = unsafe or any(alias.name == "pickle" and alias.asname for alias in node.names)
            found += [f"line {node.lineno}: {ast.unparse(node)}"] if unsafe else []
        if isinstance(node, ast.Call):
            name, options = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
            unsafe = name in FORBIDDEN or (name == "torch.load" and options.get("weights_only") != "True")
            unsafe |= options.get("allow_pickle") == "True" or options.get("trust_remote_code") == "True"
            unsafe |= options.get("shell") == "True" or name.endswith(UNPACKING)
            unsafe |= name in ("np.load", "numpy.load") and len(node.args) > 2  # allow_pickle by its place
            found += [f"line {node.lineno}: {ast.unparse(node)}"] if unsafe else []
    return found


def test_no_file_that_is_read_can_run_code() -> None:
    unsafe = {str(path.relative_to(PACKAGE)): unsafe_calls(path.read_text("utf-8")) for path in PACKAGE.rglob("*.py")}
    assert {name: calls for name, calls in unsafe.items() if calls} == {}


@pytest.mark.parametrize(
    "call", ["eval(x)", "torch.load(f)", "torch.load(f, weights_only=False)", "yaml.load(f, Loader=yaml.Loader)",
             "np.load(f, allow_pickle=True)", "np.load(f, None, True)", "subprocess.run(x, shell=True)",
             "from pickle import loads", "import pickle as p", "import joblib", "archive.extractall(folder)"],
)  # fmt: skip
def test_calls_that_run_code_are_found(call: str) -> None:
    assert unsafe_calls(call)


class Marker:
    """Makes a folder when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.place),)


def test_files_with_code_in_them_are_refused_and_nothing_runs(tmp_path: Path) -> None:
    made, weights, index = tmp_path / "made", tmp_path / "weights.pth", tmp_path / "index"
    torch.save({"model": Marker(made)}, weights)
    index.mkdir()
    for name in ARRAYS:
        np.save(index / f"{name}.npy", np.array([Marker(made)], object), allow_pickle=True)
    settings = tmp_path / "settings.yaml"
    settings.write_text(f"model: !!python/object/apply:os.mkdir ['{made}']\n")
    reads = {
        "weights": lambda: load_checkpoint(weights),
        "backbone": lambda: backbone_tensors(get_variant("lorat_tiny"), str(weights)),
        "masks": lambda: load_mobile_sam(weights),
        "training state": lambda: read_state(weights),
        "index": lambda: IndexedDataset("clips", open_store(tmp_path), index),
        "recipe": lambda: load_config(str(settings)),
        "settings": lambda: read_settings(settings),
        "stack": lambda: parse_stack(settings.read_text(), "stack"),
    }
    for name, read in reads.items():
        with pytest.raises(InputError):
            read()
        assert not made.exists(), name
    pickle.loads(pickle.dumps(Marker(made)))
    assert made.is_dir(), "the marker does not work"


@pytest.mark.parametrize(
    "entity",
    [
        '<!ENTITY a "aaaaaaaaaa">' + "".join(f'<!ENTITY {y} "{f"&{x};" * 10}">' for x, y in pairwise("abcdefghi")),
        '<!ENTITY i SYSTEM "file:///etc/hostname">',
    ],
    ids=["expands a billion times", "another file"],
)
def test_entities_of_xml_are_refused(entity: str, tmp_path: Path) -> None:
    file = tmp_path / "tracks.xml"
    file.write_text(f'<!DOCTYPE annotations [{entity}]>\n<annotations><track label="&i;"/></annotations>')
    with pytest.raises(InputError, match=r"tracks\.xml"):
        read_tracks(file, VideoInfo("clip", 120, 90, range(4)))


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../GOT-10k_Test_000001_001.txt", b"0" * 1000)
        archive.infolist()[0].file_size = 3 << 30  # as the directory at the end of the file then says
    with pytest.raises(InputError, match="unpacks to"):
        check_archive(tmp_path / "bomb.zip", "got10k")


@pytest.mark.slow
def test_every_module_and_a_track_run_without_a_warning_of_their_own(tmp_path: Path) -> None:
    """Modules of extras that are not installed are left out; a warning of our own modules is an error."""
    files = [p.relative_to(PACKAGE.parent).with_suffix("").parts for p in PACKAGE.rglob("*.py")]
    names = [".".join(parts).removesuffix(".__init__") for parts in files if parts[-1] != "__main__"]
    write_clip(tmp_path / "clip")
    code = (
        "import importlib, sys, warnings; warnings.filterwarnings('error', module='lorat_plugin')\n"
        f"for name in {names!r}:\n"
        "    try: importlib.import_module(name)\n"
        "    except ModuleNotFoundError as error: assert not error.name.startswith('lorat_plugin'), error\n"
        "sys.argv[1:] = ['track', 'clip', '--box', '30,20,16,16', '--save']\n"
        "from lorat_plugin.cli.main import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "lorat_track" / "clip" / "boxes.txt").is_file()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the memory of a process is read from /proc")
def test_memory_stays_flat_over_many_frames() -> None:
    """10,000 frames of a small network: less than 4 MB more at the end than after the first 1,000."""
    variant = Variant(
        "small", "vit_small_patch14_dinov2", dim=16, depth=1, heads=2, ffn="mlp", ffn_dim=32, template_size=28,
        search_size=42, search_area_factor=4.0, lora_rank=2, lora_alpha=2.0,
    )  # fmt: skip
    tracker = LoRATTracker(create_model(variant, backbone="random"), device="cpu", absent_below=0.3)
    frames = [np.random.default_rng(i).integers(0, 256, (90, 120, 3), np.uint8) for i in range(8)]
    tracker.init(frames[0], [30, 30, 20, 20])
    used = []
    for number in range(10_000):
        tracker.update(frames[number % 8])
        if number % 1000 == 999:
            lines = Path("/proc/self/status").read_text().splitlines()
            used.append(next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")))
    assert used[-1] - used[0] < 4096, used
