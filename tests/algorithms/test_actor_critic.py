import math

import numpy as np
import pytest
import torch
from linear import approx, both, linear, pi, rollout, score, sgd, v, value_slope
from toys import LINEAR, GradientSteps, fit, make_trainer, one_step

from rl_lightning import ActorCritic, RolloutDataModule, UsageError


def transitions(next_obs=(-2.0, 4.0), terminated=(False, False)):
    """In two environments: s = 1, a = 1, r = 1, and s = −2, a = 0, r = 3."""
    return one_step(
        torch.tensor([[1.0], [-2.0]]),
        torch.tensor([1, 0]),
        torch.tensor([1.0, 3.0]),
        torch.tensor(next_obs).unsqueeze(-1),
        torch.tensor(terminated),
        gamma=0.5,
    )


# The losses


@pytest.mark.parametrize(
    ("terminated", "deltas"),
    [
        # V(s) = [3, −3], V(s') = [−3, 9]
        ((False, False), [1 + 0.5 * -3 - 3, 3 + 0.5 * 9 + 3]),
        ((True, False), [1 - 3, 3 + 0.5 * 9 + 3]),
        ((False, True), [1 + 0.5 * -3 - 3, 3 + 3]),
    ],
)
def test_the_value_of_the_next_state_counts_as_zero_at_termination_and_only_there(terminated, deltas):
    model = linear(ActorCritic, gamma=0.5)
    found = model.gradients(transitions(terminated=terminated))
    policy, value = both(found)
    assert policy == approx(-(deltas[0] * score(1.0, 1) + deltas[1] * score(-2.0, 0)) / 2)
    assert value == approx(-(deltas[0] * value_slope(1.0) + deltas[1] * value_slope(-2.0)) / 2)
    log_probs = [math.log(pi(1.0)[1]), math.log(pi(-2.0)[0])]
    assert found.metrics["train/policy_loss"].item() == approx(-np.dot(deltas, log_probs) / 2)
    assert found.metrics["train/value_loss"].item() == approx(0.5 * np.square(deltas).mean())
    assert found.metrics["train/v_mean"].item() == approx((v(1.0) + v(-2.0)) / 2)


def test_the_entropys_gradient_is_that_worked_out_by_hand():
    with_bonus, without = (linear(ActorCritic, ent_coef=ent_coef).gradients(transitions()) for ent_coef in (0.3, 0.0))
    expected, total = np.zeros(4), 0.0
    for s in (1.0, -2.0):
        p = np.array(pi(s))
        entropy = -(p * np.log(p)).sum()
        by_logit = -p * (np.log(p) + entropy)  # dH/dlogit
        expected += np.array([*(by_logit * s), *by_logit]) / 2
        total += entropy / 2
    assert np.subtract(both(with_bonus)[0], both(without)[0]) == approx(-0.3 * expected)
    assert with_bonus.metrics["train/entropy"].item() == without.metrics["train/entropy"].item() == approx(total)


def test_an_infinite_value_after_termination_does_not_poison_the_gradients():
    found = linear(ActorCritic).gradients(transitions((-2.0, math.inf), (False, True)))
    assert np.isfinite(np.concatenate(both(found))).all()


def test_a_truncated_step_bootstraps_as_any_other():
    model = linear(ActorCritic, gamma=0.5)
    for ended, delta in (((0, 1), 1 + 0.5 * v(4.0) - 3), ((1, 0), 1 - 3), ((1, 1), 1 - 3)):
        terminated, truncated = ended
        step = model.only_step(rollout([[1.0]], [[1]], [[1.0]], [[4.0]], [[terminated]], [[truncated]]))
        assert both(model.gradients(step))[1] == approx(-delta * value_slope(1.0))


# Whole runs


def test_a_run_is_the_pseudo_code_done_by_hand():
    gamma, policy_lr, value_lr = 0.7, 0.1, 0.05
    data = RolloutDataModule("toys:Spaces-v0", rollout_steps=1, env_steps_per_batch=8, total_env_steps=40)
    model = ActorCritic(
        data.observation_space,
        data.action_space,
        gamma=gamma,
        network=LINEAR,
        policy_optimizer=sgd(policy_lr),
        value_optimizer=sgd(value_lr),
        compile=False,
    )

    def in_float64():
        head, value = model.networks.policy[1].body[0], model.networks.value[1][0]
        return [
            tensor.detach().double().numpy().copy() for tensor in (head.weight, head.bias, value.weight, value.bias)
        ]

    start = in_float64()
    steps, gradients = [], model.gradients
    model.gradients = lambda batch: steps.append(batch) or gradients(batch)
    counter = GradientSteps()
    fit(model, data, make_trainer([counter]))

    assert counter.count == len(steps) == 40
    assert sum(int(step.terminated) for step in steps) == 4
    w, b, wv, bv = start
    for step in steps:
        s, after = step.obs[0].double().numpy(), step.next_obs[0].double().numpy()
        next_value = 0.0 if step.terminated else float(wv[0] @ after + bv[0])
        delta = float(step.reward) + gamma * next_value - float(wv[0] @ s + bv[0])
        odds = np.exp(w @ s + b)
        by_logit = np.eye(len(b))[int(step.action)] - odds / odds.sum()
        wv, bv = wv + value_lr * delta * s[None], bv + value_lr * delta
        w, b = w + policy_lr * delta * np.outer(by_logit, s), b + policy_lr * delta * by_logit
    for got, want, before in zip(in_float64(), (w, b, wv, bv), start, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
        assert np.abs(want - before).max() > 0.01


def test_several_environments_make_one_gradient_step_of_their_mean():
    data = RolloutDataModule("toys:Spaces-v0", num_envs=3, rollout_steps=1, total_env_steps=42)
    model = ActorCritic(data.observation_space, data.action_space, network=LINEAR, compile=False)
    shapes, gradients = [], model.gradients
    model.gradients = lambda batch: shapes.append(tuple(batch.obs.shape)) or gradients(batch)
    counter = GradientSteps()
    fit(model, data, make_trainer([counter]))
    assert shapes == [(3, 2)] * 14
    assert counter.count == 14
    assert model.env_steps == 42


# Refusals


@pytest.mark.parametrize("rollout_steps", [2, None])
def test_rollouts_of_more_than_one_step_are_refused(rollout_steps):
    data = RolloutDataModule("toys:Spaces-v0", rollout_steps=rollout_steps, total_env_steps=40)
    model = ActorCritic(data.observation_space, data.action_space, network=LINEAR, compile=False)
    with pytest.raises(
        UsageError, match=rf"^rollout_steps={rollout_steps} is not allowed with ActorCritic: .* give rollout_steps 1"
    ):
        fit(model, data)
