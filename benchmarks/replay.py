"""The replay buffer's memory and sampling cost, with HalfCheetah-v5's transitions, measured in a fresh process.

Memory: growth of the process's resident set while every row is filled through `ReplayBuffer.add`, against the bytes
that the stored fields need (float32 observations, actions and rewards, one byte for `terminated`). Linux only.

Sampling: the time of `ReplayBuffer.sample` for one batch of 256 from two buffers of equal capacity, one with `--few`
and one with all of its transitions stored, in alternating blocks. It is taken twice: `tight`, where sampling is all
that happens, and `training`, where the compiled gradients of a SAC update run before each sample, so that the
processor's caches hold what they hold in training. From the second follows the share of sampling in an update; its
share in a whole environment step is a row of `benchmarks.profile_off_policy`.

Prioritized: what drawing by priority, giving new ones and adding with one take more than the uniform counterparts, both
buffers full, with the compiled gradients of a TD3 update in between. Beside it the time of those gradients alone, which
is less than that of a whole step of TD3.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from benchmarks.halfcheetah import BATCH_SIZE, ENV_ID
from benchmarks.report import describe_machine, markdown_table, publish, run_fresh, summarize
from rl_lightning import SAC, TD3, ReplayBuffer, Transition, make_env
from rl_lightning.fast.compilation import compiled_or_eager

GAMMA, ALPHA, BETA = 0.99, 0.6, 0.4
BLOCK = 20  # samples from one buffer before the other's turn


def raw_bytes(transitions: int, observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> int:
    """Bytes of the fields as float32, and `terminated` as one byte, without any padding or bookkeeping."""
    obs, action = gym.spaces.flatdim(observation_space), gym.spaces.flatdim(action_space)
    return transitions * (4 * (obs + action + 1 + obs) + 1)


def resident_bytes() -> int:
    """This process's resident set, counted exactly (/proc/self/statm lags behind by some pages)."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("Rss:"))


def fill(buffer: ReplayBuffer, transitions: int, env: gym.Env[Any, Any]) -> float:
    """Add that many transitions, each as the environment gives them: float64 observations. Returns µs for each."""
    obs, action = env.observation_space.sample()[None], env.action_space.sample()[None]
    reward, terminated = np.ones(1), np.zeros(1, dtype=bool)
    start = time.perf_counter()
    for _ in range(transitions):
        buffer.add(obs, action, reward, obs, terminated, terminated)
    return (time.perf_counter() - start) / transitions * 1e6


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


def prioritized_microseconds(
    uniform: ReplayBuffer, prioritized: ReplayBuffer, rounds: int, td3: TD3
) -> dict[str, list[float]]:
    """Times of sampling a batch from each buffer, priorities given back included, and of TD3's gradients in between."""
    gradients = compiled_or_eager(lambda *batch: td3.gradients(*batch).detach())
    names = {"uniform": uniform, "prioritized": prioritized}
    times: dict[str, list[float]] = {name: [] for name in (*names, "td3_gradients")}
    for step in range(2 * rounds * BLOCK):
        policy_is_due = step % 4 < 2  # for every second batch of each buffer
        name = ("uniform", "prioritized")[step % 2]
        start = time.perf_counter_ns()
        batch, index = names[name].sample(1, BATCH_SIZE, GAMMA, BETA)
        sampled = time.perf_counter_ns()
        found = gradients(Transition(*(field[0] for field in batch)), policy_is_due)
        learned = time.perf_counter_ns()
        if name == "prioritized":
            assert found.td_error is not None
            prioritized.update_priorities(index[0], found.td_error)
        end = time.perf_counter_ns()
        if step >= 2 * BLOCK:  # the first compile
            times[name].append((sampled - start + end - learned) / 1e3)
            times["td3_gradients"].append((learned - sampled) / 1e3)
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
    add_microseconds = fill(full, transitions, env)
    growth = resident_bytes() - resident

    few = ReplayBuffer(transitions, 1, *spaces)
    fill(few, few_transitions, env)
    sac = SAC(*spaces)
    gradients = compiled_or_eager(lambda minibatch: sac.gradients(minibatch).detach())
    gradient_times = []

    def update(minibatch: Transition) -> None:
        start = time.perf_counter_ns()
        gradients(minibatch)
        gradient_times.append((time.perf_counter_ns() - start) / 1e3)

    tight = sampling_microseconds(few, full, 5 * rounds, None)
    sampling_microseconds(few, full, 1, update)  # compiles
    gradient_times.clear()
    training = sampling_microseconds(few, full, rounds, update)
    prioritized = ReplayBuffer(transitions, 1, *spaces, priority_alpha=ALPHA)
    add_prioritized_microseconds = fill(prioritized, transitions, env)
    return {
        **prioritized_microseconds(full, prioritized, rounds, TD3(*spaces)),
        "add_prioritized_microseconds": add_prioritized_microseconds,
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
    uniform, prioritized = summarize(result["uniform"]), summarize(result["prioritized"])
    adding = result["add_microseconds"], result["add_prioritized_microseconds"]
    more = prioritized.median - uniform.median + adding[1] - adding[0]
    td3 = fmean(result["td3_gradients"])
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
            "µs to sample a batch and give its priorities back, and to add a transition:",
            markdown_table(
                ["", "sample", "add"], [("uniform", uniform, adding[0]), ("prioritized", prioritized, adding[1])]
            ),
            f"Prioritized replay adds {more:.0f} µs, {more / td3:.1%} of the compiled gradients of TD3 ({td3:.0f} µs).",
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
