"""`rl-lightning compare`: whether runs differ, printed, and on a page where a folder for it is given."""

import re
from collections.abc import Sequence
from pathlib import Path
from shlex import quote

from rich.console import Console
from rich.table import Table

from rl_lightning.callbacks.metrics_csv import TEST
from rl_lightning.cli.help.subcommands import SUBCOMMANDS
from rl_lightning.cli.pages.figures import check_drawn, png
from rl_lightning.cli.plain_parser import PlainParser
from rl_lightning.cli.several.compare.comparison import Scope, common_tasks, scopes_of
from rl_lightning.cli.several.compare.drawings import drawings
from rl_lightning.cli.several.compare.files import curves_csv, runs_csv
from rl_lightning.cli.several.compare.page import page
from rl_lightning.cli.several.compare.scales import POOLED, scales_of
from rl_lightning.cli.several.compare.sides import sides_of
from rl_lightning.cli.several.compare.tables import MEASURED, PAIRED, measured, paired, title
from rl_lightning.cli.several.compare.words import conclusion, decimals, notes_of
from rl_lightning.errors import UsageError, require

SIDE = (
    "the folder of a run, or a folder with runs in it: the seeds of a side. NAME=PATH names it, NAME=PATH,PATH takes "
    "several, as for several environments"
)
PAGE = "comparison.html"
PICTURES = {"scores": "scores", "IQM": "curves", "performance": "profiles", "probability": "improvement"}  # by kind


def compare(args: Sequence[str]) -> None:
    """Print what the runs show; with `--output` write a page, pictures and the numbers too.

    Args:
        args: of the command line, after `compare`.

    Raises:
        UsageError: no runs, none in common, some without a score, or an output that exists or cannot be written.
    """
    parser = PlainParser("rl-lightning compare", description=SUBCOMMANDS["compare"], allow_abbrev=False)
    parser.add_argument("sides", metavar="SIDE", nargs="+", help=SIDE)
    parser.add_argument("--metric", default=TEST, help=f"the score, a column of metrics.csv; {TEST} by default")
    parser.add_argument("--normalize", metavar="FILE", help=f"YAML, TASK: [LOW, HIGH]; or {POOLED}, the runs' range")
    parser.add_argument("--output", metavar="DIR", help="the folder to make for the page, pictures and numbers")
    parser.add_argument("--overwrite", action="store_true", help="an older comparison in its place")
    given = parser.parse_args(args)
    advice = "there is nothing to write; give --output=DIR, or leave it out"
    require(given.output is not None or not given.overwrite, "overwrite", True, advice)
    sides = sides_of(given.sides, given.metric)
    tasks = common_tasks(sides)
    folder = None if given.output is None else _output(given.output, given.overwrite)
    scales = scales_of(given.normalize, sides, tasks)
    scopes = scopes_of(sides, tasks, scales)
    digits = decimals(scopes[0])
    conclusions = [conclusion(pair, digits) for pair in scopes[0].pairs]
    notes = notes_of(sides, tasks, scopes, scales.note)
    _print(scopes, given.metric, conclusions, notes)
    if folder is None:
        name = "-".join(re.sub(r"\W+", "-", side.name).strip("-").lower() for side in sides)
        print(f"\nA page with curves: --output={quote(f'comparison-{name}')}")
        return
    compared = [side.of(tasks) for side in sides]
    files = {
        PAGE: page(compared, scopes, given.metric, conclusions, notes).encode(),
        "runs.csv": runs_csv(compared, tasks).encode(),
        "curves.csv": curves_csv(scopes).encode(),
        **_pictures(scopes),
    }
    _write(folder, files)
    print(f"\nComparison: {folder / PAGE}\n  pictures  {folder}/*.png\n  numbers   {folder}/*.csv")


def _print(scopes: Sequence[Scope], metric: str, conclusions: Sequence[str], notes: Sequence[str]) -> None:
    console = Console(highlight=False, markup=False)  # names may have brackets
    for scope in scopes:
        for heads, lines in ((MEASURED, measured(scope)), (PAIRED, paired(scope))):
            table = Table(*heads, title=title(scope, metric) if heads is MEASURED else None, title_justify="left")
            for line in lines:
                table.add_row(*line)
            if lines:
                console.print(table)
    for text in conclusions:
        console.print(text, style="bold")
    for text in notes:
        console.print(text, style="dim")


def _pictures(scopes: Sequence[Scope]) -> dict[str, bytes]:
    """By file: the drawings of one kind of all scopes."""
    shown = {(scope.name, what): draw for scope in scopes for what, draw in drawings(scope).items()}
    return {
        f"{name}.png": png({f"{scope}: {what}": d for (scope, what), d in shown.items() if what.startswith(kind)})
        for kind, name in PICTURES.items()
        if any(what.startswith(kind) for _, what in shown)
    }


def _output(given: str, overwrite: bool) -> Path:
    check_drawn("compare --output")
    folder = Path(given)
    advice = "it exists; give another, or --overwrite for a comparison that may be replaced"
    require(not folder.exists() or (overwrite and (folder / PAGE).is_file()), "output", given, advice)
    return folder


def _write(folder: Path, files: dict[str, bytes]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in PICTURES.values():
            (folder / f"{name}.png").unlink(missing_ok=True)  # an older comparison may have more of them
        for name, content in files.items():
            (folder / name).write_bytes(content)
    except OSError as error:
        raise UsageError(f"{str(folder)!r} cannot be written: {error.strerror}; give another --output") from error
