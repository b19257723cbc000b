"""What a second process gives: environment steps per second of all processes together, one and two in turn.

Every process has the work of a run with one: its own environments, minibatches of the same size, as many gradient
steps. The shipped configs run by the command line, without evaluation, one torch thread a process. A speed is the
median of the rows that the run logs, after the first third, in which it compiles. `exchange` is the share of its time
that a process averages gradients for, waiting for the other one included. `apart` is what two runs of one process give
together while they run side by side: no exchange can do better on this machine.
"""

import argparse
import csv
import json
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.report import describe_machine, markdown_table, publish, run_fresh, summarize
from rl_lightning.algorithms.base import Algorithm
from rl_lightning.cli.main import main as rl_lightning

TASKS = {  # config, environment steps of each process, and flags
    "sac-halfcheetah": ("sac/halfcheetah", 1_000, ["--data.learning_starts=500"]),
    "ppo-halfcheetah": ("ppo/halfcheetah", 20_480, []),
    "ppo-pong": ("ppo/pong", 2_560, ["--data.rollout_steps=32", "--trainer.log_every_n_steps=1"]),
}


class Exchanges:
    """Seconds in `Algorithm.mean_over_processes`, and how many calls there were."""

    def __init__(self) -> None:
        self.seconds, self.calls = 0.0, 0
        mean = Algorithm.mean_over_processes

        def timed(learner: Algorithm, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            start = time.perf_counter()
            result = mean(learner, tensors)
            self.seconds += time.perf_counter() - start
            self.calls += 1
            return result

        Algorithm.mean_over_processes = timed  # type: ignore[method-assign]


def run(task: str, processes: int, folder: Path) -> dict[str, float]:
    """One run, in this process and those that Lightning starts beside it."""
    config, env_steps, flags = TASKS[task]
    torch.set_num_threads(1)
    exchanges = Exchanges()
    devices = [f"--trainer.devices={processes}", "--trainer.accelerator=cpu"]
    strategy = ["--trainer.strategy=ddp"] if processes > 1 else []
    length = [f"--data.total_env_steps={env_steps * processes}", f"--data.env_steps_per_epoch={env_steps * processes}"]
    alone = ["--trainer.limit_val_batches=0", "--trainer.limit_test_batches=0", "--trainer.logger=false"]
    arguments = [*devices, *strategy, *length, *alone, *flags, f"--trainer.default_root_dir={folder}"]
    start = time.perf_counter()
    rl_lightning(["fit", "-c", f"configs/{config}.yaml", *arguments])
    seconds = time.perf_counter() - start
    [file] = folder.glob("**/metrics.csv")
    with file.open() as lines:
        speeds = [float(row["time/env_steps_per_second"] or 0) for row in csv.DictReader(lines)]
    steady = [speed for speed in speeds[len(speeds) // 3 :] if speed]
    return {
        "steps_per_second": statistics.median(steady),
        "exchange": exchanges.seconds / seconds,
        "calls": exchanges.calls,
    }


def measured(task: str, processes: int) -> dict[str, float]:
    """One run in processes of its own."""
    with TemporaryDirectory() as folder:
        options = [f"--tasks={task}", f"--processes={processes}", f"--folder={folder}"]
        return run_fresh("benchmarks.processes", options, threads=1)


def main() -> None:
    """Measure each task with one process, with two, and two apart, in turn; report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--output", type=Path, help="also write the report to this file")
    parser.add_argument("--processes", type=int, help="run the first task just once, with so many")
    parser.add_argument("--folder", type=Path, help="of that run")
    arguments = parser.parse_args()
    if arguments.processes is not None:
        result = run(arguments.tasks[0], arguments.processes, arguments.folder)
        if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
            print("\n" + json.dumps(result))
        sys.exit()
    rows = []
    with tqdm(total=3 * arguments.pairs * len(arguments.tasks), unit="round") as bar:
        for task in arguments.tasks:
            one, two, apart, exchange = [], [], [], []
            for _ in range(arguments.pairs):
                bar.set_description(task)
                one += [measured(task, 1)]
                bar.update()
                both = measured(task, 2)
                two, exchange = [*two, both], [*exchange, both["exchange"]]
                bar.update()
                with ThreadPoolExecutor() as pool:
                    apart.append(sum(run["steps_per_second"] for run in pool.map(measured, [task] * 2, [1] * 2)))
                bar.update()
            alone = [run["steps_per_second"] for run in one]
            ratios = [run["steps_per_second"] / single for run, single in zip(two, alone, strict=True)]
            limits = [together / single for together, single in zip(apart, alone, strict=True)]
            rows.append([task, *map(summarize, (alone, ratios, limits, exchange))])
    header = ["task", "one process, steps/s", "two / one", "apart / one", "exchange"]
    publish("\n\n".join(["# Two processes", describe_machine(), markdown_table(header, rows)]), arguments.output)


if __name__ == "__main__":
    main()
