import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rl_lightning import functional


def log_prob_oracle(u: float, mean: float, log_std: float) -> float:
    """In float64, and with cosh instead of softplus: 1 − tanh² = 1 / cosh²."""
    gaussian = -0.5 * ((u - mean) / math.exp(log_std)) ** 2 - log_std - 0.5 * math.log(2 * math.pi)
    return gaussian + 2 * math.log(math.cosh(u))


@pytest.mark.parametrize(("mean", "log_std"), [(0.0, 0.0), (1.5, 1.0), (-4.0, 2.0), (0.3, -1.0)])
def test_the_tanh_gaussian_log_prob_is_the_float64_oracles_up_to_20(mean, log_std):
    u = torch.linspace(-20, 20, 801)
    full = torch.full((801, 1), mean), torch.full((801, 1), log_std)
    actual = functional.squashed_gaussian_log_prob(u[:, None], *full)
    expected = [log_prob_oracle(value, mean, log_std) for value in u.tolist()]
    np.testing.assert_allclose(actual.numpy(), expected, rtol=2e-6, atol=1e-5)


def test_the_log_jacobian_is_finite_for_any_finite_input():
    u = torch.tensor([[0.0], [9.1], [-9.1], [50.0], [-1e4], [1e30]])
    expected = [0.0, *(-2 * (abs(x) - math.log(2)) for x in (9.1, 9.1, 50.0, 1e4, 1e30))]
    assert functional.tanh_log_det_jacobian(u).tolist() == pytest.approx(expected, rel=1e-6)


def test_log_probs_of_several_dimensions_are_summed():
    u, mean, log_std = torch.randn(3, 5, 4, dtype=torch.float64)
    together = functional.squashed_gaussian_log_prob(u, mean, log_std)
    assert together.shape == (5,)
    expected = [
        sum(log_prob_oracle(u[row, i].item(), mean[row, i].item(), log_std[row, i].item()) for i in range(4))
        for row in range(5)
    ]
    assert together.tolist() == pytest.approx(expected)


@pytest.mark.parametrize(("mean", "log_std"), [(0.0, -0.7), (0.8, -1.0), (-1.5, -0.5)])
def test_the_density_over_actions_integrates_to_one(mean, log_std):
    cells = 200_000
    a = (torch.arange(cells, dtype=torch.float64) + 0.5) * (2 / cells) - 1
    u = torch.atanh(a)[:, None]
    density = functional.squashed_gaussian_log_prob(u, torch.full_like(u, mean), torch.full_like(u, log_std)).exp()
    assert density.sum().item() * 2 / cells == pytest.approx(1.0, abs=1e-6)


def test_gradients_of_the_log_prob_are_finite_where_tanh_saturates():
    for value in (0.0, 20.0, -20.0, 1000.0):
        for log_std in (-20.0, 0.0, 2.0):
            mean = torch.full((1, 1), value, requires_grad=True)
            spread = torch.full((1, 1), log_std, requires_grad=True)
            u = mean + spread.exp() * torch.tensor([[0.7]])
            log_prob = functional.squashed_gaussian_log_prob(u, mean, spread).sum()
            gradients = torch.autograd.grad(log_prob, [mean, spread])
            assert log_prob.isfinite()
            assert all(gradient.isfinite().all() for gradient in gradients), (value, log_std)


def test_the_gradient_of_the_log_jacobian_is_minus_two_tanh():
    u = torch.tensor([[-20.0], [-0.5], [0.0], [2.0], [20.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(functional.tanh_log_det_jacobian(u).sum(), u)
    torch.testing.assert_close(gradient, -2 * u.detach().tanh())


def test_the_td_target_masks_termination_only():
    target = functional.td_target(
        torch.tensor([1.0, 2.0, 3.0]), torch.tensor([False, True, False]), torch.tensor([10.0, 20.0, -30.0]), gamma=0.9
    )
    assert target.tolist() == pytest.approx([1 + 0.9 * 10, 2.0, 3 - 0.9 * 30])


def test_a_non_finite_value_behind_a_termination_is_ignored():
    target = functional.td_target(torch.zeros(2), torch.tensor([True, True]), torch.tensor([math.inf, math.nan]), 0.9)
    assert target.tolist() == [0.0, 0.0]


def test_half_squared_error_has_its_half_and_is_a_mean():
    assert functional.half_squared_error(torch.tensor([3.0, 0.0]), torch.tensor([1.0, 1.0])).item() == (2.0 + 0.5) / 2


def test_the_soft_value_subtracts_the_temperature_times_the_log_prob():
    assert functional.soft_value(torch.tensor([2.0]), torch.tensor([-3.0]), 0.5).item() == 3.5


@pytest.mark.parametrize("column", [0, 1, 2])
def test_a_column_against_a_row_is_refused_and_not_broadcast(column):
    tensors = [torch.zeros(4), torch.zeros(4, dtype=torch.bool), torch.zeros(4)]
    tensors[column] = tensors[column][:, None]
    with pytest.raises(AssertionError, match=r"rank 1, got shape \(4, 1\)"):
        functional.td_target(*tensors, gamma=0.9)
    if column != 1:
        first, second = tensors[0], tensors[2]
        with pytest.raises(AssertionError):
            functional.half_squared_error(first, second)
        with pytest.raises(AssertionError):
            functional.soft_value(first, second, 0.2)


@given(tau=st.floats(1e-3, 1.0), online=st.floats(-1e3, 1e3), target=st.floats(-1e3, 1e3))
@settings(max_examples=50, deadline=None)
def test_polyak_moves_the_target_by_tau(tau, online, target):
    old, new = torch.tensor([target], dtype=torch.float64), torch.tensor([online], dtype=torch.float64)
    functional.polyak_update([old], [new], tau)
    assert old.item() == pytest.approx((1 - tau) * target + tau * online, rel=1e-12, abs=1e-9)
    assert new.item() == online


def test_polyak_with_tau_one_copies_exactly():
    old, new = torch.randn(100), torch.randn(100) * 1e-5
    functional.polyak_update([old], [new], 1.0)
    assert torch.equal(old, new)


def test_polyak_copies_integers_and_refuses_lists_of_different_length():
    count, target = torch.tensor(5), torch.tensor(2)
    functional.polyak_update([target], [count], 0.1)
    assert target.item() == 5
    with pytest.raises(ValueError, match="zip"):
        functional.polyak_update([target], [count, count], 0.1)
