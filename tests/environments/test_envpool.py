"""EnvPool's environments: every row is a step of the environment that Gymnasium has, and none is a reset."""

import gc
import os
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from torch import nn

from rl_lightning import EnvironmentFault, ReplayDataModule, RolloutDataModule, UsageError, make_env, make_vec_env
from rl_lightning.environments.collector import Collector
from rl_lightning.environments.state import why_not_restorable
from rl_lightning.schedules import Clock

pytest.importorskip("envpool")
ATARI = "rl_lightning.atari:Atari-v0"


class RandomActor(nn.Module):
    """Acts at random, also beyond [-1, 1]; keeps what it has seen."""

    device = torch.device("cpu")

    def __init__(self, space):
        super().__init__()
        self.space, self.seen, self.rng = space, [], np.random.default_rng(0)

    def act(self, obs, deterministic=False):
        self.seen.append(obs)
        if isinstance(self.space, gym.spaces.Discrete):
            return torch.from_numpy(self.rng.integers(self.space.n, size=len(obs)))
        return torch.from_numpy(self.rng.normal(0.0, 1.0, (len(obs), *self.space.shape)).astype(np.float32))

    def episodes_end(self, ended):
        pass


class Rows:
    """What a collector has gathered with random actions, [T, N, ...], and what it says of the episodes."""

    def __init__(self, env_id, num_envs, steps, first_seed=0, **env_kwargs):
        envs = make_vec_env(env_id, num_envs, "envpool", env_kwargs)
        actor = RandomActor(envs.single_action_space)
        clock = Clock(10**9)
        collector = Collector(envs, actor, clock, [*range(first_seed, first_seed + num_envs), 1])
        taken = collector.collect(steps)
        collector.close()
        for name in ("obs", "action", "reward", "next_obs", "terminated", "truncated", "done"):
            setattr(self, name, np.stack([getattr(step, name) for step in taken]))
        self.seen = torch.stack(actor.seen).numpy()
        self.finished, self.env_steps = collector.finished, clock.env_steps
        self.lengths = lengths_of(self.done)

    def check_episodes(self, limit):
        """Episodes follow each other as they must, whatever the environment is; the time limit is the only one."""
        np.testing.assert_array_equal(self.seen, self.obs.astype(self.seen.dtype))
        goes_on = ~self.done[:-1]
        np.testing.assert_array_equal(self.obs[1:][goes_on], self.next_obs[:-1][goes_on])
        begins_anew = self.obs[1:][self.done[:-1]] != self.next_obs[:-1][self.done[:-1]]
        assert begins_anew.reshape(len(begins_anew), -1).any(1).all()
        np.testing.assert_array_equal(self.truncated, self.lengths == limit)
        assert self.env_steps == self.done.size
        assert sorted(self.finished) == sorted(episodes_of(self.reward, self.done))
        assert len(self.finished) == self.done.sum()


def lengths_of(done):
    """Of each row, the steps of its episode so far, counted by hand."""
    lengths, running = np.empty(done.shape, int), np.zeros(done.shape[1], int)
    for row, ended in enumerate(done):
        running += 1
        lengths[row] = running
        running = np.where(ended, 0, running)
    return lengths


def episodes_of(reward, done):
    """Return and length of every whole episode, column by column."""
    found = []
    for column in range(done.shape[1]):
        first = 0
        for last in done[:, column].nonzero()[0]:
            found.append((sum(reward[first : last + 1, column].tolist()), float(last + 1 - first)))
            first = last + 1
    return found


# Every row is a step


def cartpole_step(obs, action):
    """The equations of a cart with a pole, as Barto, Sutton and Anderson have them: an Euler step of 0.02 s."""
    x, x_dot, angle, angle_dot = np.moveaxis(obs.astype(np.float64), -1, 0)
    force = np.where(action == 1, 10.0, -10.0)
    push = (force + 0.05 * angle_dot**2 * np.sin(angle)) / 1.1
    turn = (9.8 * np.sin(angle) - np.cos(angle) * push) / (0.5 * (4 / 3 - 0.1 * np.cos(angle) ** 2 / 1.1))
    move = push - 0.05 * turn * np.cos(angle) / 1.1
    return np.stack([x + 0.02 * x_dot, x_dot + 0.02 * move, angle + 0.02 * angle_dot, angle_dot + 0.02 * turn], -1)


@pytest.mark.parametrize(("num_envs", "limit"), [(1, 15), (7, 15), (16, 500)])
def test_every_row_of_cartpole_is_a_step_of_its_equations(num_envs, limit):
    rows = Rows("CartPole-v1", num_envs, 400, max_episode_steps=limit)
    np.testing.assert_allclose(rows.next_obs, cartpole_step(rows.obs, rows.action), rtol=1e-4, atol=1e-5)
    fallen = (np.abs(rows.next_obs[..., 0]) > 2.4) | (np.abs(rows.next_obs[..., 2]) > 12 * np.pi / 180)
    np.testing.assert_array_equal(rows.terminated, fallen)
    assert (rows.reward == 1.0).all()
    begins = rows.lengths == 1
    assert (np.abs(rows.obs[begins]) <= 0.05).all()
    assert len(np.unique(rows.obs[begins], axis=0)) == begins.sum(), "every episode has a start of its own"
    rows.check_episodes(limit)
    assert rows.terminated.sum() >= 10
    if limit == 15:
        assert rows.truncated.sum() >= 10
        assert not (rows.terminated & rows.truncated).all()
    if num_envs > 1:
        assert (rows.done.any(1) & ~rows.done.all(1)).any(), "they end at different times"


def test_an_episode_that_ends_in_its_last_allowed_step_is_terminated_and_truncated():
    def first_end(limit):
        envs = make_vec_env("CartPole-v1", 1, "envpool", {"max_episode_steps": limit})
        envs.reset(seed=[3])
        for step in range(1, limit + 1):
            _, _, terminated, truncated, _ = envs.step(np.array([1]))
            if terminated[0] or truncated[0]:
                return step, bool(terminated[0]), bool(truncated[0])
        return None

    falls, *_ = first_end(100)
    assert first_end(falls + 1) == (falls, True, False)
    assert first_end(falls) == (falls, True, True)
    assert first_end(falls - 1) == (falls - 1, False, True)


def at_classic(names):
    def put(env, obs):
        env.unwrapped.state = np.array(names(obs.astype(np.float64)))

    return put


def at_mujoco(env, obs):
    """The state that an observation shows; what it leaves out, a place on the plane, changes nothing."""
    model = env.unwrapped.model
    hidden = model.nq + model.nv - len(obs)
    state = np.concatenate([np.zeros(hidden), obs])
    env.unwrapped.set_state(state[: model.nq], state[model.nq :])


ANGLES = at_classic(lambda obs: (np.arctan2(obs[1], obs[0]), np.arctan2(obs[3], obs[2]), obs[4], obs[5]))
TASKS = {
    "Pendulum-v1": (at_classic(lambda obs: (np.arctan2(obs[1], obs[0]), obs[2])), 200, 450),
    "Acrobot-v1": (ANGLES, 60, 150),
    "MountainCar-v0": (at_classic(tuple), 200, 250),
    "MountainCarContinuous-v0": (at_classic(lambda obs: obs.astype(np.float32)), 100, 150),
    "InvertedPendulum-v5": (at_mujoco, 8, 200),
    "HalfCheetah-v5": (at_mujoco, 50, 120),
    "Hopper-v5": (at_mujoco, 1000, 120),
    "Walker2d-v5": (at_mujoco, 1000, 120),
}


def shows_all(env_id, obs, next_obs):
    """Whether an observation tells the state; velocities of legs are cut off at 10.

    EnvPool's pendulum turns by its speed before that is cut to 8, Gymnasium's by the speed after.
    """
    if env_id == "Pendulum-v1":
        return abs(next_obs[2]) < 8
    return env_id not in ("Hopper-v5", "Walker2d-v5") or np.abs(obs).max() < 10


@pytest.mark.parametrize("env_id", TASKS)
def test_every_row_is_a_step_of_gymnasiums_environment_from_the_same_state(env_id):
    put, limit, steps = TASKS[env_id]
    if put is at_mujoco:
        pytest.importorskip("mujoco")
    rows = Rows(env_id, 3, steps, max_episode_steps=limit)
    single, compared = make_env(env_id), 0
    for place in np.ndindex(rows.done.shape):
        if not shows_all(env_id, rows.obs[place], rows.next_obs[place]):
            continue
        compared += 1
        single.reset(seed=0)
        put(single, rows.obs[place])
        obs, reward, terminated, *_ = single.step(rows.action[place])
        np.testing.assert_allclose(rows.next_obs[place], obs, rtol=2e-3, atol=2e-3)
        np.testing.assert_allclose(rows.reward[place], reward, rtol=2e-3, atol=2e-3)
        assert rows.terminated[place] == terminated
    assert compared >= 60
    rows.check_episodes(limit)
    assert rows.done.sum() >= 3
    assert rows.obs.dtype == single.observation_space.dtype
    assert (np.abs(rows.action).max() > 1.5) or not isinstance(single.action_space, gym.spaces.Box)


@pytest.mark.parametrize(("env_id", "limit"), [("FrozenLake-v1", 10), ("CliffWalking-v1", 2**31 - 2)])
def test_every_row_is_in_the_table_of_a_finite_environment(env_id, limit):
    rows = Rows(env_id, 5, 300, **({"max_episode_steps": limit} if limit == 10 else {}))
    table, found = gym.make(env_id).unwrapped.P, set()
    for place in np.ndindex(rows.done.shape):
        outcomes = table[int(rows.obs[place])][int(rows.action[place])]
        row = int(rows.next_obs[place]), float(rows.reward[place]), bool(rows.terminated[place])
        assert row in {(state, float(reward), end) for share, state, reward, end in outcomes if share > 0}
        found.add(row)
    assert len(found) > 10
    begins = rows.obs[rows.lengths == 1]
    assert (begins == begins[0]).all()
    np.testing.assert_array_equal(rows.truncated, rows.lengths == limit)
    np.testing.assert_array_equal(rows.obs[1:][~rows.done[:-1]], rows.next_obs[:-1][~rows.done[:-1]])


def test_rows_that_were_given_away_do_not_change_later():
    envs = make_vec_env("CartPole-v1", 4, "envpool")
    given = [envs.reset(seed=[0, 1, 2, 3])[0]]
    copies = [given[0].copy()]
    for _ in range(60):
        obs, _, terminated, truncated, _ = envs.step(np.ones(4, np.int64))
        given.append(obs)
        copies.append(obs.copy())
        if (done := terminated | truncated).any():
            given.append(envs.reset(options={"reset_mask": done})[0])
            copies.append(given[-1].copy())
    for one, copy in zip(given, copies, strict=True):
        np.testing.assert_array_equal(one, copy)


def test_an_environment_that_has_ended_takes_no_step_before_its_reset():
    envs = make_vec_env("CartPole-v1", 2, "envpool", {"max_episode_steps": 3})
    assert envs.metadata["autoreset_mode"] == AutoresetMode.DISABLED
    envs.reset(seed=[0, 1])
    for _ in range(3):
        envs.step(np.zeros(2, np.int64))
    envs.reset(options={"reset_mask": np.array([False, True])})
    with pytest.raises(RuntimeError, match="reset them by reset_mask first"):
        envs.step(np.zeros(2, np.int64))


# Seeds and threads


def test_seeds_decide_all_that_comes_and_each_environment_has_its_own():
    one, again, other = (Rows("CartPole-v1", 5, 100, first_seed=seed) for seed in (0, 0, 2**32 - 100))
    for name in ("obs", "next_obs", "terminated"):
        np.testing.assert_array_equal(getattr(one, name), getattr(again, name))
    assert not np.array_equal(one.obs, other.obs)
    envs = make_vec_env("CartPole-v1", 5, "envpool")
    first, _ = envs.reset(seed=[4, 1, 4, 2, None])
    np.testing.assert_array_equal(first[0], first[2])
    assert len(np.unique(first, axis=0)) == 4
    np.testing.assert_array_equal(envs.reset(seed=[4, 1, 4, 2, 3])[0][:4], first[:4])
    assert not np.isin(envs.reset()[0], first).any()


def threads():
    gc.collect()
    return len(list(Path("/proc/self/task").iterdir()))


def test_there_are_no_more_threads_than_cores_and_they_end_with_their_environments(monkeypatch):
    before = threads()
    for cores, num_envs, expected in ((1, 8, 1), (3, 8, 3), (3, 2, 2)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid, cores=cores: set(range(cores)))
        envs = make_vec_env("CartPole-v1", num_envs, "envpool")
        assert threads() == before, "none before the first reset"
        envs.reset(seed=list(range(num_envs)))
        assert envs._pool.config["num_threads"] == expected
        assert threads() >= before + expected
        envs.close()
        assert threads() == before


# Atari


@pytest.mark.parametrize(
    ("game", "settings"),
    [
        ("Pong", {}),
        ("Breakout", {"frame_stack": 2, "frame_skip": 3}),
        ("SpaceInvaders", {"full_action_space": True, "max_episode_steps": 150}),
    ],
)
def test_a_game_without_chance_is_the_same_bit_by_bit(game, settings):
    pytest.importorskip("ale_py")
    kwargs = {"game": game, "noop_max": 1, "repeat_action_probability": 0.0, **settings}
    envs, single = make_vec_env(ATARI, 2, "envpool", kwargs), make_env(ATARI, kwargs)
    assert envs.single_observation_space == single.observation_space
    assert envs.single_action_space == single.action_space
    obs, _ = envs.reset(seed=[0, 1])
    np.testing.assert_array_equal(obs, np.stack([single.reset(seed=0)[0]] * 2))
    rng, ends = np.random.default_rng(0), 0
    for _ in range(400):
        action = rng.integers(single.action_space.n)
        obs, reward, terminated, truncated, _ = envs.step(np.array([action, action]))
        expected = single.step(action)
        assert [reward[1], terminated[1], truncated[1]] == [*expected[1:4]]
        done = terminated | truncated
        if not terminated[1]:  # the last image of a game depends on the frame at which the emulator stopped
            np.testing.assert_array_equal(obs[1], expected[0])
        if done.any():
            ends += 1
            obs, _ = envs.reset(options={"reset_mask": done})
            np.testing.assert_array_equal(obs[1], single.reset()[0])
    assert ends or game == "Pong"


def test_frames_are_stacked_as_replay_keeps_them():
    pytest.importorskip("ale_py")
    rows = Rows(ATARI, 3, 120, game="Breakout", max_episode_steps=50)
    first = rows.obs[rows.lengths == 1]
    assert (first == first[:, -1:]).all(), "a reset repeats its image"
    np.testing.assert_array_equal(rows.next_obs[..., :-1, :, :], rows.obs[..., 1:, :, :])
    rows.check_episodes(limit=50)


def test_replay_of_a_game_keeps_each_image_once_and_gives_back_what_was_seen():
    pytest.importorskip("ale_py")
    kwargs = {"game": "Breakout", "max_episode_steps": 30}
    data = ReplayDataModule(ATARI, kwargs, num_envs=2, vectorization="envpool", buffer_size=1_000, batch_size=32)
    data.setup("fit")
    assert data.frame_stack == 4
    envs = data.train_envs()
    collector = Collector(envs, RandomActor(envs.single_action_space), Clock(10**6), [0, 1, 2])
    seen = {}
    for step in collector.collect(100):
        data.buffer.add(*step)
        for obs, next_obs in zip(step.obs, step.next_obs, strict=True):
            seen[obs.tobytes()] = next_obs.tobytes()
    batch, _ = data.buffer.sample(1, 64, gamma=0.99)
    for obs, next_obs in zip(batch.obs.flatten(0, 1).numpy(), batch.next_obs.flatten(0, 1).numpy(), strict=True):
        assert seen[obs.tobytes()] == next_obs.tobytes()
    assert data.buffer.nbytes < 1.1 * 1_000 * 84 * 84
    collector.close()


def test_actions_stick_and_games_begin_late_unless_the_game_is_to_be_deterministic():
    pytest.importorskip("ale_py")

    def images(**settings):
        envs = make_vec_env(ATARI, 6, "envpool", {"game": "Pong", **settings})
        first, _ = envs.reset(seed=list(range(6)))
        seen = np.stack([envs.step(np.full(6, 2 + step // 5 % 2))[0][:, -1] for step in range(30)], 1)
        return len({image.tobytes() for image in first}), len({column.tobytes() for column in seen})

    assert images(noop_max=1, repeat_action_probability=0.0) == (1, 1)
    assert images(noop_max=1)[1] > 2
    begins, _ = images(repeat_action_probability=0.0, game="SpaceInvaders")
    assert begins > 1


# Refusals


@pytest.mark.parametrize(
    ("env_id", "env_kwargs", "message"),
    [
        ("ALE/Pong-v5", {}, r"no environment ALE/Pong-v5; give env_id=rl_lightning.atari:Atari-v0"),
        ("toys:Counter-v0", {}, r"env_id='Counter-v0' is not allowed: EnvPool has no environment Counter-v0"),
        ("Cartpole-v1", {}, r"not a registered Gymnasium environment: did you mean CartPole-v1"),
        ("Blackjack-v1", {}, r"observations of Blackjack-v1 are Box.* in EnvPool and Dict.* in Gymnasium"),
        ("CartPole-v1", {"colour": 1}, r"env_kwargs={'colour': 1} is refused by CartPole-v1"),
        ("CartPole-v1", {"sutton_barto_reward": True}, r"env_kwargs.sutton_barto_reward=True is not allowed"),
        ("CartPole-v1", {"render_mode": "rgb_array"}, r"env_kwargs.render_mode='rgb_array' is not allowed"),
        (ATARI, {"noop_max": 0}, r"env_kwargs.noop_max=0 is not allowed: give 1 or more"),
        (ATARI, {"terminal_on_life_loss": True}, r"terminal_on_life_loss=True is not allowed"),
        (ATARI, {"render_mode": "rgb_array"}, r"render_mode='rgb_array' is not allowed: give null"),
        (ATARI, {"game": "pong"}, r"did you mean Pong"),
    ],
)
def test_what_cannot_be_the_same_environment_is_refused_in_one_line(env_id, env_kwargs, message):
    if "ALE" in env_id or env_id == ATARI:
        pytest.importorskip("ale_py")
    with pytest.raises(UsageError, match=message) as caught:
        RolloutDataModule(env_id, env_kwargs, num_envs=2, vectorization="envpool")
    assert "\n" not in str(caught.value)


def test_a_value_that_envpool_refuses_is_told_without_its_c(monkeypatch):
    pytest.importorskip("mujoco")
    with pytest.raises(UsageError, match=r"InvertedPendulum-v5; give such as {'reset_noise_scale': 0.01") as caught:
        make_vec_env("InvertedPendulum-v5", 2, "envpool", {"reset_noise_scale": "0.2"})
    assert "pybind" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"env_timeout": 5.0}, r"env_timeout=5.0 .*give vectorization=async"),
        ({"max_env_restarts": 2}, r"max_env_restarts=2 is not allowed: .*give 0, or vectorization=sync"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        RolloutDataModule("CartPole-v1", num_envs=2, vectorization="envpool", **settings)


def test_bounds_of_actions_that_differ_are_refused_with_both(monkeypatch):
    class Wider(gym.envs.classic_control.PendulumEnv):
        def __init__(self):
            super().__init__()
            self.action_space = gym.spaces.Box(-3.0, 3.0, (1,), np.float32)

    monkeypatch.setitem(gym.registry, "Pendulum-v1", gym.envs.registration.EnvSpec("Pendulum-v1", Wider))
    with pytest.raises(UsageError, match=r"actions of Pendulum-v1 are Box\(-2.0, 2.0.* and Box\(-3.0, 3.0"):
        make_vec_env("Pendulum-v1", 2, "envpool")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_observation_that_is_not_finite_is_a_fault_of_a_named_environment(bad):
    envs = make_vec_env("Pendulum-v1", 3, "envpool")
    envs.reset(seed=[0, 1, 2])
    envs.step(np.zeros((3, 1), np.float32))
    pool = envs._pool

    class Broken:
        def __init__(self, field):
            self.field = field

        def step(self, actions):
            returned = pool.step(actions)
            returned[self.field][1] = bad
            return returned

    for field, message in ((0, "an observation with NaN or infinity"), (1, f"reward {bad}; rewards must be finite")):
        envs._pool = Broken(field)
        with pytest.raises(
            EnvironmentFault, match=rf"^environment 1 \(Pendulum-v1\) at its step {2 + field} .*{message}"
        ):
            envs.step(np.zeros((3, 1), np.float32))


def test_a_missing_package_is_named_by_the_extra_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "envpool", None)
    with pytest.raises(UsageError) as caught:
        RolloutDataModule("CartPole-v1", vectorization="envpool")
    assert str(caught.value) == (
        "vectorization='envpool' needs a package that is not installed: pip install \"rl_lightning[envpool]\""
    )


def test_a_run_resumes_consistently_since_the_state_cannot_be_read():
    reason = why_not_restorable("CartPole-v1", None, "envpool", 8)
    assert reason.startswith("CartPole-v1: EnvPool gives no way to read the state")
    data = RolloutDataModule("CartPole-v1", num_envs=2, vectorization="envpool")
    assert data.why_not_exact == reason
