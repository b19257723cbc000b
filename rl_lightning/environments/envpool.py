"""EnvPool's environments, stepped together by threads of C++; the package is an optional extra."""

import difflib
import inspect
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from rl_lightning.environments.checks import obs_check
from rl_lightning.errors import EnvironmentFault, UsageError, one_line, require
from rl_lightning.spaces import learners_actions

Spaces = tuple[gym.Space[Any], gym.Space[Any]]  # of observations and actions

LONGEST = 2**31 - 2  # steps of an episode without a time limit: EnvPool counts in int32
GAME_FRAMES = 108_000  # of the emulator, after which `make_atari` truncates
OF_ATARI = {  # `make_atari`'s arguments by EnvPool's names
    "frame_skip": "frame_skip",
    "frame_stack": "stack_num",
    "noop_max": "noop_max",
    "repeat_action_probability": "repeat_action_probability",
    "full_action_space": "full_action_space",
}
NOT_OF_AN_ENVIRONMENT = {  # EnvPool's settings of the pool itself
    *("num_envs", "batch_size", "num_threads", "thread_affinity_offset", "max_num_players", "base_path"),
    *("seed", "env_seed", "gym_reset_return_info", "reward_threshold"),
}
KEY = "with vectorization='envpool' env_kwargs."
INSTEAD = "or vectorization=sync"


class Task(NamedTuple):
    """What to ask EnvPool for, so that it plays what Gymnasium's environment plays."""

    name: str  # EnvPool's id
    settings: dict[str, Any]  # by EnvPool's names
    limit: int  # steps after which an episode is truncated


class EnvPoolVector(VectorEnv[Any, Any, Any]):
    """Environments of EnvPool without autoreset, to be reset by `reset_mask` as soon as an episode ends.

    EnvPool resets an environment by itself in the step after an episode's end; here it never comes to that, since its
    caller has reset it before. At its time limit EnvPool tells no termination, so time limits are counted here and
    EnvPool's own lies one step further. It takes seeds only when it is made, so a reset with seeds makes it anew.

    Args:
        spec: of Gymnasium's environment, as it was made.
        spaces: of that environment, for observations and its own actions.
        env_kwargs: arguments of the environment, by the names that both know.
        num_envs: how many.

    Raises:
        UsageError: EnvPool is not installed, has no such environment, no such argument, or other spaces; or cannot
            play an Atari game as `make_atari` does.
        EnvironmentFault: from `reset` and `step`: an observation or reward that is not finite, naming the environment.
    """

    metadata = {"autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012 (Gymnasium's)

    def __init__(
        self,
        spec: EnvSpec,
        spaces: Spaces,
        env_kwargs: Mapping[str, Any],
        num_envs: int,
    ) -> None:
        self.num_envs, self._id = num_envs, spec.id
        envpool = _installed()
        self._task = task_of(spec, env_kwargs, envpool.list_all_envs())
        _check_spaces(spec, spaces, spaces_of(envpool, self._task))
        self.single_observation_space, own_actions = spaces
        self.single_action_space, self._to_environment = learners_actions(own_actions)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._steps = 0
        self._fault_of = obs_check(self.single_observation_space)
        self._pool: Any = None
        self._observations: Any = None  # what each returned last
        self._lengths = np.zeros(num_envs, dtype=np.int64)  # steps of the episodes under way
        self._ended = np.zeros(num_envs, dtype=bool)  # and not yet reset

    def reset(  # noqa: D102 (Gymnasium's)
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        if self._pool is None or seed is not None:
            self._pool = self._made(seed if isinstance(seed, list) else [seed] * self.num_envs)
        mask: NDArray[np.bool_] = (options or {}).get("reset_mask", np.ones(self.num_envs, dtype=bool))
        first, info = self._pool.reset(mask.nonzero()[0].astype(np.int32))
        chosen = info["env_id"]
        self._watch(first, chosen)
        if len(chosen) == self.num_envs:
            self._observations = np.empty_like(first)
        else:
            self._observations = self._observations.copy()  # a step has given it away
        self._observations[chosen] = first
        self._lengths[chosen], self._ended[chosen] = 0, False
        return self._observations, {}

    def step(  # noqa: D102 (Gymnasium's)
        self, actions: Any
    ) -> tuple[Any, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        if self._ended.any():
            raise RuntimeError("episodes have ended: reset them by reset_mask first, or this step would be none")
        self._steps += 1
        self._lengths += 1
        own = actions if self._to_environment is None else self._to_environment(actions)
        self._observations, reward, terminated, _, _ = self._pool.step(own)
        self._watch(self._observations, np.arange(self.num_envs))
        if not (finite := np.isfinite(reward)).all():
            index = int((~finite).nonzero()[0][0])
            raise self._fault(index, f"reward {reward[index]}; rewards must be finite")
        truncated = self._lengths >= self._task.limit
        self._ended = terminated | truncated
        return self._observations, reward.astype(np.float64), terminated, truncated, {}

    def close_extras(self, **kwargs: Any) -> None:
        """Let the threads end."""
        self._pool = None

    def _made(self, seeds: list[int | None]) -> Any:
        """A new pool, with int32 seeds; a seed that is None is drawn."""
        drawn = np.random.SeedSequence().generate_state(self.num_envs)
        with _no_warnings():
            pool = _installed().make_gymnasium(
                self._task.name,
                num_envs=self.num_envs,
                num_threads=min(self.num_envs, _cores()),
                seed=[int(new if seed is None else seed) % 2**31 for seed, new in zip(seeds, drawn, strict=True)],
                **self._task.settings,
            )
            pool.observation_space  # noqa: B018 (it keeps the space, so nothing warns later)
        return pool

    def _watch(self, obs: NDArray[Any], indices: NDArray[Any]) -> None:
        if obs.dtype.kind != "f" or np.isfinite(obs).all():
            return
        for index, row in zip(indices, obs, strict=True):
            if (fault := self._fault_of(row)) is not None:
                raise self._fault(int(index), fault)

    def _fault(self, index: int, what: str) -> EnvironmentFault:
        return EnvironmentFault(f"environment {index} ({self._id}) at its step {self._steps} returned {what}")


def task_of(spec: EnvSpec, env_kwargs: Mapping[str, Any], names: list[str]) -> Task:
    """What to ask EnvPool for.

    Args:
        spec: of Gymnasium's environment, as it was made.
        env_kwargs: that it was made with.
        names: of the environments that EnvPool has.

    Raises:
        UsageError: EnvPool has no such environment, or cannot play an Atari game as `make_atari` does.
    """
    settings = {name: value for name, value in env_kwargs.items() if name != "max_episode_steps"}
    limit = spec.max_episode_steps or LONGEST
    if spec.entry_point == "rl_lightning.atari:make_atari":
        name, settings, longest_game = _atari(settings)
        limit = min(limit, longest_game)
    else:
        name = spec.id
    if name not in names:
        if spec.id.startswith("ALE/"):
            hint = "give env_id=rl_lightning.atari:Atari-v0 with env_kwargs.game"
        else:
            near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
            hint = f"the nearest it has are {', '.join(near)}" if near else "list them with `envpool.list_all_envs()`"
        raise UsageError(f"env_id={spec.id!r} is not allowed: EnvPool has no environment {name}; {hint}, {INSTEAD}")
    return Task(name, settings | {"max_episode_steps": limit + 1}, limit)


def _atari(env_kwargs: dict[str, Any]) -> tuple[str, dict[str, Any], int]:
    """EnvPool's name of a game, its settings, and the steps of the longest game."""
    from rl_lightning.environments.atari import make_atari  # it needs ale-py

    given = inspect.signature(make_atari).bind(**env_kwargs)
    given.apply_defaults()
    asked = given.arguments
    advice = f"it would go on with the same game; give false, {INSTEAD}"
    require(not asked["terminal_on_life_loss"], f"{KEY}terminal_on_life_loss", True, advice)
    require(asked["noop_max"] >= 1, f"{KEY}noop_max", asked["noop_max"], f"give 1 or more, {INSTEAD}")
    require(asked["render_mode"] is None, f"{KEY}render_mode", asked["render_mode"], f"give null, {INSTEAD}")
    settings = {theirs: asked[ours] for ours, theirs in OF_ATARI.items()}
    return f"{asked['game']}-v5", settings | {"use_fire_reset": False}, -(-GAME_FRAMES // asked["frame_skip"])


def _installed() -> ModuleType:
    """EnvPool itself."""
    try:
        import envpool
    except (ImportError, FileNotFoundError) as error:  # the second: its packages of assets are missing
        fix = 'pip install "rl_lightning[envpool]"'
        raise UsageError(f"vectorization='envpool' needs a package that is not installed: {fix}") from error
    return envpool


def _cores() -> int:
    """That this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Gymnasium warns of EnvPool's bounds, which float32 rounds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def spaces_of(envpool: ModuleType, task: Task) -> Spaces:
    """Those that EnvPool has for a task.

    Raises:
        UsageError: an argument that it does not know, or a value that it refuses.
    """
    with _no_warnings():
        default = envpool.make_spec(task.name).config
        known = [name for name in default._asdict() if name not in NOT_OF_AN_ENVIRONMENT]
        for name, given in task.settings.items():
            hint = f"EnvPool's {task.name} has {', '.join(known)}; give one of them, {INSTEAD}"
            require(name in known, f"{KEY}{name}", given, hint)
        try:
            described = envpool.make_spec(task.name, **task.settings)
            return described.observation_space, described.action_space
        except (TypeError, ValueError, RuntimeError) as error:  # whose message is C++
            like = {name: getattr(default, name) for name in task.settings}
            allowed = f"its values are refused by EnvPool's {task.name}; give such as {like}, {INSTEAD}"
            raise UsageError(f"env_kwargs={task.settings!r} is not allowed: {allowed}") from error


def _check_spaces(spec: EnvSpec, spaces: Spaces, theirs: Spaces) -> None:
    """Refuse what is another environment in EnvPool than in Gymnasium, where it is evaluated.

    Bounds of observations are left out, since nothing depends on them, and so is the dtype of Box actions.
    """
    for kind, own, other in zip(("observations", "actions"), spaces, theirs, strict=True):
        if isinstance(own, gym.spaces.Box) and isinstance(other, gym.spaces.Box):
            same = own.shape == other.shape
            if kind == "observations":
                same &= own.dtype == other.dtype
            else:
                same = same and np.array_equal(own.low, other.low) and np.array_equal(own.high, other.high)
        else:
            same = own == other
        if not same:
            raise UsageError(
                f"{kind} of {spec.id} are {one_line(other)} in EnvPool and {one_line(own)} in Gymnasium, "
                f"where it is evaluated: give another env_id, {INSTEAD}"
            )
