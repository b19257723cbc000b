"""Collecting experience: a policy in the training environments."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray
from torch import Tensor, nn

from rl_lightning.environments.state import capture, restore
from rl_lightning.environments.stepping import Episodes
from rl_lightning.errors import Divergence
from rl_lightning.fast.acting import acting_of
from rl_lightning.schedules import Clock
from rl_lightning.spaces import to_numpy, to_tensor
from rl_lightning.types import Obs, State, Step, map_obs, to_device


class Actor(Protocol):
    """What acts: a learner, as far as collection knows it."""

    @property
    def device(self) -> torch.device:
        """Where it wants its observations."""

    def act(self, obs: Obs, deterministic: bool = False) -> Tensor:
        """Actions [B, *action_shape] for observations [B, *obs_shape]."""

    def episodes_end(self, ended: NDArray[np.bool_]) -> None:
        """Episodes have ended in some of the environments, [num_envs]."""

    def modules(self) -> Iterator[nn.Module]:
        """Itself and its networks."""


class Collector:
    """The training environments, the episodes under way in them, and the clock that they move.

    Args:
        envs: from `make_vec_env`; closed by `close`, and where their first reset fails.
        actor: whose policy acts, in eval mode and without gradients.
        clock: moved on by the environment steps of all processes.
        seeds: of each environment's first reset, then that of random actions.
        processes: that collect in step with this one, each in as many environments.

    Attributes:
        env_steps_per_row: environment steps of all processes when each environment steps once.
        goes_on: whether the episodes under way have begun in an earlier process.
        finished: return (of raw rewards) and length of the episodes that have ended since it was last emptied, except
            those with random actions in them, and those that were lost with their environment.
    """

    def __init__(
        self,
        envs: VectorEnv[Any, Any, Any],
        actor: Actor,
        clock: Clock,
        seeds: Sequence[int],
        processes: int = 1,
    ) -> None:
        self.actor, self.clock = actor, clock
        self.finished: list[tuple[float, float]] = []
        self._envs, self.goes_on = envs, False
        self.env_steps_per_row = envs.num_envs * processes
        self._acting = acting_of(actor.modules())
        *env_seeds, action_seed = seeds
        envs.action_space.seed(action_seed)
        try:
            self._episodes = Episodes(envs, env_seeds)
        except Exception:  # nobody has this collector to close
            envs.close()
            raise
        self._return, self._length = np.zeros(envs.num_envs), np.zeros(envs.num_envs)
        self._has_random_steps = np.zeros(envs.num_envs, dtype=bool)
        self._latest: Step | None = None

    def collect(self, num_steps: int | None) -> list[Step]:
        """Steps of every environment with the actor's policy.

        Args:
            num_steps: how many; None for one whole episode of the first environment.

        Raises:
            Divergence: an action that is not finite.
            EnvironmentFault: whatever an environment breaks.
        """
        steps: list[Step] = []
        with self._acting():
            while len(steps) != num_steps:
                step = self._noted(self._episodes.step(self._action()))
                if num_steps is None and step.dropped is not None:
                    steps.clear()  # of an episode that will never be whole
                steps.append(step)
                if num_steps is None and steps[-1].done[0]:
                    break
        return steps

    def collect_randomly(self, env_steps: int) -> Iterator[Step]:
        """At least so many environment steps, of all processes together, with random actions; none once interrupted."""
        for _ in range(-(-env_steps // self.env_steps_per_row)):
            if self.clock.interrupted:
                return
            yield self._noted(self._episodes.step(self._envs.action_space.sample()), is_random=True)

    def begin_step(self) -> None:
        """Let environments in processes of their own begin one step with the actor's policy.

        Until `end_step` nothing else can be asked of them, and neither clock nor episodes have moved.

        Raises:
            Divergence: an action that is not finite.
        """
        with self._acting():
            action = self._action()
        self._episodes.begin_step(action)

    def end_step(self) -> Step:
        """Wait for the step that was begun.

        Raises:
            EnvironmentFault: whatever an environment breaks.
        """
        return self._noted(self._episodes.end_step())

    @property
    def longest(self) -> int:
        """Steps of the longest episode under way."""
        return int(self._length.max())

    def state_dict(self, with_envs: bool) -> State:
        """What later steps depend on: random actions' generator, and with `with_envs` the episodes under way.

        Args:
            with_envs: where the environments can be restored, see `rl_lightning.environments.state`. In the middle of
                a step they cannot: whoever goes on from there has not taken it, and begins new episodes.
        """
        state: State = {
            "action_rng": self._envs.action_space.np_random.bit_generator.state,
            "finished": torch.tensor(self.finished, dtype=torch.float64).reshape(-1, 2),
        }
        if with_envs and not self._episodes.is_stepping:
            state["episodes"] = {
                "envs": capture(self._envs),
                "obs": map_obs(_copied, self._episodes.obs),
                "return": _copied(self._return),
                "length": _copied(self._length),
                "has_random_steps": _copied(self._has_random_steps),
            }
        return state

    def load_state_dict(self, state: State) -> None:
        """Go on from a saved state; without episodes in it new ones have begun.

        Raises:
            UsageError: where the environments are not those of the state.
        """
        self._envs.action_space.np_random.bit_generator.state = state["action_rng"]
        self.finished[:] = [tuple(episode) for episode in state["finished"].tolist()]
        if "episodes" in state:
            episodes = state["episodes"]
            restore(self._envs, episodes["envs"])
            self.goes_on = True
            self._episodes.obs = map_obs(lambda field: field.numpy().copy(), episodes["obs"])
            self._return, self._length = episodes["return"].numpy().copy(), episodes["length"].numpy().copy()
            self._has_random_steps = episodes["has_random_steps"].numpy().copy()

    def close(self) -> None:
        """Close the environments."""
        self._envs.close()

    def _action(self) -> NDArray[Any]:
        space, device = self._envs.single_observation_space, self.actor.device
        action = to_numpy(self.actor.act(to_device(to_tensor(self._episodes.obs, space), device)))
        if not np.isfinite(action).all():
            raise Divergence(
                f"the policy's action {action.tolist()} at environment step {self.clock.env_steps} is not finite: "
                "its network diverged; lower the learning rates or scale the reward"
            )
        return action

    def _noted(self, step: Step, is_random: bool = False) -> Step:
        """A step that was taken: it moves the clock and the episodes under way."""
        if step.dropped is not None:
            self._drop(step.dropped)
        self._latest = step
        self._has_random_steps |= is_random
        self.clock.env_steps += self.env_steps_per_row
        self._return += step.reward
        self._length += 1
        if (done := step.done).any():
            counted = done & ~self._has_random_steps
            self.finished.extend(zip(self._return[counted], self._length[counted], strict=True))
            self._has_random_steps &= ~done
            self._return[done], self._length[done] = 0.0, 0
            self.actor.episodes_end(done)
        return step

    def _drop(self, dropped: NDArray[np.bool_]) -> None:
        """Forget episodes under way whose environments broke: their latest steps, if still at hand, are the last."""
        if self._latest is not None:
            self._latest.truncated[dropped & ~self._latest.done] = True
        self._return[dropped], self._length[dropped] = 0.0, 0
        self._has_random_steps[dropped] = False
        self.actor.episodes_end(dropped)


def _copied(field: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.array(field))
