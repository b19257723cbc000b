import math
from functools import partial

import numpy as np
import pytest
import torch
from toys import counter_data

from rl_lightning import ReplayDataModule, UsageError
from rl_lightning.data.module import EpisodeLoader
from rl_lightning.types import Step


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_envs", 0),
        ("total_env_steps", 0),
        ("learning_starts", 0),
        ("learning_starts", 120),
        ("train_freq", 0),
        ("batch_size", 0),
        ("buffer_size", 7),
        ("eval_episodes", 0),
        ("test_episodes", 0),
        ("replay_ratio", 0.0),
        ("replay_ratio", -1.0),
        ("replay_ratio", 0.5),
        ("replay_ratio", 1.5),
        ("replay_ratio", math.nan),
        ("replay_ratio", math.inf),
        ("env_steps_per_epoch", 0),
        ("env_steps_per_epoch", -5),
        ("vectorization", "threads"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(key, value):
    with pytest.raises(UsageError, match=f"^{key}={value!r} is not allowed: ") as caught:
        counter_data(**{key: value})
    assert "\n" not in str(caught.value)


def test_learning_starts_must_reach_every_environment():
    with pytest.raises(UsageError, match=r"learning_starts=12 .*num_envs=13"):
        counter_data(num_envs=13)


def test_an_epoch_must_hold_an_iteration():
    with pytest.raises(UsageError, match=r"env_steps_per_epoch=5 .*environment steps of one batch, 6"):
        counter_data(num_envs=3, train_freq=2, env_steps_per_epoch=5)


def collect_zeros(data, enough):
    """What EnvironmentInteraction does, without environments."""
    zeros, none = np.zeros((data.num_envs, 2)), np.zeros(data.num_envs, bool)
    while not enough():
        data.store(Step(zeros, zeros, np.zeros(data.num_envs), zeros, none, none))


@pytest.mark.parametrize(
    ("num_envs", "train_freq", "replay_ratio", "updates"),
    [(1, 1, 1.0, 1), (4, 8, 1.0, 32), (2, 1, 0.5, 1), (1, 1, 20, 20), (10, 3, 0.1, 3), (10, 1, 0.7, 7)],
)
def test_a_batch_holds_the_updates_that_the_replay_ratio_owes_for_an_iteration(
    num_envs, train_freq, replay_ratio, updates
):
    data = counter_data(num_envs=num_envs, train_freq=train_freq, replay_ratio=replay_ratio)
    data.setup("fit")
    data.collect = partial(collect_zeros, data)
    batch = next(iter(data.train_dataloader()))
    assert batch.reward.shape == (updates, 8)
    assert len(data.buffer) == num_envs * train_freq


def test_an_epochs_batches_are_its_environment_steps_over_those_of_an_iteration():
    data = counter_data(num_envs=2, train_freq=3, env_steps_per_epoch=30)
    data.setup("fit")
    assert len(data.train_dataloader()) == 5


def test_an_epoch_is_a_twentieth_of_the_run_unless_that_is_less_than_an_iteration():
    data = counter_data(total_env_steps=400, num_envs=2)
    data.setup("fit")
    assert len(data.train_dataloader()) == 10
    small = counter_data(total_env_steps=40, num_envs=4)
    small.setup("fit")
    assert len(small.train_dataloader()) == 1


def test_each_batch_is_drawn_when_it_is_asked_for():
    data = counter_data(num_envs=2, train_freq=3, env_steps_per_epoch=18)
    data.setup("fit")
    data.collect = partial(collect_zeros, data)
    loader = data.train_dataloader()
    batches = iter(loader)
    assert len(data.buffer) == 0
    generator = data.buffer.generator.get_state()
    next(batches)
    assert len(data.buffer) == 6
    assert not torch.equal(data.buffer.generator.get_state(), generator)
    assert len(list(batches)) == 2
    assert len(data.buffer) == 18
    assert len(loader) == 3


def test_episodes_come_in_batches_that_cover_every_seed_once():
    loader = EpisodeLoader(range(100, 123), 10)
    batches = list(loader)
    assert [len(batch) for batch in batches] == [10, 10, 3]
    assert len(loader) == 3
    assert [seed for batch in batches for seed in batch] == list(range(100, 123))


def test_evaluation_test_and_prediction_have_seeds_apart():
    data = counter_data(eval_episodes=7, test_episodes=25)
    loaders = data.val_dataloader(), data.test_dataloader(), data.predict_dataloader()
    seeds = [[seed for batch in loader for seed in batch] for loader in loaders]
    assert [len(part) for part in seeds] == [7, 25, 7]
    assert len(set().union(*seeds)) == 39


def test_spaces_are_those_that_learners_see():
    data = counter_data()
    assert data.observation_space.shape == (2,)
    assert (data.action_space.low == -1).all()
    assert (data.action_space.high == 1).all()


def test_the_buffer_is_made_once_with_a_seed_of_the_run():
    data = counter_data()
    torch.manual_seed(11)
    data.setup("validate")
    with pytest.raises(AssertionError, match="setup"):
        _ = data.buffer
    data.setup("fit")
    buffer = data.buffer
    data.setup("fit")
    assert data.buffer is buffer
    assert buffer.generator.initial_seed() == 11


def test_the_buffer_can_be_left_out_of_checkpoints():
    for save_buffer in (True, False):
        data = counter_data(save_buffer=save_buffer)
        data.setup("fit")
        assert ("buffer" in data.state_dict()) is save_buffer


def test_an_unknown_environment_is_refused_when_the_datamodule_is_made():
    with pytest.raises(UsageError, match=r"env_id='Pendulumm-v1' .*did you mean Pendulum-v1"):
        ReplayDataModule("Pendulumm-v1")
