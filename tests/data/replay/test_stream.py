import numpy as np
import pytest
import torch
from toys import counter_data

from rl_lightning.data import ReplayStream
from rl_lightning.types import Step, Transition


class Numbered:
    """A collector of numbered transitions instead of those of environments; none of them random."""

    def __init__(self, data):
        self.data, self.closed, self.steps = data, False, 0
        self.goes_on, self.env_steps_per_row = False, data.num_envs

    def collect(self, num_steps):
        return [self.step() for _ in range(num_steps)]

    def collect_randomly(self, env_steps):
        return []

    def close(self):
        self.closed = True

    def step(self):
        ids = np.arange(self.data.num_envs) + self.steps * self.data.num_envs
        self.steps += 1
        self.data.clock.env_steps += self.data.num_envs
        none = np.zeros(self.data.num_envs, bool)
        action = np.zeros((self.data.num_envs, 2))
        return Step(self.obs(ids), action, self.reward(ids), self.obs(ids + 0.5), none, none)

    def obs(self, ids):
        return np.stack([ids, ids], axis=1).astype(float)

    def reward(self, ids):
        return ids.astype(float)


def replay(env_steps=0, collector=Numbered, **settings):
    """With a buffer as random steps leave it, after so many environment steps."""
    data = counter_data(**settings)
    data.setup("fit")
    data.attach(collector(data))
    data.clock.env_steps = env_steps
    return data


def all_of(data, gamma=0.5):
    """The minibatches of one training batch."""
    return list(ReplayStream(data).minibatches(gamma))


@pytest.mark.parametrize(
    ("num_envs", "train_freq", "replay_ratio", "updates"),
    [(1, 1, 1.0, 1), (4, 8, 1.0, 32), (2, 1, 0.5, 1), (1, 1, 20, 20), (10, 3, 0.1, 3), (10, 1, 0.7, 7)],
)
def test_a_batch_holds_the_updates_that_the_replay_ratio_owes_for_an_iteration(
    num_envs, train_freq, replay_ratio, updates
):
    data = replay(num_envs=num_envs, train_freq=train_freq, replay_ratio=replay_ratio)
    minibatches = list(next(iter(data.train_dataloader())).minibatches(0.5))
    assert len(minibatches) == updates
    assert {minibatch.reward.shape for minibatch in minibatches} == {(8,)}
    assert minibatches[0].obs.shape == minibatches[0].next_obs.shape == minibatches[0].action.shape == (8, 2)
    assert len(data.buffer) == num_envs * train_freq


def test_each_iteration_collects_then_samples_when_it_is_asked_for():
    data = replay(num_envs=2, train_freq=3, env_steps_per_batch=18, env_steps_per_epoch=36)
    events = []
    collect, sample = data.collector.collect, data.buffer.sample
    data.collector.collect = lambda num_steps: (events.append("collect"), collect(num_steps))[1]
    data.buffer.sample = lambda *args: (events.append("sample"), sample(*args))[1]
    loader = data.train_dataloader()
    assert len(loader) == 2
    streams = iter(loader)
    for rows in (0, 9):
        stream = next(streams)
        assert len(data.buffer) == rows * 2
        for number, _ in enumerate(stream.minibatches(0.5)):
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
    for _ in range(4):
        minibatches = all_of(data)
        (batch, _) = drawn.pop()
        assert len(minibatches) == 3
        for update, minibatch in enumerate(minibatches):
            for one, all_of_them in zip(minibatch, batch, strict=True):
                assert torch.equal(one, all_of_them[update])


class NumberedDict(Numbered):
    """The same, shown as DictCounterEnv shows what it counts."""

    def obs(self, ids):
        return {"inner": {"vector": super().obs(ids.astype(int))}, "t": ids.astype(int) % 8 + 3}


def test_rows_of_nested_dicts_stay_with_the_rest_of_their_minibatch():
    data = replay(collector=NumberedDict, env_id="toys:DictCounter-v0", replay_ratio=3, learning_starts=1)
    for _ in range(4):
        minibatches = all_of(data)
        assert len(minibatches) == 3
        for minibatch in minibatches:
            assert torch.equal(minibatch.obs["inner"]["vector"][:, 0], minibatch.reward)
            assert torch.equal(minibatch.next_obs["t"], minibatch.reward.long() % 8 + 3)
    assert len({tuple(minibatch.reward.tolist()) for minibatch in minibatches}) == 3


def test_rewards_are_discounted_by_the_gamma_that_the_learner_asks_with():
    data = replay(n_step=2, train_freq=4)
    assert {discount for batch in all_of(data, 0.5) for discount in batch.discount.tolist()} == {0.5, 0.25}
    found = torch.cat([batch.discount for batch in all_of(data, 0.9)])
    assert torch.isclose(found[:, None], torch.tensor([0.9, 0.81])).any(dim=1).all()


def test_beta_grows_linearly_from_priority_beta_to_one_over_the_run():
    data = replay(priority_alpha=0.5, priority_beta=0.4)
    given = []
    sample = data.buffer.sample
    data.buffer.sample = lambda *args: given.append(args[3]) or sample(*args)
    for env_steps, beta in ((0, 0.4), (60, 0.7), (120, 1.0)):
        data.clock.env_steps = env_steps - 1  # a step is taken before each sample
        all_of(data)
        assert given.pop() == pytest.approx(beta)
        assert data.beta == pytest.approx(beta)


def test_a_uniform_sample_has_no_beta_to_follow():
    data = replay(priority_alpha=0.0, priority_beta=0.4)
    given = []
    sample = data.buffer.sample
    data.buffer.sample = lambda *args: given.append(args[3]) or sample(*args)
    all_of(data)
    assert given == [1.0]


def test_a_stream_ends_with_the_run():
    data = replay(env_steps=120 - 4, num_envs=2, env_steps_per_batch=12, env_steps_per_epoch=24)
    assert len(all_of(data)) == 4  # two iterations of two environments; a whole batch has six
    assert all_of(data) == []
    assert data.clock.env_steps == 120


def test_what_was_learned_reaches_the_transitions_of_the_latest_minibatch():
    data = replay(priority_alpha=1.0, replay_ratio=4, train_freq=10, batch_size=5)
    stream = ReplayStream(data)
    expected = {}
    for update, minibatch in enumerate(stream.minibatches(0.5)):
        if update % 3 == 0:  # not all need be told
            td_error = minibatch.reward + 1 + 100 * update
            stream.prioritize(-td_error)
            expected.update({int(i): float(i) + 1 + 100 * update for i in minibatch.reward})
    powers = data.buffer.state_dict()["priorities"]["powers"].tolist()
    assert powers == pytest.approx([expected.get(number, 1.0) for number in range(10)], rel=1e-5)
    assert len(expected) > 3


def test_prioritized_replay_needs_td_errors_of_a_minibatch():
    stream = ReplayStream(replay(priority_alpha=1.0))
    with pytest.raises(AssertionError, match="no minibatch has been asked for"):
        stream.prioritize(torch.ones(8))
    next(stream.minibatches(0.5))
    with pytest.raises(AssertionError, match="needs the learner's TD errors"):
        stream.prioritize(None)


def test_a_uniform_stream_wants_no_td_errors():
    data = replay()
    stream = ReplayStream(data)
    minibatches = stream.minibatches(0.5)
    assert (next(minibatches).weight == 1.0).all()
    for td_error in (None, torch.full((8,), torch.nan)):
        stream.prioritize(td_error)
    assert "priorities" not in data.buffer.state_dict()


def test_minibatches_come_on_the_streams_device_and_seeds_of_episodes_stay():
    data = replay()
    stream = next(iter(data.train_dataloader()))
    assert data.transfer_batch_to_device(stream, torch.device("meta"), 0) is stream
    minibatch = next(stream.minibatches(0.5))
    assert isinstance(minibatch, Transition)
    assert {field.device.type for field in minibatch} == {"meta"}
    assert data.transfer_batch_to_device([3, 4], torch.device("meta"), 0) == [3, 4]


@pytest.mark.parametrize(("clip", "expected"), [(True, [0.0, 1.0, 1.0, -1.0]), (False, [0.0, 1.0, 2.0, -7.0])])
def test_stored_rewards_can_be_clipped(clip, expected):
    given = np.array([0.0, 1.0, 2.0, -7.0])

    class Rewarding(Numbered):
        def reward(self, ids):
            return given[ids]

    data = replay(collector=Rewarding, clip_rewards=clip, train_freq=4, replay_ratio=1)
    steps = []
    collect = data.collector.collect
    data.collector.collect = lambda num_steps: steps.extend(collect(num_steps)) or steps
    all_of(data)
    assert data.buffer.storage.reward[:4, 0].tolist() == expected
    assert [step.reward[0] for step in steps] == given.tolist()  # the collector reports them


def test_new_environments_begin_new_episodes():
    data = replay(n_step=3, train_freq=2)
    all_of(data)
    former = data.collector
    data.detach()
    assert former.closed
    data.attach(Numbered(data))
    data.collector.steps = 2
    all_of(data)
    assert data.buffer.storage.truncated[:4, 0].tolist() == [False, True, False, False]
    sample, index = data.buffer.sample(1, 200, 0.5)
    assert set(sample.reward[index == 0].tolist()) == {0.5}  # 0 + ½ · 1, and not ¼ · 2
