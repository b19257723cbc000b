"""Gradients of every sample: against a loop, against plain autograd, for policies of all kinds; and what is refused."""

import math
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch
from bandits import flat
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from torch import nn
from torch.distributions import (
    Beta,
    Categorical,
    Independent,
    MultivariateNormal,
    Normal,
    TanhTransform,
    TransformedDistribution,
)

from rl_lightning.errors import UsageError
from rl_lightning.estimators import (
    Batch,
    Estimate,
    deterministic,
    expected,
    factorized,
    interpolated,
    likelihood_ratio,
    q_prop,
    relax,
    reparameterized,
    stein,
)
from rl_lightning.networks import MLP, PolicyAndValue, SquashedGaussianPolicy

OBS = Box(-1.0, 1.0, (3,), np.float32)
SMALL = partial(MLP, hidden_sizes=[8])


class TorchPolicy(nn.Module):
    """A user's: a body with a hidden layer, and a distribution of torch, which checks its arguments by default."""

    def __init__(self, make, outputs=2):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, outputs))
        self.log_std = nn.Parameter(torch.full((outputs,), -0.5))
        self.make = make

    def forward(self, obs):
        out = self.body(obs)
        return self.make(out, self.log_std.exp().expand_as(out))


class Squashed(nn.Module):
    """SAC's policy as a module of observations to distributions."""

    def __init__(self):
        super().__init__()
        self.policy = SquashedGaussianPolicy(OBS, Box(-1.0, 1.0, (2,), np.float32), SMALL)

    def forward(self, obs):
        mean, log_std = self.policy(obs)
        base = Independent(Normal(mean, log_std.exp()), 1)
        return TransformedDistribution(base, [TanhTransform()], validate_args=False)


def ours(action_space, **settings):
    return PolicyAndValue(OBS, action_space, SMALL, **settings)


POLICIES = {
    "normal": lambda: TorchPolicy(Normal),
    "independent": lambda: TorchPolicy(lambda mean, std: Independent(Normal(mean, std), 1)),
    "multivariate": lambda: TorchPolicy(lambda mean, std: MultivariateNormal(mean, scale_tril=torch.diag_embed(std))),
    "squashed": Squashed,
    "beta": lambda: TorchPolicy(lambda mean, std: Independent(Beta(1.0 + mean.exp(), 1.0 + std), 1)),
    "categorical": lambda: TorchPolicy(lambda logits, std: Categorical(logits=logits / std), 4),
    "our Gaussian": lambda: ours(Box(-1.0, 1.0, (2,), np.float32)),
    "our Gaussian of the state": lambda: ours(Box(-1.0, 1.0, (2,), np.float32), state_dependent_std=True),
    "our Categorical": lambda: ours(Discrete(4)),
    "our MultiCategorical": lambda: ours(MultiDiscrete([2, 3])),
    "our Bernoulli": lambda: ours(MultiBinary(3)),
}


def distribution(policy, obs):
    return policy.distribution(obs) if isinstance(policy, PolicyAndValue) else policy(obs)


def summed(log_prob):
    return log_prob if log_prob.ndim == 1 else log_prob.sum(1)


def learned(policy):
    """The parameters that an estimate is of, by name."""
    found = dict(policy.named_parameters())
    return {n: p for n, p in found.items() if not isinstance(policy, PolicyAndValue) or n.startswith("policy.")}


def batch_of(policy, n=6):
    obs = torch.randn(n, 3)
    with torch.no_grad():
        action = distribution(policy, obs).sample()
    return Batch(obs, action, torch.randn(n), torch.rand(n))


@pytest.mark.parametrize("name", POLICIES)
def test_gradients_of_samples_are_those_of_a_loop_of_plain_autograd(name):
    policy = POLICIES[name]()
    batch = batch_of(policy)
    estimate = likelihood_ratio(policy, batch, baseline=lambda obs: obs[:, 0])
    parameters = learned(policy)
    assert estimate.per_sample.keys() == parameters.keys()
    for i in range(len(batch.obs)):
        pi = distribution(policy, batch.obs[i : i + 1])
        weight = batch.discount[i] * (batch.signal[i] - batch.obs[i, 0])
        objective = (weight * summed(pi.log_prob(batch.action[i : i + 1]))).sum()
        by_autograd = torch.autograd.grad(objective, list(parameters.values()))
        for (key, of_all), alone in zip(estimate.per_sample.items(), by_autograd, strict=True):
            torch.testing.assert_close(
                of_all[i], alone, rtol=2e-4, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}"
            )


def critic(obs, action):
    return (1.3 * action[:, 0] * obs[:, 1] + action[:, 1].sin() - action.square().sum(1)) * obs[:, 2]


def at_center(policy, obs):
    pi = distribution(policy, obs)
    if isinstance(pi, TransformedDistribution):
        return pi.base_dist.mean.tanh()
    return pi.mean


def noise_free(policy, batch):
    """a = f_θ(s, ξ) with the ξ of the batch's actions, for policies of mean and deviation."""
    pi = distribution(policy, batch.obs)
    base = pi.base_dist.base_dist if isinstance(pi, TransformedDistribution) else pi
    mean, std = base.mean, getattr(base, "stddev", None)
    std = pi.log_std.exp() if std is None else std
    u = batch.action.atanh() if isinstance(pi, TransformedDistribution) else batch.action
    path = mean + std * ((u - mean) / std).detach()
    return path.tanh() if isinstance(pi, TransformedDistribution) else path


def score(policy, batch, weight):
    return weight.detach() * summed(distribution(policy, batch.obs).log_prob(batch.action))


def slope(obs, action):
    action = action.detach().requires_grad_()
    return torch.autograd.grad(critic(obs, action).sum(), action)[0]


# each estimator by hand, as an objective per sample [B] that plain autograd differentiates
BY_HAND = {
    "reparameterized": (
        lambda policy, batch: reparameterized(policy, batch, critic),
        lambda policy, batch: critic(batch.obs, noise_free(policy, batch)),
    ),
    "deterministic": (
        lambda policy, batch: deterministic(policy, batch, critic),
        lambda policy, batch: critic(batch.obs, at_center(policy, batch.obs)),
    ),
    "stein": (
        lambda policy, batch: stein(policy, batch, critic, torch.ones(6)),
        lambda policy, batch: (
            score(policy, batch, batch.signal - 1.0 - critic(batch.obs, batch.action))
            + critic(batch.obs, noise_free(policy, batch))
        ),
    ),
    "q_prop": (
        lambda policy, batch: q_prop(policy, batch, critic, torch.ones(6)),
        lambda policy, batch: (
            score(policy, batch, batch.signal - 1.0 - control(policy, batch))
            + critic(batch.obs, at_center(policy, batch.obs))
        ),
    ),
    "conservative q_prop": (
        lambda policy, batch: q_prop(policy, batch, critic, torch.ones(6), "conservative"),
        lambda policy, batch: adaptive(policy, batch, lambda c: (c > 0).float()),
    ),
    "aggressive q_prop": (
        lambda policy, batch: q_prop(policy, batch, critic, torch.ones(6), "aggressive"),
        lambda policy, batch: adaptive(policy, batch, torch.sign),
    ),
    "interpolated": (
        lambda policy, batch: interpolated(policy, batch, critic, nu=0.3),
        lambda policy, batch: (
            score(policy, batch, 0.7 * batch.signal) + 0.3 * critic(batch.obs, at_center(policy, batch.obs))
        ),
    ),
    "interpolated with control variate": (
        lambda policy, batch: interpolated(policy, batch, critic, nu=0.3, control_variate=True),
        lambda policy, batch: (
            score(policy, batch, 0.7 * (batch.signal - control(policy, batch)))
            + critic(batch.obs, at_center(policy, batch.obs))
        ),
    ),
    "factorized": (
        lambda policy, batch: factorized(policy, batch, critic),
        lambda policy, batch: sum(
            (batch.signal - critic(batch.obs, exchanged(policy, batch, i))).detach() * per_dim(policy, batch)[:, i]
            for i in range(2)
        ),
    ),
}


def control(policy, batch):
    mean = at_center(policy, batch.obs)
    return (slope(batch.obs, mean) * (batch.action - mean)).sum(1)


def adaptive(policy, batch, eta_of):
    a_hat, a_bar = batch.signal - 1.0, control(policy, batch)
    eta = eta_of(a_hat * a_bar).detach()
    return score(policy, batch, a_hat - eta * a_bar) + eta * critic(batch.obs, at_center(policy, batch.obs))


def exchanged(policy, batch, i):
    action = batch.action.clone()
    action[:, i] = at_center(policy, batch.obs)[:, i]
    return action


def per_dim(policy, batch):
    pi = distribution(policy, batch.obs)
    std = pi.log_std.exp() if hasattr(pi, "log_std") else pi.stddev
    return Normal(pi.mean, std).log_prob(batch.action)


OF_GAUSSIANS = [(n, p) for n in BY_HAND for p in ["independent", "our Gaussian", "our Gaussian of the state"]]
OF_SQUASHED = [(name, "squashed") for name in ["reparameterized", "deterministic", "stein"]]


@pytest.mark.parametrize(("name", "policy_name"), OF_GAUSSIANS + OF_SQUASHED)
def test_the_mean_is_the_gradient_that_plain_autograd_takes_of_the_equation(name, policy_name):
    policy = POLICIES[policy_name]()
    batch = batch_of(policy)._replace(discount=None)
    estimator, by_hand = BY_HAND[name]
    parameters = learned(policy)
    objective = by_hand(policy, batch).mean()
    gradient = torch.autograd.grad(objective, list(parameters.values()), materialize_grads=True)
    found = estimator(policy, batch).gradient
    for key, one in zip(parameters, gradient, strict=True):
        torch.testing.assert_close(found[key], one, rtol=2e-4, atol=1e-5)


def test_nothing_is_left_in_the_gradients_of_policy_or_critic():
    policy = POLICIES["independent"]()
    q = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1))
    batch = batch_of(policy)
    estimate = stein(policy, batch, lambda obs, action: q(torch.cat([obs, action], 1)).squeeze(1))
    assert not estimate.flat.requires_grad
    assert all(parameter.grad is None for parameter in [*policy.parameters(), *q.parameters()])


class Scalars(nn.Module):
    """N(μ, σ²) whose parameters are numbers, which reach it as views."""

    def __init__(self):
        super().__init__()
        self.mean, self.log_std = nn.Parameter(torch.tensor(0.3)), nn.Parameter(torch.tensor(-0.5))

    def forward(self, obs):
        return Normal(self.mean.expand(len(obs), 1), self.log_std.exp().expand(len(obs), 1))


def test_parameters_may_be_numbers_and_views_of_them_leave_no_gradient():
    policy = Scalars()
    noise = torch.randn(7, 1)
    batch = Batch(torch.zeros(7, 1), (0.3 + math.exp(-0.5) * noise).detach())
    estimate = reparameterized(policy, batch, lambda obs, action: action[:, 0] ** 2)
    assert not estimate.flat.requires_grad
    by_mean = 2.0 * batch.action  # [7, 1]
    torch.testing.assert_close(estimate.flat, torch.cat([by_mean, by_mean * math.exp(-0.5) * noise], 1))


def test_observations_may_be_dicts():
    spaces = gym.spaces.Dict({"x": Box(-1.0, 1.0, (2,), np.float32), "k": Discrete(3)})
    policy = PolicyAndValue(spaces, Box(-1.0, 1.0, (2,), np.float32), SMALL)
    obs = {"x": torch.randn(5, 2), "k": torch.tensor([0, 2, 1, 1, 0])}
    batch = Batch(obs, policy.act(obs), torch.randn(5))
    estimate = likelihood_ratio(policy, batch)
    objective = (batch.signal * policy.distribution(obs).log_prob(batch.action)).mean()
    gradient = torch.autograd.grad(objective, list(learned(policy).values()))
    torch.testing.assert_close(flat(estimate.gradient), torch.cat([part.flatten() for part in gradient]))
    by_dimension = factorized(policy, batch, lambda obs, action: obs["x"][:, 0] * action[:, 1], samples=2)
    assert by_dimension.flat.shape == estimate.flat.shape


def test_the_variance_is_the_trace_of_the_covariance_without_bias():
    samples = {
        "w": torch.tensor([[[1.0], [2.0]], [[3.0], [2.0]], [[5.0], [5.0]]]),
        "b": torch.tensor([[0.0], [1.0], [2.0]]),
    }
    estimate = Estimate(samples)
    assert estimate.variance() == pytest.approx(4.0 + 3.0 + 1.0)
    assert float(estimate.second_moment()) == pytest.approx((5.0 + 14.0 + 54.0) / 3.0)
    torch.testing.assert_close(estimate.gradient["w"], torch.tensor([[3.0], [3.0]]))
    twice = 0.5 * estimate + estimate
    torch.testing.assert_close(twice.per_sample["b"], 1.5 * samples["b"])
    with pytest.raises(UsageError, match="batch of size=1 is not allowed"):
        Estimate({"b": torch.zeros(1, 2)}).variance()


@pytest.mark.parametrize("validate_args", [None, True, False])
def test_distributions_may_check_their_arguments(validate_args):
    policy = TorchPolicy(partial(Normal, validate_args=validate_args))
    batch = batch_of(policy)
    assert likelihood_ratio(policy, batch).flat.isfinite().all()
    with pytest.raises(UsageError if validate_args is False else ValueError, match=r"nan|Expected value"):
        likelihood_ratio(policy, batch._replace(action=batch.action * float("nan")))


REFUSALS = {
    "action of another shape": (lambda b: b._replace(action=b.action[:, :1]), r"batch.action of shape=\(6, 1\)"),
    "action without a dimension": (lambda b: b._replace(action=b.action[:, 0]), r"batch.action of shape=\(6,\)"),
    "no signal": (lambda b: b._replace(signal=None), "batch.signal=None is not allowed"),
    "signal of two dimensions": (lambda b: b._replace(signal=b.signal.unsqueeze(1)), r"batch.signal of shape=\(6, 1\)"),
    "discount of two dimensions": (
        lambda b: b._replace(discount=torch.ones(6, 1)),
        r"batch.discount of shape=\(6, 1\)",
    ),
    "fewer discounts": (lambda b: b._replace(discount=torch.ones(5)), r"batch.discount of shape=\(5,\)"),
    "NaN": (lambda b: b._replace(action=b.action * float("nan")), "log π of batch.action=nan is not allowed"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_batches_that_do_not_fit_are_refused_in_one_line(name):
    change, message = REFUSALS[name]
    policy = TorchPolicy(partial(Normal, validate_args=False))
    with pytest.raises(UsageError, match=message) as refused:
        likelihood_ratio(policy, change(batch_of(policy)))
    assert "\n" not in str(refused.value)


class OneHot(nn.Module):
    """It makes one-hot vectors in a way that vmap does not take."""

    def __init__(self):
        super().__init__()
        self.logits = nn.Linear(3, 2)

    def forward(self, obs):
        return Categorical(logits=self.logits(nn.functional.one_hot(obs, 3).float()))


def test_what_does_not_fit_a_policy_is_refused_in_one_line():
    tabular = Batch(torch.tensor([0, 2]), torch.tensor([1, 0]), torch.ones(2))
    gaussian, discrete = POLICIES["independent"](), POLICIES["categorical"]()
    batch, choices = batch_of(gaussian), batch_of(discrete)
    cases = [
        (lambda: likelihood_ratio(gaussian, batch, baseline=torch.ones(6, 1)), r"baseline of shape=\(6, 1\)"),
        (lambda: likelihood_ratio(gaussian, batch, baseline=lambda obs: obs[:, :1]), r"baseline of shape=\(6, 1\)"),
        (lambda: stein(gaussian, batch, lambda obs, action: action), r"critic's values of shape=\(6, 2\)"),
        (lambda: q_prop(gaussian, batch, lambda obs, action: action[:, :1]), r"critic's values of shape=\(6, 1\)"),
        (lambda: q_prop(gaussian, batch, critic, eta="bold"), "eta='bold' is not allowed: give one of standard"),
        (lambda: interpolated(gaussian, batch, critic, nu=1.5), r"nu=1.5 is not allowed: give a number in \[0, 1\]"),
        (lambda: factorized(gaussian, batch, critic, samples=-1), "samples=-1 is not allowed"),
        (lambda: relax(gaussian, batch, critic), "RELAX needs a Categorical"),
        (lambda: stein(discrete, choices, critic), "no ξ with"),
        (lambda: deterministic(discrete, choices, critic), "no ξ with"),
        (lambda: q_prop(discrete, choices, critic), "its mean"),
        (lambda: factorized(discrete, choices, critic), "must be independent"),
        (lambda: expected(POLICIES["beta"](), batch, critic), "cannot be summed out"),
        (lambda: likelihood_ratio(OneHot(), tabular), "it looks at values"),
    ]
    for call, message in cases:
        with pytest.raises(UsageError, match=message) as refused:
            call()
        assert "\n" not in str(refused.value)


def test_an_action_that_the_tanh_has_rounded_to_its_edge_is_refused():
    policy = Squashed()
    obs = torch.randn(3, 3)
    action = torch.tensor([[0.1, 0.2], [1.0, 0.0], [0.3, 0.4]])
    with pytest.raises(UsageError, match="an action may lie on the edge"):
        likelihood_ratio(policy, Batch(obs, action, torch.zeros(3)))


def test_another_error_inside_a_policy_comes_through():
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(2))
            self.calls = 0

        def forward(self, obs):
            self.calls += 1
            if self.calls > 1:
                raise RuntimeError("out of order")
            return Normal((obs[:, :2] * self.scale), 1.0)

    batch = Batch(torch.randn(4, 3), torch.randn(4, 2), torch.zeros(4))
    with pytest.raises(RuntimeError, match="out of order"):
        likelihood_ratio(Broken(), batch)
