"""Environment steps per second of DQN on Pong from images, and what replay of them takes: ours against SB3's.

The whole pipeline with the settings of ``configs/dqn/pong.yaml`` on both sides: the emulator with four frames to a
step, images of 84 x 84 in stacks of four, NatureCNN, one gradient step with a batch of 32 for every four environment
steps, a buffer for 100,000 transitions, no sticky actions. Each library preprocesses in its own way: ours with
Gymnasium's AtariPreprocessing and FrameStackObservation, Stable-Baselines3 with its AtariWrapper and VecFrameStack.
Theirs begins an episode with FIRE.

Random steps fill the replay memory a little before the time is taken, so both sample from few pages of it. Its bytes
are those of the arrays that a full memory has, beside those of 100,000 single images.

Two libraries alternate, each in a fresh process, with the same number of torch threads; a pair gives one ratio, ours /
theirs. Time is taken inside the process, after the warm-up: starting Python and compiling are excluded, on both sides.
"""

import argparse
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import ale_py
import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import DQN as SB3DQN
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.vec_env import VecFrameStack
from tqdm import tqdm

from benchmarks.report import describe_machine, markdown_table, publish, run_fresh, summarize
from benchmarks.throughput import Marks, SB3Clock, fit, rate
from rl_lightning import DQN, MLP, EpsilonGreedy, ReplayDataModule

BUFFER_SIZE = 100_000
BATCH_SIZE, TRAIN_FREQ, REPLAY_RATIO = 32, 4, 0.25
ENV_STEPS_PER_BATCH = 100  # of ours: Lightning's training batch
IMAGE_BYTES = 84 * 84


class Length(NamedTuple):
    """Of a run, in environment steps."""

    learning_starts: int
    warmup: int  # before the time is taken, those of random actions included
    steps: int  # timed


class Result(NamedTuple):
    """Of a run."""

    marks: Marks
    replay_bytes: int  # of a full replay memory


def make_ours(length: Length, compile: bool = True) -> tuple[DQN, ReplayDataModule]:
    """Our learner and its data."""
    total = length.warmup + length.steps
    data = ReplayDataModule(
        "rl_lightning.atari:Atari-v0",
        {"game": "Pong", "repeat_action_probability": 0.0},
        total_env_steps=total,
        env_steps_per_epoch=total,
        learning_starts=length.learning_starts,
        train_freq=TRAIN_FREQ,
        replay_ratio=REPLAY_RATIO,
        batch_size=BATCH_SIZE,
        buffer_size=BUFFER_SIZE,
        clip_rewards=True,
        env_steps_per_batch=ENV_STEPS_PER_BATCH,
    )
    model = DQN(
        data.observation_space,
        data.action_space,
        target_update_interval=250,
        loss="huber",
        max_grad_norm=10.0,
        exploration=partial(EpsilonGreedy, final_eps=0.01),
        network=partial(MLP, hidden_sizes=()),
        compile=compile,
    )
    return model, data


def run_ours(length: Length) -> Result:
    """Train ours."""
    model, data = make_ours(length)
    return Result(fit(model, data), data.buffer.nbytes)


def run_sb3(length: Length, device: str = "cpu", callbacks: Sequence[BaseCallback] = ()) -> Result:
    """Train Stable-Baselines3's at the same settings."""
    gym.register_envs(ale_py)
    total = length.warmup + length.steps
    model = SB3DQN(
        "CnnPolicy",
        VecFrameStack(make_atari_env("PongNoFrameskip-v4"), n_stack=4),
        learning_rate=1e-4,
        buffer_size=BUFFER_SIZE,
        learning_starts=length.learning_starts,
        batch_size=BATCH_SIZE,
        train_freq=TRAIN_FREQ,
        gradient_steps=round(TRAIN_FREQ * REPLAY_RATIO),
        target_update_interval=1_000,
        exploration_fraction=0.1,
        exploration_final_eps=0.01,
        device=device,
    )
    clock = SB3Clock()
    # one collection more, whose start is the end of the last that is timed
    model.learn(total + TRAIN_FREQ, callback=[clock, *callbacks])
    return Result(clock.marks, bytes_of_sb3(model.replay_buffer))


def bytes_of_sb3(buffer: object) -> int:
    """Of all arrays of a replay buffer of theirs."""
    return sum(array.nbytes for array in vars(buffer).values() if isinstance(array, np.ndarray))


def frugal_sb3() -> ReplayBuffer:
    """Theirs with the option that keeps each stack once; it takes a time limit for an end."""
    images, actions = gym.spaces.Box(0, 255, (4, 84, 84), np.uint8), gym.spaces.Discrete(6)
    return ReplayBuffer(BUFFER_SIZE, images, actions, optimize_memory_usage=True, handle_timeout_termination=False)


RUN = {"ours": run_ours, "sb3": run_sb3}


def report(pairs: list[dict[str, dict[str, float]]], length: Length, threads: int) -> str:
    """All of it in Markdown."""
    rates = {library: [pair[library]["steps_per_second"] for pair in pairs] for library in RUN}
    ratios = [ours / theirs for ours, theirs in zip(rates["ours"], rates["sb3"], strict=True)]
    speed = [(summarize(rates["ours"]), summarize(rates["sb3"]), summarize(ratios))]
    images = BUFFER_SIZE * IMAGE_BYTES
    sizes = [
        ("every image once", images),
        ("ours", int(pairs[0]["ours"]["replay_bytes"])),
        ("SB3", int(pairs[0]["sb3"]["replay_bytes"])),
        ("SB3, optimize_memory_usage", bytes_of_sb3(frugal_sb3())),
    ]
    memory = [(name, f"{size:,}", f"{size / images:.3f}") for name, size in sizes]
    return "\n\n".join(
        [
            f"# DQN on Pong: environment steps per second on {threads} thread(s), median [minimum, maximum]",
            describe_machine(),
            f"{length.steps} steps timed in each run, after {length.warmup} of which {length.learning_starts} random; "
            "four frames to a step, a gradient step to four steps.",
            markdown_table(["ours", "SB3", "ours / SB3"], speed),
            f"Replay memory of {BUFFER_SIZE:,} transitions:",
            markdown_table(["", "bytes", "times that of the images"], memory),
        ]
    )


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--learning-starts", type=int, default=1_000, help="random environment steps")
    parser.add_argument("--warmup", type=int, default=2_000, help="environment steps before those timed, with these")
    parser.add_argument("--steps", type=int, default=4_000, help="environment steps timed in each run")
    parser.add_argument("--output", type=Path, help="also write the report to this file")
    parser.add_argument("--library", choices=list(RUN), help="run just this one")
    parser.add_argument("--smoke", action="store_true", help="one short pair: does everything work?")
    arguments = parser.parse_args()
    length = Length(arguments.learning_starts, arguments.warmup, arguments.steps)
    if arguments.smoke:
        arguments.pairs, length = 1, Length(100, 200, 200)
    if arguments.library is not None:
        torch.set_num_threads(arguments.threads)
        result = RUN[arguments.library](length)
        print(
            "\n"
            + json.dumps({"steps_per_second": rate(result.marks, length.warmup), "replay_bytes": result.replay_bytes})
        )
        return
    options = [f"--learning-starts={length.learning_starts}", f"--warmup={length.warmup}", f"--steps={length.steps}"]
    pairs: list[dict[str, dict[str, Any]]] = []
    with tqdm(total=2 * arguments.pairs, unit="run") as bar:
        for _ in range(arguments.pairs):
            pair = {}
            for library in RUN:
                bar.set_description(library)
                own = [*options, f"--library={library}", f"--threads={arguments.threads}"]
                pair[library] = run_fresh("benchmarks.atari", own, arguments.threads)
                bar.update()
            pairs.append(pair)
    publish(report(pairs, length, arguments.threads), arguments.output)


if __name__ == "__main__":
    main()
