"""E[∇_a log π φ + ∇_a φ] = 0 and E[∇_θ log π φ] = E[∇_θ f ∇_a φ] (lecture, section 3), and where they fail.

For one action, ∂_a log π φ + ∂_a φ is (π φ)' / π, so its mean is what π φ gains from one edge of the actions to the
other: the identity holds if that is nothing.
"""

import math

import numpy as np
import pytest
import torch
from bandits import compare
from torch import nn
from torch.distributions import Beta, Independent, Normal, TanhTransform, TransformedDistribution, Uniform

from rl_lightning.estimators import Batch, likelihood_ratio, reparameterized, stein
from rl_lightning.functional import squashed_gaussian_log_prob

MEAN, STD = 0.3, 0.6


def squashed(mean, std):
    return TransformedDistribution(Normal(mean, std), [TanhTransform()])


def f64(x):
    return torch.tensor(x, dtype=torch.float64)


def hermite(n=80):
    """Points u and weights of N(MEAN, STD²)."""
    points, weights = np.polynomial.hermite_e.hermegauss(n)
    return MEAN + STD * torch.from_numpy(points), torch.from_numpy(weights / weights.sum())


def legendre(low, high, n=400):
    """Points and weights of ∫ da."""
    points, weights = np.polynomial.legendre.leggauss(n)
    half = 0.5 * (high - low)
    return low + half * (1.0 + torch.from_numpy(points)), half * torch.from_numpy(weights)


def steins_mean(pi, action, weight, phi):
    """E[∂_a log π φ + ∂_a φ] by a quadrature."""
    action = action.clone().requires_grad_()
    (score,) = torch.autograd.grad((pi.log_prob(action) + 0.0 * action).sum(), action)  # a uniform density has none
    value = phi(action)
    (slope,) = torch.autograd.grad(value.sum(), action)
    return float((weight * (score * value + slope)).detach().sum())


PHI = {
    "a constant": lambda a: 2.0 + 0.0 * a,
    "linear": lambda a: 3.0 * a - 1.0,
    "cubic": lambda a: a**3 - a,
    "a wave": lambda a: (4.0 * a).sin(),
    "exponential": lambda a: a.exp(),
    "a bump": lambda a: (-(a.square())).exp(),
}


@pytest.mark.parametrize("phi", PHI)
def test_steins_identity_holds_for_a_gaussian(phi):
    action, weight = hermite()
    assert abs(steins_mean(Normal(f64(MEAN), f64(STD)), action, weight, PHI[phi])) < 1e-8


@pytest.mark.parametrize("phi", PHI)
def test_steins_identity_holds_for_a_squashed_gaussian(phi):
    u, weight = hermite()
    assert abs(steins_mean(squashed(f64(MEAN), f64(STD)), u.tanh(), weight, PHI[phi])) < 1e-8


@pytest.mark.parametrize(("alpha", "beta"), [(2.0, 2.0), (3.0, 2.0), (4.5, 2.5)])
@pytest.mark.parametrize("phi", PHI)
def test_steins_identity_holds_for_beta_whose_density_vanishes_at_the_edges(phi, alpha, beta):
    pi = Beta(f64(alpha), f64(beta))
    action, weight = legendre(0.0, 1.0)
    assert abs(steins_mean(pi, action, weight * pi.log_prob(action).exp(), PHI[phi])) < 1e-6


@pytest.mark.parametrize("phi", PHI)
def test_a_density_that_does_not_vanish_at_the_edges_leaves_their_difference(phi):
    action, weight = legendre(0.0, 1.0)
    left = float(PHI[phi](f64(1.0)) - PHI[phi](f64(0.0)))
    assert steins_mean(Uniform(f64(0.0), f64(1.0)), action, weight, PHI[phi]) == pytest.approx(left, abs=1e-9)
    assert steins_mean(Beta(f64(1.0), f64(1.0)), action, weight, PHI[phi]) == pytest.approx(left, abs=1e-9)
    # of Beta(1, 2) it vanishes at 1 alone: 2 (1 − a) is 2 at 0
    pi = Beta(f64(1.0), f64(2.0))
    left = -2.0 * float(PHI[phi](f64(0.0)))
    found = steins_mean(pi, action, weight * pi.log_prob(action).exp(), PHI[phi])
    assert found == pytest.approx(left, abs=1e-6)


def test_a_function_that_grows_as_fast_as_the_density_falls_leaves_its_difference():
    # φ = F / π, F the distribution function: π φ = F goes from 0 to 1, so E[(π φ)' / π] = ∫ F' = 1
    pi = Normal(f64(MEAN), f64(STD))
    action, weight = legendre(MEAN - 8 * STD, MEAN + 8 * STD)
    density = pi.log_prob(action).exp()
    found = steins_mean(pi, action, weight * density, lambda a: pi.cdf(a) / pi.log_prob(a).exp())
    assert found == pytest.approx(1.0, abs=1e-9)
    found = steins_mean(pi, action, weight * density, lambda a: pi.cdf(a))  # bounded: it holds
    assert found == pytest.approx(0.0, abs=1e-9)


class One(nn.Module):
    """A policy of one action with two parameters and no state."""

    def __init__(self, make, first, second):
        super().__init__()
        self.first, self.second = nn.Parameter(f64([first])), nn.Parameter(f64([second]))
        self.make = make

    def forward(self, obs):
        return self.make(self.first.expand(len(obs), 1), self.second.expand(len(obs), 1))


@pytest.mark.parametrize("make", [Normal, squashed], ids=["gaussian", "squashed"])
@pytest.mark.parametrize("phi", PHI)
def test_the_score_times_phi_is_in_the_mean_the_slope_of_phi_along_the_action(phi, make):
    policy = One(make, MEAN, STD)
    u, weight = hermite()
    action = (u.tanh() if make is squashed else u).unsqueeze(1)
    batch = Batch(torch.zeros(len(u), 1).double(), action, PHI[phi](action[:, 0]))
    by_score = weight @ likelihood_ratio(policy, batch).flat
    by_slope = weight @ reparameterized(policy, batch, lambda obs, action: PHI[phi](action[:, 0])).flat
    torch.testing.assert_close(by_score, by_slope, rtol=1e-7, atol=1e-8)


def independent_beta(alpha, beta):
    return Independent(Beta(alpha, beta), 1)


@pytest.mark.parametrize("phi", PHI)
def test_the_same_holds_for_beta_by_implicit_reparameterization(phi):
    policy = One(independent_beta, 3.0, 2.0)
    action, weight = legendre(0.0, 1.0)
    weight = weight * Beta(f64(3.0), f64(2.0)).log_prob(action).exp()
    batch = Batch(torch.zeros(len(action), 1).double(), action.unsqueeze(1), PHI[phi](action))
    by_score = weight @ likelihood_ratio(policy, batch).flat
    torch.manual_seed(0)
    n = 50_000
    batch = Batch(torch.zeros(n, 1).double(), Beta(f64(3.0), f64(2.0)).sample((n, 1)))
    by_slope = reparameterized(policy, batch, lambda obs, action: PHI[phi](action[:, 0]))
    assert compare(by_slope, by_score).accepts
    if phi != "a constant":
        assert compare(by_slope, torch.zeros(2).double()).rejects


def test_stein_control_variates_are_unbiased_for_beta_too():
    policy = One(independent_beta, 3.0, 2.0)
    action, weight = legendre(0.0, 1.0)
    weight = weight * Beta(f64(3.0), f64(2.0)).log_prob(action).exp()
    batch = Batch(torch.zeros(len(action), 1).double(), action.unsqueeze(1), (3.0 * action).cos())
    truth = weight @ likelihood_ratio(policy, batch).flat
    torch.manual_seed(0)
    action = Beta(f64(3.0), f64(2.0)).sample((50_000, 1))
    batch = Batch(torch.zeros(50_000, 1).double(), action, (3.0 * action[:, 0]).cos())
    estimate = stein(policy, batch, lambda obs, action: action[:, 0].square() - 2.0 * action[:, 0])
    assert compare(estimate, truth).accepts


def test_an_edge_that_moves_with_the_policy_is_what_the_score_does_not_see():
    """a = θ ξ, ξ uniform in (0, 1): E[φ ∇ log π] = −E[φ] / θ lacks φ(θ) / θ of d/dθ E[φ] = E[ξ φ'(θ ξ)]."""
    theta = 1.7
    xi, weight = legendre(0.0, 1.0)
    for phi in PHI.values():
        a = (theta * xi).requires_grad_()
        (slope,) = torch.autograd.grad(phi(a).sum(), a)
        by_slope = float((weight * xi * slope).sum())
        by_score = -float((weight * phi(a.detach())).sum()) / theta
        assert by_slope - by_score == pytest.approx(float(phi(f64(theta))) / theta, abs=1e-9)


@pytest.mark.parametrize("std", [0.3, 1.0, 2.0])
def test_the_density_of_a_squashed_gaussian_vanishes_at_the_edges_however_wide_it_is(std):
    u = f64([[-40.0], [40.0]])  # where tanh is 1 − 4e-35
    assert float(squashed_gaussian_log_prob(u, f64(0.0), f64(math.log(std))).max()) < -100.0
