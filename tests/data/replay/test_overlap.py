"""Environments that step while the learner learns: what comes into replay, and what is learned from it."""

from pathlib import Path
from time import monotonic, sleep

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from toys import TINY, CounterEnv, Rows, fit, make_trainer, tiny_sac

from rl_lightning import TD3, ActionNoise, Divergence, ReplayDataModule, UsageError
from rl_lightning.data import ReplayStream


class EchoEnv(CounterEnv):
    """obs = (episode, t, the latest action). With `folder`, each step of the environment's life leaves a file there."""

    def __init__(self, folder: str | None = None):
        super().__init__()
        self.observation_space = Box(-np.inf, np.inf, (4,), np.float64)
        self.folder, self.given, self.life = folder, np.zeros(2), 0

    def reset(self, *, seed=None, options=None):
        self.given = np.zeros(2)
        return super().reset(seed=seed, options=options)

    def step(self, action):
        self.given = np.array(action)
        result = super().step(action)
        self.life += 1
        if self.folder is not None:
            Path(self.folder, str(self.life)).touch()
        return result

    def _obs(self):
        return np.array([self.episode, self.t, *self.given], dtype=float)


if "Echo-v0" not in gym.registry:
    gym.register("Echo-v0", EchoEnv)


def echo_data(kind=ReplayDataModule, vectorization="async", overlap=True, **settings):
    given = {"learning_starts": 12, "total_env_steps": 120, "batch_size": 8, "buffer_size": 1_000}
    return kind("Echo-v0", vectorization=vectorization, overlap=overlap, **given | settings)


def sac_of(data):
    return tiny_sac(data.observation_space, data.action_space)


def stored(data):
    """The rows of its buffer that was never full: each field [rows, num_envs, ...]."""
    return {name: field[: data.buffer.steps].numpy() for name, field in data.buffer.storage._asdict().items()}


def assert_is_what_was_played(rows, broken_after=()):
    """Every row once and in its order: each follows from the one before it, and the actions are those that were given.

    Args:
        rows: from `stored`.
        broken_after: rows whose episodes were given up after them.
    """
    obs, next_obs, done = rows["obs"], rows["next_obs"], rows["terminated"] | rows["truncated"]
    episode, t = obs[..., 0], obs[..., 1]
    np.testing.assert_array_equal(next_obs[..., 0], episode)
    np.testing.assert_array_equal(next_obs[..., 1], t + 1)
    np.testing.assert_array_equal(rows["reward"], t + 1)
    given = np.array([-1, 0]) + (rows["action"] + 1) / 2 * np.array([4, 10])
    np.testing.assert_allclose(next_obs[..., 2:], given, atol=1e-5)
    ends = t + 1 == 2 + episode % 5
    given_up = np.zeros_like(done)
    given_up[list(broken_after)] = True
    np.testing.assert_array_equal(rows["terminated"], ends & np.isin(episode % 3, (0, 2)))
    np.testing.assert_array_equal(
        rows["truncated"], (ends & np.isin(episode % 3, (1, 2))) | (given_up & ~rows["terminated"])
    )
    goes_on = ~done[:-1]
    np.testing.assert_array_equal(obs[1:][goes_on], next_obs[:-1][goes_on])
    begins = done[:-1] & ~given_up[:-1]
    np.testing.assert_array_equal(obs[1:][begins], next_obs[:-1][begins] * [1, 0, 0, 0] + [1, 0, 0, 0])
    assert (obs[1:][done[:-1]][:, 1] == 0).all()


@pytest.mark.parametrize(("num_envs", "train_freq", "env_steps_per_batch"), [(1, 1, None), (3, 1, 9), (2, 3, None)])
def test_every_transition_comes_into_replay_once_and_in_its_order(num_envs, train_freq, env_steps_per_batch):
    data = echo_data(num_envs=num_envs, train_freq=train_freq, env_steps_per_batch=env_steps_per_batch)
    rows, model = Rows(), sac_of(data)
    fit(model, data, make_trainer(logger=rows, log_every_n_steps=1))
    assert data.clock.env_steps == len(data.buffer) == 120
    assert model.gradient_steps == 120 - 12
    per_batch = env_steps_per_batch or num_envs * train_freq
    assert [row["env_steps"] for row in rows.rows] == list(range(12 + per_batch, 121, per_batch))
    assert_is_what_was_played(stored(data))


@pytest.mark.parametrize(("num_envs", "train_freq"), [(1, 1), (2, 3)])
def test_a_gradient_step_can_be_of_every_row_but_the_one_under_way(num_envs, train_freq):
    data = echo_data(
        num_envs=num_envs, train_freq=train_freq, batch_size=500, replay_ratio=1 / num_envs, total_env_steps=60
    )
    seen = []

    class Looks(Callback):
        def on_train_start(self, trainer, pl_module):
            sample = data.buffer.sample

            def looking(*args):
                minibatches, index = sample(*args)
                taken = (data.buffer.steps, data.clock.env_steps, set(index.flatten().tolist()))
                seen.append(taken)
                return minibatches, index

            data.buffer.sample = looking

    fit(sac_of(data), data, make_trainer([Looks()]))
    iterations = (60 - 12) // (num_envs * train_freq)
    rows = [12 // num_envs + iteration * train_freq - 1 for iteration in range(1, iterations + 1)]
    assert [taken[0] for taken in seen] == rows
    assert [taken[1] for taken in seen] == [number * num_envs for number in rows]
    assert [taken[2] for taken in seen] == [set(range(number * num_envs)) for number in rows]


def test_the_environments_step_while_the_learner_learns(tmp_path):
    """Each gradient step waits for the step that was begun before it: one that began after it would never come."""
    data = echo_data(env_kwargs={"folder": str(tmp_path)}, total_env_steps=20)

    class Waits(Callback):
        def on_gradient_step_end(self, trainer, pl_module):
            end = monotonic() + 60
            while not (tmp_path / str(data.buffer.steps + 1)).exists():
                assert monotonic() < end, "waited in vain"
                sleep(0.01)

    fit(sac_of(data), data, make_trainer([Waits()]))
    assert len(list(tmp_path.iterdir())) == data.buffer.steps == 20


class Late(ReplayDataModule):
    """Without overlap, but the last row of an iteration comes in after its gradient steps."""

    def draw(self, gamma):
        *steps, self.last = self.collector.collect(self.train_freq)
        for step in steps:
            self._store(step)
        return self.buffer.sample(self.updates, self.batch_size, gamma, self.beta)

    def end_iteration(self):
        self._store(self.last)


@pytest.mark.parametrize(
    "settings",
    [{}, {"num_envs": 2, "train_freq": 2, "n_step": 3}, {"num_envs": 2, "priority_alpha": 0.6, "buffer_size": 64}],
)
def test_a_run_is_one_whose_newest_row_comes_in_late_to_the_last_bit(settings):
    found = []
    for kind, vectorization, overlap in ((ReplayDataModule, "async", True), (Late, "sync", False)):
        torch.manual_seed(0)
        data = echo_data(kind, vectorization, overlap, priority_beta=1.0, **settings)
        model = TD3(
            data.observation_space, data.action_space, noise=lambda: ActionNoise(0.0), network=TINY, compile=False
        )
        fit(model, data)
        found.append((model.state_dict(), data.buffer.state_dict()))
    (weights, buffer), (other_weights, other_buffer) = found
    assert all(torch.equal(weights[name], other_weights[name]) for name in weights)
    assert torch.equal(buffer["memory"], other_buffer["memory"])
    assert buffer["steps"] == other_buffer["steps"]


class SavesInTheMiddle(Callback):
    """Saves after some gradient step, while an environment steps, and ends the run there."""

    def __init__(self, path):
        self.path = path

    def on_gradient_step_end(self, trainer, pl_module):
        if pl_module.gradient_steps == 20:
            trainer.save_checkpoint(self.path)
            raise KeyError


def test_a_checkpoint_in_the_middle_of_a_step_goes_on_without_it_in_new_episodes(tmp_path):
    path = tmp_path / "middle.ckpt"
    data = echo_data()
    with pytest.raises(KeyError):
        fit(sac_of(data), data, make_trainer([SavesInTheMiddle(path), ModelCheckpoint(tmp_path)]))
    again = echo_data()
    make_trainer().fit(sac_of(again), again, ckpt_path=path)
    assert again.clock.env_steps == again.buffer.steps == 120
    rows = stored(again)
    assert_is_what_was_played(rows, broken_after=[12 + 19 - 1])  # the twentieth step was under way
    assert rows["next_obs"][30, 0, 1] < 2 + rows["obs"][30, 0, 0] % 5  # it would have gone on


def test_an_environment_that_breaks_meanwhile_is_replaced_and_no_row_crosses_the_restart(tmp_path):
    kwargs = {"fault": "end:kill", "at": 20, "times": str(tmp_path), "length": 7}
    data = ReplayDataModule(
        "faulty:Faulty-v0", kwargs, 2, "async", 80, learning_starts=12, batch_size=8, max_env_restarts=1, overlap=True
    )
    with pytest.warns(UserWarning, match="a new one takes its place, restart 1 of 1"):
        fit(sac_of(data), data)
    rows = stored(data)
    assert len(data.buffer) == data.clock.env_steps == 80
    np.testing.assert_array_equal(rows["next_obs"], rows["obs"] + 1)
    goes_on = ~rows["truncated"][:-1]
    np.testing.assert_array_equal(rows["obs"][1:][goes_on], rows["next_obs"][:-1][goes_on])
    early = rows["truncated"] & (rows["next_obs"][..., 0] < 7)
    assert early.sum() == 1
    assert early[18].any()  # its twentieth step was never taken


def test_a_policy_that_diverges_ends_the_run_before_its_action_is_sent():
    data = echo_data(total_env_steps=40)
    model = sac_of(data)
    act = model.act
    model.act = lambda obs, deterministic=False: act(obs) if data.clock.env_steps < 20 else act(obs) * torch.nan
    with pytest.raises(Divergence, match=r"at environment step 20 is not finite"):
        fit(model, data)
    assert data.buffer.steps == 20
    assert_is_what_was_played(stored(data))


def test_nothing_is_asked_of_environments_in_the_middle_of_a_step():
    data = echo_data(num_envs=2)
    envs = data.train_envs()
    envs.reset(seed=[0, 1])
    action = np.zeros((2, 2), np.float32)
    envs.step_async(action)
    for ask in (envs.reset, lambda: envs.step(action), lambda: envs.call("place")):
        with pytest.raises(RuntimeError, match="a step is under way"):
            ask()
    envs.step_wait()
    envs.step(action)
    envs.close()


def test_a_learner_that_leaves_minibatches_is_told_so():
    data = echo_data(replay_ratio=2)
    model = sac_of(data)

    def learn(batch: ReplayStream) -> None:
        next(batch.minibatches(0.9))

    model.learn = learn
    with pytest.raises(RuntimeError, match="a step is under way"):
        fit(model, data)


@pytest.mark.parametrize("vectorization", ["sync", "auto"])
def test_environments_that_could_not_step_meanwhile_are_refused(vectorization):
    message = r"^overlap=True is not allowed: only environments in processes of their own .*give vectorization=async"
    with pytest.raises(UsageError, match=message) as caught:
        echo_data(vectorization=vectorization)
    assert "\n" not in str(caught.value)
