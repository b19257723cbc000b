import math

import numpy as np
import pytest
import torch

from rl_lightning import UsageError
from rl_lightning.exploration import ActionNoise, epsilon_greedy

DRAWS = 40_000


def noise(std=1e-3, final_std=None, schedule="constant", theta=1.0) -> ActionNoise:
    return ActionNoise(std, final_std, schedule, theta)


def shares(actions, count=3):
    return (torch.bincount(actions, minlength=count) / len(actions)).tolist()


# ε-greedy


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_the_greedy_action_has_its_share_and_all_actions_share_epsilon_alike(epsilon):
    q = torch.tensor([[0.5, 2.0, -1.0]]).expand(DRAWS, -1)
    actions = epsilon_greedy(q, epsilon)
    assert actions.dtype == torch.int64
    assert actions.shape == (DRAWS,)
    expected = [epsilon / 3, 1 - epsilon + epsilon / 3, epsilon / 3]
    assert shares(actions) == pytest.approx(expected, abs=5 * 0.5 / DRAWS**0.5)
    if epsilon == 0.0:
        assert (actions == 1).all()


def test_every_row_is_greedy_in_its_own_q_and_explores_by_itself():
    q = torch.eye(3)[torch.arange(DRAWS) % 3]
    best = torch.arange(DRAWS) % 3
    assert torch.equal(epsilon_greedy(q, 0.0), best)
    off = (epsilon_greedy(q, 0.6) != best).float()
    assert off.mean().item() == pytest.approx(0.4, abs=5 * 0.5 / DRAWS**0.5)
    # whether neighbours explore is independent
    assert (off[1:] * off[:-1]).mean().item() == pytest.approx(0.16, abs=5 * 0.5 / DRAWS**0.5)


def test_one_and_two_actions_have_no_action_beyond_them():
    assert epsilon_greedy(torch.zeros(100, 1), 1.0).tolist() == [0] * 100
    assert set(epsilon_greedy(torch.zeros(200, 2), 1.0).tolist()) == {0, 1}


# Noise on actions


def test_independent_noise_is_normal_with_its_deviation_around_the_action():
    action = torch.tensor([[0.5, -0.25]]).expand(DRAWS, -1)
    drawn = noise(std=0.1)(action, 0.0) - action
    assert drawn.mean(0).tolist() == pytest.approx([0.0, 0.0], abs=5 * 0.1 / DRAWS**0.5)
    assert drawn.std(0).tolist() == pytest.approx([0.1, 0.1], rel=5 / (2 * DRAWS) ** 0.5)
    assert (drawn[:, 0] * drawn[:, 1]).mean().item() == pytest.approx(0.0, abs=5 * 0.01 / DRAWS**0.5)
    # 4.55 % of a normal is beyond two deviations
    assert (drawn.abs() > 0.2).float().mean().item() == pytest.approx(0.0455, abs=0.003)


def test_independent_noise_is_fresh_at_every_step():
    make, action = noise(), torch.zeros(DRAWS, 1)
    first, second = make(action, 0.0), make(action, 0.0)
    assert (first * second).mean().item() * 1e6 == pytest.approx(0.0, abs=5 / DRAWS**0.5)


def test_actions_stay_in_their_bounds():
    noisy = noise(std=3.0)(torch.tensor([[0.9], [-0.9]]).expand(2, 1000), 0.0)
    assert noisy.max() == 1.0
    assert noisy.min() == -1.0
    assert noise(std=0.0)(torch.tensor([[0.3]]), 0.0).item() == pytest.approx(0.3)


@pytest.mark.parametrize("theta", [0.15, 0.5])
def test_correlated_noise_keeps_its_deviation_and_forgets_at_the_rate_theta(theta):
    make, action = noise(theta=theta), torch.zeros(DRAWS, 1)
    steps = torch.cat([make(action, 0.0) for _ in range(12)], dim=1).double() * 1e3  # n_t, each column one t
    assert steps.std(0).tolist() == pytest.approx([1.0] * 12, rel=5 / (2 * DRAWS) ** 0.5)
    for lag in (1, 2, 5):
        correlation = (steps[:, 3] * steps[:, 3 + lag]).mean().item()
        assert correlation == pytest.approx((1 - theta) ** lag, abs=5 * 1.5 / DRAWS**0.5)


def test_correlated_noise_begins_anew_where_an_episode_has_ended_and_goes_on_elsewhere():
    make, action = noise(theta=1e-6), torch.zeros(DRAWS, 1)
    before = make(action, 0.0)
    ended = np.arange(DRAWS) % 4 == 0
    make.reset(ended)
    after = make(action, 0.0)
    kept, fresh = (after - before)[~ended], after[ended]
    assert kept.abs().max() < 1e-3 * 0.01
    assert (fresh * before[ended]).mean().item() * 1e6 == pytest.approx(0.0, abs=5 / (DRAWS / 4) ** 0.5)
    assert fresh.std().item() * 1e3 == pytest.approx(1.0, rel=5 / (DRAWS / 2) ** 0.5)


def test_the_noise_of_another_number_of_environments_begins_anew():
    make = noise(theta=0.1)
    make.reset(np.array([True]))  # before any
    assert make(torch.zeros(3, 2), 0.0).shape == (3, 2)
    assert make(torch.zeros(5, 2), 0.0).shape == (5, 2)
    make.reset(np.array([True, False]))  # not of these environments
    assert make(torch.zeros(5, 2), 0.0).shape == (5, 2)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("constant", [0.2, 0.2, 0.2]), ("linear", [0.2, 0.175, 0.1]), ("cosine", [0.2, 0.1 + 0.05 + 0.025 * 2**0.5, 0.1])],
)
def test_the_deviation_follows_its_schedule_over_the_run(schedule, expected):
    make = noise(std=0.2, final_std=0.1, schedule=schedule)
    for progress, std in zip((0.0, 0.25, 1.0), expected, strict=True):
        assert make(torch.zeros(DRAWS, 1), progress).std().item() == pytest.approx(std, rel=5 / (2 * DRAWS) ** 0.5)


def test_a_deviation_of_zero_at_the_end_leaves_the_action_as_it_is():
    make, action = noise(std=0.5, final_std=0.0, schedule="linear"), torch.tensor([[0.25]])
    assert not torch.equal(make(action, 0.5), action)
    assert torch.equal(make(action, 1.0), action)
    same = noise(std=0.5, final_std=None, schedule="linear")  # None is the same at the end
    assert same(torch.zeros(DRAWS, 1), 1.0).clamp(-0.99, 0.99).std().item() == pytest.approx(0.47, abs=0.02)


@pytest.mark.parametrize(
    ("key", "settings"),
    [
        ("noise_std", {"std": -0.1}),
        ("noise_std", {"std": math.nan}),
        ("noise_final_std", {"final_std": -0.1}),
        ("noise_final_std", {"final_std": math.nan}),
        ("noise_theta", {"theta": 0.0}),
        ("noise_theta", {"theta": 1.1}),
        ("noise_theta", {"theta": math.nan}),
        ("noise_schedule", {"schedule": "exponential"}),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(key, settings):
    with pytest.raises(UsageError, match=f"^{key}=.* is not allowed: ") as caught:
        noise(**settings)
    assert "\n" not in str(caught.value)
