"""Playing whole episodes with a policy, in environments of their own."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray
from torch import Tensor

from rl_lightning.environments.stepping import Episodes
from rl_lightning.spaces import to_numpy, to_tensor
from rl_lightning.types import Episode, map_obs

Act = Callable[[Any], Tensor]  # observations [N, *obs_shape], as of `Obs`, to actions [N, *action_shape]


def play_episodes(act: Act, envs: VectorEnv[Any, Any, Any], seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Play one whole episode for each seed, all of them at once.

    Args:
        act: the policy.
        envs: without autoreset, at least as many as there are seeds.
        seeds: of each episode's first reset.

    Returns:
        Undiscounted returns of raw rewards, float32, and lengths in environment steps, int64; both [len(seeds)].
    """
    count = len(seeds)
    episodes = Episodes(envs, seeds)
    returns, lengths = np.zeros(count), np.zeros(count, dtype=np.int64)
    running = np.ones(count, dtype=bool)
    while running.any():
        step = episodes.step(to_numpy(act(to_tensor(episodes.obs, envs.single_observation_space))))
        returns += np.where(running, step.reward[:count], 0.0)
        lengths += running
        running &= ~step.done[:count]
    return torch.from_numpy(returns).float(), torch.from_numpy(lengths)


def record_episode(act: Act, envs: VectorEnv[Any, Any, Any], seed: int) -> Episode:
    """Play one whole episode in the first of `envs` and return all of it."""
    episodes = Episodes(envs, [seed])
    steps = [episodes.step(to_numpy(act(to_tensor(episodes.obs, envs.single_observation_space))))]
    while not steps[-1].done[0]:
        steps.append(episodes.step(to_numpy(act(to_tensor(episodes.obs, envs.single_observation_space)))))
    observations = [map_obs(_first, step.obs) for step in steps] + [map_obs(_first, steps[-1].next_obs)]
    return Episode(
        obs=to_tensor(map_obs(lambda *shown: np.stack(shown), *observations), envs.single_observation_space),
        action=torch.from_numpy(np.stack([step.action[0] for step in steps])),
        reward=torch.from_numpy(np.stack([step.reward[0] for step in steps])).float(),
        terminated=bool(steps[-1].terminated[0]),
    )


def _first(obs: NDArray[Any]) -> NDArray[Any]:
    """The first environment's; a copy, since the rest need not be kept alive with it."""
    return np.array(obs[0])
