"""What is biased, by how much, and what its theory says."""

import math

import pytest
import torch
from bandits import CURVATURE, SHIFT, TARGET, LinearGaussian, compare, gaussian, samples_of, true_gradient
from torch import nn
from torch.distributions import Independent, Normal

from rl_lightning.estimators import Batch, deterministic, interpolated, q_prop, reparameterized

WRONG_SHIFT = SHIFT + torch.tensor([-0.9, 0.6], dtype=torch.float64)


def wrong_q(obs, action):
    """−½ (a − c'(s))ᵀ ½H (a − c'(s)), c' away from c."""
    away = action - obs @ TARGET.T - WRONG_SHIFT
    return -0.25 * (away @ CURVATURE * away).sum(1)


def deterministic_gradient(policy):
    """E[∇_a Q_w(s, μ) ∇_θ μ] for s ~ N(0, 1); σ gets none."""
    w, b = policy.mean.weight - TARGET, policy.mean.bias - WRONG_SHIFT
    of_weight, of_bias = -0.5 * CURVATURE @ w, -0.5 * CURVATURE @ b
    return torch.cat([torch.zeros(2).double(), of_weight.flatten(), of_bias]).detach()


def test_the_deterministic_gradient_is_that_of_the_critic_at_the_mean():
    policy = LinearGaussian(gaussian)
    estimate = deterministic(policy, samples_of(policy), wrong_q)
    assert compare(estimate, deterministic_gradient(policy)).accepts
    assert compare(estimate, true_gradient(policy)).rejects


@pytest.mark.parametrize("control_variate", [False, True])
@pytest.mark.parametrize("nu", [0.0, 0.2, 0.7, 1.0])
def test_interpolation_is_biased_by_nu_times_what_the_deterministic_gradient_is(nu, control_variate):
    policy = LinearGaussian(gaussian)
    estimate = interpolated(policy, samples_of(policy), wrong_q, nu=nu, control_variate=control_variate)
    truth, limit = true_gradient(policy), deterministic_gradient(policy)
    assert compare(estimate, truth + nu * (limit - truth)).accepts
    if nu > 0.0:
        assert compare(estimate, truth).rejects
        assert compare(estimate, limit).rejects == (nu < 1.0)


def test_interpolation_ends_at_the_estimators_that_it_lies_between():
    policy = LinearGaussian(gaussian)
    batch = samples_of(policy, 100)
    ends = {
        (0.0, True): q_prop(policy, batch, wrong_q),
        (1.0, True): deterministic(policy, batch, wrong_q),
        (1.0, False): deterministic(policy, batch, wrong_q),
    }
    for (nu, control_variate), end in ends.items():
        found = interpolated(policy, batch, wrong_q, nu=nu, control_variate=control_variate)
        torch.testing.assert_close(found.flat, end.flat)
    between = 0.75 * q_prop(policy, batch, wrong_q) + 0.25 * deterministic(policy, batch, wrong_q)
    found = interpolated(policy, batch, wrong_q, nu=0.25, control_variate=True)
    torch.testing.assert_close(found.flat, between.flat)


class Bandit(nn.Module):
    """N(μ, σ²) of one action, without a state."""

    def __init__(self):
        super().__init__()
        self.mean = nn.Parameter(torch.tensor([0.3], dtype=torch.float64))
        self.log_std = nn.Parameter(torch.tensor([math.log(0.8)], dtype=torch.float64))

    def forward(self, obs):
        mean = self.mean.expand(len(obs), 1)
        return Independent(Normal(mean, self.log_std.exp().expand_as(mean)), 1)


SLOPE, CRITIC_SLOPE, DEVIATION = 1.4, 0.9, 1.2


@pytest.mark.parametrize("critic_slope", [CRITIC_SLOPE, -CRITIC_SLOPE])
@pytest.mark.parametrize(("eta", "weight"), [("standard", 0.0), ("conservative", 1.0), ("aggressive", 2.0)])
def test_q_prop_is_biased_where_eta_goes_by_the_noise_of_the_return(eta, weight, critic_slope):
    """Return g a + ε, critic k a, Â = g σ ξ + ε: E[η (k − Ā ξ / σ)] = k E[η (1 − ξ²)].

    P(Â Ā > 0 | ξ) = Φ(r |ξ|) with r = g σ sign(k) / deviation of ε, and E[(ξ² − 1) Φ(r |ξ|)] = r / (π (1 + r²)) by
    Stein's identity. So the mean is off by −k r / (π (1 + r²)) with "conservative", by twice that with "aggressive".
    """
    policy = Bandit()
    torch.manual_seed(1)
    obs = torch.zeros(400_000, 1, dtype=torch.float64)
    action = policy(obs).sample()
    batch = Batch(obs, action, SLOPE * action[:, 0] + DEVIATION * torch.randn(len(obs)).double())
    estimate = q_prop(
        policy, batch, lambda obs, action: critic_slope * action[:, 0], lambda obs: SLOPE * 0.3 * (1 + obs[:, 0]), eta
    )
    r = SLOPE * 0.8 * math.copysign(1.0, critic_slope) / DEVIATION
    bias = -weight * critic_slope * r / (math.pi * (1.0 + r * r))
    assert compare(estimate, torch.tensor([SLOPE + bias, 0.0]).double()).accepts
    assert compare(estimate, torch.tensor([SLOPE, 0.0]).double()).rejects == (weight > 0.0)


def test_reparameterized_has_the_bias_of_its_critic():
    policy = LinearGaussian(gaussian)
    estimate = reparameterized(policy, samples_of(policy), wrong_q)
    truth = deterministic_gradient(policy)
    truth[:2] = -0.5 * CURVATURE.diagonal() * (2.0 * policy.log_std.detach()).exp()  # of J_w by log σ
    assert compare(estimate, truth).accepts
