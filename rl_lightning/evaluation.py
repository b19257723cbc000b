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
    episodes = len(seeds)
    obs, _ = _reset(envs, seeds)
    returns, lengths = np.zeros(episodes), np.zeros(episodes, dtype=np.int64)
    running = np.ones(episodes, dtype=bool)
    while running.any():
        obs, reward, terminated, truncated, _ = envs.step(to_numpy(act(to_tensor(obs, envs.single_observation_space))))
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
    observations, actions, rewards = [map_obs(_first, obs)], [], []
    terminated = truncated = np.zeros(envs.num_envs, dtype=bool)
    while not (terminated[0] or truncated[0]):
        if (others := terminated | truncated).any():
            obs, _ = envs.reset(options={"reset_mask": others})
        action = to_numpy(act(to_tensor(obs, envs.single_observation_space)))
        obs, reward, terminated, truncated, _ = envs.step(action)
        observations.append(map_obs(_first, obs))
        actions.append(action[0])
        rewards.append(reward[0])
    return Episode(
        obs=to_tensor(map_obs(lambda *steps: np.stack(steps), *observations), envs.single_observation_space),
        action=torch.from_numpy(np.stack(actions)),
        reward=torch.from_numpy(np.stack(rewards)).float(),
        terminated=bool(terminated[0]),
    )


def _reset(envs: VectorEnv[Any, Any, Any], seeds: Sequence[int]) -> Any:
    """Reset all; those beyond the seeds, to which nobody listens, without one."""
    return envs.reset(seed=[*seeds, *[None] * (envs.num_envs - len(seeds))])  # type: ignore[arg-type]


def to_tensor(obs: Any, space: gym.Space[Any]) -> Any:
    """Observations of one space, any leading dimensions, as learners see them: in the dtype of replay."""
    if isinstance(space, gym.spaces.Dict):
        return {key: to_tensor(obs[key], part) for key, part in space.spaces.items()}
    return torch.as_tensor(obs, dtype=torch_dtype(space))


def to_numpy(action: Tensor) -> NDArray[Any]:
    """Actions as environments take them."""
    array: NDArray[Any] = (action.float() if action.is_floating_point() else action).cpu().numpy()
    return array


def _first(obs: NDArray[Any]) -> NDArray[Any]:
    """The first environment's; a copy, since the rest need not be kept alive with it."""
    return np.array(obs[0])
