"""Problems whose policy gradient is known, samples of them, and a test that rejects a wrong mean."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from rl_lightning.estimators import Batch, Estimate

SAMPLES = 25_000
CURVATURE = torch.tensor([[2.0, 0.6], [0.6, 1.0]], dtype=torch.float64)  # H
TARGET = torch.tensor([[0.4], [-0.3]], dtype=torch.float64)  # c(s) = TARGET s + SHIFT
SHIFT = torch.tensor([0.8, -0.5], dtype=torch.float64)
NOISE = 0.5  # deviation of the return around Q


class LinearGaussian(nn.Module):
    """N(W s + w, σ²) of two actions, as `family` makes it of mean and deviation; float64."""

    def __init__(self, family: Callable[[Tensor, Tensor], Distribution]) -> None:
        super().__init__()
        self.mean = nn.Linear(1, 2, dtype=torch.float64)
        self.log_std = nn.Parameter(torch.tensor([-0.4, 0.1], dtype=torch.float64))
        self.family = family
        with torch.no_grad():
            self.mean.weight.copy_(torch.tensor([[-0.2], [0.5]]))
            self.mean.bias.copy_(torch.tensor([0.3, 0.1]))

    def forward(self, obs: Tensor) -> Distribution:
        mean = self.mean(obs)
        return self.family(mean, self.log_std.exp().expand_as(mean))


def gaussian(mean: Tensor, std: Tensor) -> Distribution:
    return Independent(Normal(mean, std), 1)


def q(obs: Tensor, action: Tensor) -> Tensor:
    """Q(s, a) = −½ (a − c(s))ᵀ H (a − c(s))."""
    away = action - obs @ TARGET.T - SHIFT
    return -0.5 * (away @ CURVATURE * away).sum(1)


def poor_q(obs: Tensor, action: Tensor) -> Tensor:
    """A critic that is wrong in its value, its slope and its shape."""
    return 0.5 * q(obs, action) + (1.3 * action[:, 0] + 0.4 * obs[:, 0]).sin() - 0.7 * action[:, 1]


def value(obs: Tensor) -> Tensor:
    """A baseline, roughly V(s)."""
    return -1.5 - 0.4 * obs[:, 0].square()


def true_gradient(policy: LinearGaussian) -> Tensor:
    """∇J for s ~ N(0, 1), by differentiating J = −½ Σ_{k=0,1} d_kᵀ H d_k − ½ Σ_i H_ii σ_i², flat in named order.

    The mean's distance from c(s) is d_0 + d_1 s.
    """
    distances = [policy.mean.bias - SHIFT, (policy.mean.weight - TARGET).squeeze(1)]
    objective = -0.5 * sum(d @ CURVATURE @ d for d in distances)
    objective = objective - 0.5 * (CURVATURE.diagonal() * (2.0 * policy.log_std).exp()).sum()
    return flat(dict(zip(names(policy), torch.autograd.grad(objective, list(policy.parameters())), strict=True)))


def samples_of(policy: nn.Module, n: int = SAMPLES, seed: int = 0) -> Batch:
    """s ~ N(0, 1), a ~ π, and a return with noise around Q(s, a)."""
    torch.manual_seed(seed)
    obs = torch.randn(n, 1, dtype=torch.float64)
    with torch.no_grad():
        action = policy(obs).sample()
    return Batch(obs, action, q(obs, action) + NOISE * torch.randn(n, dtype=torch.float64))


class Verdict(NamedTuple):
    """How many standard errors a mean is from the truth, at most over parameters."""

    z: float

    @property
    def accepts(self) -> bool:
        """For the fixed seeds of these tests; of 5 parameters one is past 4.5 by chance once in 30,000 times."""
        return self.z < 4.5

    @property
    def rejects(self) -> bool:
        return self.z > 7.0  # once in 10¹¹


def compare(estimate: Estimate | Tensor, truth: Tensor) -> Verdict:
    """The mean of samples [B, P] against [P]; parameters that do not vary have to agree to rounding."""
    samples = estimate if isinstance(estimate, Tensor) else estimate.flat
    error = (samples.mean(0) - truth).abs()
    standard_error = samples.std(0) / math.sqrt(len(samples))
    return Verdict(float((error / (standard_error + 1e-9)).max()))


def names(policy: nn.Module) -> list[str]:
    return [name for name, _ in policy.named_parameters()]


def flat(gradient: dict[str, Tensor]) -> Tensor:
    return torch.cat([part.flatten() for part in gradient.values()])
