import math
from functools import partial

import numpy as np
import pytest
import torch
from corridor import RIGHT, TABLE, corridor_data, soft_optimal_q
from gymnasium.spaces import Box, Discrete
from linear import approx, flat
from torch.optim import Adam
from toys import LINEAR, fit

from rl_lightning import DQN, SoftQ, Transition, UsageError

OBS = Box(-np.inf, np.inf, (1,), np.float32)
ACTION = Discrete(2)


@torch.no_grad()
def set_linear(network, weight, bias):
    network[0].weight.copy_(torch.tensor(weight))
    network[0].bias.copy_(torch.tensor(bias))


def linear_soft_q(ent_coef=0.5, learner=SoftQ, **settings):
    """Q(s, ·) = (s, 1 − s), Q_target(s, ·) = (3s − 1, 2s + 3)."""
    if learner is SoftQ:
        settings["ent_coef"] = ent_coef
    model = learner(OBS, ACTION, network=LINEAR, compile=False, **settings)
    set_linear(model.q.body, [[1.0], [-1.0]], [0.0, 1.0])
    set_linear(model.target_q.body, [[3.0], [2.0]], [-1.0, 3.0])
    return model


def three_transitions() -> Transition:
    return Transition(
        obs=torch.tensor([[1.0], [-2.0], [0.5]]),
        action=torch.tensor([0, 1, 1]),
        reward=torch.tensor([1.0, -3.0, 0.5]),
        next_obs=torch.tensor([[3.5], [4.0], [-1.0]]),
        terminated=torch.tensor([False, True, False]),
        discount=torch.tensor([0.5, 0.5, 0.25]),
        weight=torch.tensor([1.0, 0.5, 2.0]),
    )


def soft(q, ent_coef):
    return ent_coef * math.log(sum(math.exp(one / ent_coef) for one in q))


def entropy(q, ent_coef):
    odds = [math.exp(one / ent_coef) for one in q]
    return -sum(odd / sum(odds) * math.log(odd / sum(odds)) for odd in odds)


# The loss


def test_the_loss_and_its_gradient_are_those_worked_out_by_hand():
    found = linear_soft_q().gradients(three_transitions())
    metrics = found.metrics
    # Q(s, a) = [1, 3, 0.5]; Q_target(s', ·) is (9.5, 10) and (−4, 1), and nothing counts behind the termination
    errors = [1 - (1 + 0.5 * soft([9.5, 10], 0.5)), 3 - -3, 0.5 - (0.5 + 0.25 * soft([-4, 1], 0.5))]
    a, b, c = (weight * error / 3 for weight, error in zip([1.0, 0.5, 2.0], errors, strict=True))
    assert metrics["train/q_loss"].item() == approx(0.5 * (a * errors[0] + b * errors[1] + c * errors[2]))
    assert metrics["train/td_error"].tolist() == found.td_error.tolist() == approx([abs(error) for error in errors])
    assert metrics["train/q_mean"].item() == approx((1 + 3 + 0.5) / 3)
    rows = [(1.0, 0.0), (-2.0, 3.0), (0.5, 0.5)]  # Q(s, ·)
    assert metrics["train/v_mean"].item() == approx(sum(soft(q, 0.5) for q in rows) / 3)
    assert metrics["train/entropy"].item() == approx(sum(entropy(q, 0.5) for q in rows) / 3)
    assert flat(found.of["q"]) == approx([a * 1, b * -2 + c * 0.5, a, b + c])


def test_the_soft_value_is_between_the_maximum_and_that_plus_the_largest_entropy():
    batch = three_transitions()
    for ent_coef in (0.01, 0.5, 10.0):
        value = linear_soft_q(ent_coef).next_value(batch)
        highest = torch.tensor([10.0, 11.0, 1.0])
        assert (value > highest - 1e-5).all()
        assert (value <= highest + ent_coef * math.log(2) + 1e-5).all()


def test_hubers_loss_is_linear_beyond_a_difference_of_one():
    found = linear_soft_q(loss="huber").gradients(three_transitions())
    # the differences, as above, are about -4.2, 6 and 0.1
    errors = [1 - (1 + 0.5 * soft([9.5, 10], 0.5)), 3 - -3, 0.5 - (0.5 + 0.25 * soft([-4, 1], 0.5))]
    assert errors[0] < -1 < errors[2] < 1 < errors[1]
    weights, losses = [1.0 / 3, 0.5 / 3, 2.0 / 3], [-errors[0] - 0.5, errors[1] - 0.5, 0.5 * errors[2] ** 2]
    q_loss = sum(weight * loss for weight, loss in zip(weights, losses, strict=True))
    assert found.metrics["train/q_loss"].item() == approx(q_loss)
    a, b, c = (w * slope for w, slope in zip(weights, [-1.0, 1.0, errors[2]], strict=True))
    assert flat(found.of["q"]) == approx([a * 1, b * -2 + c * 0.5, a, b + c])


@pytest.mark.parametrize("settings", [{}, {"max_grad_norm": 0.3}, {"loss": "huber"}])
def test_without_temperature_it_is_dqn(settings):
    batch = three_transitions()
    expected = linear_soft_q(learner=DQN, **settings).gradients(batch)
    found = linear_soft_q(1e-4, **settings).gradients(batch)
    for name in ("train/q_loss", "train/q_mean", "train/td_error"):
        torch.testing.assert_close(found.metrics[name], expected.metrics[name], rtol=1e-5, atol=1e-5)
    assert flat(found.of["q"]) == approx(flat(expected.of["q"]))
    assert found.metrics["train/entropy"].item() == approx(math.log(2) / 3)  # the third state's actions are alike
    warm = linear_soft_q(1.0).gradients(batch)
    assert (warm.td_error - expected.td_error).abs()[0] > 0.1  # which differs


def test_it_is_finite_at_a_tiny_temperature_with_a_large_q():
    model, batch = linear_soft_q(1e-4), three_transitions()
    for sign in (1.0, -1.0):
        set_linear(model.q.body, [[sign * 100.0], [sign * 99.0]], [0.0, 0.0])
        set_linear(model.target_q.body, [[sign * 100.0], [sign * 99.0]], [0.0, 0.0])
        found = model.gradients(batch)
        assert all(tensor.isfinite().all() for tensor in [*found.metrics.values(), *found.of["q"]])
        assert model.next_value(batch)[0].item() == pytest.approx(350.0 if sign > 0 else -346.5, rel=1e-5)
        assert model.act(batch.obs).tolist() == model.act(batch.obs, deterministic=True).tolist()


def test_a_time_limit_bootstraps_and_termination_does_not():
    model, batch = linear_soft_q(), three_transitions()
    alive = model.gradients(batch._replace(terminated=torch.tensor([False] * 3))).td_error
    assert alive[1].item() == approx(abs(3 - (-3 + 0.5 * soft([11, 11], 0.5))))
    batch.next_obs[1] = torch.inf
    assert model.gradients(batch).metrics["train/q_loss"].isfinite()


def test_the_target_gets_no_gradient():
    model, batch = linear_soft_q(), three_transitions()
    assert not model.next_value(batch).requires_grad
    met = batch._replace(reward=torch.tensor([1 - 0.5 * soft([9.5, 10], 0.5), 3.0, 0.5 - 0.25 * soft([-4, 1], 0.5)]))
    assert flat(model.gradients(met).of["q"]) == approx([0.0] * 4)  # where it is met nothing is left to move


# Acting


@pytest.mark.parametrize("ent_coef", [0.5, 2.0])
def test_actions_are_as_frequent_as_the_exponential_of_their_q_over_the_temperature(ent_coef):
    model = linear_soft_q(ent_coef)
    obs = torch.tensor([[0.8], [-0.5]]).repeat(20_000, 1)  # Q = (0.8, 0.2) and (−0.5, 1.5)
    action = model.act(obs)
    assert action.dtype == torch.int64
    for row, (first, second) in enumerate([(0.8, 0.2), (-0.5, 1.5)]):
        expected = math.exp(second / ent_coef) / (math.exp(first / ent_coef) + math.exp(second / ent_coef))
        assert action[row::2].float().mean().item() == pytest.approx(expected, abs=5 * 0.5 / 20_000**0.5)
    assert model.act(obs, deterministic=True)[:2].tolist() == [0, 1]


# Refusals


def test_no_temperature_is_refused_since_that_is_dqn():
    with pytest.raises(UsageError, match=r"^ent_coef=0.0 is not allowed: .* DQN$") as caught:
        linear_soft_q(0.0)
    assert "\n" not in str(caught.value)


# Whole runs


@pytest.mark.parametrize(("ent_coef", "above_hard"), [(0.1, 0.01), (0.3, 0.15)])
def test_it_learns_the_soft_q_and_the_soft_policy_of_a_corridor(ent_coef, above_hard):
    data = corridor_data()
    model = SoftQ(
        data.observation_space, data.action_space, gamma=0.6, tau=0.2, ent_coef=ent_coef, network=TABLE,
        q_optimizer=partial(Adam, lr=2e-2), compile=False,
    )  # fmt: skip
    fit(model, data)
    expected = soft_optimal_q(0.6, ent_coef)
    with torch.no_grad():
        q = model.q(torch.arange(3))
    np.testing.assert_allclose(q, expected, atol=0.03)
    assert expected[0, RIGHT] - 0.6**2 > above_hard  # a state is worth more for its choices
    frequencies = torch.bincount(model.act(torch.zeros(20_000, dtype=torch.int64)), minlength=4) / 20_000
    boltzmann = np.exp(expected[0] / ent_coef) / np.exp(expected[0] / ent_coef).sum()
    np.testing.assert_allclose(frequencies, boltzmann, atol=0.06)
