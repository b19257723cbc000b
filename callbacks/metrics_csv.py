"""`metrics.csv`: the rows of a run, one file however often the run is interrupted."""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from rl_lightning.callbacks.run_folder import FolderLock, write_whole
from rl_lightning.errors import UsageError

Row = dict[str, str]  # as in the file, without empty cells
TEST = "test/return_mean"  # a column of the final test's row


class Logged(TypedDict):
    """What a checkpoint says of the rows that were logged before it."""

    rows: int
    last_row: Row


class MetricsCSV(Logger):
    """Logs rows to `metrics.csv` in a folder, which one process uses at a time.

    A checkpoint notes how many rows were logged before it, when they are on disk. A run that goes on from it in the
    same folder cuts off those logged later, and logs them again. In a new folder it begins a new file.

    Args:
        folder: of the run; checkpoints go there too, if this is the trainer's first logger.

    Raises:
        UsageError: the folder is in use, its rows are of another run, or it cannot be written to.

    Example::

        Trainer(logger=MetricsCSV("runs/first")).fit(model, data)
        Trainer(logger=MetricsCSV("runs/first")).fit(model, data, ckpt_path="runs/first/checkpoints/last.ckpt")
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        self.path = Path(folder) / "metrics.csv"
        self._lock: FolderLock | None = None
        self._columns: list[str] = []
        self._written, self._last_row, self._pending = 0, Row(), list[Row]()
        self._is_own = False  # whether the rows in the file are of this run

    @property
    def name(self) -> str:
        """Nothing: the folder has its whole name."""
        return ""

    @property
    def version(self) -> str:
        """Nothing: there is one run in a folder."""
        return ""

    @property
    def save_dir(self) -> str:
        """The folder."""
        return str(self.path.parent)

    @property
    def log_dir(self) -> str:
        """The folder."""
        return str(self.path.parent)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Rows only; the command line keeps a run's settings in `config.yaml`."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Note a row, which `save` writes.

        Args:
            metrics: numbers or tensors of one number, by the names of their columns.
            step: for the column `step`.
        """
        row = {name: value.item() if isinstance(value, Tensor) else value for name, value in metrics.items()}
        self._pending.append({name: str(value) for name, value in {**row, "step": step}.items() if value is not None})

    @rank_zero_only
    def save(self) -> None:
        """Write the rows that have been noted.

        Raises:
            UsageError: the file's rows are of a run that this one does not go on from, or it cannot be written to.
        """
        self.open()
        if self._written and not self._is_own:
            self.finalize("failed")
            raise UsageError(
                f"{str(self.path)!r} has {self._written} rows of another run: give a folder of its own, or go on from "
                "that run's checkpoint"
            )
        self._is_own = True
        if self._pending:
            columns = sorted({*self._columns}.union(*self._pending))
            try:
                if columns != self._columns:
                    write_whole(self.path, _as_text([*read_rows(self.path)[0], *self._pending], columns, header=True))
                else:
                    with self.path.open("a", newline="") as file:
                        file.write(_as_text(self._pending, columns))
            except OSError as error:
                raise self._cannot_write(error) from error
            self._columns = columns
            self._written, self._last_row = self._written + len(self._pending), self._pending[-1]
            self._pending = []

    @rank_zero_only
    def open(self) -> None:
        """Take the folder, unless this logger has it already.

        Raises:
            UsageError: another process has it, or it cannot be written to.
        """
        if self._lock is None:
            self._lock = FolderLock(self.path.parent)
            rows, self._columns, _ = read_rows(self.path)
            self._written, self._last_row = len(rows), rows[-1] if rows else Row()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Let other processes have the folder."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    @property
    def has_test(self) -> bool:
        """Whether the last row written is of the final test."""
        return TEST in self._last_row

    # Checkpoints

    @rank_zero_only
    def state_dict(self) -> Logged:
        """How many rows have been logged, and the last of them; they are on disk when this returns."""
        self.save()
        if self.path.exists():
            with self.path.open("rb") as file:
                os.fsync(file.fileno())
        return {"rows": self._written, "last_row": self._last_row}

    @rank_zero_only
    def load_state_dict(self, state: Logged) -> None:
        """Cut off the rows that were logged after a checkpoint.

        A row of the final test stays, where it is of the checkpoint's own environment steps: it is not logged again.

        Raises:
            UsageError: the file's rows are not those that were logged before the checkpoint.
        """
        self._is_own = True
        self.open()
        rows, columns, is_whole = read_rows(self.path)
        count, last = state["rows"], state["last_row"]
        if not self.path.exists():  # another folder than the checkpoint's run had
            return
        if len(rows) < count or (count and rows[count - 1] != last):
            self.finalize("failed")
            raise UsageError(
                f"{str(self.path)!r} does not have the {count} rows that were logged before the checkpoint: move it "
                "away to begin a new one, or give a folder of its own"
            )
        tests = [row for row in rows[count:] if TEST in row and _env_steps(row) == _env_steps(last)]
        kept = [*rows[:count], *tests]
        if len(kept) < len(rows) or not is_whole:
            try:
                write_whole(self.path, _as_text(kept, columns, header=True))
            except OSError as error:
                raise self._cannot_write(error) from error
        self._written, self._last_row, self._pending = len(kept), kept[-1] if kept else Row(), []

    def _cannot_write(self, error: OSError) -> UsageError:
        return UsageError(f"{str(self.path)!r} cannot be written: {error.strerror}; make room there, or allow it")


def metrics_csv_of(trainer: Trainer) -> MetricsCSV | None:
    """The first of a trainer's loggers that is one; None where it has none."""
    return next((logger for logger in trainer.loggers if isinstance(logger, MetricsCSV)), None)


def read_rows(path: Path) -> tuple[list[Row], list[str], bool]:
    """Rows of a file, its columns, and whether its last line is whole: a process may have died in writing it."""
    text = path.read_bytes().decode() if path.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    reader = csv.DictReader(io.StringIO(whole, newline=""))
    rows = [{name: value for name, value in row.items() if value} for row in reader]
    return rows, list(reader.fieldnames or []), whole == text


def final_test(rows: Sequence[Row]) -> Row | None:
    """The row of a run's final test; None where there has been none, or the run has gone on since."""
    tests = [row for row in rows if TEST in row and "env_steps" in row]
    has_gone_on = tests and any(_env_steps(row) > _env_steps(tests[-1]) for row in rows)
    return tests[-1] if tests and not has_gone_on else None


def _as_text(rows: list[Row], columns: list[str], header: bool = False) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _env_steps(row: Row) -> float:
    return float(row.get("env_steps", "nan"))
