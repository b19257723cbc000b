"""Where the variance of a policy gradient comes from, and what an action-dependent baseline can take away of it.

    python -m benchmarks.mirage --output docs/theory

Linear-quadratic control in closed form, and HalfCheetah-v5 by nested samples, after "The Mirage of Action-Dependent
Baselines in Reinforcement Learning" (arXiv:1802.10031). Prints the tables of docs/theory/mirage.md, draws its pictures.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import torch
from torch import Tensor

from benchmarks.linear_quadratic import LinearQuadratic
from benchmarks.nested_halfcheetah import Cheetahs, Fitted, fit, follow, sample_nested, signals, train
from benchmarks.report import describe_machine, markdown_table
from benchmarks.variance_parts import BEST, Parts, Sampled, exact_parts, sampled_parts
from rl_lightning import PPO
from rl_lightning.estimators import Batch, likelihood_ratio, linear_control

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HORIZONS = (1, 2, 3, 5, 7, 10, 14, 20, 30, 50)
SHOWN = (1, 5, 20, 50)  # in the table
PHI = ("V(s)", "best b(s)", "factorized", "linear", "Q(s, a)")


def linear_quadratic() -> dict[int, Parts]:
    """The exact parts by the horizon."""
    found = {}
    for horizon in HORIZONS:
        problem = LinearQuadratic(horizon=horizon)
        found[horizon] = exact_parts(problem, problem.policy())
    return found


def halfcheetah(env_steps: int, states: int, seed: int) -> tuple[dict[str, Sampled], str]:
    """The sampled parts for both kinds of signals, and a line that says what they are of."""
    torch.manual_seed(seed)
    model = train(env_steps)
    copies = Cheetahs(40)
    rollout, _ = follow(model, copies, copies.reset(seed), None, 1_000)
    speed = float(rollout.reward.mean() * model.networks.return_normalizer.moments.var.sqrt() * 1_000)
    found_signals = signals(model, rollout)
    keep = slice(0, 750)  # the rest is too close to where V stands in for the return
    nested = sample_nested(model, states, actions=8, returns=3, steps=250, seed=seed + 1)
    score = likelihood_ratio(model.networks, Batch(nested.obs, nested.action, torch.ones(len(nested.obs)))).flat.view(
        states, 8, -1
    )
    parts, fits = {}, []
    for kind, signal, sampled in [
        ("returns", found_signals.returns, nested.returns),
        ("GAE", found_signals.advantages, nested.advantages),
    ]:
        batch = Batch(*(x[keep].flatten(0, 1) for x in (rollout.obs, rollout.action, signal)))
        fitted = fit(model, batch, epochs=15)
        fits.append(f"{kind}: b {fitted.b_explains:.2f}, ψ {fitted.psi_explains:.2f}")
        parts[kind] = sampled_parts(sampled, score, _baselines(model, nested.obs, nested.action, fitted, kind, states))
    about = f"average return {speed:.0f}; explained variance of held-out signals by {'; '.join(fits)}"
    return parts, about


@torch.no_grad()
def _baselines(model: PPO, obs: Tensor, action: Tensor, fitted: Fitted, kind: str, states: int) -> dict[str, Tensor]:
    """φ(s, a) of the nested samples, [S, A] each. GAE has V taken away already."""
    b, psi = fitted.b(obs), fitted.psi(obs, action)
    mean = model.networks.distribution(obs).mean
    control, _ = linear_control(fitted.psi, obs, action, mean)
    found = {"fitted b(s)": b, "b + linear": b + control, "b + ψ(s, a)": b + psi}
    own = {"V(s)": model.networks.values(obs), "0": 0.0 * b} if kind == "returns" else {"V(s)": 0.0 * b}
    return {name: phi.view(states, -1) for name, phi in (own | found).items()}


def draw_linear_quadratic(parts: dict[int, Parts], path: Path) -> None:
    """Shares of the variance with V as the baseline, and what other baselines leave of it."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.0, 3.4), layout="constrained")
    horizons = list(parts)
    totals = [p.trajectory + p.action["V(s)"] + p.state for p in parts.values()]
    shares = [
        [of(p) / total for p, total in zip(parts.values(), totals, strict=True)]
        for of in (lambda p: p.trajectory, lambda p: p.action["V(s)"], lambda p: p.state)
    ]
    left.stackplot(
        horizons,
        shares,
        labels=["trajectory Σ_τ", "action Σ_a, with V(s)", "state Σ_s"],
        colors=["#4c72b0", "#dd8452", "#999999"],
    )
    left.set(xscale="log", xlabel="horizon H", ylabel="share of the variance", xlim=(1, 50), ylim=(0, 1))
    left.set_xticks([1, 2, 5, 10, 20, 50], ["1", "2", "5", "10", "20", "50"])
    left.legend(loc="lower right", fontsize=8)
    for name in PHI[1:]:
        rest = [
            (p.trajectory + p.action[name] + p.state) / total for p, total in zip(parts.values(), totals, strict=True)
        ]
        right.plot(horizons, rest, marker=".", label=name)
    right.axhline(1.0, color="gray", linewidth=0.8)
    right.set(xscale="log", xlabel="horizon H", ylabel="variance, V(s) = 1", ylim=(0, 1.05))
    right.set_xticks([1, 2, 5, 10, 20, 50], ["1", "2", "5", "10", "20", "50"])
    right.legend(title="baseline", fontsize=8)
    figure.savefig(path, dpi=110)


def draw_halfcheetah(sampled: dict[str, Sampled], path: Path) -> None:
    """The parts as bars, on a logarithmic scale, with standard errors."""
    figure, axes = plt.subplots(1, 2, figsize=(8.0, 3.6), layout="constrained", sharey=True)
    for axis, (kind, (p, errors, _)) in zip(axes, sampled.items(), strict=True):
        rows = [("Σ_τ", p.trajectory, errors.trajectory, "#4c72b0")]
        rows += [(f"Σ_a: {name}", value, errors.action[name], "#dd8452") for name, value in p.action.items()]
        rows += [("Σ_s", p.state, errors.state, "#999999")]
        for i, (_, value, error, color) in enumerate(rows):
            axis.bar(i, max(value, 0.0), yerr=error, color=color, capsize=2)
        axis.set_xticks(range(len(rows)), [row[0] for row in rows], rotation=40, ha="right", fontsize=8)
        axis.set(title={"returns": "discounted returns", "GAE": "GAE, λ = 0.95"}[kind], yscale="log")
    axes[0].set_ylabel("part of the variance of one sample")
    figure.savefig(path, dpi=110)


def tables(exact: dict[int, Parts], sampled: dict[str, Sampled]) -> str:
    """Both as Markdown."""
    rows = [
        [h, p.trajectory, p.state, *(p.action[name] for name in ("0", *PHI)), f"{p.saved('V(s)')[BEST]:.1%}"]
        for h, p in exact.items()
        if h in SHOWN
    ]
    header = ["H", "Σ_τ", "Σ_s", *(f"Σ_a: {name}" for name in ("0", *PHI)), "saved by Q(s, a)"]
    text = ["Linear-quadratic control, exact\n", markdown_table(header, rows)]
    for kind, (p, errors, saved_errors) in sampled.items():
        rows = [["Σ_τ", _with_error(p.trajectory, errors.trajectory), ""]]
        rows += [["Σ_s", _with_error(p.state, errors.state), ""]]
        saved = {name: f"{share:.1%} ± {saved_errors[name]:.1%}" for name, share in p.saved("V(s)").items()}
        for name, value in p.action.items():
            rows.append(
                [f"Σ_a: {name}", _with_error(value, errors.action[name]), "" if name in ("0", "V(s)") else saved[name]]
            )
        rows.append([f"Σ_a: {BEST}", "0", saved[BEST]])
        text += [f"\nHalfCheetah-v5, {kind}\n", markdown_table(["part", "value", "saved of Σ with V(s)"], rows)]
    return "\n".join(text)


def _with_error(value: float, error: float) -> str:
    return f"{value:.3g} ± {error:.2g}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of the pictures")
    parser.add_argument("--env-steps", type=int, default=200_000, help="of PPO before its gradient is looked at")
    parser.add_argument("--states", type=int, default=300, help="of HalfCheetah; 6,000 environment steps for each")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    start = time.perf_counter()
    exact = linear_quadratic()
    draw_linear_quadratic(exact, options.output / "mirage_linear_quadratic.png")
    sampled, about = halfcheetah(options.env_steps, options.states, options.seed)
    draw_halfcheetah(sampled, options.output / "mirage_halfcheetah.png")
    print(tables(exact, sampled))
    print(f"\nPPO after {options.env_steps} steps, seed {options.seed}: {about}")
    print(f"{time.perf_counter() - start:.0f} s. {describe_machine()}")


if __name__ == "__main__":
    main()
