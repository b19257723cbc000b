"""Stepping a vector of environments through episode after episode."""

from collections.abc import Sequence
from typing import Any

from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from rl_lightning.types import Step


class Episodes:
    """A vector of environments without autoreset, each reset by mask as soon as its episode has ended.

    Args:
        envs: from `make_vec_env`.
        seeds: of each environment's first reset; those beyond them get none.

    Attributes:
        obs: what the policy is to see next: at an episode's end that of the next one's reset.
    """

    def __init__(self, envs: VectorEnv[Any, Any, Any], seeds: Sequence[int]) -> None:
        self.envs = envs
        self.obs, _ = envs.reset(seed=[*seeds, *[None] * (envs.num_envs - len(seeds))])  # type: ignore[arg-type]

    def step(self, action: NDArray[Any]) -> Step:
        """One step of every environment, with the true last observation where an episode has ended."""
        next_obs, reward, terminated, truncated, _ = self.envs.step(action)
        step = Step(self.obs, action, reward, next_obs, terminated, truncated)
        if (done := step.done).any():
            next_obs, _ = self.envs.reset(options={"reset_mask": done})
        self.obs = next_obs
        return step
