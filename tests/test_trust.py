"""What lets the package be trusted: no file runs code, memory stays flat, licences are known."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lorat_plugin
from lorat_plugin import LoRATTracker, create_model
from lorat_plugin.variants import Variant

PACKAGE = Path(lorat_plugin.__file__).parent
FORBIDDEN = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "marshal.loads", "marshal.load", "pickle.load",
    "pickle.loads", "pickle.Unpickler", "shelve.open", "joblib.load", "dill.load", "yaml.load", "yaml.load_all",
    "yaml.unsafe_load", "yaml.full_load", "runpy.run_path", "pd.read_pickle", "torch.hub.load", "torch.jit.load",
}  # fmt: skip


def unsafe_calls(text: str) -> list[str]:
    """Calls that could run what a file holds."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            name, options = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
            unsafe = name in FORBIDDEN or (name == "torch.load" and options.get("weights_only") != "True")
            unsafe |= options.get("allow_pickle") == "True" or options.get("trust_remote_code") == "True"
            unsafe |= options.get("shell") == "True"
            found += [f"line {node.lineno}: {ast.unparse(node)}"] if unsafe else []
    return found


def test_no_file_that_is_read_can_run_code() -> None:
    unsafe = {str(path.relative_to(PACKAGE)): unsafe_calls(path.read_text("utf-8")) for path in PACKAGE.rglob("*.py")}
    assert {name: calls for name, calls in unsafe.items() if calls} == {}


@pytest.mark.parametrize(
    "call", ["eval(x)", "torch.load(f)", "torch.load(f, weights_only=False)", "yaml.load(f, Loader=yaml.Loader)",
             "np.load(f, allow_pickle=True)", "subprocess.run(x, shell=True)"],
)  # fmt: skip
def test_calls_that_run_code_are_found(call: str) -> None:
    assert unsafe_calls(call)


def test_the_package_imports_without_a_warning_of_its_own() -> None:
    modules = [".".join(p.relative_to(PACKAGE.parent).with_suffix("").parts) for p in PACKAGE.glob("*.py")]
    names = [name for name in modules if not name.endswith("__main__")]
    code = (
        "import importlib, warnings; warnings.filterwarnings('error', module='lorat_plugin')\n"
        f"for name in {names!r}: importlib.import_module(name)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "Warning" not in done.stderr, done.stderr


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
