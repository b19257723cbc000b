"""Lightning's callbacks that watch a run, on the run's clock and with the rows that it logs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
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
    """Lightning's, without a second row for a moment that a checkpoint has seen already.

    Learners put it in the place of Lightning's own.

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
            super().on_train_batch_start(trainer, *args, **kwargs)

    def on_train_epoch_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Log the rates that are asked for once an epoch."""
        if self._is_new("epoch", trainer):
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
def on_clock(loggers: Sequence[Logger], clock: Clock) -> Iterator[None]:
    """Meanwhile each row of these loggers, whoever logs it, has the run's environment steps, and them as its step.

    Lightning counts batches where a callback logs by `pl_module.log`, or what is given to `log_metrics`.
    """
    distinct = [*dict.fromkeys(loggers)]  # one may be given twice
    for logger in distinct:
        setattr(logger, "log_metrics", _on_clock(logger, clock))  # noqa: B010  # the object's own, before its class's
    try:
        yield
    finally:
        for logger in distinct:
            delattr(logger, "log_metrics")


def _on_clock(logger: Logger, clock: Clock) -> Callable[..., None]:
    log = logger.log_metrics

    def log_metrics(metrics: Mapping[str, Any], step: int | None = None) -> None:
        log({**metrics, "env_steps": clock.env_steps}, step=clock.env_steps)
        logger.save()

    return log_metrics


def keep_patience(trainer: Trainer, checkpoint: dict[str, Any]) -> None:
    """Let EarlyStopping go on with the patience that it has now, whatever a checkpoint's had: it is a setting."""
    states = checkpoint.get("callbacks", {})
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, EarlyStopping) and callback.state_key in states:
            states[callback.state_key]["patience"] = callback.patience


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
