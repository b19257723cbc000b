"""Optimizers and a schedule to name in a config: `rl_lightning.optim.FusedAdam`, `rl_lightning.optim.EnvStepsLR`."""

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from rl_lightning.errors import require
from rl_lightning.fast.optim import ForeachRMSprop, FusedAdam
from rl_lightning.schedules import Clock, Schedule, check_schedule, scheduled

__all__ = ["EnvStepsLR", "ForeachRMSprop", "FusedAdam", "LRSchedulerCallable", "OptimizerCallable"]


class EnvStepsLR(LRScheduler):
    """A learning rate over the run's environment steps, whatever their number: from the optimizer's to a share of it.

    It moves at the start of every training batch. A run that goes on with more `total_env_steps` goes on with the rate
    that belongs to its new length.

    Args:
        optimizer: whose rate it sets.
        schedule: from the start to the end.
        final_factor: share of the rate at the end, at least 0.
        env_steps: environment steps to the end; None is the whole run.

    Raises:
        UsageError: a value out of range.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        schedule: Schedule = "linear",
        final_factor: float = 0.0,
        env_steps: int | None = None,
    ) -> None:
        check_schedule("scheduler.schedule", schedule)
        require(final_factor >= 0.0, "scheduler.final_factor", final_factor, "give 0 or more")
        require(env_steps is None or env_steps >= 1, "scheduler.env_steps", env_steps, "give 1 or more, or null")
        self.schedule: Schedule = schedule
        self.final_factor, self.env_steps, self.done = final_factor, env_steps, 0.0
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        """The rate of each group of parameters at this time of the run."""
        factor = scheduled(self.schedule, 1.0, self.final_factor, self.done)
        return [rate * factor for rate in self.base_lrs]

    def follow(self, clock: Clock) -> None:
        """Set the rates that belong to the time of the clock."""
        self.done = clock.progress if self.env_steps is None else clock.env_steps / self.env_steps
        for group, rate in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            group["lr"] = rate

    def get_last_lr(self) -> list[float | Tensor]:
        """The rate of each group as it was set last."""
        return [group["lr"] for group in self.optimizer.param_groups]
