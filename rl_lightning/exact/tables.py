"""The transition table of a Gymnasium environment."""

from typing import Any

import torch
from torch import Tensor

from rl_lightning.errors import UsageError, require


def read_table(env: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """P(s'|s, a) without the ends, R(s, a), the probability of an end, and the start's distribution.

    Args:
        env: its unwrapped environment has P, P[s][a] a list of (probability, next state, reward, terminated).

    Returns:
        transition, a COO matrix [S A, S']; reward and termination [S, A]; start [S]. All float64.

    Raises:
        UsageError: no table, an empty or faulty place in it, or steps that do not follow it.
    """
    inner = getattr(env, "unwrapped", env)
    name = type(inner).__name__
    if getattr(inner, "P", None) is None:
        raise UsageError(f"{name} has no transition table: MDP.from_env needs env.unwrapped.P, as FrozenLake-v1 has it")
    if getattr(inner, "fickle_passenger", False):
        raise UsageError(f"{name}(fickle_passenger=True) does not follow its table: leave that option out")
    table = inner.P
    states, actions = len(table), len(table[0])
    index, probability = [], []
    reward = torch.zeros(states, actions, dtype=torch.float64)
    termination = torch.zeros(states, actions, dtype=torch.float64)
    for s in range(states):
        require(len(table[s]) == actions, f"{name}.P[{s}]", len(table[s]), f"each state has {actions} actions")
        for a in range(actions):
            for p, next_state, r, terminated in table[s][a]:
                require(0 <= next_state < states, f"{name}.P[{s}][{a}]", next_state, f"states are 0 to {states - 1}")
                reward[s, a] += p * float(r)
                if terminated:
                    termination[s, a] += p
                else:
                    index.append((s * actions + a, int(next_state)))
                    probability.append(float(p))
    columns = torch.tensor(index).view(-1, 2).t()
    values = torch.tensor(probability, dtype=torch.float64)
    transition = torch.sparse_coo_tensor(columns, values, (states * actions, states), check_invariants=True)
    uniform = torch.full((states,), 1.0 / states, dtype=torch.float64)
    start = getattr(inner, "initial_state_distrib", None)
    start = uniform if start is None else torch.as_tensor(start, dtype=torch.float64)
    return transition.coalesce(), reward, termination, start
