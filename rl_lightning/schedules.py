"""The clock of a run, in environment steps, and settings that change by it."""

import math
from typing import Literal, get_args

from rl_lightning.errors import require

Schedule = Literal["constant", "linear", "cosine"]


class Clock:
    """Environment steps of a run: the collector moves it, whatever depends on the time reads it.

    Args:
        total: length of the run, in environment steps of all environments together.

    Attributes:
        env_steps: taken so far.
        interrupted: number of the signal that has asked the run to stop at its next safe point, 0 while none has.
    """

    def __init__(self, total: int) -> None:
        self.total, self.env_steps, self.interrupted = total, 0, 0

    @property
    def progress(self) -> float:
        """The share of the run that is done, at most 1."""
        return min(1.0, self.env_steps / self.total) if self.total else 1.0


def scheduled(schedule: Schedule, start: float, end: float, progress: float) -> float:
    """A setting on its way from `start` to `end`.

    Args:
        schedule: `constant` stays at `start`; `linear` and `cosine` (half a period) arrive at `end`.
        start: value at progress 0.
        end: value at progress 1 and after.
        progress: share of the way, from 0.

    Raises:
        UsageError: any other schedule.
    """
    check_schedule("schedule", schedule)
    done = min(progress, 1.0)
    if schedule == "constant":
        return start
    if schedule == "cosine":
        done = 0.5 * (1.0 - math.cos(math.pi * done))
    return start + done * (end - start)


def check_schedule(key: str, schedule: str) -> None:
    """Refuse an unknown schedule.

    Args:
        key: the setting as the user spells it.
        schedule: its value.

    Raises:
        UsageError: naming those that there are.
    """
    require(schedule in get_args(Schedule), key, schedule, f"give one of {get_args(Schedule)}")
