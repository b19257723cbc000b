"""An environment's state as plain data, so that play goes on in another process as if nothing had happened."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from gymnasium.vector.utils import iterate

from rl_lightning.environments.make import Vectorization, make_vec_env, vectorized_by_gymnasium
from rl_lightning.environments.snapshots.adapters import adapter_of, process_generators, set_process_generators
from rl_lightning.environments.snapshots.putting import put
from rl_lightning.environments.snapshots.taking import left_alone, take
from rl_lightning.environments.vector import WatchedVector
from rl_lightning.environments.workers import write_row
from rl_lightning.environments.wrappers import EnvWrapper
from rl_lightning.errors import EnvironmentFault, UsageError, one_line

State = dict[str, Any]
Envs = VectorEnv[Any, Any, Any]

STEPS_BEFORE, STEPS_AFTER = 25, 40  # of the state that is captured when an environment is checked
METHODS = "give the environment state_dict() and load_state_dict(state)"


def capture(envs: Envs) -> list[State]:
    """The state of environments: their own, that of their wrappers and of their random numbers.

    Args:
        envs: from `make_vec_env`, reset before. Between a step and the reset of those that ended is a good moment too.

    Returns:
        One for each environment; of a vectorized environment, one for all. Tensors, numbers, strings, lists and dicts,
        which `torch.load` reads with ``weights_only=True``.

    Raises:
        UsageError: a `state_dict()` of an environment's own returns what is no plain data.
        EnvironmentFault: an environment raised.
    """
    if not isinstance(envs, WatchedVector):
        return [with_tensors({"classes": name_of(envs), "environment": take(envs)})]
    taken = envs.call("capture", not envs.envs)
    states = zip(taken, iterate(envs.observation_space, envs.observations), strict=True)
    return [with_tensors(state | {"obs": take(obs)}) for state, obs in states]


def restore(envs: Envs, states: list[State]) -> None:
    """Let environments be where others were when their states were captured. They step on without a reset.

    Args:
        envs: of the same settings, new or not. They are reset, since what a reset makes can then be written to.
        states: from `capture`.

    Raises:
        UsageError: another number of states, states of other environments, or damaged ones.
        EnvironmentFault: an environment raised.
    """
    one_by_one = isinstance(envs, WatchedVector)
    expected = envs.num_envs if one_by_one else 1
    if len(states) != expected:
        raise UsageError(
            f"{len(states)} states of environments were saved, {expected} are needed: give the same num_envs"
        )
    states = [with_arrays(state) for state in states]
    envs.reset(seed=[0] * envs.num_envs)  # type: ignore[arg-type]
    if isinstance(envs, WatchedVector):
        envs.call("restore", states)
        for index, state in enumerate(states):
            write_row(envs.observations, index, put(state["obs"]))
        return
    if states[0]["classes"] != (mine := name_of(envs)):
        raise UsageError(f"the environments are {mine}, the saved state is of {states[0]['classes']}: give the same")
    put(states[0]["environment"], envs)


def name_of(envs: Envs) -> str:
    """The class of a vectorized environment, and how many it steps."""
    return f"{type(envs).__name__} of {envs.num_envs}"


def with_tensors(state: State) -> State:
    """For `torch.save`."""
    parts = {name: part for name, part in state.items() if isinstance(part, dict)}
    return state | {name: part | {"data": torch.from_numpy(part["data"].copy())} for name, part in parts.items()}


def with_arrays(state: State) -> State:
    """Back from `torch.save`. Arrays go through the pipes of workers as bytes, tensors would as open files."""
    try:
        parts = {name: part for name, part in state.items() if isinstance(part, dict)}
        made = state | {name: part | {"data": part["data"].numpy()} for name, part in parts.items()}
        made["environment"], made["classes"]  # or it is none
    except (AttributeError, KeyError, TypeError) as error:
        raise UsageError(f"what was saved is no state of an environment: {one_line(repr(error))}") from error
    return made


def why_not_restorable(
    env_id: str,
    env_kwargs: Mapping[str, Any] | None = None,
    vectorization: Vectorization = "sync",
    num_envs: int = 1,
    timeout: float | None = None,
    wrappers: Sequence[EnvWrapper] = (),
) -> str | None:
    """Whether play goes on exactly from a captured state, tried on two environments that are closed again.

    One plays some random actions and is captured; it plays on, over a reset. Another one is restored from the state,
    after `torch.save` and `torch.load`, and gets the same actions. Everything that they return is compared bit by bit.

    Args:
        env_id: a registered Gymnasium id.
        env_kwargs: arguments of the environment itself.
        vectorization: as for `make_vec_env`; with ``async`` they are tried in processes, where they may die or hang;
            EnvPool's states cannot be read, so with ``envpool`` none is tried.
        num_envs: as for `make_vec_env`.
        timeout: as for `make_vec_env`.
        wrappers: as for `make_vec_env`.

    Returns:
        None where it does; else why not, and what to do.

    Raises:
        UsageError: the environment cannot be made.
    """
    if vectorization == "envpool":
        return f"{env_id}: EnvPool gives no way to read the state of its environments; give vectorization=sync or async"
    whole = vectorized_by_gymnasium(env_id, num_envs, vectorization, wrappers)
    made: list[Envs] = []
    with generators_kept(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they come again when the run makes its environments
        try:
            for _ in range(2):
                count = num_envs if whole else 1
                made.append(make_vec_env(env_id, count, vectorization, env_kwargs, timeout, wrappers=wrappers))
            return compare(env_id, *made)
        finally:
            for envs in made:
                envs.close()


@contextmanager
def generators_kept() -> Iterator[None]:
    """Leave the random numbers that a process shares as they were."""
    before = process_generators()
    try:
        yield
    finally:
        set_process_generators(before)


def compare(env_id: str, played: Envs, fresh: Envs) -> str | None:
    """Play in the first, let the second go on from the middle, and say where they part."""
    try:
        played.reset(seed=list(range(played.num_envs)))  # type: ignore[arg-type]
        played.action_space.seed(0)
        play(played, [played.action_space.sample() for _ in range(STEPS_BEFORE)])
        file = BytesIO()
        torch.save(capture(played), file)
        looked_into = in_this_process(played)
        left = [] if looked_into is None else left_alone(looked_into)
        generators = process_generators()
        actions = [played.action_space.sample() for _ in range(STEPS_AFTER)]
        expected = play(played, actions)
    except (UsageError, EnvironmentFault) as error:
        return f"{env_id}: {one_line(error)}"
    file.seek(0)
    try:
        restore(fresh, torch.load(file, weights_only=True))
        set_process_generators(generators)  # a run restores its own too
        different = first_difference(expected, play(fresh, actions))
    except (UsageError, EnvironmentFault) as error:
        different = one_line(error)
    return different and f"{env_id}: {because(played, left, different)}"


def in_this_process(envs: Envs) -> Any:
    """What can be looked into: the first environment, or all of a vectorized one; None of those in processes."""
    return next(iter(envs.envs), None) if isinstance(envs, WatchedVector) else envs


def because(played: Envs, left: list[str], different: str) -> str:
    """What is most likely behind a difference, and what to do."""
    env = in_this_process(played)
    if env is not None and env is not played and adapter_of(type(env.unwrapped)) is not None:
        return f"{different}, although its state_dict() and load_state_dict(state) were used: they leave something out"
    if len(left) == 1:
        return f"its attribute {left[0]} holds no plain data; {METHODS}"
    if left:
        return f"its attributes {', '.join(left[:3])} hold no plain data; {METHODS}"
    return f"{different}, although all its attributes were restored; {METHODS}"


def play(envs: Envs, actions: list[Any]) -> list[dict[str, Any]]:
    """Steps, a reset of those that end, and in the middle one of all; what each returned, by name."""
    seen = []
    for index, action in enumerate(actions):
        obs, reward, terminated, truncated, _ = envs.step(action)
        seen.append({"observation": obs, "reward": reward, "termination": terminated, "truncation": truncated})
        done = np.logical_or(terminated, truncated) | (index == len(actions) // 2)
        if done.any():
            obs, _ = envs.reset(options={"reset_mask": done})
            seen[-1]["observation after a reset"] = obs
    return seen


def first_difference(expected: list[dict[str, Any]], found: list[dict[str, Any]]) -> str | None:
    """What was not the same bit by bit, and how many steps after the state was captured."""
    for step, (one, other) in enumerate(zip(expected, found, strict=True), 1):
        for name, value in one.items():
            if name not in other or not same(value, other[name]):
                return f"step {step} after it was restored gives another {name}"
    return None


def same(one: Any, other: Any) -> bool:
    """Bit by bit, with their dtypes; NaN is the same as itself."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    first, second = np.asarray(one), np.asarray(other)
    return (first.dtype, first.shape, first.tobytes()) == (second.dtype, second.shape, second.tobytes())
