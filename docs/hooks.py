"""What the site has beside the files in docs: files of the source tree that pages link to, and the command line's help.

mkdocs calls these functions (https://www.mkdocs.org/dev-guide/plugins/#events).
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

import typer
from mkdocs.structure.files import File, Files
from typer.cli import get_docs_for_click

from lorat_plugin.cli.main import app

ROOT = Path(__file__).parents[1]
OUTSIDE = ["CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "README.md", "LICENSE", "integration", "weights"]
OUTSIDE += ["lorat_plugin/assets/SOURCES.md"]
LINK = re.compile(r"(\]\()([^)\s:#]+)((?:#[^)]*)?\))")  # of Markdown, to a file
SKIPPED = {".safetensors", ".pyc", ".txt"}


def on_files(files: Files, config: Any) -> Files:
    """Add the command line's page, and the files outside docs under the paths that they have in the source tree."""
    help_text = get_docs_for_click(obj=typer.main.get_command(app), ctx=_context(), name="lorat")
    text = f"# Command line\n\n{re.sub('^#', '##', help_text, flags=re.MULTILINE)}"
    files.append(File.generated(config, "reference/cli.md", content=text))
    for start in OUTSIDE:
        for path in [ROOT / start] if (ROOT / start).is_file() else sorted((ROOT / start).rglob("*.*")):
            if path.is_file() and path.suffix not in SKIPPED and path.name != "adapter_config.json":
                name = _place(path.relative_to(ROOT).as_posix())
                files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links that are right in the source tree into those of the site, where docs is the root."""
    source = page.file.src_uri
    inside = (ROOT / "docs" / source).is_file() or source == "reference/cli.md"
    home = posixpath.dirname(posixpath.join("docs", source) if inside else source.removeprefix("tree/"))

    def turned(match: re.Match[str]) -> str:
        before, target, after = match.groups()
        path = posixpath.normpath(posixpath.join(home, target))
        if not (ROOT / path).exists():
            return match.group()
        place = path.removeprefix("docs/") if path.startswith("docs/") else _place(path)
        return f"{before}{posixpath.relpath(place, posixpath.dirname(source) or '.')}{after}"

    return LINK.sub(turned, markdown)


def _place(path: str) -> str:
    """Where a file of the source tree lies on the site."""
    return f"tree/{path}"


def _context() -> typer.Context:
    return typer.Context(typer.main.get_command(app), info_name="lorat")
