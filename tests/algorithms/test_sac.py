import math
from functools import partial

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from torch import nn
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import LambdaLR, StepLR
from toys import LINEAR, TINY, GradientSteps, fit, make_trainer, noise_data, one_step, tiny_sac

from rl_lightning import SAC, ReplayDataModule, Transition, UsageError

OBS = Box(-np.inf, np.inf, (1,), np.float32)
ACTION = Box(-1.0, 1.0, (1,), np.float32)


def linear_sac(
    gamma=0.5, ent_coef=0.2, reward_scale=1.0, policy_gradient="reparameterized", log_std=(0.1, -1.0)
) -> SAC:
    """V = 2s + 1, V_target = 3s − 1, Q1 = s + 2a, Q2 = −s + a + 1, mean = 0.5s + 0.25, log_std = 0.1s − 1."""
    sac = SAC(
        OBS, ACTION, gamma, ent_coef=ent_coef, reward_scale=reward_scale, policy_gradient=policy_gradient,
        network=LINEAR, compile=False,
    )  # fmt: skip
    with torch.no_grad():
        for network, weight, bias in (
            (sac.value, [[2.0]], [1.0]),
            (sac.target_value, [[3.0]], [-1.0]),
            (sac.q.q1, [[1.0, 2.0]], [0.0]),
            (sac.q.q2, [[-1.0, 1.0]], [1.0]),
            (sac.policy, [[0.5], [log_std[0]]], [0.25, log_std[1]]),
        ):
            network.body[0].weight.copy_(torch.tensor(weight))
            network.body[0].bias.copy_(torch.tensor(bias))
    return sac


def two_transitions() -> Transition:
    return one_step(
        obs=torch.tensor([[1.0], [-2.0]]),
        action=torch.tensor([[0.5], [-0.25]]),
        reward=torch.tensor([1.0, -3.0]),
        next_obs=torch.tensor([[2.0], [4.0]]),
        terminated=torch.tensor([False, True]),
        gamma=0.5,
    )


def random_batch(size=32, features=1, actions=1) -> Transition:
    return one_step(
        torch.randn(size, features),
        torch.rand(size, actions) * 2 - 1,
        torch.randn(size),
        torch.randn(size, features),
        torch.rand(size) < 0.3,
    )


def approx(values):
    return pytest.approx(values, rel=1e-5, abs=1e-6)


# The three losses


def test_the_q_loss_and_its_gradient_are_those_worked_out_by_hand():
    found = linear_sac().gradients(two_transitions())
    # targets r + γ (3s' − 1), the second terminated: 1 + 0.5·5 = 3.5, and −3
    # Q1 = [1 + 1, −2 − 0.5] = [2, −2.5], errors [−1.5, 0.5];  Q2 = [−1 + 0.5 + 1, 2 − 0.25 + 1] = [0.5, 2.75],
    # errors [−3, 5.75]
    q_loss = (0.5 * 1.5**2 + 0.5 * 0.5**2) / 2 + (0.5 * 3**2 + 0.5 * 5.75**2) / 2
    assert found.metrics["train/q_loss"].item() == approx(q_loss)
    td_error = [(1.5 + 3) / 2, (0.5 + 5.75) / 2]
    assert found.metrics["train/td_error"].tolist() == found.td_error.tolist() == approx(td_error)
    # ½ Σ error · (s, a, 1)
    w1, b1, w2, b2 = (gradient.flatten().tolist() for gradient in found.of["q"])
    assert w1 == approx([(-1.5 * 1 + 0.5 * -2) / 2, (-1.5 * 0.5 + 0.5 * -0.25) / 2])
    assert b1 == approx([(-1.5 + 0.5) / 2])
    assert w2 == approx([(-3 * 1 + 5.75 * -2) / 2, (-3 * 0.5 + 5.75 * -0.25) / 2])
    assert b2 == approx([(-3 + 5.75) / 2])


def sampled(sac: SAC, obs: torch.Tensor) -> list[tuple[float, float, float, float, float]]:
    """Of each row: ε, σ, a, log π and s, computed in float64 from the noise that `gradients` will draw."""
    torch.manual_seed(1)
    _, _, u = sac.policy.sample(obs)
    torch.manual_seed(1)
    rows = []
    for s, pre_tanh in zip(obs.flatten().tolist(), u.flatten().tolist(), strict=True):
        weight, bias = sac.policy.body[0].weight.flatten().tolist(), sac.policy.body[0].bias.tolist()
        mean, log_std = weight[0] * s + bias[0], weight[1] * s + bias[1]
        epsilon, a = (pre_tanh - mean) / math.exp(log_std), math.tanh(pre_tanh)
        log_prob = -0.5 * epsilon**2 - log_std - 0.5 * math.log(2 * math.pi) - math.log(1 - a**2)
        rows.append((epsilon, math.exp(log_std), a, log_prob, s))
    return rows


def test_the_value_loss_and_its_gradient_are_those_worked_out_by_hand():
    sac, batch = linear_sac(), two_transitions()
    rows = sampled(sac, batch.obs)
    found = sac.gradients(batch)
    errors = []
    for _, _, a, log_prob, s in rows:
        target = min(s + 2 * a, -s + a + 1) - 0.2 * log_prob
        errors.append((2 * s + 1) - target)
    assert found.metrics["train/value_loss"].item() == approx((0.5 * errors[0] ** 2 + 0.5 * errors[1] ** 2) / 2)
    # Eq. 7; s is 1 and −2
    weight, bias = (gradient.item() for gradient in found.of["value"])
    assert weight == approx((errors[0] * 1 + errors[1] * -2) / 2)
    assert bias == approx((errors[0] + errors[1]) / 2)
    assert found.metrics["train/entropy"].item() == approx(-(rows[0][3] + rows[1][3]) / 2)


def test_each_of_the_two_q_networks_is_the_minimum_somewhere():
    # else the tests by hand would not tell the minimum from one of the two
    sac = linear_sac()
    q1, q2 = sac.q(two_transitions().obs, torch.zeros(2, 1))
    assert (q1 < q2).tolist() == [False, True]


def test_the_policy_loss_and_its_gradient_are_those_worked_out_by_hand():
    sac, batch = linear_sac(), two_transitions()
    rows = sampled(sac, batch.obs)
    found = sac.gradients(batch)
    loss, by_mean, by_log_std = 0.0, [], []
    for epsilon, sigma, a, log_prob, s in rows:
        q, dq_da = min((s + 2 * a, 2.0), (-s + a + 1, 1.0))
        loss += 0.5 * (0.2 * log_prob - q)
        # Eq. 10: u = mean + σ ε, a = tanh u; d log π/du at fixed ε is 2a, d log π/d log σ adds −1
        du = 0.2 * 2 * a - dq_da * (1 - a**2)
        by_mean.append(du)
        by_log_std.append(-0.2 + du * sigma * epsilon)
    assert found.metrics["train/policy_loss"].item() == approx(loss)
    weight, bias = (gradient.flatten().tolist() for gradient in found.of["policy"])
    assert weight == approx([(by_mean[0] - 2 * by_mean[1]) / 2, (by_log_std[0] - 2 * by_log_std[1]) / 2])
    assert bias == approx([sum(by_mean) / 2, sum(by_log_std) / 2])


def test_the_likelihood_ratio_gradient_is_that_worked_out_by_hand():
    sac, batch = linear_sac(policy_gradient="likelihood_ratio"), two_transitions()
    rows = sampled(sac, batch.obs)
    found = sac.gradients(batch)
    by_mean, by_log_std = [], []
    for epsilon, sigma, a, log_prob, s in rows:
        cost = 0.2 * log_prob - min(s + 2 * a, -s + a + 1) + (2 * s + 1)  # baseline V(s)
        by_mean.append(cost * epsilon / sigma)
        by_log_std.append(cost * (epsilon**2 - 1))
    weight, bias = (gradient.flatten().tolist() for gradient in found.of["policy"])
    assert weight == approx([(by_mean[0] - 2 * by_mean[1]) / 2, (by_log_std[0] - 2 * by_log_std[1]) / 2])
    assert bias == approx([sum(by_mean) / 2, sum(by_log_std) / 2])


def test_termination_masks_the_next_value_and_nothing_else_does():
    sac, batch = linear_sac(), two_transitions()

    def q_loss(**changed):
        return sac.gradients(batch._replace(**changed)).metrics["train/q_loss"].item()

    assert q_loss(next_obs=torch.tensor([[2.0], [99.0]])) == q_loss()
    assert q_loss(terminated=torch.tensor([False, False])) != q_loss()


def test_an_infinite_value_after_termination_does_not_poison_the_target():
    sac, batch = linear_sac(), two_transitions()
    batch.next_obs[1] = torch.inf
    assert sac.gradients(batch).metrics["train/q_loss"].isfinite()


def test_the_action_in_the_value_target_is_fresh_and_not_the_buffers():
    sac, batch = linear_sac(), two_transitions()
    losses = []
    for seed, action in ((1, 0.5), (1, -0.9), (2, 0.5)):
        torch.manual_seed(seed)
        metrics = sac.gradients(batch._replace(action=torch.full((2, 1), action))).metrics
        losses.append((metrics["train/value_loss"].item(), metrics["train/policy_loss"].item()))
    assert losses[0] == losses[1]
    assert losses[0][0] != losses[2][0]
    assert losses[0][1] != losses[2][1]


# What may move what


def gradients_of(sac, batch):
    torch.manual_seed(2)
    return sac.gradients(batch).of


@pytest.mark.parametrize("policy_gradient", ["reparameterized", "likelihood_ratio"])
def test_each_losses_gradients_depend_on_its_own_inputs_alone(policy_gradient):
    sac, batch = linear_sac(policy_gradient=policy_gradient), two_transitions()
    before = gradients_of(sac, batch)
    assert all(gradient.abs().sum() > 0 for own in before.values() for gradient in own)
    # the reward reaches J_Q alone: a loss summed with another would show it
    after = gradients_of(sac, batch._replace(reward=batch.reward + 10))
    assert all(torch.equal(a, b) for a, b in zip(before["value"], after["value"], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(before["policy"], after["policy"], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(before["q"], after["q"], strict=True))
    # V reaches J_V, and as a baseline the likelihood ratio, but not J_Q: that bootstraps from the target
    with torch.no_grad():
        sac.value.body[0].bias += 10
    after = gradients_of(sac, batch)
    assert all(torch.equal(a, b) for a, b in zip(before["q"], after["q"], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(before["value"], after["value"], strict=True))
    assert torch.equal(before["policy"][0], after["policy"][0]) is (policy_gradient == "reparameterized")
    # the policy does not reach J_Q
    with torch.no_grad():
        sac.policy.body[0].bias += 1
    assert all(torch.equal(a, b) for a, b in zip(before["q"], gradients_of(sac, batch)["q"], strict=True))


def sgd(lr):
    return lambda params: SGD(params, lr=lr)


def test_each_scheduler_steps_once_for_each_gradient_step():
    data = noise_data(num_envs=3, replay_ratio=2.0, learning_starts=12, total_env_steps=33)
    model = tiny_sac(
        data.observation_space,
        data.action_space,
        value_optimizer=sgd(1.0),
        q_optimizer=partial(Adam, lr=1e-3),
        policy_optimizer=partial(Adam, lr=1e-4),
        value_scheduler=lambda optimizer: LambdaLR(optimizer, lambda steps: 1 / (1 + steps)),
        policy_scheduler=lambda optimizer: StepLR(optimizer, step_size=7, gamma=0.5),
    )
    counter = GradientSteps()
    trainer = fit(model, data, make_trainer([counter]))
    assert counter.count == 2 * (33 - 12)
    lrs = [optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers]
    assert lrs == pytest.approx([1 / (1 + 42), 1e-3, 1e-4 * 0.5 ** (42 // 7)])


# Relations between settings


def test_a_temperature_of_one_fifth_is_a_reward_scale_of_five():
    batch = random_batch()
    weak, strong = tiny_sac(OBS, ACTION, ent_coef=0.2), tiny_sac(OBS, ACTION, ent_coef=1.0, reward_scale=5.0)
    strong.load_state_dict(weak.state_dict())
    with torch.no_grad():  # values in the other unit
        for network in (strong.value, strong.target_value, strong.q.q1, strong.q.q2):
            network.body[-1].weight *= 5
            network.body[-1].bias *= 5
    results = []
    for sac in (weak, strong):
        torch.manual_seed(0)
        results.append(sac.gradients(batch))
    of_weak, of_strong = results
    for name, factor in {"value_loss": 25, "q_loss": 25, "policy_loss": 5, "entropy": 1, "v_mean": 5}.items():
        torch.testing.assert_close(of_strong.metrics[f"train/{name}"], factor * of_weak.metrics[f"train/{name}"])
    for one, other in zip(of_weak.of["policy"], of_strong.of["policy"], strict=True):
        torch.testing.assert_close(other, 5 * one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("policy_gradient", ["reparameterized", "likelihood_ratio"])
def test_training_with_a_quarter_of_the_temperature_is_training_with_four_times_the_reward(policy_gradient):
    policies, values = [], []
    for ent_coef, reward_scale, policy_lr in ((0.25, 1.0, 4e-3), (1.0, 4.0, 1e-3)):
        torch.manual_seed(0)
        data = noise_data(total_env_steps=60)
        model = SAC(
            data.observation_space,
            data.action_space,
            gamma=0.9,
            tau=0.1,
            ent_coef=ent_coef,
            reward_scale=reward_scale,
            policy_gradient=policy_gradient,
            network=LINEAR,
            value_optimizer=sgd(1e-2),
            q_optimizer=sgd(1e-2),
            policy_optimizer=sgd(policy_lr),
            compile=False,
        )
        with torch.no_grad():
            for network in (model.value, model.target_value, model.q):
                for parameter in network.parameters():
                    parameter *= reward_scale
        start = [parameter.clone() for parameter in model.policy.parameters()]
        fit(model, data)
        assert not any(torch.equal(a, b) for a, b in zip(start, model.policy.parameters(), strict=True))
        policies.append(torch.cat([p.detach().flatten() for p in model.policy.parameters()]))
        values.append(torch.cat([p.detach().flatten() for n in (model.value, model.q) for p in n.parameters()]))
    # factors of 4 are exact in floating point
    assert torch.equal(policies[0], policies[1])
    assert torch.equal(4 * values[0], values[1])


def test_both_policy_gradients_have_the_same_expectation():
    torch.manual_seed(0)
    network = partial(TINY.func, hidden_sizes=(4,), activation="tanh")
    batch = random_batch(1)
    batch = Transition(*(field.expand(4096, *field.shape[1:]) for field in batch))
    sac = SAC(OBS, ACTION, ent_coef=0.5, network=network, compile=False)
    with torch.no_grad():  # a Q that matters, of more than one slope
        for q in (sac.q.q1, sac.q.q2):
            q.body[-1].weight *= 3
    estimates = {}
    for policy_gradient in ("reparameterized", "likelihood_ratio"):
        sac.policy_gradient = policy_gradient
        draws = [torch.cat([g.flatten() for g in sac.gradients(batch).of["policy"]]).double() for _ in range(200)]
        stacked = torch.stack(draws)
        estimates[policy_gradient] = stacked.mean(0), stacked.std(0) / len(draws) ** 0.5
    (one, one_error), (other, other_error) = estimates.values()
    error = (one_error**2 + other_error**2).sqrt()
    assert ((one - other).abs() < 4.5 * error).all(), (one - other) / error
    # the comparison has power, and reparameterizing the lower variance that it is for
    assert (one.abs() > 30 * error).sum() >= len(one) // 2
    assert (one_error < other_error).sum() > len(one) // 2


# Whole runs


@pytest.mark.parametrize(
    ("ending", "length", "states", "expected"),
    [
        ("truncate", 3, 1, [1 / (1 - 0.6)]),
        ("terminate", 1, 1, [1.0]),
        ("both", 1, 1, [1.0]),
        ("terminate", 3, 3, [1 + 0.6 + 0.36, 1 + 0.6, 1.0]),
    ],
)
def test_the_value_bootstraps_at_a_time_limit_and_not_at_termination(ending, length, states, expected):
    data = ReplayDataModule(
        "toys:RewardOne-v0",
        {"ending": ending, "length": length, "states": states},
        learning_starts=64,
        total_env_steps=384,
        batch_size=32,
        buffer_size=400,
    )
    model = SAC(
        data.observation_space,
        data.action_space,
        gamma=0.6,
        tau=0.3,
        ent_coef=0.0,
        network=LINEAR,
        value_optimizer=sgd(0.5),
        q_optimizer=sgd(0.4),
        compile=False,
    )
    fit(model, data)
    with torch.no_grad():
        assert model.value(torch.eye(states)).tolist() == pytest.approx(expected, abs=0.03)
        assert model.target_value(torch.eye(states)).tolist() == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize(
    ("policy_gradient", "steps", "reached"), [("reparameterized", 900, -0.03), ("likelihood_ratio", 900, -0.03)]
)
def test_it_learns_to_answer_with_the_number_it_sees(policy_gradient, steps, reached):
    data = ReplayDataModule(
        "toys:Match-v0", learning_starts=200, total_env_steps=steps, batch_size=64, buffer_size=2000, eval_episodes=50
    )
    lr = partial(Adam, lr=1e-2)
    model = SAC(
        data.observation_space,
        data.action_space,
        ent_coef=0.01,
        policy_gradient=policy_gradient,
        network=partial(TINY.func, hidden_sizes=(32,)),
        value_optimizer=lr,
        q_optimizer=lr,
        policy_optimizer=lr,
        compile=False,
    )
    trainer = make_trainer(validate=True)
    before = trainer.validate(model, data, verbose=False)[0]["val/return_mean"]
    fit(model, data)
    after = trainer.validate(model, data, verbose=False)[0]["val/return_mean"]
    assert before < -0.1
    assert after > reached


# Acting


def test_the_deterministic_action_is_the_tanh_of_the_mean():
    sac, obs = linear_sac(), torch.tensor([[1.0], [-2.0], [30.0]])
    expected = [[math.tanh(0.75)], [math.tanh(-0.75)], [math.tanh(15.25)]]
    torch.testing.assert_close(sac.act(obs, deterministic=True), torch.tensor(expected))


def test_stochastic_actions_have_the_policys_mean_and_standard_deviation():
    sac = linear_sac()
    u = sac.act(torch.ones(40_000, 1)).double().atanh()
    sigma = math.exp(0.1 - 1.0)
    assert u.mean().item() == pytest.approx(0.75, abs=5 * sigma / 200)
    assert u.std().item() == pytest.approx(sigma, rel=5 / (2 * 40_000) ** 0.5)


# Spaces and networks


def nan_bound() -> Box:
    space = Box(-1.0, 1.0, (2,), np.float32)
    space.low[1] = np.nan  # Box itself refuses it when made
    return space


@pytest.mark.parametrize(
    "space",
    [
        Box(np.array([-1, -np.inf], np.float32), np.array([1, 1], np.float32)),
        Box(np.array([-1, -1], np.float32), np.array([1, np.inf], np.float32)),
        nan_bound(),
        Box(np.array([-1, 1], np.float32), np.array([1, 1], np.float32)),
        Box(-1.0, 1.0, (), np.float32),
    ],
    ids=str,
)
def test_a_box_without_room_between_finite_bounds_or_without_a_dimension_is_refused(space):
    with pytest.raises(UsageError, match=r"action space .* is not supported by SAC: .* needed") as caught:
        SAC(OBS, space, compile=False)
    assert "\n" not in str(caught.value)


def test_a_network_of_another_kind_is_used_for_every_part():
    sac = SAC(OBS, ACTION, network=nn.Linear, compile=False)
    assert {type(sac.value.body), type(sac.q.q1.body), type(sac.policy.body), type(sac.target_value.body)} == {
        nn.Linear
    }
    assert sac.policy.body.out_features == 2
