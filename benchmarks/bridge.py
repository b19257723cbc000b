"""The learners on the bridge beside PPO, TRPO and DDPG, at equal environment steps, over several seeds.

    python -m benchmarks.bridge run OUTPUT [--envs Hopper-v5] [--learners Q-Prop TRPO] [--seeds 0 1]
    python -m benchmarks.bridge report OUTPUT --figure docs/results/bridge.png --table docs/results/bridge_table.md

`run` trains each learner on each environment with each seed, one after the other on one torch thread, and writes
OUTPUT/ENV/LEARNER/SEED.json: returns of the episodes of training along the run (exploring policy, raw rewards), the
test that ends it (deterministic policy, 10 episodes), and the measured variance of the policy gradient. A file that
exists is not made again, so an interrupted series continues.

All have networks of 64x64. TRPO's and PPO's settings are those of configs/*/halfcheetah.yaml on every environment. The
four estimators stand on TRPO's step and differ in `estimator` alone; they and DDPG have the same critic: minibatches of
64 from replay, Adam at 1e-3, target by τ = 0.005; theirs steps once for two environment steps, DDPG's for each.
"""

import argparse
import json
import logging
import statistics
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from tqdm import tqdm

from benchmarks.learning import git_commit
from benchmarks.report import describe_machine, markdown_table, publish
from rl_lightning import (
    DDPG,
    MLP,
    PPO,
    TRPO,
    FactorizedBaseline,
    InterpolatedPolicyGradient,
    OffPolicyCritic,
    QProp,
    ReplayDataModule,
    RolloutDataModule,
    RolloutReplayDataModule,
    SteinControlVariate,
)
from rl_lightning.optim import EnvStepsLR, FusedAdam

ENV_STEPS = {"InvertedPendulum-v5": 30_720, "Hopper-v5": 61_440, "HalfCheetah-v5": 61_440}  # in whole rollouts
PARTS = 20  # points of a curve
TANH, RELU = (partial(MLP, hidden_sizes=(64, 64), activation=name) for name in ("tanh", "relu"))
CRITIC = partial(OffPolicyCritic, network=RELU, tau=0.005, q_optimizer=partial(FusedAdam, lr=1e-3))
NORMALIZED = {"normalize_observations": True, "normalize_returns": True, "gamma": 0.99, "gae_lambda": 0.95}
TRPO_SETTINGS = {
    **NORMALIZED,
    "target_kl": 0.04,
    "cg_max_steps": 25,
    "n_critic_updates": 20,
    "value_optimizer": partial(FusedAdam, lr=1e-3),
    "network": TANH,
}
ADAM, LINEAR = partial(FusedAdam, lr=3e-4, eps=1e-5), partial(EnvStepsLR, schedule="linear")
PPO_SETTINGS = {
    **NORMALIZED,
    "log_std_init": -0.5,
    "policy_optimizer": ADAM,
    "value_optimizer": ADAM,
    "policy_scheduler": LINEAR,
    "value_scheduler": LINEAR,
    "network": TANH,
}
DDPG_SETTINGS = {
    "network": RELU,
    "q_optimizer": partial(FusedAdam, lr=1e-3),
    "policy_optimizer": partial(FusedAdam, lr=1e-3),
}
ON_TRPO = {
    "Q-Prop": QProp,
    "Stein": SteinControlVariate,
    "factorized": FactorizedBaseline,
    "interpolated 0.2": partial(InterpolatedPolicyGradient, 0.2),
}
LEARNERS = ["TRPO", *ON_TRPO, "PPO", "DDPG"]


def make(env_id: str, learner: str) -> tuple[Any, Any]:
    """The learner and its data."""
    env_steps = ENV_STEPS[env_id]
    run = {"env_id": env_id, "total_env_steps": env_steps, "test_episodes": 10}
    of_trpo = {**run, "num_envs": 2, "rollout_steps": 1024}
    if learner == "DDPG":
        data: Any = ReplayDataModule(**run, batch_size=64, env_steps_per_batch=100, learning_starts=1_000)
        return DDPG(data.observation_space, data.action_space, **DDPG_SETTINGS), data
    if learner == "PPO":
        data = RolloutDataModule(**{**of_trpo, "num_envs": 4, "rollout_steps": 512})
        return PPO(data.observation_space, data.action_space, **PPO_SETTINGS), data
    if learner == "TRPO":
        data = RolloutDataModule(**of_trpo)
        return TRPO(data.observation_space, data.action_space, **TRPO_SETTINGS), data
    data = RolloutReplayDataModule(**of_trpo, replay_ratio=0.5, replay_batch_size=64, save_buffer=False)
    bridge = {"estimator": ON_TRPO[learner], "critic": CRITIC, "gradient_variance": True}
    return TRPO(data.observation_space, data.action_space, **TRPO_SETTINGS, **bridge), data


class Notes(Callback):
    """Returns of training's episodes, and the variances of each rollout."""

    def __init__(self) -> None:
        self.curve: dict[int, float] = {}
        self.variances: dict[int, dict[str, float]] = {}

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *batch: Any) -> None:
        """Note both; a return is that of the latest episodes that have ended."""
        if "train/return" in trainer.callback_metrics:
            self.curve[int(pl_module.env_steps)] = trainer.callback_metrics["train/return"].item()  # type: ignore[arg-type]
        names = ("train/gradient_variance", "train/gradient_variance_ratio")
        metrics: Any = pl_module.metrics
        self.variances[int(pl_module.env_steps)] = {n: metrics[n].item() for n in names if n in metrics}  # type: ignore[arg-type]


def train(env_id: str, learner: str, seed: int) -> dict[str, Any]:
    """One run: its returns, test and variances."""
    seed_everything(seed, verbose=False)
    started = time.monotonic()
    model, data = make(env_id, learner)
    notes = Notes()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=-1,
        limit_val_batches=0,
        log_every_n_steps=1,
        callbacks=[notes],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, data)
    seconds = time.monotonic() - started
    (test,) = trainer.test(model, data, verbose=False)
    return {
        "env": env_id,
        "learner": learner,
        "seed": seed,
        "curve": notes.curve,
        "test": test["test/return_mean"],
        "variances": notes.variances if learner != "DDPG" else {},
        "seconds": seconds,
        "commit": git_commit(),
    }


def run(output: Path, envs: list[str], learners: list[str], seeds: list[int]) -> None:
    """Every run that has no file yet."""
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    todo = [(seed, env, learner) for seed in seeds for env in envs for learner in learners]
    for seed, env_id, learner in tqdm(todo, unit="run"):
        file = output / env_id / learner / f"{seed}.json"
        if not file.exists():
            found = train(env_id, learner, seed)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(found))


def read(output: Path) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """All runs, by environment and learner, in the order of their seeds."""
    runs: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for env_id in ENV_STEPS:
        for learner in LEARNERS:
            files = sorted((output / env_id / learner).glob("*.json"), key=lambda file: int(file.stem))
            if files:
                runs[env_id, learner] = [json.loads(file.read_text()) for file in files]
    return runs


def variance_ratio(runs: list[dict[str, Any]]) -> str:
    """Median over rollouts and seeds of the variance beside the likelihood ratio's, with its quartiles."""
    ratios = [
        row["train/gradient_variance_ratio"] for one in runs for row in one["variances"].values() if len(row) == 2
    ]
    if len(ratios) < 4:
        return ""
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.2f} [{low:.2f}, {high:.2f}]"


def table(runs: dict[tuple[str, str], list[dict[str, Any]]]) -> str:
    """The last test of every learner, over seeds, and its variance ratio."""
    rows = []
    for (env_id, learner), group in runs.items():
        tests = [one["test"] for one in group]
        spread = f"{statistics.fmean(tests):.0f}" + (f" ± {statistics.pstdev(tests):.0f}" if len(tests) > 1 else "")
        seeds = ", ".join(f"{test:.0f}" for test in tests)
        seconds = statistics.median(one["seconds"] for one in group)
        rows.append((env_id, learner, spread, seeds, variance_ratio(group), f"{seconds:.0f}"))
    header = ["environment", "learner", "return", "of each seed", "variance ratio, median [quartiles]", "seconds a run"]
    commits = sorted({one["commit"] for group in runs.values() for one in group})
    return "\n\n".join([describe_machine() + f"; commits {', '.join(commits)}", markdown_table(header, rows)])


def binned(curve: dict[str, float], ends: list[int]) -> list[float]:
    """The mean of what was noted from each of these environment steps to the next; the latest where nothing was."""
    means: list[float] = []
    for start, end in zip([0, *ends], ends, strict=False):
        inside = [value for steps, value in curve.items() if start < int(steps) <= end]
        means.append(statistics.fmean(inside) if inside else (means[-1] if means else min(curve.values())))
    return means


def plot(runs: dict[tuple[str, str], list[dict[str, Any]]], figure: Path) -> None:
    """Above the returns of training along the run, mean and range over seeds; below the variance ratios."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    envs = [env for env in ENV_STEPS if any(name == env for name, _ in runs)]
    fig, axes = plt.subplots(2, len(envs), figsize=(4.6 * len(envs), 7), layout="constrained", squeeze=False)
    for column, env_id in enumerate(envs):
        returns, ratios = axes[:, column]
        for number, learner in enumerate(LEARNERS):
            group = runs.get((env_id, learner), [])
            if not group:
                continue
            steps = [ENV_STEPS[env_id] * (part + 1) // PARTS for part in range(PARTS)]
            curves = [binned(one["curve"], steps) for one in group]
            mean = [statistics.fmean(values) for values in zip(*curves, strict=True)]
            style = {"color": f"C{number}", "linestyle": "-" if learner in ON_TRPO else "--"}
            returns.plot(steps, mean, label=learner, **style)
            low, high = ([f(values) for values in zip(*curves, strict=True)] for f in (min, max))
            returns.fill_between(steps, low, high, color=style["color"], alpha=0.08)
            if learner in ON_TRPO:
                rows = [
                    {int(k): v["train/gradient_variance_ratio"] for k, v in one["variances"].items()} for one in group
                ]
                steps = sorted(set.intersection(*(set(row) for row in rows)))
                ratios.plot(
                    steps, [statistics.median(row[step] for row in rows) for step in steps], label=learner, **style
                )
        returns.set(title=env_id, xlabel="environment steps", ylabel="return in training")
        ratios.axhline(1.0, color="black", linewidth=0.8)
        ratios.set(xlabel="environment steps", ylabel="variance / likelihood ratio's", ylim=(0.0, 4.0))
        for ax in (returns, ratios):
            ax.grid(alpha=0.3)
    axes[0, 0].legend(fontsize=8)
    axes[1, 0].legend(fontsize=8)
    fig.savefig(figure, dpi=64)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("output", type=Path)
    running.add_argument("--envs", nargs="+", default=[*ENV_STEPS], choices=[*ENV_STEPS])
    running.add_argument("--learners", nargs="+", default=LEARNERS, choices=LEARNERS)
    running.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    reporting = commands.add_parser("report")
    reporting.add_argument("output", type=Path)
    reporting.add_argument("--figure", type=Path, required=True)
    reporting.add_argument("--table", type=Path)
    args = parser.parse_args()
    if args.command == "run":
        run(args.output, args.envs, args.learners, args.seeds)
    else:
        runs = read(args.output)
        publish(table(runs), args.table)
        plot(runs, args.figure)


if __name__ == "__main__":
    main()
