"""Exploration of deterministic policies: random actions now and then, and noise on actions."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rl_lightning.errors import require
from rl_lightning.schedules import Schedule, check_schedule, scheduled


def epsilon_greedy(q: Tensor, epsilon: float) -> Tensor:
    """argmax_a Q(s, a), or with probability ε any action. [B, A] to [B] int64."""
    greedy = q.argmax(-1)  # [B]
    explores = q.new_empty(len(q)).uniform_() < epsilon  # [B]
    if not explores.any():
        return greedy
    return torch.where(explores, torch.randint_like(greedy, q.shape[1]), greedy)


class ActionNoise:
    """Noise on actions in [-1, 1]: independent normals, or an Ornstein-Uhlenbeck process within each episode.

    n_t = (1 − θ) n_{t−1} + √(1 − (1 − θ)²) ε_t, ε_t ~ N(0, 1), starts from N(0, 1) and stays so distributed; actions
    get σ n_t. θ = 1 makes it independent in time.

    Args:
        std: σ at the start of the run.
        final_std: σ at its end; None is the same.
        schedule: between them.
        theta: θ in (0, 1].

    Raises:
        UsageError: a value out of range.
    """

    def __init__(self, std: float, final_std: float | None, schedule: Schedule, theta: float) -> None:
        require(std >= 0.0, "noise_std", std, "give 0 or more")
        require(final_std is None or final_std >= 0.0, "noise_final_std", final_std, "give 0 or more")
        require(0.0 < theta <= 1.0, "noise_theta", theta, "give a number in (0, 1]; 1 is independent in time")
        check_schedule("noise_schedule", schedule)
        self.std, self.final_std = std, std if final_std is None else final_std
        self.schedule: Schedule = schedule
        self.theta = theta
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
        if self.state is None or self.state.shape != action.shape or self.theta == 1.0:
            self.state = fresh
        else:
            kept = 1.0 - self.theta
            self.state = kept * self.state + (1.0 - kept**2) ** 0.5 * fresh
        return (action + std * self.state).clamp(-1.0, 1.0)

    def reset(self, ended: NDArray[np.bool_]) -> None:
        """Begin anew in the environments whose episode has ended, [B]."""
        if self.state is not None and self.theta < 1.0 and len(self.state) == len(ended):
            mask = torch.from_numpy(ended).to(self.state.device).unsqueeze(-1)  # [B, 1]
            self.state = torch.where(mask, torch.randn_like(self.state), self.state)
