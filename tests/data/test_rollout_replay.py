"""Rollouts with a replay buffer beside them: what enters it, how much is drawn, and what a checkpoint keeps."""

from functools import partial

import pytest
import torch
from toys import TINY, CounterEnv, make_collector, make_trainer

from rl_lightning import A2C, OffPolicyCritic, QProp, RolloutDataModule, RolloutReplayDataModule, UsageError

counter = partial(RolloutReplayDataModule, "toys:Counter-v0", rollout_steps=5, total_env_steps=100, replay_batch_size=3)


def gathering(rollouts=1, **settings):
    """Data with a collector, after so many rollouts, and the rollouts."""
    CounterEnv.made.clear()
    data = counter(**settings)
    data.setup("fit")
    data.attach(make_collector(data))
    return data, [data.rollout() for _ in range(rollouts)]


def test_every_step_of_a_rollout_enters_the_buffer_once_as_it_came():
    data, rollouts = gathering(3, num_envs=2)
    stored = data.buffer.storage
    assert len(data.buffer) == 3 * 5 * 2
    for name in ("obs", "action", "reward", "next_obs", "terminated", "truncated"):
        told = torch.cat([getattr(rollout, name) for rollout in rollouts])  # [15, 2, ...]
        assert torch.equal(getattr(stored, name)[:15], told)


def test_no_stored_row_crosses_an_episode():
    data, _ = gathering(6, num_envs=2)
    obs, next_obs = data.buffer.storage.obs[:30], data.buffer.storage.next_obs[:30]  # (episode, t)
    assert torch.equal(next_obs[..., 0], obs[..., 0])
    assert torch.equal(next_obs[..., 1], obs[..., 1] + 1)


def test_rollouts_are_those_of_a_rollout_data_module():
    _, rollouts = gathering(2, num_envs=2)
    plain = RolloutDataModule("toys:Counter-v0", rollout_steps=5, total_env_steps=100, num_envs=2)
    torch.manual_seed(0)
    plain.attach(make_collector(plain))
    assert [one.obs.shape for one in rollouts] == [plain.rollout().obs.shape] * 2


@pytest.mark.parametrize(("ratio", "minibatches"), [(1.0, 10), (0.3, 3), (7.0, 70), (0.1, 1)])
def test_replay_ratio_counts_minibatches_for_each_environment_step(ratio, minibatches):
    data, _ = gathering(1, num_envs=2, replay_ratio=ratio)
    drawn = [*data.replayed(0.9, torch.device("cpu"))]
    assert len(drawn) == minibatches
    assert all(batch.obs.shape == (3, 2) and batch.reward.shape == (3,) for batch in drawn)
    assert all((batch.discount == 0.9).all() for batch in drawn)


def test_replay_gives_older_rollouts_too_until_they_are_overwritten():
    data, rollouts = gathering(4, buffer_size=10, replay_ratio=40.0)
    kept = {tuple(row) for rollout in rollouts[2:] for row in rollout.obs.flatten(0, 1).tolist()}
    drawn = {tuple(row) for batch in data.replayed(0.9, torch.device("cpu")) for row in batch.obs.tolist()}
    assert drawn == kept


def test_observations_of_replay_are_as_many_as_asked_for():
    data, rollouts = gathering(1)
    told = {tuple(row) for row in rollouts[0].obs.flatten(0, 1).tolist()}
    drawn = data.replayed_observations(50)
    assert drawn.shape == (50, 2)
    assert {tuple(row) for row in drawn.tolist()} == told


def test_rollouts_alone_give_no_minibatches_and_no_observations_of_replay():
    data = RolloutDataModule("toys:Counter-v0", total_env_steps=100)
    assert [*data.replayed(0.9, torch.device("cpu"))] == []
    with pytest.raises(RuntimeError, match="keeps no replay"):
        data.replayed_observations(1)


def learned(data, trainer=None, ckpt_path=None):
    torch.manual_seed(0)
    model = A2C(
        *(data.observation_space, data.action_space),
        network=TINY,
        estimator=QProp,
        critic=partial(OffPolicyCritic, network=TINY),
        normalize_observations=True,
        compile=False,
    )
    trainer = trainer or make_trainer()
    trainer.fit(model, data, ckpt_path=ckpt_path)
    return model, trainer


@pytest.mark.parametrize("save_buffer", [True, False])
def test_a_resumed_run_goes_on_with_the_buffer_unless_it_was_left_out(tmp_path, save_buffer):
    make = partial(counter, num_envs=2, save_buffer=save_buffer)
    data = make(total_env_steps=50)
    _, trainer = learned(data)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    before = data.buffer.storage.obs[:25].clone()
    again = make(total_env_steps=70)
    learned(again, ckpt_path=tmp_path / "last.ckpt")
    assert len(again.buffer) == (70 if save_buffer else 20)
    assert torch.equal(again.buffer.storage.obs[:25], before) == save_buffer


def test_a_resumed_second_run_has_as_much_room_as_it_began_with():
    data, _ = gathering(20)
    data.setup("fit")  # for a second run, beside the 100 transitions of the first
    again = counter()
    again.setup("fit")
    again.load_state_dict(data.state_dict())
    assert again.buffer.rows == data.buffer.rows >= 200


def test_a_checkpoint_has_the_critic(tmp_path):
    data = counter(total_env_steps=50)
    model, trainer = learned(data)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    again = A2C(
        *(data.observation_space, data.action_space),
        network=TINY,
        estimator=QProp,
        critic=partial(OffPolicyCritic, network=TINY),
        normalize_observations=True,
    )
    again.load_weights(tmp_path / "last.ckpt")
    mine, theirs = (m.policy_gradient.critic.state_dict() for m in (again, model))
    assert {name.split(".")[0] for name in theirs} == {"q", "target_q"}
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rollout_steps": None}, "rollout_steps=None is not allowed"),
        ({"replay_ratio": 0.0}, "replay_ratio=0.0 is not allowed"),
        ({"replay_ratio": 0.05}, "replay_ratio=0.05 is not allowed"),
        ({"replay_ratio": 0.5}, "replay_ratio=0.5 is not allowed: .* = 2.5 minibatches a rollout; make it a whole"),
        ({"replay_ratio": float("nan")}, "replay_ratio=nan is not allowed"),
        ({"replay_ratio": float("inf")}, "replay_ratio=inf is not allowed"),
        ({"replay_batch_size": 0}, "replay_batch_size=0 is not allowed"),
        ({"buffer_size": 2}, "buffer_size=2 is not allowed: it must hold a minibatch; give 3 or more"),
    ],
)
def test_a_setting_out_of_range_is_refused(settings, message):
    with pytest.raises(UsageError, match=f"^{message}"):
        counter(**settings)
