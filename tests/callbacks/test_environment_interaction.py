import csv
from functools import partial

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from toys import LINEAR, CounterEnv, GradientSteps, counter_data, fit, make_trainer, noise_data, tiny_sac

from rl_lightning import MLP, SAC, Divergence, EnvironmentFault, EnvironmentInteraction, ReplayDataModule, UsageError


def train(data, trainer=None):
    model = tiny_sac(data.observation_space, data.action_space)
    return model, fit(model, data, trainer)


def test_the_buffer_holds_every_real_step_and_nothing_else():
    data = counter_data(num_envs=3, total_env_steps=240)
    train(data)
    stored, rows = data.buffer.storage, data.buffer.filled_rows
    envs = CounterEnv.stepped()
    assert len(envs) == 3
    assert len(data.buffer) == sum(len(env.log) for env in envs) == 240
    for env in envs:  # reset at each end, and nowhere else
        ends = sum(step.terminated or step.truncated for step in env.log)
        assert len(env.seeds) == 1 + ends > 5
    for column, env in enumerate(envs):
        for name in ("obs", "next_obs", "reward", "terminated"):
            actual = getattr(stored, name)[:rows, column].numpy()
            np.testing.assert_array_equal(actual, np.stack([getattr(step, name) for step in env.log]), name)


@pytest.mark.parametrize("num_envs", [1, 4])
@pytest.mark.parametrize("reuse_array", [False, True])
def test_the_buffer_never_crosses_episodes(num_envs, reuse_array):
    data = counter_data(num_envs=num_envs, env_kwargs={"reuse_array": reuse_array})
    train(data)
    rows = data.buffer.filled_rows
    obs, next_obs = data.buffer.storage.obs[:rows], data.buffer.storage.next_obs[:rows]
    assert torch.equal(next_obs[..., 0], obs[..., 0])
    assert torch.equal(next_obs[..., 1], obs[..., 1] + 1)
    # an aliased array would repeat one row
    assert len(obs.flatten(0, 1).unique(dim=0)) == len(data.buffer)


def test_a_vector_of_processes_stores_the_same_transitions():
    stored = []
    for vectorization in ("sync", "async"):
        torch.manual_seed(3)
        data = counter_data(num_envs=2, vectorization=vectorization, total_env_steps=40, replay_ratio=0.5)
        train(data)
        rows = data.buffer.filled_rows
        stored.append([field[:rows].clone() for field in data.buffer.storage])
    assert all(torch.equal(one, other) for one, other in zip(*stored, strict=True))


def test_the_end_of_an_episode_is_stored_as_terminated_only_where_it_is():
    data = counter_data(num_envs=2)
    train(data)
    stored, rows = data.buffer.storage, data.buffer.filled_rows
    episode, t = stored.next_obs[:rows].unbind(-1)
    done = t == 2 + episode % 5
    # CounterEnv: terminated, truncated, or both at once, which counts as terminated
    assert torch.equal(stored.terminated[:rows], done & (episode % 3 != 1))
    assert (done & (episode % 3 == 1)).any()


def test_the_actor_sees_the_reset_observation_and_the_buffer_the_final_one():
    data = counter_data(num_envs=3, learning_starts=12)
    model = tiny_sac(data.observation_space, data.action_space)
    seen, act = [], model.act

    def spy(obs, deterministic=False):
        assert not deterministic
        seen.append(obs.clone())
        return act(obs, deterministic)

    model.act = spy
    fit(model, data)
    random_rows, rows = 12 // 3, data.buffer.filled_rows
    assert torch.equal(torch.stack(seen), data.buffer.storage.obs[random_rows:rows])
    episode, t = torch.stack(seen).unbind(-1)
    assert (t < 2 + episode % 5).all(), "the actor was asked to act at an episode's end"
    starts = sum(step.obs[1] == 0 for env in CounterEnv.stepped() for step in env.log[random_rows:])
    assert (t == 0).sum() == starts > 0


def test_the_buffer_stores_the_policys_action_and_the_environment_gets_it_rescaled():
    data = counter_data()
    train(data)
    stored = data.buffer.storage.action[: data.buffer.filled_rows, 0].numpy()
    given = np.stack([step.action for step in CounterEnv.stepped()[0].log])
    assert (np.abs(stored) <= 1.0).all()
    np.testing.assert_allclose(given, np.array([-1.0, 0.0]) + (stored + 1) / 2 * np.array([4.0, 10.0]), atol=1e-5)


def test_learning_starts_with_random_actions_over_the_whole_range():
    data = counter_data(learning_starts=400, total_env_steps=401)
    model = tiny_sac(data.observation_space, data.action_space)
    acted = []
    model.act = lambda obs, deterministic=False: acted.append(obs) or torch.zeros(1, 2)
    fit(model, data)
    assert len(acted) == 1
    actions = data.buffer.storage.action[:400, 0]
    assert torch.allclose(actions.mean(0), torch.zeros(2), atol=5 * (1 / 3 / 400) ** 0.5)
    assert torch.allclose(actions.var(0), torch.full((2,), 1 / 3), atol=0.06)


@pytest.mark.parametrize(
    ("num_envs", "train_freq", "replay_ratio"), [(1, 1, 1.0), (1, 4, 0.5), (3, 2, 1.0), (3, 1, 2.0)]
)
def test_the_replay_ratio_counts_gradient_steps_for_each_environment_step(num_envs, train_freq, replay_ratio):
    data = counter_data(num_envs=num_envs, train_freq=train_freq, replay_ratio=replay_ratio, total_env_steps=84)
    counter = GradientSteps()
    _, trainer = train(data, make_trainer([counter]))
    assert data.clock.env_steps == len(data.buffer) == 84
    assert counter.count == replay_ratio * (84 - 12)
    assert trainer.global_step == 3 * counter.count


@pytest.mark.parametrize("env_steps_per_epoch", [10, 33, 10_000])
def test_a_run_ends_at_total_env_steps_whatever_the_epoch(env_steps_per_epoch):
    data = counter_data(env_steps_per_epoch=env_steps_per_epoch, total_env_steps=101)
    _, trainer = train(data)
    assert data.clock.env_steps == len(CounterEnv.stepped()[0].log) == 101
    assert data.clock.env_steps == trainer.lightning_module.env_steps


def test_a_run_that_iterations_do_not_divide_ends_within_one_of_them():
    data = counter_data(num_envs=3, train_freq=2, learning_starts=10, total_env_steps=100)
    train(data)
    # 10 random steps need 4 rows of 3; then iterations of 6
    assert data.clock.env_steps == sum(len(env.log) for env in CounterEnv.stepped()) == 12 + 15 * 6


def test_an_epoch_is_env_steps_per_epoch_environment_steps():
    data = counter_data(num_envs=2, env_steps_per_epoch=20, learning_starts=12, total_env_steps=72)
    model = tiny_sac(data.observation_space, data.action_space)
    ends = []
    model.on_train_epoch_end = lambda: ends.append(model.env_steps)
    fit(model, data)
    assert ends == [32, 52, 72]


def test_each_batch_is_sampled_after_the_collection_that_precedes_it():
    data = counter_data(total_env_steps=40)
    sizes, model = [], tiny_sac(data.observation_space, data.action_space)
    data.setup("fit")
    sample = data.buffer.sample

    def spy(*arguments):
        sizes.append(len(data.buffer))
        return sample(*arguments)

    data.buffer.sample = spy
    fit(model, data)
    assert sizes == list(range(13, 41))


@pytest.mark.parametrize("make_data", [counter_data, noise_data], ids=["counter", "noise"])
def test_two_runs_with_one_seed_are_bit_equal_and_another_seed_differs(make_data):
    runs = []
    for seed in (7, 7, 8):
        torch.manual_seed(seed)
        data = make_data(num_envs=3, total_env_steps=60)
        model, _ = train(data)
        rows = data.buffer.filled_rows
        runs.append([*(field[:rows].clone() for field in data.buffer.storage), *model.state_dict().values()])
    assert all(torch.equal(one, other) for one, other in zip(runs[0], runs[1], strict=True))
    assert not any(torch.equal(runs[0][field], runs[2][field]) for field in (0, 1))
    assert not torch.equal(runs[0][-1], runs[2][-1])


def test_environments_of_a_vector_get_distinct_seeds_once():
    data = counter_data(num_envs=4)
    train(data)
    envs = CounterEnv.stepped()
    assert len({env.seeds[0] for env in envs}) == 4
    assert len({float(env.log[0].obs[0]) for env in envs}) == 4
    assert all(len(env.seeds) > 1 and set(env.seeds[1:]) == {None} for env in envs)


def test_each_process_and_each_resumed_run_begins_with_episodes_of_its_own(tmp_path):
    def first_observations(total_env_steps, rank=0, resumed_from=None):
        torch.manual_seed(5)
        CounterEnv.made.clear()
        data = counter_data(num_envs=2, total_env_steps=total_env_steps)
        model, trainer = tiny_sac(data.observation_space, data.action_space), make_trainer()
        trainer.strategy.global_rank = rank  # one process is enough to be the second
        trainer.fit(model, datamodule=data, ckpt_path=resumed_from)
        trainer.save_checkpoint(tmp_path / f"{total_env_steps}.ckpt")
        return [float(env.log[0].obs[0]) for env in CounterEnv.stepped()]

    first = first_observations(40)
    assert first == first_observations(40)
    second = first_observations(60, rank=1)
    assert second == first_observations(60, rank=1)
    resumed = first_observations(50, resumed_from=tmp_path / "40.ckpt")
    assert resumed == first_observations(56, resumed_from=tmp_path / "40.ckpt")
    later = first_observations(70, resumed_from=tmp_path / "50.ckpt")
    assert len({*first, *second, *resumed, *later}) == 8


def test_evaluation_in_a_run_touches_neither_the_training_environments_nor_the_counts():
    stored = []
    for validate in (False, True):
        CounterEnv.made.clear()
        torch.manual_seed(5)
        data = counter_data(env_steps_per_epoch=20, total_env_steps=72, eval_episodes=3)
        model, trainer = train(data, make_trainer(validate=validate))
        assert data.clock.env_steps == len(data.buffer) == 72
        assert len(CounterEnv.stepped()[0].log) == 72
        assert ("val/return_mean" in trainer.callback_metrics) is validate
        stored.append([*(field[:72].clone() for field in data.buffer.storage), *model.state_dict().values()])
    assert all(torch.equal(one, other) for one, other in zip(*stored, strict=True))


class Recorder(nn.Module):
    """A body that notes in which mode it is called."""

    calls: list = []  # noqa: RUF012
    moment = "learn"

    def __init__(self, in_features, out_features):
        super().__init__()
        self.linear = nn.Linear(in_features, out_features)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        Recorder.calls.append((Recorder.moment, self.training, torch.is_grad_enabled()))
        return self.linear(self.dropout(x))


def test_acting_is_in_eval_mode_without_gradients_and_learning_in_train_mode_with_them():
    Recorder.calls.clear()
    data = counter_data(env_steps_per_epoch=20, total_env_steps=60, eval_episodes=2)
    model = SAC(data.observation_space, data.action_space, network=Recorder, compile=False)
    act = model.act

    def spy(obs, deterministic=False):
        Recorder.moment = "evaluate" if deterministic else "collect"
        action = act(obs, deterministic)
        Recorder.moment = "learn"
        assert not action.requires_grad
        return action

    model.act = spy
    fit(model, data, make_trainer(validate=True))
    assert set(Recorder.calls) == {("collect", False, False), ("evaluate", False, False), ("learn", True, True)}


class Merging(nn.Module):
    """A body with a `train` of its own, as adapters have that merge their weights in eval mode."""

    calls: list = []  # noqa: RUF012

    def __init__(self, in_features, out_features):
        super().__init__()
        self.linear, self.merged = nn.Linear(in_features, out_features), False

    def train(self, mode=True):
        self.merged = not mode
        return super().train(mode)

    def forward(self, x):
        Merging.calls.append((self.training, self.linear.training, self.merged))
        return self.linear(x)


class FrozenNorm(nn.BatchNorm1d):
    """Statistics that stay as they are from the first call of `train` or `eval` on."""

    def train(self, mode=True):
        return super().train(False)


def compiled(in_features, out_features):
    return torch.compile(nn.Sequential(nn.Linear(in_features, 8), nn.Linear(8, out_features)), backend="eager")


def test_a_network_with_a_train_of_its_own_changes_its_mode_by_it():
    Merging.calls.clear()
    data = counter_data(total_env_steps=20)
    fit(SAC(data.observation_space, data.action_space, network=Merging, compile=False), data)
    assert set(Merging.calls) == {(False, False, True), (True, True, False)}


def test_a_norm_that_refuses_train_mode_stays_in_eval_mode():
    data = counter_data(total_env_steps=20)
    network = lambda inputs, outputs: nn.Sequential(FrozenNorm(inputs), nn.Linear(inputs, outputs))  # noqa: E731
    model = SAC(data.observation_space, data.action_space, network=network, compile=False)
    fit(model, data)
    norms = [module for module in model.modules() if isinstance(module, FrozenNorm)]
    assert len(norms) == 5
    for norm in norms:
        assert not norm.training
        assert not norm.running_mean.any()
        assert norm.num_batches_tracked == 0
    assert model.training
    assert model.policy.body[1].training


def test_a_compiled_network_acts_in_eval_mode_and_learns_in_train_mode():
    data = counter_data(total_env_steps=20)
    model = SAC(data.observation_space, data.action_space, network=compiled, compile=False)
    modes, act, gradients = [], model.act, model.gradients

    def mode():
        body = model.policy.body
        return body.training, body._orig_mod.training, body._orig_mod[0].training

    model.act = lambda obs, deterministic=False: modes.append(("act", *mode())) or act(obs, deterministic)
    model.gradients = lambda batch: modes.append(("learn", *mode())) or gradients(batch)
    fit(model, data)
    assert modes == [("act", False, False, False), ("learn", True, True, True)] * 8


def read_rows(logger):
    with open(f"{logger.log_dir}/metrics.csv") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("reward_scale", [1.0, 10.0])
@pytest.mark.parametrize("num_envs", [1, 3])
def test_the_logged_return_is_the_raw_undiscounted_return_of_the_episodes_since_the_last_row(
    tmp_path, num_envs, reward_scale
):
    data = counter_data(num_envs=num_envs, total_env_steps=132)
    model = tiny_sac(data.observation_space, data.action_space, reward_scale=reward_scale)
    logger = CSVLogger(tmp_path)
    fit(model, data, make_trainer(logger=logger, log_every_n_steps=5))
    rows = read_rows(logger)
    assert [int(float(row["env_steps"])) for row in rows][:3] == [12 + 5 * num_envs * i for i in (1, 2, 3)]
    last_row = random_steps = 12 // num_envs
    for row in rows:
        until = int(float(row["env_steps"])) // num_envs
        finished = [
            int(step.next_obs[1])  # a CounterEnv episode of length T returns 1 + 2 + ... + T
            for env in CounterEnv.stepped()
            for t, step in enumerate(env.log[last_row:until], start=last_row + 1)
            if (step.terminated or step.truncated) and t - step.next_obs[1] >= random_steps
        ]
        last_row = until
        if finished:
            assert float(row["train/return"]) == pytest.approx(np.mean([t * (t + 1) / 2 for t in finished]))
            assert float(row["train/episode_length"]) == pytest.approx(np.mean(finished))
        else:
            assert row["train/return"] == ""
    assert last_row * num_envs == 132, "the last row is at the end of the run"


@pytest.mark.parametrize(
    ("learning_starts", "counted"), [(6, [14, 21, 28]), (7, [14, 21, 28]), (8, [21, 28]), (13, [21, 28]), (15, [28])]
)
def test_episodes_with_random_steps_in_them_are_left_out_of_the_logged_return(tmp_path, learning_starts, counted):
    data = counter_data(env_kwargs={"length": 7}, learning_starts=learning_starts, total_env_steps=30)
    logger = CSVLogger(tmp_path)
    train(data, make_trainer(logger=logger, log_every_n_steps=1))
    rows = [row for row in read_rows(logger) if row["train/return"]]
    assert [int(row["env_steps"]) for row in rows] == counted  # episodes end at 7, 14, 21 and 28
    assert {(float(row["train/return"]), float(row["train/episode_length"])) for row in rows} == {(28.0, 7.0)}


@pytest.mark.parametrize("times", [1, 2])
def test_every_row_carries_env_steps_also_of_a_logger_that_is_given_twice(tmp_path, times):
    data = counter_data(env_steps_per_epoch=30, total_env_steps=102, eval_episodes=2)
    logger = CSVLogger(tmp_path)
    train(data, make_trainer(logger=[logger] * times, validate=True))
    rows = read_rows(logger)
    assert all(row["env_steps"] and float(row["env_steps"]) == float(row["step"]) for row in rows)
    evaluated = [int(float(row["env_steps"])) for row in rows if row.get("val/return_mean")]
    assert sorted(evaluated) == sorted([42, 72, 102] * times)
    assert all(row["train/q_loss"] for row in rows if not row.get("val/return_mean"))


class StandingTime:
    """Stands still, but for what says that it takes time; in seconds."""

    now = 0.0

    def __call__(self):
        return self.now

    def taken_in(self, hook, seconds):
        """A callback that takes so long in this hook."""
        callback = Callback()
        setattr(callback, hook, lambda *arguments: self.spend(seconds))
        return callback

    def spend(self, seconds):
        self.now += seconds


@pytest.mark.parametrize(
    ("slow_hook", "validate"),
    [
        ("on_save_checkpoint", False),
        ("on_save_checkpoint", True),
        ("on_train_epoch_end", False),
        ("on_train_epoch_end", True),
        ("on_validation_start", True),
        ("on_validation_end", True),
    ],
)
def test_the_speed_is_of_collection_and_learning_alone(tmp_path, monkeypatch, slow_hook, validate):
    time = StandingTime()
    monkeypatch.setattr("time.monotonic", time)
    data = counter_data(env_steps_per_epoch=20, total_env_steps=72, eval_episodes=2)
    model, logger = tiny_sac(data.observation_space, data.action_space), CSVLogger(tmp_path)
    act = model.act

    def slow_in_evaluation(obs, deterministic=False):
        time.spend(1000.0 if deterministic else 1.0)
        return act(obs, deterministic)

    model.act = slow_in_evaluation
    callbacks = [
        time.taken_in("on_gradient_step_end", 3.0),
        time.taken_in(slow_hook, 1000.0),
        ModelCheckpoint(tmp_path, filename="epoch"),
        ModelCheckpoint(tmp_path, filename="batch", every_n_train_steps=3 * 7),  # every 7 batches, of 3 optimizers
    ]
    fit(model, data, make_trainer(callbacks, logger, validate, log_every_n_steps=5))
    assert time.now >= (1 + 3) * 60 + 3 * 1000, "the hook was called in each of 3 epochs"
    speeds = [float(row["time/env_steps_per_second"]) for row in read_rows(logger) if row["train/q_loss"]]
    assert speeds == [1 / (1 + 3)] * (60 // 5)


def test_a_diverged_policy_ends_the_run_with_a_message():
    data = counter_data()
    model = tiny_sac(data.observation_space, data.action_space)
    model.act = lambda obs, deterministic=False: torch.full((1, 2), torch.nan)
    with pytest.raises(Divergence, match=r"policy's action .*nan.* at environment step 12 is not finite"):
        fit(model, data)


def test_an_environment_that_breaks_ends_the_run_naming_the_place():
    data = ReplayDataModule(
        "toys:Broken-v0",
        {"fault": "nan reward", "at": 9},
        num_envs=2,
        learning_starts=4,
        total_env_steps=50,
        batch_size=4,
        buffer_size=50,
    )
    with pytest.raises(EnvironmentFault, match=r"environment 0 .*Broken-v0.* at its step 9 returned reward nan"):
        train(data)


def test_environments_are_closed_after_an_error():
    data = counter_data(num_envs=2, eval_episodes=2, env_steps_per_epoch=20)
    model = tiny_sac(data.observation_space, data.action_space)
    evaluated = []
    model.on_validation_epoch_end = lambda: evaluated.append(model.env_steps)
    act = model.act
    model.act = lambda obs, deterministic=False: act(obs, deterministic) * (torch.nan if evaluated else 1.0)
    with pytest.raises(Divergence):
        fit(model, data, make_trainer(validate=True))
    assert [sum(env.closed for env in CounterEnv.made), len(CounterEnv.made)] == [1 + 2 + 2, 1 + 2 + 2]


@pytest.mark.parametrize(("fault", "at"), [("reset", 0), ("step", 3), ("step", 20)])
def test_environments_are_closed_after_an_error_of_one_of_them(fault, at):
    # in the first reset, in the random steps, while learning
    data = counter_data(env_id="toys:Failing-v0", env_kwargs={"fault": fault, "at": at}, num_envs=2)
    with pytest.raises(EnvironmentFault, match=r"Failing-v0\) at its step .* raised OSError"):
        train(data)
    assert [env.closed for env in CounterEnv.made] == [True] * (1 + 2)
    with pytest.raises(RuntimeError, match="no Collector is attached"):
        _ = data.collector


def test_environments_are_closed_after_a_run():
    train(counter_data(num_envs=2, eval_episodes=2, env_steps_per_epoch=30), make_trainer(validate=True))
    assert len(CounterEnv.stepped()) > 2
    assert all(env.closed for env in CounterEnv.made)


def test_a_datamodule_without_a_replay_buffer_is_refused():
    class Other(LightningDataModule):
        def train_dataloader(self):
            return [0]

    data = counter_data()
    model = tiny_sac(data.observation_space, data.action_space)
    with pytest.raises(UsageError, match=r"datamodule=Other .*ReplayDataModule"):
        fit(model, Other())


def test_a_users_own_interaction_replaces_the_learners():
    class Mine(EnvironmentInteraction):
        pass

    data, mine = counter_data(), Mine()
    _, trainer = train(data, make_trainer([mine]))
    assert [c for c in trainer.callbacks if isinstance(c, EnvironmentInteraction)] == [mine]
    assert data.clock.env_steps == len(data.buffer) == 120


def test_a_network_factory_is_called_anew_for_each_network():
    data = counter_data()
    model = SAC(data.observation_space, data.action_space, network=partial(MLP, hidden_sizes=(4,)), compile=False)
    linear = SAC(data.observation_space, data.action_space, network=LINEAR, compile=False)
    for sac in (model, linear):
        storages = [parameter.data_ptr() for parameter in sac.parameters()]
        assert len(set(storages)) == len(storages)


@pytest.mark.parametrize("same_trainer", [True, False])
def test_a_fit_after_a_fit_opens_new_environments_counts_anew_and_goes_on_with_the_buffer(same_trainer):
    data = counter_data(num_envs=2, total_env_steps=60)
    model, trainer = train(data)
    first = CounterEnv.stepped()
    with pytest.raises(RuntimeError, match="no Collector is attached"):
        _ = data.collector
    assert all(env.closed for env in CounterEnv.made)
    fit(model, data, trainer if same_trainer else None)
    second = CounterEnv.stepped()[len(first) :]
    assert [len(env.log) for env in first] == [len(env.log) for env in second] == [30, 30]
    assert data.clock.env_steps == model.env_steps == 60
    assert model.gradient_steps == 60, "no random steps: the buffer is filled already"
    assert len(data.buffer) == 120
    assert (data.buffer.storage.truncated | data.buffer.storage.terminated)[29].all()
    assert all(env.closed for env in CounterEnv.made)
