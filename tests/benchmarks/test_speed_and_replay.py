from functools import partial

import gymnasium as gym
import numpy as np
import pytest

pytest.importorskip("stable_baselines3")

from benchmarks.halfcheetah import window_rates
from benchmarks.replay import BLOCK, fill, prioritized_microseconds, raw_bytes
from benchmarks.speed import Pair, report
from rl_lightning import MLP, TD3, ReplayBuffer, make_env


def test_window_rates_count_steps_per_second_between_the_windows_ends():
    times = [0.0, 0.5, 1.0, 3.0, 5.0]  # 2 steps in 1 s, then 2 steps in 4 s
    assert window_rates(times, 2) == [2.0, 0.5]
    assert window_rates(times, 1) == [0.8]


def test_window_rates_refuse_unequal_windows():
    with pytest.raises(ValueError, match="4 steps do not divide into 3 windows"):
        window_rates([0.0, 1.0, 2.0, 3.0, 4.0], 3)


def test_speed_report_gives_each_pair_and_the_median_ratio():
    pairs = [Pair(110.0, 100.0, [100.0, 120.0]), Pair(130.0, 100.0, [130.0, 130.0]), Pair(90.0, 100.0, [90.0, 81.0])]
    text = report({(2, "32-true"): pairs}, steps=2000, warmup=300, train_freq=1)
    assert "| 2 | 32-true | 110 [90, 130] | 100 [100, 100] | 1.1 [0.9, 1.3] |" in text
    assert "| 2 | 32-true | 2 | 130 | 100 | 1.30 |" in text
    assert "| 2 | 32-true | 3 | 90 81 | 0.90 |" in text


def test_raw_bytes_of_a_halfcheetah_transition_are_165():
    obs, action = gym.spaces.Box(-np.inf, np.inf, (17,), np.float64), gym.spaces.Box(-1, 1, (6,), np.float32)
    assert raw_bytes(1, obs, action) == 4 * (17 + 6 + 1 + 17) + 1 == 165


def test_prioritized_replay_is_timed_in_turn_with_uniform_and_gets_priorities_back(monkeypatch):
    monkeypatch.setattr("benchmarks.replay.BATCH_SIZE", 8)
    monkeypatch.setattr("benchmarks.replay.compiled_or_eager", lambda gradients: gradients)
    env = make_env("Pendulum-v1")
    spaces = env.observation_space, env.action_space
    for space in spaces:
        space.seed(0)  # what `fill` stores
    uniform, prioritized = (ReplayBuffer(32, 1, *spaces, priority_alpha=alpha) for alpha in (0.0, 0.6))
    for buffer in (uniform, prioritized):
        assert fill(buffer, 32, env) > 0
    td3 = TD3(*spaces, network=partial(MLP, hidden_sizes=(4,)), compile=False)
    times = prioritized_microseconds(uniform, prioritized, 2, td3)
    assert {name: len(taken) for name, taken in times.items()} == {
        "uniform": BLOCK,
        "prioritized": BLOCK,
        "td3_gradients": 2 * BLOCK,
    }
    assert len(np.unique(prioritized.state_dict()["priorities"]["powers"].numpy())) > 1
