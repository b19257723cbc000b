"""What the speed benchmarks share: clocks inside both libraries, fresh processes that alternate, a table of ratios.

Two libraries alternate, each in a fresh process, with the same number of torch threads; a pair gives one ratio, ours /
theirs. Time is taken inside the process, after a task's warm-up: starting Python and compiling are excluded, on both
sides. Ours runs as users run it: Lightning's Trainer with a CSVLogger, the progress bar and compiled gradients;
Stable-Baselines3 with its defaults, silent.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from stable_baselines3.common.callbacks import BaseCallback
from tqdm import tqdm

from benchmarks.report import describe_machine, markdown_table, publish, run_fresh, summarize
from rl_lightning import EnvStepsProgressBar

Marks = list[tuple[int, float]]  # environment steps, and the time in seconds


class LightningClock(Callback):
    """Notes environment steps and the time after each training batch."""

    def __init__(self) -> None:
        self.marks: Marks = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """After learning from the batch."""
        self.marks.append((pl_module.env_steps, time.perf_counter()))  # type: ignore[arg-type]


class SB3Clock(BaseCallback):
    """Notes environment steps and the time before each collection, that is after learning from the last."""

    def __init__(self) -> None:
        super().__init__()
        self.marks: Marks = []

    def _on_rollout_start(self) -> None:
        self.marks.append((self.num_timesteps, time.perf_counter()))

    def _on_step(self) -> bool:
        return True


def fit(
    model: LightningModule,
    data: LightningDataModule,
    callbacks: Sequence[Callback] = (),
    accelerator: str = "cpu",
    precision: Literal["32-true", "bf16-mixed"] = "32-true",
) -> Marks:
    """Train ours, without evaluation, and keep nothing."""
    clock = LightningClock()
    with tempfile.TemporaryDirectory() as folder:
        Trainer(
            accelerator=accelerator,
            devices=1,
            precision=precision,
            max_epochs=-1,
            limit_val_batches=0,
            logger=CSVLogger(folder),
            callbacks=[EnvStepsProgressBar(), clock, *callbacks],
            default_root_dir=folder,
        ).fit(model, data)
    return clock.marks


def rate(marks: Marks, warmup: int) -> float:
    """Environment steps per second from the first mark at or after `warmup` to the last."""
    timed = [mark for mark in marks if mark[0] >= warmup]
    (first_steps, first_time), (last_steps, last_time) = timed[0], timed[-1]
    return (last_steps - first_steps) / (last_time - first_time)


def compare(
    program: str,
    title: str,
    description: str,
    warmups: dict[str, int],
    run: dict[str, Callable[[str], Marks]],
    default_pairs: int = 5,
) -> None:
    """The command line of a benchmark: measure every task and report.

    Args:
        program: the benchmark's module, to be run again for each measurement.
        title: of the report.
        description: for --help.
        warmups: by task, environment steps before the time is taken.
        run: "ours" and "sb3": trains the task and returns its marks.
        default_pairs: of runs.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=list(warmups), default=list(warmups))
    parser.add_argument("--pairs", type=int, default=default_pairs)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, help="also write the report to this file")
    parser.add_argument("--library", choices=list(run), help="run just this one, of the first task")
    arguments = parser.parse_args()
    if arguments.library is not None:
        torch.set_num_threads(arguments.threads)
        marks = run[arguments.library](arguments.tasks[0])
        print("\n" + json.dumps({"steps_per_second": rate(marks, warmups[arguments.tasks[0]])}))
        return
    rates = measure(program, arguments.tasks, arguments.pairs, arguments.threads, list(run))
    heading = f"# {title}: environment steps per second on {arguments.threads} thread(s), median [minimum, maximum]"
    publish("\n\n".join([heading, describe_machine(), table(rates)]), arguments.output)


def measure(
    program: str, tasks: Iterable[str], pairs: int, threads: int, libraries: list[str]
) -> dict[str, list[list[float]]]:
    """Steps per second of each library, by task and pair."""
    rates: dict[str, list[list[float]]] = {name: [] for name in tasks}
    with tqdm(total=len(libraries) * pairs * len(rates), unit="run") as bar:
        for _ in range(pairs):
            for name, measured in rates.items():
                pair = []
                for library in libraries:
                    bar.set_description(f"{library} {name}")
                    options = [f"--tasks={name}", f"--library={library}", f"--threads={threads}"]
                    pair.append(run_fresh(program, options, threads)["steps_per_second"])
                    bar.update()
                measured.append(pair)
    return rates


def table(rates: dict[str, list[list[float]]]) -> str:
    """Both libraries' rates and their ratio, by task."""
    rows = [
        (
            name,
            summarize([ours for ours, _ in measured]),
            summarize([theirs for _, theirs in measured]),
            summarize([ours / theirs for ours, theirs in measured]),
        )
        for name, measured in rates.items()
    ]
    return markdown_table(["task", "ours", "SB3", "ours / SB3"], rows)
