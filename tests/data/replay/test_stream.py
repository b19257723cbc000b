from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from toys import counter_data

from rl_lightning.data.replay.stream import ReplayStream
from rl_lightning.types import Step, Transition


@dataclass
class Learner:
    gamma: float
    env_steps: int
    total_env_steps: int

    @property
    def progress(self):
        return min(1.0, self.env_steps / self.total_env_steps)


def replay(env_steps=0, gamma=0.5, **settings):
    """A DataModule that is given numbered transitions instead of those of environments."""
    data = counter_data(**settings)
    data.setup("fit")
    learner = Learner(gamma, env_steps, data.total_env_steps)
    data.trainer = SimpleNamespace(lightning_module=learner, world_size=1)
    none = np.zeros(data.num_envs, bool)

    def collect(enough):
        while not enough():
            ids = np.arange(data.num_envs) + data.buffer.steps * data.num_envs
            obs = np.stack([ids, ids], axis=1).astype(float)
            data.store(Step(obs, np.zeros((data.num_envs, 2)), ids.astype(float), obs + 0.5, none, none))
            learner.env_steps += data.num_envs

    data.collect = collect
    return data


@pytest.mark.parametrize(
    ("num_envs", "train_freq", "replay_ratio", "updates"),
    [(1, 1, 1.0, 1), (4, 8, 1.0, 32), (2, 1, 0.5, 1), (1, 1, 20, 20), (10, 3, 0.1, 3), (10, 1, 0.7, 7)],
)
def test_a_batch_holds_the_updates_that_the_replay_ratio_owes_for_an_iteration(
    num_envs, train_freq, replay_ratio, updates
):
    data = replay(num_envs=num_envs, train_freq=train_freq, replay_ratio=replay_ratio)
    minibatches = list(next(iter(data.train_dataloader())))
    assert len(minibatches) == updates
    assert {minibatch.reward.shape for minibatch in minibatches} == {(8,)}
    assert minibatches[0].obs.shape == minibatches[0].next_obs.shape == minibatches[0].action.shape == (8, 2)
    assert len(data.buffer) == num_envs * train_freq


def test_each_iteration_collects_then_samples_when_it_is_asked_for():
    data = replay(num_envs=2, train_freq=3, env_steps_per_batch=18, env_steps_per_epoch=36)
    events = []
    collect_fresh, sample = data.collect_fresh, data.buffer.sample
    data.collect_fresh = lambda: (events.append("collect"), collect_fresh())
    data.buffer.sample = lambda *args: (events.append("sample"), sample(*args))[1]
    loader = data.train_dataloader()
    assert len(loader) == 2
    streams = iter(loader)
    for rows in (0, 9):
        stream = next(streams)
        assert len(data.buffer) == rows * 2
        for number, _ in enumerate(stream):
            events.append(number)
            assert len(data.buffer) == (rows + 3 * (number // 6 + 1)) * 2
        assert events == [
            "collect", "sample", 0, 1, 2, 3, 4, 5, "collect", "sample", 6, 7, 8, 9, 10, 11,
            "collect", "sample", 12, 13, 14, 15, 16, 17,
        ]  # fmt: skip
        events.clear()
    assert next(streams, None) is None


def test_minibatches_follow_each_other_as_they_were_drawn():
    data = replay(replay_ratio=3, learning_starts=1)
    drawn = []
    sample = data.buffer.sample
    data.buffer.sample = lambda *args: drawn.append(sample(*args)) or drawn[-1]
    stream = ReplayStream(data)
    for _ in range(4):
        minibatches = list(stream)
        (batch, _) = drawn.pop()
        for update, minibatch in enumerate(minibatches):
            for one, all_of_them in zip(minibatch, batch, strict=True):
                assert torch.equal(one, all_of_them[update])


def test_rows_of_nested_dicts_stay_with_the_rest_of_their_minibatch():
    data = replay(env_id="toys:DictCounter-v0", replay_ratio=3, learning_starts=1)
    zeros, none = np.zeros((1, 2)), np.zeros(1, bool)

    def collect(enough):
        while not enough():
            t = np.array([data.buffer.steps])
            obs = {"inner": {"vector": np.stack([t, t], axis=1).astype(float)}, "t": t % 8 + 3}
            data.store(Step(obs, zeros, t.astype(float), obs, none, none))
            data.trainer.lightning_module.env_steps += 1

    data.collect = collect
    for _ in range(4):
        minibatches = list(ReplayStream(data))
        assert len(minibatches) == 3
        for minibatch in minibatches:
            assert torch.equal(minibatch.obs["inner"]["vector"][:, 0], minibatch.reward)
            assert torch.equal(minibatch.next_obs["t"], minibatch.reward.long() % 8 + 3)
    assert len({tuple(minibatch.reward.tolist()) for minibatch in minibatches}) == 3


def test_the_learners_gamma_is_read_each_time():
    data = replay(gamma=0.5, n_step=2, train_freq=4)
    stream = ReplayStream(data)
    assert set(next(iter(stream)).discount.tolist()) <= {0.5, 0.25}
    data.trainer.lightning_module.gamma = 0.9
    found = next(iter(stream)).discount
    expected = torch.tensor([0.9, 0.81])
    assert torch.isclose(found[:, None], expected).any(dim=1).all()


def test_beta_grows_linearly_from_priority_beta_to_one_over_the_run():
    data = replay(priority_alpha=0.5, priority_beta=0.4)
    given = []
    sample = data.buffer.sample
    data.buffer.sample = lambda *args: given.append(args[3]) or sample(*args)
    stream = ReplayStream(data)
    for env_steps, beta in ((0, 0.4), (60, 0.7), (120, 1.0)):
        data.trainer.lightning_module.env_steps = env_steps - 1  # a step is taken before each sample
        next(iter(stream))
        assert given.pop() == pytest.approx(beta)


def test_a_stream_ends_with_the_run():
    data = replay(num_envs=2, env_steps_per_batch=12, env_steps_per_epoch=24)
    data.trainer.lightning_module.env_steps = 120 - 4
    assert len(list(ReplayStream(data))) == 4  # two iterations of two environments; a whole batch has six
    assert list(ReplayStream(data)) == []


def test_what_was_learned_reaches_the_transitions_of_the_latest_minibatch():
    data = replay(priority_alpha=1.0, replay_ratio=4, train_freq=10, batch_size=5)
    stream = ReplayStream(data)
    assert stream.prioritized
    expected = {}
    for update, minibatch in enumerate(stream):
        if update % 3 == 0:  # not all need be told
            td_error = minibatch.reward + 1 + 100 * update
            stream.learned(-td_error)
            expected.update({int(i): float(i) + 1 + 100 * update for i in minibatch.reward})
    powers = data.buffer.state_dict()["priorities"]["powers"].tolist()
    assert powers == pytest.approx([expected.get(number, 1.0) for number in range(10)], rel=1e-5)
    assert len(expected) > 3


def test_a_uniform_stream_wants_no_td_errors():
    stream = ReplayStream(replay())
    assert not stream.prioritized
    assert (next(iter(stream)).weight == 1.0).all()


def test_minibatches_come_on_the_streams_device_and_seeds_of_episodes_stay():
    data = replay()
    stream = next(iter(data.train_dataloader()))
    assert data.transfer_batch_to_device(stream, torch.device("meta"), 0) is stream
    minibatch = next(iter(stream))
    assert isinstance(minibatch, Transition)
    assert {field.device.type for field in minibatch} == {"meta"}
    assert data.transfer_batch_to_device([3, 4], torch.device("meta"), 0) == [3, 4]


@pytest.mark.parametrize(("clip", "expected"), [(True, [0.0, 1.0, 1.0]), (False, [0.0, 1.0, 2.0])])
def test_stored_rewards_can_be_clipped(clip, expected):
    data = replay(clip_rewards=clip, train_freq=3, replay_ratio=1)
    next(iter(ReplayStream(data)))
    assert data.buffer.storage.reward[:3, 0].tolist() == expected
    reward = np.array([-7.0])
    zeros, none = np.zeros((1, 2)), np.zeros(1, bool)
    data.store(Step(zeros, zeros, reward, zeros, none, none))
    assert data.buffer.storage.reward[3, 0] == (-1.0 if clip else -7.0)
    assert reward == -7.0  # the caller reports it


def test_new_environments_begin_new_episodes():
    data = replay(n_step=3, train_freq=2)
    next(iter(ReplayStream(data)))
    data.train_envs().close()
    next(iter(ReplayStream(data)))
    assert data.buffer.storage.truncated[:4, 0].tolist() == [False, True, False, False]
    sample, index = data.buffer.sample(1, 200, 0.5)
    assert set(sample.reward[index == 0].tolist()) == {0.5}  # 0 + ½ · 1, and not ¼ · 2
