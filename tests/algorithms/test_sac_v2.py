import math
from functools import partial

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from torch.optim import SGD, Adam
from toys import LINEAR, TINY, fit, noise_data

from rl_lightning import ActionNoise, ReplayDataModule, SACv2, Transition, UsageError

OBS = Box(-np.inf, np.inf, (1,), np.float32)
ACTION = Box(-1.0, 1.0, (1,), np.float32)
NOISE = torch.tensor([[0.5], [-1.0]])


def linear_sac(**settings) -> SACv2:
    """Q1 = s + 2a, Q2 = −s + a + 1, targets 3s − a and 2s + 5a; mean 0.5s + 0.25, log_std 0.1s − 1; α = 0.2."""
    sac = SACv2(OBS, ACTION, network=LINEAR, compile=False, **{"ent_coef": 0.2, **settings})
    with torch.no_grad():
        for network, weight, bias in (
            (sac.q.q1, [[1.0, 2.0]], [0.0]),
            (sac.q.q2, [[-1.0, 1.0]], [1.0]),
            (sac.target_q.q1, [[3.0, -1.0]], [0.0]),
            (sac.target_q.q2, [[2.0, 5.0]], [0.0]),
            (sac.policy, [[0.5], [0.1]], [0.25, -1.0]),
        ):
            network.body[0].weight.copy_(torch.tensor(weight))
            network.body[0].bias.copy_(torch.tensor(bias))
    return sac


def two_transitions() -> Transition:
    return Transition(
        obs=torch.tensor([[1.0], [-2.0]]),
        action=torch.tensor([[0.5], [-0.25]]),
        reward=torch.tensor([1.0, -3.0]),
        next_obs=torch.tensor([[2.0], [-4.0]]),
        terminated=torch.tensor([False, True]),
        discount=torch.tensor([0.5, 0.125]),
        weight=torch.tensor([1.0, 3.0]),
    )


@pytest.fixture
def noise(monkeypatch):
    """Every draw of normals for the two transitions is NOISE."""

    def fixed(like):
        assert like.shape == NOISE.shape
        return NOISE.clone()

    monkeypatch.setattr(torch, "randn_like", fixed)


def drawn(s: float, epsilon: float) -> tuple[float, float, float]:
    """σ, a and log π(a|s) of π's action with the noise ε."""
    mean, log_std = 0.5 * s + 0.25, 0.1 * s - 1.0
    a = math.tanh(mean + math.exp(log_std) * epsilon)
    log_prob = -0.5 * epsilon**2 - log_std - 0.5 * math.log(2 * math.pi) - math.log(1 - a**2)
    return math.exp(log_std), a, log_prob


def approx(values):
    return pytest.approx(values, rel=1e-5, abs=1e-6)


# The three losses


def targets(terminated: list[bool], ent_coef: float) -> list[float]:
    """r + γ (min(3s' − a', 2s' + 5a') − α log π(a'|s'))."""
    values = []
    for s, epsilon in ((2.0, 0.5), (-4.0, -1.0)):
        _, a, log_prob = drawn(s, epsilon)
        values.append(min(3 * s - a, 2 * s + 5 * a) - ent_coef * log_prob)
    gamma = [0.0 if terminated[0] else 0.5, 0.0 if terminated[1] else 0.125]
    return [1 + gamma[0] * values[0], -3 + gamma[1] * values[1]]


def test_each_of_the_twins_is_the_minimum_somewhere():
    # else the tests by hand would not tell the minimum from one of the two
    for rows, (q1, q2) in (
        (((2.0, 0.5), (-4.0, -1.0)), (lambda s, a: 3 * s - a, lambda s, a: 2 * s + 5 * a)),
        (((1.0, 0.5), (-2.0, -1.0)), (lambda s, a: s + 2 * a, lambda s, a: -s + a + 1)),
    ):
        smaller = [q1(s, drawn(s, e)[1]) < q2(s, drawn(s, e)[1]) for s, e in rows]
        assert sorted(smaller) == [False, True]


@pytest.mark.parametrize("ent_coef", [0.2, 0.7])
@pytest.mark.parametrize("terminated", [[False, True], [True, False], [False, False]])
def test_the_q_loss_and_its_gradient_are_those_worked_out_by_hand(terminated, ent_coef, noise):
    batch = two_transitions()._replace(terminated=torch.tensor(terminated))
    found = linear_sac(ent_coef=ent_coef).gradients(batch)
    target = targets(terminated, ent_coef)
    # Q1 = [1 + 1, −2 − 0.5], Q2 = [−1 + 0.5 + 1, 2 − 0.25 + 1]; weights 1 and 3
    (e11, e12), (e21, e22) = [2 - target[0], -2.5 - target[1]], [0.5 - target[0], 2.75 - target[1]]
    q_loss = (0.5 * e11**2 + 3 * 0.5 * e12**2) / 2 + (0.5 * e21**2 + 3 * 0.5 * e22**2) / 2
    assert found.metrics["train/q_loss"].item() == approx(q_loss)
    td_error = [(abs(e11) + abs(e21)) / 2, (abs(e12) + abs(e22)) / 2]
    assert found.metrics["train/td_error"].tolist() == found.td_error.tolist() == approx(td_error)
    w1, b1, w2, b2 = (gradient.flatten().tolist() for gradient in found.of["q"])
    assert w1 == approx([(e11 * 1 + 3 * e12 * -2) / 2, (e11 * 0.5 + 3 * e12 * -0.25) / 2])
    assert b1 == approx([(e11 + 3 * e12) / 2])
    assert w2 == approx([(e21 * 1 + 3 * e22 * -2) / 2, (e21 * 0.5 + 3 * e22 * -0.25) / 2])
    assert b2 == approx([(e21 + 3 * e22) / 2])


@pytest.mark.parametrize("ent_coef", [0.2, 0.7])
def test_the_policy_loss_and_its_gradient_are_those_worked_out_by_hand(ent_coef, noise):
    found = linear_sac(ent_coef=ent_coef).gradients(two_transitions())
    loss, entropy, by_mean, by_log_std = 0.0, 0.0, [], []
    for s, epsilon in ((1.0, 0.5), (-2.0, -1.0)):
        sigma, a, log_prob = drawn(s, epsilon)
        q, dq_da = min((s + 2 * a, 2.0), (-s + a + 1, 1.0))
        loss += (ent_coef * log_prob - q) / 2
        entropy -= log_prob / 2
        # u = mean + σ ε, a = tanh u; d log π/du at fixed ε is 2a, d log π/d log σ adds −1
        du = ent_coef * 2 * a - dq_da * (1 - a**2)
        by_mean.append(du)
        by_log_std.append(-ent_coef + du * sigma * epsilon)
    assert found.metrics["train/policy_loss"].item() == approx(loss)
    assert found.metrics["train/entropy"].item() == approx(entropy)
    assert found.metrics["train/ent_coef"].item() == approx(ent_coef)
    weight, bias = (gradient.flatten().tolist() for gradient in found.of["policy"])
    assert weight == approx([(by_mean[0] - 2 * by_mean[1]) / 2, (by_log_std[0] - 2 * by_log_std[1]) / 2])
    assert bias == approx([sum(by_mean) / 2, sum(by_log_std) / 2])


@pytest.mark.parametrize("ent_coef", [0.2, 0.7])
@pytest.mark.parametrize("target_entropy", [-1.0, -7.0, 3.0])
def test_the_gradient_of_log_alpha_is_the_entropy_less_its_target(target_entropy, ent_coef, noise):
    sac = linear_sac(ent_coef=ent_coef, target_entropy=target_entropy)
    (gradient,) = sac.gradients(two_transitions()).of["ent_coef"]
    entropy = -(drawn(1.0, 0.5)[2] + drawn(-2.0, -1.0)[2]) / 2
    assert -1.0 < entropy < 3.0
    assert gradient.shape == ()
    assert gradient.item() == approx(entropy - target_entropy)


def test_actions_in_targets_and_policy_loss_are_fresh_and_not_the_buffers():
    sac, batch = linear_sac(), two_transitions()
    seen = []
    for seed, action in ((1, 0.5), (1, -0.9), (2, 0.5)):
        torch.manual_seed(seed)
        value = sac.next_value(batch._replace(action=torch.full((2, 1), action)))
        metrics = sac.gradients(batch._replace(action=torch.full((2, 1), action))).metrics
        seen.append((value[0].item(), metrics["train/policy_loss"].item()))
    assert seen[0] == seen[1]
    assert seen[0][0] != seen[2][0]
    assert seen[0][1] != seen[2][1]


# The temperature


@pytest.mark.parametrize("actions", [1, 3])
def test_the_target_entropy_is_minus_one_for_each_dimension_of_actions(actions):
    space = Box(-1.0, 1.0, (actions,), np.float32)
    assert SACv2(OBS, space, network=LINEAR).target_entropy == -actions
    assert SACv2(OBS, space, network=LINEAR, target_entropy=0.0).target_entropy == 0.0


@pytest.mark.parametrize(("target_entropy", "rises"), [(-50.0, False), (50.0, True)])
def test_alpha_rises_while_the_entropy_is_below_its_target_and_falls_while_it_is_above(target_entropy, rises):
    data = noise_data(total_env_steps=20)
    model = SACv2(
        data.observation_space, data.action_space, ent_coef=0.5, target_entropy=target_entropy, network=TINY,
        ent_coef_optimizer=partial(SGD, lr=1e-3), compile=False,
    )  # fmt: skip
    fit(model, data)
    ent_coef = model.temperature().item()
    # 8 steps of 0.001 · (50 ± an entropy between −5 and 5)
    assert 8 * 0.045 < abs(math.log(ent_coef / 0.5)) < 8 * 0.055
    assert (ent_coef > 0.5) is rises


def test_a_fixed_temperature_has_no_optimizer_and_does_not_move():
    data = noise_data(total_env_steps=20)
    model = SACv2(
        data.observation_space, data.action_space, ent_coef=0.3, ent_coef_optimizer=None, network=TINY, compile=False
    )
    trainer = fit(model, data)
    owned = [{id(p) for group in o.param_groups for p in group["params"]} for o in trainer.optimizers]
    assert owned == [{id(p) for p in network.parameters()} for network in (model.q, model.policy)]
    assert model.temperature().item() == approx(0.3)
    assert trainer.global_step == 2 * 8


def test_a_fixed_temperature_leaves_the_other_gradients_as_they_are(noise):
    learned = linear_sac().gradients(two_transitions()).of
    fixed = linear_sac(ent_coef_optimizer=None).gradients(two_transitions()).of
    assert {*learned} - {*fixed} == {"ent_coef"}
    for name, gradients in fixed.items():
        assert all(torch.equal(a, b) for a, b in zip(gradients, learned[name], strict=True))


def test_learning_holds_the_entropy_at_its_target():
    data = ReplayDataModule("toys:Match-v0", learning_starts=200, total_env_steps=1000, batch_size=64, buffer_size=2000)
    lr = partial(Adam, lr=1e-2)
    model = SACv2(
        data.observation_space, data.action_space, ent_coef=0.1, network=partial(TINY.func, hidden_sizes=(32,)),
        q_optimizer=lr, policy_optimizer=lr, ent_coef_optimizer=lr, compile=False,
    )  # fmt: skip
    entropies, gradients = [], model.gradients

    def spy(batch):
        found = gradients(batch)
        entropies.append(found.metrics["train/entropy"].item())
        return found

    model.gradients = spy
    fit(model, data)
    assert entropies[0] > 0
    assert np.mean(entropies[-200:]) == pytest.approx(-1.0, abs=0.1)
    # for the reward −(a − s)² the best π is N(s, α/2), of entropy ½ log(π e α) where the bounds are far: −1 at e⁻³/π
    assert 0.5 < model.temperature().item() / (math.exp(-3) / math.pi) < 2.0


@pytest.mark.parametrize("ent_coef", [0.0, -0.5])
def test_no_temperature_is_refused_since_its_logarithm_is_what_is_learned(ent_coef):
    with pytest.raises(UsageError, match=f"^ent_coef={ent_coef} is not allowed: ") as caught:
        linear_sac(ent_coef=ent_coef)
    assert "\n" not in str(caught.value)


# Acting


def test_the_deterministic_action_is_the_tanh_of_the_mean():
    obs = torch.tensor([[1.0], [-2.0], [30.0]])
    expected = torch.tensor([[math.tanh(0.75)], [math.tanh(-0.75)], [math.tanh(15.25)]])
    torch.testing.assert_close(linear_sac(noise=partial(ActionNoise, std=1.0)).act(obs, deterministic=True), expected)


def test_stochastic_actions_have_the_policys_mean_and_standard_deviation():
    u = linear_sac().act(torch.ones(40_000, 1)).double().atanh()
    sigma = math.exp(0.1 - 1.0)
    assert u.mean().item() == pytest.approx(0.75, abs=5 * sigma / 200)
    assert u.std().item() == pytest.approx(sigma, rel=5 / (2 * 40_000) ** 0.5)
