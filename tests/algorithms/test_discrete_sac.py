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
from torch.optim import SGD, Adam
from toys import LINEAR, TINY, SpacesEnv, fit, make_trainer

from rl_lightning import DiscreteSAC, ReplayDataModule, Transition, UsageError
from rl_lightning.fast.compilation import compiled_or_eager

OBS = Box(-np.inf, np.inf, (1,), np.float32)
ACTION = Discrete(2)
TABLE = partial(nn.Linear, bias=False)  # of one-hot observations: each state for itself
CORRIDOR = {"desc": ["SFFG"], "is_slippery": False}  # of FrozenLake: left, down, right, up; the fourth state ends it
LEFT, DOWN, RIGHT, UP = range(4)


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


def random_batch(obs=None, next_obs=None, actions=2, size=6) -> Transition:
    obs, next_obs = (torch.randn(size, 1), torch.randn(size, 1)) if obs is None else (obs, next_obs)
    reward, terminated = torch.randn(size), torch.rand(size) < 0.3
    action = torch.arange(size) % actions
    return Transition(obs, action, reward, next_obs, terminated, 0.9 ** (1 + torch.rand(size)), torch.rand(size))


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
    metrics, (gradient, *_) = linear_sac().gradients(three_transitions())
    targets = [1 + 0.5 * state_value(2.0, min_target, 0.5), -3.0, 0.5 + 0.25 * state_value(-1.0, min_target, 0.5)]
    # of the actions 0, 1 and 1: Q1 = [1, 3, 0.5], Q2 = [1, 0.5, 0.5]
    first = [q - target for q, target in zip([1.0, 3.0, 0.5], targets, strict=True)]
    second = [q - target for q, target in zip([1.0, 0.5, 0.5], targets, strict=True)]
    weights = [1.0, 0.5, 2.0]
    assert metrics["train/q_loss"].item() == approx(
        sum(w * 0.5 * (one**2 + other**2) for w, one, other in zip(weights, first, second, strict=True)) / 3
    )
    assert metrics["train/td_error"].tolist() == approx(
        [0.5 * (abs(one) + abs(other)) for one, other in zip(first, second, strict=True)]
    )
    assert metrics["train/q_mean"].item() == approx((1 + 0.5 + 0.5) / 3)
    expected = []
    for errors in (first, second):
        a, b, c = (w * error / 3 for w, error in zip(weights, errors, strict=True))
        expected += [a * 1, b * -2 + c * 0.5, a, b + c]
    assert flat(gradient) == approx(expected)


def test_the_policy_loss_and_its_gradient_are_those_worked_out_by_hand():
    metrics, (_, gradient, _) = linear_sac().gradients(three_transitions())
    assert metrics["train/policy_loss"].item() == approx(-sum(state_value(s, min_q, 0.5) for s in STATES) / 3)
    # with f_a = α log π_a − Q_a, whose mean under π the loss is: d/d logit_k = π_k (f_k − Σ π f)
    by_weight, by_bias = np.zeros(2), np.zeros(2)
    for s in STATES:
        p = np.array(pi(s))
        f = 0.5 * np.log(p) - np.array(min_q(s))
        slope = p * (f - p @ f)
        by_weight += slope * s / 3
        by_bias += slope / 3
    assert flat(gradient) == approx([*by_weight, *by_bias])
    assert metrics["train/entropy"].item() == approx(sum(map(entropy, STATES)) / 3)


def test_the_policy_gradient_vanishes_at_the_policy_that_is_exponential_in_q():
    sac, batch = linear_sac(), three_transitions()
    with torch.no_grad():  # Q1 below Q2 everywhere, and logits of Q1 / α
        sac.q.q2.body[0].bias += 100
        sac.policy.body[0].weight.copy_(sac.q.q1.body[0].weight / 0.5)
        sac.policy.body[0].bias.copy_(sac.q.q1.body[0].bias / 0.5)
    metrics, (_, gradient, _) = sac.gradients(batch)
    assert flat(gradient) == pytest.approx([0.0] * 4, abs=1e-6)
    # and the loss is minus the soft maximum there
    soft = [0.5 * math.log(math.exp(s / 0.5) + math.exp((1 - s) / 0.5)) for s in STATES]
    assert metrics["train/policy_loss"].item() == approx(-sum(soft) / 3)


@pytest.mark.parametrize("target_entropy", [0.1, 0.6])
def test_the_temperatures_gradient_is_the_entropy_over_its_target(target_entropy):
    sac = linear_sac(target_entropy=target_entropy)
    metrics, (_, _, gradient) = sac.gradients(three_transitions())
    assert flat(gradient) == approx([sum(map(entropy, STATES)) / 3 - target_entropy])
    assert metrics["train/ent_coef"].item() == approx(0.5)


def test_the_target_entropy_is_by_default_the_papers_share_of_the_uniform_policys():
    assert DiscreteSAC(OBS, Discrete(6), network=LINEAR, compile=False).target_entropy == approx(0.98 * math.log(6))
    assert linear_sac(target_entropy=0.0).target_entropy == 0.0


def test_a_time_limit_bootstraps_and_termination_does_not():
    sac, batch = linear_sac(), three_transitions()
    alive = sac.gradients(batch._replace(terminated=torch.tensor([False] * 3)))[0]["train/td_error"]
    target = -3 + 0.5 * state_value(4.0, min_target, 0.5)
    assert alive[1].item() == approx(0.5 * (abs(3 - target) + abs(0.5 - target)))
    batch.next_obs[1] = torch.inf
    assert sac.gradients(batch)[0]["train/q_loss"].isfinite()


def test_numbers_and_gradients_are_finite_where_the_policy_is_certain():
    sac = linear_sac()
    with torch.no_grad():
        sac.policy.body[0].bias.copy_(torch.tensor([1e4, 0.0]))
    metrics, gradients = sac.gradients(three_transitions())
    assert all(tensor.isfinite().all() for tensor in [*metrics.values(), *(g for own in gradients for g in own)])
    assert metrics["train/entropy"] == 0.0


# What may move what


def named_gradients(sac, batch):
    return dict(zip(("q", "policy", "temperature"), sac.gradients(batch)[1], strict=True))


def same(before, after):
    return {name for name in before if all(torch.equal(a, b) for a, b in zip(before[name], after[name], strict=True))}


def test_each_losses_gradients_are_of_its_own_parameters_and_depend_on_its_own_inputs():
    sac, batch = linear_sac(target_entropy=0.3), three_transitions()
    before = named_gradients(sac, batch)
    for name, gradients in before.items():
        own = list(getattr(sac, name).parameters())
        assert [g.shape for g in gradients] == [p.shape for p in own]
        assert all(g.abs().sum() > 0 for g in gradients)
    assert same(before, named_gradients(sac, batch)) == {"q", "policy", "temperature"}  # nothing is drawn
    # rewards, actions and weights reach J_Q alone
    for changed in (
        {"reward": batch.reward + 10},
        {"action": torch.tensor([1, 0, 1])},
        {"weight": torch.ones(3)},
        {"next_obs": batch.next_obs + 1},
    ):
        assert same(before, named_gradients(sac, batch._replace(**changed))) == {"policy", "temperature"}, changed
    with torch.no_grad():
        sac.target_q.q1.body[0].bias -= 10
        sac.target_q.q2.body[0].bias -= 10
    assert same(before, named_gradients(sac, batch)) == {"policy", "temperature"}
    before = named_gradients(sac, batch)
    with torch.no_grad():
        sac.q.q1.body[0].bias -= torch.tensor([10.0, 5.0])
    assert same(before, named_gradients(sac, batch)) == {"temperature"}
    before = named_gradients(sac, batch)
    with torch.no_grad():
        sac.temperature.log_alpha += 1
    assert same(before, named_gradients(sac, batch)) == {"temperature"}
    before = named_gradients(sac, batch)
    with torch.no_grad():
        sac.policy.body[0].bias += torch.tensor([1.0, 0.0])
    assert same(before, named_gradients(sac, batch)) == set()


def test_gradients_is_pure():
    sac, batch = DiscreteSAC(OBS, ACTION, network=TINY, compile=False), random_batch()
    weights = {name: tensor.clone() for name, tensor in sac.state_dict().items()}
    copy = Transition(*(field.clone() for field in batch))
    metrics, gradients = sac.gradients(batch)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in sac.state_dict().items())
    assert all(torch.equal(one, other) for one, other in zip(batch, copy, strict=True))
    assert all(parameter.grad is None for parameter in sac.parameters())
    assert not any(tensor.requires_grad for tensor in [*metrics.values(), *(g for own in gradients for g in own)])
    assert {name: metric.shape for name, metric in metrics.items() if metric.ndim} == {"train/td_error": (6,)}


def noise_data(**settings):
    settings = {"learning_starts": 12, "total_env_steps": 20, "batch_size": 8, "buffer_size": 1000, **settings}
    return ReplayDataModule("toys:Spaces-v0", **settings)


def sac_for(data, network=TINY, **settings):
    return DiscreteSAC(data.observation_space, data.action_space, network=network, compile=False, **settings)


@pytest.mark.parametrize("moved", ["q", "policy", "temperature"])
def test_each_optimizer_moves_only_its_own_parameters_and_all_of_them(moved):
    data = noise_data()
    lr = {name: 0.01 if name == moved else 0.0 for name in ("q", "policy", "temperature")}
    model = sac_for(
        data,
        q_optimizer=sgd(lr["q"]),
        policy_optimizer=sgd(lr["policy"]),
        ent_coef_optimizer=sgd(lr["temperature"]),
        target_update_interval=1000,
    )
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    fit(model, data)
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed == {name for name in before if name.split(".")[0] == moved}
    assert len(changed) == {"q": 8, "policy": 4, "temperature": 1}[moved]


@pytest.mark.parametrize("learned", [True, False])
def test_every_parameter_has_one_optimizer_but_the_targets_and_a_fixed_temperature_which_have_none(learned):
    data = noise_data()
    model = sac_for(data, ent_coef=0.3, **({} if learned else {"ent_coef_optimizer": None}))
    trainer = fit(model, data)
    owned = [{id(p) for group in o.param_groups for p in group["params"]} for o in trainer.optimizers]
    networks = [model.q, model.policy, *([model.temperature] if learned else [])]
    assert owned == [{id(p) for p in network.parameters()} for network in networks]
    assert len(model.gradients(random_batch(torch.randn(6, 2), torch.randn(6, 2)))[1]) == 2 + learned
    assert not any(parameter.requires_grad for parameter in model.target_q.parameters())
    assert (model.temperature().item() == pytest.approx(0.3, rel=1e-6)) is not learned


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
    assert model.losses["train/entropy"].item() == pytest.approx(entropy_of, abs=1e-4)
    step = 0.1 * (target_entropy - entropy_of)
    assert step * direction > 0
    assert model.temperature().item() == pytest.approx(0.3 * math.exp(step), rel=1e-5)


@pytest.mark.skipif(not shutil.which("g++") and not shutil.which("clang++"), reason="there is no C++ compiler")
def test_compiled_gradients_equal_eager_ones():
    sac, batch = DiscreteSAC(OBS, ACTION, network=TINY, compile=False), random_batch()
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="gradients run eagerly")  # it would mean that nothing was compiled
        compiled_metrics, compiled = compiled_or_eager(sac.gradients)(batch)
    metrics, eager = sac.gradients(batch)
    torch.testing.assert_close(compiled_metrics, metrics)
    for own, own_eager in zip(compiled, eager, strict=True):
        torch.testing.assert_close(tuple(own), tuple(own_eager))


def test_bf16_autocast_keeps_parameters_and_losses_in_float32_and_every_gradient():
    # the target is valued without gradients by the policy that then gets one: a copy in bf16 must not be kept
    data = noise_data()
    model = sac_for(data)
    trainer = fit(model, data, make_trainer(precision="bf16-mixed"))
    gradients = [p.grad for o in trainer.optimizers for group in o.param_groups for p in group["params"]]
    assert len(gradients) == 13
    assert {tensor.dtype for tensor in [*model.losses.values(), *gradients, *model.parameters()]} == {torch.float32}
    assert all(gradient.isfinite().all() and gradient.abs().sum() > 0 for gradient in gradients)


# Acting


def test_actions_are_as_frequent_as_probable_and_the_deterministic_one_is_the_most_probable():
    sac, obs = linear_sac(), torch.tensor([[1.0], [-0.3]]).repeat(20_000, 1)
    action = sac.act(obs)
    assert action.dtype == torch.int64
    for row, s in enumerate((1.0, -0.3)):
        share = action[row::2].float().mean().item()
        assert share == pytest.approx(pi(s)[1], abs=5 * 0.5 / 20_000**0.5)
    assert sac.act(obs, deterministic=True)[:2].tolist() == [0, 1]


@pytest.mark.parametrize("kind", SpacesEnv.OBSERVATIONS)
def test_every_kind_of_observation_acts_trains_and_evaluates(kind):
    data = noise_data(env_kwargs={"obs": kind}, eval_episodes=2)
    model = sac_for(data, network=partial(TINY, activation="tanh"))
    samples = [data.observation_space.sample() for _ in range(6)]
    if isinstance(data.observation_space, Dict):
        obs = {key: torch.as_tensor(np.stack([one[key] for one in samples])) for key in data.observation_space.spaces}
    else:
        obs = torch.as_tensor(np.stack(samples))
    if kind != "vector":  # samples of an unbounded Box are large, and a tanh of them is flat
        _, gradients = model.gradients(random_batch(obs, obs, actions=3))
        assert all(gradient.isfinite().all() and gradient.abs().sum() > 0 for own in gradients for gradient in own)
    assert set(model.act(obs).tolist()) <= {0, 1, 2}  # the environment's begin at 5
    trainer = make_trainer(validate=True)
    trainer.fit(model, data)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert trainer.validate(model, data, verbose=False)[0]["val/episode_length_mean"] == 5.0


# Refusals


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("gamma", -0.1), ("gamma", 1.1), ("gamma", math.nan),
        ("tau", 0.0), ("tau", 1.1), ("tau", math.nan),
        ("target_update_interval", 0),
        ("ent_coef", 0.0), ("ent_coef", -0.1), ("ent_coef", math.nan), ("ent_coef", math.inf),
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_refused_by_name(key, value):
    with pytest.raises(UsageError, match=f"^{key}=.* is not allowed: ") as caught:
        DiscreteSAC(OBS, ACTION, network=LINEAR, compile=False, **{key: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["q_optimizer", "policy_optimizer", "ent_coef_optimizer"])
def test_settings_that_an_optimizer_refuses_are_refused_by_name(name):
    with pytest.raises(UsageError, match=rf"^{name} is not allowed: .*learning rate") as caught:
        linear_sac(**{name: partial(SGD, lr=-1.0)})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "space", [Box(-1.0, 1.0, (2,), np.float32), MultiDiscrete([2, 3]), MultiBinary(2)], ids=lambda s: type(s).__name__
)
def test_another_action_space_is_refused_with_the_learners_that_can(space):
    with pytest.raises(
        UsageError, match=r"^action space .* is not supported by DiscreteSAC: a Discrete is needed; .*one of .*PPO"
    ) as caught:
        DiscreteSAC(OBS, space, compile=False)
    assert "\n" not in str(caught.value)
    assert ("SACv2" in str(caught.value)) == isinstance(space, Box)


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


def test_with_a_fixed_temperature_it_learns_the_soft_q_and_the_soft_policy_of_a_corridor():
    data = ReplayDataModule(
        "FrozenLake-v1", CORRIDOR, learning_starts=200, total_env_steps=700, batch_size=32, buffer_size=2000
    )
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
