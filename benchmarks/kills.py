"""Kill runs at random moments, resume them, and compare with the run that was never stopped.

    python -m benchmarks.kills OUT --kills 200

Every task is a short run of `rl-lightning fit`. One goes through to its end. Another gets SIGKILL at random moments,
goes on with `rl-lightning resume` in a new process each time, and is killed again, before it may end. Then both must
have the same `metrics.csv`, times aside, and the same `last.ckpt`: weights, targets, optimizers, schedules, replay,
episodes under way, random numbers, counters. *Lost* is a run that cannot go on, *unequal* one that differs.

Processes are forked from this one, which has imported the package but done nothing with it. The killer's moments come
from a generator with a fixed seed; where a run stands at such a moment depends on the machine.
"""

import argparse
import csv
import json
import os
import random
import signal
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import yaml
from tqdm import tqdm

from benchmarks.report import describe_machine
from rl_lightning.cli.main import main as rl_lightning

TINY = {"class_path": "rl_lightning.MLP", "init_args": {"hidden_sizes": [16]}}


def off_policy(learner: str, env_id: str, model: dict[str, Any] | None = None, **data: Any) -> dict[str, Any]:
    """Settings of a learner from replay: 420 environment steps."""
    given = {
        "env_id": env_id,
        "total_env_steps": 420,
        "env_steps_per_epoch": 100,
        "learning_starts": 60,
        "batch_size": 16,
    }
    return config(learner, model, "ReplayDataModule", given | {"buffer_size": 300} | data)


def on_policy(learner: str, env_id: str, model: dict[str, Any] | None = None, **data: Any) -> dict[str, Any]:
    """Settings of a learner from rollouts."""
    given = {"env_id": env_id, "total_env_steps": 1_600, "env_steps_per_epoch": 400, "rollout_steps": 20, "num_envs": 2}
    return config(learner, model, "RolloutDataModule", given | data)


def config(learner: str, model: dict[str, Any] | None, kind: str, data: dict[str, Any]) -> dict[str, Any]:
    """A whole config: a row every three batches, a checkpoint every 37 environment steps."""
    own = {"network": TINY} | ({} if learner == "REINFORCE" else {"compile": False}) | (model or {})
    return {
        "seed_everything": 3,
        "trainer": {"logger": False, "log_every_n_steps": 3, "accelerator": "cpu", "enable_progress_bar": False},
        "checkpoint": {"every_env_steps": 37},
        "model": {"class_path": f"rl_lightning.{learner}", "init_args": own},
        "data": {"class_path": f"rl_lightning.{kind}", "init_args": {"eval_episodes": 1, "test_episodes": 1} | data},
    }


NOISE = {"class_path": "rl_lightning.ActionNoise", "init_args": {"std": 0.3, "correlation": 0.9}}
LINEAR = {"class_path": "rl_lightning.optim.EnvStepsLR", "init_args": {"schedule": "linear"}}
NORMAL = {"normalize_observations": True, "normalize_returns": True, "batch_size": 20, "policy_scheduler": LINEAR}
CRITIC = {"class_path": "rl_lightning.OffPolicyCritic", "init_args": {"network": TINY}}
Q_PROP = {"estimator": {"class_path": "rl_lightning.QProp"}, "critic": CRITIC, "batch_size": 20}

TASKS = {
    "SAC": off_policy("SAC", "Pendulum-v1"),
    "SAC, 3 environments": off_policy("SAC", "Pendulum-v1", num_envs=3, train_freq=2, replay_ratio=0.5),
    "SAC, async": off_policy("SAC", "Pendulum-v1", num_envs=2, vectorization="async"),
    "TD3, overlap": off_policy("TD3", "Pendulum-v1", num_envs=2, vectorization="async", overlap=True),
    "SAC, compiled": off_policy("SAC", "Pendulum-v1", {"compile": True}),
    "SACv2, MuJoCo": off_policy("SACv2", "Hopper-v5"),
    "TD3, MuJoCo": off_policy("TD3", "HalfCheetah-v5"),
    "DDPG, OU noise": off_policy("DDPG", "Pendulum-v1", {"noise": NOISE}),
    "DQN, prioritized 3-step": off_policy("DQN", "CartPole-v1", n_step=3, priority_alpha=0.6, buffer_size=128),
    "DQN, Atari": off_policy("DQN", "rl_lightning.atari:Atari-v0", total_env_steps=160, env_steps_per_epoch=160),
    "SoftQ": off_policy("SoftQ", "CartPole-v1", num_envs=2),
    "DiscreteSAC, toy text": off_policy("DiscreteSAC", "FrozenLake-v1"),
    "REINFORCE": on_policy("REINFORCE", "CartPole-v1", num_envs=1, rollout_steps=None, env_steps_per_batch=50),
    "ActorCritic": on_policy("ActorCritic", "CartPole-v1", num_envs=1, rollout_steps=1, total_env_steps=600),
    "A2C": on_policy("A2C", "CartPole-v1"),
    "A2C, vectorized CartPole": on_policy("A2C", "CartPole-v1", num_envs=8),
    "PPO": on_policy("PPO", "CartPole-v1", {"batch_size": 20}),
    "PPO, normalized": on_policy("PPO", "Pendulum-v1", NORMAL),
    "TRPO": on_policy("TRPO", "InvertedPendulum-v5", {"batch_size": 20}),
    "PPO with Q-Prop": config(
        "PPO",
        Q_PROP,
        "RolloutReplayDataModule",
        {"env_id": "Pendulum-v1", "total_env_steps": 1_000, "env_steps_per_epoch": 200, "rollout_steps": 20}
        | {"replay_batch_size": 16, "replay_ratio": 0.5},
    ),
    "SAC, W&B": off_policy("SAC", "Pendulum-v1"),
}
TASKS["SAC, W&B"]["trainer"]["logger"] = {
    "class_path": "lightning.pytorch.loggers.WandbLogger",
    "init_args": {"offline": True},
}


def started(args: list[str], log: Path) -> int:
    """A process that runs `rl-lightning` with these arguments; what it prints goes to the end of `log`."""
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        torch.set_num_threads(1)
        rl_lightning(args)
        code = 0
    except SystemExit as end:
        print(end.code, file=sys.stderr)
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def ended(pid: int, within: float | None = None) -> int | None:
    """The exit code of a process; None where it goes on after so many seconds, and is killed."""
    if within is not None:
        time.sleep(within)
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return None if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def run_folder(root: Path) -> Path | None:
    """The run in this folder, once it has a checkpoint."""
    found = sorted(root.glob("*/*/checkpoints/last.ckpt"))
    return found[0].parents[1] if found else None


def rows_of(run: Path) -> list[dict[str, str]]:
    """Of metrics.csv, times aside."""
    with (run / "metrics.csv").open(newline="") as file:
        return [{name: v for name, v in row.items() if v and "time/" not in name} for row in csv.DictReader(file)]


def differences(found: Any, expected: Any, place: str = "") -> list[str]:
    """Where two states differ, bit by bit."""
    if isinstance(expected, dict) and isinstance(found, dict):
        keys = sorted({*found, *expected}, key=str)
        parts = [
            differences(found.get(key), expected.get(key), f"{place}/{key}") for key in keys if aside(key) is False
        ]
        return [line for part in parts for line in part]
    if isinstance(expected, list | tuple) and isinstance(found, list | tuple) and len(found) == len(expected):
        return [
            line
            for i, pair in enumerate(zip(found, expected, strict=True))
            for line in differences(*pair, f"{place}/{i}")
        ]
    if isinstance(expected, torch.Tensor) and isinstance(found, torch.Tensor):
        same = found.shape == expected.shape and torch.equal(found.nan_to_num(), expected.nan_to_num())
    else:
        same = found == expected or (found != found and expected != expected)
    return [] if same else [f"{place}: {str(found)[:60]} is not {str(expected)[:60]}"]


def aside(key: object) -> bool:
    """Names of files, environments (their spaces have unseeded generators), the counters of evaluation."""
    return str(key) in ("envs", "logged") or any(name in str(key) for name in ("heckpoint", "val_loop", "version"))


def campaign(name: str, out: Path, kills: int, killer: random.Random, until: float) -> dict[str, Any]:
    """Kill one run so many times, and compare it with one that goes through."""
    folder = out / name.replace(" ", "_").replace(",", "")
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(TASKS[name]))
    straight = ["fit", "-c", str(folder / "config.yaml"), f"--trainer.default_root_dir={folder / 'straight'}"]
    begun = time.monotonic()
    code = ended(started(straight, folder / "straight.log"))
    seconds = time.monotonic() - begun
    reference = run_folder(folder / "straight")
    if code != 0 or reference is None:
        raise SystemExit(f"{name}: the run that is to be compared with failed, see {folder / 'straight.log'}")
    root, log, found = folder / "killed", folder / "killed.log", Counter[str]()
    for number in range(kills + 1):
        run = run_folder(root)
        args = ["resume", str(run)] if run else ["fit", *straight[1:3], f"--trainer.default_root_dir={root}"]
        if run is None and root.exists():  # killed before its first checkpoint: nothing is lost, it begins anew
            root.rename(root.with_name(f"without_checkpoint_{number}"))
        last = number == kills
        code = ended(started(args, log), None if last else killer.uniform(0.0, until * seconds))
        found["killed" if code is None else "ended before it was killed"] += not last
        found["resumed"] += run is not None
        if code not in (None, 0):
            return {"task": name, "lost": 1, "unequal": 0, "why": f"exit code {code}, see {log}", **found}
    run = run_folder(root)
    assert run is not None
    states = [torch.load(each / "checkpoints/last.ckpt", weights_only=True) for each in (run, reference)]
    different = differences(*states) + differences(rows_of(run), rows_of(reference), "metrics.csv")
    return {"task": name, "lost": 0, "unequal": int(bool(different)), "why": "; ".join(different[:5]), **found}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="a new folder")
    parser.add_argument("--kills", type=int, default=200, help="in all, at least")
    parser.add_argument("--kills-per-run", type=int, default=5)
    parser.add_argument("--tasks", nargs="+", choices=[*TASKS], default=[*TASKS])
    parser.add_argument("--until", type=float, default=0.6, help="the latest moment, in lengths of the whole run")
    parser.add_argument("--seed", type=int, default=0, help="of the killer")
    args = parser.parse_args()
    args.output.mkdir(parents=True)
    killer, results = random.Random(args.seed), []
    os.environ.setdefault("WANDB_MODE", "offline")
    os.environ.setdefault("RL_LIGHTNING_PRODUCTS", "torch")  # whole and killed runs do not choose by the clock
    with tqdm(total=args.kills, unit="kill") as bar:
        for turn in range(10_000):
            name = args.tasks[turn % len(args.tasks)]
            results.append(campaign(name, args.output / str(turn), args.kills_per_run, killer, args.until))
            bar.update(results[-1].get("killed", 0))
            (args.output / "results.json").write_text(json.dumps(results, indent=1))
            if sum(result.get("killed", 0) for result in results) >= args.kills:
                break
    print(describe_machine())
    print("| task | runs | kills | resumed | lost | unequal |\n| --- | --- | --- | --- | --- | --- |")
    for name in args.tasks:
        own = [result for result in results if result["task"] == name]
        counts = [sum(result.get(key, 0) for result in own) for key in ("killed", "resumed", "lost", "unequal")]
        print(f"| {name} | {len(own)} | {' | '.join(map(str, counts))} |")
    for result in results:
        if result["why"]:
            print(f"{result['task']}: {result['why']}")


if __name__ == "__main__":
    main()
