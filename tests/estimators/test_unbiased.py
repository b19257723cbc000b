"""Means against the closed form of a quadratic bandit; and that a wrong estimator would not pass."""

from functools import partial

import pytest
import torch
from bandits import LinearGaussian, compare, gaussian, poor_q, q, samples_of, true_gradient, value
from mutants import mutant
from torch.distributions import MultivariateNormal, Normal

from rl_lightning import estimators
from rl_lightning.networks.distributions import Gaussian


def full(mean, std):
    """Dependent actions: N(μ, L Lᵀ), L = diag(σ) with 0.3 below the diagonal."""
    below = torch.zeros(2, 2, dtype=mean.dtype)
    below[1, 0] = 0.3
    return MultivariateNormal(mean, scale_tril=torch.diag_embed(std) + below)


FAMILIES = {
    "ours": lambda mean, std: Gaussian(mean, std.log()),
    "independent": gaussian,
    "elementwise": Normal,
    "multivariate": full,
}

UNBIASED = {
    "likelihood_ratio": partial(estimators.likelihood_ratio),
    "likelihood_ratio with baseline": partial(estimators.likelihood_ratio, baseline=value),
    "reparameterized": partial(estimators.reparameterized, critic=q),
    "expected": partial(estimators.expected, critic=q),
    "stein": partial(estimators.stein, critic=poor_q),
    "stein with baseline": partial(estimators.stein, critic=poor_q, baseline=value),
    "stein with the true Q": partial(estimators.stein, critic=q),
    "lax": partial(estimators.lax, critic=poor_q),
    "q_prop": partial(estimators.q_prop, critic=poor_q),
    "q_prop with baseline": partial(estimators.q_prop, critic=poor_q, baseline=value),
    "interpolated, ν = 0": partial(estimators.interpolated, critic=poor_q, nu=0.0),
    "interpolated, ν = 0, control variate": partial(
        estimators.interpolated, critic=poor_q, nu=0.0, control_variate=True
    ),
    "factorized": partial(estimators.factorized, critic=poor_q),
    "factorized by samples": partial(estimators.factorized, critic=poor_q, samples=3),
}
NEEDS_INDEPENDENT_ACTIONS = {"expected", "factorized", "factorized by samples"}


def truth_of(family, policy):
    """∇J; with dependent actions the 0.3 adds to J only what no parameter moves, but for H_12's part."""
    if family != "multivariate":
        return true_gradient(policy)
    # E[½ (Lξ)ᵀ H (Lξ)] = ½ tr(H L Lᵀ): of σ_1 there is also H_12 · σ_1 · 0.3
    extra = torch.zeros(6, dtype=torch.float64)
    names = [name for name, p in policy.named_parameters() for _ in range(p.numel())]
    extra[names.index("log_std")] = -0.6 * 0.3 * policy.log_std.exp()[0].item()
    return true_gradient(policy) + extra


@pytest.mark.parametrize(
    ("name", "family"),
    [(n, f) for n in UNBIASED for f in FAMILIES if f != "multivariate" or n not in NEEDS_INDEPENDENT_ACTIONS],
)
def test_the_mean_is_the_gradient_of_the_quadratic_bandit(name, family):
    policy = LinearGaussian(FAMILIES[family])
    estimate = UNBIASED[name](policy, samples_of(policy))
    assert compare(estimate, truth_of(family, policy)).accepts


@pytest.mark.parametrize("name", UNBIASED)
def test_each_sample_is_multiplied_by_its_discount(name):
    policy = LinearGaussian(gaussian)
    batch = samples_of(policy)
    discount = 0.8 ** torch.randint(0, 4, (len(batch.action),)).double()  # γ^t, E = (1 + γ + γ² + γ³) / 4
    estimate = UNBIASED[name](policy, batch._replace(discount=discount))
    truth = true_gradient(policy)
    assert compare(estimate, 0.738 * truth).accepts
    assert compare(estimate, truth).rejects


LIKELIHOOD, PATHWISE, STEIN, Q_PROP = "likelihood.py", "pathwise.py", "stein.py", "q_prop.py"
CONTROLS, POLICIES, ESTIMATE = "controls.py", "policies.py", "estimate.py"
SCORE = "return weight * log_prob(pi, action)"
PATH = "return (reparameterize(pi, noise) * slope)"
PER_DIM = "(weight * log_prob_per_dim(pi, action))"
MUTANTS = [
    ("likelihood_ratio", LIKELIHOOD, SCORE, "return -weight * log_prob(pi, action)"),
    ("likelihood_ratio", LIKELIHOOD, SCORE, "return log_prob(pi, action)"),
    ("likelihood_ratio", LIKELIHOOD, SCORE, "return weight * log_prob(pi, action).exp()"),
    ("reparameterized", PATHWISE, "reparameterize(pi, noise))  # [B, A]", "center(pi))"),
    ("reparameterized", PATHWISE, PATH, "return (center(pi) * slope)"),
    ("reparameterized", PATHWISE, PATH, "return (0.5 * reparameterize(pi, noise) * slope)"),
    ("reparameterized", PATHWISE, PATH, "return (reparameterize(pi, -noise) * slope)"),
    ("expected", PATHWISE, "0.5 * std.square()", "std.square()"),
    ("expected", PATHWISE, "0.5 * std.square()", "0.5 * std"),
    ("expected", PATHWISE, "+ 0.5 * std.square() * curvature", "- 0.5 * std.square() * curvature"),
    ("stein", STEIN, "weight) + along_slope(pi, noise, slope)", "weight)"),
    ("stein", STEIN, "weight) + along_slope(pi, noise, slope)", "weight) - along_slope(pi, noise, slope)"),
    ("stein", STEIN, "weight) + along_slope(pi, noise, slope)", "weight) + 0.5 * along_slope(pi, noise, slope)"),
    ("stein", STEIN, "advantage(batch, baseline) - (phi", "advantage(batch, baseline) + (phi"),
    ("stein", STEIN, "advantage(batch, baseline) - (phi", "advantage(batch, baseline) - 2.0 * (phi"),
    ("lax", STEIN, "weight) + along_slope(pi, noise, slope)", "weight)"),
    ("q_prop", Q_PROP, "a_hat - taken * control", "a_hat + taken * control"),
    ("q_prop", Q_PROP, "a_hat - taken * control", "a_hat"),
    ("q_prop", Q_PROP, "taken.unsqueeze(1) * slope", "0.0 * slope"),
    ("q_prop", Q_PROP, "taken.unsqueeze(1) * slope", "-slope"),
    ("q_prop", Q_PROP, "+ (mean_of(pi) * slope)", "+ (mean_of(pi).detach() * slope)"),
    ("interpolated", Q_PROP, "(1.0 - nu) * (a_hat - control), slope", "(1.0 - nu) * (a_hat - control), nu * slope"),
    ("interpolated", Q_PROP, "(1.0 - nu) * (a_hat - control), slope", "(1.0 - nu) * a_hat, slope"),
    ("factorized", LIKELIHOOD, PER_DIM, "(weight.flip(1) * log_prob_per_dim(pi, action))"),
    ("factorized", LIKELIHOOD, "marginal_baselines(critic, batch.obs, batch.action, pi, samples)",
     "critic(batch.obs, batch.action).unsqueeze(1)"),
]  # fmt: skip
CALLS = {
    "likelihood_ratio": {"baseline": value},
    "reparameterized": {"critic": q},
    "expected": {"critic": q},
    "stein": {"critic": poor_q},
    "lax": {"critic": poor_q},
    "q_prop": {"critic": poor_q, "baseline": value},
    "interpolated": {"critic": poor_q, "baseline": value, "nu": 0.0, "control_variate": True},
    "factorized": {"critic": poor_q},
}


@pytest.mark.parametrize(("name", "file", "old", "new"), MUTANTS)
def test_an_estimator_with_a_mistake_in_it_is_rejected(name, file, old, new):
    policy = LinearGaussian(gaussian)
    batch = samples_of(policy)
    wrong = getattr(mutant(file, old, new), name)
    assert compare(wrong(policy, batch, **CALLS[name]), true_gradient(policy)).rejects
    assert compare(getattr(estimators, name)(policy, batch, **CALLS[name]), true_gradient(policy)).accepts


MUTANTS_BELOW = [
    ("stein", POLICIES, "return (action - pi.loc) / pi.scale", "return (action - pi.loc)"),
    ("stein", POLICIES, "return pi.loc + pi.scale * noise", "return pi.loc + pi.scale.detach() * noise"),
    ("q_prop", CONTROLS, "(slope * (action - mean).detach()).sum(-1)", "2.0 * (slope * (action - mean)).sum(-1)"),
    ("factorized", CONTROLS, "torch.where(own, draw, action)", "torch.where(own, action, draw)"),
]


@pytest.mark.parametrize(("name", "file", "old", "new"), MUTANTS_BELOW)
def test_a_mistake_in_what_estimators_share_is_rejected(name, file, old, new, monkeypatch):
    wrong = mutant(file, old, new)
    for user in ["stein", "q_prop", "pathwise", "likelihood", "controls"]:
        module = __import__(f"rl_lightning.estimators.{user}", fromlist=["_"])
        for public in ["noise_of", "pathwise_noise", "reparameterize", "linear_control", "marginal_baselines"]:
            if hasattr(module, public) and hasattr(wrong, public):
                monkeypatch.setattr(module, public, getattr(wrong, public))
    policy = LinearGaussian(gaussian)
    estimate = getattr(estimators, name)(policy, samples_of(policy), **CALLS[name])
    assert compare(estimate, true_gradient(policy)).rejects
