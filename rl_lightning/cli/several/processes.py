"""Commands side by side, each in a fresh process on cores of its own."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from rl_lightning.callbacks.checkpoints import EXIT_CODES

START = Path(__file__).with_name("start.py")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # torch takes the second where both are given
POLL = 0.05  # seconds from one look at the processes to the next


class Job(NamedTuple):
    """A command to run.

    Attributes:
        name: what its owner knows it by.
        command: the program and its arguments.
        log: the file that its output is appended to; the folder is made if it is not there.
        variables: of its environment, besides those of this process.
    """

    name: str
    command: Sequence[str]
    log: Path
    variables: Mapping[str, str] = {}


class Ended(NamedTuple):
    """A job that has ended, by which exit code (minus the number of the signal that killed it), and its wall time."""

    job: Job
    code: int
    seconds: float


def this_program(*args: str) -> list[str]:
    """The command that runs `rl-lightning` with `args` under the Python of this process."""
    return [sys.executable, "-m", "rl_lightning", *args]


def available_cores() -> list[int]:
    """Numbers of the processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def divide(cores: Sequence[int], parts: int) -> list[list[int]]:
    """Cores for each of `parts` jobs: as many for one as for another, so the rest stays free; shared if there are few.

    >>> divide([0, 1, 2, 3, 4], 2)
    [[0, 1], [2, 3]]
    >>> divide([0, 1], 3)
    [[0], [1], [0]]
    """
    each = max(1, len(cores) // parts)
    return [[cores[(part * each + place) % len(cores)] for place in range(each)] for part in range(parts)]


def side_by_side(
    jobs: Iterable[Job],
    at_once: int,
    meanwhile: Callable[[], None] = lambda: None,
    unwanted: Callable[[], Container[str]] = lambda: (),
) -> Iterator[Ended]:
    """Run jobs, so many at once, and yield each when it has ended; one that fails does not take the others along.

    A job has its part of the cores to itself, and a thread of torch for each of them, unless OMP_NUM_THREADS or
    MKL_NUM_THREADS says otherwise. It is not in the process group of this process: what it is told of SIGINT, SIGTERM
    and SIGUSR1 is what this process passes on. No job begins after such a signal. If this process dies without one,
    by SIGKILL, the jobs get SIGTERM (on Linux). If the caller leaves the loop, they get it too, and are waited for.

    Args:
        jobs: taken one by one, each when there is room for it.
        at_once: how many run at the same time.
        meanwhile: called several times a second, for instance to draw how far they are.
        unwanted: called as often; running jobs whose names it returns get SIGTERM.

    Raises:
        SystemExit: with the code of the first signal, when all jobs that ran have ended and been yielded.
    """
    waiting, has_more = iter(jobs), True
    free = divide(available_cores(), at_once)
    running: dict[subprocess.Popen[bytes], tuple[Job, list[int], float]] = {}
    with _noted_signals() as came:
        passed_on = 0
        try:
            while True:
                while free and has_more and not came:
                    job = next(waiting, None)
                    has_more = job is not None
                    if job is not None:
                        cores = free.pop(0)
                        running[_start(job, cores)] = job, cores, time.monotonic()
                for number in came[passed_on:]:
                    passed_on += 1
                    for process in running:
                        process.send_signal(number)
                for process in [process for process in running if process.poll() is not None]:
                    job, cores, begun = running.pop(process)
                    free.append(cores)
                    yield Ended(job, process.returncode, time.monotonic() - begun)
                if not running and (came or not has_more):
                    break
                meanwhile()
                names = unwanted()
                for process, (job, _, _) in running.items():
                    if job.name in names:
                        process.terminate()
                time.sleep(POLL)
        finally:
            for process in running:
                process.terminate()
            for process in running:
                process.wait()
    if came:
        raise SystemExit(EXIT_CODES[came[0]])


def _start(job: Job, cores: Sequence[int]) -> subprocess.Popen[bytes]:
    given = {**os.environ, **job.variables}
    threads = {} if {*THREADS} & {*given} else dict.fromkeys(THREADS, str(len(cores)))
    start = [sys.executable, "-I", "-S", str(START), str(os.getpid()), ",".join(map(str, cores))]
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with job.log.open("ab") as log:
        return subprocess.Popen(
            [*start, *job.command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=given | threads,
            process_group=0,  # a terminal's Ctrl-C would come twice
        )


@contextmanager
def _noted_signals() -> Iterator[list[signal.Signals]]:
    """Those that came, in their order, in place of what they would do; threads other than the main one note none."""
    came = list[signal.Signals]()

    def note(number: int, frame: FrameType | None) -> None:
        came.append(signal.Signals(number))

    is_main = threading.current_thread() is threading.main_thread()
    former = {number: signal.signal(number, note) for number in EXIT_CODES} if is_main else {}
    try:
        yield came
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
