"""Wrappers around every environment of a run, whatever it is made for: put there, named, and some of them refused."""

import json
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import NormalizeObservation, NormalizeReward

from rl_lightning.errors import EndedBySignal, UsageError, one_line, reason_of
from rl_lightning.types import State

EnvWrapper = Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]]
"""Called with an environment, returns it wrapped: a class, its settings bound by `functools.partial`, or a function."""

STATISTICS: dict[type[Any], str] = {  # each with the setting that keeps them as they must be
    NormalizeObservation: "normalize_observations=true",
    NormalizeReward: "normalize_returns=true",
}


def put_around(env: gym.Env[Any, Any], wrappers: Sequence[EnvWrapper], env_id: str) -> gym.Env[Any, Any]:
    """An environment in its wrappers, the first of them innermost.

    Args:
        env: closed where a wrapper fails.
        wrappers: to be put around it.
        env_id: for messages.

    Raises:
        UsageError: a wrapper that raises, or that returns no environment.
    """
    for index, wrapper in enumerate(wrappers):
        inner = env
        try:
            env = wrapper(inner)
        except EndedBySignal:
            raise
        except (Exception, SystemExit) as error:
            inner.close()
            what = f"wrappers[{index}]={name_of(wrapper)} cannot be put around {env_id}"
            raise UsageError(f"{what}: it raised {reason_of(error)}; mend it, or its init_args") from error
        if not isinstance(env, gym.Env):
            inner.close()
            what = f"it returned no environment but {type(env).__name__}"
            advice = "give what is called with an environment and returns one"
            raise UsageError(f"wrappers[{index}]={name_of(wrapper)} is not allowed: {what}; {advice}")
    return env


def described(wrapper: EnvWrapper) -> State:
    """A wrapper's `class_path` and `init_args`, as a config has them. What is no data is told in words.

    Args:
        wrapper: a class or function, or a partial of one, as the command line makes them.
    """
    target, settings = wrapper, {}
    if isinstance(wrapper, partial):
        settings = wrapper.keywords
        *_, last = wrapper.args or (None,)
        target = last if isinstance(last, type) else wrapper.func  # the command line's own maker comes before the class
    named = target if hasattr(target, "__qualname__") else type(target)
    path = f"{named.__module__}.{named.__qualname__}"
    return {"class_path": path, "init_args": {name: _data(value) for name, value in settings.items()}}


def name_of(wrapper: EnvWrapper) -> str:
    """Its class with its settings: 'TimeLimit(max_episode_steps=5)'."""
    about = described(wrapper)
    settings = ", ".join(f"{name}={value!r}" for name, value in about["init_args"].items())
    return f"{about['class_path'].rpartition('.')[2]}({settings})"


def check_statistics(env: gym.Env[Any, Any], env_id: str) -> None:
    """Refuse wrappers that keep running statistics of their own, wherever they were put around an environment.

    Each environment would have other ones, those of evaluation too, which would even move while it evaluates.

    Raises:
        UsageError: naming the setting of learners that does the same with one set of statistics for all.
    """
    while isinstance(env, gym.Wrapper):
        for kind, setting in STATISTICS.items():
            if isinstance(env, kind):
                raise UsageError(
                    f"{type(env).__name__} around {env_id} is not allowed: it keeps statistics of its own, other ones "
                    f"for every environment, and evaluation moves them; remove it and give --model.{setting}, "
                    "which all learners have but REINFORCE and ActorCritic"
                )
        env = env.env


def _data(value: Any) -> Any:
    """What JSON makes of it, or else words without an address in memory, which is another one in every process."""
    try:
        return json.loads(json.dumps(value, default=_numbers))
    except (TypeError, ValueError):
        return re.sub(r" at 0x[0-9a-f]+", "", one_line(repr(value)))


def _numbers(value: Any) -> Any:
    """NumPy's, as Python's.

    Raises:
        TypeError: for what is none of NumPy's.
    """
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError
