"""Gymnasium environments: making, checking, seeding and rescaling them."""

import contextlib
import difflib
import importlib
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import VectorEnv
from gymnasium.wrappers import (
    FrameStackObservation,
    OrderEnforcing,
    PassiveEnvChecker,
    RecordEpisodeStatistics,
    TimeLimit,
    TransformAction,
    TransformObservation,
    TransformReward,
)

from rl_lightning.environments.cartpole import CartPoleVector
from rl_lightning.environments.checks import flag_of, number_of, obs_check, shown
from rl_lightning.environments.envpool import EnvPoolVector
from rl_lightning.environments.snapshots.adapters import process_generators, set_process_generators
from rl_lightning.environments.snapshots.putting import put
from rl_lightning.environments.snapshots.taking import take
from rl_lightning.environments.vector import Restarts, vector_apart, vector_here
from rl_lightning.environments.wrappers import EnvWrapper, name_of, put_around
from rl_lightning.errors import EndedBySignal, EnvironmentFault, UsageError, one_line, reason_of, require
from rl_lightning.spaces import learners_actions, learners_observations

Vectorization = Literal["auto", "sync", "async", "envpool"]

EXTRAS = {"mujoco": "mujoco", "ale_py": "atari", "opencv": "atari"}  # of ours, that install a missing package
FAMILIES = {  # modules that register environments when they are imported, and how the ids of those begin
    "ale_py": ("ALE/",),
    "minigrid": ("MiniGrid-", "BabyAI-"),
    "highway_env": ("highway-", "merge-", "roundabout-", "parking-", "intersection-", "racetrack-"),
    "gymnasium_robotics": ("PointMaze_", "AntMaze_", "Fetch", "Hand", "Adroit", "FrankaKitchen-"),
    "popgym": ("popgym-",),
}


class CheckedEnv(gym.Wrapper[Any, Any, Any, Any]):
    """Refuse what would poison learning in silence, or end a run far from its cause: see `obs_check`.

    What an environment raises is told with its place. `info` is passed on as it is.

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
        self._check = obs_check(env.observation_space)  # of the first: one that changes later is a fault
        self.own_action_space = env.action_space
        self.place = f"environment {index} ({env.spec.id if env.spec else type(env.unwrapped).__name__})"

    def reset(  # noqa: D102 (Gymnasium's)
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        try:
            returned = self.env.reset(seed=seed, options=options)
        except EndedBySignal:
            raise
        except (Exception, SystemExit) as error:
            raise self._fault(f"raised {reason_of(error, 'in reset')}") from error
        obs, info = self._unpacked(returned, ("obs", "info"), "reset")
        if (fault := self._check(obs)) is not None:
            raise self._fault(f"returned {fault}")
        return obs, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:  # noqa: D102 (Gymnasium's)
        self.steps += 1
        try:
            returned = self.env.step(action)
        except EndedBySignal:
            raise
        except (Exception, SystemExit) as error:
            raise self._fault(f"raised {reason_of(error)}") from error
        obs, reward, terminated, truncated, info = self._unpacked(
            returned, ("obs", "reward", "terminated", "truncated", "info"), "step"
        )
        if (fault := self._check(obs)) is not None:
            raise self._fault(f"returned {fault}")
        if type(reward) is not float:
            reward = self._reward(reward)
        if not math.isfinite(reward):
            raise self._fault(f"returned reward {reward}; rewards must be finite")
        if type(terminated) is not bool:
            terminated = self._flag("terminated", terminated)
        if type(truncated) is not bool:
            truncated = self._flag("truncated", truncated)
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
            raise self._fault(f"raised {reason_of(error, 'when its state was read')}") from error
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
            raise self._fault(f"raised {reason_of(error, 'when its state was written')}") from error
        if "generators" in state:
            set_process_generators(put(state["generators"]))

    def close(self) -> None:
        """Close the environment; what it raises then spoils nothing any more, and is a warning."""
        try:
            self.env.close()
        except EndedBySignal:
            raise
        except (Exception, SystemExit) as error:
            warnings.warn(f"{self.place} raised {reason_of(error, 'in close')}", stacklevel=2)

    def _unpacked(self, returned: Any, names: tuple[str, ...], method: str) -> tuple[Any, ...]:
        if type(returned) is tuple and len(returned) == len(names):
            return returned
        given = f"{len(returned)} values" if isinstance(returned, tuple) else f"a {type(returned).__name__}"
        raise self._fault(f"returned {given} from {method}; the {len(names)} values {', '.join(names)} are needed")

    def _reward(self, given: Any) -> float:
        if (reward := number_of(given)) is not None:
            return reward
        what = f"of shape {given.shape}" if isinstance(given, np.ndarray) and given.ndim else shown(given)
        raise self._fault(f"returned a reward {what}; a single number is needed")

    def _flag(self, name: str, given: Any) -> bool:
        if (flag := flag_of(given)) is not None:
            return flag
        raise self._fault(f"returned {name}={shown(given)}; a bool is needed")

    def _fault(self, what: str) -> EnvironmentFault:
        return EnvironmentFault(f"{self.place} at its step {self.steps} {what}".replace("\n", " "))


def classes_of(env: gym.Env[Any, Any]) -> str:
    """The names of an environment's classes, from the outermost wrapper in."""
    names = [type(env).__name__]
    while isinstance(env, gym.Wrapper):
        env = env.env
        names.append(type(env).__name__)
    return " of ".join(names)


def make_env(
    env_id: str,
    env_kwargs: Mapping[str, Any] | None = None,
    index: int = 0,
    wrappers: Sequence[EnvWrapper] = (),
) -> CheckedEnv:
    """Make one environment as learners see it: checked, bounded actions in [-1, 1], discrete ones from 0, no Tuples.

    What a learner gives beyond [-1, 1], as an unbounded policy does, is clipped.

    Args:
        env_id: a registered Gymnasium id; ``module:Id`` imports `module` first.
        env_kwargs: arguments of the environment itself.
        index: its place among several, for messages.
        wrappers: put around it, the first of them innermost; what is said of the environment is then said of the whole.

    Raises:
        UsageError: an id that is not registered (with the nearest ones), a package that is not installed (with the
            command that installs it), arguments that the environment refuses, anything else that its constructor or
            module raises, a wrapper that fails, or spaces that are none.
    """
    if env_id in gym.registry and "mujoco" in str(gym.registry[env_id].entry_point):
        _tell_mujocos_warnings_once()
    kwargs = dict(env_kwargs or {})
    try:
        own_id = {"id": kwargs.pop("id")} if "id" in kwargs else {}  # gymnasium.make has an argument of that name too
        known = _spec_with(env_id, own_id) if own_id else env_id
        env: gym.Env[Any, Any] = gym.make(known, disable_env_checker=True, **kwargs)
    except (gym.error.DependencyNotInstalled, ModuleNotFoundError) as error:
        extra = next((extra for package, extra in EXTRAS.items() if package in str(error).lower()), None)
        fix = f'pip install "rl_lightning[{extra}]"' if extra else f"install what it asks for ({one_line(error)})"
        raise UsageError(f"env_id={env_id!r} needs a package that is not installed: {fix}") from error
    except gym.error.Error as error:
        raise UsageError(f"env_id={env_id!r} is not a registered Gymnasium environment: {_hint(env_id)}") from error
    except EndedBySignal:
        raise
    except (Exception, SystemExit) as error:
        if env_kwargs and isinstance(error, TypeError | AssertionError | ValueError):
            raise UsageError(f"env_kwargs={dict(env_kwargs)!r} is refused by {env_id}: {reason_of(error)}") from error
        advice = "mend it, or its env_kwargs"
        raise UsageError(f"env_id={env_id!r} cannot be made: it raised {reason_of(error)}; {advice}") from error
    env = put_around(env, wrappers, env_id)
    for name in ("observation_space", "action_space"):
        space = getattr(env, name, None)
        allowed = "it must be a gymnasium.Space from the constructor on; set it there"
        require(isinstance(space, gym.Space), f"{name} of {env_id}", space, allowed)
    checked = CheckedEnv(_with_learners_actions(_with_learners_observations(env)), index)
    checked.own_action_space = env.action_space
    return checked


def _spec_with(env_id: str, kwargs: dict[str, Any]) -> EnvSpec:
    """What is registered under an id, with more arguments of the environment's own."""
    module, _, name = env_id.rpartition(":")
    if module:
        importlib.import_module(module)
    spec = gym.spec(name)
    return replace(spec, kwargs=spec.kwargs | kwargs)


def _hint(env_id: str) -> str:
    """What could be meant by an id that is not registered."""
    for module, beginnings in FAMILIES.items():
        is_imported = any(known.startswith(beginnings) for known in gym.registry)
        if env_id.startswith(beginnings) and not is_imported:
            fix = f"importing {module} registers it; give env_id={module}:{env_id}"
            game = env_id.removeprefix("ALE/").partition("-")[0]
            atari = f", or env_id=rl_lightning.atari:Atari-v0 with env_kwargs.game={game}, frames skipped and stacked"
            return fix + atari if module == "ale_py" else fix
    near = difflib.get_close_matches(env_id, list(gym.registry), n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else "list them with `gymnasium.pprint_registry()`"


def _tell_mujocos_warnings_once() -> None:
    """Let MuJoCo warn as Python does; it prints every warning of every environment, and logs it into the folder."""
    with contextlib.suppress(ModuleNotFoundError):  # gymnasium.make says what is missing
        import mujoco

        mujoco.set_mju_user_warning(lambda message: warnings.warn(f"MuJoCo: {message}", stacklevel=1))


def _with_learners_observations(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    space, to_learner = learners_observations(env.observation_space)
    return env if to_learner is None else TransformObservation(env, to_learner, space)


def _with_learners_actions(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    space, to_environment = learners_actions(env.action_space)
    return env if to_environment is None else TransformAction(env, to_environment, space)


VECTORIZED = {"CartPole-v1": CartPoleVector}  # Gymnasium's own that can be reset one by one; others reset themselves
VECTORIZED_FROM = 5  # environments: a vectorized step takes as long as so many single ones


def vectorized_by_gymnasium(
    env_id: str, num_envs: int, vectorization: Vectorization, wrappers: Sequence[EnvWrapper] = ()
) -> bool:
    """Whether `make_vec_env` takes Gymnasium's own vectorized environment."""
    return vectorization == "auto" and env_id in VECTORIZED and num_envs >= VECTORIZED_FROM and not wrappers


def make_vec_env(
    env_id: str,
    num_envs: int,
    vectorization: Vectorization = "sync",
    env_kwargs: Mapping[str, Any] | None = None,
    timeout: float | None = None,
    restarts: Restarts | None = None,
    wrappers: Sequence[EnvWrapper] = (),
) -> VectorEnv[Any, Any, Any]:
    """Make `num_envs` checked environments that step together, without autoreset.

    A step returns the true last observation of an episode, and its caller resets just the finished environments
    with ``reset(options={"reset_mask": done})``. So no row is ever a reset in disguise, and nothing is aliased.
    Each `info` is dropped.

    Args:
        env_id: a registered Gymnasium id.
        num_envs: how many.
        vectorization: ``sync`` steps them one after the other, ``async`` each in a process of its own; ``auto`` takes
            Gymnasium's own vectorized environment where that exists and is faster, else ``sync``; ``envpool`` takes
            those of EnvPool, which threads of C++ step.
        env_kwargs: arguments of the environment itself.
        timeout: seconds that a reset or step of ``async`` may take; None waits for ever.
        restarts: of environments that broke; by default none.
        wrappers: put around each of them, the first innermost.

    Raises:
        UsageError: as of `make_env`; environments with different spaces, or that cannot be sent to a process, or that
            EnvPool does not have, or wrappers with EnvPool.
        EnvironmentFault: from `reset` and `step` of what is made.
    """
    if vectorized_by_gymnasium(env_id, num_envs, vectorization, wrappers):
        return VECTORIZED[env_id](num_envs, **dict(env_kwargs or {}))
    makes = [partial(make_env, env_id, env_kwargs, index, wrappers) for index in range(num_envs)]
    places = [f"environment {index} ({env_id.rpartition(':')[2]})" for index in range(num_envs)]
    restarts = restarts or Restarts()
    if vectorization in ("auto", "sync"):
        return vector_here(makes, places, restarts)
    probe = makes[0]()
    spaces = probe.observation_space, probe.action_space
    probe.close()
    if vectorization == "envpool":
        return vector_in_threads(probe, env_kwargs, num_envs, wrappers)
    return vector_apart(makes, places, spaces, timeout, restarts)


def vector_in_threads(
    probe: CheckedEnv, env_kwargs: Mapping[str, Any] | None, num_envs: int, wrappers: Sequence[EnvWrapper] = ()
) -> EnvPoolVector:
    """Environments of EnvPool that are what `make_env` makes; none is opened before their first reset.

    Args:
        probe: one from `make_env`.
        env_kwargs: that it was made with.
        num_envs: how many.
        wrappers: none, as EnvPool's environments are not Python's to be wrapped.

    Raises:
        UsageError: EnvPool is not installed, or does not have them; or wrappers.
    """
    advice = "they cannot be put around environments in C++; leave them out, or give vectorization=sync or async"
    require(not wrappers, "wrappers", [*map(name_of, wrappers)], f"{advice} in place of envpool")
    assert probe.spec is not None  # gymnasium.make gives it
    spaces = probe.observation_space, probe.own_action_space
    return EnvPoolVector(probe.spec, spaces, env_kwargs or {}, num_envs)


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
