"""The pictures of docs/theory/soft_policy_iteration.md: policies on the FrozenLake map, Lemma 1, the maximization bias.

Everything is exact, or of seeded runs; about a minute in all.
"""

import argparse
from itertools import islice
from pathlib import Path
from typing import Any

import gymnasium
import matplotlib
import torch
from torch import Tensor

from rl_lightning.exact import (
    MDP,
    objective,
    soft_bellman_backup,
    soft_policy_evaluation,
    soft_policy_improvement,
    soft_policy_iteration,
)
from rl_lightning.exact.tabular import control, monte_carlo, td_0, two_states

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ARROWS = ((-1, 0), (0, 1), (1, 0), (0, -1))  # left, down, right, up on the picture, whose y grows downwards
LETTERS = "LDRU"
DPI = 100


def frozen_lake(output: Path) -> None:
    """V and π of several temperatures on FrozenLake-v1, γ = 0.99: arrows as long as π(a|s), and its bars."""
    env = gymnasium.make("FrozenLake-v1")
    letters = env.unwrapped.desc.astype(str)  # type: ignore[attr-defined]
    mdp = MDP.from_env(env, 0.99)
    figure, axes = plt.subplots(2, 4, figsize=(10.4, 5.9), layout="constrained")
    for column, ent_coef in enumerate((0.0, 0.01, 0.03, 0.1)):
        best = soft_policy_iteration(mdp, ent_coef)
        reached = objective(MDP(mdp.transition, mdp.reward, 1 - 1e-6, mdp.termination, mdp.start), best.policy, 0.0)
        axes[0, column].set_title(f"α = {ent_coef:g}: goal in {100 * reached:.0f}%")
        draw_values(axes[0, column], letters, best.v)
        draw_arrows(axes[0, column], letters, best.policy)
        draw_bars(axes[1, column], letters, best.policy)
    axes[0, 0].set_ylabel("V, and arrows as long as π")
    axes[1, 0].set_ylabel(f"π(a|s): {' '.join(LETTERS)}")
    figure.savefig(output / "frozen_lake.png", dpi=DPI)


def draw_values(axes: Any, letters: Any, v: Tensor) -> None:
    """A heat map with its numbers; holes and the goal have their letter."""
    rows, columns = letters.shape
    axes.imshow(v.view(rows, columns), cmap="YlGnBu", vmin=0.0, vmax=1.6 * float(v.max()))
    for s, letter in enumerate(letters.flatten()):
        row, column = divmod(s, columns)
        if letter in "HG":
            axes.text(column, row, "hole" if letter == "H" else "goal", ha="center", va="center", fontsize=8)
        else:
            axes.text(column - 0.46, row - 0.28, f"{float(v[s]):.2f}", fontsize=7)
    axes.set(xticks=[], yticks=[])


def draw_arrows(axes: Any, letters: Any, policy: Tensor) -> None:
    """From the middle of each cell, for each action as long as its probability."""
    for s, letter in enumerate(letters.flatten()):
        row, column = divmod(s, letters.shape[1])
        for (x, y), probability in zip(ARROWS, policy[s].tolist(), strict=True):
            if letter not in "HG" and probability > 0.05:
                size = 0.45 * probability
                head = min(0.1, 0.6 * size)
                step = {"width": 0.03, "head_width": 1.3 * head, "head_length": head, "length_includes_head": True}
                axes.arrow(column, row + 0.05, x * size, y * size, color="C3", linewidth=0, **step)


def draw_bars(axes: Any, letters: Any, policy: Tensor) -> None:
    """π(·|s) as four bars in each cell."""
    rows, columns = letters.shape
    for s, letter in enumerate(letters.flatten()):
        row, column = divmod(s, columns)
        if letter in "HG":
            axes.text(column, row, "hole" if letter == "H" else "goal", ha="center", va="center", fontsize=8)
            continue
        for a, probability in enumerate(policy[s].tolist()):
            axes.bar(column - 0.3 + 0.2 * a, -0.85 * probability, 0.18, bottom=row + 0.45, color=f"C{a}")
    axes.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5), aspect="equal")
    axes.set(xticks=[x - 0.5 for x in range(columns + 1)], yticks=[y - 0.5 for y in range(rows + 1)])
    axes.tick_params(length=0, labelbottom=False, labelleft=False)
    axes.grid(color="0.8", linewidth=0.5)


def lemma_1(output: Path) -> None:
    """max |Q^k − Q^π| from Q⁰ = 0, under γ^k times the first: on a random MDP without an end, and on FrozenLake."""
    gamma, ent_coef, steps = 0.95, 0.1, 300
    lake = MDP.from_env(gymnasium.make("FrozenLake-v1"), gamma)
    garnet = MDP.garnet(100, 4, 3, gamma, seed=0)
    shown = {"Garnet, 100 states": garnet, "FrozenLake": lake}
    figure, axes = plt.subplots(figsize=(8, 4.6), layout="constrained")
    for number, (name, mdp) in enumerate(shown.items()):
        uniform = torch.full_like(mdp.reward, 1 / mdp.reward.shape[-1])
        best = soft_policy_iteration(mdp, ent_coef, tolerance=1e-13).policy
        for policy, whose, style in ((uniform, "uniform", "-"), (best, "soft-optimal", "--")):
            truth = soft_policy_evaluation(mdp, policy, ent_coef, tolerance=1e-13).q
            q, errors = torch.zeros_like(truth), []
            for _ in range(steps + 1):
                errors.append(float((q - truth).abs().max()) / float(truth.abs().max()))
                q = soft_bellman_backup(mdp, q, policy, ent_coef)
            axes.semilogy(errors, style, color=f"C{number}", label=f"{name}, {whose} policy")
    axes.semilogy([gamma**k for k in range(steps + 1)], color="black", linewidth=1, label="Lemma 1: γ^k, γ = 0.95")
    axes.set(xlabel="k, number of backups", ylabel="max |Q^k − Q^π| / max |Q^0 − Q^π|", ylim=(1e-15, 2))
    axes.grid(alpha=0.3)
    axes.legend(loc="upper right", bbox_to_anchor=(1.0, 0.8))
    figure.savefig(output / "lemma_1.png", dpi=DPI)


def maximization_bias(output: Path) -> None:
    """How often left is taken in state A of the two-state example, ε = 0.1, step size 0.1, mean of 2,000 runs."""
    runs, episodes = 2000, 300
    figure, (often, worth) = plt.subplots(1, 2, figsize=(9.6, 4.2), layout="constrained")
    for method in ("sarsa", "expected_sarsa", "q_learning", "double_q_learning"):
        lefts, values = follow_lefts(method, runs, episodes)  # type: ignore[arg-type]
        often.plot(range(1, episodes + 1), 100 * lefts, label=method.replace("_", " "))
        worth.plot(range(1, episodes + 1), values)
    often.axhline(5, color="black", linestyle="--", linewidth=1, label="optimal: 5%, from ε")
    worth.axhline(-0.1, color="black", linestyle="--", linewidth=1)
    often.set(xlabel="episode", ylabel="left taken in A, %", ylim=(0, 100))
    worth.set(xlabel="episode", ylabel="Q(A, left); it is worth −0.1")
    often.legend()
    figure.savefig(output / "maximization_bias.png", dpi=85)


def follow_lefts(method: Any, runs: int, episodes: int) -> tuple[Tensor, Tensor]:
    """By episode: the share of runs that go left, and the mean of Q(A, left) when it begins; both [episodes]."""
    sample, q = two_states(torch.Generator().manual_seed(0))
    start = torch.tensor([1.0, 0.0], dtype=torch.float64)
    steps = control(
        method,
        sample,
        start,
        q.expand(runs, -1, -1),
        gamma=1.0,
        learning_rate=0.1,
        epsilon=0.1,
        generator=torch.Generator().manual_seed(1),
    )
    episode = torch.zeros(runs, dtype=torch.int64)
    lefts, values = torch.zeros(2, episodes + 1, dtype=torch.float64)
    before = torch.zeros(runs, dtype=torch.float64)  # Q(A, left)
    for step, tables in steps:
        begins, place = step.state == 0, episode.clamp(max=episodes)
        lefts.index_add_(0, place[begins], (step.action == 0)[begins].double())
        values.index_add_(0, place[begins], before[begins])
        before = tables[:, :, 0, 0].mean(0)
        episode += step.terminated
        if bool((episode >= episodes).all()):
            break
    return lefts[:episodes] / runs, values[:episodes] / runs


def prediction(output: Path) -> None:
    """Root mean squared error of V by Monte-Carlo and by TD(0), against exact values, on FrozenLake, γ = 0.95."""
    mdp = MDP.from_env(gymnasium.make("FrozenLake-v1"), 0.95)
    policy = soft_policy_improvement(soft_policy_iteration(mdp, 0.0).q, 0.02)  # near the best: it reaches all states
    exact = soft_policy_evaluation(mdp, policy, 0.0).v
    inside = mdp.termination.amin(-1) < 1  # neither a hole nor the goal
    figure, axes = plt.subplots(figsize=(8, 4.2), layout="constrained")
    numbers, errors = [2**k for k in range(2, 12)], []
    for episodes in numbers:
        square = torch.zeros(())
        for seed in range(20):
            v, _ = monte_carlo(mdp, policy, episodes, 300, torch.Generator().manual_seed(seed))
            square = square + (v.nan_to_num() - exact)[inside].square().mean() / 20
        errors.append(float(square.sqrt()))
    one_each = MDP(mdp.transition, torch.ones_like(mdp.reward), 1 - 1e-6, mdp.termination, mdp.start)
    length = float(objective(one_each, policy, 0.0))  # the mean number of steps of an episode
    axes.loglog([number * length for number in numbers], errors, "o-", label="Monte-Carlo, first visits, 20 runs")
    for rate, decay in ((0.1, 0.0), (0.02, 0.0), (1.0, 0.7)):
        found, xs = [], []
        steps = td_0(
            mdp, policy, torch.zeros(100, 16, dtype=torch.float64), rate, torch.Generator().manual_seed(0), decay
        )
        for number, (_, v) in enumerate(islice(steps, 2**15), 1):
            if number & (number - 1) == 0 and number >= 64:
                xs.append(number)
                found.append(float((v - exact)[:, inside].square().mean().sqrt()))
        name = f"step size {rate:g}" if decay == 0 else f"step size n^−{decay:g}"
        axes.loglog(xs, found, label=f"TD(0), {name}, 100 runs")
    axes.set(xlabel="environment steps", ylabel="root mean squared error of V")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(output / "prediction.png", dpi=DPI)


def main() -> None:
    """Draw all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder, e.g. docs/theory")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.output.mkdir(parents=True, exist_ok=True)
    for draw in (frozen_lake, lemma_1, maximization_bias, prediction):
        draw(arguments.output)


if __name__ == "__main__":
    main()
