"""One environment of a vector: in this process, or in one of its own that can die, hang and be replaced."""

import contextlib
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.util import Finalize
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from gymnasium.vector.utils import create_shared_memory, read_from_shared_memory

from rl_lightning.errors import EnvironmentFault, UsageError, one_line

MakeEnv = Callable[[], gym.Env[Any, Any]]
Spaces = tuple[gym.Space[Any], gym.Space[Any]]  # of observations and of actions
MAKE_SECONDS = 60.0  # at least, for an environment with a timeout to be made
CLOSE_SECONDS = 5.0  # for an environment to close itself before its process is killed


class Worker(Protocol):
    """One environment. What it returns comes from `receive`, so that several can work at once."""

    def send(self, method: str, *args: Any) -> None:
        """Begin ``step(action)``, ``reset(seed)``, ``call(name, *args)`` or ``close()``."""

    def receive(self) -> Any:
        """The answer: for step and reset observation, reward and flags, without info.

        Raises:
            EnvironmentFault: whatever the environment breaks.
        """

    def renew(self) -> None:
        """Replace the environment by a new one."""

    def close(self) -> None:
        """End it, whatever state it is in, after ``send("close")``."""


class Here:
    """An environment in this process.

    Args:
        make: makes it.
        place: its name in messages.
    """

    def __init__(self, make: MakeEnv, place: str) -> None:
        self._make, self._place = make, place
        self.env = make()
        self._pending: tuple[str, tuple[Any, ...]] = ("", ())

    def send(self, method: str, *args: Any) -> None:  # noqa: D102
        if method == "step" and isinstance(args[0], np.ndarray):
            args = (args[0].copy(),)  # as in a process of its own: it may write into its action, which is stored later
        self._pending = method, args

    def receive(self) -> Any:  # noqa: D102
        method, args = self._pending
        return answer(self.env, method, args)

    def renew(self) -> None:  # noqa: D102
        self.env.close()
        try:
            self.env = self._make()
        except UsageError as error:
            raise EnvironmentFault(f"{self._place} cannot be made anew: {error}") from error

    def close(self) -> None:  # noqa: D102
        self.env.close()


class SharedObservations:
    """A batch of observations that processes write, each its own row.

    Args:
        space: of one environment.
        num_envs: rows.
        context: of the processes.
    """

    def __init__(self, space: gym.Space[Any], num_envs: int, context: Any) -> None:
        self.space, self.num_envs = space, num_envs
        self.memory = create_shared_memory(space, num_envs, context)

    def arrays(self) -> Any:
        """The batch in this process: views of the shared memory."""
        return read_from_shared_memory(self.space, self.memory, self.num_envs)


class Apart:
    """An environment in a process of its own, which ends with this one, however this one ends.

    Args:
        make: makes it, over there.
        place: its name in messages.
        index: its row of `shared`.
        spaces: that it must have.
        shared: where it writes its observations.
        timeout: seconds for each answer; None waits for ever.
        context: of `multiprocessing`.

    Raises:
        UsageError: an environment that cannot be sent to a process of its own.
    """

    def __init__(
        self,
        make: MakeEnv,
        place: str,
        index: int,
        spaces: Spaces,
        shared: SharedObservations,
        timeout: float | None,
        context: Any,
    ) -> None:
        self._args = make, index, spaces, shared
        self._place, self._timeout, self._context = place, timeout, context
        self._start()

    def _start(self) -> None:
        self._steps = 0
        self._pipe, theirs = self._context.Pipe()
        self._process = self._context.Process(target=_work, args=(theirs, *self._args), daemon=True)
        self._finalizer = Finalize(self, _kill, args=(self._process,), exitpriority=10)  # before daemons are joined
        self._expect(None if self._timeout is None else max(self._timeout, MAKE_SECONDS))
        try:
            self._process.start()
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise UsageError(
                f"vectorization='async' is not allowed: {self._place} cannot be sent to a process of its own "
                f"({one_line(error)}); give sync, or env_kwargs and an entry point that can be pickled"
            ) from error
        theirs.close()

    def _expect(self, seconds: float | None) -> None:
        self._deadline = None if seconds is None else time.monotonic() + seconds

    def send(self, method: str, *args: Any) -> None:  # noqa: D102
        self._steps += method == "step"
        self._expect(CLOSE_SECONDS if method == "close" else self._timeout)
        with contextlib.suppress(OSError):  # it is gone: `receive` says so
            self._pipe.send((method, args))

    def receive(self) -> Any:  # noqa: D102
        try:
            if self._deadline is not None and not self._pipe.poll(max(0.0, self._deadline - time.monotonic())):
                self._finalizer()
                raise self._fault(f"has not answered for {self._timeout:g} seconds (data.env_timeout)")
            given = self._pipe.recv()
        except (EOFError, OSError) as error:
            self._process.join(CLOSE_SECONDS)
            raise self._fault(f"is gone: its process {_ending(self._process.exitcode)}") from error
        if isinstance(given, EnvironmentFault | UsageError):
            raise given
        return given

    def renew(self) -> None:  # noqa: D102
        self._finalizer()
        self._pipe.close()
        self._start()
        self.receive()

    def close(self) -> None:  # noqa: D102
        self._process.join(max(0.0, (self._deadline or 0.0) - time.monotonic()))
        self._finalizer()
        self._pipe.close()

    def _fault(self, what: str) -> EnvironmentFault:
        return EnvironmentFault(f"{self._place} at its step {self._steps} {what}")


def answer(env: gym.Env[Any, Any], method: str, args: tuple[Any, ...]) -> Any:
    """What a worker's environment answers, in either kind of process."""
    if method == "step":
        return env.step(*args)[:4]
    if method == "reset":
        return env.reset(seed=args[0])[:1]
    name, *rest = args
    attribute = env.get_wrapper_attr(name)
    return attribute(*rest) if callable(attribute) else attribute


def write_row(batch: Any, index: int, obs: Any) -> None:
    """Put one environment's observation into its row of a batch of them."""
    if isinstance(batch, dict):
        for key, part in batch.items():
            write_row(part, index, obs[key])
    else:
        batch[index] = obs


def close_all(workers: Sequence[Worker]) -> None:
    """End them, all at once."""
    for worker in workers:
        worker.send("close")
    for worker in workers:
        worker.close()


def _work(pipe: Connection, make: MakeEnv, index: int, spaces: Spaces, shared: SharedObservations) -> None:
    """The life of a process: make the environment, answer, close it."""
    os.setsid()  # so that Ctrl-C is the main process's to handle, and what the environment starts ends with it
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    try:
        env = make()
        if (env.observation_space, env.action_space) != spaces:
            raise UsageError(other_spaces(index, (env.observation_space, env.action_space), spaces))
    except UsageError as error:
        pipe.send(error)
        return
    batch = shared.arrays()
    pipe.send(None)
    with contextlib.suppress(EOFError, BrokenPipeError):  # the main process has closed the pipe
        while (request := pipe.recv())[0] != "close":
            try:
                given = answer(env, *request)
                if request[0] != "call":
                    write_row(batch, index, given[0])
                    given = (None, *given[1:])
                pipe.send(given)
            except (EnvironmentFault, UsageError) as fault:
                pipe.send(type(fault)(str(fault)))  # without its cause, which may not be one to pickle
    env.close()


def other_spaces(index: int, found: Spaces, first: Spaces) -> str:
    """For an environment whose spaces are not those of the first of its vector."""
    return (
        f"environment {index} has other spaces than the first: {one_line(found)} instead of {one_line(first)}; all "
        "that are made with the same env_kwargs must have the same"
    )


def _end_with_parent(parent: int) -> None:
    """Watch for the death of the main process, which may have had no time to tell."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os.killpg(0, signal.SIGKILL)


def _kill(process: Any) -> None:
    """End a process and what it has started."""
    if process.pid is None:
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()


def _ending(exitcode: int | None) -> str:
    if exitcode is None:
        return "has closed its pipe"
    if exitcode < 0:
        name = signal.Signals(-exitcode).name
        return f"was killed by {name}" + (", perhaps for want of memory" if name == "SIGKILL" else "")
    return f"ended with exit code {exitcode}"
