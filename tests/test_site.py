"""The documentation site has every page and every public name, and what is a link on GitHub is one there."""

import ast
import re
import runpy
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

import rl_lightning

ROOT = Path(__file__).parents[1]
PAGES = sorted(page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md"))
OF_THE_ROOT = ["CHANGELOG.md", "CONTRIBUTING.md", "index.md"]


class Plain(yaml.SafeLoader):
    """Reads YAML whose tags mean something to MkDocs alone."""


Plain.add_multi_constructor("", lambda loader, tag, node: tag)
SETTINGS = yaml.load((ROOT / "mkdocs.yml").read_text(), Plain)


@pytest.fixture(scope="module")
def hooks() -> SimpleNamespace:
    pytest.importorskip("mkdocs")
    return SimpleNamespace(**runpy.run_path(str(ROOT / "docs/site/hooks.py")))


def leaves(nav: Any) -> Iterator[str]:
    for entry in nav:
        for page in entry.values() if isinstance(entry, dict) else [entry]:
            yield from [page] if isinstance(page, str) else leaves(page)


def page_of(src_uri: str) -> SimpleNamespace:
    return SimpleNamespace(file=SimpleNamespace(src_uri=src_uri))


def test_the_navigation_has_every_page_once() -> None:
    assert sorted(leaves(SETTINGS["nav"])) == sorted([*PAGES, *OF_THE_ROOT])


def test_every_public_name_is_documented() -> None:
    lines = [line for page in (ROOT / "docs/api").glob("*.md") for line in page.read_text().splitlines()]
    documented = {line.removeprefix("::: rl_lightning.") for line in lines if line.startswith("::: ")}
    for room in ["callbacks", "data", "networks"]:
        assert room in documented
        documented |= {*import_module(f"rl_lightning.{room}").__all__}
    assert {*rl_lightning.__all__} <= documented


def test_what_belongs_to_a_list_is_indented_so_that_github_and_the_site_both_see_it(hooks: SimpleNamespace) -> None:
    for page in [*PAGES, *OF_THE_ROOT]:
        text = (ROOT / hooks.repository_path(page)).read_text()
        without_code = re.sub(r"^( *```).*?^ *```$", r"\1", text, flags=re.DOTALL | re.MULTILINE)
        found = re.search(r"\n\n( {1,3}| {5,7})\S.*|^ {1,3}([-*]|\d+\.) .*", without_code, re.MULTILINE)
        assert found is None, f"{page}: four spaces, not fewer, before {found[0].strip()}"


def test_every_link_between_files_of_the_repository_leads_to_one(hooks: SimpleNamespace) -> None:
    for page in [*PAGES, *OF_THE_ROOT]:
        text = (ROOT / hooks.repository_path(page)).read_text()
        assert len(hooks.links(text, page)) == len(hooks.LINK.findall(text)), page


def test_a_page_and_its_file_are_found_from_each_other(hooks: SimpleNamespace) -> None:
    for page in [*PAGES, *OF_THE_ROOT, "source/LICENSE.md", "source/docs/results/bridge.md", "data_flow.svg"]:
        assert hooks.site_path(hooks.repository_path(page)) == page
    assert hooks.repository_path("results/bridge.md") == "docs/results/bridge.md"


@pytest.mark.parametrize(
    ("page", "on_github", "on_the_site"),
    [
        ("index.md", "[a](docs/design.md#the-clock)", "[a](design.md#the-clock)"),
        ("index.md", "![a](docs/data_flow.svg)", "![a](data_flow.svg)"),
        ("index.md", '<img src="docs/data_flow.svg">', '<img src="data_flow.svg">'),
        ("index.md", "[a](LICENSE)", "[a](source/LICENSE.md)"),
        ("CONTRIBUTING.md", "[a](README.md), [b](docs/design.md)", "[a](index.md), [b](design.md)"),
        ("environments.md", "[a](../README.md#install)", "[a](index.md#install)"),
        ("algorithms/sac.md", "[a](../../rl_lightning/types.py)", "[a](../source/rl_lightning/types.py.md)"),
        ("algorithms/sac.md", "[a](ppo.md), [b](../metrics.md)", "[a](ppo.md), [b](../metrics.md)"),
        ("results/bridge.md", "[a](bridge)", "[a](../source/docs/results/bridge.md)"),
        ("index.md", "[a](https://a.b/README.md), [b](#install)", "[a](https://a.b/README.md), [b](#install)"),
        ("index.md", "[a](gone.md), `q[0](obs)`", "[a](gone.md), `q[0](obs)`"),
    ],
)
def test_a_link_leads_to_the_page_that_shows_its_file(
    hooks: SimpleNamespace, page: str, on_github: str, on_the_site: str
) -> None:
    assert hooks.on_page_markdown(on_github, page_of(page)) == on_the_site


def test_a_folder_is_shown_as_links_to_its_files(hooks: SimpleNamespace) -> None:
    shown = hooks.on_page_markdown(hooks.shown("docs/results/bridge"), page_of("source/docs/results/bridge.md"))
    file = "bridge/HalfCheetah-v5/interpolated 0.2/0.json"
    assert f"- [{file}](../../../results/{file.replace(' ', '%20')})\n" in shown


def test_equations_become_mathml_with_their_number(hooks: SimpleNamespace) -> None:
    content = r'<p><span class="arithmatex">\(a &lt; b\)</span></p><div class="arithmatex">\[x\tag{7}\]</div>'
    inline, block = hooks.on_page_content(content, page_of("a.md")).split("</p>")
    assert inline == "<p><math><mi>a</mi><mo>&lt;</mo><mi>b</mi></math>"
    assert block.startswith('<math display="block">')
    assert "(7)" in block


def test_an_equation_that_cannot_be_drawn_stops_the_build(hooks: SimpleNamespace) -> None:
    with pytest.raises(Exception, match=r"a\.md: \\unheard: "):
        hooks.on_page_content(r'<span class="arithmatex">\(\unheard\)</span>', page_of("a.md"))


def test_no_sign_of_a_docstrings_equation_is_taken_for_markdown() -> None:
    markdown = pytest.importorskip("markdown")
    for room in ["algorithms", "estimators", "exact"]:
        for path in (ROOT / "rl_lightning" / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                text = ast.get_docstring(node) if isinstance(node, ast.ClassDef | ast.FunctionDef) else None
                says = (text or "").split("\nArgs:")[0]  # each argument is a paragraph of its own
                assert "<em" not in markdown.markdown(says, extensions=["attr_list"]), f"{path}: {says}"
