"""The walk through the lecture is true: its cells run, its pictures are theirs, its table names what exists."""

import logging
import re
from collections.abc import Iterator
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import Any

import matplotlib
import nbformat
import pytest

from benchmarks.lecture import PAGE, cells, notebook, run

matplotlib.use("Agg")
ROOT = Path(__file__).parents[1]
TEXT = PAGE.read_text()
CELLS = cells(TEXT)
SECTIONS = list(dict.fromkeys(cell.section for cell in CELLS))


class Reader:
    """Runs the page section by section, in one namespace, and notes which figures are drawn before which line."""

    def __init__(self) -> None:
        self.namespace: dict[str, Any] = {"__name__": "lecture"}
        self.left = list(CELLS)
        self.drawn: list[tuple[str, int]] = []  # a figure's name, and the last line of its cell

    def read_through(self, section: str) -> None:
        while self.left and SECTIONS.index(self.left[0].section) <= SECTIONS.index(section):
            cell = self.left.pop(0)
            last = cell.line + cell.source.count("\n")
            self.drawn += [(figure.get_label(), last) for figure in run(cell, self.namespace, PAGE)]


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    lightning = logging.getLogger("lightning.pytorch")  # which the page's first cell makes silent
    level = lightning.level
    yield Reader()
    lightning.setLevel(level)


@pytest.mark.parametrize("section", SECTIONS)
def test_the_cells_of_a_section_run_and_their_assertions_hold(section, reader):
    reader.read_through(section)


def test_every_figure_is_shown_below_the_cell_that_draws_it_and_nowhere_else(reader):
    reader.read_through(SECTIONS[-1])
    shown = [
        (i, m[1])
        for i, line in enumerate(TEXT.splitlines(), 1)
        if (m := re.match(r"!\[.+\]\(lecture/(.+)\.png\)", line))
    ]
    assert [(name, last + 3) for name, last in reader.drawn] == [(name, line) for line, name in shown]
    files = sorted(path.name for path in PAGE.with_suffix("").iterdir())
    assert files == sorted(f"{name}.png" for _, name in shown)
    assert all((PAGE.with_suffix("") / name).stat().st_size < 60_000 for name in files)


def test_the_notebook_is_the_page_for_jupyter_without_outputs():
    path = PAGE.with_suffix(".ipynb")
    assert path.read_text() == nbformat.writes(notebook(TEXT)) + "\n", "run python -m benchmarks.lecture"
    nbformat.validate(nbformat.read(path, as_version=4))


def test_every_link_of_the_page_leads_to_a_file_and_its_heading():
    links = re.findall(r"\]\(([^)]+)\)", TEXT)
    assert len(links) > 100
    for link in links:
        target, _, anchor = link.partition("#")
        if target.startswith("https://"):
            continue
        path = PAGE.parent / target if target else PAGE
        assert path.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", path.read_text(), flags=re.MULTILINE)
            assert anchor in [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings], link


ROWS = [line.split(" | ") for line in TEXT.split("\n## Table\n")[1].splitlines() if "](../" in line]


def links_of(cell: str) -> list[tuple[str, Path]]:
    """The texts of links, and the files that they lead to."""
    return [(text, (PAGE.parent / target).resolve()) for text, target in re.findall(r"\[([^\]]+)\]\((\S+?)\)", cell)]


def test_the_table_has_every_equation_lemma_and_algorithm():
    lectures = " ".join(row[0] for row in ROWS)
    for kind, numbers in {"Equations?": range(1, 11), "Lemma": range(1, 4), "Algorithm": range(1, 5)}.items():
        found = re.findall(rf"{kind} (\d+)(?: and (\d+))?", lectures)
        assert sorted(int(number) for pair in found for number in pair if number) == list(numbers)


@pytest.mark.parametrize("row", ROWS, ids=[row[0].strip("| ") for row in ROWS])
def test_what_the_table_names_is_there(row):
    _, functions, tests = row
    for name, path in links_of(functions):
        module = import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
        found = attrgetter(name.strip("`"))(module)
        assert found.__module__ == module.__name__, f"{name} is only imported by {path}"
    for name, path in links_of(tests):
        assert f"\ndef test_{name.replace(' ', '_')}(" in path.read_text(), f"{path} has no test {name}"
