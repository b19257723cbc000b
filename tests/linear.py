"""A linear policy and a linear value with round numbers, for losses and gradients worked out by hand."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from torch.optim import SGD
from toys import LINEAR

from rl_lightning import REINFORCE, Rollout
from rl_lightning.algorithms.base import Gradients

OBS = Box(-np.inf, np.inf, (1,), np.float32)
ACTION = Discrete(2)


def linear(learner: type, action_space: Any = ACTION, **settings: Any) -> Any:
    """V(s) = 2s + 1; two actions with logits 0.5s and 0.1 − s, or one real action of mean 0.5s and deviation e^0.3."""
    if learner is not REINFORCE:
        settings["compile"] = False
    model = learner(OBS, action_space, network=LINEAR, **settings)
    policy, value = model.networks.policy[1], model.networks.value[1]
    with torch.no_grad():
        value[0].weight.fill_(2.0)
        value[0].bias.fill_(1.0)
        if isinstance(action_space, Box):
            policy.body[0].weight.fill_(0.5)
            policy.log_std.fill_(0.3)
        else:
            policy.body[0].weight.copy_(torch.tensor([[0.5], [-1.0]]))
            policy.body[0].bias.copy_(torch.tensor([0.0, 0.1]))
    return model


def v(s: float) -> float:
    return 2.0 * s + 1.0


def pi(s: float) -> list[float]:
    """Both actions' probabilities."""
    odds = [math.exp(0.5 * s), math.exp(0.1 - s)]
    return [odd / sum(odds) for odd in odds]


def score(s: float, a: int) -> np.ndarray:
    """∇ log π(a|s) by weights and biases of both logits: (1[k = a] − π(k|s)) · (s, 1)."""
    by_logit = np.eye(2)[a] - pi(s)
    return np.array([*(by_logit * s), *by_logit])


def value_slope(s: float) -> np.ndarray:
    """∇ V(s) by weight and bias."""
    return np.array([s, 1.0])


def flat(gradients: Sequence[torch.Tensor]) -> list[float]:
    return torch.cat([gradient.flatten() for gradient in gradients]).tolist()


def both(found: Gradients) -> tuple[list[float], list[float]]:
    """The policy's gradient and the value's, flat."""
    assert found.of.keys() == {"policy", "value"}
    return flat(found.of["policy"]), flat(found.of["value"])


def rollout(
    obs: Sequence[Sequence[float]],
    action: Sequence[Sequence[Any]],
    reward: Sequence[Sequence[float]],
    next_obs: Sequence[Sequence[float]],
    terminated: Sequence[Sequence[int]],
    truncated: Sequence[Sequence[int]],
) -> Rollout:
    """From rows of time steps with a column for each environment."""
    return Rollout(
        torch.tensor(obs).unsqueeze(-1),
        torch.tensor(action),
        torch.tensor(reward),
        torch.tensor(next_obs).unsqueeze(-1),
        torch.tensor(terminated).bool(),
        torch.tensor(truncated).bool(),
    )


def approx(values: Any) -> Any:
    return pytest.approx(values, rel=1e-5, abs=1e-6)


def sgd(lr: float) -> Any:
    return lambda params: SGD(params, lr=lr)
