"""The replay buffer's memory and sampling cost, with HalfCheetah-v5's transitions, measured in a fresh process.

Memory: growth of the process's resident set while every row is filled through `ReplayBuffer.add`, against the bytes
that the stored fields need (float32 observations, actions and rewards, one byte for `terminated`). Linux only.

Sampling: the time of `ReplayBuffer.sample` for one batch of 256 from two buffers of equal capacity, one with `--few`
and one with all of its transitions stored, in alternating blocks. It is taken twice: `tight`, where sampling is all
that happens, and `training`, where the compiled gradients of a SAC update run before each sample, so that the
processor's caches hold what they hold in training. From the second follows the share of sampling in an update; its
share in a whole iteration is a row of `benchmarks.profile_iteration`.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from benchmarks.halfcheetah import BATCH_SIZE, ENV_ID
from benchmarks.report import describe_machine, markdown_table, publish, run_fresh, summarize
from rl_lightning import SAC, ReplayBuffer, Transition, make_env
from rl_lightning.compilation import compiled_or_eager

GAMMA = 0.99
BLOCK = 20  # samples from one buffer before the other's turn


def raw_bytes(transitions: int, observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> int:
    """Bytes of the fields as float32, and `terminated` as one byte, without any padding or bookkeeping."""
    obs, action = gym.spaces.flatdim(observation_space), gym.spaces.flatdim(action_space)
    return transitions * (4 * (obs + action + 1 + obs) + 1)


def resident_bytes() -> int:
    """This process's resident set, counted exactly (/proc/self/statm lags behind by some pages)."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("Rss:"))


def fill(buffer: ReplayBuffer, transitions: int, env: gym.Env[Any, Any]) -> None:
    """Add that many transitions, each as the environment gives them: float64 observations, one environment."""
    obs, action = env.observation_space.sample()[None], env.action_space.sample()[None]
    reward, terminated = np.ones(1), np.zeros(1, dtype=bool)
    for _ in range(transitions):
        buffer.add(obs, action, reward, obs, terminated, terminated)


def sampling_microseconds(
    few: ReplayBuffer, full: ReplayBuffer, rounds: int, before: Callable[[Transition], object] | None
) -> dict[str, list[float]]:
    """Times of single samples from each of two buffers, in alternating blocks, with `before` run ahead of each."""
    times: dict[str, list[float]] = {"few": [], "full": []}
    for _ in range(rounds):
        for name, buffer in (("few", few), ("full", full)):
            batch, _ = buffer.sample(1, BATCH_SIZE, GAMMA)
            for _ in range(BLOCK):
                if before is not None:
                    before(Transition(*(field[0] for field in batch)))
                start = time.perf_counter_ns()
                batch, _ = buffer.sample(1, BATCH_SIZE, GAMMA)
                times[name].append((time.perf_counter_ns() - start) / 1e3)
    return times


def measure(transitions: int, few_transitions: int, rounds: int) -> dict[str, Any]:
    """Fill, sample and time in this process; returns numbers by name."""
    env = make_env(ENV_ID)
    assert isinstance(env.observation_space, gym.spaces.Box)
    assert isinstance(env.action_space, gym.spaces.Box)
    spaces = env.observation_space, env.action_space
    rehearsal = ReplayBuffer(BATCH_SIZE, 1, *spaces)  # what torch and numpy allocate once, before memory is read
    fill(rehearsal, BATCH_SIZE, env)
    rehearsal.sample(1, BATCH_SIZE, GAMMA)

    resident = resident_bytes()
    full = ReplayBuffer(transitions, 1, *spaces)
    start = time.perf_counter()
    fill(full, transitions, env)
    add_microseconds = (time.perf_counter() - start) / transitions * 1e6
    growth = resident_bytes() - resident

    few = ReplayBuffer(transitions, 1, *spaces)
    fill(few, few_transitions, env)
    gradients = compiled_or_eager(SAC(*spaces).gradients)
    gradient_times = []

    def update(minibatch: Transition) -> None:
        start = time.perf_counter_ns()
        gradients(minibatch)
        gradient_times.append((time.perf_counter_ns() - start) / 1e3)

    tight = sampling_microseconds(few, full, 5 * rounds, None)
    sampling_microseconds(few, full, 1, update)  # compiles
    gradient_times.clear()
    training = sampling_microseconds(few, full, rounds, update)
    return {
        "raw_bytes": raw_bytes(transitions, *spaces),
        "growth": growth,
        "add_microseconds": add_microseconds,
        "tight": tight,
        "training": training,
        "gradients": gradient_times,
    }


def report(result: dict[str, Any], transitions: int, few: int, threads: int) -> str:
    """All of it in Markdown."""
    raw, growth = result["raw_bytes"], result["growth"]
    rows = []
    for context in ("tight", "training"):
        low, high = summarize(result[context]["few"]), summarize(result[context]["full"])
        rows.append((context, low, high, f"{high.median / low.median:.2f}"))
    sample = summarize(result["training"]["full"]).median
    gradients = summarize(result["gradients"]).median
    return "\n\n".join(
        [
            f"# The replay buffer with {transitions:,} transitions of {ENV_ID}",
            describe_machine(),
            markdown_table(
                ["raw MB", "resident growth, MB", "ratio", "µs to add one"],
                [(f"{raw / 1e6:.1f}", f"{growth / 1e6:.1f}", f"{growth / raw:.3f}", result["add_microseconds"])],
            ),
            f"µs to sample a batch of {BATCH_SIZE}, {threads} torch threads, median [minimum, maximum]:",
            markdown_table(["", f"{few:,} stored", f"{transitions:,} stored", "ratio of medians"], rows),
            f"In training, sampling from the full buffer is {sample / (sample + gradients):.1%} of sampling and "
            f"compiled gradients together (gradients: {gradients:.0f} µs).",
        ]
    )


def main() -> None:
    """Measure in a fresh process and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transitions", type=int, default=1_000_000, help="the buffer's size; all are stored")
    parser.add_argument("--few", type=int, default=10_000, help="stored in the buffer it is compared with")
    parser.add_argument("--rounds", type=int, default=40, help=f"blocks of {BLOCK} samples from each buffer")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, help="also write the report to this file")
    parser.add_argument("--smoke", action="store_true", help="fewer transitions and rounds: does everything work?")
    parser.add_argument("--here", action="store_true", help="measure in this process and print JSON")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.transitions, arguments.rounds = 100_000, 3
    torch.set_num_threads(arguments.threads)
    if arguments.here:
        print(json.dumps(measure(arguments.transitions, arguments.few, arguments.rounds)))
        return
    options = {name: getattr(arguments, name) for name in ("transitions", "few", "rounds", "threads")}
    command = ["--here", *(f"--{name}={value}" for name, value in options.items())]
    result = run_fresh("benchmarks.replay", command, arguments.threads)
    publish(report(result, arguments.transitions, arguments.few, arguments.threads), arguments.output)


if __name__ == "__main__":
    main()
