"""The tutorials are true: their cells run, their pictures are theirs, their notebooks are the same pages."""

import logging
import re
from pathlib import Path

import matplotlib
import nbformat
import numpy as np
import pytest
from PIL import Image

from benchmarks.lecture import cells, notebook, run

matplotlib.use("Agg")
FOLDER = Path(__file__).parents[1] / "docs/tutorials"
PAGES = sorted(FOLDER.glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_cells_of_a_tutorial_run_and_its_figures_are_shown_below_them(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lightning = logging.getLogger("lightning.pytorch")  # which the first cell makes silent
    monkeypatch.setattr(lightning, "level", lightning.level)
    text, namespace, drawn = page.read_text(), {"__name__": page.stem}, []
    for cell in cells(text):
        last = cell.line + cell.source.count("\n")
        drawn += [(figure.get_label(), last + 3) for figure in run(cell, namespace, page)]
    pictures = rf"!\[.+\]\({page.stem}/(.+)\.png\)"
    shown = [(m[1], i) for i, line in enumerate(text.splitlines(), 1) if (m := re.match(pictures, line))]
    assert drawn == shown
    files = sorted(page.with_suffix("").glob("*"))
    assert [path.stem for path in files] == sorted(name for name, _ in shown)
    assert all(path.stat().st_size < 60_000 for path in files)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_notebook_is_the_page_for_jupyter_without_outputs(page):
    path = page.with_suffix(".ipynb")
    made = nbformat.writes(notebook(page.read_text())) + "\n"
    assert path.read_text() == made, "run python -m benchmarks.lecture docs/tutorials/*.md"
    nbformat.validate(nbformat.read(path, as_version=4))


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*/*.png")), ids=lambda path: path.stem)
def test_no_letter_of_a_picture_is_cut_off_at_its_edge(path):
    shades = np.asarray(Image.open(path).convert("L"))
    assert min(edge.min() for edge in (shades[0], shades[-1], shades[:, 0], shades[:, -1])) > 200
