"""The numbers of a comparison as lines of cells, for the terminal and for the page."""

from collections.abc import Sequence

from rl_lightning.cli.several.compare.comparison import MEASURES, Scope
from rl_lightning.cli.several.compare.words import decimals, number_of, seeds_text, text_of

Lines = list[list[str]]

MEASURED = ("", "Seeds", *MEASURES)
PAIRED = ("", "Difference of IQM", "P(first > second)", "p", "Seeds needed")


def measured(scope: Scope) -> Lines:
    """A line for each side, under `MEASURED`."""
    digits = decimals(scope)
    return [
        [
            result.side.name,
            seeds_text(result),
            *(text_of(result.measures[measure], digits) for measure in MEASURES),
        ]
        for result in scope.results
    ]


def paired(scope: Scope) -> Lines:
    """A line for each pair, under `PAIRED`."""
    digits = decimals(scope)
    return [
        [
            f"{pair.first.side.name} > {pair.second.side.name}",
            text_of(pair.difference, digits),
            text_of(pair.probability, 2),
            f"{pair.p:.2g}",
            "" if pair.seeds is None else number_of(pair.seeds),
        ]
        for pair in scope.pairs
    ]


def title(scope: Scope, metric: str) -> str:
    """What the numbers of a scope are."""
    return f"{metric} on {scope.name}" + ("" if scope.is_raw else ", normalized")


def heading(names: Sequence[str]) -> str:
    """Sides in a line."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
