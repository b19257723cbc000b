"""Runs a page that is a notebook: executes its cells in order, saves the figures that they draw, writes the notebook.

    python -m benchmarks.lecture                         # docs/lecture.md
    python -m benchmarks.lecture docs/tutorials/*.md

A cell names each of its figures (`plt.figure("name")`, `plt.subplots(num="name")`); it becomes docs/lecture/name.png.
The notebook is the same page for Jupyter, without outputs: docs/lecture.ipynb.
"""

import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jupytext
import matplotlib
import nbformat
from matplotlib.figure import Figure
from PIL import Image

PAGE = Path(__file__).parents[1] / "docs" / "lecture.md"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


class Cell(NamedTuple):
    """A code cell of the page."""

    section: str  # the latest heading above it
    source: str
    line: int  # of the page, on which the source begins


def notebook(text: str) -> nbformat.NotebookNode:
    """The page as a notebook; text and code become cells whose ids are their numbers."""
    made = jupytext.reads(text, fmt="md")
    made.metadata = nbformat.NotebookNode(kernelspec=KERNEL)
    made.nbformat, made.nbformat_minor = 4, 5
    for number, cell in enumerate(made.cells):
        cell.id = f"cell-{number}"
    return made


def cells(text: str) -> list[Cell]:
    """The code cells of the page, in order."""
    found, section, end = [], "imports", 0
    for cell in notebook(text).cells:
        if cell.cell_type == "code":
            start = text.index(f"```python\n{cell.source}\n```", end) + len("```python\n")
            end = start + len(cell.source)
            found.append(Cell(section, cell.source, text.count("\n", 0, start) + 1))
        else:
            headings = [line for line in cell.source.splitlines() if line.startswith("## ")]
            section = headings[-1].removeprefix("## ") if headings else section
    return found


def run(cell: Cell, namespace: dict[str, Any], page: Path) -> Iterator[Figure]:
    """Execute a cell, then give the figures that it drew. An error's traceback shows lines of the page."""
    import matplotlib.pyplot as plt

    others = plt.get_fignums()
    exec(compile("\n" * (cell.line - 1) + cell.source, str(page), "exec"), namespace)
    for number in sorted({*plt.get_fignums()} - {*others}):
        yield plt.figure(number)
        plt.close(number)


def run_all(page: Path, keep: Callable[[Figure], None]) -> None:
    """Execute all cells, and say how long each section took."""
    namespace: dict[str, Any] = {"__name__": page.stem}
    seconds: dict[str, float] = {}
    for cell in cells(page.read_text()):
        start = time.process_time()
        for figure in run(cell, namespace, page):
            keep(figure)
        seconds[cell.section] = seconds.get(cell.section, 0.0) + time.process_time() - start
    for section, spent in seconds.items():
        print(f"{spent:6.1f} s of CPU: {section}")


def save(figure: Figure, page: Path) -> None:
    """As docs/lecture/NAME.png, in 64 colours, which is half the size."""
    path = page.with_suffix("") / f"{figure.get_label()}.png"
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=100)
    Image.open(path).convert("RGB").quantize(64).save(path, optimize=True)


def main() -> None:
    """Run the pages, save their figures, write the notebooks."""
    matplotlib.use("Agg")
    for page in map(Path, sys.argv[1:] or [PAGE]):
        run_all(page, partial(save, page=page))
        nbformat.write(notebook(page.read_text()), page.with_suffix(".ipynb"))


if __name__ == "__main__":
    main()
