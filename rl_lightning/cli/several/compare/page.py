"""A comparison as one HTML page, which loads nothing from elsewhere."""

from collections.abc import Sequence
from html import escape

from rl_lightning.cli.pages.figures import svg
from rl_lightning.cli.pages.html import document, section, table
from rl_lightning.cli.several.compare.comparison import Scope
from rl_lightning.cli.several.compare.drawings import drawings
from rl_lightning.cli.several.compare.sides import Side
from rl_lightning.cli.several.compare.statistics import RESAMPLES
from rl_lightning.cli.several.compare.tables import MEASURED, PAIRED, heading, measured, paired, title
from rl_lightning.cli.several.compare.words import differing

MEANINGS = {
    "scores": "A dot for each run; the stroke is the IQM, the bar its interval.",
    "IQM over environment steps": "While training. Between two evaluations a run keeps its last one; the curve begins "
    "where every run of the side has been evaluated, and ends with the first one's last evaluation.",
    "IQM over training time in seconds": "The same at the median time that runs of a task took to get there (the "
    "mean over tasks): inside training batches, without evaluations and checkpoints. Runs that shared a machine have "
    "slowed each other.",
    "performance profile": "The share of runs whose score is above τ. A curve that lies higher everywhere is better.",
    "probability of improvement": "That a run of the first is better than one of the second on the same task; ties "
    "count half.",
}
METHOD = (
    "IQM is the interquartile mean: the mean of the middle half of the runs. Intervals are of 95 %, percentiles of "
    f"{RESAMPLES:,} bootstrap resamples of the runs within each task (Agarwal et al. 2021, arXiv:2108.13264). p is of "
    "a permutation test of the difference of the IQM. Seeds needed are those with which the test would find a "
    "difference as large as the measured one in 8 of 10 comparisons, by the normal approximation (Colas et al. 2018, "
    "arXiv:1806.08295)."
)


def page(
    sides: Sequence[Side], scopes: Sequence[Scope], metric: str, conclusions: Sequence[str], notes: Sequence[str]
) -> str:
    """The page's text.

    Args:
        sides: with the runs that are compared.
        scopes: what was found; the first is of all tasks.
        metric: the score's column.
        conclusions: a sentence for each pair.
        notes: on the numbers.
    """
    name = escape(f"{heading([side.name for side in sides])} on {scopes[0].name}")
    parts = [f"<h1>{name}</h1>", *(f"<p><b>{escape(text)}</b></p>" for text in conclusions)]
    parts += [f'<p class="faint">{escape(note)}</p>' for note in notes]
    parts += [section(escape(title(scope, metric)), _scope(scope)) for scope in scopes]
    if differ := differing(sides):
        heads = ["Setting", *(escape(side.name) for side in sides)]
        lines = [[f"<code>{escape(cell)}</code>" for cell in (key, *values)] for key, values in differ.items()]
        parts.append(section("Settings that differ", table(heads, lines)))
    parts.append(section("Runs", _runs(sides)))
    parts.append(section("How it is measured", f"<p>{METHOD}</p>"))
    return document(name, parts)


def _scope(scope: Scope) -> str:
    tables = [table(MEASURED, _escaped(measured(scope)))]
    if scope.pairs:
        tables.append(table([escape(head) for head in PAIRED], _escaped(paired(scope))))
    figures = [
        f"<figure>{svg(draw, f'{scope.name} {what}')}"
        f"<figcaption><b>{what}</b><br>{MEANINGS[what]}</figcaption></figure>"
        for what, draw in drawings(scope).items()
    ]
    return "<br>".join(tables) + f'<br><div class="grid">{"".join(figures)}</div>'


def _runs(sides: Sequence[Side]) -> str:
    lines = [
        [side.name, run.task, str(run.seed), f"{run.score:,.4g}", f"{run.env_steps:,}", str(run.folder)]
        for side in sides
        for run in side.runs
    ]
    return table(["", "Task", "Seed", "Score", "Environment steps", "Folder"], _escaped(lines))


def _escaped(lines: Sequence[Sequence[str]]) -> list[list[str]]:
    return [[escape(cell) for cell in line] for line in lines]
