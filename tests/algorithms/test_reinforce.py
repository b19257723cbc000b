import math

import numpy as np
import pytest
from linear import approx, both, linear, pi, rollout, score, sgd, value_slope
from toys import LINEAR, GradientSteps, fit, make_trainer

from rl_lightning import REINFORCE, RolloutDataModule, UsageError


def two_steps(terminated=True, truncated=False, last_obs=4.0):
    """s = 1, a = 1, r = 1; s = −2, a = 0, r = 3."""
    return rollout(
        [[1.0], [-2.0]], [[1], [0]], [[1.0], [3.0]], [[-2.0], [last_obs]], [[0], [terminated]], [[0], [truncated]]
    )


def gradients_of_two_steps(**settings):
    model = linear(REINFORCE, gamma=0.5, **settings)
    return model.gradients(model.with_returns(two_steps()))


# The losses


@pytest.mark.parametrize(("discounted", "second"), [(True, 0.5), (False, 1.0)])
def test_the_policy_gradient_of_two_steps_has_gamma_to_the_t_or_not(discounted, second):
    found = gradients_of_two_steps(discount_policy_gradient=discounted)
    # G = [1 + 0.5·3, 3] = [2.5, 3], V = [3, −3], δ = [−0.5, 6]
    expected = -(-0.5 * score(1.0, 1) + second * 6.0 * score(-2.0, 0))
    assert both(found)[0] == approx(expected)
    loss = -(-0.5 * math.log(pi(1.0)[1]) + second * 6.0 * math.log(pi(-2.0)[0]))
    assert found.metrics["train/policy_loss"].item() == approx(loss)


@pytest.mark.parametrize("discounted", [True, False])
def test_the_value_gradient_of_two_steps_is_that_worked_out_by_hand(discounted):
    found = gradients_of_two_steps(discount_policy_gradient=discounted)
    assert both(found)[1] == approx(-(-0.5 * value_slope(1.0) + 6.0 * value_slope(-2.0)))
    assert found.metrics["train/value_loss"].item() == approx(0.5 * 0.5**2 + 0.5 * 6.0**2)
    assert found.metrics["train/v_mean"].item() == approx(0.0)


def test_the_entropys_gradient_is_that_worked_out_by_hand():
    with_bonus, without = (gradients_of_two_steps(ent_coef=c) for c in (0.3, 0.0))
    expected, total = np.zeros(4), 0.0
    for s in (1.0, -2.0):
        p = np.array(pi(s))
        entropy = -(p * np.log(p)).sum()
        by_logit = -p * (np.log(p) + entropy)  # dH/dlogit
        expected += np.array([*(by_logit * s), *by_logit])
        total += entropy
    assert np.subtract(both(with_bonus)[0], both(without)[0]) == approx(-0.3 * expected)
    assert with_bonus.metrics["train/entropy"].item() == without.metrics["train/entropy"].item() == approx(total / 2)


def test_returns_and_discounts_of_a_long_episode_are_the_sums_of_their_definition():
    rewards = np.random.default_rng(0).normal(size=37)
    steps = len(rewards)
    episode = rollout(
        [[0.0]] * steps, [[0]] * steps, rewards[:, None].tolist(), [[0.0]] * steps, [[0]] * 36 + [[1]], [[0]] * steps
    )
    samples = linear(REINFORCE, gamma=0.9).with_returns(episode)
    expected = [sum(0.9 ** (k - t) * rewards[k] for k in range(t, steps)) for t in range(steps)]
    assert samples.returns.tolist() == approx(expected)
    assert samples.discount.tolist() == approx([0.9**t for t in range(steps)])


@pytest.mark.parametrize(
    ("terminated", "truncated", "tail"),
    [(1, 0, 0.0), (0, 1, 9.0), (1, 1, 0.0)],
    ids=["terminated", "truncated", "both"],
)
def test_a_truncated_episode_goes_on_with_the_value_of_its_last_observation(terminated, truncated, tail):
    # V(4) = 9
    samples = linear(REINFORCE, gamma=0.5).with_returns(two_steps(terminated, truncated))
    last = 3.0 + 0.5 * tail
    assert samples.returns.tolist() == approx([1.0 + 0.5 * last, last])


def test_nothing_after_a_termination_can_poison_its_returns():
    samples = linear(REINFORCE).with_returns(two_steps(last_obs=math.inf))
    assert samples.returns.isfinite().all()


def test_the_rewards_of_a_rollout_are_left_as_they_were():
    episode = two_steps(terminated=False, truncated=True)
    linear(REINFORCE).with_returns(episode)
    assert episode.reward.tolist() == [[1.0], [3.0]]


# Whole runs against the pseudo-code


def episodes_data(**settings):
    return RolloutDataModule("toys:Spaces-v0", rollout_steps=None, **{"total_env_steps": 40, **settings})


def in_float64(model):
    """The linear networks' weights: logits W s + b, value w s + c."""
    head, value = model.networks.policy[1].body[0], model.networks.value[1][0]
    return [tensor.detach().double().numpy().copy() for tensor in (head.weight, head.bias, value.weight, value.bias)]


def algorithm_1(model, episodes, gamma, policy_lr, value_lr, discounted, by_step):
    """The pseudo-code with a loop over time; `by_step` false: all steps of an episode from the weights at its start."""
    w, b, wv, bv = in_float64(model)
    for episode in episodes:
        obs, next_obs = episode.obs[:, 0].double().numpy(), episode.next_obs[:, 0].double().numpy()
        action, reward = episode.action[:, 0].tolist(), episode.reward[:, 0].tolist()
        g = 0.0 if episode.terminated[-1, 0] else float(next_obs[-1] @ wv[0] + bv[0])
        returns = []
        for r in reversed(reward):
            g = r + gamma * g
            returns.insert(0, g)
        steps = []
        for t, (s, a, g) in enumerate(zip(obs, action, returns, strict=True)):
            odds = np.exp(w @ s + b)
            by_logit = np.eye(len(b))[a] - odds / odds.sum()
            delta = g - float(wv[0] @ s + bv[0])
            scale = policy_lr * (gamma**t if discounted else 1.0) * delta
            step = scale * np.outer(by_logit, s), scale * by_logit, value_lr * delta * s[None], value_lr * delta
            if by_step:
                w, b, wv, bv = w + step[0], b + step[1], wv + step[2], bv + step[3]
            steps.append(step)
        if not by_step:
            w, b, wv, bv = (x + sum(step[i] for step in steps) for i, x in enumerate((w, b, wv, bv)))
    return [w, b, wv, bv]


@pytest.mark.parametrize("discounted", [True, False])
@pytest.mark.parametrize("update", ["step", "episode"])
def test_a_run_is_the_pseudo_code_done_by_hand(update, discounted):
    data = episodes_data()
    model = REINFORCE(
        data.observation_space,
        data.action_space,
        gamma=0.7,
        discount_policy_gradient=discounted,
        update=update,
        network=LINEAR,
        policy_optimizer=sgd(0.1),
        value_optimizer=sgd(0.05),
    )
    start = REINFORCE(data.observation_space, data.action_space, network=LINEAR)
    start.load_state_dict(model.state_dict())
    episodes, with_returns = [], model.with_returns
    model.with_returns = lambda episode: episodes.append(episode) or with_returns(episode)
    counter = GradientSteps()
    fit(model, data, make_trainer([counter]))

    assert len(episodes) == 8
    assert sorted({(len(e.reward), bool(e.terminated[-1]), bool(e.truncated[-1])) for e in episodes}) == [
        (5, False, True),
        (5, True, False),
    ]
    assert counter.count == (40 if update == "step" else 8)
    expected = algorithm_1(start, episodes, 0.7, 0.1, 0.05, discounted, by_step=update == "step")
    for got, want, before in zip(in_float64(model), expected, in_float64(start), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
        assert np.abs(want - before).max() > 0.01


def test_every_episode_is_learned_from_whole_and_alone():
    data = RolloutDataModule("toys:Counter-v0", rollout_steps=None, total_env_steps=60, env_steps_per_batch=20)
    model = REINFORCE(data.observation_space, data.action_space, network=LINEAR)
    seen, gradients = [], model.gradients
    model.gradients = lambda batch: seen.append(batch.obs) or gradients(batch)
    fit(model, data)
    first = int(seen[0][0, 0])
    for number, obs in enumerate(seen):  # obs is (episode, t), and episode k has 2 + k % 5 steps
        assert obs.tolist() == [[first + number, t] for t in range(2 + (first + number) % 5)]
    assert sum(map(len, seen)) == model.env_steps


# Refusals


def test_rollouts_of_a_fixed_length_are_refused():
    data = RolloutDataModule("toys:Spaces-v0", rollout_steps=8, total_env_steps=40)
    model = REINFORCE(data.observation_space, data.action_space, network=LINEAR)
    with pytest.raises(UsageError, match=r"^rollout_steps=8 is not allowed with REINFORCE: .* rollout_steps null$"):
        fit(model, data)
