"""The documents' commands exist with these options, their programs compile, and their tables name what there is."""

from __future__ import annotations

import ast
import re
import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer

from lorat_plugin.cli.main import app
from lorat_plugin.evaluation.protocols import PROTOCOLS
from lorat_plugin.evaluation.registry import BENCHMARKS
from lorat_plugin.training.config import TrainConfig, load_config, recipe_names
from lorat_plugin.training.methods import MODES
from tests.helpers.datasets import write_coco, write_got10k
from tests.helpers.sequences import write_clip
from tests.test_architecture import FILES, LAYERS, PACKAGE

ROOT = Path(__file__).parents[1]
DOCUMENTS = {"README.md": (ROOT / "README.md").read_text(encoding="utf-8")} | {
    path.relative_to(ROOT / "docs").as_posix(): path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "docs").rglob("*.md"))
}
PROGRAMS = [
    pytest.param(program, id=f"{name} {number}")
    for name, text in DOCUMENTS.items()
    for number, program in enumerate(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
]


def commands() -> list[str]:
    """Command lines of `lorat`, and of programs that start it, in fences, indented or between backticks."""
    found = []
    for text in DOCUMENTS.values():
        fences = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
        indented = re.findall(r"^ {4,}(\S.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
        whole = [line for fence in fences for line in fence.replace("\\\n", " ").splitlines()] + indented
        inline = [line for line in re.findall(r"`(lorat [^`\n]+)`", text) if "COMMAND" not in line]
        found += [line.split(" #")[0].strip() for line in whole + inline]
    starts = re.compile(r"(\w+=\S+ )*(lorat |(torchrun|accelerate launch) .*-m lorat_plugin )")
    return [line for line in dict.fromkeys(found) if starts.match(line)]


def lorat_arguments(line: str) -> list[str]:
    """What `lorat` is given by a command line; launchers read theirs first."""
    words = [word for word in shlex.split(line) if not re.match(r"[A-Z_]+=", word)]
    if words[0] == "lorat":
        return words[1:]
    if words[0] == "torchrun":
        from torch.distributed.run import get_args_parser

        options = get_args_parser().parse_args(words[1:])
    else:
        from accelerate.commands.launch import launch_command_parser

        options = launch_command_parser().parse_args(words[2:])
    assert options.module and options.training_script == "lorat_plugin"
    return options.training_script_args


def parsed(arguments: list[str]) -> Any:
    """The context of the command that a line names. Unknown commands, options and values of a wrong type raise.

    A text may name a command without what it needs.
    """
    bare = all(re.fullmatch("[a-z][a-z-]*", word) for word in arguments)
    command: Any = typer.main.get_command(app)
    context = command.make_context("lorat", list(arguments))
    while hasattr(command, "resolve_command"):
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        context = command.make_context(name, rest, parent=context, resilient_parsing=bare)
    return context


def rows(document: str, heading: str) -> list[list[str]]:
    """Cells of the first table below a line, without backticks."""
    table = re.search(r"\n\|.*?\n(?!\|)", DOCUMENTS[document].split(heading, 1)[1], re.DOTALL)
    assert table
    lines = [line for line in table.group().splitlines() if line.startswith("|")]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_documents_show_commands() -> None:
    assert len(commands()) > 20 and {shlex.split(c)[0] for c in commands()} >= {"lorat", "torchrun", "accelerate"}


@pytest.mark.parametrize("line", commands())
def test_commands_are_understood(line: str) -> None:
    context = parsed(lorat_arguments(line))
    if context.command_path == "lorat train":
        given = {k: v for k, v in context.params.items() if k in TrainConfig.__dataclass_fields__ and v}
        recipe = context.params["recipe"] if context.params["recipe"] in recipe_names() else "tiny"
        load_config(recipe, given | dict(s.split("=", 1) for s in context.params["set_"] or ()))


@pytest.mark.parametrize("line", ["lorat train --adaptor dora", "lorat train --steps many", "lorat tame"])
def test_wrong_commands_are_found(line: str) -> None:
    with pytest.raises(Exception, match=r"No such|valid integer"):
        parsed(lorat_arguments(line))


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_compile(program: str) -> None:
    compile(program, "document", "exec")


def test_data_program_makes_a_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LORAT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LORAT_DATA", str(tmp_path / "datasets"))
    write_got10k(tmp_path / "datasets" / "got10k")
    write_coco(tmp_path / "datasets" / "coco")
    (tmp_path / "got10k_vot_train_split.txt").write_text("0\n2\n")
    names = run_program("howto/data.md")
    assert len(names["got10k"]) == 2 and names["template"].shape == names["search"].shape == (90, 120, 3)


def test_tables_of_evaluation_name_what_there_is() -> None:
    table = [(re.findall(r"`(\w+)`", f"`{row[0]}`"), row[2]) for row in rows("howto/evaluation.md", "## Benchmarks")]
    assert [name for names, _ in table for name in names] == list(BENCHMARKS)
    for names, subsets in table:
        found = re.findall(r"\w+", subsets)
        assert found == [subset for subset in BENCHMARKS[names[0]].subsets if subset], names
    assert {name: rule for name, rule in rows("howto/evaluation.md", "## Protocols")} == PROTOCOLS


@pytest.mark.toolkit
def test_evaluation_program_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        write_clip(tmp_path / "my_clips" / name)
    names = run_program("howto/evaluation.md")
    assert 0 < names["score"].overall.auc <= 1 and names["performance"]["LoRAT"]["overall"]["speed_fps"] == -1


@pytest.mark.slow
def test_training_program_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_program("howto/training.md")["weights"].is_file()


def run_program(document: str) -> dict[str, Any]:
    """Run the first program of a document; returns its variables."""
    names: dict[str, Any] = {}
    exec(next(p.values[0] for p in PROGRAMS if p.id == f"{document} 0"), names)
    return names


def test_the_settings_table_is_complete() -> None:
    options = {p.name: p.opts[0] for p in parsed(["train"]).command.params}
    wanted = []
    for field in fields(TrainConfig):
        default = ",".join(field.default) if isinstance(field.default, tuple) else field.default
        wanted.append([field.name, options.get(field.name, ""), str(default)])
    assert [row[:3] for row in rows("howto/training.md", "## Settings")] == wanted


def test_the_table_of_modes_is_complete() -> None:
    assert tuple(row[0] for row in rows("howto/training.md", "## Modes and adapters")) == MODES


def defines(node: ast.stmt, name: str) -> bool:
    """A function, class, constant or field of that name."""
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", node)]
    return name in {getattr(target, "name", getattr(target, "id", "")) for target in targets}


def exists(name: str) -> bool:
    """Whether `folder/file.py`, `module.name` or `module.Class.method` of the package, or a file beside it, exists."""
    if "/" in name or name.endswith((".py", ".md")):
        return (PACKAGE / name).exists() or (ROOT / name).exists()
    parts = name.split(".")
    for cut in range(1, len(parts)):
        path = PACKAGE.joinpath(*parts[:cut]).with_suffix(".py")
        if path.is_file():
            body = ast.parse(path.read_text(encoding="utf-8")).body
            for part in parts[cut:]:
                found = [node for node in body if defines(node, part)]
                if not found:
                    return False
                body = getattr(found[-1], "body", [])
            return True
    return False


def test_the_page_of_the_architecture_names_what_exists() -> None:
    names = {name for name in re.findall(r"`([^`\s]+)`", DOCUMENTS["architecture.md"]) if re.search(r"[./]", name)}
    groups = {name for name in names if re.fullmatch(r"lorat_plugin\.\w+", name)}
    source = "".join(path.read_text(encoding="utf-8") for path in FILES)
    assert not [group for group in groups if f'GROUP = "{group}"' not in source]
    missing = [name for name in names - groups if not exists(name) and "NAME" not in name]
    assert len(names) > 50 and not missing
    assert not exists("tracking.leap") and not exists("crop.Crop.uncut") and not exists("evaluation/dreams.py")


def test_the_page_of_the_architecture_lists_every_folder_and_layer() -> None:
    tree, layers = DOCUMENTS["architecture.md"].split("## The tree")[1].split("## A frame")[0].split("## Layers")
    folders = {path.parent for path in PACKAGE.rglob("*.py")} - {PACKAGE}
    assert not [folder for folder in folders if f"`{folder.relative_to(PACKAGE).as_posix()}/`" not in tree]
    assert [set(re.findall(r"`(\w+)`", row)) for row in re.findall(r"^\d+\. .*$", layers, re.MULTILINE)] == LAYERS


def test_readers_of_the_code_are_led_to_its_architecture() -> None:
    assert "](docs/architecture.md)" in DOCUMENTS["README.md"]
    assert "](docs/architecture.md)" in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
