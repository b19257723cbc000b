"""Gymnasium environments: making, checking, seeding and rescaling them."""

import contextlib
import difflib
import math
import warnings
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers import (
    FrameStackObservation,
    OrderEnforcing,
    PassiveEnvChecker,
    RecordEpisodeStatistics,
    TimeLimit,
    TransformAction,
    TransformReward,
)

from rl_lightning.environments.cartpole import CartPoleVector
from rl_lightning.environments.snapshots.adapters import process_generators, set_process_generators
from rl_lightning.environments.snapshots.putting import put
from rl_lightning.environments.snapshots.taking import take
from rl_lightning.errors import EnvironmentFault, UsageError, one_line
from rl_lightning.spaces import learners_actions

Vectorization = Literal["auto", "sync", "async"]

EXTRAS = {"mujoco": "mujoco", "ale_py": "atari", "opencv": "atari"}  # of ours, that install a missing package


class CheckedEnv(gym.Wrapper[Any, Any, Any, Any]):
    """Refuse what would poison learning in silence: wrong shapes, NaN and infinities, exceptions without a place.

    Args:
        env: the environment to watch.
        index: its place in the vector of environments, named in the message.

    Attributes:
        own_action_space: the environment's own, before `make_env` gives it the actions of learners.

    Raises:
        EnvironmentFault: from `reset` and `step`, naming the environment's index and its own step count.
    """

    def __init__(self, env: gym.Env[Any, Any], index: int) -> None:
        super().__init__(env)
        self.index = index
        self.steps = 0
        self.own_action_space = env.action_space
        self.place = f"environment {index} ({env.spec.id if env.spec else type(env.unwrapped).__name__})"

    def reset(  # noqa: D102 (Gymnasium's)
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        try:
            obs, info = self.env.reset(seed=seed, options=options)
        except Exception as error:
            raise self._fault(f"raised {type(error).__name__} in reset: {error}") from error
        self._check_obs(obs)
        return obs, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:  # noqa: D102 (Gymnasium's)
        self.steps += 1
        try:
            obs, given, terminated, truncated, info = self.env.step(action)
        except Exception as error:
            raise self._fault(f"raised {type(error).__name__}: {error}") from error
        self._check_obs(obs)
        if isinstance(given, np.ndarray) and given.ndim:
            raise self._fault(f"returned a reward of shape {given.shape}; a scalar is needed")
        reward = math.nan if given is None else float(given)
        if not math.isfinite(reward):
            raise self._fault(f"returned reward {reward}; rewards must be finite")
        return obs, reward, terminated, truncated, info

    def capture(self, generators: bool = False) -> dict[str, Any]:
        """Its state and that of all it wraps: plain data, as `snapshots.taking.take` has it.

        Args:
            generators: whether the random numbers of this process are a part of it, as in a worker's.

        Raises:
            UsageError: a `state_dict()` of its own returns what is no plain data.
            EnvironmentFault: the environment raised.
        """
        try:
            taken = {"classes": classes_of(self), "environment": take(self)}
        except UsageError:
            raise
        except Exception as error:
            raise self._fault(f"raised {type(error).__name__} when its state was read: {error}") from error
        return taken | ({"generators": take(process_generators())} if generators else {})

    def restore(self, states: list[dict[str, Any]]) -> None:
        """Become what another environment of the same settings was. It has been reset before.

        Args:
            states: of all environments of a vector; the one at this one's index is taken.

        Raises:
            UsageError: it is the state of another environment.
            EnvironmentFault: the environment raised.
        """
        state = states[self.index]
        if state["classes"] != (mine := classes_of(self)):
            raise UsageError(
                f"{self.place} is {mine}; the saved state is of {state['classes']}: give the same settings"
            )
        try:
            put(state["environment"], self)
        except UsageError as error:
            raise UsageError(f"{self.place}: {error}") from error
        except Exception as error:
            raise self._fault(f"raised {type(error).__name__} when its state was written: {error}") from error
        if "generators" in state:
            set_process_generators(put(state["generators"]))

    def _check_obs(self, obs: Any, space: gym.Space[Any] | None = None) -> None:
        space = space or self.observation_space
        if isinstance(space, gym.spaces.Dict):
            for key, part in space.spaces.items():
                self._check_obs(obs[key], part)
            return
        if np.shape(obs) != space.shape:
            raise self._fault(f"returned an observation of shape {np.shape(obs)}; its space says {space.shape}")
        if not np.isfinite(obs).all():
            raise self._fault(f"returned an observation with NaN or infinity: {np.asarray(obs).tolist()}")

    def _fault(self, what: str) -> EnvironmentFault:
        return EnvironmentFault(f"{self.place} at its step {self.steps} {what}".replace("\n", " "))


def classes_of(env: gym.Env[Any, Any]) -> str:
    """The names of an environment's classes, from the outermost wrapper in."""
    names = [type(env).__name__]
    while isinstance(env, gym.Wrapper):
        env = env.env
        names.append(type(env).__name__)
    return " of ".join(names)


def make_env(env_id: str, env_kwargs: Mapping[str, Any] | None = None, index: int = 0) -> CheckedEnv:
    """Make one environment as learners see it: checked, bounded actions in [-1, 1], discrete ones from 0.

    What a learner gives beyond [-1, 1], as an unbounded policy does, is clipped.

    Args:
        env_id: a registered Gymnasium id; ``module:Id`` imports `module` first.
        env_kwargs: arguments of the environment itself.
        index: its place among several, for messages.

    Raises:
        UsageError: an id that is not registered (with the nearest ones), a package that is not installed (with the
            command that installs it), or arguments that the environment refuses.
    """
    if env_id in gym.registry and "mujoco" in str(gym.registry[env_id].entry_point):
        _tell_mujocos_warnings_once()
    try:
        env: gym.Env[Any, Any] = gym.make(env_id, disable_env_checker=True, **dict(env_kwargs or {}))
    except (gym.error.DependencyNotInstalled, ModuleNotFoundError) as error:
        extra = next((extra for package, extra in EXTRAS.items() if package in str(error).lower()), None)
        fix = f'pip install "rl_lightning[{extra}]"' if extra else f"install what it asks for ({one_line(error)})"
        raise UsageError(f"env_id={env_id!r} needs a package that is not installed: {fix}") from error
    except gym.error.Error as error:
        near = difflib.get_close_matches(env_id, list(gym.registry), n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "list them with `gymnasium.pprint_registry()`"
        raise UsageError(f"env_id={env_id!r} is not a registered Gymnasium environment: {hint}") from error
    except (TypeError, AssertionError, ValueError) as error:
        raise UsageError(f"env_kwargs={dict(env_kwargs or {})!r} is refused by {env_id}: {one_line(error)}") from error
    checked = CheckedEnv(_with_learners_actions(env), index)
    checked.own_action_space = env.action_space
    return checked


def _tell_mujocos_warnings_once() -> None:
    """Let MuJoCo warn as Python does; it prints every warning of every environment, and logs it into the folder."""
    with contextlib.suppress(ModuleNotFoundError):  # gymnasium.make says what is missing
        import mujoco

        mujoco.set_mju_user_warning(lambda message: warnings.warn(f"MuJoCo: {message}", stacklevel=1))


def _with_learners_actions(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    space, to_environment = learners_actions(env.action_space)
    return env if to_environment is None else TransformAction(env, to_environment, space)


VECTORIZED = {"CartPole-v1": CartPoleVector}  # Gymnasium's own that can be reset one by one; others reset themselves
VECTORIZED_FROM = 5  # environments: a vectorized step takes as long as so many single ones


def vectorized_by_gymnasium(env_id: str, num_envs: int, vectorization: Vectorization) -> bool:
    """Whether `make_vec_env` takes Gymnasium's own vectorized environment."""
    return vectorization == "auto" and env_id in VECTORIZED and num_envs >= VECTORIZED_FROM


def make_vec_env(
    env_id: str,
    num_envs: int,
    vectorization: Vectorization = "sync",
    env_kwargs: Mapping[str, Any] | None = None,
) -> VectorEnv[Any, Any, Any]:
    """Make `num_envs` checked environments that step together, without autoreset.

    A step returns the true last observation of an episode, and its caller resets just the finished environments
    with ``reset(options={"reset_mask": done})``. So no row is ever a reset in disguise, and nothing is aliased.

    Args:
        env_id: a registered Gymnasium id.
        num_envs: how many.
        vectorization: ``sync`` steps them one after the other, ``async`` each in a process of its own; ``auto`` takes
            Gymnasium's own vectorized environment where that exists and is faster, else ``sync``.
        env_kwargs: arguments of the environment itself.
    """
    if vectorized_by_gymnasium(env_id, num_envs, vectorization):
        return VECTORIZED[env_id](num_envs, **dict(env_kwargs or {}))
    env_fns = [partial(make_env, env_id, env_kwargs, index) for index in range(num_envs)]
    if vectorization == "async":
        return AsyncVectorEnv(env_fns, autoreset_mode=AutoresetMode.DISABLED)
    return SyncVectorEnv(env_fns, autoreset_mode=AutoresetMode.DISABLED)


KEEP_OBSERVATIONS = (
    CheckedEnv,
    OrderEnforcing,
    PassiveEnvChecker,
    RecordEpisodeStatistics,
    TimeLimit,
    TransformAction,
    TransformReward,
)


def frame_stack_of(env: gym.Env[Any, Any]) -> int:
    """How many frames the observations of an environment are stacked from; 1 where frames cannot be told apart.

    That is the stack size of a `FrameStackObservation` which repeats an episode's first frame, if it is the outermost
    wrapper that has to do with observations.
    """
    while isinstance(env, KEEP_OBSERVATIONS):
        env = env.env
    if isinstance(env, FrameStackObservation) and env.padding_type == "reset":
        return env.stack_size
    return 1
