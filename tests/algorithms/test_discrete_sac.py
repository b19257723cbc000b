import math
from functools import partial

import numpy as np
import pytest
import torch
from corridor import TABLE, corridor_data, soft_optimal_q
from gymnasium.spaces import Box, Discrete
from linear import approx, flat, sgd
from torch.optim import Adam
from toys import LINEAR, TINY, fit, make_trainer

from rl_lightning import DiscreteSAC, ReplayDataModule, Transition, UsageError

OBS = Box(-np.inf, np.inf, (1,), np.float32)
ACTION = Discrete(2)


def linear_sac(ent_coef=0.5, **settings) -> DiscreteSAC:
    """Two actions: Q1 = (s, 1 − s), Q2 = (2s − 1, 0.5), targets (3s − 1, 2s) and (s, s + 3), logits (0.5s, 0.1 − s)."""
    sac = DiscreteSAC(OBS, ACTION, ent_coef=ent_coef, network=LINEAR, compile=False, **settings)
    with torch.no_grad():
        for network, weight, bias in (
            (sac.q.q1, [[1.0], [-1.0]], [0.0, 1.0]),
            (sac.q.q2, [[2.0], [0.0]], [-1.0, 0.5]),
            (sac.target_q.q1, [[3.0], [2.0]], [-1.0, 0.0]),
            (sac.target_q.q2, [[1.0], [1.0]], [0.0, 3.0]),
            (sac.policy, [[0.5], [-1.0]], [0.0, 0.1]),
        ):
            network.body[0].weight.copy_(torch.tensor(weight))
            network.body[0].bias.copy_(torch.tensor(bias))
    return sac


def pi(s):
    odds = [math.exp(0.5 * s), math.exp(0.1 - s)]
    return [odd / sum(odds) for odd in odds]


def min_q(s):
    return [min(s, 2 * s - 1), min(1 - s, 0.5)]


def min_target(s):
    return [min(3 * s - 1, s), min(2 * s, s + 3)]


def state_value(s, q, ent_coef):
    return sum(p * (q_a - ent_coef * math.log(p)) for p, q_a in zip(pi(s), q(s), strict=True))


def entropy(s):
    return -sum(p * math.log(p) for p in pi(s))


STATES = [1.0, -2.0, 0.5]


def three_transitions() -> Transition:
    return Transition(
        obs=torch.tensor(STATES)[:, None],
        action=torch.tensor([0, 1, 1]),
        reward=torch.tensor([1.0, -3.0, 0.5]),
        next_obs=torch.tensor([[2.0], [4.0], [-1.0]]),
        terminated=torch.tensor([False, True, False]),
        discount=torch.tensor([0.5, 0.5, 0.25]),
        weight=torch.tensor([1.0, 0.5, 2.0]),
    )


# The three losses


@pytest.mark.parametrize("ent_coef", [0.5, 2.0])
def test_the_value_of_the_next_state_is_the_exact_expectation_over_actions(ent_coef):
    value = linear_sac(ent_coef).next_value(three_transitions())
    assert not value.requires_grad
    assert value.tolist() == approx([state_value(s, min_target, ent_coef) for s in (2.0, 4.0, -1.0)])


def test_each_of_the_two_q_networks_is_the_minimum_somewhere():
    # else the tests by hand would not tell the minimum from one of the two
    sac, batch = linear_sac(), three_transitions()
    for networks, obs in ((sac.q, batch.obs), (sac.target_q, batch.next_obs[[0, 2]])):
        q1, q2 = networks(obs)
        assert (q1 < q2).any()
        assert (q1 > q2).any()


def test_the_q_loss_and_its_gradient_are_those_worked_out_by_hand():
    found = linear_sac().gradients(three_transitions())
    targets = [1 + 0.5 * state_value(2.0, min_target, 0.5), -3.0, 0.5 + 0.25 * state_value(-1.0, min_target, 0.5)]
    # of the actions 0, 1 and 1: Q1 = [1, 3, 0.5], Q2 = [1, 0.5, 0.5]
    first = [q - target for q, target in zip([1.0, 3.0, 0.5], targets, strict=True)]
    second = [q - target for q, target in zip([1.0, 0.5, 0.5], targets, strict=True)]
    weights = [1.0, 0.5, 2.0]
    assert found.metrics["train/q_loss"].item() == approx(
        sum(w * 0.5 * (one**2 + other**2) for w, one, other in zip(weights, first, second, strict=True)) / 3
    )
    td_error = [0.5 * (abs(one) + abs(other)) for one, other in zip(first, second, strict=True)]
    assert found.metrics["train/td_error"].tolist() == found.td_error.tolist() == approx(td_error)
    assert found.metrics["train/q_mean"].item() == approx((1 + 0.5 + 0.5) / 3)
    expected = []
    for errors in (first, second):
        a, b, c = (w * error / 3 for w, error in zip(weights, errors, strict=True))
        expected += [a * 1, b * -2 + c * 0.5, a, b + c]
    assert flat(found.of["q"]) == approx(expected)


def test_the_policy_loss_and_its_gradient_are_those_worked_out_by_hand():
    found = linear_sac().gradients(three_transitions())
    assert found.metrics["train/policy_loss"].item() == approx(-sum(state_value(s, min_q, 0.5) for s in STATES) / 3)
    # with f_a = α log π_a − Q_a, whose mean under π the loss is: d/d logit_k = π_k (f_k − Σ π f)
    by_weight, by_bias = np.zeros(2), np.zeros(2)
    for s in STATES:
        p = np.array(pi(s))
        f = 0.5 * np.log(p) - np.array(min_q(s))
        slope = p * (f - p @ f)
        by_weight += slope * s / 3
        by_bias += slope / 3
    assert flat(found.of["policy"]) == approx([*by_weight, *by_bias])
    assert found.metrics["train/entropy"].item() == approx(sum(map(entropy, STATES)) / 3)


def test_the_policy_gradient_vanishes_at_the_policy_that_is_exponential_in_q():
    sac, batch = linear_sac(), three_transitions()
    with torch.no_grad():  # Q1 below Q2 everywhere, and logits of Q1 / α
        sac.q.q2.body[0].bias += 100
        sac.policy.body[0].weight.copy_(sac.q.q1.body[0].weight / 0.5)
        sac.policy.body[0].bias.copy_(sac.q.q1.body[0].bias / 0.5)
    found = sac.gradients(batch)
    assert flat(found.of["policy"]) == pytest.approx([0.0] * 4, abs=1e-6)
    # and the loss is minus the soft maximum there
    soft = [0.5 * math.log(math.exp(s / 0.5) + math.exp((1 - s) / 0.5)) for s in STATES]
    assert found.metrics["train/policy_loss"].item() == approx(-sum(soft) / 3)


@pytest.mark.parametrize("target_entropy", [0.1, 0.6])
def test_the_temperatures_gradient_is_the_entropy_over_its_target(target_entropy):
    sac = linear_sac(target_entropy=target_entropy)
    found = sac.gradients(three_transitions())
    assert flat(found.of["ent_coef"]) == approx([sum(map(entropy, STATES)) / 3 - target_entropy])
    assert found.metrics["train/ent_coef"].item() == approx(0.5)


def test_the_target_entropy_is_by_default_the_papers_share_of_the_uniform_policys():
    assert DiscreteSAC(OBS, Discrete(6), network=LINEAR, compile=False).target_entropy == approx(0.98 * math.log(6))
    assert linear_sac(target_entropy=0.0).target_entropy == 0.0


def test_a_time_limit_bootstraps_and_termination_does_not():
    sac, batch = linear_sac(), three_transitions()
    alive = sac.gradients(batch._replace(terminated=torch.tensor([False] * 3))).td_error
    target = -3 + 0.5 * state_value(4.0, min_target, 0.5)
    assert alive[1].item() == approx(0.5 * (abs(3 - target) + abs(0.5 - target)))
    batch.next_obs[1] = torch.inf
    assert sac.gradients(batch).metrics["train/q_loss"].isfinite()


def test_numbers_and_gradients_are_finite_where_the_policy_is_certain():
    sac = linear_sac()
    with torch.no_grad():
        sac.policy.body[0].bias.copy_(torch.tensor([1e4, 0.0]))
    found = sac.gradients(three_transitions())
    gradients = [gradient for own in found.of.values() for gradient in own]
    assert all(tensor.isfinite().all() for tensor in [*found.metrics.values(), *gradients])
    assert found.metrics["train/entropy"] == 0.0


# What may move what


def same(before, after):
    return {name for name in before if all(torch.equal(a, b) for a, b in zip(before[name], after[name], strict=True))}


def test_each_losses_gradients_depend_on_its_own_inputs_alone():
    sac, batch = linear_sac(target_entropy=0.3), three_transitions()
    before = sac.gradients(batch).of
    assert all(gradient.abs().sum() > 0 for own in before.values() for gradient in own)
    assert same(before, sac.gradients(batch).of) == {"q", "policy", "ent_coef"}  # nothing is drawn
    # rewards, actions and weights reach J_Q alone
    for changed in (
        {"reward": batch.reward + 10},
        {"action": torch.tensor([1, 0, 1])},
        {"weight": torch.ones(3)},
        {"next_obs": batch.next_obs + 1},
    ):
        assert same(before, sac.gradients(batch._replace(**changed)).of) == {"policy", "ent_coef"}, changed
    with torch.no_grad():
        sac.target_q.q1.body[0].bias -= 10
        sac.target_q.q2.body[0].bias -= 10
    assert same(before, sac.gradients(batch).of) == {"policy", "ent_coef"}
    before = sac.gradients(batch).of
    with torch.no_grad():
        sac.q.q1.body[0].bias -= torch.tensor([10.0, 5.0])
    assert same(before, sac.gradients(batch).of) == {"ent_coef"}
    before = sac.gradients(batch).of
    with torch.no_grad():
        sac.temperature.log_alpha += 1
    assert same(before, sac.gradients(batch).of) == {"ent_coef"}
    before = sac.gradients(batch).of
    with torch.no_grad():
        sac.policy.body[0].bias += torch.tensor([1.0, 0.0])
    assert same(before, sac.gradients(batch).of) == set()


def noise_data(**settings):
    settings = {"learning_starts": 12, "total_env_steps": 20, "batch_size": 8, "buffer_size": 1000, **settings}
    return ReplayDataModule("toys:Spaces-v0", **settings)


def sac_for(data, network=TINY, **settings):
    return DiscreteSAC(data.observation_space, data.action_space, network=network, compile=False, **settings)


@pytest.mark.parametrize(("target_entropy", "direction"), [(1.05, 1), (0.2, -1)])
def test_the_temperature_rises_while_the_entropy_is_below_its_target_and_falls_while_it_is_above(
    target_entropy, direction
):
    data = noise_data(total_env_steps=13)
    model = sac_for(data, ent_coef=0.3, target_entropy=target_entropy, ent_coef_optimizer=sgd(0.1))
    with torch.no_grad():  # log 3 is 1.0986; (0.6, 0.2, 0.2) has 0.9503
        model.policy.body[-1].weight.zero_()
        model.policy.body[-1].bias.copy_(torch.tensor([math.log(3.0), 0.0, 0.0]))
    fit(model, data)
    entropy_of = -(0.6 * math.log(0.6) + 0.4 * math.log(0.2))
    assert model.metrics["train/entropy"].item() == pytest.approx(entropy_of, abs=1e-4)
    step = 0.1 * (target_entropy - entropy_of)
    assert step * direction > 0
    assert model.temperature().item() == pytest.approx(0.3 * math.exp(step), rel=1e-5)


def test_a_fixed_temperature_has_no_optimizer_and_does_not_move():
    data = noise_data()
    model = sac_for(data, ent_coef=0.3, ent_coef_optimizer=None)
    trainer = fit(model, data)
    owned = [{id(p) for group in o.param_groups for p in group["params"]} for o in trainer.optimizers]
    assert owned == [{id(p) for p in network.parameters()} for network in (model.q, model.policy)]
    assert model.temperature().item() == approx(0.3)
    assert trainer.global_step == 2 * 8


# Acting


def test_actions_are_as_frequent_as_probable_and_the_deterministic_one_is_the_most_probable():
    sac, obs = linear_sac(), torch.tensor([[1.0], [-0.3]]).repeat(20_000, 1)
    action = sac.act(obs)
    assert action.dtype == torch.int64
    for row, s in enumerate((1.0, -0.3)):
        share = action[row::2].float().mean().item()
        assert share == pytest.approx(pi(s)[1], abs=5 * 0.5 / 20_000**0.5)
    assert sac.act(obs, deterministic=True)[:2].tolist() == [0, 1]


# Refusals


@pytest.mark.parametrize(("key", "value"), [("ent_coef", 0.0), ("target_entropy", math.log(2) + 0.01)])
def test_no_temperature_and_more_entropy_than_there_can_be_are_refused(key, value):
    with pytest.raises(UsageError, match=f"^{key}={value!r} is not allowed: ") as caught:
        linear_sac(**{key: value})
    assert "\n" not in str(caught.value)


# Whole runs


def test_with_a_fixed_temperature_it_learns_the_soft_q_and_the_soft_policy_of_a_corridor():
    data = corridor_data()
    model = sac_for(
        data, network=TABLE, gamma=0.6, tau=0.2, ent_coef=0.3, ent_coef_optimizer=None,
        q_optimizer=partial(Adam, lr=2e-2), policy_optimizer=partial(Adam, lr=3e-2),
    )  # fmt: skip
    fit(model, data)
    expected = soft_optimal_q(0.6, 0.3)
    policy = np.exp(expected / 0.3) / np.exp(expected / 0.3).sum(-1, keepdims=True)
    with torch.no_grad():
        for q in model.q(torch.arange(3)):
            np.testing.assert_allclose(q, expected, atol=0.04)
        np.testing.assert_allclose(model.policy(torch.arange(3)).exp(), policy, atol=0.04)


def test_the_temperature_settles_where_the_policy_has_its_target_entropy():
    data = ReplayDataModule(
        "toys:Bandit-v0", learning_starts=100, total_env_steps=500, batch_size=64, buffer_size=2000, eval_episodes=20
    )
    model = sac_for(
        data, network=TABLE, ent_coef=0.6, target_entropy=0.5, q_optimizer=partial(Adam, lr=3e-2),
        policy_optimizer=partial(Adam, lr=0.1),
        ent_coef_optimizer=partial(Adam, lr=1e-2),  # no faster than the policy follows, or both swing
    )  # fmt: skip
    fit(model, data)
    with torch.no_grad():
        log_pi = model.policy(torch.arange(3))
        for q in model.q(torch.arange(3)):  # one step: 1 for the context, 0 for the others
            np.testing.assert_allclose(q, np.eye(3), atol=0.03)
    # (p, (1 − p) / 2, (1 − p) / 2) has 0.5 nats at p = 0.861, which is exponential in Q at α = 1 / log(2p / (1 − p))
    p = 0.861
    assert -(p * math.log(p) + (1 - p) * math.log((1 - p) / 2)) == pytest.approx(0.5, abs=1e-3)
    assert log_pi.exp().diagonal().tolist() == pytest.approx([p] * 3, abs=0.02)
    assert model.temperature().item() == pytest.approx(1 / math.log(2 * p / (1 - p)), rel=0.05)
    assert make_trainer(validate=True).validate(model, data, verbose=False)[0]["val/return_mean"] == 1.0
