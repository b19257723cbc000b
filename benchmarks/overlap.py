"""What environments that step while the learner learns give: environment steps per second of SACv2, on and off in turn.

`sync` steps the environments one after the other, `async` each in a process of its own, and `overlap` lets these step
while the learner learns. HalfCheetah's physics takes about 0.15 ms a step; the slow environment works for 5 ms of its
process's time. Networks of 256x256, batches of 256; one gradient step for each environment step, or for eight of them.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box

from benchmarks.report import describe_machine, markdown_table, publish, summarize
from benchmarks.throughput import Marks, fit, measure, rate
from rl_lightning import ReplayDataModule, SACv2
from rl_lightning.environments.make import Vectorization

ARMS: dict[str, tuple[Vectorization, bool]] = {
    "sync": ("sync", False),
    "async": ("async", False),
    "overlap": ("async", True),
}


class Task(NamedTuple):
    """What is trained, and for how long."""

    env_id: str
    num_envs: int
    replay_ratio: float
    steps: int  # environment steps timed


TASKS = {
    "slow-1": Task("Slow-v0", 1, 1.0, 400),
    "slow-8": Task("Slow-v0", 8, 1.0, 800),
    "halfcheetah-8": Task("HalfCheetah-v5", 8, 1.0, 800),
    "halfcheetah-8-eighth": Task("HalfCheetah-v5", 8, 0.125, 4_000),
}
LEARNING_STARTS, WARMUP = 264, 320  # environment steps


class SlowEnv(gym.Env[Any, Any]):
    """Noise of HalfCheetah's shapes, at 5 ms of work a step; episodes of 1,000 steps."""

    observation_space = Box(-np.inf, np.inf, (17,), np.float64)
    action_space = Box(-1.0, 1.0, (6,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        super().reset(seed=seed)
        self.steps = 0
        return self.np_random.normal(size=17), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Work, whether or not another process has the core."""
        end = time.process_time() + 0.005
        while time.process_time() < end:
            pass
        self.steps += 1
        return self.np_random.normal(size=17), 0.0, False, self.steps == 1_000, {}


gym.register("Slow-v0", SlowEnv)


def run(name: str, arm: str) -> Marks:
    """Train."""
    task, (vectorization, overlap) = TASKS[name], ARMS[arm]
    data = ReplayDataModule(
        task.env_id,
        num_envs=task.num_envs,
        vectorization=vectorization,
        total_env_steps=WARMUP + task.steps,
        env_steps_per_epoch=WARMUP + task.steps,
        learning_starts=LEARNING_STARTS,
        replay_ratio=task.replay_ratio,
        env_steps_per_batch=10 * task.num_envs,
        overlap=overlap,
    )
    return fit(SACv2(data.observation_space, data.action_space), data)


def main() -> None:
    """Measure each task in each way, in turn; report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, help="also write the report to this file")
    parser.add_argument("--library", choices=list(ARMS), help="run the first task once, in this way")
    arguments = parser.parse_args()
    if arguments.library is not None:
        torch.set_num_threads(arguments.threads)
        marks = run(arguments.tasks[0], arguments.library)
        print("\n" + json.dumps({"steps_per_second": rate(marks, WARMUP)}))
        return
    rates = measure("benchmarks.overlap", arguments.tasks, arguments.pairs, arguments.threads, list(ARMS))
    rows = [
        [
            name,
            *(summarize(speeds) for speeds in zip(*measured, strict=True)),
            summarize([on / off for _, off, on in measured]),
            summarize([on / sync for sync, _, on in measured]),
        ]
        for name, measured in rates.items()
    ]
    header = ["task", *ARMS, "overlap / async", "overlap / sync"]
    heading = f"# Environments that step meanwhile: environment steps per second, {arguments.threads} torch thread(s)"
    publish("\n\n".join([heading, describe_machine(), markdown_table(header, rows)]), arguments.output)


if __name__ == "__main__":
    main()
