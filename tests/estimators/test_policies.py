"""Densities and reparameterizations of ours and torch's distributions."""

import pytest
import torch
from torch.distributions import (
    AffineTransform,
    Beta,
    Categorical,
    Dirichlet,
    Gamma,
    Independent,
    Laplace,
    MultivariateNormal,
    Normal,
    TanhTransform,
    TransformedDistribution,
)

from rl_lightning.errors import UsageError
from rl_lightning.estimators import log_prob_per_dim, noise_of, reparameterize
from rl_lightning.estimators.policies import center, log_prob, mean_of, pathwise_noise
from rl_lightning.networks import distributions as ours

MEAN = torch.tensor([[0.3, -0.4, 0.1], [0.0, 0.6, -1.0]], dtype=torch.float64)
STD = torch.tensor([[0.5, 0.8, 1.1], [0.3, 0.9, 0.7]], dtype=torch.float64)
LOWER = torch.tensor([[0.5, 0.0, 0.0], [0.2, 0.8, 0.0], [-0.3, 0.1, 0.7]], dtype=torch.float64)
TANH = [TanhTransform(), AffineTransform(1.0, 2.0)]
KNOWN_NOISE = {
    "ours": ours.Gaussian(MEAN, STD.log()),
    "normal": Normal(MEAN, STD),
    "independent": Independent(Normal(MEAN, STD), 1),
    "multivariate": MultivariateNormal(MEAN, scale_tril=LOWER.expand(2, 3, 3)),
    "squashed": TransformedDistribution(Independent(Normal(MEAN, STD), 1), TANH),
    "squashed elementwise": Independent(TransformedDistribution(Normal(MEAN, STD), TANH), 1),
}


@pytest.mark.parametrize("name", KNOWN_NOISE)
def test_noise_and_action_belong_to_each_other(name):
    pi = KNOWN_NOISE[name]
    noise = torch.randn(2, 3, dtype=torch.float64)
    action = reparameterize(pi, noise)
    torch.testing.assert_close(noise_of(pi, action), noise)
    torch.testing.assert_close(pathwise_noise(pi, action), noise)
    torch.testing.assert_close(center(pi), reparameterize(pi, 0.0 * noise))


def test_actions_of_standard_noise_are_worked_out_by_hand():
    noise = torch.tensor([[1.0, -1.0, 0.0], [2.0, 0.0, 1.0]], dtype=torch.float64)
    by_hand = torch.tensor([[0.8, -1.2, 0.1], [0.6, 0.6, -0.3]], dtype=torch.float64)
    for name in ["ours", "normal", "independent"]:
        torch.testing.assert_close(reparameterize(KNOWN_NOISE[name], noise), by_hand)
    torch.testing.assert_close(reparameterize(KNOWN_NOISE["squashed"], noise), 1.0 + 2.0 * by_hand.tanh())
    first = MEAN[0] + torch.tensor([0.5, 0.2 - 0.8, -0.3 - 0.1]).double()
    torch.testing.assert_close(reparameterize(KNOWN_NOISE["multivariate"], noise)[0], first)


@pytest.mark.parametrize("name", [name for name in KNOWN_NOISE if name != "multivariate"])
def test_densities_of_the_dimensions_sum_to_that_of_the_action(name):
    pi = KNOWN_NOISE[name]
    action = reparameterize(pi, torch.randn(2, 3, dtype=torch.float64))
    per_dim = log_prob_per_dim(pi, action)
    assert per_dim.shape == (2, 3)
    torch.testing.assert_close(per_dim.sum(1), log_prob(pi, action))
    if "squashed" not in name:
        torch.testing.assert_close(per_dim, Normal(MEAN, STD).log_prob(action))


def test_densities_that_torch_gives_by_dimension_are_summed():
    action = MEAN + 0.1
    torch.testing.assert_close(log_prob(Normal(MEAN, STD), action), Normal(MEAN, STD).log_prob(action).sum(1))


@pytest.mark.parametrize("family", [Beta, Gamma])
def test_implicit_reparameterization_has_the_slopes_of_the_mean(family):
    first = torch.full((40_000, 1), 2.5, dtype=torch.float64, requires_grad=True)
    second = torch.full((40_000, 1), 1.5, dtype=torch.float64, requires_grad=True)
    pi = Independent(TransformedDistribution(family(first, second), [AffineTransform(-1.0, 2.0)]), 1)
    noise = pathwise_noise(pi, torch.zeros(()))
    assert noise.shape == (40_000, 1, 3)
    found = torch.autograd.grad(reparameterize(pi, noise).mean(), [first, second])
    exact = torch.autograd.grad(2.0 * family(first, second).mean.mean(), [first, second])
    for one, other in zip(found, exact, strict=True):
        assert float(one.sum()) == pytest.approx(float(other.sum()), rel=0.03)
    torch.testing.assert_close(center(pi), 2.0 * family(first, second).mean - 1.0)


def test_means_are_closed_forms_or_refused():
    torch.testing.assert_close(mean_of(KNOWN_NOISE["ours"]), MEAN)
    torch.testing.assert_close(mean_of(KNOWN_NOISE["independent"]), MEAN)
    torch.testing.assert_close(mean_of(KNOWN_NOISE["multivariate"]), MEAN)
    torch.testing.assert_close(mean_of(Independent(Beta(STD, STD), 1)), torch.full_like(STD, 0.5))
    for pi in [KNOWN_NOISE["squashed"], Categorical(logits=MEAN), ours.Categorical(MEAN), ours.Bernoulli(MEAN)]:
        with pytest.raises(UsageError, match="its mean E\\[a\\] is not known in closed form; give"):
            mean_of(pi)


@pytest.mark.parametrize(
    "pi", [ours.Categorical(MEAN), ours.Bernoulli(MEAN), Categorical(logits=MEAN), Dirichlet(STD), Laplace(MEAN, STD)]
)
def test_distributions_without_a_known_noise_are_refused_in_one_line(pi):
    calls = [lambda: noise_of(pi, MEAN), lambda: reparameterize(pi, MEAN), lambda: center(pi)]
    for call in calls:
        with pytest.raises(UsageError, match=r"no ξ with a = f_θ\(s, ξ\) is known; give") as refused:
            call()
        assert type(pi).__name__ in str(refused.value)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("pi", [KNOWN_NOISE["multivariate"], ours.Categorical(MEAN), Dirichlet(STD)])
def test_dimensions_that_depend_on_each_other_have_no_densities_of_their_own(pi):
    with pytest.raises(UsageError, match="must be independent; give a Gaussian"):
        log_prob_per_dim(pi, MEAN)
