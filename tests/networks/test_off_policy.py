import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from torch import nn
from toys import LINEAR, TINY

from rl_lightning.functional import squashed_gaussian_log_prob
from rl_lightning.networks import SquashedGaussianPolicy, TwinQ, ValueNetwork

VECTOR = Box(-np.inf, np.inf, (3,), np.float32)
ACTION = Box(-1.0, 1.0, (2,), np.float32)


def test_values_are_vectors_and_not_columns():
    obs, action = torch.randn(7, 3), torch.randn(7, 2)
    assert ValueNetwork(VECTOR, TINY)(obs).shape == (7,)
    assert [q.shape for q in TwinQ(VECTOR, ACTION, TINY)(obs, action)] == [(7,), (7,)]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float64, torch.float16])
def test_values_of_any_dtype_of_observation_are_float32(dtype):
    obs = torch.arange(6).view(2, 3).to(dtype)
    network = ValueNetwork(VECTOR, LINEAR)
    assert network(obs).dtype == torch.float32
    assert torch.equal(network(obs), network(obs.float()))


def test_a_q_network_sees_observation_and_action():
    twin, obs, action = TwinQ(VECTOR, ACTION, LINEAR), torch.randn(1, 3), torch.randn(1, 2)
    for network in (twin.q1, twin.q2):
        weight, bias = network.body[0].weight[0], network.body[0].bias
        assert network(obs, action).item() == pytest.approx(
            (obs[0] @ weight[:3] + action[0] @ weight[3:] + bias).item(), abs=1e-6
        )


def test_the_twins_are_independent():
    twin = TwinQ(VECTOR, ACTION, TINY)
    q1, q2 = twin(torch.randn(5, 3), torch.randn(5, 2))
    assert not (q1 == q2).any()
    assert not any(torch.autograd.grad(q1.sum(), list(twin.q2.parameters()), allow_unused=True))


@pytest.mark.parametrize(("bias", "expected"), [(100.0, 2.0), (-100.0, -20.0), (0.5, 0.5)])
def test_the_log_standard_deviation_is_bounded(bias, expected):
    policy = SquashedGaussianPolicy(VECTOR, ACTION, LINEAR)
    nn.init.zeros_(policy.body[0].weight)
    nn.init.constant_(policy.body[0].bias, bias)
    mean, log_std = policy(torch.randn(4, 3))
    assert torch.equal(log_std, torch.full((4, 2), expected))
    assert torch.equal(mean, torch.full((4, 2), bias))
    action, log_prob, u = policy.sample(torch.randn(4, 3))
    assert (action.abs() <= 1).all()
    assert log_prob.isfinite().all()
    assert u.isfinite().all()


def test_a_sample_carries_its_own_log_prob_and_pre_tanh_value():
    policy, obs = SquashedGaussianPolicy(VECTOR, ACTION, TINY), torch.randn(6, 3)
    action, log_prob, u = policy.sample(obs)
    mean, log_std = policy(obs)
    assert torch.equal(action, u.tanh())
    expected = squashed_gaussian_log_prob(u.double(), mean.double(), log_std.double()).float()
    torch.testing.assert_close(log_prob, expected)
    torch.testing.assert_close(policy.log_prob(obs, u), log_prob)
    assert action.shape == u.shape == (6, 2)
    assert log_prob.shape == (6,)


def test_the_policys_mean_and_standard_deviation_are_apart():
    policy, obs = SquashedGaussianPolicy(Box(-1, 1, (1,), np.float32), ACTION, LINEAR), torch.ones(50_000, 1)
    with torch.no_grad():
        policy.body[0].weight.zero_()
        policy.body[0].bias.copy_(torch.tensor([1.0, -2.0, -1.0, 0.5]))
        _, _, u = policy.sample(obs)
    expected = torch.tensor([-1.0, 0.5]).exp()
    assert ((u.mean(0) - torch.tensor([1.0, -2.0])).abs() < 5 * expected / 50_000**0.5).all()
    torch.testing.assert_close(u.std(0), expected, rtol=0.02, atol=0.0)
