"""Stepping a vector of environments through episode after episode."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from rl_lightning.environments.vector import WatchedVector
from rl_lightning.environments.workers import write_row
from rl_lightning.types import Step, map_obs


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
        self._under_way: NDArray[Any] | None = None  # the action of the step that is being taken

    def step(self, action: NDArray[Any]) -> Step:
        """One step of every environment, with the true last observation where an episode has ended."""
        return self._taken(action, self.envs.step(action))

    def begin_step(self, action: NDArray[Any]) -> None:
        """Let a `WatchedVector` begin a step, which `end_step` waits for."""
        assert isinstance(self.envs, WatchedVector), "others step at once"
        self.envs.step_async(action)
        self._under_way = action

    def end_step(self) -> Step:
        """The step that was begun, as of `step`."""
        assert isinstance(self.envs, WatchedVector), "others step at once"
        assert self._under_way is not None, "begin_step comes first"
        action, self._under_way = self._under_way, None
        return self._taken(action, self.envs.step_wait())

    @property
    def is_stepping(self) -> bool:
        """Whether a step has begun and not ended."""
        return self._under_way is not None

    def _taken(self, action: NDArray[Any], returned: tuple[Any, ...]) -> Step:
        """What a step has returned; the environments whose episode it ended are reset."""
        next_obs, reward, terminated, truncated, info = returned
        obs, dropped = (self.obs, None) if not info else self._began_anew(info["began_anew"])
        step = Step(obs, action, reward, next_obs, terminated, truncated, dropped)
        if (done := step.done).any():
            next_obs, _ = self.envs.reset(options={"reset_mask": done})
        self.obs = next_obs
        return step

    def _began_anew(self, first: dict[int, Any]) -> tuple[Any, NDArray[np.bool_]]:
        """What this step began from, given first observations of environments that broke, and which those are."""
        obs, dropped = map_obs(np.copy, self.obs), np.zeros(self.envs.num_envs, dtype=bool)
        for index, own in first.items():
            write_row(obs, index, own)
            dropped[index] = True
        return obs, dropped
