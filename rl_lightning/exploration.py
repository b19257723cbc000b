"""Exploration of deterministic policies: random actions now and then, and noise on actions."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rl_lightning.errors import require
from rl_lightning.schedules import Schedule, check_schedule, scheduled


class EpsilonGreedy:
    """How often an ε-greedy policy takes any action instead of the greedy one: ε follows a schedule over the run.

    Args:
        initial_eps: ε at the start, in [0, 1].
        final_eps: ε at the end of its schedule, in [0, 1].
        fraction: share of the run's environment steps that the schedule takes, in (0, 1].
        schedule: between the two.

    Raises:
        UsageError: a value out of range.
    """

    def __init__(
        self,
        initial_eps: float = 1.0,
        final_eps: float = 0.05,
        fraction: float = 0.1,
        schedule: Schedule = "linear",
    ) -> None:
        require(0.0 <= initial_eps <= 1.0, "exploration.initial_eps", initial_eps, "give a number in [0, 1]")
        require(0.0 <= final_eps <= 1.0, "exploration.final_eps", final_eps, "give a number in [0, 1]")
        require(0.0 < fraction <= 1.0, "exploration.fraction", fraction, "give a number in (0, 1]")
        check_schedule("exploration.schedule", schedule)
        self.initial_eps, self.final_eps, self.fraction = initial_eps, final_eps, fraction
        self.schedule: Schedule = schedule

    def epsilon(self, progress: float) -> float:
        """ε, when this share of the run is done."""
        return scheduled(self.schedule, self.initial_eps, self.final_eps, progress / self.fraction)


class ActionNoise:
    """Noise on actions in [-1, 1]: independent normals, or correlated in time within each episode.

    n_t = ρ n_{t−1} + √(1 − ρ²) ε_t, ε_t ~ N(0, 1), starts from N(0, 1) and stays so distributed; actions get σ n_t.
    ρ = 0 makes it independent in time; else it is an Ornstein-Uhlenbeck process, seen at every environment step.

    Args:
        std: σ at the start of the run, in units of actions in [-1, 1]; 0 for no noise.
        final_std: σ at its end; None is the same.
        schedule: between them.
        correlation: ρ in [0, 1), of the noise of one step with that of the next.

    Raises:
        UsageError: a value out of range.
    """

    def __init__(
        self,
        std: float = 0.1,
        final_std: float | None = None,
        schedule: Schedule = "constant",
        correlation: float = 0.0,
    ) -> None:
        require(std >= 0.0, "noise.std", std, "give 0 or more")
        require(final_std is None or final_std >= 0.0, "noise.final_std", final_std, "give 0 or more")
        require(0.0 <= correlation < 1.0, "noise.correlation", correlation, "give a number in [0, 1); 0 is independent")
        check_schedule("noise.schedule", schedule)
        idle = final_std is not None and final_std != std and schedule == "constant"
        require(not idle, "noise.final_std", final_std, "a constant schedule never gets there; give linear or cosine")
        self.std, self.final_std = std, std if final_std is None else final_std
        self.schedule: Schedule = schedule
        self.correlation = correlation
        self.state: Tensor | None = None  # n, [B, A]

    def __call__(self, action: Tensor, progress: float) -> Tensor:
        """Noisy actions, clipped to [-1, 1].

        Args:
            action: [B, A].
            progress: share of the run that is done.
        """
        std = scheduled(self.schedule, self.std, self.final_std, progress)
        if std == 0.0:
            return action
        fresh = torch.randn_like(action)  # [B, A]
        if self.state is None or self.state.shape != action.shape or self.correlation == 0.0:
            self.state = fresh
        else:
            self.state = self.correlation * self.state + (1.0 - self.correlation**2) ** 0.5 * fresh
        return (action + std * self.state).clamp(-1.0, 1.0)

    def reset(self, ended: NDArray[np.bool_]) -> None:
        """Begin anew in the environments whose episode has ended, [B]."""
        if self.state is not None and self.correlation > 0.0 and len(self.state) == len(ended):
            mask = torch.from_numpy(ended).to(self.state.device).unsqueeze(-1)  # [B, 1]
            self.state = torch.where(mask, torch.randn_like(self.state), self.state)


NoiseCallable = Callable[[], ActionNoise]
ExplorationCallable = Callable[[], EpsilonGreedy]
