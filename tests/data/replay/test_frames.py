import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete
from gymnasium.wrappers import (
    FrameStackObservation,
    RecordEpisodeStatistics,
    TimeLimit,
    TransformObservation,
    TransformReward,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import CounterEnv

from rl_lightning import ReplayBuffer, UsageError
from rl_lightning.environments.make import CheckedEnv, frame_stack_of
from rl_lightning.types import map_obs

ACTION = Discrete(3)


class Film(gym.Env):
    """Every frame another; `lengths` of the episodes one after the other, terminated and truncated by turns."""

    def __init__(self, lengths, space, seed):
        self.observation_space, self.action_space = space, ACTION
        self.lengths, self.episode = lengths, -1
        space.seed(seed)

    def reset(self, *, seed=None, options=None):
        self.episode, self.t = self.episode + 1, 0
        return self.observation_space.sample(), {}

    def step(self, action):
        self.t += 1
        done = self.t == self.lengths[self.episode % len(self.lengths)]
        odd = self.episode % 2 == 1
        return self.observation_space.sample(), float(self.t), done and odd, done and not odd, {}


SPACES = {
    "image": Box(0, 255, (3, 2, 1), np.uint8),
    "vector": Box(-1.0, 1.0, (3,), np.float64),
    "dict": Dict({"image": Box(0, 255, (2, 2), np.uint8), "n": MultiDiscrete([5, 7])}),
}


def play(lengths, stack, space, steps, seed=0):
    """Time steps as a DataModule stores them, of one environment for each of `lengths`."""
    envs = [FrameStackObservation(Film(each, SPACES[space], seed + i), stack) for i, each in enumerate(lengths)]
    obs = [env.reset()[0] for env in envs]

    def stacked(parts):
        return map_obs(lambda *values: np.stack(values), *parts)

    for number in range(steps):
        next_obs, reward, terminated, truncated, _ = zip(*(env.step(0) for env in envs), strict=True)
        action = np.full(len(envs), number % 3)
        yield stacked(obs), action, np.array(reward), stacked(next_obs), np.array(terminated), np.array(truncated)
        ended = np.array(terminated) | np.array(truncated)
        obs = [env.reset()[0] if end else after for env, end, after in zip(envs, ended, next_obs, strict=True)]


def make(buffer_size, num_envs, space, stack, kept_once=True, seed=0, n_step=1, **settings):
    stacked = FrameStackObservation(Film([1], SPACES[space], 0), stack).observation_space
    return ReplayBuffer(buffer_size, num_envs, stacked, ACTION, seed, n_step, stack if kept_once else 1, **settings)


def assert_same_transitions(frames, full):
    """Whatever is drawn from `frames` is in `full` under the same number, bit by bit."""
    sample, index = frames.sample(2, 30, 0.9)
    slot = index % len(full._memory)
    reference = full._transitions(index)
    for got, kept in ((sample.obs, reference.obs), (sample.action, reference.action)):
        equal = []
        map_obs(lambda one, same, into=equal: into.append(torch.equal(one, same)), got, kept)
        assert all(equal)
        assert equal
    assert (slot >= 0).all()
    reward, discount, last = full._returns(index, 0.9)
    assert torch.equal(sample.reward, reward)
    assert torch.equal(sample.discount, discount)
    equal = []
    map_obs(lambda one, same: equal.append(torch.equal(one, same)), sample.next_obs, full._transitions(last).next_obs)
    assert all(equal)
    assert equal


LENGTHS = st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=5), min_size=1, max_size=3)


@given(
    lengths=LENGTHS,
    stack=st.integers(2, 5),
    rows=st.integers(1, 30),
    steps=st.integers(1, 70),
    n_step=st.integers(1, 3),
    space=st.sampled_from(list(SPACES)),
    alpha=st.sampled_from([0.0, 0.6]),
)
@settings(max_examples=60, deadline=None)
def test_samples_are_those_of_a_buffer_that_keeps_whole_stacks(lengths, stack, rows, steps, n_step, space, alpha):
    num_envs = len(lengths)
    settings_ = {"n_step": n_step, "priority_alpha": alpha}
    frames = make(rows * num_envs, num_envs, space, stack, **settings_)
    full = make(rows * num_envs, num_envs, space, stack, kept_once=False, n_step=n_step)
    for number, row in enumerate(play(lengths, stack, space, steps)):
        frames.add(*row)
        full.add(*row)
        assert 0 < len(frames) <= len(full)
        if number % 7 == 0 or number == steps - 1:
            assert_same_transitions(frames, full)


@given(lengths=LENGTHS, stack=st.integers(2, 4), rows=st.integers(1, 30), own_rows=st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_a_saved_ring_of_frames_continues_and_no_stack_runs_across(lengths, stack, rows, own_rows):
    num_envs = len(lengths)
    frames = make(rows * num_envs, num_envs, "image", stack)
    full = make(1000 * num_envs, num_envs, "image", stack, kept_once=False)
    for row in play(lengths, stack, "image", 33):
        frames.add(*row)
        full.add(*row)
    restored = make(own_rows * num_envs, num_envs, "image", stack)
    restored.load_state_dict(frames.state_dict())
    restored.end_episodes()
    full.end_episodes()
    assert len(restored) <= len(frames)
    if own_rows >= rows:
        assert len(restored) == len(frames)
    assert_same_transitions(restored, full)
    for row in play(lengths, stack, "image", 40, seed=50):  # new environments, in the middle of no episode
        restored.add(*row)
        full.add(*row)
        assert_same_transitions(restored, full)


def test_all_time_steps_can_be_sampled_while_episodes_are_long():
    frames = make(200, 2, "image", 4)
    for row in play([[30, 40], [25]], 4, "image", 350):
        frames.add(*row)
    assert len(frames) == 200


def test_where_short_episodes_take_too_many_frames_the_oldest_time_steps_are_let_go():
    frames = make(200, 2, "image", 4, priority_alpha=0.5)
    for row in play([[1], [50]], 4, "image", 450):
        frames.add(*row)
    # an episode of one step has two frames, of 200 + 10 + 5 places in all for 100 + 5 + 5
    assert len(frames) == 55 * 2
    drawn = frames.sample(1, 4000, 0.9)[1].unique()
    assert drawn.tolist() == list(range(900 - 110, 900))
    frames.update_priorities(torch.arange(700, 790), torch.full((90,), 1e6))  # let go, so ignored
    assert frames.sample(1, 4000, 0.9)[1].min() >= 790


def test_100_000_frames_take_little_more_than_their_bytes():
    for num_envs in (1, 8):
        stacked = Box(0, 255, (4, 84, 84), np.uint8)
        buffer = ReplayBuffer(100_000, num_envs, stacked, ACTION, frame_stack=4)
        assert 100_000 * 84 * 84 <= buffer.nbytes <= 1.1 * 100_000 * 84 * 84


def test_frames_can_live_in_a_file_beside_that_of_transitions(tmp_path):
    file = tmp_path / "replay"
    inside, outside = make(40, 1, "image", 3), make(40, 1, "image", 3, file=str(file))
    for row in play([[5, 9]], 3, "image", 60):
        inside.add(*row)
        outside.add(*row)
    for one, same in zip(inside.sample(2, 9, 0.9)[0], outside.sample(2, 9, 0.9)[0], strict=True):
        assert torch.equal(one, same)
    assert (tmp_path / "replay.frames").stat().st_size > 40 * 6
    with pytest.raises(UsageError, match=r"replay.frames' is not allowed: it exists already"):
        make(40, 1, "image", 3, file=str(file))


def test_frames_and_whole_stacks_are_not_mistaken_for_each_other():
    frames, full = make(40, 1, "image", 3), make(40, 1, "image", 3, kept_once=False)
    for row in play([[5, 9]], 3, "image", 10):
        frames.add(*row)
        full.add(*row)
    with pytest.raises(UsageError, match="holds obs of"):
        frames.load_state_dict(full.state_dict())
    with pytest.raises(UsageError, match="holds obs of"):
        full.load_state_dict(frames.state_dict())
    other = ReplayBuffer(40, 1, Box(0, 255, (3, 5, 2, 1), np.uint8), ACTION, frame_stack=3)
    with pytest.raises(UsageError, match=r"holds frames of shape \(3, 2, 1\) torch.uint8 .* \(5, 2, 1\)"):
        other.load_state_dict(frames.state_dict())


def test_how_many_frames_an_environment_stacks_is_read_from_its_wrappers():
    counter = CounterEnv()
    stacked = FrameStackObservation(counter, 4)
    assert frame_stack_of(counter) == 1
    assert frame_stack_of(stacked) == 4
    passed = CheckedEnv(TransformReward(RecordEpisodeStatistics(TimeLimit(stacked, 9)), abs), 0)
    assert frame_stack_of(passed) == 4
    assert frame_stack_of(FrameStackObservation(counter, 4, padding_type="zero")) == 1
    halved = TransformObservation(stacked, lambda obs: obs / 2, stacked.observation_space)
    assert frame_stack_of(halved) == 1  # for all we know, it mixes frames
