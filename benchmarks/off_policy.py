"""Environment steps per second of DQN, DDPG, TD3 and SAC: ours under Lightning's Trainer against Stable-Baselines3's.

Each with the same settings on both sides, one environment:

- dqn-cartpole: one gradient step for each environment step, 64x64, batch 64.
- dqn-cartpole-zoo: the RL Zoo's settings: 128 gradient steps after each 256 environment steps, 256x256, batch 64.
- td3-halfcheetah: one gradient step for each environment step, 256x256, batch 256; the policy's every second one.
- ddpg-halfcheetah: the same, with one Q and a policy that steps as often.
- sac-halfcheetah: the same, without V and with a learned temperature, which is Stable-Baselines3's SAC.
- td3-halfcheetah-bf16: td3-halfcheetah with ours in `bf16-mixed`; Stable-Baselines3 has float32 only.
"""

from collections.abc import Sequence
from functools import partial
from typing import Literal, NamedTuple

from stable_baselines3 import DDPG as SB3DDPG
from stable_baselines3 import DQN as SB3DQN
from stable_baselines3 import SAC as SB3SAC
from stable_baselines3 import TD3 as SB3TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from benchmarks import throughput
from benchmarks.throughput import Marks, SB3Clock, compare, fit
from rl_lightning import DDPG, DQN, MLP, TD3, ReplayDataModule, SACv2
from rl_lightning.algorithms.base import Algorithm
from rl_lightning.optim import FusedAdam


class Task(NamedTuple):
    """What both libraries train, and for how long."""

    env_id: str
    hidden_sizes: tuple[int, int]
    batch_size: int
    train_freq: int
    replay_ratio: float  # gradient steps for each environment step
    env_steps_per_batch: int  # of ours: Lightning's training batch
    warmup: int  # environment steps before the time is taken, 1,000 of them random
    steps: int  # environment steps timed
    precision: Literal["32-true", "bf16-mixed"] = "32-true"  # of ours


TASKS = {
    "dqn-cartpole": Task("CartPole-v1", (64, 64), 64, 1, 1.0, 250, 2_000, 8_000),
    "dqn-cartpole-zoo": Task("CartPole-v1", (256, 256), 64, 256, 0.5, 256, 2_048, 8_192),
    "td3-halfcheetah": Task("HalfCheetah-v5", (256, 256), 256, 1, 1.0, 100, 1_500, 2_000),
    "ddpg-halfcheetah": Task("HalfCheetah-v5", (256, 256), 256, 1, 1.0, 100, 1_500, 2_000),
    "sac-halfcheetah": Task("HalfCheetah-v5", (256, 256), 256, 1, 1.0, 100, 1_500, 2_000),
    "td3-halfcheetah-bf16": Task("HalfCheetah-v5", (256, 256), 256, 1, 1.0, 100, 1_500, 2_000, "bf16-mixed"),
}
LEARNING_STARTS = 1_000


def make_ours(name: str, compile: bool = True) -> tuple[Algorithm, ReplayDataModule]:
    """Our learner and its data."""
    task = TASKS[name]
    data = ReplayDataModule(
        task.env_id,
        total_env_steps=task.warmup + task.steps,
        env_steps_per_epoch=task.warmup + task.steps,
        learning_starts=LEARNING_STARTS,
        train_freq=task.train_freq,
        replay_ratio=task.replay_ratio,
        batch_size=task.batch_size,
        buffer_size=1_000_000,
        env_steps_per_batch=task.env_steps_per_batch,
    )
    spaces = data.observation_space, data.action_space
    network = partial(MLP, hidden_sizes=task.hidden_sizes)
    if task.env_id == "CartPole-v1":
        optimizer = partial(FusedAdam, lr=2.3e-3)
        model: Algorithm = DQN(
            *spaces,
            loss="huber",
            max_grad_norm=10.0,
            target_update_interval=128,
            network=network,
            q_optimizer=optimizer,
            compile=compile,
        )
    else:
        learners: dict[str, type[DDPG | TD3 | SACv2]] = {"ddpg": DDPG, "td3": TD3, "sac": SACv2}
        model = learners[name.split("-")[0]](*spaces, network=network, compile=compile)
    return model, data


def run_ours(name: str) -> Marks:
    """Train ours."""
    return fit(*make_ours(name), precision=TASKS[name].precision)


def run_sb3(name: str, device: str = "cpu", callbacks: Sequence[BaseCallback] = ()) -> Marks:
    """Train Stable-Baselines3's at the same settings."""
    task = TASKS[name]
    make = partial(
        {"dqn": SB3DQN, "ddpg": SB3DDPG, "td3": SB3TD3, "sac": SB3SAC}[name.split("-")[0]],
        "MlpPolicy",
        task.env_id,
        batch_size=task.batch_size,
        buffer_size=1_000_000,
        learning_starts=LEARNING_STARTS,
        train_freq=task.train_freq,
        gradient_steps=round(task.train_freq * task.replay_ratio),
        policy_kwargs={"net_arch": list(task.hidden_sizes)},
        device=device,
    )
    model: BaseAlgorithm = make(learning_rate=2.3e-3) if task.env_id == "CartPole-v1" else make()
    clock = SB3Clock()
    # one collection more, whose start is the end of the last that is timed
    model.learn(task.warmup + task.steps + task.train_freq, callback=[clock, *callbacks])
    return clock.marks


if __name__ == "__main__":
    compare(
        "benchmarks.off_policy",
        "DQN, DDPG, TD3 and SAC",
        f"{__doc__}\n{throughput.__doc__}",
        {name: task.warmup for name, task in TASKS.items()},
        {"ours": run_ours, "sb3": run_sb3},
    )
