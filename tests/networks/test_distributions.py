from functools import partial
from typing import NamedTuple

import pytest
import torch
from torch import distributions as oracles
from torch.distributions import Independent, kl_divergence

from rl_lightning.networks.distributions import Bernoulli, Categorical, Gaussian, MultiCategorical

PARTS = (2, 3, 4)
KINDS = ["categorical", "multi-categorical", "bernoulli", "gaussian"]


class Case(NamedTuple):
    """One of ours with the parameters it was made of, what torch says it is, and actions [B, ...]."""

    ours: object
    parameters: list[torch.Tensor]
    oracle: oracles.Distribution
    action: torch.Tensor
    oracle_action: torch.Tensor


def joint(logits):
    """One Categorical over all combinations of the parts' choices."""
    first, second, third = (part.softmax(-1) for part in logits)
    return oracles.Categorical(probs=torch.einsum("bi,bj,bk->bijk", first, second, third).flatten(1))


def make(kind, seed, batch=6):
    random = partial(torch.randn, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    if kind == "categorical":
        logits = (2 * random(batch, 4)).requires_grad_()
        action = torch.arange(batch) % 4
        return Case(Categorical(logits), [logits], oracles.Categorical(logits=logits), action, action)
    if kind == "multi-categorical":
        logits = [(2 * random(batch, part)).requires_grad_() for part in PARTS]
        action = torch.stack([(torch.arange(batch) * (i + 1)) % part for i, part in enumerate(PARTS)], -1)
        index = action[:, 0] * 12 + action[:, 1] * 4 + action[:, 2]
        ours = MultiCategorical(tuple(Categorical(part) for part in logits))
        return Case(ours, logits, joint(logits), action, index)
    if kind == "bernoulli":
        logits = (2 * random(batch, 3)).requires_grad_()
        action = torch.tensor([[0, 1, 1], [1, 0, 0]]).repeat(batch // 2, 1)
        oracle = Independent(oracles.Bernoulli(logits=logits), 1)
        return Case(Bernoulli(logits), [logits], oracle, action, action.double())
    mean, log_std = random(batch, 3).requires_grad_(), (0.5 * random(batch, 3)).requires_grad_()
    action = 2 * random(batch, 3)
    oracle = Independent(oracles.Normal(mean, log_std.exp()), 1)
    return Case(Gaussian(mean, log_std), [mean, log_std], oracle, action, action)


def assert_same_with_gradients(ours, oracle, parameters):
    assert ours.shape == oracle.shape == (6,)
    torch.testing.assert_close(ours, oracle, rtol=1e-10, atol=1e-12)
    for actual, expected in zip(
        torch.autograd.grad(ours.sum(), parameters, retain_graph=True, allow_unused=True, materialize_grads=True),
        torch.autograd.grad(oracle.sum(), parameters, retain_graph=True, allow_unused=True, materialize_grads=True),
        strict=True,
    ):
        torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_log_probs_and_their_gradients_are_torchs(kind, seed):
    ours, parameters, oracle, action, oracle_action = make(kind, seed)
    assert_same_with_gradients(ours.log_prob(action), oracle.log_prob(oracle_action), parameters)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_entropies_and_their_gradients_are_torchs(kind, seed):
    ours, parameters, oracle, *_ = make(kind, seed)
    assert_same_with_gradients(ours.entropy(), oracle.entropy(), parameters)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_divergences_and_their_gradients_are_torchs_in_both_directions(kind, seed):
    one, other = make(kind, seed), make(kind, seed + 10)
    parameters = [*one.parameters, *other.parameters]
    there, back = one.ours.kl(other.ours), other.ours.kl(one.ours)
    assert_same_with_gradients(there, kl_divergence(one.oracle, other.oracle), parameters)
    assert_same_with_gradients(back, kl_divergence(other.oracle, one.oracle), parameters)
    assert (there > 0.01).all()
    assert not torch.isclose(there, back).any()


@pytest.mark.parametrize("kind", KINDS)
def test_the_divergence_from_itself_and_its_gradient_are_zero(kind):
    ours, parameters, *_ = make(kind, 0)
    divergence = ours.detach().kl(ours)
    assert divergence.abs().max() < 1e-12
    for gradient in torch.autograd.grad(divergence.sum(), parameters):
        assert gradient.abs().max() < 1e-12


@pytest.mark.parametrize("kind", KINDS)
def test_the_mode_is_the_most_likely_action(kind):
    ours, _, oracle, *_ = make(kind, 0)
    if kind == "multi-categorical":
        index = oracle.probs.argmax(-1)
        expected = torch.stack([index // 12, index // 4 % 3, index % 4], -1)
    else:
        expected = (oracle.base_dist if isinstance(oracle, Independent) else oracle).mode
    assert torch.equal(ours.mode().double(), expected.double())
    for seed in range(20):
        torch.manual_seed(seed)
        assert (ours.log_prob(ours.mode()) >= ours.log_prob(ours.sample())).all()


@pytest.mark.parametrize(
    ("kind", "shape", "dtype"),
    [
        ("categorical", (6,), torch.int64),
        ("multi-categorical", (6, 3), torch.int64),
        ("bernoulli", (6, 3), torch.int64),
        ("gaussian", (6, 3), torch.float64),
    ],
)
def test_actions_have_the_shape_and_dtype_that_environments_take(kind, shape, dtype):
    ours = make(kind, 0).ours
    for action in (ours.sample(), ours.mode()):
        assert action.shape == shape
        assert action.dtype == dtype
        assert ours.log_prob(action).shape == (6,)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_carry_no_gradient(kind):
    ours, parameters, *_ = make(kind, 0)
    action = ours.sample()
    assert not action.requires_grad
    # as a constant, a sample has the score function's gradient: 0 in expectation and not elsewhere
    score = torch.autograd.grad(ours.log_prob(action).sum(), parameters)
    assert all(gradient.abs().max() > 1e-6 for gradient in score)


@pytest.mark.parametrize("kind", KINDS)
def test_a_detached_distribution_is_the_same_without_gradients(kind):
    ours, _, _, action, _ = make(kind, 0)
    detached = ours.detach()
    for actual, expected in (
        (detached.log_prob(action), ours.log_prob(action)),
        (detached.entropy(), ours.entropy()),
        (detached.mode(), ours.mode()),
    ):
        assert torch.equal(actual, expected)
        assert not actual.requires_grad
    assert ours.entropy().requires_grad
    assert detached.kl(ours).requires_grad
    torch.manual_seed(3)
    drawn = ours.sample()
    torch.manual_seed(3)
    assert torch.equal(drawn, detached.sample())


DRAWS = 60_000


def assert_frequencies(index, probabilities):
    """Pearson's χ², of mean K − 1 and variance 2 (K − 1)."""
    expected = probabilities * DRAWS
    chi_square = ((torch.bincount(index, minlength=len(expected)) - expected) ** 2 / expected).sum().item()
    assert expected.min() > 50
    assert chi_square < (len(expected) - 1) + 4 * (2 * (len(expected) - 1)) ** 0.5


@pytest.mark.parametrize("offset", [0.0, 300.0, -300.0])
def test_samples_of_a_categorical_are_as_frequent_as_probable(offset):
    logits = torch.tensor([[0.0, 1.0, -2.0, 2.0, 0.5]]) + offset
    action = Categorical(logits.expand(DRAWS, -1)).sample()
    assert_frequencies(action, logits[0].softmax(-1))


def test_choices_of_a_multi_categorical_are_as_frequent_as_probable_and_independent():
    logits = [torch.tensor([[0.3, -0.3]]), torch.tensor([[0.0, 1.0, -1.0]]), torch.tensor([[0.0, 0.5, 1.0, -0.5]])]
    action = MultiCategorical(tuple(Categorical(part.expand(DRAWS, -1)) for part in logits)).sample()
    assert_frequencies(action @ torch.tensor([12, 4, 1]), joint(logits).probs[0])


def test_switches_of_a_bernoulli_are_as_frequent_as_probable_and_independent():
    logits = torch.tensor([[0.0, 1.5, -1.0]])
    action = Bernoulli(logits.expand(DRAWS, -1)).sample()
    on = logits[0].sigmoid()
    each = [torch.stack([1 - p, p]) for p in on]
    assert_frequencies(action @ torch.tensor([4, 2, 1]), torch.einsum("i,j,k->ijk", *each).flatten())


def test_samples_of_a_gaussian_have_its_mean_and_deviation_in_each_dimension():
    mean, log_std = torch.tensor([[1.0, -2.0, 0.0]]), torch.tensor([[-1.0, 0.5, 0.0]])
    action = Gaussian(mean.expand(DRAWS, -1), log_std.expand(DRAWS, -1)).sample()
    std = log_std[0].exp()
    assert ((action.mean(0) - mean[0]).abs() < 4 * std / DRAWS**0.5).all()
    assert ((action.std(0) / std - 1).abs() < 4 / (2 * DRAWS) ** 0.5).all()
    correlation = torch.corrcoef(action.T) - torch.eye(3)
    assert correlation.abs().max() < 4 / DRAWS**0.5


@pytest.mark.parametrize("kind", [Categorical, Bernoulli])
def test_numbers_and_gradients_are_finite_where_a_choice_is_certain(kind):
    logits = torch.tensor([[1e4, -1e4], [-200.0, 300.0]], requires_grad=True)
    ours, other = kind(logits), kind(torch.tensor([[50.0, 0.0], [0.0, 60.0]]))
    action = ours.mode()
    for number in (ours.log_prob(action), ours.entropy(), ours.kl(other), other.kl(ours)):
        assert number.isfinite().all()
        (gradient,) = torch.autograd.grad(number.sum(), logits)
        assert gradient.isfinite().all()
    assert ours.log_prob(action).tolist() == [0.0, 0.0]
    assert ours.entropy().tolist() == [0.0, 0.0]
    assert torch.equal(ours.sample(), action)
