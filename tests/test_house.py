"""Size and shape of the whole package. These limits may only be tightened, until the plan of the house is met.

The plan: 18,500 lines, 135 files, an import chain of 9, no circles, unique class names.
"""

from __future__ import annotations

import ast
from collections import Counter

import networkx

from tests.test_architecture import FILES, PACKAGE

LINES = 24_122  # with LoRATv2
MODULES = 132
CHAIN = 9  # modules that import each other when they are loaded, one after the other
CIRCLES = 0  # counting imports inside functions
SHARED_CLASS_NAMES = 0  # names that more than one public class has

NAMES = {"lorat_plugin." + p.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", "."): p for p in FILES}


def imported(tree: ast.AST, late: bool) -> set[str]:
    """Modules of the package that a file imports; with `late` those inside functions too, else those for types not."""
    passed: set[int] = set()
    for node in ast.walk(tree):
        typing = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        if typing or (isinstance(node, ast.FunctionDef) and not late):
            passed |= {id(inner) for inner in ast.walk(node)}
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and id(node) not in passed:
            found |= {node.module, f"{node.module}.__init__", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found & set(NAMES)


def graph(late: bool) -> networkx.DiGraph:
    imports = networkx.DiGraph()
    for name, path in NAMES.items():
        imports.add_node(name)
        imports.add_edges_from((name, other) for other in imported(ast.parse(path.read_text("utf-8")), late))
    return imports


def test_the_package_does_not_grow() -> None:
    lines = sum(len(path.read_text("utf-8").splitlines()) for path in FILES)
    print(f"\n{lines} lines in {len(FILES)} files")
    assert lines <= LINES
    assert len(FILES) <= MODULES


def test_the_import_chain_does_not_grow() -> None:
    chain = networkx.dag_longest_path(graph(late=False))  # raises an error if there is a circle
    print(f"\n{len(chain)}: {' -> '.join(chain)}")
    assert len(chain) <= CHAIN


def test_no_circle_of_imports_is_added() -> None:
    circles = [part for part in networkx.strongly_connected_components(graph(late=True)) if len(part) > 1]
    print(f"\n{len(circles)}: {circles}")
    assert len(circles) <= CIRCLES


def test_no_class_name_is_used_again() -> None:
    classes = Counter(
        node.name
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    shared = {name: number for name, number in classes.items() if number > 1}
    print(f"\n{len(shared)}: {shared}")
    assert len(shared) <= SHARED_CLASS_NAMES
