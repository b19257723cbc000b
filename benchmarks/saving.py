"""What a checkpoint with a full replay buffer of HalfCheetah-v5's transitions costs, in time and in memory.

Time: a checkpoint that replaces the one before is saved in turn by `AtomicCheckpointIO` and by Lightning's own
`TorchCheckpointIO`, and as many bytes are written to a file and synced as any program would; then `AtomicCheckpointIO`
reads and checks it. The state is taken anew for every save, as a trainer does. Lightning's does not sync: `sync` is
what the same takes with its file synced.

Memory: how far the largest resident set of a forked process rises above what it began with, for one save. Linux only.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from tempfile import TemporaryDirectory

import gymnasium as gym
import numpy as np
from lightning.fabric.plugins import TorchCheckpointIO

from benchmarks.report import describe_machine, markdown_table, summarize
from rl_lightning import ReplayBuffer
from rl_lightning.checkpoints.io import AtomicCheckpointIO

OBSERVATION, ACTION = gym.spaces.Box(-np.inf, np.inf, (17,)), gym.spaces.Box(-1.0, 1.0, (6,))


def full_buffer(transitions: int) -> ReplayBuffer:
    """A buffer whose every byte has been written."""
    buffer = ReplayBuffer(transitions, 1, OBSERVATION, ACTION)
    generator = np.random.default_rng(0)
    for start in range(0, transitions, 10_000):
        buffer.storage.obs[start : start + 10_000] = float(generator.normal())
        buffer.storage.next_obs[start : start + 10_000] = float(generator.normal())
        buffer.storage.action[start : start + 10_000] = float(generator.normal())
    buffer.storage.reward.fill_(1.0)
    buffer.storage.terminated.fill_(False)
    buffer.storage.truncated.fill_(False)
    buffer.steps = buffer.filled_rows = transitions
    return buffer


def sync(path: Path) -> None:
    """Wait until a file is on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def ways(buffer: ReplayBuffer, folder: Path) -> dict[str, Callable[[], object]]:
    """What is measured, each over the file that it wrote before."""
    ours, theirs, plain = folder / "ours.ckpt", folder / "theirs.ckpt", folder / "plain"
    atomic, torchs = AtomicCheckpointIO(), TorchCheckpointIO()

    def write_plainly() -> None:
        with plain.open("wb", buffering=0) as file:
            view = memoryview(buffer.state_dict()["memory"].numpy()).cast("B")
            while view:
                view = view[file.write(view) :]
            os.fsync(file.fileno())

    def save_by_lightning() -> None:
        torchs.save_checkpoint({"buffer": buffer.state_dict()}, str(theirs))

    return {
        "plain": write_plainly,
        "ours": lambda: atomic.save_checkpoint({"buffer": buffer.state_dict()}, ours),
        "lightning": save_by_lightning,
        "lightning, sync": lambda: (save_by_lightning(), sync(theirs)),
        "read": lambda: atomic.load_checkpoint(ours),
    }


def seconds(do: Callable[[], object]) -> float:
    """How long it takes, after whatever was written before is on the disk."""
    os.sync()
    start = time.perf_counter()
    do()
    return time.perf_counter() - start


def rise_in_memory(do: Callable[[], object]) -> float:
    """Megabytes by which the largest resident set of a fork rises while it does that."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        before = resident()
        do()
        os.write(writing, str(getrusage(RUSAGE_SELF).ru_maxrss * 1024 - before).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with open(reading) as result:
        return int(result.read()) / 1e6


def resident() -> int:
    """This process's resident set in bytes."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("Rss:"))


def main() -> None:
    """Measure, print a report, and save it where `--output` says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transitions", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path(), help="Where to write; it needs three times the buffer.")
    parser.add_argument("--output", type=Path, help="A JSON file for the results.")
    arguments = parser.parse_args()
    buffer = full_buffer(arguments.transitions)
    with TemporaryDirectory(dir=arguments.folder) as folder:
        measured = ways(buffer, Path(folder))
        for do in measured.values():
            do()
        times = {name: [0.0] * arguments.rounds for name in measured}
        for number in range(arguments.rounds):
            for name, do in measured.items():
                times[name][number] = seconds(do)
        rises = {name: rise_in_memory(do) for name, do in measured.items()}
    ratios = {name: [own / plain for own, plain in zip(times[name], times["plain"], strict=True)] for name in times}
    rows = [[name, str(summarize(times[name])), str(summarize(ratios[name])), rises[name]] for name in measured]
    table = markdown_table(["", "seconds", "in plain writes", "rise in MB"], rows)
    print(f"{buffer.nbytes / 1e6:.0f} MB, {arguments.rounds} rounds\n\n{table}\n\n{describe_machine()}")
    if arguments.output is not None:
        arguments.output.write_text(json.dumps({"bytes": buffer.nbytes, "seconds": times, "rise_mb": rises}, indent=1))


if __name__ == "__main__":
    main()
