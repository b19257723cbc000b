"""The error of every estimator of the policy gradient against batch size and against the critic's error.

    python -m benchmarks.estimators --output docs/theory

Three problems with a known gradient: a quadratic bandit, where no trajectory follows the action, linear-quadratic
control over 20 steps, and a discrete bandit. The critic is Q plus an error, a wave in the action as large as `e` times
the advantage. What is drawn is E‖ĝ − ∇J‖² / ‖∇J‖², variance and squared bias together. Prints the tables of
docs/theory/estimators.md.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import matplotlib
import torch
from PIL import Image
from torch import Tensor, nn
from torch.optim import Adam

from benchmarks.linear_quadratic import LinearQuadratic
from benchmarks.report import describe_machine, markdown_table
from rl_lightning import estimators
from rl_lightning.estimators import Batch, Estimate
from rl_lightning.networks import MLP
from rl_lightning.networks.distributions import Categorical

matplotlib.use("Agg")
import matplotlib.pyplot as plt

BATCHES = [4**k for k in range(7)]  # 1 to 4,096
ERRORS = [0.0, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0]
E = 0.5  # the critic's error in the table and against batch size
Critic = Callable[[Tensor, Tensor], Tensor]


class Problem(NamedTuple):
    """What estimators are tried on."""

    title: str
    policy: nn.Module
    truth: Tensor  # [P], ∇J of one sample's mean
    samples: Callable[[int], Batch]  # independent of each other
    value: Callable[[Tensor], Tensor]
    critic: Callable[[float], Critic]  # with an error
    fitted: nn.Module  # φ, by least variance


class Line(NamedTuple):
    """An estimator, how it is called for a critic, and how it is drawn."""

    label: str
    call: Callable[[Problem, Batch, Critic], Estimate]
    color: str
    style: str = "-"


def line(label: str, color: str, style: str = "-", baseline: bool = True, critic: bool = True, **options) -> Line:
    """Of the estimator whose name the label begins with."""
    estimator = getattr(estimators, label.split()[0].rstrip(","))

    def call(problem: Problem, batch: Batch, of: Critic) -> Estimate:
        given = {"critic": of} if critic else {}
        return estimator(problem.policy, batch, **given, **({"baseline": problem.value} if baseline else {}), **options)

    return Line(label, call, color, style)


def fitted_lax(problem: Problem, batch: Batch, _: Critic) -> Estimate:
    """With a c of its own."""
    return estimators.lax(problem.policy, batch, problem.fitted, problem.value)


def fitted_relax(problem: Problem, batch: Batch, _: Critic) -> Estimate:
    """Likewise."""
    return estimators.relax(problem.policy, batch, problem.fitted, problem.value)


CONTINUOUS = [
    line("likelihood_ratio, no baseline", "#999999", ":", baseline=False, critic=False),
    line("likelihood_ratio, V(s)", "black", critic=False),
    line("factorized", "#8c564b", baseline=False),
    line("q_prop", "#1f77b4"),
    line("q_prop, conservative", "#1f77b4", "--", eta="conservative"),
    line("q_prop, aggressive", "#1f77b4", ":", eta="aggressive"),
    line("stein", "#2ca02c", baseline=False),  # φ is the critic, V included
    Line("lax, c fitted", fitted_lax, "#2ca02c", "--"),
    line("interpolated, ν = 0.2", "#ff7f0e", nu=0.2),
    line("interpolated, ν = 0.2, Ā", "#ff7f0e", "--", nu=0.2, control_variate=True),
    line("reparameterized", "#d62728", baseline=False),
    line("expected", "#d62728", "--", baseline=False),
    line("deterministic", "#d62728", ":", baseline=False),
]
DISCRETE = [
    line("likelihood_ratio, no baseline", "#999999", ":", baseline=False, critic=False),
    line("likelihood_ratio, V(s)", "black", critic=False),
    line("relax", "#9467bd"),
    Line("relax, c fitted", fitted_relax, "#9467bd", "--"),
    line("expected", "#d62728", "--", baseline=False),
]


class OfAction(nn.Module):
    """φ(s, a) or c(s, z): an MLP of both side by side, float64."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = MLP(width, 1, hidden_sizes=(32, 32), activation="tanh").double()

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        """[B, ...] both to [B]."""
        return self.body(torch.cat([obs, action], 1)).squeeze(1)


def control(title: str, horizon: int) -> Problem:
    """Linear-quadratic control; a sample is one step of an episode, at a uniform time."""
    lq = LinearQuadratic(horizon=horizon)
    policy = lq.policy()

    def samples(n: int) -> Batch:
        batch = lq.samples(policy, n)
        rows = torch.arange(n) * horizon + torch.randint(0, horizon, (n,))
        return Batch(*(part[rows] for part in batch))

    def wave(obs: Tensor, action: Tensor) -> Tensor:
        return (1.5 * action[:, 0] - action[:, 1] + obs[:, 0] + 1.0).sin()

    probe = samples(20_000)
    advantage = lq.q(policy, probe.obs, probe.action) - lq.v(policy, probe.obs)
    scale = float(advantage.std() / wave(probe.obs, probe.action).std())

    def critic(error: float) -> Critic:
        return lambda obs, action: lq.q(policy, obs, action) + error * scale * wave(obs, action)

    return Problem(title, policy, lq.gradient(policy) / horizon, samples, partial(lq.v, policy), critic, OfAction(5))


class Softmax(nn.Module):
    """π(·|s) of five actions in three states, one-hot; float64."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Linear(3, 5, bias=False, dtype=torch.float64)

    def forward(self, obs: Tensor) -> Categorical:
        """[B, 3] to π."""
        return Categorical(self.logits(obs))


def discrete() -> Problem:
    """A bandit with noise in its reward. RELAX's c(s, z) is the critic at softmax(z)."""
    policy = Softmax()
    table = torch.randn(3, 5, dtype=torch.float64)
    wrong = torch.randn(3, 5, dtype=torch.float64)

    def samples(n: int) -> Batch:
        obs = torch.eye(3, dtype=torch.float64)[torch.randint(0, 3, (n,))]
        action = policy(obs).sample()
        return Batch(
            obs, action, (obs @ table).gather(1, action.unsqueeze(1)).squeeze(1) + 0.3 * torch.randn(n).double()
        )

    pi = policy(torch.eye(3, dtype=torch.float64)).logits.softmax(-1).detach()
    v = (pi * table).sum(1)
    scale = float(((table - v.unsqueeze(1)).square() * pi).sum().sqrt() / (wrong.square() * pi).sum().sqrt())

    def critic(error: float) -> Critic:
        def q(obs: Tensor, action: Tensor) -> Tensor:
            values = obs @ (table + error * scale * wrong)  # [B, 5]
            if action.is_floating_point():  # RELAX's z
                return (values * (2.0 * action).softmax(-1)).sum(1) - obs @ v
            return values.gather(1, action.unsqueeze(1)).squeeze(1)

        return q

    objective = (policy(torch.eye(3, dtype=torch.float64)).logits.softmax(-1) * table).sum() / 3.0
    (truth,) = torch.autograd.grad(objective, policy.logits.weight)
    return Problem("discrete bandit", policy, truth.flatten(), samples, lambda obs: obs @ v, critic, OfAction(8))


def fit(problem: Problem, steps: int) -> None:
    """φ of its own, by least variance on fresh samples."""
    optimizer = Adam(problem.fitted.parameters(), lr=3e-3)
    estimator = estimators.relax if isinstance(problem.policy, Softmax) else estimators.lax
    for _ in range(steps):
        batch = problem.samples(512)
        estimators.fit_min_variance(problem.policy, batch, problem.fitted, optimizer, problem.value, estimator)


class Measured(NamedTuple):
    """Of one estimator, in units of ‖∇J‖ and its square."""

    bias: float  # ‖E ĝ − ∇J‖, measured
    noise: float  # what of it the number of samples explains
    variance: float  # of one sample
    errors: list[float]  # E‖ĝ_B − ∇J‖² of BATCHES


def measure(line: Line, problem: Problem, batch: Batch, error: float) -> Measured:
    """By groups of so many independent samples."""
    flat = line.call(problem, batch, problem.critic(error)).flat.detach()
    unit = float(problem.truth.square().sum())
    errors = []
    for size in BATCHES:
        means = flat[: len(flat) // size * size].view(-1, size, flat.shape[1]).mean(1)
        errors.append(float((means - problem.truth).square().sum(1).mean()) / unit)
    variance = float(flat.var(0).sum()) / unit
    bias = float((flat.mean(0) - problem.truth).square().sum() / unit) ** 0.5
    return Measured(bias, (variance / len(flat)) ** 0.5, variance, errors)


def draw(
    panels: list[tuple[Problem, list[Line], list[list[float]]]], x: list[float], label: str, log: bool, path: Path
) -> None:
    """A panel for each problem; the lines' legend under all."""
    figure, axes = plt.subplots(1, len(panels), figsize=(9.5, 4.6), layout="constrained")
    drawn = {}
    for axis, (problem, lines, values) in zip(axes, panels, strict=True):
        for of, y in zip(lines, values, strict=True):
            (drawn[of.label],) = axis.plot(x, y, of.style, color=of.color, linewidth=1.4)
        axis.set(title=problem.title, xlabel=label, yscale="log")
        if log:
            axis.set_xscale("log")
    axes[0].set_ylabel("E‖ĝ − ∇J‖² / ‖∇J‖²")
    figure.legend(drawn.values(), drawn.keys(), loc="outside lower center", ncols=4, fontsize=8)
    figure.savefig(path, dpi=90)
    Image.open(path).convert("RGB").quantize(64).save(path, optimize=True)  # a third of the size
    plt.close(figure)


def table(problem: Problem, lines: list[Line], found: list[Measured]) -> str:
    """Bias and variance, as Markdown."""
    rows = [[of.label, f"{m.bias:.3f}", f"{m.noise:.3f}", m.variance] for of, m in zip(lines, found, strict=True)]
    return f"\n{problem.title}\n\n" + markdown_table(["estimator", "bias", "± of it", "variance"], rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of the pictures")
    parser.add_argument("--samples", type=int, default=200_000, help="of each problem")
    parser.add_argument("--fit-steps", type=int, default=600, help="of the control variates that are fitted")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    start = time.perf_counter()
    problems = [(control("quadratic bandit", 1), CONTINUOUS), (control("control, 20 steps", 20), CONTINUOUS)]
    problems.append((discrete(), DISCRETE))
    by_size, by_error = [], []
    for problem, lines in problems:
        fit(problem, options.fit_steps)
        batch = problem.samples(options.samples)
        found = [measure(of, problem, batch, E) for of in lines]
        print(table(problem, lines, found))
        by_size.append((problem, lines, [m.errors for m in found]))
        few = Batch(*(part if part is None else part[: options.samples // 4] for part in batch))
        across = [[measure(of, problem, few, error).errors[0] for error in ERRORS] for of in lines]
        by_error.append((problem, lines, across))
    draw(by_size, BATCHES, "batch size", True, options.output / "estimators_batch_size.png")
    draw(by_error, ERRORS, "critic's error / advantage", False, options.output / "estimators_critic.png")
    print(f"\n{options.samples} samples, seed {options.seed}, critic's error {E}. ", end="")
    print(f"{time.perf_counter() - start:.0f} s. {describe_machine()}")


if __name__ == "__main__":
    main()
