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
        torch.tensor([1.0, 2.0, 3.0]),
        torch.tensor([False, True, False]),
        torch.tensor([10.0, 20.0, -30.0]),
        discount=0.9,
    )
    assert target.tolist() == pytest.approx([1 + 0.9 * 10, 2.0, 3 - 0.9 * 30])


def test_the_td_target_takes_a_discount_for_each_row():
    reward, terminated = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([False, False, True])
    target = functional.td_target(reward, terminated, torch.tensor([10.0, 10.0, 10.0]), torch.tensor([0.5, 0.25, 0.5]))
    assert target.tolist() == [1 + 5.0, 2 + 2.5, 3.0]


def test_a_non_finite_value_behind_a_termination_is_ignored():
    target = functional.td_target(torch.zeros(2), torch.tensor([True, True]), torch.tensor([math.inf, math.nan]), 0.9)
    assert target.tolist() == [0.0, 0.0]


def test_half_squared_error_has_its_half_and_is_a_mean():
    assert functional.half_squared_error(torch.tensor([3.0, 0.0]), torch.tensor([1.0, 1.0])).item() == (2.0 + 0.5) / 2


def test_the_weights_of_errors_are_in_the_mean_and_not_normalized():
    prediction, target = torch.tensor([3.0, 0.0, 5.0]), torch.tensor([1.0, 1.0, 1.0])  # errors 2, -1, 4
    weight = torch.tensor([0.5, 1.0, 0.0])
    assert functional.half_squared_error(prediction, target, weight).item() == pytest.approx((0.5 * 2.0 + 0.5) / 3)
    assert functional.huber_loss(prediction, target, weight).item() == pytest.approx((0.5 * 1.5 + 0.5) / 3)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_huber_loss_is_half_the_square_up_to_one_and_linear_beyond_with_a_slope_of_one(sign):
    errors = torch.tensor([0.0, 0.5, 1.0, 1.5, 100.0], requires_grad=True)
    one_by_one = [functional.huber_loss(sign * error[None], torch.zeros(1)) for error in errors]
    assert [loss.item() for loss in one_by_one] == [0.0, 0.125, 0.5, 1.0, 99.5]
    assert functional.huber_loss(sign * errors, torch.zeros(5)).item() == pytest.approx((0.125 + 0.5 + 1.0 + 99.5) / 5)
    (slopes,) = torch.autograd.grad(sum(one_by_one), errors)
    assert slopes.tolist() == [0.0, 0.5, 1.0, 1.0, 1.0]


def test_the_q_of_an_action_is_its_entry_in_its_own_row():
    q = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], requires_grad=True)
    chosen = functional.q_of_action(q, torch.tensor([2, 0]))
    assert chosen.tolist() == [3.0, 4.0]
    (gradient,) = torch.autograd.grad((chosen * torch.tensor([10.0, 20.0])).sum(), q)
    assert gradient.tolist() == [[0, 0, 10], [20, 0, 0]]
    with pytest.raises(AssertionError, match=r"rank 1, got shape \(2, 1\)"):
        functional.q_of_action(q, torch.tensor([[2], [0]]))


def test_the_soft_maximum_is_the_one_computed_by_hand():
    q = torch.tensor([[1.0, 2.0, -1.0], [0.0, 0.0, 0.0]])
    first = 0.5 * math.log(math.exp(2.0) + math.exp(4.0) + math.exp(-2.0))
    assert functional.soft_maximum(q, 0.5).tolist() == pytest.approx([first, 0.5 * math.log(3)])
    with pytest.raises(AssertionError, match=r"rank 2, got shape \(3,\)"):
        functional.soft_maximum(q[0], 0.5)


@given(seed=st.integers(0, 10_000), ent_coef=st.floats(0.1, 10.0))
@settings(max_examples=30, deadline=None)
def test_the_soft_maximum_is_the_best_expected_q_plus_entropy_and_its_gradient_the_policy(seed, ent_coef):
    q = torch.randn(4, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()
    soft = functional.soft_maximum(q, ent_coef)
    log_pi = torch.log_softmax(q.detach() / ent_coef, -1)
    torch.testing.assert_close(soft.detach(), (log_pi.exp() * (q.detach() - ent_coef * log_pi)).sum(-1))
    for other in torch.log_softmax(torch.randn(20, 4, 3, dtype=torch.float64), -1):
        assert ((other.exp() * (q.detach() - ent_coef * other)).sum(-1) <= soft + 1e-12).all()
    torch.testing.assert_close(torch.autograd.grad(soft.sum(), q)[0], log_pi.exp())


@pytest.mark.parametrize("scale", [1.0, 100.0, -1e4])
def test_the_soft_maximum_at_a_tiny_temperature_is_the_maximum_and_finite(scale):
    q = scale * torch.tensor([[1.0, 0.5, -1.0], [-3.0, -2.0, -2.5]])
    torch.testing.assert_close(functional.soft_maximum(q, 1e-4), q.max(-1).values, rtol=1e-6, atol=2e-4)


def test_the_twin_loss_is_the_sum_of_both_and_the_td_error_the_mean_of_both():
    q1, q2, target = torch.tensor([1.0, 4.0]), torch.tensor([3.0, -1.0]), torch.tensor([2.0, 1.0])
    # errors [-1, 3] and [1, -2]
    loss = functional.twin_q_loss(q1, q2, target, torch.tensor([1.0, 0.5]))
    assert loss.item() == pytest.approx((0.5 * 1 + 0.25 * 9) / 2 + (0.5 * 1 + 0.25 * 4) / 2)
    assert functional.mean_td_error(q1, q2, target).tolist() == [1.0, 2.5]
    for column in (
        lambda: functional.twin_q_loss(q1[:, None], q2, target, torch.ones(2)),
        lambda: functional.twin_q_loss(q1, q2[:, None], target, torch.ones(2)),
        lambda: functional.twin_q_loss(q1, q2, target[:, None], torch.ones(2)),
        lambda: functional.huber_loss(q1, target[:, None]),
    ):
        with pytest.raises(AssertionError, match=r"rank 1, got shape \(2, 1\)"):
            column()


def test_the_soft_value_subtracts_the_temperature_times_the_log_prob():
    assert functional.soft_value(torch.tensor([2.0]), torch.tensor([-3.0]), 0.5).item() == 3.5


@pytest.mark.parametrize("column", [0, 1, 2])
def test_a_column_against_a_row_is_refused_and_not_broadcast(column):
    tensors = [torch.zeros(4), torch.zeros(4, dtype=torch.bool), torch.zeros(4)]
    tensors[column] = tensors[column][:, None]
    with pytest.raises(AssertionError, match=r"rank 1, got shape \(4, 1\)"):
        functional.td_target(*tensors, discount=0.9)
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


@given(T=st.integers(1, 40), N=st.integers(1, 4), seed=st.integers(0, 10_000))
@settings(max_examples=80, deadline=None)
def test_the_discounted_sum_is_that_of_a_plain_loop(T, N, seed):  # noqa: N803
    rng = np.random.default_rng(seed)
    x, discount = rng.normal(size=(T, N)), rng.uniform(0, 1, (T, N)) * (rng.random((T, N)) < 0.8)
    expected, later = np.zeros((T, N)), np.zeros(N)
    for t in reversed(range(T)):
        later = x[t] + discount[t] * later
        expected[t] = later
    actual = functional.discounted_sum(torch.from_numpy(x), torch.from_numpy(discount))
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-12, atol=1e-12)


def test_the_discounted_sum_leaves_its_arguments():
    x, discount = torch.ones(5, 2), torch.full((5, 2), 0.5)
    functional.discounted_sum(x, discount)
    assert torch.equal(x, torch.ones(5, 2))
    assert torch.equal(discount, torch.full((5, 2), 0.5))


def random_rollout(T, N, seed):  # noqa: N803
    """Rewards, values and ends as in a real rollout: inside an episode V(s_{t+1}) is the next row's V(s_t)."""
    rng = np.random.default_rng(seed)
    reward, value, next_value = rng.normal(size=(3, T, N))
    terminated, truncated = rng.random((2, T, N)) < 0.15
    both = rng.random((T, N)) < 0.05
    terminated, truncated = terminated | both, truncated | both
    inside = ~(terminated | truncated)[:-1]
    next_value[:-1][inside] = value[1:][inside]
    return reward, value, next_value, terminated, truncated


def gae_of(arrays, gamma, gae_lambda):
    return functional.gae(*(torch.from_numpy(array) for array in arrays), gamma, gae_lambda).numpy()


def backward_loop(arrays, gamma, gae_lambda):
    """A_t = δ_t + γ λ A_{t+1}, number by number."""
    reward, value, next_value, terminated, truncated = (array.tolist() for array in arrays)
    T, N = len(reward), len(reward[0])  # noqa: N806
    advantage = np.zeros((T, N))
    for n in range(N):
        later = 0.0
        for t in reversed(range(T)):
            if terminated[t][n]:
                later = reward[t][n] - value[t][n]
            elif truncated[t][n]:
                later = reward[t][n] + gamma * next_value[t][n] - value[t][n]
            else:
                later = reward[t][n] + gamma * next_value[t][n] - value[t][n] + gamma * gae_lambda * later
            advantage[t, n] = later
    return advantage


def weighted_n_step_advantages(arrays, gamma, gae_lambda):
    """(1 − λ) Σ λ^{n−1} A^(n), the remaining weight on the longest A^(n) that stays in episode and rollout."""
    reward, value, next_value, terminated, truncated = arrays
    T, N = reward.shape  # noqa: N806
    advantage = np.zeros((T, N))
    for n in range(N):
        for t in range(T):
            n_step, rewards = [], 0.0
            for k in range(t, T):
                rewards += gamma ** (k - t) * reward[k, n]
                bootstrap = 0.0 if terminated[k, n] else gamma ** (k - t + 1) * next_value[k, n]
                n_step.append(rewards + bootstrap - value[t, n])
                if terminated[k, n] or truncated[k, n]:
                    break
            weights = [(1 - gae_lambda) * gae_lambda**i for i in range(len(n_step))]
            weights[-1] = gae_lambda ** (len(n_step) - 1)
            assert sum(weights) == pytest.approx(1.0)
            advantage[t, n] = np.dot(weights, n_step)
    return advantage


@pytest.mark.parametrize("oracle", [backward_loop, weighted_n_step_advantages])
@given(
    T=st.integers(1, 40),
    N=st.integers(1, 3),
    seed=st.integers(0, 10_000),
    gamma=st.floats(0, 1),
    gae_lambda=st.floats(0, 1),
)
@settings(max_examples=60, deadline=None)
def test_gae_is_the_oracles_over_terminations_truncations_and_both(oracle, T, N, seed, gamma, gae_lambda):  # noqa: N803
    arrays = random_rollout(T, N, seed)
    # γλ is a float32 number, whatever the rewards are
    np.testing.assert_allclose(
        gae_of(arrays, gamma, gae_lambda), oracle(arrays, gamma, gae_lambda), rtol=1e-5, atol=1e-5
    )


def test_the_random_rollouts_of_these_tests_have_every_kind_of_end():
    *_, terminated, truncated = random_rollout(40, 3, seed=0)
    assert (terminated & truncated).sum() > 1
    assert (terminated & ~truncated).sum() > 5
    assert (truncated & ~terminated).sum() > 5


@pytest.mark.parametrize("gamma", [0.9, 1.0])
def test_gae_with_lambda_one_is_the_discounted_return_minus_the_value_bootstrapped_at_a_time_limit(gamma):
    reward, value = [1.0, 2.0, 4.0, 8.0], [0.5, 1.5, 2.5, 3.5]
    for ending, last in (("terminate", 0.0), ("truncate", 10.0), ("both", 0.0), ("rollout's end", 10.0)):
        done = np.array([[False], [False], [False], [True]])
        arrays = (
            np.array(reward)[:, None],
            np.array(value)[:, None],
            np.array([*value[1:], 10.0])[:, None],
            done & (ending in ("terminate", "both")),
            done & (ending in ("truncate", "both")),
        )
        returns = [sum(gamma ** (k - t) * reward[k] for k in range(t, 4)) + gamma ** (4 - t) * last for t in range(4)]
        expected = [total - v for total, v in zip(returns, value, strict=True)]
        assert gae_of(arrays, gamma, 1.0)[:, 0].tolist() == pytest.approx(expected), ending


def test_gae_with_lambda_zero_is_the_one_step_error():
    arrays = random_rollout(30, 3, seed=4)
    reward, value, next_value, terminated, _ = arrays
    np.testing.assert_allclose(gae_of(arrays, 0.9, 0.0), reward + 0.9 * next_value * ~terminated - value, rtol=1e-12)


def test_gae_of_an_episode_is_blind_to_the_episodes_after_it():
    reward, value, next_value, terminated, truncated = random_rollout(12, 2, seed=1)
    truncated[5], terminated[5] = True, np.array([False, True])
    before = gae_of((reward, value, next_value, terminated, truncated), 0.99, 0.95)
    reward[6:] += 100.0
    after = gae_of((reward, value, next_value, terminated, truncated), 0.99, 0.95)
    assert np.array_equal(before[:6], after[:6])
    assert (after[6:] > before[6:] + 50).all()


def test_gae_ignores_a_non_finite_value_behind_a_termination():
    reward, value, next_value, terminated, truncated = random_rollout(4, 1, seed=2)
    terminated[2], next_value[2] = True, np.nan
    assert np.isfinite(gae_of((reward, value, next_value, terminated, truncated), 0.9, 0.9)).all()


@pytest.mark.parametrize("which", range(5))
def test_gae_refuses_a_last_dimension_of_one_and_a_missing_time(which):
    for wrong in (torch.zeros(6, 2, 1), torch.zeros(6)):
        tensors = [torch.zeros(6, 2), torch.zeros(6, 2), torch.zeros(6, 2), *torch.zeros(2, 6, 2, dtype=torch.bool)]
        tensors[which] = wrong.to(tensors[which].dtype)
        with pytest.raises(AssertionError, match=r"rank 2, got shape \((6, 2, 1|6,)\)"):
            functional.gae(*tensors, 0.9, 0.9)


def test_functions_of_a_batch_refuse_a_column():
    row, column = torch.randn(4), torch.randn(4, 1)
    refused = [
        lambda: functional.standardized(column),
        lambda: functional.explained_variance(row, column),
        lambda: functional.explained_variance(column, row),
    ]
    for call in refused:
        with pytest.raises(AssertionError, match=r"rank 1, got shape \(4, 1\)"):
            call()


def test_standardized_has_mean_zero_and_the_deviation_of_a_sample_one():
    assert functional.standardized(torch.tensor([1.0, 2.0, 6.0])).tolist() == pytest.approx(
        [-2 / 7**0.5, -1 / 7**0.5, 3 / 7**0.5]
    )
    assert functional.standardized(torch.full((5,), 3.0)).tolist() == [0.0] * 5


@pytest.mark.parametrize("of", [functional.standardized, torch.compile(functional.standardized)], ids=["", "compiled"])
@pytest.mark.parametrize("size", [7, 64, 2048])
def test_equal_numbers_whose_mean_is_rounded_deviate_from_nothing(of, size):
    for number in (0.1, 100.1, -7.3):
        assert of(torch.full((size,), number)).tolist() == [0.0] * size


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_numbers_that_are_not_finite_are_not_hidden_where_they_are_equal(number):
    assert functional.standardized(torch.full((5,), number)).isnan().all()


def test_a_batch_of_one_has_no_deviation_and_stays_as_it_is():
    assert functional.standardized(torch.tensor([7.5])).tolist() == [7.5]


@given(seed=st.integers(0, 10_000), max_norm=st.floats(0.01, 20.0))
@settings(max_examples=40, deadline=None)
def test_clipping_to_a_norm_is_torchs(seed, max_norm):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(3, 4), (4,), (), (2, 1, 5)]
    parameters = [torch.nn.Parameter(torch.zeros(shape)) for shape in shapes]
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    ours = functional.clipped_to_norm(tuple(parameter.grad.clone() for parameter in parameters), max_norm)
    before = torch.nn.utils.clip_grad_norm_(parameters, max_norm)
    for actual, parameter in zip(ours, parameters, strict=True):
        torch.testing.assert_close(actual, parameter.grad, rtol=1e-6, atol=1e-7)
    norm = sum(gradient.square().sum() for gradient in ours).sqrt().item()
    assert norm == pytest.approx(min(max_norm, before.item()), rel=1e-4)


def test_gradients_within_the_norm_and_without_a_norm_are_left_as_they_are():
    gradients = (torch.tensor([3.0, 0.0]), torch.tensor([[4.0]]))  # of norm 5
    assert functional.clipped_to_norm(gradients, None) is gradients
    for max_norm in (5.1, 1e9):
        assert [g.tolist() for g in functional.clipped_to_norm(gradients, max_norm)] == [[3.0, 0.0], [[4.0]]]
    half = functional.clipped_to_norm(gradients, 2.5)
    torch.testing.assert_close(half, (torch.tensor([1.5, 0.0]), torch.tensor([[2.0]])))
    zero = functional.clipped_to_norm((torch.zeros(3),), 1.0)
    assert zero[0].tolist() == [0.0] * 3


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [
        ([1, 2, 3, 4], 1.0),
        ([6, 7, 8, 9], 1.0),  # an offset explains as much
        ([9, 9, 9, 9], 0.0),
        ([2, 1, 4, 3], 0.2),  # residuals −1, 1, −1, 1: 1 − 1 / 1.25
        ([-1, -2, -3, -4], -3.0),  # residuals 2, 4, 6, 8: 1 − 5 / 1.25
    ],
)
def test_the_explained_variance_is_the_one_computed_by_hand(prediction, expected):
    actual = functional.explained_variance(torch.tensor(prediction).float(), torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert actual.item() == pytest.approx(expected, abs=1e-6)


def test_the_explained_variance_of_constant_targets_and_of_one_sample_is_finite():
    assert functional.explained_variance(torch.ones(3), torch.ones(3)).item() == 1.0
    assert functional.explained_variance(torch.ones(1), torch.zeros(1)).item() == 1.0
    assert functional.explained_variance(torch.tensor([0.0, 1.0]), torch.ones(2)).isfinite()
