import math

import gymnasium as gym
import pytest
import torch
from gymnasium.wrappers import FrameStackObservation
from toys import CounterEnv, counter_data, make_collector, make_trainer, tiny_sac

from rl_lightning import ReplayDataModule, UsageError
from rl_lightning.data.base import EpisodeLoader


def stacked_counter():
    return FrameStackObservation(CounterEnv(), 3)


if "StackedCounter-v0" not in gym.registry:
    gym.register("StackedCounter-v0", stacked_counter)


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
        ("n_step", 0),
        ("priority_alpha", -0.1),
        ("priority_alpha", math.nan),
        ("priority_alpha", math.inf),
        ("priority_beta", -0.1),
        ("priority_beta", 1.1),
        ("priority_beta", math.nan),
        ("env_steps_per_batch", 0),
        ("env_steps_per_batch", -1),
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


@pytest.mark.parametrize(("given", "taken"), [(1, 6), (6, 6), (7, 12)])
def test_a_batch_is_whole_iterations(given, taken):
    data = counter_data(num_envs=3, train_freq=2, env_steps_per_batch=given, env_steps_per_epoch=12)
    assert data.env_steps_per_batch == taken
    assert data.iterations_per_batch == taken // 6


def test_an_epoch_must_hold_a_batch():
    with pytest.raises(UsageError, match=r"env_steps_per_epoch=5 .*environment steps of one batch, 6"):
        counter_data(env_steps_per_batch=6, env_steps_per_epoch=5)


def test_a_buffer_is_on_the_device_or_in_a_file():
    with pytest.raises(UsageError, match=r"^buffer_file='x' is not allowed: with buffer_on_device .* give one"):
        counter_data(buffer_on_device=True, buffer_file="x")


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


def test_an_epochs_batches_may_be_of_several_iterations():
    data = counter_data(num_envs=2, train_freq=3, env_steps_per_epoch=30, env_steps_per_batch=12)
    data.setup("fit")
    assert len(data.train_dataloader()) == 2


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


@pytest.mark.parametrize(("learning_starts", "rows"), [(2, 1), (12, 6), (13, 7)])
def test_random_steps_fill_the_buffer_when_a_collector_is_attached(learning_starts, rows):
    data = counter_data(num_envs=2, learning_starts=learning_starts)
    data.setup("fit")
    data.attach(make_collector(data))
    assert len(data.buffer) == data.clock.env_steps == 2 * rows
    assert [len(env.log) for env in CounterEnv.stepped()] == [rows, rows]
    data.detach()


def test_each_process_takes_its_share_of_the_random_steps():
    data = counter_data(num_envs=2, learning_starts=12)
    data.setup("fit")
    data.attach(make_collector(data, processes=3))
    assert data.clock.env_steps == 12
    assert len(data.buffer) == 2 * 2
    data.detach()


def test_a_collector_that_is_attached_anew_ends_the_episodes_in_the_buffer_and_takes_no_random_steps():
    data = counter_data(env_kwargs={"length": 50}, num_envs=2)
    data.setup("fit")
    data.attach(make_collector(data))
    data.detach()
    assert not data.buffer.storage.truncated[:6].any()
    CounterEnv.made.clear()
    data.attach(make_collector(data))
    assert CounterEnv.stepped() == []
    assert data.buffer.storage.truncated[:6].tolist() == [[False, False]] * 5 + [[True, True]]
    data.draw(0.9)
    assert [len(env.log) for env in CounterEnv.stepped()] == [1, 1]
    data.detach()


def test_environments_are_closed_when_the_collector_is_detached_and_nothing_gathers_any_more():
    data = counter_data(num_envs=2)
    data.setup("fit")
    with pytest.raises(RuntimeError, match="no Collector is attached: EnvironmentInteraction attaches one"):
        data.draw(0.9)
    data.attach(make_collector(data))
    assert not any(env.closed for env in CounterEnv.stepped())
    for _ in range(2):
        data.detach()
        assert all(env.closed for env in CounterEnv.made)
        with pytest.raises(RuntimeError, match="no Collector is attached"):
            _ = data.collector


def filled(**settings):
    """A DataModule that has been trained with."""
    data = counter_data(**settings)
    make_trainer().fit(tiny_sac(data.observation_space, data.action_space), datamodule=data)
    return data


def test_a_run_can_start_from_the_buffer_of_another(tmp_path):
    old = filled()
    torch.save(old.buffer.state_dict(), tmp_path / "buffer.pt")
    torch.save({"state_dict": {}, **{"ReplayDataModule": old.state_dict()}}, tmp_path / "run.ckpt")
    torch.save({"state_dict": {}, "MyDataModule": old.state_dict()}, tmp_path / "mine.ckpt")  # of a subclass
    saved = old.buffer.storage._asdict()
    for name in ("buffer.pt", "run.ckpt", "mine.ckpt"):
        torch.manual_seed(77)
        data = counter_data(buffer_from=str(tmp_path / name))
        assert data.buffer_from
        data.setup("fit")
        CounterEnv.made.clear()
        data.attach(make_collector(data))
        assert CounterEnv.made
        assert CounterEnv.stepped() == []
        assert data.clock.env_steps == 0
        assert len(data.buffer) == 120
        for field, value in data.buffer.storage._asdict().items():
            if field != "truncated":  # its newest row ends an episode
                assert torch.equal(value[:120], saved[field][:120])
        # this run draws as its own seed says
        assert torch.equal(data.buffer.generator.get_state(), torch.Generator().manual_seed(77).get_state())


def test_random_steps_are_not_taken_when_a_run_starts_from_a_buffer(tmp_path):
    torch.save(filled().buffer.state_dict(), tmp_path / "buffer.pt")
    CounterEnv.made.clear()
    data = filled(total_env_steps=20, buffer_from=str(tmp_path / "buffer.pt"))
    assert len(data.buffer) == 140
    assert sum(len(env.log) for env in CounterEnv.made) == 20


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "checkpoint .* does not exist"),
        (b"garbage", "checkpoint .* is no whole checkpoint"),
        ({"state_dict": {}}, "it holds no replay buffer"),
        ({"ReplayDataModule": {}}, "it holds no replay buffer"),
        ([1, 2], "it holds no replay buffer"),
        (print, "checkpoint .* holds more than"),
    ],
)
def test_a_file_that_holds_no_buffer_is_refused_before_the_run(tmp_path, content, says):
    path = tmp_path / "file"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    data = counter_data(buffer_from=str(path))
    data.setup("validate")  # which needs none
    with pytest.raises(UsageError, match=rf"^buffer_from='.*file' is not allowed: {says}") as caught:
        data.setup("fit")
    assert "\n" not in str(caught.value)


def test_a_buffer_of_another_number_of_environments_is_refused_before_the_run(tmp_path):
    torch.save(filled().buffer.state_dict(), tmp_path / "buffer.pt")
    with pytest.raises(UsageError, match="with the num_envs and environment it had"):
        counter_data(num_envs=2, buffer_from=str(tmp_path / "buffer.pt")).setup("fit")


def test_a_buffer_can_live_in_a_file_that_only_training_makes(tmp_path):
    file = tmp_path / "replay"
    data = counter_data(buffer_file=str(file))
    data.setup("test")
    assert not file.exists()
    data.setup("fit")
    assert file.stat().st_size == data.buffer.nbytes
    again = counter_data(buffer_file=str(file))
    again.setup("test")
    with pytest.raises(UsageError, match=r"^buffer_file='.*replay' is not allowed: it exists already"):
        again.setup("fit")


def test_settings_of_the_buffer_reach_it():
    data = counter_data(n_step=3, priority_alpha=0.5)
    data.setup("fit")
    assert data.buffer.n_step == 3
    assert "priorities" in data.buffer.state_dict()
    assert data.buffer.device == torch.device("cpu")
    plain = counter_data()
    plain.setup("fit")
    assert plain.buffer.n_step == 1
    assert "priorities" not in plain.buffer.state_dict()


def test_a_buffer_on_the_device_is_on_the_trainers():
    data = counter_data(buffer_on_device=True)
    data.trainer = make_trainer()
    data.trainer.strategy._root_device = torch.device("meta")
    data.setup("fit")
    assert data.buffer.storage.obs.device == torch.device("meta")


def test_frames_of_stacked_observations_are_kept_once():
    assert counter_data().frame_stack == 1
    stacked = ReplayDataModule("StackedCounter-v0", learning_starts=12, total_env_steps=120, batch_size=8)
    assert stacked.frame_stack == 3
    stacked.setup("fit")
    assert stacked.buffer.storage.obs == {}


def test_a_run_that_goes_on_without_its_buffer_and_has_no_time_to_learn_again_is_refused(tmp_path):
    def make(total):
        data = counter_data(save_buffer=False, learning_starts=20, total_env_steps=total)
        return tiny_sac(data.observation_space, data.action_space), data

    trainer, path = make_trainer(), tmp_path / "last.ckpt"
    trainer.fit(*make(40))
    trainer.save_checkpoint(path)
    message = (
        r"^learning_starts=20 is not allowed: the checkpoint has no replay buffer, so random steps come first again, "
        r"and the run has 20 steps left: nothing would be learned; give more total_env_steps, or buffer_from$"
    )
    with pytest.raises(UsageError, match=message):
        make_trainer().fit(*make(60), ckpt_path=path)
    model, data = make(62)
    make_trainer().fit(model, data, ckpt_path=path)
    assert model.gradient_steps > 20
    assert data.clock.env_steps == 62
