import math

import numpy as np
import pytest
import torch

from rl_lightning import UsageError
from rl_lightning.algorithms.dqn import epsilon_greedy
from rl_lightning.exploration import ActionNoise, EpsilonGreedy

DRAWS = 40_000


def noise(std=1e-3, final_std=None, schedule="constant", correlation=0.0) -> ActionNoise:
    return ActionNoise(std, final_std, schedule, correlation)


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


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.8, 0.8, 0.8, 0.8, 0.8]),
        ("linear", [0.8, 0.65, 0.5, 0.2, 0.2]),
        # 0.2 + 0.6 · ½ (1 + cos(π p))
        ("cosine", [0.8, 0.2 + 0.3 * (1 + math.sqrt(0.5)), 0.5, 0.2, 0.2]),
    ],
)
def test_epsilon_goes_from_its_start_to_its_end_within_its_share_of_the_run(schedule, expected):
    exploration = EpsilonGreedy(initial_eps=0.8, final_eps=0.2, fraction=0.4, schedule=schedule)
    epsilons = [exploration.epsilon(progress) for progress in (0.0, 0.1, 0.2, 0.4, 1.0)]
    assert epsilons == pytest.approx(expected, abs=1e-12)


def test_epsilon_may_be_zero_one_and_take_the_whole_run():
    exploration = EpsilonGreedy(initial_eps=1.0, final_eps=0.0, fraction=1.0)
    assert [exploration.epsilon(progress) for progress in (0.0, 0.75, 1.0)] == [1.0, 0.25, 0.0]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *((key, value) for key in ("initial_eps", "final_eps") for value in (-0.1, 1.1, math.nan)),
        *(("fraction", value) for value in (0.0, -0.1, 1.1, math.nan)),
        ("schedule", "exponential"),
    ],
)
def test_an_exploration_out_of_range_is_refused_by_name(key, value):
    with pytest.raises(UsageError, match=f"^exploration.{key}={value!r} is not allowed: ") as caught:
        EpsilonGreedy(**{key: value})
    assert "\n" not in str(caught.value)


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


@pytest.mark.parametrize("rho", [0.85, 0.5])
def test_correlated_noise_keeps_its_deviation_and_each_step_correlates_with_those_before(rho):
    make, action = noise(correlation=rho), torch.zeros(DRAWS, 1)
    steps = torch.cat([make(action, 0.0) for _ in range(12)], dim=1).double() * 1e3  # n_t, each column one t
    assert steps.std(0).tolist() == pytest.approx([1.0] * 12, rel=5 / (2 * DRAWS) ** 0.5)
    for lag in (1, 2, 5):
        correlation = (steps[:, 3] * steps[:, 3 + lag]).mean().item()
        assert correlation == pytest.approx(rho**lag, abs=5 * 1.5 / DRAWS**0.5)


def test_correlated_noise_by_hand():
    torch.manual_seed(1)
    fresh = [torch.randn(4, 2).double() for _ in range(3)]  # ε_t, [B, A]
    torch.manual_seed(1)
    make, action = noise(std=0.1, correlation=0.6), torch.full((4, 2), 0.25)
    expected = fresh[0]
    for step in range(3):
        if step > 0:
            expected = 0.6 * expected + 0.8 * fresh[step]  # √(1 − 0.6²) = 0.8
        torch.testing.assert_close(make(action, 0.0).double(), (0.25 + 0.1 * expected).clamp(-1, 1), rtol=0, atol=1e-6)


def test_correlated_noise_begins_anew_where_an_episode_has_ended_and_goes_on_elsewhere():
    make, action = noise(correlation=1 - 1e-6), torch.zeros(DRAWS, 1)
    before = make(action, 0.0)
    ended = np.arange(DRAWS) % 4 == 0
    make.reset(ended)
    after = make(action, 0.0)
    kept, fresh = (after - before)[~ended], after[ended]
    assert kept.abs().max() < 1e-3 * 0.01
    assert (fresh * before[ended]).mean().item() * 1e6 == pytest.approx(0.0, abs=5 / (DRAWS / 4) ** 0.5)
    assert fresh.std().item() * 1e3 == pytest.approx(1.0, rel=5 / (DRAWS / 2) ** 0.5)


def test_the_noise_of_another_number_of_environments_begins_anew():
    make = noise(correlation=0.9)
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
    make = noise(std=0.2, final_std=None if schedule == "constant" else 0.1, schedule=schedule)
    for progress, std in zip((0.0, 0.25, 1.0), expected, strict=True):
        assert make(torch.zeros(DRAWS, 1), progress).std().item() == pytest.approx(std, rel=5 / (2 * DRAWS) ** 0.5)


def test_a_deviation_of_zero_at_the_end_leaves_the_action_as_it_is():
    make, action = noise(std=0.5, final_std=0.0, schedule="linear"), torch.tensor([[0.25]])
    assert not torch.equal(make(action, 0.5), action)
    assert torch.equal(make(action, 1.0), action)
    same = noise(std=0.5, final_std=None, schedule="linear")  # None is the same at the end
    assert same(torch.zeros(DRAWS, 1), 1.0).clamp(-0.99, 0.99).std().item() == pytest.approx(0.47, abs=0.02)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("std", -0.1),
        ("std", math.nan),
        ("final_std", -0.1),
        ("final_std", math.nan),
        ("correlation", -0.1),
        ("correlation", 1.0),
        ("correlation", 1.1),
        ("correlation", math.nan),
        ("schedule", "exponential"),
    ],
)
def test_a_noise_out_of_range_is_refused_by_name(key, value):
    with pytest.raises(UsageError, match=f"^noise.{key}={value!r} is not allowed: ") as caught:
        noise(**{key: value})
    assert "\n" not in str(caught.value)


def test_a_final_deviation_that_a_constant_schedule_never_reaches_is_refused():
    with pytest.raises(UsageError, match=r"noise.final_std=0.0 is not allowed: a constant schedule never gets there"):
        noise(std=0.3, final_std=0.0)
    assert noise(std=0.3, final_std=0.3).final_std == 0.3
