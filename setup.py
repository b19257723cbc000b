"""What PyPI shows: the README, whose links lead there to the repository. Everything else is in pyproject.toml."""

import re
import tomllib
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!https?://|#)([^)\s]+)\)")


def for_pypi(readme: str, repository: str | None) -> str:
    """The README with absolute links; without an address images are left out and links become their text.

    Args:
        readme: Markdown, with links relative to the repository's root.
        repository: the address of the repository, `project.urls.Repository` of pyproject.toml, where it has one.
    """

    def absolute(link: re.Match[str]) -> str:
        image, text, path = link.groups()
        if repository is None:
            return "" if image else text
        return f"{image}[{text}]({repository.rstrip('/')}/{'raw' if image else 'blob'}/HEAD/{path})"

    return re.sub(r"\n{3,}", "\n\n", LINK.sub(absolute, readme))


if __name__ == "__main__":
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    setup(
        long_description=for_pypi((ROOT / "README.md").read_text(), project.get("urls", {}).get("Repository")),
        long_description_content_type="text/markdown",
    )
