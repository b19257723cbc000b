"""What a run starts from: a checkpoint that has been read and checked, and whether anything is left to do."""

import sys
from pathlib import Path
from shlex import quote
from typing import NamedTuple

from rl_lightning.algorithms.base import Algorithm
from rl_lightning.callbacks import MetricsCSV
from rl_lightning.checkpoints import KEY, check_signature, load_checkpoint
from rl_lightning.cli.report import program_name
from rl_lightning.cli.runs import Run, run_of
from rl_lightning.errors import require
from rl_lightning.types import State


class Start(NamedTuple):
    """A checkpoint to go on from, and the run that it is of, where that is known."""

    path: str
    checkpoint: State
    run: Run | None

    @property
    def env_steps(self) -> int:
        """Environment steps that are behind it."""
        return int(self.checkpoint[KEY]["env_steps"])

    def is_finished(self, total: float, metrics_csv: MetricsCSV | None) -> bool:
        """Whether only the final test is left; the program ends in peace where that has been done too.

        Args:
            total: environment steps of the run.
            metrics_csv: of the run, where it goes on in its own folder.

        Raises:
            UsageError: nothing is left, and a new run was asked for.
        """
        if self.env_steps < total:
            return False
        if metrics_csv is None:
            advice = f"checkpoint {self.path!r} has {self.env_steps} environment steps behind it already; "
            require(False, "data.total_env_steps", total, f"{advice}give more than that")
        assert metrics_csv is not None
        if logged := self.checkpoint[KEY].get("logged"):
            metrics_csv.load_state_dict(logged)
        if metrics_csv.has_test:
            run, more = quote(str(metrics_csv.path.parent)), f"--data.total_env_steps={2 * self.env_steps}"
            print(f"Run {run} is finished, after {self.env_steps:,} of {total:,} environment steps.")
            print(f"To go on: {program_name('rl-lightning')} resume {run} {more}")
            sys.exit(0)
        return True


def start_of_run(run: Run, learner: Algorithm) -> Start:
    """The last checkpoint of a run, or the newest that is whole.

    Raises:
        UsageError: there is none, or it is of another algorithm or other spaces.
    """
    path, checkpoint = run.newest_valid()
    check_signature(checkpoint[KEY], learner.signature, str(path))
    return Start(str(path), checkpoint, run)


def start_from(path: str, learner: Algorithm) -> Start:
    """The checkpoint in a file.

    Raises:
        UsageError: where it is missing, damaged, not ours, or of another algorithm or other spaces.
    """
    return Start(path, load_checkpoint(Path(path), learner.signature), run_of(path))
