"""A corridor of three states and an end, whose values are known, and a table to learn them in."""

from functools import partial
from typing import Any

import numpy as np
from torch import nn

from rl_lightning import ReplayDataModule

TABLE = partial(nn.Linear, bias=False)  # of one-hot observations: each state for itself
LEFT, DOWN, RIGHT, UP = range(4)


def corridor_data(**settings: Any) -> ReplayDataModule:
    """FrozenLake as a corridor: reward 1 for reaching the fourth state, which ends it; moves against a wall stay."""
    settings = {"learning_starts": 200, "total_env_steps": 700, "batch_size": 32, "buffer_size": 2000, **settings}
    return ReplayDataModule("FrozenLake-v1", {"desc": ["SFFG"], "is_slippery": False}, **settings)


def soft_optimal_q(gamma: float, ent_coef: float) -> np.ndarray:
    """Of the three states, by value iteration."""
    q = np.zeros((3, 4))
    for _ in range(200):
        value = ent_coef * np.log(np.exp(q / ent_coef).sum(-1))
        for state in range(3):
            q[state] = gamma * value[state]
            q[state, LEFT] = gamma * value[max(state - 1, 0)]
            q[state, RIGHT] = gamma * value[state + 1] if state < 2 else 1.0
    return q
