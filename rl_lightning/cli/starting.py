"""What a run starts from: a checkpoint that has been read and checked, and whether anything is left to do."""

import sys
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import NamedTuple

from rl_lightning.algorithms.base import Algorithm
from rl_lightning.callbacks import MetricsCSV
from rl_lightning.checkpoints import KEY, check_networks, check_resumable, check_signature, load_checkpoint
from rl_lightning.cli.changes import Change
from rl_lightning.cli.report import program_name
from rl_lightning.cli.runs import Run, run_of
from rl_lightning.data.base import EnvironmentDataModule
from rl_lightning.data.replay.datamodule import ReplayDataModule
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

    def check_networks(self, learner: Algorithm, changed: Mapping[str, Change]) -> None:
        """Refuse it where its networks are others than the learner's.

        Args:
            learner: that would load it.
            changed: settings that are others than its run's; those of the model may be why.

        Raises:
            UsageError: naming them, and the first tensor that differs.
        """
        causes = [f"{key}={new} (was {old})" for key, (old, new) in changed.items() if key.startswith("model.")]
        check_networks(self.checkpoint["state_dict"], learner.state_dict(), self.path, causes)

    def goes_on(self, learner: Algorithm, data: EnvironmentDataModule, metrics_csv: MetricsCSV | None) -> bool:
        """Whether training goes on from it: it does not where only the final test is left.

        Where that has been done too, the program ends in peace.

        Args:
            learner: that is to train on.
            data: its DataModule; replay that lies in the checkpoint is not taken from another place too.
            metrics_csv: of the run, where it goes on in its own folder.

        Raises:
            UsageError: nothing is left, and a new run was asked for; or training cannot go on from it.
        """
        check_resumable(self.checkpoint, self.path)
        has_buffer = "buffer" in self.checkpoint.get("ReplayDataModule", {})
        if has_buffer:
            data.buffer_from = None  # type: ignore[attr-defined]
        if self.env_steps >= data.total_env_steps:
            self._check_test_is_left(data.total_env_steps, metrics_csv)
            return False
        learner.check_learns_on(self.checkpoint, data.total_env_steps)
        if isinstance(data, ReplayDataModule) and not (has_buffer or data.buffer_from):
            data.check_random_steps(self.env_steps)
        return True

    def _check_test_is_left(self, total: int, metrics_csv: MetricsCSV | None) -> None:
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
