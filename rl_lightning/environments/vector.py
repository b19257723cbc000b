"""Environments that step together, watched: one that breaks is named, or replaced."""

import multiprocessing
import warnings
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, create_empty_array, iterate
from numpy.typing import NDArray

from rl_lightning.environments.workers import (
    Apart,
    Here,
    MakeEnv,
    SharedObservations,
    Worker,
    close_all,
    other_spaces,
    write_row,
)
from rl_lightning.errors import EnvironmentFault, UsageError
from rl_lightning.types import map_obs


class Restarts:
    """How often an environment that died, hung or broke its contract may be replaced by a new one.

    Args:
        allowed: in all.

    Attributes:
        done: so far.
    """

    def __init__(self, allowed: int = 0) -> None:
        self.allowed, self.done = allowed, 0

    def spend(self, fault: EnvironmentFault) -> None:
        """Allow one more, with a warning that tells the fault.

        Raises:
            EnvironmentFault: the fault, where none is left.
        """
        if self.done >= self.allowed:
            advice = (
                f"all {self.allowed} restarts (data.max_env_restarts) are used up"
                if self.allowed
                else "mend it, or let the run go on with a new one: data.max_env_restarts=N"
            )
            raise EnvironmentFault(f"{fault}; {advice}") from fault
        self.done += 1
        warnings.warn(f"{fault}; a new one takes its place, restart {self.done} of {self.allowed}", stacklevel=2)


class WatchedVector(VectorEnv[Any, Any, Any]):
    """Environments without autoreset. Each `info` is dropped: nothing reads it, and merging such dicts can fail.

    A fault is raised, or the environment replaced, as `restarts` says. The new one is reset with a seed
    drawn from that of the old one, and takes the step with the action that was given; `step` returns
    its first observation in ``info["began_anew"]``, by the environment's index.

    Args:
        workers: the environments.
        spaces: of one environment, for observations and actions.
        batch: memory for observations [num_envs, *obs_shape], which workers in other processes write themselves.
        restarts: what is allowed.
    """

    observations: Any
    """What each environment returned last, [num_envs, *obs_shape], which a reset by mask shows for those that go on."""
    metadata = {"autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012 (Gymnasium's)

    def __init__(
        self, workers: Sequence[Worker], spaces: tuple[gym.Space[Any], gym.Space[Any]], batch: Any, restarts: Restarts
    ) -> None:
        self.workers, self.restarts, self.num_envs = workers, restarts, len(workers)
        self.single_observation_space, self.single_action_space = spaces
        self.observation_space, self.action_space = (batch_space(space, len(workers)) for space in spaces)
        self.observations = batch
        self._under_way: list[Any] | None = None  # each environment's action of the step that it is taking
        self._seeds: list[int | None] = [None] * self.num_envs  # of each environment's latest seeded reset

    @property
    def envs(self) -> list[gym.Env[Any, Any]]:
        """Those that are in this process."""
        return [worker.env for worker in self.workers if isinstance(worker, Here)]

    def reset(  # noqa: D102 (Gymnasium's)
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        self._check_idle()
        seeds = seed if isinstance(seed, list) else [None if seed is None else seed + i for i in range(self.num_envs)]
        if seed is not None:
            self._seeds = seeds
        mask: NDArray[np.bool_] = (options or {}).get("reset_mask", np.ones(self.num_envs, dtype=bool))
        chosen = [int(index) for index in mask.nonzero()[0]]
        for index in chosen:
            self.workers[index].send("reset", seeds[index])
        for index in chosen:
            try:
                self._keep(index, *self.workers[index].receive())
            except EnvironmentFault as fault:
                self._begin_anew(index, fault)
        return map_obs(np.copy, self.observations), {}

    def step(  # noqa: D102 (Gymnasium's)
        self, actions: Any
    ) -> tuple[Any, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        self.step_async(actions)
        return self.step_wait()

    def step_async(self, actions: Any) -> None:
        """Begin a step; those in processes of their own take it while this one goes on."""
        self._check_idle()
        self._under_way = list(iterate(self.action_space, actions))
        for worker, action in zip(self.workers, self._under_way, strict=True):
            worker.send("step", action)

    def step_wait(self) -> tuple[Any, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """The end of the step that was begun, as of `step`."""
        assert self._under_way is not None, "step_async comes first"
        each, self._under_way = self._under_way, None
        rewards, began_anew = np.empty(self.num_envs), {}
        terminated, truncated = np.empty(self.num_envs, dtype=bool), np.empty(self.num_envs, dtype=bool)
        for index, worker in enumerate(self.workers):
            try:
                obs, rewards[index], terminated[index], truncated[index] = worker.receive()
            except EnvironmentFault as fault:
                began_anew[index], step = self._begin_anew(index, fault, each[index])
                obs, rewards[index], terminated[index], truncated[index] = step
            self._keep(index, obs)
        info = {"began_anew": began_anew} if began_anew else {}
        return map_obs(np.copy, self.observations), rewards, terminated, truncated, info

    def call(self, name: str, *args: Any) -> tuple[Any, ...]:
        """The attribute of this name of every environment; a method is called with `args`."""
        self._check_idle()
        for worker in self.workers:
            worker.send("call", name, *args)
        return tuple(worker.receive() for worker in self.workers)

    def close_extras(self, **kwargs: Any) -> None:
        """Close every environment."""
        close_all(self.workers)

    def _check_idle(self) -> None:
        if self._under_way is not None:
            raise RuntimeError("a step is under way: step_wait() comes first")

    def _keep(self, index: int, obs: Any) -> None:
        if obs is not None:  # else its worker has written it
            write_row(self.observations, index, obs)

    def _begin_anew(self, index: int, fault: EnvironmentFault, action: Any = None) -> tuple[Any, Any]:
        """A new environment in place of a broken one: its first observation, and with an action its first step."""
        while True:
            self.restarts.spend(fault)
            worker, step = self.workers[index], None
            try:
                worker.renew()
                worker.send("reset", self._new_seed(index))
                self._keep(index, *worker.receive())
                first = map_obs(lambda rows: np.copy(rows[index]), self.observations)
                if action is not None:
                    worker.send("step", action)
                    step = worker.receive()
            except EnvironmentFault as again:
                fault = again
                continue
            return first, step

    def _new_seed(self, index: int) -> int | None:
        if (seed := self._seeds[index]) is None:
            return None
        return int(np.random.SeedSequence([seed, index, self.restarts.done]).generate_state(1)[0])


def vector_here(makes: Sequence[MakeEnv], places: Sequence[str], restarts: Restarts) -> WatchedVector:
    """Environments of this process, stepped one after the other.

    Raises:
        UsageError: environments with different spaces.
    """
    workers: list[Here] = []
    try:
        for index, (make, place) in enumerate(zip(makes, places, strict=True)):
            workers.append(Here(make, place))
            first, found = workers[0].env, workers[-1].env
            spaces = first.observation_space, first.action_space
            if spaces != (others := (found.observation_space, found.action_space)):
                raise UsageError(other_spaces(index, others, spaces))
    except BaseException:
        close_all(workers)
        raise
    batch = create_empty_array(spaces[0], len(makes), fn=np.zeros)
    return WatchedVector(workers, spaces, batch, restarts)


def vector_apart(
    makes: Sequence[MakeEnv],
    places: Sequence[str],
    spaces: tuple[gym.Space[Any], gym.Space[Any]],
    timeout: float | None,
    restarts: Restarts,
) -> WatchedVector:
    """Environments in processes of their own.

    Raises:
        UsageError: environments that cannot be sent there, or with other spaces.
        EnvironmentFault: one that is not made in time.
    """
    context = multiprocessing.get_context()
    shared = SharedObservations(spaces[0], len(makes), context)
    workers: list[Apart] = []
    try:
        for index, (make, place) in enumerate(zip(makes, places, strict=True)):
            workers.append(Apart(make, place, index, spaces, shared, timeout, context))
        for worker in workers:
            worker.receive()  # that it is made
    except BaseException:
        close_all(workers)
        raise
    return WatchedVector(workers, spaces, shared.arrays(), restarts)
