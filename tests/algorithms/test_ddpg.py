import math
from functools import partial

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from toys import LINEAR

from rl_lightning import DDPG, ActionNoise, Transition

OBS = Box(-np.inf, np.inf, (1,), np.float32)
ACTION = Box(-1.0, 1.0, (1,), np.float32)


def linear_ddpg(**settings) -> DDPG:
    """Q = s + 2a, Q_target = −s + 4a + 0.5, μ = tanh(0.5s + 0.25), μ_target = tanh(−0.25s + 1)."""
    ddpg = DDPG(OBS, ACTION, network=LINEAR, compile=False, **settings)
    with torch.no_grad():
        for network, weight, bias in (
            (ddpg.q, [[1.0, 2.0]], 0.0),
            (ddpg.target_q, [[-1.0, 4.0]], 0.5),
            (ddpg.policy, [[0.5]], 0.25),
            (ddpg.target_policy, [[-0.25]], 1.0),
        ):
            network.body[0].weight.copy_(torch.tensor(weight))
            network.body[0].bias.fill_(bias)
    return ddpg


def two_transitions() -> Transition:
    return Transition(
        obs=torch.tensor([[1.0], [-2.0]]),
        action=torch.tensor([[0.5], [-0.25]]),
        reward=torch.tensor([1.0, -3.0]),
        next_obs=torch.tensor([[2.0], [4.0]]),
        terminated=torch.tensor([False, True]),
        discount=torch.tensor([0.5, 0.125]),
        weight=torch.tensor([1.0, 3.0]),
    )


def approx(values):
    return pytest.approx(values, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(
    ("terminated", "targets"),
    [
        # μ_target(2) = tanh(0.5), μ_target(4) = tanh(0)
        ([False, True], [1 + 0.5 * (-2 + 4 * math.tanh(0.5) + 0.5), -3]),
        ([True, False], [1, -3 + 0.125 * (-4 + 0.5)]),
        ([False, False], [1 + 0.5 * (-2 + 4 * math.tanh(0.5) + 0.5), -3 + 0.125 * (-4 + 0.5)]),
    ],
)
def test_the_q_loss_and_its_gradient_are_those_worked_out_by_hand(terminated, targets):
    batch = two_transitions()._replace(terminated=torch.tensor(terminated))
    found = linear_ddpg().gradients(batch)
    # Q = [1 + 1, −2 − 0.5]; weights 1 and 3
    e1, e2 = 2 - targets[0], -2.5 - targets[1]
    assert found.metrics["train/q_loss"].item() == approx((1 * 0.5 * e1**2 + 3 * 0.5 * e2**2) / 2)
    td_error = [abs(e1), abs(e2)]  # without the weights
    assert found.metrics["train/td_error"].tolist() == found.td_error.tolist() == approx(td_error)
    assert found.metrics["train/q_mean"].item() == approx(-0.25)
    weight, bias = (gradient.flatten().tolist() for gradient in found.of["q"])
    assert weight == approx([(e1 * 1 + 3 * e2 * -2) / 2, (e1 * 0.5 + 3 * e2 * -0.25) / 2])
    assert bias == approx([(e1 + 3 * e2) / 2])


def test_the_policy_gradient_is_that_worked_out_by_hand():
    found = linear_ddpg().gradients(two_transitions())
    a1, a2 = math.tanh(0.75), math.tanh(-0.75)
    assert found.metrics["train/policy_loss"].item() == approx(-((1 + 2 * a1) + (-2 + 2 * a2)) / 2)
    # Eq. 6: ∂Q/∂a = 2, ∂a/∂u = 1 − a²; the online Q, not the target, and no weights
    du1, du2 = -2 * (1 - a1**2), -2 * (1 - a2**2)
    weight, bias = (gradient.item() for gradient in found.of["policy"])
    assert weight == approx((du1 * 1 + du2 * -2) / 2)
    assert bias == approx((du1 + du2) / 2)


def test_the_discount_is_the_batchs_and_not_the_learners():
    one, other = (linear_ddpg(gamma=gamma).gradients(two_transitions()).td_error for gamma in (0.0, 1.0))
    assert torch.equal(one, other)


def test_the_deterministic_action_is_the_tanh_of_the_network():
    obs = torch.tensor([[1.0], [-2.0], [30.0]])
    expected = torch.tensor([[math.tanh(0.75)], [math.tanh(-0.75)], [math.tanh(15.25)]])
    torch.testing.assert_close(linear_ddpg(noise=partial(ActionNoise, std=1.0)).act(obs, deterministic=True), expected)


def test_noise_has_the_deviation_it_is_given():
    actions = linear_ddpg(noise=partial(ActionNoise, std=0.1)).act(torch.full((40_000, 1), -0.5)).double()  # μ = 0
    assert actions.mean().item() == pytest.approx(0.0, abs=5 * 0.1 / 200)
    assert actions.std().item() == pytest.approx(0.1, rel=5 / (2 * 40_000) ** 0.5)
