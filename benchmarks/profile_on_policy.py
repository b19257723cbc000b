"""Where the time of A2C and PPO goes: microseconds per environment step of each part, for the tasks of `on_policy`.

    python -m benchmarks.profile_on_policy ppo-halfcheetah

The parts are timed where they are called, so what lies between them (building rollouts, shuffling, Lightning's loop and
hooks) is the rest. Timing costs about a microsecond a call.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.on_policy import TASKS, run_ours
from benchmarks.report import describe_machine, markdown_table
from benchmarks.throughput import rate
from rl_lightning import A2C, PPO, Algorithm
from rl_lightning.algorithms.shared import computing
from rl_lightning.data import base as data

COMPILING = 1.0  # seconds; a call that takes longer is the one that compiles


def main() -> None:
    """Profile one task and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=list(TASKS))
    name = parser.parse_args().task
    torch.set_num_threads(1)
    seconds: dict[str, float] = defaultdict(float)

    def timed(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            result = function(*args, **kwargs)
            taken = time.perf_counter() - start
            seconds[part] += taken if taken < COMPILING else 0.0
            return result

        return call

    def timed_envs(*args: Any) -> Any:
        envs = make_vec_env(*args)
        envs.step = timed("environments", envs.step)  # type: ignore[method-assign]
        return envs

    compiled_or_eager, make_vec_env = computing.compiled_or_eager, data.make_vec_env
    computing.compiled_or_eager = lambda *of: timed("gradients (compiled)", compiled_or_eager(*of))  # type: ignore[assignment]
    data.make_vec_env = timed_envs  # type: ignore[assignment]
    for learner in (A2C, PPO):
        learner.act = timed("policy", learner.act)  # type: ignore[method-assign]
    Algorithm.step = timed("optimizers", Algorithm.step)  # type: ignore[method-assign]

    task = TASKS[name]
    whole = 1e6 / rate(run_ours(name), task.warmup)
    steps = task.warmup + task.steps
    parts = {part: 1e6 * taken / steps for part, taken in seconds.items()}
    parts["everything else"] = whole - sum(parts.values())
    rows = [(part, f"{taken:.1f}", f"{taken / whole:.0%}") for part, taken in parts.items()]
    print(f"\n# {name}\n\n{describe_machine()}\n")
    print(markdown_table(["part", "µs per environment step", "share"], [*rows, ("all", f"{whole:.1f}", "100%")]))


if __name__ == "__main__":
    main()
