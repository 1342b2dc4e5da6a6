"""The house: layers point one way, imports are light, files and functions stay small, a frame's path stays short."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import lorat_plugin
from lorat_plugin import LoRATTracker
from lorat_plugin.models import load_pretrained

PACKAGE = Path(lorat_plugin.__file__).parent
FILES = sorted(p for p in PACKAGE.rglob("*.py"))
HEAVY = {"vot", "trax", "got10k", "peft", "accelerate", "transformers", "matplotlib", "torchvision", "torch", "cv2"}

# A module may import, also inside functions, modules of the rows above it and of its own folder.
LAYERS = [
    {"errors"},
    {"boxes", "files", "devices", "variants", "plugins"},
    {"digests", "images", "box_files", "frames", "processes", "crop", "score_rows", "presence"},
    {"backbones", "synthetic"},
    {"network", "datasets", "interchange"},
    {"network_v2"},
    {"networks"},
    {"checkpoints"},
    {"tracking", "models"},
    {"engines"},
    {"video"},
    {"tracker", "settings"},
    {"evaluation"},
    {"training", "harness", "apps"},
    {"speed"},
    {"cli"},
]


def part(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def own_imports(path: Path, at_load: bool = True) -> set[str]:
    """Parts of the package that a file imports, but for types; those inside functions only if `at_load` is False."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    passed: set[int] = set()
    for node in ast.walk(tree):
        typing = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        if typing or (isinstance(node, ast.FunctionDef) and at_load):
            passed |= set(map(id, ast.walk(node)))
    names: set[str] = set()
    for node in (node for node in ast.walk(tree) if id(node) not in passed):
        if isinstance(node, ast.ImportFrom) and node.module:
            within = [f"{node.module}.{a.name}" for a in node.names if node.module == "lorat_plugin"]
            names.update([node.module, *within])
        elif isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
    return {part(n) for n in names if n.startswith("lorat_plugin.")}


def test_layers_point_one_way():
    rank = {name: i for i, names in enumerate(LAYERS) for name in names}
    for path in FILES:
        own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if path.name.startswith("__"):  # __init__ and __main__ only pass on
            continue
        assert own in rank, f"{own} has no layer yet"
        name = path.relative_to(PACKAGE).as_posix()
        wrong = {f"{name} -> {n}" for n in own_imports(path, at_load=False) - {own} if rank[n] >= rank[own]}
        assert not wrong, "imports of what is not below"


def test_training_does_not_know_engines():
    for path in (PACKAGE / "training").rglob("*.py"):
        assert "engines" not in own_imports(path, at_load=False), path


def test_only_the_adapter_imports_the_vot_toolkit():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
                if {n.split(".")[0] for n in names} & {"vot", "trax"}:
                    assert path.relative_to(PACKAGE).as_posix() in ("harness/vot.py", "harness/vot_tools/repairs.py"), (
                        path
                    )


@pytest.mark.parametrize("module", ["lorat_plugin", "lorat_plugin.cli.main"])
def test_import_is_light(module):
    code = f"import sys, {module}; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not HEAVY & set(done.stdout.split())


def test_tracker_imports_no_toolkit():
    code = "import sys; from lorat_plugin import LoRATTracker, load_checkpoint; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not (HEAVY - {"torch", "cv2", "torchvision"}) & set(done.stdout.split())  # timm brings torchvision


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_files_and_functions_stay_small(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 70, node.name


def test_public_names():
    assert sorted(lorat_plugin.__all__) == [
        "LoRATTracker", "MultiObjectTracker", "TrackResult", "Variant", "create_model", "list_variants",
        "load_checkpoint", "push_to_hub", "register_variant", "save_checkpoint", "save_pretrained",
    ]  # fmt: skip
    for name in lorat_plugin.__all__:
        assert getattr(lorat_plugin, name).__doc__
    with pytest.raises(AttributeError):
        _ = lorat_plugin.nothing


def own_calls(call: Callable[[], object]) -> list[tuple[str, str]]:
    """File and name of each function of the package that a call enters, in order; comprehensions do not count."""
    seen: list[tuple[str, str]] = []

    def note(code_frame, event, argument):
        name = code_frame.f_code.co_filename
        if event == "call" and name.startswith(str(PACKAGE)) and not code_frame.f_code.co_name.startswith("<"):
            code = code_frame.f_code
            seen.append((Path(name).name, getattr(code, "co_qualname", code.co_name)))

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    files, functions = {f for f, _ in seen}, set(seen)
    print(f"\n{len(files)} files, {len(functions)} functions, {len(seen)} calls: {sorted(files)}")
    return seen


def test_a_frame_passes_through_few_files_and_functions(tiny_network):
    tracker = LoRATTracker(tiny_network, device="cpu")
    frame = np.full((120, 160, 3), 90, np.uint8)
    tracker.init(frame, [50, 40, 30, 20])
    tracker.update(frame)
    seen = own_calls(lambda: tracker.update(frame))
    files, functions = {f for f, _ in seen}, set(seen)
    assert len(files) <= 5 and len(functions) <= 20 and len(seen) <= 30, sorted(functions)


def test_weights_are_loaded_in_a_line_of_few_steps():
    load_pretrained("lorat_tiny")  # from here on the skeleton of the network is there
    seen = own_calls(lambda: load_pretrained("lorat_tiny"))
    assert len({f for f, _ in seen}) <= 7 and len(set(seen)) <= 28 and len(seen) <= 33, sorted(set(seen))
