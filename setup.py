"""What setup.cfg cannot say: the package index shows README without the files that its links lead to."""

import os
import re
from pathlib import Path

from setuptools import setup


def for_index(readme: str) -> str:
    """README with links into the repository that a workflow builds from; elsewhere pictures and links are left out."""
    on_github = "GITHUB_REPOSITORY" in os.environ
    place = "{GITHUB_SERVER_URL}/{GITHUB_REPOSITORY}".format_map(os.environ) if on_github else ""

    def replace(match: re.Match[str]) -> str:
        mark, text, target = match.groups()
        kind = "raw" if mark else "blob"  # a picture itself, or the page about a file
        return f"{mark}[{text}]({place}/{kind}/{os.environ['GITHUB_SHA']}/{target})" if place else text * (not mark)

    return re.sub(r"(!?)\[([^]]*)\]\((?!\w+:|#)([^)]+)\)", replace, readme)


setup(
    long_description=for_index(Path(__file__).with_name("README.md").read_text(encoding="utf-8")),
    long_description_content_type="text/markdown",
)
