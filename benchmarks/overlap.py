"""What environments that step while the learner learns give: environment steps per second of SACv2, on and off in turn.

One run turns `overlap` on and off after each ten iterations, so that what else the machine does falls on both alike.
HalfCheetah's physics takes about 0.15 ms a step; the slow environment works for 5 ms of its process's time. Networks of
256x256, batches of 256, one gradient step for each environment step, one torch thread.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box
from lightning.pytorch import Callback, LightningModule, Trainer

from benchmarks.report import describe_machine, markdown_table, publish, summarize
from benchmarks.throughput import fit
from rl_lightning import ReplayDataModule, SACv2

ITERATIONS = 10  # of a training batch, after which `overlap` changes


class Task(NamedTuple):
    """Which environments, and for how long."""

    env_id: str
    num_envs: int
    pairs: int  # of batches without and with overlap


TASKS = {
    "slow-1": Task("Slow-v0", 1, 40),
    "slow-8": Task("Slow-v0", 8, 10),
    "halfcheetah-8": Task("HalfCheetah-v5", 8, 10),
}
LEARNING_STARTS = 264  # environment steps
WARMUP = 4  # batches that are not timed: gradients compile


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


class Turns(Callback):
    """Turns `overlap` on and off, and notes the seconds of each batch."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Before the batch gathers anything."""
        trainer.datamodule.overlap = len(self.seconds) % 2 == 1  # type: ignore[attr-defined]
        self._started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """After learning from it."""
        self.seconds.append(time.perf_counter() - self._started)


def measured(name: str) -> tuple[list[float], list[float]]:
    """Environment steps per second of each batch without and with overlap, in pairs."""
    task = TASKS[name]
    per_batch = ITERATIONS * task.num_envs
    length = LEARNING_STARTS + (WARMUP + 2 * task.pairs) * per_batch
    data = ReplayDataModule(
        task.env_id,
        num_envs=task.num_envs,
        vectorization="async",
        total_env_steps=length,
        env_steps_per_epoch=length,
        learning_starts=LEARNING_STARTS,
        env_steps_per_batch=per_batch,
        overlap=True,
    )
    turns = Turns()
    fit(SACv2(data.observation_space, data.action_space), data, [turns])
    speeds = [per_batch / seconds for seconds in turns.seconds[WARMUP:]]
    return speeds[::2], speeds[1::2]


def main() -> None:
    """Measure each task; report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--output", type=Path, help="also write the report to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in arguments.tasks:
        off, on = measured(name)
        ratios = [with_overlap / without for without, with_overlap in zip(off, on, strict=True)]
        quartiles = statistics.quantiles(ratios, n=4)
        rows.append(
            [name, summarize(off), summarize(on), f"{quartiles[1]:.2f} [{quartiles[0]:.2f}, {quartiles[2]:.2f}]"]
        )
    header = ["task", "off, steps/s", "on, steps/s", "on / off, median [quartiles]"]
    publish(
        "\n\n".join(["# Environments that step meanwhile", describe_machine(), markdown_table(header, rows)]),
        arguments.output,
    )


if __name__ == "__main__":
    main()
