"""Field names, shapes and dtypes of what flows between environments, data and learners."""

from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Space = gym.Space[Any]

Obs = Tensor | dict[str, Any]
"""Observations as learners see them: a tensor, or for Dict spaces a dict of them, nested as the space is."""


class Transition(NamedTuple):
    """A minibatch to learn from: `n_step` transitions in a row taken for one, any leading batch dimensions `*`.

    It spans k steps: n, or fewer where an episode or the memory ends.
    """

    obs: Obs
    """`[*, *obs_shape]`, s_t, the observation space's dtype (float64 becomes float32)."""
    action: Tensor
    """`[*, *action_shape]`, a_t; of a Box float32, the policy's own in [-1, 1]."""
    reward: Tensor
    """`[*]` float32, `Σ_{i<k} γ^i r_{t+i}`."""
    next_obs: Obs
    """`[*, *obs_shape]`, s_{t+k}; at an episode's end its last observation, never the next reset's."""
    terminated: Tensor
    """`[*]` bool; whether s_{t+k} is terminal: a time limit still bootstraps."""
    discount: Tensor
    """`[*]` float32, γ^k."""
    weight: Tensor
    """`[*]` float32, of each in the loss: of importance sampling with prioritized replay, else 1."""


class Rollout(NamedTuple):
    """T consecutive steps of N environments under one policy; episodes end and begin inside it."""

    obs: Obs
    """[T, N, *obs_shape]."""
    action: Tensor
    """[T, N] (Discrete) or [T, N, A]; of a Gaussian policy before it is clipped to the space."""
    reward: Tensor
    """[T, N] float32, the environment's raw reward."""
    next_obs: Obs
    """[T, N, *obs_shape]; at an episode's end its last observation, never the next reset's."""
    terminated: Tensor
    """[T, N] bool; true termination."""
    truncated: Tensor
    """[T, N] bool; cut off, by a time limit for example."""


class Step(NamedTuple):
    """One step of every environment, as it came from them: arrays with leading dimension [num_envs]."""

    obs: Any
    action: NDArray[Any]
    reward: NDArray[Any]
    next_obs: Any
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    dropped: NDArray[np.bool_] | None = None  # where the episode under way was lost with its environment, if anywhere:
    # obs is then the first of a new one

    @property
    def done(self) -> NDArray[np.bool_]:
        """Where an episode has ended, [num_envs]."""
        return self.terminated | self.truncated


class Episode(NamedTuple):
    """One recorded episode of T steps."""

    obs: Obs
    """[T + 1, *obs_shape], the last observation included."""
    action: Tensor
    """[T] or [T, A], as the policy gave it: float32 or int64."""
    reward: Tensor
    """[T] float32."""
    terminated: bool
    """How it ended: a terminal state, or else a time limit."""


def map_obs(function: Callable[..., Any], *obs: Any) -> Any:
    """`function` of observations, entry by entry where they are dicts."""
    if isinstance(obs[0], dict):
        return {key: map_obs(function, *(one[key] for one in obs)) for key in obs[0]}
    return function(*obs)


def flat_in_time(obs: Any) -> Any:
    """Observations, or any other tensor, of a rollout: [T, N, ...] to [T N, ...]."""
    return map_obs(lambda tensor: tensor.flatten(0, 1), obs)


def to_device(obs: Any, device: torch.device) -> Any:
    """Observations, or any other tensor in pageable memory, on a device.

    A copy to a CUDA device waits for nothing that is under way there: CUDA has taken the numbers out of pageable memory
    when it returns. One to the CPU waits until they are there.
    """
    return map_obs(lambda tensor: tensor.to(device, non_blocking=device.type == "cuda"), obs)


State = dict[str, Any]  # what `state_dict` returns: tensors and primitives only
