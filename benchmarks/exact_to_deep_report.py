"""The table and the pictures of docs/theory/exact_to_deep.md, from the runs of benchmarks.exact_to_deep.

python -m benchmarks.exact_to_deep_report RUNS docs/theory
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import matplotlib
import torch
from torch import Tensor

from benchmarks.exact_to_deep import ALL, LEARNERS, SOFT, TASKS, Task, reachable
from benchmarks.report import describe_machine, markdown_table, publish
from rl_lightning.exact import MDP, objective, soft_policy_evaluation, soft_policy_iteration

matplotlib.use("Agg")
import matplotlib.pyplot as plt

Runs = list[dict[str, Any]]  # one for each seed
SHAPES = {"frozen lake": (4, 4), "cliff": (4, 12)}


def read(folder: Path, task: str, learner: str) -> Runs:
    """The runs of all seeds.

    Raises:
        FileNotFoundError: where there is none.
    """
    paths = sorted(folder.glob(f"{task}-{learner}-[0-9]*.json".replace(" ", "_")))
    if not paths:
        raise FileNotFoundError(f"no run of {learner} on {task} in {folder}")
    return [json.loads(path.read_text()) for path in paths]


def target(task: Task, learner: str) -> float:
    """The return of the policy that the learner should find: the best, or the soft-optimal at its α."""
    mdp = task.mdp()
    best = soft_policy_iteration(mdp, task.ent_coef if learner in SOFT else 0.0)
    return float(objective(mdp, best.policy, 0.0))


def steps_to(run: dict[str, Any], goal: float) -> float:
    """Environment steps after which the return stays within a tenth of the goal; ∞ where it does not."""
    reached = float("inf")
    for row in reversed(run["rows"]):
        if row["policy_return"] < goal - 0.1 * abs(goal):
            break
        reached = row["env_steps"]
    return reached


def table(folder: Path, task: str) -> str:
    """What each learner has come to on one task, over its seeds."""
    rows = []
    for learner in ALL:
        runs, goal = read(folder, task, learner), target(TASKS[task], learner)
        last = [run["rows"][-1] for run in runs]
        reached = sorted(steps_to(run, goal) for run in runs)
        number = sum(steps < float("inf") for steps in reached)
        fast = f"{reached[(len(runs) - 1) // 2]:.0f}" if 2 * number > len(runs) else "–"
        exact = learner == "exact gradient"
        rows.append(
            (
                learner,
                plus_minus([row["policy_return"] for row in last]),
                f"{goal:.3f}",
                f"{number} of {len(runs)}",
                f"{fast} gradient steps" if exact else fast,
                "" if exact else plus_minus([row["value_error"] for row in last]),
                plus_minus([row["seen_error"] for row in last]) if last[0]["seen_error"] is not None else "",
                f"{statistics.fmean(run['cpu_seconds'] for run in runs):.0f}",
            )
        )
    header = ["learner", "return at the end", "to be found", "within 10%", "steps to there", "error of Q or V"]
    return markdown_table([*header, "of Q as replay has it", "CPU s"], rows)


def plus_minus(values: list[float]) -> str:
    """Mean and standard deviation."""
    return f"{statistics.fmean(values):.3f} ± {statistics.pstdev(values):.3f}"


def curves(folder: Path, output: Path) -> None:
    """Return and value error along the run: mean over seeds, and the range from the lowest to the highest."""
    figure, axes = plt.subplots(2, 2, figsize=(10.4, 7.4), layout="constrained")
    for row, (name, task) in enumerate(TASKS.items()):
        for number, learner in enumerate(LEARNERS):
            runs = read(folder, name, learner)
            for column, key in enumerate(("policy_return", "value_error")):
                x, values = aligned(runs, key)  # [K], [seeds, K]
                axes[row, column].plot(x, values.mean(0), color=f"C{number}", label=learner, linewidth=1.4)
                low, high = values.amin(0), values.amax(0)
                axes[row, column].fill_between(x, low, high, color=f"C{number}", alpha=0.15, linewidth=0)
        lines = {"V*": target(task, "DQN"), f"soft-optimal, α = {task.ent_coef:g}": target(task, "SoftQ")}
        climbed = statistics.fmean(run["rows"][-1]["policy_return"] for run in read(folder, name, "exact gradient"))
        for style, (label, value) in zip(("-", "--", ":"), [*lines.items(), ("exact gradient", climbed)], strict=True):
            axes[row, 0].axhline(value, color="black", linestyle=style, linewidth=1, label=label)
        axes[row, 0].set(title=f"{name}: return of the policy, exactly", ylabel="E[Σ γ^t r_t]")
        axes[row, 1].set(title=f"{name}: how far Q or V is off", ylabel="root mean square", yscale="log")
        for column in (0, 1):
            axes[row, column].set(xlabel="environment steps")
            axes[row, column].grid(alpha=0.3)
    axes[1, 0].set(ylim=(-60, -5))
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8)
    figure.savefig(output / "exact_to_deep.png", dpi=85)


def aligned(runs: Runs, key: str) -> tuple[list[float], Tensor]:
    """A column of all runs on a grid of steps, by the last row at or before each: [K] and [seeds, K]."""
    grid = [500.0 * k for k in range(int(max(row["env_steps"] for row in runs[0]["rows"])) // 500 + 1)]
    found = []
    for run in runs:
        rows = run["rows"]
        found.append([[row[key] for row in rows if row["env_steps"] <= x][-1] for x in grid])
    return grid, torch.tensor(found)


def maps(folder: Path, output: Path) -> None:
    """V of the exact solution beside what a learner's tables say, of seed 0."""
    figure = plt.figure(figsize=(10.4, 8.6), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(1.0, 1.15))
    upper = top.subplots(2, 4)
    for column, learner in enumerate(("DQN", "SoftQ", "SoftQ, first half random", "ActorCritic")):
        draw_pair(upper[:, column], folder, "frozen lake", learner)
    lower = bottom.subplots(3, 2)
    for column, learner in enumerate(("DQN", "SoftQ, first half random")):
        draw_pair(lower[:2, column], folder, "cliff", learner)
    for column, learner in enumerate(("SoftQ", "REINFORCE")):
        draw_map(lower[2, column], "cliff", learned_v(read(folder, "cliff", learner)[0], "cliff", learner), learner)
    figure.savefig(output / "exact_to_deep_values.png", dpi=90)


def draw_pair(axes: Any, folder: Path, task: str, learner: str) -> None:
    """The exact V above the learned one."""
    run = read(folder, task, learner)[0]
    mdp = TASKS[task].mdp()
    if run["v"] is not None:  # of its own policy
        policy = torch.tensor(run["policy"], dtype=torch.float64)
        truth, name = soft_policy_evaluation(mdp, policy, 0.0).v, "V of its π"
    else:
        ent_coef = TASKS[task].ent_coef if learner in SOFT else 0.0
        truth, name = soft_policy_iteration(mdp, ent_coef).v, f"V*, α = {ent_coef:g}"
    draw_map(axes[0], task, truth, f"exact {name}")
    draw_map(axes[1], task, learned_v(run, task, learner), learner)


def learned_v(run: dict[str, Any], task: str, learner: str) -> Tensor:
    """V [S] of a learner's tables: its own V, max Q, or α log Σ exp(Q/α)."""
    if run["v"] is not None:
        return torch.tensor(run["v"], dtype=torch.float64)
    q = torch.tensor(run["q"], dtype=torch.float64)
    ent_coef = TASKS[task].ent_coef
    return ent_coef * torch.logsumexp(q / ent_coef, -1) if learner in SOFT else q.amax(-1)


def draw_map(axes: Any, task: str, v: Tensor, title: str) -> None:
    """Numbers on the map; holes, the cliff and the goal, where no learner ever is, stay empty."""
    mdp: MDP = TASKS[task].mdp()
    inside = reachable(mdp)
    rows, columns = SHAPES[task]
    low, high = (0.0, 0.75) if task == "frozen lake" else (-21.0, 0.0)
    shown = v.masked_fill(~inside, float("nan")).view(rows, columns)
    axes.imshow(shown, cmap="YlGnBu", vmin=low, vmax=high + 0.6 * (high - low))
    for s in inside.nonzero()[:, 0].tolist():
        text = f"{float(v[s]):.2f}" if task == "frozen lake" else f"{float(v[s]):.0f}"
        axes.text(s % columns, s // columns, text, ha="center", va="center", fontsize=7)
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=9)


def main() -> None:
    """Write the tables, draw the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="the OUTPUT of benchmarks.exact_to_deep")
    parser.add_argument("pictures", type=Path, help="folder of the pictures")
    arguments = parser.parse_args()
    parts = [describe_machine()]
    for name, task in TASKS.items():
        parts += [f"## {name}: γ = {task.gamma:g}, α = {task.ent_coef:g}", table(arguments.runs, name)]
    publish("\n\n".join(parts), arguments.runs / "summary.md")
    curves(arguments.runs, arguments.pictures)
    maps(arguments.runs, arguments.pictures)


if __name__ == "__main__":
    main()
