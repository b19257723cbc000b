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
from rl_lightning.types import Episode, Step, map_obs

Act = Callable[[Any], Tensor]  # observations [N, *obs_shape], as of `Obs`, to actions [N, *action_shape]


def play_episodes(
    act: Act, envs: VectorEnv[Any, Any, Any], seeds: Sequence[int], max_steps: int | None = None
) -> tuple[Tensor, Tensor]:
    """Play one whole episode for each seed, all of them at once.

    An episode that is lost, because its environment broke and was replaced, is played again from its start.

    Args:
        act: the policy.
        envs: without autoreset, at least as many as there are seeds.
        seeds: of each episode's first reset.
        max_steps: an episode is cut off after so many; None plays on to its end.

    Returns:
        Undiscounted returns of raw rewards, float32, and lengths in environment steps, int64; both [len(seeds)].
    """
    count = len(seeds)
    episodes = Episodes(envs, seeds)
    returns, lengths = np.zeros(count), np.zeros(count, dtype=np.int64)
    running, lost = np.ones(count, dtype=bool), np.zeros(count, dtype=bool)
    while running.any():
        step = episodes.step(to_numpy(act(to_tensor(episodes.obs, envs.single_observation_space))))
        if step.dropped is not None:
            lost |= running & step.dropped[:count]
            running &= ~lost
        returns += np.where(running, step.reward[:count], 0.0)
        lengths += running
        running &= ~step.done[:count]
        if max_steps is not None:
            running &= lengths < max_steps
    played = torch.from_numpy(returns).float(), torch.from_numpy(lengths)
    if lost.any():
        again = play_episodes(
            act, envs, [seed for seed, is_lost in zip(seeds, lost, strict=True) if is_lost], max_steps
        )
        for values, replayed in zip(played, again, strict=True):
            values[torch.from_numpy(lost)] = replayed
    return played


def record_episode(act: Act, envs: VectorEnv[Any, Any, Any], seed: int, max_steps: int | None = None) -> Episode:
    """Play one whole episode in the first of `envs`, or at most `max_steps` of it, and return all of it."""
    episodes = Episodes(envs, [seed])
    steps: list[Step] = []
    while not steps or not (steps[-1].done[0] or len(steps) == max_steps):
        step = episodes.step(to_numpy(act(to_tensor(episodes.obs, envs.single_observation_space))))
        if step.dropped is not None and step.dropped[0]:
            return record_episode(act, envs, seed, max_steps)
        steps.append(step)
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
