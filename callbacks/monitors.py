"""Lightning's callbacks that watch a run, on the run's clock and with the rows that it logs."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor
from lightning.pytorch.loggers import Logger

from rl_lightning.errors import UsageError
from rl_lightning.schedules import Clock

OF_EPISODES = ("train/return", "train/episode_length")  # logged once an episode has finished


class EnvStepsLearningRateMonitor(LearningRateMonitor):
    """Lightning's, with `env_steps` in its rows and as their step.

    Learners put it in the place of Lightning's own, whose rows stand on an axis of batches.

    Args:
        original: which it takes the place of, and shares its state with: the user may hold it.
    """

    def __init__(self, original: LearningRateMonitor) -> None:
        super().__init__()
        self.__dict__ = original.__dict__
        self.logged_at: dict[str, int] = {}  # environment steps of the latest row of each hook
        self._logged_before: dict[str, int] = {}  # likewise, before the checkpoint that the run goes on from

    def on_train_batch_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Log the rates that schedulers give at each gradient step or batch."""
        if self._is_new("batch", trainer):
            with on_clock(trainer):
                super().on_train_batch_start(trainer, *args, **kwargs)

    def on_train_epoch_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Log the rates that are asked for once an epoch."""
        if self._is_new("epoch", trainer):
            with on_clock(trainer):
                super().on_train_epoch_start(trainer, *args, **kwargs)

    def _is_new(self, hook: str, trainer: Trainer) -> bool:
        """Whether this moment is not one that has come already, before a checkpoint at the start of a batch."""
        env_steps = self.logged_at[hook] = trainer.datamodule.clock.env_steps  # type: ignore[attr-defined]
        return bool(env_steps != self._logged_before.pop(hook, None))

    def state_dict(self) -> dict[str, Any]:
        """When it was called last."""
        return {"logged_at": dict(self.logged_at)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._logged_before = dict(state_dict["logged_at"])


@contextmanager
def on_clock(trainer: Trainer) -> Iterator[None]:
    """Meanwhile, rows of the trainer's loggers have the run's environment steps, whatever step they are given."""
    loggers = trainer.loggers
    trainer.loggers = [_OnClock(logger, trainer.datamodule.clock) for logger in loggers]  # type: ignore[attr-defined]
    try:
        yield
    finally:
        trainer.loggers = loggers


class _OnClock(Logger):
    def __init__(self, logger: Logger, clock: Clock) -> None:
        super().__init__()
        self.logger, self.clock = logger, clock

    @property
    def name(self) -> str | None:
        return self.logger.name

    @property
    def version(self) -> int | str | None:
        return self.logger.version

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        self.logger.log_hyperparams(*args, **kwargs)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.logger.log_metrics({"env_steps": self.clock.env_steps, **metrics}, step=self.clock.env_steps)
        self.logger.save()


def let_wait(trainer: Trainer) -> None:
    """Let EarlyStopping wait for a training metric that no row has had yet, instead of failing."""
    for callback in _watching_training(trainer):
        callback.strict = False  # `check_watched` refuses what is never logged


def publish(trainer: Trainer, row: Mapping[str, float]) -> None:
    """Show the values of a row to callbacks that monitor them."""
    trainer.callback_metrics.update({name: torch.tensor(value) for name, value in row.items()})


def check_watched(trainer: Trainer, learner: LightningModule) -> None:
    """Refuse, once rows have been logged, to watch a training metric that none of them has.

    Raises:
        UsageError: naming those that there are.
    """
    logged = trainer.callback_metrics
    if not any(name in logged for name in learner.metrics):  # type: ignore[union-attr]
        return
    known = sorted({*OF_EPISODES} | {name for name in logged if name.startswith("train/")})
    for callback in _watching_training(trainer):
        if callback.monitor not in known:
            raise UsageError(
                f"EarlyStopping.monitor={callback.monitor!r} is not allowed: no row has it; give one of "
                f"{', '.join(known)}"
            )


def _watching_training(trainer: Trainer) -> list[EarlyStopping]:
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    return [each for each in callbacks if isinstance(each, EarlyStopping) and each.monitor.startswith("train/")]
