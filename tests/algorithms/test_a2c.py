import math

import numpy as np
import pytest
import torch
from linear import approx, both, linear, pi, rollout, score, v, value_slope
from toys import TINY, GradientSteps, fit, make_trainer

from rl_lightning import A2C, RolloutDataModule, UsageError

STATES, ACTIONS, REWARDS = [1.0, -2.0, 0.5], [1, 0, 1], [1.0, 3.0, -2.0]


def three_steps(terminated=(0, 0, 0), truncated=(0, 0, 0), next_obs=(-2.0, 0.5, 4.0)):
    """In one environment: s = 1, −2, 0.5; a = 1, 0, 1; r = 1, 3, −2."""
    return rollout(*([[x] for x in column] for column in (STATES, ACTIONS, REWARDS, next_obs, terminated, truncated)))


def expected_gradients(advantages, returns):
    policy = -sum(a * score(s, act) for a, s, act in zip(advantages, STATES, ACTIONS, strict=True)) / 3
    value = -sum((g - v(s)) * value_slope(s) for g, s in zip(returns, STATES, strict=True)) / 3
    return policy, value


def unclipped(**settings):
    return linear(A2C, **{"gamma": 0.5, "max_grad_norm": None, **settings})


# Advantages and gradients


@pytest.mark.parametrize(
    ("ends", "returns"),
    [
        # V(4) = 9, and V(7) = 15 where an episode ends in 7
        ({}, [1 + 0.5 * (3 + 0.5 * (-2 + 0.5 * 9)), 3 + 0.5 * (-2 + 0.5 * 9), -2 + 0.5 * 9]),
        ({"terminated": (0, 1, 0)}, [1 + 0.5 * 3, 3.0, -2 + 0.5 * 9]),
        ({"truncated": (0, 1, 0)}, [1 + 0.5 * (3 + 0.5 * 15), 3 + 0.5 * 15, -2 + 0.5 * 9]),
        ({"terminated": (0, 1, 0), "truncated": (0, 1, 0)}, [1 + 0.5 * 3, 3.0, -2 + 0.5 * 9]),
        ({"terminated": (0, 0, 1)}, [1 + 0.5 * (3 + 0.5 * -2), 3 + 0.5 * -2, -2.0]),
        ({"truncated": (0, 0, 1)}, [1 + 0.5 * (3 + 0.5 * (-2 + 0.5 * 9)), 3 + 0.5 * (-2 + 0.5 * 9), -2 + 0.5 * 9]),
    ],
    ids=["running", "terminated", "truncated", "both", "terminated at the end", "truncated at the end"],
)
def test_gradients_are_of_the_n_step_returns_worked_out_by_hand(ends, returns):
    batch = three_steps(**ends, next_obs=(-2.0, 7.0 if any(end[1] for end in ends.values()) else 0.5, 4.0))
    found = unclipped().gradients(batch)
    advantages = [g - v(s) for g, s in zip(returns, STATES, strict=True)]
    by_policy, by_value = expected_gradients(advantages, returns)
    assert both(found) == (approx(by_policy), approx(by_value))
    log_probs = [math.log(pi(s)[a]) for s, a in zip(STATES, ACTIONS, strict=True)]
    assert found.metrics["train/policy_loss"].item() == approx(-np.dot(advantages, log_probs) / 3)
    assert found.metrics["train/value_loss"].item() == approx(0.5 * np.square(advantages).mean())


def test_lambda_between_zero_and_one_is_the_weighted_sum_of_errors_worked_out_by_hand():
    # δ = r + γ V(s') − V(s) with V = [3, −3, 2], V(s') = [−3, 2, 9]
    d0, d1, d2 = 1 + 0.5 * -3 - 3, 3 + 0.5 * 2 + 3, -2 + 0.5 * 9 - 2
    k = 0.5 * 0.8
    advantages = [d0 + k * d1 + k**2 * d2, d1 + k * d2, d2]
    found = unclipped(gae_lambda=0.8).gradients(three_steps())
    by_policy, by_value = expected_gradients(advantages, [a + v(s) for a, s in zip(advantages, STATES, strict=True)])
    assert both(found) == (approx(by_policy), approx(by_value))


def test_environments_are_not_mixed_up():
    one, other = three_steps(terminated=(0, 1, 0)), three_steps(truncated=(1, 0, 0))
    other = other._replace(reward=other.reward + 5.0)
    side_by_side = type(one)(*(torch.cat(fields, dim=1) for fields in zip(one, other, strict=True)))
    together, *separate = (both(unclipped().gradients(batch)) for batch in (side_by_side, one, other))
    for got, a, b in zip(together, *separate, strict=True):
        assert got == approx((np.array(a) + b) / 2)


def test_standardized_advantages_change_the_policys_gradient_and_not_the_values():
    returns = np.array([1 + 0.5 * (3 + 0.5 * (-2 + 0.5 * 9)), 3 + 0.5 * (-2 + 0.5 * 9), -2 + 0.5 * 9])
    advantages = returns - [v(s) for s in STATES]
    by_policy, by_value = expected_gradients((advantages - advantages.mean()) / advantages.std(ddof=1), returns)
    found = unclipped(normalize_advantage=True).gradients(three_steps())
    assert both(found) == (approx(by_policy), approx(by_value))


def test_the_entropy_is_worth_its_coefficient():
    expected = np.zeros(4)
    for s in STATES:
        p = np.array(pi(s))
        by_logit = -p * (np.log(p) - (p * np.log(p)).sum())  # dH/dlogit
        expected += np.array([*(by_logit * s), *by_logit]) / 3
    (with_bonus, value), (without, same_value) = (
        both(unclipped(ent_coef=ent_coef).gradients(three_steps())) for ent_coef in (0.3, 0.0)
    )
    assert np.subtract(with_bonus, without) == approx(-0.3 * expected)
    assert value == same_value


def test_the_value_coefficient_scales_the_values_gradient_alone():
    (policy, value), (same_policy, scaled) = (
        both(unclipped(vf_coef=vf_coef).gradients(three_steps())) for vf_coef in (1.0, 0.25)
    )
    assert policy == same_policy
    assert scaled == approx(0.25 * np.array(value))


def test_each_optimizers_gradients_are_clipped_by_their_own_norm():
    free = [np.array(own) for own in both(unclipped(vf_coef=0.1).gradients(three_steps()))]
    norms = [np.linalg.norm(own) for own in free]
    assert norms[1] < 2.0 < norms[0]
    policy, value = both(unclipped(vf_coef=0.1, max_grad_norm=2.0).gradients(three_steps()))
    assert policy == approx(free[0] * 2.0 / norms[0])
    assert value == approx(free[1])


def test_a_poisoned_value_after_termination_stays_there():
    batch = three_steps(terminated=(0, 1, 0), next_obs=(-2.0, math.inf, 4.0))
    assert np.isfinite(np.concatenate(both(unclipped().gradients(batch)))).all()


# Whole runs


def test_each_rollout_is_one_gradient_step():
    data = RolloutDataModule("toys:Spaces-v0", num_envs=3, rollout_steps=7, env_steps_per_batch=42, total_env_steps=126)
    model = A2C(data.observation_space, data.action_space, network=TINY, compile=False)
    shapes, gradients = [], model.gradients
    model.gradients = lambda batch, _: shapes.append(batch.reward.shape) or gradients(batch)
    counter = GradientSteps()
    fit(model, data, make_trainer([counter]))
    assert shapes == [(7, 3)] * 6
    assert counter.count == model.gradient_steps == 6


def test_every_rollout_continues_the_one_before_it():
    data = RolloutDataModule("toys:Counter-v0", num_envs=2, rollout_steps=5, total_env_steps=40)
    model = A2C(data.observation_space, data.action_space, network=TINY, compile=False)
    seen, gradients = [], model.gradients
    model.gradients = lambda batch, _: seen.append(batch) or gradients(batch)
    fit(model, data)
    obs = torch.cat([batch.obs for batch in seen])  # [20, 2, (episode, t)]
    next_obs = torch.cat([batch.next_obs for batch in seen])
    done = torch.cat([batch.terminated | batch.truncated for batch in seen])
    assert obs.shape == (20, 2, 2)
    assert torch.equal(next_obs[..., 0], obs[..., 0])
    assert torch.equal(next_obs[..., 1], obs[..., 1] + 1)
    going_on = ~done[:-1]
    assert torch.equal(obs[1:][going_on], next_obs[:-1][going_on])
    assert torch.equal(obs[1:][~going_on][:, 0], next_obs[:-1][~going_on][:, 0] + 1)
    assert (obs[1:][~going_on][:, 1] == 0).all()


def test_rewards_are_divided_by_the_deviation_of_the_discounted_sums_so_far():
    data = RolloutDataModule("toys:Spaces-v0", num_envs=2, rollout_steps=4, total_env_steps=48)
    model = A2C(
        data.observation_space, data.action_space, gamma=0.9, normalize_returns=True, network=TINY, compile=False
    )
    raw, scaled, gradients = [], [], model.gradients
    gather_rollout = data.rollout
    data.rollout = lambda: raw.append(gather_rollout()) or raw[-1]
    model.gradients = lambda batch, _: scaled.append(batch.reward) or gradients(batch)
    fit(model, data)

    running, sums = np.zeros(2), []
    for rollout_, got in zip(raw, scaled, strict=True):
        for reward, done in zip(
            rollout_.reward.numpy(), (rollout_.terminated | rollout_.truncated).numpy(), strict=True
        ):
            running = 0.9 * running + reward
            sums.extend(running.tolist())
            running = running * ~done
        expected = np.clip(rollout_.reward.numpy() / math.sqrt(np.var(sums) + 1e-8), -10, 10)
        np.testing.assert_allclose(got.numpy(), expected, rtol=1e-4, atol=1e-5)
    assert model.networks.return_normalizer.moments.count == len(sums) == 48


def test_a_second_run_of_one_learner_begins_new_episodes():
    data = RolloutDataModule("toys:Counter-v0", num_envs=2, rollout_steps=5, total_env_steps=10)
    model = A2C(data.observation_space, data.action_space, normalize_returns=True, network=TINY, compile=False)
    fit(model, data)
    assert model.networks.return_normalizer.carried.abs().sum() > 0  # an episode was under way
    sums, moments = [], model.networks.return_normalizer.moments
    update = moments.update
    moments.update = lambda samples, gather: sums.append(samples) or update(samples, gather)
    again = RolloutDataModule("toys:Counter-v0", num_envs=3, rollout_steps=5, total_env_steps=15)
    fit(model, again)
    assert sums[0].view(5, 3)[0].tolist() == [1.0, 1.0, 1.0]  # the rewards of the first steps, with nothing before them
    assert moments.count == 25


# Refusals


def test_whole_episodes_are_refused():
    data = RolloutDataModule("toys:Spaces-v0", rollout_steps=None, total_env_steps=40)
    model = A2C(data.observation_space, data.action_space, network=TINY, compile=False)
    with pytest.raises(
        UsageError, match=r"^rollout_steps=None is not allowed: .* rollouts of one size; give 1 or more"
    ):
        fit(model, data)
