"""When a run is saved: after evaluations, every so often, and when it is asked to stop."""

import signal
import time
from pathlib import Path
from shlex import quote
from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import AsyncCheckpointIO
from lightning.pytorch.utilities import rank_zero_warn

from rl_lightning.callbacks.environment_interaction import environment_data
from rl_lightning.checkpoints import link
from rl_lightning.errors import require
from rl_lightning.types import State

EXIT_CODES = {signal.SIGTERM: 143, signal.SIGUSR1: 143, signal.SIGINT: 130}  # that signals end a process with


class Checkpoints(Checkpoint):
    """Saves `last.ckpt` at the end of every epoch, after its evaluation, and `best.ckpt` when that was the best so far.

    In between it saves every so many environment steps or minutes, and when a signal has asked the run to stop, which
    then ends the process (see `Signals`). These fall before anything of a training batch is done. A file is written
    once: others of the same moment are links to it.

    From Python go on with ``trainer.fit(..., ckpt_path=checkpoints.last_model_path)``. Lightning's ``ckpt_path="last"``
    finds what its ModelCheckpoint has saved and nothing else: it warns, and begins anew.

    Args:
        dirpath: folder of the files; by default ``checkpoints`` in the folder of the first logger, else of the trainer.
        monitor: the metric that tells the best.
        mode: whether its ``max`` or its ``min`` is the best.
        every_env_steps: environment steps from one checkpoint to the next at most, up to a training batch.
        every_minutes: minutes from one checkpoint to the next at most, up to a training batch.
        keep_last: how many of the newest to keep; those before `last.ckpt` are named by their environment steps.

    Attributes:
        best_model_path: of the best so far; empty before there is one.
        last_model_path: of the newest.
        best_model_score: the best value of `monitor`.
        current_score: its value at the latest evaluation. With `save_top_k` it is what loggers ask for that keep
            checkpoints too, such as ``WandbLogger(log_model=True)``.

    Raises:
        UsageError: a value out of range, and whatever keeps a checkpoint from being saved.
    """

    def __init__(
        self,
        dirpath: str | None = None,
        monitor: str = "val/return_mean",
        mode: Literal["max", "min"] = "max",
        every_env_steps: int | None = None,
        every_minutes: float | None = None,
        keep_last: int = 1,
    ) -> None:
        local = dirpath is None or "://" not in str(dirpath)
        require(local, "checkpoint.dirpath", dirpath, "give a folder of this machine")
        require(mode in ("max", "min"), "checkpoint.mode", mode, "give max or min")
        for key, value in (("every_env_steps", every_env_steps), ("every_minutes", every_minutes)):
            require(value is None or value > 0, f"checkpoint.{key}", value, "give a number above 0, or null for never")
        require(keep_last >= 1, "checkpoint.keep_last", keep_last, "give 1 or more")
        self.dirpath, self.monitor, self.mode = dirpath, monitor, mode
        self.every_env_steps, self.every_minutes, self.keep_last = every_env_steps, every_minutes, keep_last
        self.best_model_path = self.last_model_path = ""
        self.best_model_score: float | None = None
        self.current_score: float | None = None
        self.save_top_k = 1
        self._older: list[str] = []  # paths of what was saved before the newest, the oldest first
        self._saved_at = -1  # environment steps of the newest
        self._saved_time = 0.0
        self._restored: State = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the folder; refuse a plugin that returns before a file is written, which is then to be linked."""
        is_late = isinstance(trainer.strategy.checkpoint_io, AsyncCheckpointIO)
        require(not is_late, "trainer.plugins", "AsyncCheckpointIO", "Checkpoints waits for each file; leave it out")
        root = Path(trainer.log_dir or trainer.default_root_dir)
        self._folder = Path(self.dirpath) if self.dirpath is not None else root / "checkpoints"

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count; go on with what was the best so far, where it still lies in this folder."""
        self._saved_at, self._saved_time = -1, time.monotonic()
        self._counted_from = environment_data(trainer).clock.env_steps
        restored, self._restored = self._restored, {}
        best = Path(restored.get("best_model_path", ""))
        if best.name and best.parent.resolve() == self._folder.resolve() and best.exists():
            self.best_model_path, self.best_model_score = str(best), restored["best_model_score"]
        older = [Path(path) for path in restored.get("older", [])]
        self._older = [str(path) for path in older if path.parent.resolve() == self._folder.resolve() and path.exists()]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Save where it is time to; nothing of this batch has been done yet."""
        clock = environment_data(trainer).clock
        due = bool(clock.interrupted)
        if self.every_env_steps is not None:
            due |= clock.env_steps - self._counted_from >= self.every_env_steps
        if self.every_minutes is not None:
            due |= time.monotonic() - self._saved_time >= 60 * self.every_minutes
        if trainer.world_size > 1:  # they save together
            due = trainer.strategy.reduce_boolean_decision(due, all=False)
        if due:
            self._save(trainer)
            self._stop_if_asked(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save; as the best too, if it is."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._save(trainer, is_best=self._is_best(trainer))
            self._stop_if_asked(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, where no evaluation has ended the epoch."""
        self._save(trainer)
        self._stop_if_asked(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the process, if it was asked to stop since."""
        self._stop_if_asked(trainer)

    def _is_best(self, trainer: Trainer) -> bool:
        """Compare with the best so far, and note the new best."""
        value = trainer.callback_metrics.get(self.monitor)
        if value is None:
            rank_zero_warn(f"checkpoint.monitor={self.monitor!r} has not been logged: there is no best.ckpt yet")
            return False
        score, sign = float(value), 1 if self.mode == "max" else -1
        self.current_score = score
        if score != score or (self.best_model_score is not None and sign * score <= sign * self.best_model_score):
            return False
        self.best_model_score, self.best_model_path = score, str(self._folder / "best.ckpt")
        return True

    def _save(self, trainer: Trainer, is_best: bool = False) -> None:
        """Write `last.ckpt`, and let `best.ckpt` be the same file if it is the best."""
        env_steps = environment_data(trainer).clock.env_steps
        if trainer.fast_dev_run or (env_steps == self._saved_at and not is_best):  # type: ignore[attr-defined]
            return
        last, gone = self._folder / "last.ckpt", []
        if self.keep_last > 1 and self._saved_at not in (-1, env_steps):
            before = self._folder / f"{self._saved_at}.ckpt"
            if trainer.is_global_zero:
                link(last, before)
            self._older.append(str(before))
        while len(self._older) > self.keep_last - 1:
            gone.append(self._older.pop(0))
        self.last_model_path, self._saved_at = str(last), env_steps
        # the best first: if the process is killed between the two, the one that last.ckpt knows of is still there
        trainer.save_checkpoint(self.best_model_path if is_best else last, weights_only=False)
        if trainer.is_global_zero:
            if is_best:
                link(Path(self.best_model_path), last)
            for path in gone:
                Path(path).unlink(missing_ok=True)
            for logger in trainer.loggers:
                logger.after_save_checkpoint(self)  # type: ignore[arg-type]
        self._counted_from, self._saved_time = env_steps, time.monotonic()

    def _stop_if_asked(self, trainer: Trainer) -> None:
        """End the process if a signal has come.

        Raises:
            SystemExit: with the code of the signal.
        """
        interrupted = environment_data(trainer).clock.interrupted
        if trainer.world_size > 1 and trainer.strategy.reduce_boolean_decision(bool(interrupted), all=False):
            interrupted = interrupted or signal.SIGTERM
        if not interrupted:
            return
        number = signal.Signals(interrupted)
        if trainer.is_global_zero:
            run = self._folder.parent  # of the command line, if it has its config
            in_python = f"Trainer.fit with ckpt_path={self.last_model_path!r}"
            how = f"rl-lightning resume {quote(str(run))}" if (run / "config.yaml").is_file() else in_python
            print(
                f"\n{number.name} after {self._saved_at} environment steps: saved {self.last_model_path}; go on: {how}"
            )
        raise SystemExit(EXIT_CODES[number])

    def state_dict(self) -> dict[str, Any]:
        """Paths of the newest, the best and those before, and how good the best is."""
        return {
            "last_model_path": self.last_model_path,
            "best_model_path": self.best_model_path,
            "best_model_score": self.best_model_score,
            "older": list(self._older),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restored = state_dict
