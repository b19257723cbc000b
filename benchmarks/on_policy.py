"""Environment steps per second of A2C and PPO: ours under Lightning's Trainer against Stable-Baselines3's.

Three tasks, each with the same settings on both sides: A2C on CartPole with 8 environments x 5 steps, PPO on CartPole
with 8 x 32 and 20 epochs of one minibatch, PPO on HalfCheetah with 1 x 2048 and 10 epochs of 32 minibatches. Both
libraries have separate policy and value networks of 64x64 tanh (ours with an optimizer for each, theirs with one for
both).
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from lightning.pytorch import LightningModule
from stable_baselines3 import A2C as SB3A2C
from stable_baselines3 import PPO as SB3PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from benchmarks import throughput
from benchmarks.throughput import Marks, SB3Clock, compare, fit
from rl_lightning import A2C, MLP, PPO, RolloutDataModule
from rl_lightning.optim import FusedAdam

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


def make_ours(name: str, compile: bool = True) -> tuple[LightningModule, RolloutDataModule]:
    """Our learner and its data."""
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
        model: LightningModule = A2C(*spaces, network=NETWORK, compile=compile)
    elif name == "ppo-cartpole":
        optimizer = partial(FusedAdam, lr=1e-3, eps=1e-5)
        model = PPO(
            *spaces,
            gamma=0.98,
            gae_lambda=0.8,
            n_epochs=20,
            batch_size=256,
            network=NETWORK,
            policy_optimizer=optimizer,
            value_optimizer=optimizer,
            compile=compile,
        )
    else:
        model = PPO(*spaces, network=NETWORK, compile=compile)
    return model, data


def run_ours(name: str) -> Marks:
    """Train ours."""
    return fit(*make_ours(name))


def run_sb3(name: str, device: str = "cpu", callbacks: Sequence[BaseCallback] = ()) -> Marks:
    """Train Stable-Baselines3's at the same settings."""
    task = TASKS[name]
    envs = make_vec_env(task.env_id, task.num_envs)
    if name == "a2c-cartpole":
        model: SB3A2C | SB3PPO = SB3A2C("MlpPolicy", envs, device=device)
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
            device=device,
        )
    else:
        model = SB3PPO("MlpPolicy", envs, device=device)
    clock = SB3Clock()
    # one rollout more, whose start is the end of the last that is timed
    model.learn(task.warmup + task.steps + task.num_envs * task.rollout_steps, callback=[clock, *callbacks])
    return clock.marks


if __name__ == "__main__":
    compare(
        "benchmarks.on_policy",
        "A2C and PPO",
        f"{__doc__}\n{throughput.__doc__}",
        {name: task.warmup for name, task in TASKS.items()},
        {"ours": run_ours, "sb3": run_sb3},
    )
