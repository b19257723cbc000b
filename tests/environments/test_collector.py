"""Collecting without a Trainer: a policy, environments, and the clock."""

import numpy as np
import pytest
import torch
from torch import nn
from toys import CounterEnv, TinyActor

from rl_lightning import Divergence, EnvironmentFault, make_vec_env
from rl_lightning.environments.collector import Collector
from rl_lightning.environments.stepping import Episodes
from rl_lightning.schedules import Clock

ONE_LATER = np.array([0, 1])  # what a step adds to (episode, t)


def collector_of(
    num_envs=3, actor=None, processes=1, seeds=None, vectorization="sync", env_id="toys:Counter-v0", **env_kwargs
):
    envs = make_vec_env(env_id, num_envs, vectorization, env_kwargs)
    seeds = range(num_envs + 1) if seeds is None else seeds
    return Collector(envs, actor or TinyActor(), Clock(1_000), seeds, processes)


def stacked(steps, name):
    return np.stack([getattr(step, name) for step in steps])


@pytest.mark.parametrize("random_env_steps", [0, 15])
@pytest.mark.parametrize("reuse_array", [False, True])
def test_every_step_is_one_of_the_environments_own_log_in_its_order(reuse_array, random_env_steps):
    collector = collector_of(3, reuse_array=reuse_array)
    steps = [*collector.collect_randomly(random_env_steps), *collector.collect(20), *collector.collect(7)]
    envs = CounterEnv.stepped()
    assert [len(env.log) for env in envs] == [len(steps)] * 3 == [random_env_steps // 3 + 27] * 3
    for column, env in enumerate(envs):
        for name in ("obs", "next_obs", "reward", "terminated", "truncated"):
            logged = np.stack([getattr(step, name) for step in env.log])
            np.testing.assert_array_equal(stacked(steps, name)[:, column], logged, name)
        given = np.stack([step.action for step in env.log])
        acted = stacked(steps, "action")[:, column]
        np.testing.assert_allclose(given, np.array([-1, 0]) + (acted + 1) / 2 * np.array([4, 10]), atol=1e-5)


@pytest.mark.parametrize("num_envs", [1, 4])
def test_no_step_crosses_episodes_and_the_next_begins_where_one_has_ended(num_envs):
    steps = collector_of(num_envs).collect(40)
    obs, next_obs = stacked(steps, "obs"), stacked(steps, "next_obs")
    np.testing.assert_array_equal(next_obs, obs + ONE_LATER)
    done = next_obs[..., 1] == 2 + next_obs[..., 0] % 5
    np.testing.assert_array_equal(np.stack([step.done for step in steps]), done)
    follows = np.where(done[:-1, :, None], next_obs[:-1] * [1, 0] + [1, 0], next_obs[:-1])
    np.testing.assert_array_equal(obs[1:], follows)
    assert done.sum() > 5


def test_the_actor_sees_what_the_step_starts_from_as_tensors_of_float32():
    actor = TinyActor()
    collector = collector_of(2, actor)
    steps = [*collector.collect_randomly(6), *collector.collect(10)]
    assert {obs.dtype for obs in actor.seen} == {torch.float32}
    np.testing.assert_array_equal(torch.stack(actor.seen).numpy(), stacked(steps[3:], "obs"))
    with torch.no_grad():
        expected = torch.tanh(actor.linear(torch.stack(actor.seen) / 1000)).numpy()
    np.testing.assert_array_equal(stacked(steps[3:], "action"), expected)


def test_the_actor_is_told_in_which_environments_episodes_have_ended():
    actor = TinyActor()
    collector = collector_of(3, actor)
    steps = [*collector.collect_randomly(9), *collector.collect(30)]
    ends = [step.done for step in steps if step.done.any()]
    np.testing.assert_array_equal(np.stack(actor.ended), np.stack(ends))


@pytest.mark.parametrize("first_length", [2, 3, 6])
def test_a_whole_episode_is_that_of_the_first_environment(first_length):
    seed = next(s for s in range(100) if CounterEnv.episode_length(CounterEnv.first_episode(s)) == first_length)
    collector = collector_of(2, seeds=[seed, 5, 0])
    first, second = collector.collect(None), collector.collect(None)
    assert len(first) == first_length
    assert [bool(step.done[0]) for step in first] == [False] * (first_length - 1) + [True]
    assert second[0].obs[0].tolist() == [first[0].obs[0, 0] + 1, 0]
    assert second[-1].done[0]
    assert collector.clock.env_steps == 2 * (len(first) + len(second))


@pytest.mark.parametrize("processes", [1, 3])
@pytest.mark.parametrize("num_envs", [1, 4])
def test_the_clock_moves_by_the_environments_of_all_processes(num_envs, processes):
    collector = collector_of(num_envs, processes=processes)
    seen = []
    for expected in range(1, 6):
        collector.collect(1)
        seen.append(collector.clock.env_steps)
        assert sum(len(env.log) for env in CounterEnv.stepped()) == expected * num_envs
    assert seen == [num_envs * processes * step for step in range(1, 6)]
    collector.collect(2)
    assert collector.clock.env_steps == 7 * num_envs * processes
    assert collector.clock.progress == 7 * num_envs * processes / 1_000


@pytest.mark.parametrize(
    ("num_envs", "processes", "env_steps", "rows"),
    [(1, 1, 0, 0), (1, 1, 7, 7), (3, 1, 7, 3), (3, 1, 9, 3), (2, 3, 12, 2), (2, 3, 13, 3)],
)
def test_random_steps_are_shared_by_the_processes_and_rounded_up_to_whole_rows(num_envs, processes, env_steps, rows):
    actor = TinyActor()
    collector = collector_of(num_envs, actor, processes)
    assert len(list(collector.collect_randomly(env_steps))) == rows
    assert collector.clock.env_steps == rows * num_envs * processes
    assert actor.seen == []


def test_random_actions_are_uniform_in_what_the_policy_may_give():
    actions = stacked(list(collector_of(4).collect_randomly(4_000)), "action").reshape(-1, 2)
    assert np.abs(actions).max() <= 1
    np.testing.assert_allclose(actions.mean(0), [0, 0], atol=5 * (1 / 3 / 4_000) ** 0.5)
    np.testing.assert_allclose(actions.var(0), [1 / 3, 1 / 3], atol=0.03)


def test_seeds_are_given_to_the_first_reset_of_each_environment_and_the_last_of_them_to_random_actions():
    runs = []
    for seeds in ([10, 11, 12, 13], [10, 11, 12, 13], [10, 11, 12, 14], [9, 8, 7, 13]):
        CounterEnv.made.clear()
        steps = list(collector_of(3, seeds=seeds).collect_randomly(30))
        assert [env.seeds[0] for env in CounterEnv.stepped()] == seeds[:3]
        assert all(set(env.seeds[1:]) == {None} for env in CounterEnv.stepped())
        runs.append((stacked(steps, "obs"), stacked(steps, "action")))
    for same, other in ((0, 1), (0, 2)):
        np.testing.assert_array_equal(runs[same][0], runs[other][0])
    np.testing.assert_array_equal(runs[0][1], runs[1][1])
    assert not (runs[0][1] == runs[2][1]).any()
    assert not (runs[0][0] == runs[3][0])[..., 0].any()
    np.testing.assert_array_equal(runs[0][1], runs[3][1])


# Finished episodes


def finished_in(envs, since=0):
    """Return and length of the episodes in the environments' own logs that have ended, all of them after `since`."""
    rows = range(since, len(envs[0].log))
    ends = [(row, env.log[row]) for row in rows for env in envs if env.log[row].terminated or env.log[row].truncated]
    lengths = [(row, int(step.next_obs[1])) for row, step in ends]
    # a CounterEnv episode of length T returns 1 + 2 + ... + T
    return [(T * (T + 1) / 2, T) for row, T in lengths if row - T + 1 >= since]


@pytest.mark.parametrize("num_envs", [1, 3])
def test_finished_are_return_and_length_of_the_episodes_that_have_ended_since_it_was_emptied(num_envs):
    collector = collector_of(num_envs)
    collector.collect(30)
    first = list(collector.finished)
    assert first == finished_in(CounterEnv.stepped())
    assert len(first) > 3
    collector.finished.clear()
    collector.collect(20)
    assert [*first, *collector.finished] == finished_in(CounterEnv.stepped())


@pytest.mark.parametrize("random_rows", [1, 4, 5, 13])
def test_episodes_with_random_steps_are_not_among_the_finished(random_rows):
    collector = collector_of(3)
    for _ in collector.collect_randomly(3 * random_rows):
        assert collector.finished == []
    collector.collect(25)
    whole = finished_in(CounterEnv.stepped(), since=random_rows)
    assert collector.finished == whole
    assert len(whole) < len(finished_in(CounterEnv.stepped()))


def test_random_steps_amid_a_run_leave_out_the_episodes_that_they_are_in():
    collector = collector_of(1, length=5)
    collector.collect(7)
    list(collector.collect_randomly(1))
    collector.collect(9)  # episodes end at 5, 10 and 15; the second has a random step
    assert collector.finished == [(15.0, 5.0), (15.0, 5.0)]


# Modes


class Noting(TinyActor):
    """Notes in which mode it acts; its parts are in modes of their own."""

    def __init__(self, fails=False):
        super().__init__()
        self.dropout = nn.Dropout(0.9)
        self.notes, self.fails = [], fails

    def act(self, obs, deterministic=False):
        assert not deterministic
        self.notes.append((self.training, self.linear.training, self.dropout.training, torch.is_grad_enabled()))
        if self.fails:
            raise KeyError
        action = super().act(self.dropout(obs))
        assert not action.requires_grad
        return action


class Frozen(nn.BatchNorm1d):
    """Stays in eval mode from the first call of `train` or `eval` on."""

    def train(self, mode=True):
        return super().train(False)


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("plain", [True, False], ids=["plain modes", "a train of its own"])
@pytest.mark.parametrize("mode", [True, False])
def test_acting_is_in_eval_mode_without_gradients_and_leaves_both_as_they_were(mode, plain, fails):
    actor = Noting(fails).train(mode)
    actor.dropout.train(not mode)  # someone's own choice for a part
    if not plain:
        actor.norm = Frozen(2).eval()
    before = [module.training for module in actor.modules()]
    collector = collector_of(2, actor)
    for _ in range(2):
        if fails:
            with pytest.raises(KeyError):
                collector.collect(3)
        else:
            collector.collect(3)
        assert [module.training for module in actor.modules()] == before
        assert torch.is_grad_enabled()
    assert actor.notes == [(False, False, False, False)] * (2 if fails else 6)
    assert collector.clock.env_steps == (0 if fails else 2 * 6)


# Refusals and the end


class Diverging(TinyActor):
    """Its third action is not finite in one place."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def act(self, obs, deterministic=False):
        action = super().act(obs)
        if len(self.seen) == 3:
            action[1, 0] = self.value
        return action


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_an_action_that_is_not_finite_is_refused_before_the_environments_see_it(value):
    collector = collector_of(2, Diverging(value))
    message = r"^the policy's action \[\[.*(nan|inf).*\]\] at environment step 4 is not finite: its network diverged"
    with pytest.raises(Divergence, match=message) as caught:
        collector.collect(10)
    assert "\n" not in str(caught.value)
    assert [len(env.log) for env in CounterEnv.stepped()] == [2, 2]


def test_environments_in_processes_of_their_own_give_the_same_steps():
    steps = []
    for vectorization in ("sync", "async"):
        torch.manual_seed(0)
        collector = collector_of(2, vectorization=vectorization)
        steps.append([*collector.collect_randomly(6), *collector.collect(10)])
        collector.close()
    for name in ("obs", "action", "reward", "next_obs", "terminated", "truncated"):
        np.testing.assert_array_equal(stacked(steps[0], name), stacked(steps[1], name))


def test_closing_closes_the_environments():
    collector = collector_of(3)
    collector.collect(2)
    assert not any(env.closed for env in CounterEnv.stepped())
    collector.close()
    assert [env.closed for env in CounterEnv.stepped()] == [True] * 3


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_environments_that_cannot_be_reset_are_closed(vectorization):
    envs = make_vec_env("toys:Failing-v0", 2, vectorization, {"fault": "reset", "at": 0})
    with pytest.raises(EnvironmentFault, match="raised OSError in reset: lost"):
        Collector(envs, TinyActor(), Clock(100), [0, 1, 2])
    assert envs.closed


def test_nested_observations_reach_the_actor_and_the_steps():
    class OfDicts(TinyActor):
        def act(self, obs, deterministic=False):
            assert obs["t"].dtype == torch.int64
            return super().act(obs["inner"]["vector"])

    actor = OfDicts()
    steps = collector_of(2, actor, env_id="toys:DictCounter-v0").collect(12)
    for step, seen in zip(steps, actor.seen, strict=True):
        np.testing.assert_array_equal(step.obs["inner"]["vector"], seen.numpy())
        np.testing.assert_array_equal(step.next_obs["t"] - 3, step.obs["inner"]["vector"][:, 1] + 1)


# Episodes, which steps without a policy


def test_the_environments_go_on_where_they_are_and_only_the_finished_are_reset():
    envs = make_vec_env("toys:Counter-v0", 3)
    episodes = Episodes(envs, [3, 1, 4])
    first = [CounterEnv.first_episode(seed) for seed in (3, 1, 4)]
    assert episodes.obs[:, 0].tolist() == first
    zeros, resets = np.zeros((3, 2), np.float32), 0
    for _ in range(20):
        before = episodes.obs.copy()
        step = episodes.step(zeros)
        np.testing.assert_array_equal(step.obs, before)
        np.testing.assert_array_equal(step.next_obs, before + ONE_LATER)
        expected = np.where(step.done[:, None], before * [1, 0] + [1, 0], step.next_obs)
        np.testing.assert_array_equal(episodes.obs, expected)
        assert step.action is zeros
        resets += int(step.done.sum())
    assert sum(len(env.seeds) for env in CounterEnv.stepped()) == 3 + resets
    assert resets > 5


def test_environments_beyond_the_seeds_get_none():
    Episodes(make_vec_env("toys:Counter-v0", 3), [7])
    assert [env.seeds for env in CounterEnv.made] == [[7], [None], [None]]
