"""`rl-lightning report`: the page and the picture of a run, written into its folder."""

from argparse import ArgumentParser
from collections.abc import Sequence
from functools import partial
from typing import NoReturn

from rl_lightning.callbacks.metrics_csv import read_rows
from rl_lightning.cli.help.subcommands import SUBCOMMANDS
from rl_lightning.cli.pages.figures import check_drawn, png
from rl_lightning.cli.run_report.curves import curves_of
from rl_lightning.cli.run_report.drawings import draw
from rl_lightning.cli.run_report.page import page
from rl_lightning.cli.runs import run_in
from rl_lightning.errors import UsageError


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}: `rl-lightning report --help` lists what can be given\n")


def write_report(args: Sequence[str]) -> None:
    """Write `report.html` and `report.png`, and say where they are.

    Args:
        args: of the command line, after `report`.

    Raises:
        UsageError: no run's folder, no rows in it, no matplotlib, or a folder that cannot be written to.
    """
    parser = _Parser("rl-lightning report", description=SUBCOMMANDS["report"], allow_abbrev=False)
    parser.add_argument("run", metavar="RUN", help="the folder of a run, as `fit` prints it")
    run = run_in(parser.parse_args(args).run)
    rows, _, _ = read_rows(run.folder / "metrics.csv")
    groups = curves_of(rows)
    if not groups:
        advice = "a run in training has one after trainer.log_every_n_steps batches; try again then"
        raise UsageError(f"run {str(run.folder)!r} has no rows in its metrics.csv: {advice}")
    check_drawn("report")
    html, picture = run.folder / "report.html", run.folder / "report.png"
    drawn = png({curve.metric: partial(draw, curve) for curves in groups.values() for curve in curves})
    text = page(run, rows, groups)
    try:
        html.write_text(text, encoding="utf-8")
        picture.write_bytes(drawn)
    except OSError as error:
        raise UsageError(
            f"{error.filename!r} cannot be written: {error.strerror}; make room there, or allow it"
        ) from error
    print(f"Report: {html}\n  curves    {picture}")
