"""The variance of a policy gradient by where it comes from (arXiv:1802.10031, section 3).

With ĝ = (Ĝ(s, a, τ) − φ(s, a)) ∇ log π(a|s) + ∇ E_a[φ(s, a)] and the law of total variance, traces of covariances,

    Σ = Σ_τ + Σ_a + Σ_s = E[Var(ĝ | s, a)] + E[Var(E[ĝ | s, a] | s)] + Var(E[ĝ | s]):

of the trajectory after the action, of the action, of the state. φ is in Σ_a alone; ∇ E_a[φ], taken as exact, is in none
of the first two.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.linear_quadratic import LinearPolicy, LinearQuadratic
from rl_lightning.estimators import Batch, likelihood_ratio

NODES = 6  # of the quadrature for each dimension: exact for polynomials of degree 11, and the integrands have 8


BEST = "any φ"  # what Σ_a = 0 would save


class Parts(NamedTuple):
    """Σ_τ, Σ_a for each φ, Σ_s."""

    trajectory: float
    action: dict[str, float]
    state: float

    def total(self, of: str) -> float:
        """Σ with one φ."""
        return self.trajectory + self.action[of] + self.state

    def saved(self, of: str) -> dict[str, float]:
        """Shares of Σ with one φ that go with the others, and with the best that there could be."""
        left = self.action | {BEST: 0.0}
        return {name: (self.action[of] - rest) / self.total(of) for name, rest in left.items()}


class Sampled(NamedTuple):
    """Parts by samples, and standard errors over states, by bootstrap."""

    parts: Parts
    errors: Parts
    saved_errors: dict[str, float]  # of what is saved of Σ with the first φ


def exact_parts(problem: LinearQuadratic, policy: LinearPolicy) -> Parts:
    """Of linear-quadratic control, for a time drawn uniformly and ĝ weighted by γ^t.

    All integrands are polynomials of Gaussian numbers, which a Gauss-Hermite quadrature integrates exactly.

    φ are: nothing; V(s); the best state baseline E_a[Q ‖∇ log π‖²] / E_a[‖∇ log π‖²]; Q to first order in the action
    around the mean, on top of V (Q-Prop); the mean of Q over each dimension by itself (factorized); Q.
    """
    std = policy.log_std.exp().detach()
    z, weight_s = _hermite(2)  # standard states [n, 2]
    xi, weight_a = _hermite(2)  # [m, 2]
    n, m = len(z), len(xi)
    trajectory, first, second = 0.0, torch.zeros(6, dtype=torch.float64), 0.0
    action = dict.fromkeys(["0", "V(s)", "best b(s)", "linear", "factorized", "Q(s, a)"], 0.0)
    for t, covariance in enumerate(problem.state_covariances(policy)):
        state = z @ torch.linalg.cholesky(covariance).T
        obs = torch.cat([state, torch.full((n, 1), float(t), dtype=torch.float64)], 1)
        all_obs = obs.repeat_interleave(m, 0)  # [n m, 3]
        mean = all_obs[:, :-1] @ policy.gain.detach().T
        a = mean + std * xi.repeat(n, 1)
        factor = problem.gamma ** (2 * t) / problem.horizon
        score = likelihood_ratio(policy, Batch(all_obs, a, torch.ones(n * m, dtype=torch.float64))).flat
        squared = score.square().sum(1).view(n, m)
        q = problem.q(policy, all_obs, a).view(n, m)
        trajectory += factor * float(
            weight_s @ (problem.return_variance(policy, all_obs, a).view(n, m) * squared) @ weight_a
        )
        v = (q @ weight_a).unsqueeze(1)
        best = ((q * squared) @ weight_a / (squared @ weight_a)).unsqueeze(1)
        slope = torch.func.grad(lambda at, o=all_obs: problem.q(policy, o, at).sum())(mean)
        linear = v + (slope * (a - mean)).sum(1).view(n, m)
        score = score.view(n, m, -1)
        for name, phi in {"0": 0.0 * v, "V(s)": v, "best b(s)": best, "linear": linear, "Q(s, a)": q}.items():
            action[name] += factor * _mean_variance((q - phi).unsqueeze(-1) * score, weight_s, weight_a)
        action["factorized"] += factor * _mean_variance(_factorized(q, weight_a) * score, weight_s, weight_a)
        gradient = torch.einsum("nmp,nm,m->np", score, q, weight_a)  # E[ĝ | s], but for γ^t
        first += problem.gamma**t / problem.horizon * weight_s @ gradient
        second += factor * float(weight_s @ gradient.square().sum(1))
    return Parts(trajectory, action, second - float(first.square().sum()))


def sampled_parts(signal: Tensor, score: Tensor, baselines: dict[str, Tensor], resamples: int = 200) -> Sampled:
    """Of samples that are nested: returns in actions in states; without bias, by the analysis of variance.

    Args:
        signal: [S, A, R], R returns of each of A actions in each of S states.
        score: [S, A, P], ∇ log π(a|s).
        baselines: φ(s, a) by name, [S, A] each; the first is used for Σ_s.
        resamples: bootstrap samples of states for the standard errors.
    """
    states, actions, returns = signal.shape
    within = (signal.var(2) * score.square().sum(2)).mean(1)  # of each state: Σ_τ, [S]
    by_action = {}
    for name, phi in baselines.items():
        g = (signal.mean(2) - phi).unsqueeze(2) * score  # [S, A, P]
        by_action[name] = g.var(1).sum(1) - within / returns  # of each state: Σ_a, [S]
    first = next(iter(baselines))
    gradient = ((signal.mean(2) - baselines[first]).unsqueeze(2) * score).mean(1)  # E[ĝ | s] and noise, [S, P]
    noise = (by_action[first] + within / returns) / actions  # its variance, [S]

    def of(rows: Tensor) -> Parts:
        action = {name: float(values[rows].mean()) for name, values in by_action.items()}
        return Parts(float(within[rows].mean()), action, float(gradient[rows].var(0).sum() - noise[rows].mean()))

    generator = torch.Generator().manual_seed(0)
    again = [of(torch.randint(0, states, (states,), generator=generator)) for _ in range(resamples)]

    def error(numbers: list[float]) -> float:
        return float(np.std(numbers, ddof=1))

    errors = Parts(
        error([p.trajectory for p in again]),
        {name: error([p.action[name] for p in again]) for name in baselines},
        error([p.state for p in again]),
    )
    saved = {name: error([p.saved(first)[name] for p in again]) for name in [*baselines, BEST]}
    return Sampled(of(torch.arange(states)), errors, saved)


def _hermite(dims: int) -> tuple[Tensor, Tensor]:
    """Points [n, dims] and weights [n] that integrate against standard normal numbers."""
    points, weights = (torch.from_numpy(x) for x in np.polynomial.hermite_e.hermegauss(NODES))
    return torch.cartesian_prod(*[points] * dims), torch.cartesian_prod(*[weights / weights.sum()] * dims).prod(1)


def _mean_variance(g: Tensor, weight_s: Tensor, weight_a: Tensor) -> float:
    """E_s[tr Var_a(g)]: [n, m, P] with their weights."""
    mean = torch.einsum("nmp,m->np", g, weight_a)
    return float(weight_s @ (g.square().sum(2) @ weight_a - mean.square().sum(1)))


def _factorized(q: Tensor, weight_a: Tensor) -> Tensor:
    """Q − b_i with b_i = E_{a_i}[Q], for each parameter of dimension i: [n, m] to [n, m, P]."""
    grid = q.view(-1, NODES, NODES)  # [n, of ξ_1, of ξ_2]
    weight = weight_a.view(NODES, NODES).sum(1)
    without_1 = grid - torch.einsum("nij,i->nj", grid, weight).unsqueeze(1)
    without_2 = grid - torch.einsum("nij,j->ni", grid, weight).unsqueeze(2)
    each = torch.stack([without_1.flatten(1), without_2.flatten(1)], 2)  # [n, m, 2]
    return each[..., [0, 0, 1, 1, 0, 1]]  # of the gain's rows, and of log σ
