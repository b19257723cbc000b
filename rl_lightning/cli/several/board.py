"""How far the runs of several seeds are, while they are trained."""

import csv
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from rl_lightning.cli.report import decimals
from rl_lightning.cli.several.group import Group
from rl_lightning.cli.several.table import outcome

DRAWN = 0.5  # seconds from one drawing to the next
TOLD = 60.0  # seconds from one line on a run to the next, where nobody may be there to look
WIDE = 80  # columns that have room for environment steps


class Rows:
    """What a `metrics.csv` says that is being written; only what is new of it is read.

    Attributes:
        env_steps: of the last row.
        evaluation: mean return of the last evaluation; NaN before there is one.
    """

    def __init__(self, path: Path) -> None:
        self.env_steps, self.evaluation = 0, float("nan")
        self._path, self._header, self._position = path, b"", 0

    def look(self) -> None:
        """Read on; from the start, where the file has been exchanged: a new column has come, or rows were cut off."""
        if not self._path.is_file():
            return
        with self._path.open("rb") as file:
            header = file.readline()
            if header != self._header or self._path.stat().st_size < self._position:
                self._header, self._position = header, len(header)
            file.seek(self._position)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._position += len(whole)
        for row in csv.DictReader([header.decode(), *whole.decode().splitlines()]):
            self.env_steps = int(float(row.get("env_steps") or self.env_steps))
            self.evaluation = float(row.get("val/return_mean") or self.evaluation)


class Board:
    """A line for each seed: a bar of its environment steps and its last evaluation; plain lines where nobody looks.

    Args:
        group: of the runs.
    """

    def __init__(self, group: Group) -> None:
        self._total, self._console = group.total_env_steps, Console(highlight=False)
        self._rows = {seed: Rows(group.run(seed).folder / "metrics.csv") for seed in group.seeds}
        self._states = {seed: "finished" if group.is_finished(seed) else "waits" for seed in group.seeds}
        self._due = time.monotonic()

    @contextmanager
    def shown(self) -> Iterator[Callable[[], None]]:
        """Show it, until the end of the block.

        Yields:
            To be called often: it draws when it is time to.
        """
        if not self._console.is_interactive:
            yield self._tell
            return
        with Live(console=self._console, auto_refresh=False, transient=True) as live:
            yield lambda: self._draw(live)

    def begin(self, seed: int) -> None:
        """Note that a seed's run begins or goes on."""
        self._states[seed] = "trains"
        self._say(f"seed {seed} begins")

    def end(self, seed: int, code: int) -> None:
        """Note that a seed's run has ended."""
        self._states[seed] = outcome(code)
        self._say(f"seed {seed} has {outcome(code)}")

    def _say(self, line: str) -> None:
        if not self._console.is_interactive:
            print(line, flush=True)

    def _is_due(self, seconds: float) -> bool:
        is_due = time.monotonic() >= self._due
        if is_due:
            self._due = time.monotonic() + seconds
            for rows in self._rows.values():
                rows.look()
        return is_due

    def _tell(self) -> None:
        for seed in self._rows if self._is_due(TOLD) else ():
            if self._states[seed] == "trains" and self._rows[seed].env_steps:
                parts = [f"{self._steps(seed)} environment steps", self._evaluation(seed)]
                self._say(f"seed {seed}: {', '.join(filter(None, parts))}")

    def _draw(self, live: Live) -> None:
        if self._is_due(DRAWN):
            live.update(self.drawn(self._console.width), refresh=True)

    def drawn(self, width: int) -> Table:
        """The lines.

        Args:
            width: columns of the terminal.
        """
        lines = Table.grid(padding=(0, 1, 0, 0), expand=True)
        for seed, rows in self._rows.items():
            bar, part = ProgressBar(total=self._total, completed=rows.env_steps), rows.env_steps / self._total
            cells: list[RenderableType] = [f"seed {seed}", self._states[seed], bar, f"{part:.0%}"]
            cells += [self._steps(seed)] if width >= WIDE else []
            lines.add_row(*cells, self._evaluation(seed))
        for column in lines.columns:
            column.no_wrap = True
        lines.columns[2].ratio = 1
        for column in lines.columns[3:]:
            column.justify = "right"
        return lines

    def _steps(self, seed: int) -> str:
        return f"{self._rows[seed].env_steps:,} of {self._total:,}"

    def _evaluation(self, seed: int) -> str:
        evaluation = self._rows[seed].evaluation
        return "" if math.isnan(evaluation) else f"evaluation {evaluation:,.{decimals(evaluation)}f}"
