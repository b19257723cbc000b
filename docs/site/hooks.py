"""What the site needs beside mkdocs.yml: links out of docs/ stay on the site, and equations become MathML.

A link between two files of the repository is right on GitHub. Here README.md is the first page, files under docs/ keep
their places, and whatever else a page links to, a file or a folder, is shown on a page of its own under source/.
"""

import html
import re
from pathlib import Path
from posixpath import dirname, join, normpath, relpath
from typing import Any
from urllib.parse import quote, unquote

from math_core import LatexError, LatexToMathML
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
LINK = re.compile(r'(\]\(|(?:src|srcset|href)=")(?![a-z]+:|[#/])([^)"#\s]+)')
EQUATION = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
TO_MATHML = LatexToMathML(fancy_error=False)


def site_path(path: str) -> str:
    """Where the site has a file or folder of the repository: both paths from their roots."""
    if path == "README.md":
        return "index.md"
    if path.startswith("docs/") and not (ROOT / path).is_dir():
        return path.removeprefix("docs/")
    return path if path.endswith(".md") else f"source/{path}.md"


def repository_path(src_uri: str) -> str:
    """The other way round."""
    if src_uri == "index.md":
        return "README.md"
    if (ROOT / "docs" / src_uri).exists():
        return f"docs/{src_uri}"
    return src_uri.removeprefix("source/").removesuffix(".md") if src_uri.startswith("source/") else src_uri


def links(markdown: str, src_uri: str) -> list[tuple[re.Match[str], str]]:
    """Links of a page to what the repository has, each with its path there."""
    here = dirname(repository_path(src_uri))
    found = [(match, normpath(join(here, unquote(match[2])))) for match in LINK.finditer(markdown)]
    return [(match, path) for match, path in found if (ROOT / path).exists()]


def shown(path: str) -> str:
    """The page of a file, its text, or of a folder, a list of what is in it; the search leaves both out."""
    head = f"---\nsearch: {{exclude: true}}\n---\n# {path}\n\n"
    if (ROOT / path).is_file():
        return head + f'````{path.rpartition(".")[2]}\n--8<-- "{path}"\n````\n'
    names = [file.relative_to((ROOT / path).parent).as_posix() for file in sorted((ROOT / path).rglob("*.*"))]
    return head + "".join(f"- [{name}]({quote(name)})\n" for name in names)


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the README, and what pages link to outside docs/."""
    files.append(File.generated(config, "index.md", abs_src_path=str(ROOT / "README.md")))
    pages = [*files.documentation_pages()]
    for page in pages:  # grows, since these pages have links too
        for _, path in links(page.content_string, page.src_uri):
            if files.get_file_from_path(site_path(path)) is None:
                text = (ROOT / path).read_text() if path.endswith(".md") else shown(path)
                pages.append(File.generated(config, site_path(path), content=text))
                files.append(pages[-1])


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Let links between files of the repository be links between pages of the site."""
    here = dirname(page.file.src_uri)
    for match, path in reversed(links(markdown, page.file.src_uri)):
        markdown = markdown[: match.start(2)] + quote(relpath(site_path(path), here)) + markdown[match.end(2) :]
    return markdown


def on_page_content(content: str, page: Page, **_: Any) -> str:
    """Write equations as MathML, which the browser draws by itself."""

    def mathml(match: re.Match[str]) -> str:
        tex, block = html.unescape(match[2]), match[1] == "div"
        numbered = rf"\begin{{equation}}{tex}\end{{equation}}" if r"\tag" in tex else tex
        try:
            return TO_MATHML.convert_with_local_state(numbered, displaystyle=block)
        except LatexError as error:
            raise PluginError(f"{page.file.src_uri}: {tex}: {error}") from error

    return EQUATION.sub(mathml, content)
