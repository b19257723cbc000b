"""One SAC run on HalfCheetah-v5, ours or Stable-Baselines3's, that notes the time at every environment step.

Both: batch 256, networks of 256x256 ReLU, Adam at 3e-4, one gradient step per environment step, 1,000 random steps
first, a buffer for 1,000,000 transitions. With `--train-freq 32` both take 32 steps and then 32 gradient steps. Ours
runs as users run it: Lightning's Trainer with a CSVLogger, the progress bar and compiled gradients. Stable-Baselines3
runs with its defaults and is silent. The learners differ as published: ours trains V, twin Q and a policy
(arXiv:1801.01290), theirs twin Q, a policy and the temperature (arXiv:1812.05905).

As a program it prints the steps per second in successive windows as JSON; `benchmarks.speed` starts it.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import gymnasium as gym
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from stable_baselines3 import SAC as SB3SAC
from stable_baselines3.common.callbacks import BaseCallback

from rl_lightning import SAC, EnvStepsProgressBar, ReplayDataModule

ENV_ID = "HalfCheetah-v5"
LEARNING_STARTS = 1_000
BATCH_SIZE = 256
LEARNING_RATE = 3e-4
BUFFER_SIZE = 1_000_000

Precision = Literal["32-true", "bf16-mixed"]


class LightningClock(Callback):
    """Notes the time after each batch, once for each of its environment steps after `LEARNING_STARTS`."""

    def __init__(self, env_steps_per_batch: int) -> None:
        self.env_steps_per_batch = env_steps_per_batch
        self.times: list[float] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """As many environment steps as gradient steps are done."""
        self.times += [time.perf_counter()] * self.env_steps_per_batch


class SB3Clock(BaseCallback):
    """Notes the time at each environment step after `LEARNING_STARTS`."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def _on_step(self) -> bool:
        if self.num_timesteps > LEARNING_STARTS:
            self.times.append(time.perf_counter())
        return True


def run_ours(
    steps: int,
    precision: Precision,
    callbacks: Sequence[Callback],
    env_id: str = ENV_ID,
    compile: bool = True,
    train_freq: int = 1,
    env_steps_per_batch: int = 100,
) -> None:
    """Train our SAC for `steps` environment steps after `LEARNING_STARTS`, without evaluation, and keep nothing."""
    total = LEARNING_STARTS + steps
    data = ReplayDataModule(
        env_id,
        total_env_steps=total,
        env_steps_per_epoch=total,
        learning_starts=LEARNING_STARTS,
        train_freq=train_freq,
        batch_size=BATCH_SIZE,
        buffer_size=BUFFER_SIZE,
        env_steps_per_batch=env_steps_per_batch,
    )
    model = SAC(data.observation_space, data.action_space, compile=compile)  # its defaults are the setting above
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            accelerator="cpu",
            precision=precision,
            max_epochs=-1,
            limit_val_batches=0,
            logger=CSVLogger(folder),
            callbacks=[EnvStepsProgressBar(), *callbacks],
            default_root_dir=folder,
        )
        trainer.fit(model, data)


def run_sb3(steps: int, clock: SB3Clock, train_freq: int) -> None:
    """Train Stable-Baselines3's SAC for `steps` environment steps after `LEARNING_STARTS`."""
    model = SB3SAC(
        "MlpPolicy",
        gym.make(ENV_ID),
        learning_rate=LEARNING_RATE,
        buffer_size=BUFFER_SIZE,
        learning_starts=LEARNING_STARTS,
        batch_size=BATCH_SIZE,
        train_freq=train_freq,
        gradient_steps=train_freq,
        policy_kwargs={"net_arch": [256, 256], "activation_fn": torch.nn.ReLU},
        device="cpu",
        verbose=0,
    )
    model.learn(LEARNING_STARTS + steps, callback=clock)


def window_rates(times: Sequence[float], windows: int) -> list[float]:
    """Steps per second in successive windows of equal length; the first time is where the first window begins.

    Raises:
        ValueError: where the steps do not divide into so many windows.
    """
    steps = len(times) - 1
    if steps < windows or steps % windows:
        raise ValueError(f"{steps} steps do not divide into {windows} windows of equal length")
    length = steps // windows
    return [length / (end - start) for start, end in pairwise(times[::length])]


def main() -> None:
    """Run one of the two and print {"steps_per_second": of the whole, "windows": of each}."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", choices=["ours", "sb3"], required=True)
    parser.add_argument("--steps", type=int, default=2_000, help="environment steps that are timed")
    parser.add_argument("--warmup", type=int, default=300, help="gradient steps before them, compilation included")
    parser.add_argument("--windows", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=["32-true", "bf16-mixed"], default="32-true", help="of ours")
    parser.add_argument("--train-freq", type=int, default=1, help="environment steps, then as many gradient steps")
    parser.add_argument("--env-steps-per-batch", type=int, default=100, help="of ours: Lightning's training batch")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    steps = arguments.warmup + arguments.steps
    if arguments.library == "ours":
        per_batch = arguments.env_steps_per_batch
        ours = LightningClock(per_batch)
        run_ours(steps, arguments.precision, [ours], train_freq=arguments.train_freq, env_steps_per_batch=per_batch)
        times = ours.times
    else:
        theirs = SB3Clock()
        run_sb3(steps, theirs, arguments.train_freq)
        times = theirs.times
    timed = times[arguments.warmup - 1 : steps]  # from the end of the warm-up to the last step
    rates = {
        "steps_per_second": window_rates(timed, 1)[0],
        "windows": window_rates(timed, arguments.windows),
    }
    print("\n" + json.dumps(rates))


if __name__ == "__main__":
    main()
