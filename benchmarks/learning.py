"""Learning curves of one config over several seeds, each run through the real command line in a process of its own.

`rl-lightning fit -c CONFIG --seed_everything=SEED --trainer.default_root_dir=OUTPUT/seed_SEED`, `--parallel` at a time
with one torch thread each. A run's curve is `val/return_mean` over `env_steps` in its metrics.csv; its result is the
test that ends it: mean ± standard deviation over the test episodes (deterministic policy, raw rewards). Written to
OUTPUT: summary.json, summary.md and curve.png (thin: seeds; thick: their mean; dashed: a published result, `--anchor`).

A seed whose seed_SEED/run.json exists has been run and is not run again, so an interrupted series continues, and the
summary can be made anew. Wall time includes evaluation, and depends on what else the machine does.
"""

import argparse
import csv
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm import tqdm

from benchmarks.report import describe_machine, markdown_table, publish

Curve = dict[float, float]  # environment steps to the mean return of the evaluation there


@dataclass(frozen=True)
class Run:
    """What one seed gave; no test result where the run did not get there."""

    seed: int
    test_return_mean: float | None
    test_return_std: float | None
    wall_seconds: float
    command: str
    commit: str
    curve: Curve


def train(config: Path, seed: int, overrides: Sequence[str], output: Path) -> None:
    """Run one seed, unless it has been run; note its command, time and commit in run.json.

    Raises:
        RuntimeError: where the run fails, its output being in log.txt, or OUTPUT holds runs of another command.
    """
    folder = output / f"seed_{seed}"
    options = [f"--seed_everything={seed}", f"--trainer.default_root_dir={folder}", *(f"--{o}" for o in overrides)]
    arguments = ["fit", "-c", str(config), *options]
    command = "OMP_NUM_THREADS=1 " + shlex.join(["rl-lightning", *arguments])
    if (folder / "run.json").exists():
        if json.loads((folder / "run.json").read_text())["command"] != command:
            raise RuntimeError(f"{folder} holds a run of another command: give another --output")
        return
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    commit, start = git_commit(), time.monotonic()
    with (folder / "log.txt").open("w") as log:
        program = Path(sys.executable).with_name("rl-lightning")
        done = subprocess.run([str(program), *arguments], env=environment, stdout=log, stderr=subprocess.STDOUT)
    if done.returncode != 0:
        raise RuntimeError(f"seed {seed} failed with exit status {done.returncode}: see {folder / 'log.txt'}")
    note = {"wall_seconds": time.monotonic() - start, "command": command, "commit": commit}
    (folder / "run.json").write_text(json.dumps(note, indent=2))


def read_metrics(path: Path) -> tuple[Curve, float | None, float | None]:
    """The evaluation curve, and the last test's mean and standard deviation, of one metrics.csv."""
    curve: Curve = {}
    test_mean: float | None = None
    test_std: float | None = None
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            if row.get("val/return_mean") and row.get("env_steps"):
                curve[float(row["env_steps"])] = float(row["val/return_mean"])
            if row.get("test/return_mean"):
                test_mean, test_std = float(row["test/return_mean"]), float(row["test/return_std"])
    return curve, test_mean, test_std


def read_run(folder: Path, seed: int) -> Run:
    """One seed's run, from OUTPUT/seed_SEED/<algorithm>-<env>/<timestamp>-<id>/metrics.csv, the newest if several.

    Raises:
        FileNotFoundError: where there is none.
    """
    found = sorted(folder.glob("*/*/metrics.csv"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise FileNotFoundError(f"no run folder with a metrics.csv under {folder}")
    curve, mean, std = read_metrics(found[-1])
    note = json.loads((folder / "run.json").read_text())
    return Run(seed, mean, std, note["wall_seconds"], note["command"], note["commit"], curve)


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """The mean over seeds, wherever all of them were evaluated."""
    shared = set(curves[0]).intersection(*curves)
    return {steps: statistics.fmean(curve[steps] for curve in curves) for steps in sorted(shared)}


def report(runs: Sequence[Run], name: str, anchor: tuple[float, str] | None) -> str:
    """The summary in Markdown."""
    rows = [
        (run.seed, _plus_minus(run.test_return_mean, run.test_return_std), f"{run.wall_seconds / 60:.1f}", run.commit)
        for run in runs
    ]
    means = [run.test_return_mean for run in runs if run.test_return_mean is not None]
    overall = _plus_minus(statistics.fmean(means), statistics.pstdev(means)) if means else "none"
    return "\n\n".join(
        [
            f"# {name}: {len(runs)} seeds",
            describe_machine(),
            markdown_table(["seed", "test return, mean ± std over episodes", "wall time, min", "commit"], rows),
            f"Over seeds, mean ± std of the {len(means)} test means: {overall}."
            + (f" Published: {anchor[0]:g} ({anchor[1]})." if anchor else ""),
            "\n".join(["```", *(run.command for run in runs), "```"]),
        ]
    )


def plot(runs: Sequence[Run], name: str, anchor: tuple[float, str] | None, output: Path) -> None:
    """Thin lines for seeds, a thick one for their mean, a dashed one for the anchor."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for run in runs:
        points = sorted(run.curve.items())
        axes.plot([x for x, _ in points], [y for _, y in points], color="C0", linewidth=0.7, alpha=0.6)
    mean = mean_curve([run.curve for run in runs])
    axes.plot(list(mean), list(mean.values()), color="C0", linewidth=2.2, label=f"mean of {len(runs)} seeds")
    if anchor:
        axes.axhline(anchor[0], color="black", linestyle="--", linewidth=1, label=f"{anchor[1]}: {anchor[0]:g}")
    axes.set(title=name, xlabel="environment steps", ylabel="evaluation return")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(output, dpi=150)


def git_commit() -> str:
    """The repository's commit, with -dirty where files differ from it; "unknown" outside of a repository."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def _plus_minus(mean: float | None, std: float | None) -> str:
    return "none" if mean is None or std is None else f"{mean:.1f} ± {std:.1f}"


def main() -> None:
    """Run what has not been run, then summarize and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="e.g. configs/sac/pendulum.yaml")
    parser.add_argument("--output", type=Path, required=True, help="folder of runs, summary and curve")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--parallel", type=int, default=2, help="runs at a time")
    parser.add_argument("--anchor", nargs=2, metavar=("VALUE", "LABEL"), help="a published result to draw")
    parser.add_argument("--override", nargs="+", default=[], metavar="KEY=VALUE", help="e.g. data.total_env_steps=5000")
    parser.add_argument("--name", help="title; by default the config's folder and file name")
    arguments = parser.parse_args()
    anchor = (float(arguments.anchor[0]), arguments.anchor[1]) if arguments.anchor else None
    name = arguments.name or f"{arguments.config.parent.name}/{arguments.config.stem}"

    with ThreadPoolExecutor(arguments.parallel) as pool:
        jobs = [
            pool.submit(train, arguments.config, seed, arguments.override, arguments.output) for seed in arguments.seeds
        ]
        for job in tqdm(as_completed(jobs), total=len(jobs), unit="seed"):
            job.result()
    runs = [read_run(arguments.output / f"seed_{seed}", seed) for seed in arguments.seeds]
    (arguments.output / "summary.json").write_text(json.dumps([asdict(run) for run in runs], indent=2))
    publish(report(runs, name, anchor), arguments.output / "summary.md")
    plot(runs, name, anchor, arguments.output / "curve.png")


if __name__ == "__main__":
    main()
