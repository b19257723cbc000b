"""Fine-tuning against learning from scratch, after an environment's dynamics have changed: docs/results/fine_tuning.md.

    OMP_NUM_THREADS=1 python -m benchmarks.fine_tuning DIR
    OMP_NUM_THREADS=1 python -m benchmarks.fine_tuning DIR --task halfcheetah

For each seed three runs of the shipped config through the real command line, one after the other in this process:
`before` learns the environment as it is; `scratch` learns the changed one; `fine-tuned` learns the changed one too,
with all networks of the best checkpoint of `before`, and everything else fresh: optimizers, replay, random steps too.
On HalfCheetah all seeds are fine-tuned from one `before`, that of seed 0, because it takes longest.

The result of a run is the environment steps, random ones included, at the first of two evaluations in succession whose
mean return is at the target or above. A run stops there, or at the end of its budget. The old policy is also evaluated
in the changed environment as it is, at 0 steps. A run that DIR has is not run again; the report is of what DIR has.
"""

import argparse
import json
import logging
import shlex
import statistics
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from tqdm import tqdm

from benchmarks.learning import git_commit, read_metrics
from benchmarks.report import describe_machine, markdown_table, publish
from rl_lightning.cli.main import RLCLI

IN_SUCCESSION = 2  # evaluations at the target


@dataclass(frozen=True)
class Task:
    """An environment, how it changes, and what is to be reached before and after."""

    config: str
    settings: tuple[str, ...]  # of all runs
    change: tuple[str, ...]
    budget_before: int  # environment steps of a run
    budget: int  # of one in the changed environment
    target_before: float | None  # None: the whole budget
    target: float
    one_before: bool  # fine-tunes every seed from the run of seed 0


TASKS = {
    "pendulum": Task(
        config="configs/sac/pendulum.yaml",
        settings=("data.env_steps_per_epoch=500", "data.learning_starts=500"),
        change=("data.env_kwargs.g=15",),
        budget_before=10_000,
        budget=10_000,
        target_before=-200.0,
        target=-250.0,
        one_before=False,
    ),
    "halfcheetah": Task(
        config="configs/sac_v2/halfcheetah.yaml",
        settings=(),
        change=("data.env_id=benchmarks.gravity:HalfCheetahGravity-v5", "data.env_kwargs.gravity=-14.715"),
        budget_before=100_000,
        budget=40_000,
        target_before=None,
        target=5_000.0,
        one_before=True,
    ),
}
RUNS = ("before", "scratch", "fine-tuned")


class StopAtTarget(Callback):
    """Ends a run once evaluations in succession have reached a return.

    Args:
        target: the mean return.
    """

    def __init__(self, target: float) -> None:
        self.target, self.reached = target, 0

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count."""
        value = trainer.callback_metrics["val/return_mean"].item()
        self.reached = self.reached + 1 if value >= self.target else 0
        trainer.should_stop = trainer.should_stop or self.reached == IN_SUCCESSION


def steps_to(curve: list[tuple[float, float]], target: float) -> float | None:
    """Environment steps at the first of two evaluations in succession at the target or above; None if there are none.

    Args:
        curve: environment steps and mean return of each evaluation, in order.
        target: the mean return.
    """
    good = [value >= target for _, value in curve]
    for index in range(len(curve) - IN_SUCCESSION + 1):
        if all(good[index : index + IN_SUCCESSION]):
            return curve[index][0]
    return None


def arguments_of(task: Task, name: str, seed: int, output: Path) -> list[str]:
    """The command line of a run, after the subcommand."""
    flags = [f"--{setting}" for setting in task.settings]
    if name != "before":
        flags += [f"--{setting}" for setting in task.change]
    if name == "fine-tuned":
        before = folder_of("before", 0 if task.one_before else seed, output)
        flags.append(f"--init_from={run_folder(before)}")
    quiet = ["--trainer.logger=false", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    return ["-c", task.config, f"--seed_everything={seed}", "--data.save_buffer=false", *quiet, *flags]


def folder_of(name: str, seed: int, output: Path) -> Path:
    """Where a run of this name and seed puts its own folder."""
    return output / f"seed_{seed}" / name


def run_folder(root: Path) -> Path:
    """The one run under a root.

    Raises:
        FileNotFoundError: where there is none.
    """
    found = [path.parent for path in root.glob("*/*/metrics.csv")]
    if not found:
        raise FileNotFoundError(f"no run under {root}")
    return max(found, key=lambda path: path.stat().st_mtime)


def train(task: Task, name: str, seed: int, output: Path) -> dict[str, Any]:
    """One run: its evaluations, what it reached, and its command."""
    is_before = name == "before"
    target, budget = (task.target_before, task.budget_before) if is_before else (task.target, task.budget)
    arguments, root = arguments_of(task, name, seed, output), folder_of(name, seed, output)
    curve = []
    if name == "fine-tuned":
        before = RLCLI(["validate", *arguments])
        curve.append((0.0, before.trainer.callback_metrics["val/return_mean"].item()))
    arguments += [
        f"--trainer.default_root_dir={root}",
        f"--data.total_env_steps={budget}",
        "--data.test_episodes=10",
    ]
    if target is not None:
        arguments += [
            "--trainer.callbacks=benchmarks.fine_tuning.StopAtTarget",
            f"--trainer.callbacks.target={target}",
        ]
    commit, start = git_commit(), time.process_time()
    RLCLI(["fit", *arguments])
    evaluations, _, _ = read_metrics(run_folder(root) / "metrics.csv")
    curve += sorted(evaluations.items())
    return {
        "seed": seed,
        "run": name,
        "target": target,
        "reached_at": None if target is None else steps_to(curve, target),
        "curve": curve,
        "budget": budget,
        "cpu_seconds": time.process_time() - start,
        "command": shlex.join(["rl-lightning", "fit", *arguments]).replace(str(output), "DIR"),
        "commit": commit,
    }


def run_all(task: Task, output: Path, seeds: list[int]) -> None:
    """Every run that OUTPUT has not."""
    wanted = [(seed, name) for seed in seeds for name in RUNS if name != "before" or seed == 0 or not task.one_before]
    for seed, name in tqdm(wanted, unit="run"):
        path = output / f"{name}-{seed}.json"
        if not path.exists():
            output.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(train(task, name, seed, output), indent=1))


def read(output: Path, name: str) -> list[dict[str, Any]]:
    """The runs of this name that OUTPUT has."""
    return [json.loads(path.read_text()) for path in sorted(output.glob(f"{name}-[0-9]*.json"))]


def shown(run: dict[str, Any] | None) -> str:
    """What it reached, for the table."""
    if run is None:
        return "not run"
    return f"not within {run['budget']:,}" if run["reached_at"] is None else f"{run['reached_at']:,.0f}"


def report(task: Task, output: Path) -> str:
    """The table in Markdown."""
    runs = {name: {run["seed"]: run for run in read(output, name)} for name in RUNS}
    seeds = sorted(set().union(*runs.values()))
    rows = []
    for seed in seeds:
        tuned = runs["fine-tuned"].get(seed)
        as_it_is = f"{tuned['curve'][0][1]:.0f}" if tuned else "not run"
        rows.append((seed, as_it_is, shown(tuned), shown(runs["scratch"].get(seed))))
    medians = []
    for name in ("fine-tuned", "scratch"):
        # a run that did not get there counts as longer than any budget
        steps = [float("inf") if run["reached_at"] is None else run["reached_at"] for run in runs[name].values()]
        if steps:
            median = statistics.median(steps)
            words = f"{median:,.0f}" if median < float("inf") else f"not within {task.budget:,}"
            medians.append(f"{name} {words} (of {len(steps)} seeds)")
    header = ["seed", "old policy as it is", "fine-tuned, steps to target", "from scratch, steps to target"]
    commits = sorted({run["commit"] for named in runs.values() for run in named.values()})
    return "\n\n".join(
        [
            f"Target: two evaluations in succession at {task.target:g} or above. Commit {', '.join(commits)}.",
            describe_machine(),
            markdown_table(header, rows),
            f"Median steps: {'; '.join(medians)}.",
        ]
    )


def plot(task: Task, output: Path, picture: Path) -> None:
    """Evaluation returns over environment steps, a line for each run, up to where it stopped."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for color, name in (("C0", "fine-tuned"), ("C1", "scratch")):
        for number, run in enumerate(read(output, name)):
            label = {"label": name if name == "fine-tuned" else "from scratch"} if number == 0 else {}
            axes.plot(*zip(*run["curve"], strict=True), color=color, linewidth=1.2, marker=".", **label)
    axes.axhline(task.target, color="black", linestyle="--", linewidth=1, label=f"target {task.target:g}")
    axes.set(xlabel="environment steps", ylabel="evaluation return", title=task.change[-1])
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(picture, dpi=100)


def main() -> None:
    """Run what has not been run, then report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder of the runs")
    parser.add_argument("--task", choices=list(TASKS), default="pendulum")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4], help="none only reports")
    arguments = parser.parse_args()
    task, output = TASKS[arguments.task], arguments.output
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    run_all(task, output, arguments.seeds)
    publish(report(task, output), output / "report.md")
    plot(task, output, output / "fine_tuning.png")


if __name__ == "__main__":
    main()
