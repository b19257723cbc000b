"""Control variates out of a critic, worked out by hand."""

import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal

from rl_lightning.errors import UsageError
from rl_lightning.estimators import linear_control, marginal_baselines, q_prop_eta
from rl_lightning.estimators.controls import curvature_of, slope_of
from rl_lightning.networks.distributions import Gaussian

OBS = torch.tensor([[1.0], [2.0]])
ACTION = torch.tensor([[0.5, -1.0], [2.0, 3.0]])
MEAN = torch.tensor([[0.0, 1.0], [1.0, 1.0]])


def q(obs, action):
    """s a_1² + a_1 a_2."""
    return obs[:, 0] * action[:, 0].square() + action[:, 0] * action[:, 1]


def test_slopes_and_curvatures():
    value, slope = slope_of(q, OBS, ACTION)
    assert value.tolist() == [-0.25, 14.0]
    assert slope.tolist() == [[0.0, 0.5], [11.0, 2.0]]  # (2 s a_1 + a_2, a_1)
    assert curvature_of(q, OBS, ACTION).tolist() == [[2.0, 0.0], [4.0, 0.0]]


def test_the_linear_control_is_the_slope_at_the_mean_times_the_deviation():
    control, slope = linear_control(q, OBS, ACTION, MEAN)
    assert slope.tolist() == [[1.0, 0.0], [5.0, 1.0]]
    assert control.tolist() == [0.5, 7.0]
    assert not control.requires_grad
    assert not slope.requires_grad


def test_slopes_do_not_need_gradients_to_be_on_and_leave_none_behind():
    network = nn.Linear(3, 1)

    def critic(obs, action):
        return network(torch.cat([obs, action], 1)).squeeze(1)

    with torch.no_grad():
        value, slope = slope_of(critic, OBS, ACTION)
    torch.testing.assert_close(slope, network.weight.detach()[:, 1:].expand(2, 2))
    assert network.weight.grad is None
    assert not value.requires_grad
    value, slope = slope_of(critic, OBS, ACTION, create_graph=True)
    assert value.requires_grad
    assert slope.requires_grad


def test_a_critic_that_does_not_see_the_action_has_no_slope():
    value, slope = slope_of(lambda obs, action: 3.0 * obs[:, 0], OBS, ACTION)
    assert value.tolist() == [3.0, 6.0]
    assert slope.tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_eta_goes_by_the_sign_of_what_advantage_and_control_have_in_common():
    advantage, control = torch.tensor([2.0, -1.0, 3.0, -2.0, 0.0]), torch.tensor([0.5, -4.0, -1.0, 2.0, 1.0])
    assert q_prop_eta("standard", advantage, control).tolist() == [1.0, 1.0, 1.0, 1.0, 1.0]
    assert q_prop_eta("conservative", advantage, control).tolist() == [1.0, 1.0, 0.0, 0.0, 0.0]
    assert q_prop_eta("aggressive", advantage, control).tolist() == [1.0, 1.0, -1.0, -1.0, 0.0]
    with pytest.raises(UsageError, match="eta='adaptive' is not allowed: give one of standard, conservative, agg"):
        q_prop_eta("adaptive", advantage, control)


@pytest.mark.parametrize("pi", [Gaussian(MEAN, torch.zeros(2, 2)), Independent(Normal(MEAN, torch.ones(2, 2)), 1)])
def test_marginal_baselines_exchange_one_dimension_for_its_mean_or_for_samples(pi):
    at_mean = marginal_baselines(q, OBS, ACTION, pi, 0)
    # (s μ_1² + μ_1 a_2, s a_1² + a_1 μ_2)
    assert at_mean.tolist() == [[0.0, 0.75], [5.0, 10.0]]
    torch.manual_seed(0)
    by_samples = marginal_baselines(q, OBS, ACTION, pi, 2_000)
    # E[a_1²] = μ_1² + 1: (s (μ_1² + 1) + μ_1 a_2, the same as above)
    torch.testing.assert_close(by_samples, torch.tensor([[1.0, 0.75], [7.0, 10.0]]), atol=0.5, rtol=0.0)
    assert not by_samples.requires_grad


def test_a_baseline_of_a_dimension_does_not_see_that_dimension():
    pi = Gaussian(MEAN, torch.zeros(2, 2))
    other = ACTION.clone()
    other[:, 1] = 7.0
    one, two = marginal_baselines(q, OBS, ACTION, pi, 0), marginal_baselines(q, OBS, other, pi, 0)
    assert torch.equal(one[:, 1], two[:, 1])
    assert not torch.equal(one[:, 0], two[:, 0])
