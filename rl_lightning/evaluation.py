"""Playing whole episodes with a policy, in environments of their own."""

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray
from torch import Tensor

from rl_lightning.data.replay import torch_dtype
from rl_lightning.types import Episode

Act = Callable[[Tensor], Tensor]  # observations [N, *obs_shape] to actions [N, A]


def play_episodes(act: Act, envs: VectorEnv[Any, Any, Any], seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Play one whole episode for each seed, all of them at once.

    Args:
        act: the policy.
        envs: without autoreset, at least as many as there are seeds.
        seeds: of each episode's first reset.

    Returns:
        Undiscounted returns of raw rewards, float32, and lengths in environment steps, int64; both [len(seeds)].
    """
    episodes = len(seeds)
    obs, _ = _reset(envs, seeds)
    returns, lengths = np.zeros(episodes), np.zeros(episodes, dtype=np.int64)
    running = np.ones(episodes, dtype=bool)
    while running.any():
        obs, reward, terminated, truncated, _ = envs.step(to_numpy(act(to_tensor(obs, envs))))
        returns += np.where(running, reward[:episodes], 0.0)
        lengths += running
        done = terminated | truncated
        running &= ~done[:episodes]
        if done.any():
            obs, _ = envs.reset(options={"reset_mask": done})
    return torch.from_numpy(returns).float(), torch.from_numpy(lengths)


def record_episode(act: Act, envs: VectorEnv[Any, Any, Any], seed: int) -> Episode:
    """Play one whole episode in the first of `envs` and return all of it."""
    obs, _ = _reset(envs, [seed])
    observations, actions, rewards = [obs[0]], [], []
    terminated = truncated = np.zeros(envs.num_envs, dtype=bool)
    while not (terminated[0] or truncated[0]):
        if (others := terminated | truncated).any():
            obs, _ = envs.reset(options={"reset_mask": others})
        action = to_numpy(act(to_tensor(obs, envs)))
        obs, reward, terminated, truncated, _ = envs.step(action)
        observations.append(obs[0])
        actions.append(action[0])
        rewards.append(reward[0])
    return Episode(
        obs=to_tensor(np.stack(observations), envs),
        action=torch.from_numpy(np.stack(actions)),
        reward=torch.from_numpy(np.stack(rewards)).float(),
        terminated=bool(terminated[0]),
    )


def _reset(envs: VectorEnv[Any, Any, Any], seeds: Sequence[int]) -> Any:
    """Reset all; those beyond the seeds, to which nobody listens, without one."""
    return envs.reset(seed=[*seeds, *[None] * (envs.num_envs - len(seeds))])  # type: ignore[arg-type]


def to_tensor(obs: NDArray[Any], envs: VectorEnv[Any, Any, Any]) -> Tensor:
    """Observations as learners see them: a copy in the dtype that replay stores."""
    assert isinstance(envs.single_observation_space, gym.spaces.Box)
    return torch.tensor(obs, dtype=torch_dtype(envs.single_observation_space))


def to_numpy(action: Tensor) -> NDArray[np.float32]:
    """Actions as environments take them."""
    array: NDArray[np.float32] = action.float().cpu().numpy()
    return array
