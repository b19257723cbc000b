import math
import shutil
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete
from linear import approx, flat, sgd
from torch import nn
from torch.optim import Adam
from toys import LINEAR, TINY, SpacesEnv, fit, make_trainer

from rl_lightning import DQN, ReplayDataModule, SoftQ, Transition, UsageError
from rl_lightning.fast.compilation import compiled_or_eager

OBS = Box(-np.inf, np.inf, (1,), np.float32)
ACTION = Discrete(2)
TABLE = partial(nn.Linear, bias=False)  # of one-hot observations: each state's Q for itself
CORRIDOR = {"desc": ["SFFG"], "is_slippery": False}  # of FrozenLake: left, down, right, up; the fourth state ends it
LEFT, DOWN, RIGHT, UP = range(4)


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
    metrics, gradients = linear_soft_q().gradients(three_transitions())
    # Q(s, a) = [1, 3, 0.5]; Q_target(s', ·) is (9.5, 10) and (−4, 1), and nothing counts behind the termination
    errors = [1 - (1 + 0.5 * soft([9.5, 10], 0.5)), 3 - -3, 0.5 - (0.5 + 0.25 * soft([-4, 1], 0.5))]
    a, b, c = (weight * error / 3 for weight, error in zip([1.0, 0.5, 2.0], errors, strict=True))
    assert metrics["train/q_loss"].item() == approx(0.5 * (a * errors[0] + b * errors[1] + c * errors[2]))
    assert metrics["train/td_error"].tolist() == approx([abs(error) for error in errors])
    assert metrics["train/q_mean"].item() == approx((1 + 3 + 0.5) / 3)
    rows = [(1.0, 0.0), (-2.0, 3.0), (0.5, 0.5)]  # Q(s, ·)
    assert metrics["train/v_mean"].item() == approx(sum(soft(q, 0.5) for q in rows) / 3)
    assert metrics["train/entropy"].item() == approx(sum(entropy(q, 0.5) for q in rows) / 3)
    assert len(gradients) == 1
    assert flat(gradients[0]) == approx([a * 1, b * -2 + c * 0.5, a, b + c])


def test_the_soft_value_is_between_the_maximum_and_that_plus_the_largest_entropy():
    batch = three_transitions()
    for ent_coef in (0.01, 0.5, 10.0):
        value = linear_soft_q(ent_coef).next_value(batch)
        highest = torch.tensor([10.0, 11.0, 1.0])
        assert (value > highest - 1e-5).all()
        assert (value <= highest + ent_coef * math.log(2) + 1e-5).all()


def test_hubers_loss_is_linear_beyond_a_difference_of_one():
    metrics, (gradient,) = linear_soft_q(loss="huber").gradients(three_transitions())
    # the differences, as above, are about -4.2, 6 and 0.1
    errors = [1 - (1 + 0.5 * soft([9.5, 10], 0.5)), 3 - -3, 0.5 - (0.5 + 0.25 * soft([-4, 1], 0.5))]
    assert errors[0] < -1 < errors[2] < 1 < errors[1]
    losses = [-errors[0] - 0.5, errors[1] - 0.5, 0.5 * errors[2] ** 2]
    weights = [1.0 / 3, 0.5 / 3, 2.0 / 3]
    assert metrics["train/q_loss"].item() == approx(sum(w * loss for w, loss in zip(weights, losses, strict=True)))
    a, b, c = (w * slope for w, slope in zip(weights, [-1.0, 1.0, errors[2]], strict=True))
    assert flat(gradient) == approx([a * 1, b * -2 + c * 0.5, a, b + c])


@pytest.mark.parametrize("settings", [{}, {"max_grad_norm": 0.3}, {"loss": "huber"}])
def test_without_temperature_it_is_dqn(settings):
    batch = three_transitions()
    expected, (expected_gradient,) = linear_soft_q(learner=DQN, **settings).gradients(batch)
    metrics, (gradient,) = linear_soft_q(1e-4, **settings).gradients(batch)
    for name in ("q_loss", "q_mean", "td_error"):
        torch.testing.assert_close(metrics[f"train/{name}"], expected[f"train/{name}"], rtol=1e-5, atol=1e-5)
    assert flat(gradient) == approx(flat(expected_gradient))
    assert metrics["train/entropy"].item() == approx(math.log(2) / 3)  # the third state's actions are alike
    warm = linear_soft_q(1.0).gradients(batch)[0]
    assert (warm["train/td_error"] - expected["train/td_error"]).abs()[0] > 0.1  # which differs


def test_it_is_finite_at_a_tiny_temperature_with_a_large_q():
    model, batch = linear_soft_q(1e-4), three_transitions()
    for sign in (1.0, -1.0):
        set_linear(model.q.body, [[sign * 100.0], [sign * 99.0]], [0.0, 0.0])
        set_linear(model.target_q.body, [[sign * 100.0], [sign * 99.0]], [0.0, 0.0])
        metrics, (gradient,) = model.gradients(batch)
        assert all(tensor.isfinite().all() for tensor in [*metrics.values(), *gradient])
        assert model.next_value(batch)[0].item() == pytest.approx(350.0 if sign > 0 else -346.5, rel=1e-5)
        assert model.act(batch.obs).tolist() == model.act(batch.obs, deterministic=True).tolist()


def test_a_time_limit_bootstraps_and_termination_does_not():
    model, batch = linear_soft_q(), three_transitions()
    alive = model.gradients(batch._replace(terminated=torch.tensor([False] * 3)))[0]["train/td_error"]
    assert alive[1].item() == approx(abs(3 - (-3 + 0.5 * soft([11, 11], 0.5))))
    batch.next_obs[1] = torch.inf
    assert model.gradients(batch)[0]["train/q_loss"].isfinite()


def test_the_target_gets_no_gradient():
    model, batch = linear_soft_q(), three_transitions()
    assert not any(parameter.requires_grad for parameter in model.target_q.parameters())
    assert not model.next_value(batch).requires_grad


def random_batch(obs=None, next_obs=None, actions=2, size=6) -> Transition:
    obs, next_obs = (torch.randn(size, 1), torch.randn(size, 1)) if obs is None else (obs, next_obs)
    reward, terminated = torch.randn(size), torch.rand(size) < 0.3
    action = torch.arange(size) % actions
    return Transition(obs, action, reward, next_obs, terminated, 0.9 ** (1 + torch.rand(size)), torch.rand(size))


def test_gradients_is_pure():
    model, batch = SoftQ(OBS, ACTION, network=TINY, max_grad_norm=0.1, compile=False), random_batch()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    copy = Transition(*(field.clone() for field in batch))
    metrics, (gradient,) = model.gradients(batch)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert all(torch.equal(one, other) for one, other in zip(batch, copy, strict=True))
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(tensor.requires_grad for tensor in [*metrics.values(), *gradient])
    assert {name: metric.shape for name, metric in metrics.items() if metric.ndim} == {"train/td_error": (6,)}


@pytest.mark.skipif(not shutil.which("g++") and not shutil.which("clang++"), reason="there is no C++ compiler")
def test_compiled_gradients_equal_eager_ones():
    model, batch = SoftQ(OBS, ACTION, network=TINY, max_grad_norm=0.1, compile=False), random_batch()
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="gradients run eagerly")  # it would mean that nothing was compiled
        compiled_metrics, compiled = compiled_or_eager(model.gradients)(batch)
    metrics, eager = model.gradients(batch)
    torch.testing.assert_close(compiled_metrics, metrics)
    torch.testing.assert_close(tuple(compiled[0]), tuple(eager[0]))


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


# What moves, what is refused


def noise_data(**settings):
    settings = {"learning_starts": 12, "total_env_steps": 20, "batch_size": 8, "buffer_size": 1000, **settings}
    return ReplayDataModule("toys:Spaces-v0", **settings)


def test_the_optimizer_moves_all_of_q_and_not_its_target():
    data = noise_data()
    model = SoftQ(
        data.observation_space, data.action_space, network=TINY, q_optimizer=sgd(0.1), target_update_interval=1000,
        compile=False,
    )  # fmt: skip
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    trainer = fit(model, data)
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed == {name for name in before if name.startswith("q.")}
    (optimizer,) = trainer.optimizers
    owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert owned == {id(p) for p in model.q.parameters()}


def test_bf16_autocast_keeps_parameters_and_losses_in_float32():
    data = noise_data()
    model = SoftQ(data.observation_space, data.action_space, network=TINY, compile=False)
    trainer = fit(model, data, make_trainer(precision="bf16-mixed"))
    gradients = [p.grad for group in trainer.optimizers[0].param_groups for p in group["params"]]
    assert {tensor.dtype for tensor in [*model.losses.values(), *gradients, *model.parameters()]} == {torch.float32}
    assert all(gradient.isfinite().all() and gradient.abs().sum() > 0 for gradient in gradients)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("gamma", -0.1), ("gamma", 1.1), ("gamma", math.nan),
        ("tau", 0.0), ("tau", 1.1), ("tau", math.nan),
        ("target_update_interval", 0),
        ("loss", "cubic"),
        ("ent_coef", 0.0), ("ent_coef", -0.1), ("ent_coef", math.nan), ("ent_coef", math.inf),
        ("max_grad_norm", 0.0), ("max_grad_norm", -1.0), ("max_grad_norm", math.nan),
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_refused_by_name(key, value):
    with pytest.raises(UsageError, match=f"^{key}=.* is not allowed: ") as caught:
        SoftQ(OBS, ACTION, network=LINEAR, compile=False, **{key: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "space", [Box(-1.0, 1.0, (2,), np.float32), MultiDiscrete([2, 3]), MultiBinary(2)], ids=lambda s: type(s).__name__
)
def test_another_action_space_is_refused_with_the_learners_that_can(space):
    with pytest.raises(
        UsageError, match=r"^action space .* is not supported by SoftQ: a Discrete is needed; .*one of .*PPO"
    ) as caught:
        SoftQ(OBS, space, compile=False)
    assert "\n" not in str(caught.value)
    assert ("SACv2" in str(caught.value)) == isinstance(space, Box)


@pytest.mark.parametrize("kind", SpacesEnv.OBSERVATIONS)
def test_every_kind_of_observation_acts_trains_and_evaluates(kind):
    data = noise_data(env_kwargs={"obs": kind}, eval_episodes=2)
    model = SoftQ(data.observation_space, data.action_space, network=partial(TINY, activation="tanh"), compile=False)
    samples = [data.observation_space.sample() for _ in range(6)]
    if isinstance(data.observation_space, Dict):
        obs = {key: torch.as_tensor(np.stack([one[key] for one in samples])) for key in data.observation_space.spaces}
    else:
        obs = torch.as_tensor(np.stack(samples))
    if kind != "vector":  # samples of an unbounded Box are large, and a tanh of them is flat
        _, (gradients,) = model.gradients(random_batch(obs, obs, actions=3))
        assert all(gradient.isfinite().all() and gradient.abs().sum() > 0 for gradient in gradients)
    assert set(model.act(obs).tolist()) <= {0, 1, 2}  # the environment's begin at 5
    trainer = make_trainer(validate=True)
    trainer.fit(model, data)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert trainer.validate(model, data, verbose=False)[0]["val/episode_length_mean"] == 5.0


# Whole runs


def soft_optimal_q(gamma, ent_coef):
    """Of the corridor's three states, by value iteration."""
    q = np.zeros((3, 4))
    for _ in range(200):
        value = ent_coef * np.log(np.exp(q / ent_coef).sum(-1))
        for state in range(3):
            q[state] = gamma * value[state]
            q[state, LEFT] = gamma * value[max(state - 1, 0)]
            q[state, RIGHT] = gamma * value[state + 1] if state < 2 else 1.0
    return q


@pytest.mark.parametrize(("ent_coef", "above_hard"), [(0.1, 0.01), (0.3, 0.15)])
def test_it_learns_the_soft_q_and_the_soft_policy_of_a_corridor(ent_coef, above_hard):
    data = ReplayDataModule(
        "FrozenLake-v1", CORRIDOR, learning_starts=200, total_env_steps=700, batch_size=32, buffer_size=2000
    )
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
