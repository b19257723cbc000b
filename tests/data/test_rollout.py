from functools import partial
from typing import NamedTuple

import numpy as np
import pytest
import torch
from gymnasium.spaces import Discrete
from lightning.pytorch.loggers import CSVLogger
from linear import sgd
from toys import TINY, CounterEnv, GradientSteps, fit, make_trainer

from rl_lightning import A2C, Algorithm, PolicyAndValue, RolloutDataModule, UsageError
from rl_lightning.algorithms.base import Gradients, grad
from rl_lightning.data.rollout import RolloutLoader, shuffled
from rl_lightning.types import flat_in_time, map_obs

counter_rollouts = partial(RolloutDataModule, "toys:Counter-v0", total_env_steps=120, rollout_steps=5)
counter_episodes = partial(RolloutDataModule, "toys:Counter-v0", total_env_steps=120, rollout_steps=None)


class Watching(Algorithm):
    """Makes what it did likelier, rollout after rollout, and keeps what it was given."""

    learns_from = RolloutDataModule

    def __init__(self, observation_space, action_space):
        super().__init__(observation_space, action_space, compile=False)
        # numbers of episodes are large; a normalizer that is never updated clips them
        normalize = not isinstance(observation_space, Discrete)
        self.networks = PolicyAndValue(observation_space, action_space, TINY, normalize_observations=normalize)
        self.learned("policy", self.networks.policy, sgd(1e-3))
        self.seen, self.streams, self.env_steps_after_stream = [], [], []

    def act(self, obs, deterministic=False):
        self.seen.append(map_obs(torch.clone, obs))
        return self.networks.act(obs, deterministic)

    def learn(self, batch):
        self.streams.append([])
        for rollout in batch:
            self.streams[-1].append(rollout)
            found = self.compute_gradients(rollout)
            self.step("policy", found)
            self.end_gradient_step(found)
        self.env_steps_after_stream.append(self.env_steps)

    def gradients(self, batch):
        pi = self.networks.distribution(flat_in_time(batch.obs))
        loss = -pi.log_prob(flat_in_time(batch.action)).mean()
        return Gradients({"policy": grad(loss, self.networks.policy)}, {"train/loss": loss})

    @property
    def rollouts(self):
        return [rollout for stream in self.streams for rollout in stream]


def train(data, trainer=None):
    model = Watching(data.observation_space, data.action_space)
    fit(model, data, trainer)
    return model


def in_a_row(model, field):
    """A field of all rollouts, one after the other: [all steps, N, ...]."""
    return map_obs(lambda *parts: torch.cat(parts), *(getattr(rollout, field) for rollout in model.rollouts))


def test_rollouts_in_a_row_are_every_real_step_of_each_environment_and_nothing_else():
    model = train(counter_rollouts(num_envs=3))
    envs = CounterEnv.stepped()
    assert len(envs) == 3
    assert len(model.rollouts) == 8
    assert sum(rollout.reward.numel() for rollout in model.rollouts) == sum(len(env.log) for env in envs) == 120
    for env in envs:  # reset at each end, and nowhere else
        ends = sum(step.terminated or step.truncated for step in env.log)
        assert len(env.seeds) == 1 + ends > 5
    for name in ("obs", "next_obs", "reward", "terminated", "truncated"):
        actual = in_a_row(model, name).numpy()
        for column, env in enumerate(envs):
            np.testing.assert_array_equal(actual[:, column], np.stack([getattr(step, name) for step in env.log]), name)


@pytest.mark.parametrize(("num_envs", "rollout_steps"), [(1, 5), (4, 5), (2, 1), (3, 8)])
def test_a_rollout_is_steps_by_environments_in_the_dtypes_of_learners(num_envs, rollout_steps):
    data = counter_rollouts(num_envs=num_envs, rollout_steps=rollout_steps)
    model = train(data)
    for rollout in model.rollouts:
        lead = (rollout_steps, num_envs)
        assert rollout.obs.shape == rollout.next_obs.shape == rollout.action.shape == (*lead, 2)
        assert rollout.reward.shape == rollout.terminated.shape == rollout.truncated.shape == lead
        assert {rollout.obs.dtype, rollout.next_obs.dtype, rollout.action.dtype, rollout.reward.dtype} == {
            torch.float32
        }
        assert {rollout.terminated.dtype, rollout.truncated.dtype} == {torch.bool}
        assert not any(field.requires_grad for field in rollout)


@pytest.mark.parametrize("num_envs", [1, 4])
@pytest.mark.parametrize("reuse_array", [False, True])
def test_every_next_observation_is_of_the_same_episode_one_step_later(num_envs, reuse_array):
    model = train(counter_rollouts(num_envs=num_envs, env_kwargs={"reuse_array": reuse_array}))
    obs, next_obs = in_a_row(model, "obs"), in_a_row(model, "next_obs")
    assert torch.equal(next_obs[..., 0], obs[..., 0])
    assert torch.equal(next_obs[..., 1], obs[..., 1] + 1)
    # an aliased array would repeat one row
    assert len(obs.flatten(0, 1).unique(dim=0)) == 120


def test_each_rollout_begins_where_the_last_one_stopped():
    model = train(counter_rollouts(num_envs=2, rollout_steps=3))
    inside_an_episode = 0
    for before, after in zip(model.rollouts[:-1], model.rollouts[1:], strict=True):
        for column in range(2):
            episode, t = before.next_obs[-1, column].tolist()
            done = before.terminated[-1, column] | before.truncated[-1, column]
            assert after.obs[0, column].tolist() == ([episode + 1, 0] if done else [episode, t])
            inside_an_episode += int(not done)
    assert inside_an_episode > 10


def test_ends_are_terminated_truncated_or_both_as_the_environment_said():
    model = train(counter_rollouts(num_envs=3, total_env_steps=300))
    episode, t = in_a_row(model, "next_obs").unbind(-1)
    done = t == 2 + episode % 5
    terminated, truncated = in_a_row(model, "terminated"), in_a_row(model, "truncated")
    assert torch.equal(terminated, done & (episode % 3 != 1))
    assert torch.equal(truncated, done & (episode % 3 != 0))
    for kind in (terminated & truncated, terminated & ~truncated, truncated & ~terminated):
        assert kind.any()


def test_the_actor_sees_the_reset_observation_and_the_rollout_the_final_one():
    model = train(counter_rollouts(num_envs=3))
    seen = torch.stack(model.seen)
    assert torch.equal(seen, in_a_row(model, "obs"))
    episode, t = seen.unbind(-1)
    assert (t < 2 + episode % 5).all(), "the actor was asked to act at an episode's end"
    final = in_a_row(model, "next_obs")[in_a_row(model, "terminated") | in_a_row(model, "truncated")]
    assert torch.equal(final[:, 1], 2 + final[:, 0] % 5)


def test_the_rollout_holds_the_policys_own_action_and_the_environment_gets_it_clipped_and_rescaled():
    model = train(counter_rollouts(num_envs=2))
    stored = in_a_row(model, "action").numpy()
    assert (np.abs(stored) > 1.0).any()
    for column, env in enumerate(CounterEnv.stepped()):
        expected = np.array([-1.0, 0.0]) + (np.clip(stored[:, column], -1, 1) + 1) / 2 * np.array([4.0, 10.0])
        np.testing.assert_allclose(np.stack([step.action for step in env.log]), expected, atol=1e-5)


@pytest.mark.parametrize("reuse_array", [False, True])
def test_dict_observations_keep_their_structure_and_stay_in_episode(reuse_array):
    data = RolloutDataModule(
        "toys:DictCounter-v0", {"reuse_array": reuse_array}, num_envs=3, rollout_steps=5, total_env_steps=120
    )
    model = train(data)
    obs, next_obs = in_a_row(model, "obs"), in_a_row(model, "next_obs")
    assert obs["inner"]["vector"].shape == (40, 3, 2)
    assert obs["t"].shape == (40, 3)
    assert (obs["inner"]["vector"].dtype, obs["t"].dtype) == (torch.float32, torch.int64)
    for one in (obs, next_obs):
        assert torch.equal(one["inner"]["vector"][..., 1].long() + 3, one["t"])
    assert torch.equal(next_obs["inner"]["vector"], obs["inner"]["vector"] + torch.tensor([0.0, 1.0]))
    for column, env in enumerate(CounterEnv.stepped()):
        expected = np.stack([step.obs for step in env.log])
        np.testing.assert_array_equal(obs["inner"]["vector"][:, column].numpy(), expected)
        assert {seen["t"].dtype for seen in model.seen} == {torch.int64}


def test_discrete_observations_and_actions_are_integers_and_actions_count_from_zero():
    data = RolloutDataModule("toys:DiscreteCounter-v0", num_envs=3, rollout_steps=5, total_env_steps=120)
    assert data.action_space == Discrete(3)
    model = train(data)
    obs, next_obs, action = (in_a_row(model, name) for name in ("obs", "next_obs", "action"))
    assert obs.shape == next_obs.shape == action.shape == (40, 3)
    assert {obs.dtype, next_obs.dtype, action.dtype} == {torch.int64}
    assert torch.equal(next_obs, obs + 1)
    assert action.unique().tolist() == [0, 1, 2]
    for column, env in enumerate(CounterEnv.stepped()):
        assert action[:, column].tolist() == [int(step.action) - 2 for step in env.log]
        assert obs[:, column].tolist() == [5 + int(step.obs[0]) % 100 * 10 + int(step.obs[1]) for step in env.log]


def test_a_vector_of_processes_gives_the_same_rollouts():
    runs = []
    for vectorization in ("sync", "async"):
        torch.manual_seed(3)
        model = train(
            RolloutDataModule(
                "toys:DictCounter-v0", num_envs=2, vectorization=vectorization, rollout_steps=5, total_env_steps=40
            )
        )
        obs = in_a_row(model, "obs"), in_a_row(model, "next_obs")
        vectors = [part for one in obs for part in (one["inner"]["vector"], one["t"])]
        runs.append([*vectors, *(in_a_row(model, name) for name in ("action", "reward", "terminated", "truncated"))])
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))


def test_rollouts_of_gymnasiums_own_vector_never_cross_episodes():
    model = train(RolloutDataModule("CartPole-v1", num_envs=6, rollout_steps=40, total_env_steps=960))
    obs, next_obs = in_a_row(model, "obs"), in_a_row(model, "next_obs")
    done = in_a_row(model, "terminated") | in_a_row(model, "truncated")
    assert done.sum() > 10
    assert torch.equal(obs[1:][~done[:-1]], next_obs[:-1][~done[:-1]])
    assert (obs[1:][done[:-1]].abs() <= 0.05).all()
    # one step of 0.02 s: the angle moves by 0.02 times its velocity, at an episode's end too
    torch.testing.assert_close(next_obs[..., 2], obs[..., 2] + 0.02 * obs[..., 3], rtol=1e-4, atol=1e-6)
    assert (in_a_row(model, "reward") == 1).all()


# Whole episodes


def test_without_rollout_steps_each_rollout_is_one_whole_episode():
    model = train(counter_episodes())
    assert len(model.rollouts) > 20
    episodes = []
    for rollout in model.rollouts:
        episode, t = rollout.obs[:, 0].unbind(-1)
        length = 2 + int(episode[0]) % 5
        assert rollout.reward.shape == (length, 1)
        assert t.tolist() == list(range(length))
        assert (episode == episode[0]).all()
        done = (rollout.terminated | rollout.truncated)[:, 0]
        assert done.tolist() == [False] * (length - 1) + [True]
        episodes.append(int(episode[0]))
    assert episodes == list(range(episodes[0], episodes[0] + len(episodes)))
    assert sum(len(rollout.reward) for rollout in model.rollouts) == len(CounterEnv.stepped()[0].log)


def test_what_an_interrupted_run_has_left_is_not_in_the_next_episode():
    data = counter_episodes()
    model = Watching(data.observation_space, data.action_space)
    act = model.act

    def failing(obs, deterministic=False):
        if len(model.seen) > 40 and obs[0, 1] == 1:  # in the middle of an episode
            raise ConnectionError
        return act(obs, deterministic)

    model.act = failing
    with pytest.raises(ConnectionError):
        fit(model, data)
    again = train(data)
    assert again.rollouts[0].obs[0, 0, 1] == 0
    assert len(again.rollouts[0].obs) == 2 + int(again.rollouts[0].obs[0, 0, 0]) % 5


# Streams


@pytest.mark.parametrize(("num_envs", "rollouts"), [(1, 1), (1, 4), (3, 2)])
def test_a_stream_has_the_rollouts_of_env_steps_per_batch(num_envs, rollouts):
    per_batch = 5 * num_envs * rollouts
    model = train(counter_rollouts(num_envs=num_envs, env_steps_per_batch=per_batch, total_env_steps=4 * per_batch))
    assert [len(stream) for stream in model.streams] == [rollouts] * 4
    assert model.env_steps_after_stream == [per_batch * i for i in (1, 2, 3, 4)]


def test_a_batch_is_one_rollout_unless_told_otherwise_and_1000_steps_of_whole_episodes():
    assert counter_rollouts(num_envs=3).env_steps_per_batch == 15
    assert counter_episodes(total_env_steps=50_000).env_steps_per_batch == 1000
    assert counter_episodes(total_env_steps=120).env_steps_per_batch == 120


@pytest.mark.parametrize("per_batch", [1, 2, 7, 30])
def test_what_an_episode_takes_more_than_its_stream_the_next_takes_less(per_batch):
    total = 120
    model = train(counter_episodes(total_env_steps=total, env_steps_per_batch=per_batch, env_steps_per_epoch=10_000))
    lengths = [len(rollout.reward) for rollout in model.rollouts]
    first = int(model.rollouts[0].obs[0, 0, 0])
    assert lengths == [2 + (first + i) % 5 for i in range(len(lengths))]
    ends = np.cumsum(lengths)
    batches = len(model.streams)
    # the stream of batch k ends with the first episode that ends at or after k batches' steps
    expected = [int(ends[np.searchsorted(ends, per_batch * k)]) for k in range(1, batches + 1)]
    assert model.env_steps_after_stream == expected
    assert expected[-1] >= total > (expected[-2] if batches > 1 else 0)
    assert sum(after > per_batch * k for k, after in enumerate(expected, 1)) > 0


def test_each_rollout_is_of_the_policy_that_the_rollouts_before_it_have_improved():
    data = counter_rollouts(num_envs=1, env_steps_per_batch=20, total_env_steps=40)
    model = Watching(data.observation_space, data.action_space)
    log, act, gradients = [], model.act, model.gradients
    model.act = lambda *args, **kwargs: (log.append("act"), act(*args, **kwargs))[1]
    model.gradients = lambda batch: (log.append("learn"), gradients(batch))[1]
    fit(model, data)
    assert log == (["act"] * 5 + ["learn"]) * 8


def test_a_gradient_step_follows_each_rollout_and_none_is_learned_from_twice():
    counter = GradientSteps()
    model = train(counter_rollouts(num_envs=2, env_steps_per_batch=30), make_trainer([counter]))
    assert counter.count == len(model.rollouts) == 12
    first_steps = {(*rollout.obs[0, 0].tolist(),) for rollout in model.rollouts}
    assert len(first_steps) == 12


def test_env_steps_count_every_environment_and_no_resets():
    for num_envs, total in ((1, 120), (3, 120), (4, 100)):
        CounterEnv.made.clear()
        data = counter_rollouts(num_envs=num_envs, total_env_steps=total)
        model = train(data)
        assert data.clock.env_steps == model.env_steps == sum(len(env.log) for env in CounterEnv.stepped()) == total


def test_a_run_that_batches_do_not_divide_ends_with_the_batch_that_reaches_its_length():
    model = train(counter_rollouts(num_envs=3, env_steps_per_batch=30, total_env_steps=100))
    assert model.env_steps == 120
    assert len(model.rollouts) == 8


@pytest.mark.parametrize(("env_steps_per_epoch", "ends"), [(30, [30, 60, 90, 120]), (59, [30, 60, 90, 120])])
def test_an_epoch_is_the_whole_batches_in_env_steps_per_epoch(env_steps_per_epoch, ends):
    data = counter_rollouts(num_envs=3, env_steps_per_batch=30, env_steps_per_epoch=env_steps_per_epoch)
    model, at = Watching(data.observation_space, data.action_space), []
    model.on_train_epoch_end = lambda: at.append(model.env_steps)
    fit(model, data)
    assert at == ends


def test_nothing_is_gathered_before_it_is_asked_for():
    data = counter_rollouts(env_steps_per_batch=10, env_steps_per_epoch=30)  # with nobody to gather from
    loader = data.train_dataloader()
    assert isinstance(loader, RolloutLoader)
    assert len(loader) == 3
    stream = next(iter(loader))
    with pytest.raises(RuntimeError, match="no Collector is attached"):
        next(iter(stream))


def test_the_logged_return_is_that_of_the_episodes_that_rollouts_cut(tmp_path):
    logger = CSVLogger(tmp_path)
    data = counter_rollouts(num_envs=2, rollout_steps=3, total_env_steps=60)
    model = train(data, make_trainer(logger=logger, log_every_n_steps=10))
    finished = [
        int(step.next_obs[1])  # a CounterEnv episode of length T returns 1 + 2 + ... + T
        for env in CounterEnv.stepped()
        for step in env.log
        if step.terminated or step.truncated
    ]
    rows = np.genfromtxt(f"{logger.log_dir}/metrics.csv", delimiter=",", names=True)
    assert float(rows["env_steps"]) == model.env_steps == 60
    assert float(rows["trainreturn"]) == pytest.approx(np.mean([t * (t + 1) / 2 for t in finished]))
    assert float(rows["trainepisode_length"]) == pytest.approx(np.mean(finished))


# Minibatches


class Some(NamedTuple):
    obs: dict
    action: torch.Tensor
    returns: torch.Tensor


@pytest.mark.parametrize(("batch_size", "sizes"), [(None, [10]), (5, [5, 5]), (4, [4, 4, 2]), (30, [10])])
def test_shuffled_minibatches_are_all_time_steps_once_in_each_pass_with_their_fields_together(batch_size, sizes):
    number = torch.arange(10)
    samples = Some({"inner": {"a": number.float()}, "b": torch.stack([number, -number], -1)}, 10 * number, -number)
    minibatches = list(shuffled(samples, 3, batch_size))
    assert [len(batch.returns) for batch in minibatches] == 3 * sizes
    for batch in minibatches:
        got = -batch.returns
        assert torch.equal(batch.obs["inner"]["a"], got.float())
        assert torch.equal(batch.obs["b"], torch.stack([got, -got], -1))
        assert torch.equal(batch.action, 10 * got)
    passes = torch.cat([-batch.returns for batch in minibatches]).view(3, 10)
    assert torch.equal(passes.sort(dim=1).values, number.expand(3, -1))
    assert len(passes.unique(dim=0)) == 3  # each in an order of its own


# Seeds


@pytest.mark.parametrize("make_data", [partial(counter_rollouts, num_envs=3), counter_episodes])
def test_two_runs_with_one_seed_are_bit_equal_and_another_seed_differs(make_data):
    runs = []
    for seed in (7, 7, 8):
        torch.manual_seed(seed)
        model = train(make_data())
        runs.append([*(in_a_row(model, name) for name in ("obs", "action")), *model.state_dict().values()])
    assert all(torch.equal(one, other) for one, other in zip(runs[0], runs[1], strict=True))
    for field in (0, 1):
        length = min(len(runs[0][field]), len(runs[2][field]))
        assert not torch.equal(runs[0][field][:length], runs[2][field][:length])


def test_environments_of_a_vector_begin_apart():
    model = train(counter_rollouts(num_envs=4))
    assert len({episode.item() for episode in model.rollouts[0].obs[0, :, 0]}) == 4
    assert all(set(env.seeds[1:]) == {None} for env in CounterEnv.stepped())


def test_evaluation_in_a_run_does_not_disturb_rollouts():
    runs = []
    for validate in (False, True):
        CounterEnv.made.clear()
        torch.manual_seed(5)
        data = counter_rollouts(num_envs=2, env_steps_per_epoch=20, total_env_steps=80, eval_episodes=3)
        model = train(data, make_trainer(validate=validate))
        assert ("val/return_mean" in model.trainer.callback_metrics) is validate
        runs.append([in_a_row(model, "obs"), in_a_row(model, "action"), *model.state_dict().values()])
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))


def test_a_learner_with_scaled_rewards_can_be_fit_again_on_another_number_of_environments():
    data = counter_rollouts(env_kwargs={"length": 7}, num_envs=2, total_env_steps=40)  # 20 steps end inside an episode
    model = A2C(data.observation_space, data.action_space, network=TINY, compile=False, normalize_returns=True)
    fit(model, data)
    carried = model.networks.return_normalizer.carried
    assert carried.shape == (2,)
    assert carried.any()
    fit(model, counter_rollouts(num_envs=3, total_env_steps=60))
    assert model.networks.return_normalizer.carried.shape == (3,)
    assert model.networks.return_normalizer.moments.count.item() == 40 + 60


# Refusals


@pytest.mark.parametrize(
    ("settings", "key", "fix"),
    [
        ({"num_envs": 0}, "num_envs=0", "give 1 or more"),
        ({"rollout_steps": 0}, "rollout_steps=0", "1 or more, or null for whole episodes"),
        ({"rollout_steps": -3}, "rollout_steps=-3", "1 or more"),
        ({"rollout_steps": None, "num_envs": 2}, "num_envs=2", "whole episodes come one after the other; give 1"),
        ({"env_steps_per_batch": 0}, "env_steps_per_batch=0", "multiple of rollout_steps x num_envs = 5"),
        ({"env_steps_per_batch": -5}, "env_steps_per_batch=-5", "multiple"),
        ({"env_steps_per_batch": 12}, "env_steps_per_batch=12", "multiple of rollout_steps x num_envs = 5"),
        ({"env_steps_per_batch": 5, "num_envs": 2}, "env_steps_per_batch=5", "rollout_steps x num_envs = 10"),
        ({"env_steps_per_batch": 0, "rollout_steps": None}, "env_steps_per_batch=0", "give"),
        ({"env_steps_per_epoch": 4}, "env_steps_per_epoch=4", "one batch, 5"),
        ({"env_steps_per_epoch": 15, "env_steps_per_batch": 20}, "env_steps_per_epoch=15", "one batch, 20"),
        ({"total_env_steps": 0}, "total_env_steps=0", "give 1 or more"),
        ({"total_env_steps": 0, "rollout_steps": None}, "total_env_steps=0", "give 1 or more"),
        ({"eval_episodes": 0}, "eval_episodes=0", "give 1 or more"),
        ({"test_episodes": 0}, "test_episodes=0", "give 1 or more"),
        ({"vectorization": "threads"}, "vectorization='threads'", "auto.*sync.*async"),
    ],
)
def test_a_value_that_cannot_work_is_refused_by_name(settings, key, fix):
    with pytest.raises(UsageError, match=f"^{key} is not allowed: .*{fix}") as caught:
        counter_rollouts(**settings)
    assert "\n" not in str(caught.value)
    assert CounterEnv.made == []


def test_an_unknown_environment_is_refused_when_the_datamodule_is_made():
    with pytest.raises(UsageError, match=r"env_id='CartPol-v1' .*did you mean CartPole-v1"):
        RolloutDataModule("CartPol-v1")


def test_a_rollout_without_anyone_to_gather_it_is_an_error_and_not_endless():
    with pytest.raises(RuntimeError, match="no Collector is attached: EnvironmentInteraction attaches one"):
        counter_rollouts().rollout()
