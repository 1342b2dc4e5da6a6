"""The house: layers point one way, imports are light, files and functions stay small, a frame's path stays short."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lorat_plugin
from lorat_plugin import LoRATTracker

PACKAGE = Path(lorat_plugin.__file__).parent
FILES = sorted(p for p in PACKAGE.rglob("*.py"))
HEAVY = {"vot", "trax", "got10k", "peft", "accelerate", "transformers", "matplotlib", "torchvision", "torch", "cv2"}

# A module may import, when it is loaded, modules of its own row and of the rows above it.
LAYERS = [
    {"errors", "boxes", "variants", "files", "digests", "devices", "images", "box_files", "frames", "processes"},
    {"crop"},
    {"backbones"},
    {"network"},
    {"lora", "layouts", "weight_files", "checkpoint", "saving"},
    {"graphs"},
    {"engines", "tracking"},
    {"tracker", "export", "masks", "mobile_sam"},
    {"video", "video_file", "outputs", "drawing", "data", "interchange"},
    {"training", "harness", "evaluation", "annotate"},
    {"doctor", "app", "hub"},
    {"benchmark"},
    {"cli"},
]
BELOW_TRAINING = {
    "errors",
    "boxes",
    "variants",
    "files",
    "digests",
    "devices",
    "images",
    "box_files",
    "crop",
    "backbones",
    "network",
    "lora",
    "layouts",
    "checkpoint",
    "saving",
    "data",
}


def part(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def own_imports(path: Path, at_load: bool = True) -> set[str]:
    """Parts of the package that a file imports; those inside functions only if `at_load` is False."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = list(ast.walk(tree))
    if at_load:
        inside = [n for f in nodes if isinstance(f, ast.FunctionDef) for n in ast.walk(f)]
        typing = [
            n for i in nodes if isinstance(i, ast.If) and "TYPE_CHECKING" in ast.dump(i.test) for n in ast.walk(i)
        ]
        late = set(map(id, inside + typing))
        nodes = [node for node in nodes if id(node) not in late]
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            names.update(
                [node.module, *(f"{node.module}.{a.name}" for a in node.names if node.module == "lorat_plugin")]
            )
        elif isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
    return {part(n) for n in names if n.startswith("lorat_plugin.")}


def test_layers_point_one_way():
    rank = {name: i for i, names in enumerate(LAYERS) for name in names}
    for path in FILES:
        own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if own.startswith("__"):  # __init__ and __main__ only pass on
            continue
        assert own in rank, f"{own} has no layer yet"
        upwards = {n for n in own_imports(path) if rank[n] > rank[own]}
        assert not upwards, f"{path.name} imports {upwards} from a layer above it"


def test_training_does_not_know_engines_and_nothing_below_knows_training():
    for path in FILES:
        own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        seen = own_imports(path, at_load=False)
        if own == "training":
            assert "engines" not in seen, path
        if own in BELOW_TRAINING:
            assert not seen & {"training", "harness", "evaluation", "cli"}, path


def test_only_the_adapter_imports_the_vot_toolkit():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
                if {n.split(".")[0] for n in names} & {"vot", "trax"}:
                    assert path.relative_to(PACKAGE).as_posix() in ("harness/vot.py", "harness/vot_repairs.py"), path


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


def test_a_frame_passes_through_few_files_and_functions(tiny_network):
    tracker = LoRATTracker(tiny_network, device="cpu")
    frame = np.full((120, 160, 3), 90, np.uint8)
    tracker.init(frame, [50, 40, 30, 20])
    tracker.update(frame)
    seen: list[tuple[str, str]] = []

    def note(code_frame, event, argument):
        name = code_frame.f_code.co_filename
        if event == "call" and name.startswith(str(PACKAGE)) and not code_frame.f_code.co_name.startswith("<"):
            code = code_frame.f_code
            seen.append((Path(name).name, getattr(code, "co_qualname", code.co_name)))

    sys.setprofile(note)
    try:
        tracker.update(frame)
    finally:
        sys.setprofile(None)
    files, functions = {f for f, _ in seen}, set(seen)
    print(f"\none frame: {len(files)} files, {len(functions)} functions, {len(seen)} calls: {sorted(files)}")
    assert len(files) <= 5 and len(functions) <= 20 and len(seen) <= 30, sorted(functions)
