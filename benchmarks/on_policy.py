"""Environment steps per second of A2C and PPO: ours under Lightning's Trainer against Stable-Baselines3's.

Three tasks, each with the same settings on both sides: A2C on CartPole with 8 environments x 5 steps, PPO on CartPole
with 8 x 32 and 20 epochs of one minibatch, PPO on HalfCheetah with 1 x 2048 and 10 epochs of 32 minibatches. Both
libraries have separate policy and value networks of 64x64 tanh (ours with an optimizer for each, theirs with one for
both). Ours runs as users run it: Lightning's Trainer with a CSVLogger, the progress bar and compiled gradients;
Stable-Baselines3 with its defaults, silent.

The two alternate, each in a fresh process, with the same number of torch threads; a pair gives one ratio, ours /
theirs. Time is taken inside the process, after a task's first iterations: starting Python and compiling are excluded,
on both sides.
"""

import argparse
import json
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from stable_baselines3 import A2C as SB3A2C
from stable_baselines3 import PPO as SB3PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from torch.optim import Adam
from tqdm import tqdm

from benchmarks.report import describe_machine, markdown_table, publish, run_fresh, summarize
from rl_lightning import A2C, MLP, PPO, EnvStepsProgressBar, RolloutDataModule

NETWORK = partial(MLP, hidden_sizes=(64, 64), activation="tanh")


class Task(NamedTuple):
    """What both libraries train, and for how long."""

    env_id: str
    num_envs: int
    rollout_steps: int
    env_steps_per_batch: int  # of ours: Lightning's training batch
    warmup: int  # environment steps before the time is taken
    steps: int  # environment steps timed


TASKS = {
    "a2c-cartpole": Task("CartPole-v1", 8, 5, 400, 8_000, 80_000),
    "ppo-cartpole": Task("CartPole-v1", 8, 32, 256, 5_120, 40_960),
    "ppo-halfcheetah": Task("HalfCheetah-v5", 1, 2048, 2048, 4_096, 20_480),
}


class LightningClock(Callback):
    """Notes environment steps and the time after each training batch."""

    def __init__(self) -> None:
        self.marks: list[tuple[int, float]] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After learning from the batch."""
        self.marks.append((pl_module.env_steps, time.perf_counter()))  # type: ignore[arg-type]


class SB3Clock(BaseCallback):
    """Notes environment steps and the time before each rollout, that is after learning from the last."""

    def __init__(self) -> None:
        super().__init__()
        self.marks: list[tuple[int, float]] = []

    def _on_rollout_start(self) -> None:
        self.marks.append((self.num_timesteps, time.perf_counter()))

    def _on_step(self) -> bool:
        return True


def run_ours(name: str, clock: LightningClock) -> None:
    """Train ours, without evaluation, and keep nothing."""
    task = TASKS[name]
    total = task.warmup + task.steps
    data = RolloutDataModule(
        task.env_id,
        num_envs=task.num_envs,
        rollout_steps=task.rollout_steps,
        env_steps_per_batch=task.env_steps_per_batch,
        total_env_steps=total,
        env_steps_per_epoch=total,
    )
    spaces = data.observation_space, data.action_space
    if name == "a2c-cartpole":
        model: LightningModule = A2C(*spaces, network=NETWORK)
    elif name == "ppo-cartpole":
        optimizer = partial(Adam, lr=1e-3, eps=1e-5, fused=True)
        model = PPO(
            *spaces,
            gamma=0.98,
            gae_lambda=0.8,
            n_epochs=20,
            batch_size=256,
            network=NETWORK,
            policy_optimizer=optimizer,
            value_optimizer=optimizer,
        )
    else:
        model = PPO(*spaces, network=NETWORK)
    with tempfile.TemporaryDirectory() as folder:
        Trainer(
            accelerator="cpu",
            max_epochs=-1,
            limit_val_batches=0,
            logger=CSVLogger(folder),
            callbacks=[EnvStepsProgressBar(), clock],
            default_root_dir=folder,
        ).fit(model, data)


def run_sb3(name: str, clock: SB3Clock) -> None:
    """Train Stable-Baselines3's at the same settings."""
    task = TASKS[name]
    envs = make_vec_env(task.env_id, task.num_envs)
    if name == "a2c-cartpole":
        model: SB3A2C | SB3PPO = SB3A2C("MlpPolicy", envs, device="cpu")
    elif name == "ppo-cartpole":
        model = SB3PPO(
            "MlpPolicy",
            envs,
            learning_rate=1e-3,
            n_steps=task.rollout_steps,
            batch_size=256,
            n_epochs=20,
            gamma=0.98,
            gae_lambda=0.8,
            device="cpu",
        )
    else:
        model = SB3PPO("MlpPolicy", envs, device="cpu")
    # one rollout more, whose start is the end of the last that is timed
    model.learn(task.warmup + task.steps + task.num_envs * task.rollout_steps, callback=clock)


def rate(marks: list[tuple[int, float]], warmup: int) -> float:
    """Environment steps per second from the first mark at or after `warmup` to the last."""
    timed = [mark for mark in marks if mark[0] >= warmup]
    (first_steps, first_time), (last_steps, last_time) = timed[0], timed[-1]
    return (last_steps - first_steps) / (last_time - first_time)


def work(name: str, library: str, threads: int) -> None:
    """Run one of the two and print {"steps_per_second": ...}."""
    torch.set_num_threads(threads)
    if library == "ours":
        ours = LightningClock()
        run_ours(name, ours)
        marks = ours.marks
    else:
        theirs = SB3Clock()
        run_sb3(name, theirs)
        marks = theirs.marks
    print("\n" + json.dumps({"steps_per_second": rate(marks, TASKS[name].warmup)}))


def main() -> None:
    """Measure every task and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, help="also write the report to this file")
    parser.add_argument("--library", choices=["ours", "sb3"], help="run just this one, of the first task")
    arguments = parser.parse_args()
    if arguments.library is not None:
        work(arguments.tasks[0], arguments.library, arguments.threads)
        return
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in arguments.tasks}
    with tqdm(total=2 * arguments.pairs * len(rates), unit="run") as bar:
        for _ in range(arguments.pairs):
            for name, measured in rates.items():
                pair = []
                for library in ("ours", "sb3"):
                    bar.set_description(f"{library} {name}")
                    options = [f"--tasks={name}", f"--library={library}", f"--threads={arguments.threads}"]
                    pair.append(run_fresh("benchmarks.on_policy", options, arguments.threads)["steps_per_second"])
                    bar.update()
                measured.append((pair[0], pair[1]))
    rows = [
        (
            name,
            summarize([ours for ours, _ in measured]),
            summarize([theirs for _, theirs in measured]),
            summarize([ours / theirs for ours, theirs in measured]),
        )
        for name, measured in rates.items()
    ]
    table = markdown_table(["task", "ours", "SB3", "ours / SB3"], rows)
    title = f"# A2C and PPO: environment steps per second on {arguments.threads} thread(s), median [minimum, maximum]"
    publish("\n\n".join([title, describe_machine(), table]), arguments.output)


if __name__ == "__main__":
    main()
