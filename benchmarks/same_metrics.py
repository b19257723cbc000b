"""Whether a change leaves learning as it is: every shipped config for a small budget, `metrics.csv` digit by digit.

    python -m benchmarks.same_metrics record BEFORE --checkout OTHER_CHECKOUT
    python -m benchmarks.same_metrics record AFTER
    python -m benchmarks.same_metrics compare BEFORE AFTER

`record` runs the configs of a checkout with that checkout's own code, one torch thread, and keeps each run's metrics as
OUTPUT/ALGORITHM-TASK.csv. Networks, optimizers, noise and compilation are the shipped ones; only the run is shortened.
Learning-rate schedules are all replaced by one that counts gradient steps, since a schedule over the run depends on its
length. `compare` ignores `time/`, names each column and row that differs, and exits with 1 if any does. Both sides must
be recorded on one machine: another processor rounds in another order.
"""

import argparse
import csv
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from benchmarks.report import markdown_table

SCHEDULE = {
    "class_path": "torch.optim.lr_scheduler.LinearLR",
    "init_args": {"start_factor": 1.0, "end_factor": 0.0, "total_iters": 1_000},
}
Row = dict[str, str]


def shortened(settings: dict[str, Any], eager: bool) -> dict[str, Any]:
    """The settings of a config, changed to a run of seconds that learns, evaluates and writes several rows."""
    data, model = settings["data"]["init_args"], settings["model"]["init_args"]
    for name in [key for key in model if key.endswith("_scheduler") and model[key] is not None]:
        model[name] = SCHEDULE
    if eager and "compile" in model:
        model["compile"] = False
    if data["env_id"].startswith("rl_lightning.") and "atari" in data["env_id"]:
        data["env_kwargs"]["max_episode_steps"] = 60
    if settings["data"]["class_path"] == "rl_lightning.ReplayDataModule":
        iteration = data["train_freq"] * data["num_envs"]
        data["learning_starts"] = 256
        data["env_steps_per_batch"] = max(16, iteration)
        data["env_steps_per_epoch"] = max(128, iteration)
        data["total_env_steps"] = 256 + 4 * data["env_steps_per_epoch"]
        data["buffer_size"] = min(data["buffer_size"], 50_000)
    else:
        rollout = (data["rollout_steps"] or 250) * data["num_envs"]
        batch = rollout * math.ceil(64 / rollout)
        data["env_steps_per_batch"], data["env_steps_per_epoch"] = batch, 2 * batch
        data["total_env_steps"] = max(4 * batch, 512)
    data["eval_episodes"], data["test_episodes"] = 2, 2
    settings["trainer"]["log_every_n_steps"] = 1
    settings["trainer"]["logger"] = False
    return settings


def record(checkout: Path, output: Path, eager: bool, only: str) -> None:
    """Run the configs of a checkout; those whose metrics are there already are not run again.

    Raises:
        RuntimeError: where a run fails, with what it printed.
    """
    output.mkdir(parents=True, exist_ok=True)
    runs = [path for path in sorted(checkout.glob("configs/*/*.yaml")) if path.parent.name != "sweeps"]
    configs = [path for path in runs if only in f"{path.parent.name}-{path.stem}"]
    for config in tqdm(configs, unit="config"):
        kept = output / f"{config.parent.name}-{config.stem}.csv"
        if kept.exists():
            continue
        with tempfile.TemporaryDirectory() as folder:
            short = Path(folder) / config.name
            short.write_text(yaml.safe_dump(shortened(yaml.safe_load(config.read_text()), eager)))
            root = f"--trainer.default_root_dir={folder}/runs"
            run = subprocess.run(
                [sys.executable, "-m", "rl_lightning", "fit", "-c", str(short), root, "--trainer.accelerator=cpu"],
                cwd=checkout,
                env=os.environ
                | {
                    "OMP_NUM_THREADS": "1",
                    "PYTHONPATH": str(checkout),
                    "RL_LIGHTNING_PRODUCTS": "torch",  # not chosen by the clock
                    "WANDB_MODE": "disabled",
                },
                capture_output=True,
                text=True,
            )
            if run.returncode:
                raise RuntimeError(f"{config} failed:\n{run.stdout[-2000:]}\n{run.stderr[-4000:]}")
            [metrics] = Path(folder).glob("runs/*/*/metrics.csv")
            kept.write_bytes(metrics.read_bytes())


def differences(before: list[Row], after: list[Row]) -> dict[str, list[int]]:
    """The columns, `time/` aside, in which two runs differ, each with the numbers of the rows, from 1.

    A column that only one of them has differs in every row; so do rows that only one of them has.
    """
    found: dict[str, list[int]] = {}
    columns = sorted({name for rows in (before, after) for row in rows for name in row if not name.startswith("time/")})
    for name in columns:
        for number in range(1, max(len(before), len(after)) + 1):
            old, new = (rows[number - 1].get(name) if number <= len(rows) else None for rows in (before, after))
            if old != new:
                found.setdefault(name, []).append(number)
    return found


def compare(before: Path, after: Path) -> bool:
    """Print a table of what differs; whether nothing does.

    Raises:
        RuntimeError: where the two folders do not hold the same runs, or none.
    """
    names = sorted(path.name for path in before.glob("*.csv"))
    if not names or names != sorted(path.name for path in after.glob("*.csv")):
        raise RuntimeError(f"{before} and {after} do not hold the same runs: record both with the same configs")
    rows, same = [], True
    for name in names:
        old, new = ([*csv.DictReader((folder / name).open())] for folder in (before, after))
        found = differences(old, new)
        same = same and not found
        told = "; ".join(f"{column}: rows {', '.join(map(str, numbers))}" for column, numbers in found.items())
        rows.append((name.removesuffix(".csv"), len(new), told or "none"))
    print(markdown_table(["run", "rows", "differences"], rows))
    return same


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record")
    recording.add_argument("output", type=Path)
    recording.add_argument("--checkout", type=Path, default=Path.cwd(), help="whose code and configs to run")
    recording.add_argument("--eager", action="store_true", help="without compiling: faster, for a first look")
    recording.add_argument("--only", default="", help="runs whose ALGORITHM-TASK contains this")
    comparing = commands.add_parser("compare")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    args = parser.parse_args()
    if args.command == "record":
        record(args.checkout.resolve(), args.output, args.eager, args.only)
    else:
        sys.exit(0 if compare(args.before, args.after) else 1)


if __name__ == "__main__":
    main()
