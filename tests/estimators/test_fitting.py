"""How φ is fitted: the variance's own gradient, and what fitting does to the variance and to the mean."""

import pytest
import torch
from bandits import LinearGaussian, compare, gaussian, q, samples_of, true_gradient, value
from torch import nn
from torch.optim import SGD, Adam

from rl_lightning.estimators import (
    Batch,
    fit_min_variance,
    fit_q,
    lax,
    likelihood_ratio,
    relax,
    reparameterized,
    stein,
    variance_gradient,
)
from rl_lightning.estimators.relax import relaxed_given_action
from rl_lightning.networks.distributions import Categorical


class Quadratic(nn.Module):
    """φ(s, a) = wᵀ a + aᵀ M a + uᵀ a s + c: Q up to what depends on s alone."""

    def __init__(self, scale=0.3):
        super().__init__()
        self.w = nn.Parameter(scale * torch.ones(2).double())
        self.m = nn.Parameter(scale * torch.eye(2).double())
        self.u = nn.Parameter(scale * torch.ones(2).double())
        self.c = nn.Parameter(torch.zeros(()).double())

    def forward(self, obs, action):
        linear = action @ self.w + (action @ self.u) * obs[:, 0]
        return linear + (action @ self.m * action).sum(1) + self.c


@pytest.mark.parametrize("estimator", [stein, lax])
def test_the_gradient_of_the_variance_is_that_of_finite_differences(estimator):
    policy, phi = LinearGaussian(gaussian), Quadratic()
    batch = samples_of(policy, 50)
    found = variance_gradient(estimator(policy, batch, phi, create_graph=True), phi.parameters())
    for parameter, gradient in zip(phi.parameters(), found, strict=True):
        by_difference = torch.zeros(parameter.numel(), dtype=torch.float64)
        flat = parameter.data.view(-1)
        for i in range(len(flat)):
            moments = []
            for step in [1e-5, -2e-5]:
                flat[i] += step
                moments.append(float(estimator(policy, batch, phi).second_moment()))
            flat[i] += 1e-5
            by_difference[i] = (moments[0] - moments[1]) / 2e-5
        torch.testing.assert_close(gradient.flatten(), by_difference, rtol=1e-6, atol=1e-6)


class Softmax(nn.Module):
    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([[0.2, -0.3, 0.5]]).double())

    def forward(self, obs):
        return Categorical(self.logits.expand(len(obs), -1))


class OfRelaxed(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([0.1, 0.2, -0.3]).double())
        self.log_temperature = nn.Parameter(torch.zeros(()).double())

    def forward(self, obs, z):
        return (z * self.log_temperature.exp()).softmax(-1) @ self.w


def discrete_samples(policy, n):
    torch.manual_seed(0)
    obs = torch.zeros(n, 1).double()
    action = policy(obs).sample()
    return obs, action, torch.tensor([2.0, -1.0, 0.5]).double()[action] + 0.1 * torch.randn(n).double()


def test_the_gradient_of_relaxs_variance_is_that_of_finite_differences():
    policy, c = Softmax(), OfRelaxed()

    batch = Batch(*discrete_samples(policy, 50))

    def estimate(**options):
        torch.manual_seed(1)  # the same noise
        return relax(policy, batch, c, **options)

    found = variance_gradient(estimate(create_graph=True), [c.log_temperature])[0]
    moments = []
    for step in [1e-5, -2e-5]:
        c.log_temperature.data += step
        moments.append(float(estimate().second_moment()))
    assert float(found) == pytest.approx((moments[0] - moments[1]) / 2e-5, rel=1e-6)


@pytest.mark.parametrize("fit", ["min variance", "q"])
def test_a_fitted_control_variate_takes_variance_away_and_leaves_the_mean(fit):
    policy, phi = LinearGaussian(gaussian), Quadratic(0.0)
    optimizer = Adam(phi.parameters(), lr=0.05)
    for seed in range(80):
        batch = samples_of(policy, 500, seed=100 + seed)  # others than those of the estimate
        if fit == "q":
            fit_q(batch, phi, optimizer, value)
        else:
            fit_min_variance(policy, batch, phi, optimizer, value)
    batch = samples_of(policy)
    before, after = likelihood_ratio(policy, batch, value), stein(policy, batch, phi, value)
    assert after.variance() < 0.5 * before.variance()
    assert compare(after, true_gradient(policy)).accepts


def test_fitting_the_variance_finds_a_smaller_one_than_fitting_q():
    policy = LinearGaussian(gaussian)
    variances = {}
    for fit in [fit_min_variance, fit_q]:
        phi = Quadratic(0.0)
        phi.m.requires_grad_(False)  # φ linear in the action cannot be Q, so the two aims differ
        optimizer = Adam([phi.w, phi.u, phi.c], lr=0.06)
        for seed in range(80):
            batch = samples_of(policy, 500, seed=100 + seed)
            fit(policy, batch, phi, optimizer) if fit is fit_min_variance else fit(batch, phi, optimizer)
        variances[fit] = stein(policy, samples_of(policy), phi).variance()
    assert variances[fit_min_variance] < 0.98 * variances[fit_q]


def test_relaxs_surrogate_learns_to_take_variance_away():

    policy, c = Softmax(), OfRelaxed()
    batch = Batch(*discrete_samples(policy, 1_000))
    before = likelihood_ratio(policy, batch).variance()
    fit_min_variance(policy, batch, c, Adam(c.parameters(), lr=0.05), estimator=relax, steps=80)
    assert relax(policy, batch, c).variance() < 0.7 * before


def test_steps_of_fitting_are_the_optimizers():
    policy, phi = LinearGaussian(gaussian), Quadratic()
    batch = samples_of(policy, 30)
    start = phi.w.detach().clone()
    loss = 0.5 * (batch.signal - phi(batch.obs, batch.action)).square().mean()
    (slope,) = torch.autograd.grad(loss, phi.w)
    assert fit_q(batch, phi, SGD(phi.parameters(), lr=0.1)) == pytest.approx(loss.item())
    torch.testing.assert_close(phi.w.detach(), start - 0.1 * slope)
    before = [p.detach().clone() for p in policy.parameters()]
    phi = Quadratic()
    moment = stein(policy, batch, phi, create_graph=True)
    (slope, *_) = variance_gradient(moment, phi.parameters())
    found = fit_min_variance(policy, batch, phi, SGD(phi.parameters(), lr=0.1))
    assert found == pytest.approx(moment.second_moment().item())
    torch.testing.assert_close(phi.w.detach(), start - 0.1 * slope)
    assert all(torch.equal(one, other) for one, other in zip(before, policy.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in policy.parameters())


def test_stein_with_the_true_q_and_no_noise_is_the_reparameterized_gradient():

    policy = LinearGaussian(gaussian)
    batch = samples_of(policy, 20)
    batch = batch._replace(signal=q(batch.obs, batch.action))
    torch.testing.assert_close(stein(policy, batch, q).flat, reparameterized(policy, batch, q).flat)


def test_a_relaxed_action_given_its_argmax_has_the_law_of_gumbel_noise():
    torch.manual_seed(0)
    n = 200_000
    log_pi = torch.tensor([0.5, 0.3, 0.2]).double().log().expand(n, 3)
    action = torch.multinomial(log_pi.exp(), 1).squeeze(1)
    z = relaxed_given_action(log_pi, action, torch.rand(n, 3).double())
    assert torch.equal(z.argmax(1), action)
    gumbel = z - log_pi  # independent, each with mean γ (Euler's) and variance π² / 6, if a ~ π
    assert gumbel.mean(0).tolist() == pytest.approx([0.5772] * 3, abs=0.015)
    covariance = torch.cov(gumbel.T)
    torch.testing.assert_close(covariance, 1.6449 * torch.eye(3).double(), atol=0.04, rtol=0.0)


def test_a_relaxed_action_is_finite_for_actions_that_are_all_but_impossible():
    log_pi = torch.tensor([[0.0, -200.0, -90.0]]).log_softmax(-1).requires_grad_()
    for action in range(3):
        for uniform in [torch.zeros(1, 3), torch.full((1, 3), 0.5)]:
            z = relaxed_given_action(log_pi, torch.tensor([action]), uniform)
            (gradient,) = torch.autograd.grad(z.sum(), log_pi)
            assert z.isfinite().all()
            assert gradient.isfinite().all()
