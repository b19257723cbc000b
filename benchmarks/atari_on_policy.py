"""Environment steps per second of PPO on Pong from images: ours with ale-py, ours with EnvPool, and SB3's.

The whole pipeline with the settings of ``configs/ppo/pong.yaml``: 8 games, four frames to a step, images of 84 x 84 in
stacks of four, 128 steps to a rollout, 4 epochs of 4 minibatches of 256, NatureCNN with one trunk for policy and value;
no sticky actions. Stable-Baselines3 preprocesses with its own `make_atari_env` and `VecFrameStack`; it begins a game
with FIRE, and an episode of it ends with a life, of which Pong has one only.

With --stepping the vector environments alone are stepped, with random actions. Everything is kept to as many cores as
--threads says, EnvPool's threads too.
"""

import argparse
import json
import os
import time
from functools import partial
from pathlib import Path

import ale_py
import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import PPO as SB3PPO
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.vec_env import VecFrameStack

from benchmarks.report import describe_machine, markdown_table, publish, run_fresh, summarize
from benchmarks.throughput import SB3Clock, fit, rate
from rl_lightning import MLP, PPO, RolloutDataModule, make_vec_env
from rl_lightning.environments.make import Vectorization
from rl_lightning.optim import FusedAdam

NUM_ENVS, ROLLOUT_STEPS = 8, 128
ROLLOUT = NUM_ENVS * ROLLOUT_STEPS  # environment steps
BATCH_SIZE = 256
WARMUP = ROLLOUT  # environment steps before the time is taken
GAME = {"game": "Pong", "repeat_action_probability": 0.0}
ATARI = "rl_lightning.atari:Atari-v0"
LIBRARIES: dict[str, Vectorization | None] = {"ours, sync": "sync", "ours, envpool": "envpool", "SB3": None}
STEPPED = 400  # steps of every environment with --stepping, after a tenth of them


def train_ours(vectorization: Vectorization, rollouts: int) -> float:
    """Environment steps per second of ours."""
    total = WARMUP + rollouts * ROLLOUT
    data = RolloutDataModule(
        ATARI,
        GAME,
        num_envs=NUM_ENVS,
        vectorization=vectorization,
        rollout_steps=ROLLOUT_STEPS,
        total_env_steps=total,
        env_steps_per_epoch=total,
    )
    optimizer = partial(FusedAdam, lr=2.5e-4, eps=1e-5)
    model = PPO(
        data.observation_space,
        data.action_space,
        n_epochs=4,
        batch_size=BATCH_SIZE,
        clip_range=0.1,
        ent_coef=0.01,
        shared_trunk=True,
        network=partial(MLP, hidden_sizes=()),
        policy_optimizer=optimizer,
        value_optimizer=optimizer,
    )
    return rate(fit(model, data), WARMUP)


def their_envs() -> VecFrameStack:
    """Games as Stable-Baselines3 has them."""
    gym.register_envs(ale_py)
    return VecFrameStack(make_atari_env("PongNoFrameskip-v4", n_envs=NUM_ENVS, seed=0), n_stack=4)


def train_sb3(rollouts: int) -> float:
    """Environment steps per second of Stable-Baselines3 at the same settings."""
    model = SB3PPO(
        "CnnPolicy",
        their_envs(),
        learning_rate=2.5e-4,
        n_steps=ROLLOUT_STEPS,
        batch_size=BATCH_SIZE,
        n_epochs=4,
        clip_range=0.1,
        ent_coef=0.01,
        device="cpu",
    )
    clock = SB3Clock()
    # one rollout more, whose start is the end of the last that is timed
    model.learn(WARMUP + (rollouts + 1) * ROLLOUT, callback=clock)
    return rate(clock.marks, WARMUP)


def step_ours(vectorization: Vectorization, steps: int) -> float:
    """Environment steps per second of our environments alone."""
    envs, rng = make_vec_env(ATARI, NUM_ENVS, vectorization, GAME), np.random.default_rng(0)
    envs.reset(seed=list(range(NUM_ENVS)))
    for step in range(-steps // 10, steps):
        if step == 0:
            begun = time.perf_counter()
        _, _, terminated, truncated, _ = envs.step(rng.integers(6, size=NUM_ENVS))
        if (done := terminated | truncated).any():
            envs.reset(options={"reset_mask": done})
    taken = time.perf_counter() - begun
    envs.close()
    return steps * NUM_ENVS / taken


def step_sb3(steps: int) -> float:
    """Environment steps per second of theirs alone."""
    envs, rng = their_envs(), np.random.default_rng(0)
    envs.reset()
    for step in range(-steps // 10, steps):
        if step == 0:
            begun = time.perf_counter()
        envs.step(rng.integers(6, size=NUM_ENVS))
    return steps * NUM_ENVS / (time.perf_counter() - begun)


def measured(library: str, rollouts: int, stepping: bool) -> float:
    """Environment steps per second in this process."""
    vectorization = LIBRARIES[library]
    if vectorization is None:
        return step_sb3(STEPPED) if stepping else train_sb3(rollouts)
    return step_ours(vectorization, STEPPED) if stepping else train_ours(vectorization, rollouts)


def report(rates: dict[str, list[float]], stepping: bool, threads: int) -> str:
    """All of it in Markdown; ratios are of runs of one round."""
    base = rates["SB3"]
    rows = [
        (library, summarize(own), summarize([one / other for one, other in zip(own, base, strict=True)]))
        for library, own in rates.items()
    ]
    what = "8 environments alone" if stepping else "PPO"
    heading = f"# Pong, {what}: environment steps per second on {threads} core(s), median [minimum, maximum]"
    return "\n\n".join([heading, describe_machine(), markdown_table(["", "steps/s", "times that of SB3"], rows)])


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3, help="rounds, in each of which everything runs once")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rollouts", type=int, default=4, help=f"of {ROLLOUT} environment steps, timed in each run")
    parser.add_argument("--stepping", action="store_true", help="the environments alone")
    parser.add_argument("--output", type=Path, help="also write the report to this file")
    parser.add_argument("--library", choices=list(LIBRARIES), help="run just this one")
    arguments = parser.parse_args()
    if arguments.library is not None:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-arguments.threads :])
        torch.set_num_threads(arguments.threads)
        speed = measured(arguments.library, arguments.rollouts, arguments.stepping)
        print("\n" + json.dumps({"steps_per_second": speed}))
        return
    rates: dict[str, list[float]] = {library: [] for library in LIBRARIES}
    for _ in range(arguments.pairs):
        for library, own in rates.items():
            options = [f"--library={library}", f"--threads={arguments.threads}", f"--rollouts={arguments.rollouts}"]
            options += ["--stepping"] if arguments.stepping else []
            own.append(run_fresh("benchmarks.atari_on_policy", options, arguments.threads)["steps_per_second"])
    publish(report(rates, arguments.stepping, arguments.threads), arguments.output)


if __name__ == "__main__":
    main()
