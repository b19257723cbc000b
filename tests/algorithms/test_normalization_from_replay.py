"""Running statistics of learners from replay: what they count, where they act, and when they rest."""

from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.wrappers import TimeLimit
from learners import CASES, SMOOTH, called, clones, data_of, example, leaves, made, same
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from toys import counter_data, fit, make_trainer

from rl_lightning import SAC, TD3, ReplayDataModule, UsageError, export_policy, load_policy
from rl_lightning.spaces import learners_actions
from rl_lightning.types import Rollout

BOTH = {"normalize_observations": True, "normalize_returns": True}
SMALL: dict[str, Any] = {"network": SMOOTH, "compile": False, **BOTH}
OFF_POLICY = [case for case in CASES if case.learner.learns_from is ReplayDataModule]
each = pytest.mark.parametrize("case", OFF_POLICY, ids=called)


def rollout_of(obs: Any, reward: Any, next_obs: Any, terminated: Any, truncated: Any) -> Rollout:
    """Time steps of one environment with observations of one number."""
    numbers = [torch.tensor(x, dtype=torch.float32) for x in (obs, reward, next_obs)]
    flags = [torch.tensor(x).bool() for x in (terminated, truncated)]
    obs, reward, next_obs = numbers
    return Rollout(
        obs[:, None, None],
        torch.zeros(len(obs), 1),
        reward[:, None],
        next_obs[:, None, None],
        *(flag[:, None] for flag in flags),
    )


def learner(gamma: float = 0.5, shape: tuple[int, ...] = (1,)) -> SAC:
    spaces = gym.spaces.Box(-np.inf, np.inf, shape, np.float32), gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
    return SAC(*spaces, gamma=gamma, **SMALL)


def statistics(model: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items() if "normalizer" in name}


# What they count


def test_each_observation_counts_once_the_last_ones_of_episodes_too_and_returns_end_with_their_episode():
    model = learner()
    # an episode 1, 2, 3 that terminates, one 10, 20 that is cut off, and the begin of a third, 5
    model.observe([rollout_of([1, 2, 10], [4, 6, 8], [2, 3, 20], [0, 1, 0], [0, 0, 1])])
    model.observe([rollout_of([5], [2], [7], [0], [0])])
    [moments] = model.normalizer.moments
    seen, returns = [1, 2, 3, 10, 20, 5], [4, 0.5 * 4 + 6, 8, 2]
    assert moments.count.item() == 6
    assert moments.mean.item() == pytest.approx(sum(seen) / 6)
    assert moments.var.item() == pytest.approx(np.var(seen))
    assert model.return_normalizer.moments.count.item() == 4
    assert model.return_normalizer.moments.var.item() == pytest.approx(np.var(returns))
    model.observe([rollout_of([7], [1], [9], [0], [0])])
    assert model.return_normalizer.carried.tolist() == [0.5 * 2 + 1]  # the third episode goes on


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("settings", [{}, {"num_envs": 3, "train_freq": 4, "n_step": 3}, {"clip_rewards": True}])
def test_statistics_of_a_run_are_those_of_all_that_replay_holds_random_steps_too(settings, precision):
    data = counter_data(**{"total_env_steps": 60, "learning_starts": 30, "buffer_size": 200, **settings})
    model = SAC(data.observation_space, data.action_space, gamma=0.9, **SMALL)
    fit(model, data, make_trainer(validate=True, precision=precision))
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    held = data.buffer.storage
    rows = data.buffer.filled_rows
    assert rows == data.buffer.steps
    done = (held.terminated | held.truncated)[:rows].numpy()
    seen = np.concatenate([held.obs[:rows].numpy().reshape(-1, 2), held.next_obs[:rows].numpy()[done]]).astype(float)
    [moments] = model.normalizer.moments
    assert moments.count.item() == len(seen)
    np.testing.assert_allclose(moments.mean, seen.mean(0), rtol=1e-9)
    np.testing.assert_allclose(moments.var, seen.var(0), rtol=1e-9)
    running, returns = np.zeros(data.num_envs), []
    for reward, ended in zip(held.reward[:rows].numpy().astype(float), done, strict=True):
        running = 0.9 * running + reward
        returns.append(running)
        running = running * ~ended
    assert done.any()
    assert model.return_normalizer.moments.count.item() == rows * data.num_envs
    assert model.return_normalizer.moments.var.item() == pytest.approx(np.var(returns), rel=1e-9)


def test_statistics_and_scaled_rewards_are_those_of_vec_normalize_on_the_same_stream():
    """VecNormalize leaves out the last observations of episodes, so they are given to it by hand."""
    steps, rng = 150, np.random.default_rng(0)
    envs = VecNormalize(DummyVecEnv([lambda: TimeLimit(gym.make("Pendulum-v1"), 20)] * 3), gamma=0.9)
    envs.seed(0)
    envs.reset()
    obs, rows, scaled = envs.get_original_obs(), [], []
    for _ in range(steps):
        moments = envs.obs_rms.mean, envs.obs_rms.var  # before the step: of the observations that were acted on
        _, reward, done, infos = envs.step(rng.uniform(-2, 2, (3, 1)))
        following = envs.get_original_obs()
        last = [envs.unnormalize_obs(info["terminal_observation"]) for info in infos if "terminal_observation" in info]
        next_obs = following.copy()
        next_obs[done] = last if last else next_obs[done]
        rows.append((obs, envs.get_original_reward(), next_obs, done))
        scaled.append(reward)
        if last:
            envs.obs_rms.update(np.array(last))
        obs = following
    assert not done.any()
    model = learner(0.9, (3,))
    for row in rows:
        observed, reward, following, ended = (torch.from_numpy(np.asarray(x))[None] for x in row)
        model.observe([Rollout(observed, torch.zeros(1, 3, 1), reward, following, ended & False, ended)])
        wanted = model.return_normalizer(reward)
        np.testing.assert_allclose(wanted[0], scaled.pop(0), rtol=1e-3)
    [own] = model.normalizer.moments
    assert own.count.item() == steps * 3 + 3 * (steps // 20)
    np.testing.assert_allclose(own.mean, moments[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(own.var, moments[1], rtol=1e-4)
    assert model.return_normalizer.moments.var.item() == pytest.approx(envs.ret_rms.var, rel=1e-4)


def test_a_single_step_still_moves_statistics_of_ten_million():
    model = learner()
    [moments] = model.normalizer.moments
    moments.count += 1e7
    moments.mean += 100.0
    model.observe([rollout_of([101], [0], [0], [0], [0])])
    assert moments.mean.item() - 100.0 == pytest.approx(1e-7, rel=1e-3)


def test_a_buffer_to_start_from_gives_new_statistics_all_it_holds_and_loaded_ones_nothing(tmp_path):
    def run(buffer_from=None, weights=None):
        settings = {} if buffer_from else {"learning_starts": 30}
        data = counter_data(total_env_steps=40, buffer_from=buffer_from, buffer_size=200, **settings)
        model = SAC(data.observation_space, data.action_space, **SMALL)
        if weights:
            model.load_weights(weights)
        return fit(model, data), model, data

    trainer, model, data = run()
    trainer.save_checkpoint(path := tmp_path / "first.ckpt")
    held, count = data.buffer.steps, model.return_normalizer.moments.count.item()
    assert held == count == 40
    _, model, data = run(path)
    new = data.buffer.steps - held
    assert new == 40
    assert model.return_normalizer.moments.count.item() == held + new
    _, model, data = run(path, path)
    assert model.return_normalizer.moments.count.item() == count + new


def test_the_return_under_way_goes_on_with_its_episodes_alone():
    model, other = learner(), learner()
    model.observe([rollout_of([1], [4], [2], [0], [0])])
    other.load_acting_state(model.acting_state(), episodes_go_on=True)
    assert other.return_normalizer.carried.tolist() == [4.0]
    other = learner()
    other.load_acting_state(model.acting_state(), episodes_go_on=False)
    assert other.return_normalizer.carried.tolist() == 0.0


# Where they act


@each
def test_all_networks_and_targets_see_normalized_transitions_and_policies_normalized_observations(case):
    model, (batch, *rest) = example(case, **BOTH)
    plain = made(case)
    own = model.state_dict()
    plain.load_state_dict({name: own[name] for name in plain.state_dict()})
    [moments], returns = model.normalizer.moments, model.return_normalizer.moments

    def scaled(obs):
        return ((obs.double() - moments.mean) / (moments.var + 1e-8).sqrt()).clamp(-10, 10).float()

    assert (scaled(batch.obs) - batch.obs).abs().max() > 0.1
    reward = (batch.reward.double() / (returns.var + 1e-8).sqrt()).clamp(-10, 10).float()
    by_hand = batch._replace(obs=scaled(batch.obs), next_obs=scaled(batch.next_obs), reward=reward)
    found = []
    for one, given in ((model, batch), (plain, by_hand)):
        torch.manual_seed(1)
        found.append(one.gradients(given, *rest).detach())
        torch.manual_seed(1)
        found[-1] = found[-1], one.act(given.obs), one.act(given.obs, deterministic=True)
    torch.testing.assert_close([*leaves(found[0])], [*leaves(found[1])], rtol=1e-4, atol=1e-5)


def test_compiled_gradients_follow_moving_statistics_without_a_second_graph():
    with torch._inductor.config.patch(fallback_random=True), torch._dynamo.config.patch(error_on_recompile=True):
        model, batch = example(OFF_POLICY[2], compile=True, **BOTH)
        for _ in range(3):
            model.observe(
                [Rollout(*(10.0 * torch.randn(5, 2, *x.shape[1:]) for x in batch[0][:4]), *torch.zeros(2, 5, 2).bool())]
            )
            torch.manual_seed(1)
            compiled = model.compute_gradients(*batch)
            torch.manual_seed(1)
            torch.testing.assert_close([*leaves(compiled)], [*leaves(model.gradients(*batch).detach())])


@each
def test_an_exported_policy_acts_as_the_learner_does(case, tmp_path):
    model, (batch, *_) = example(case, normalize_observations=True)
    expected = model.act(batch.obs, deterministic=True).detach().numpy()
    policy = load_policy(export_policy(model, tmp_path / "policy"))
    _, to_environment = learners_actions(policy.action_space)
    assert to_environment is not None
    np.testing.assert_array_equal(policy(batch.obs.numpy()), to_environment(expected).astype(policy.action_space.dtype))


@each
def test_observations_without_real_numbers_are_refused(case):
    with pytest.raises(UsageError, match=r"^normalize_observations=True is not allowed with observation space "):
        made(case, data_of(case, "discrete"), normalize_observations=True)


# When they rest


def test_evaluation_leaves_them_and_reports_raw_returns():
    case = OFF_POLICY[2]
    data = data_of(case)
    model, trainer = made(case, data, **BOTH), make_trainer(validate=True)
    fit(model, data, trainer)
    before = statistics(model)
    assert before
    trainer.validate(model, data, verbose=False)
    trainer.test(model, data, verbose=False)
    trainer.predict(model, data)
    assert same(before, statistics(model))


def test_the_part_normalizers_moves_between_learners_of_one_observation_space(tmp_path):
    data = counter_data(total_env_steps=40)
    trainer = fit(first := TD3(data.observation_space, data.action_space, **SMALL), data)
    trainer.save_checkpoint(tmp_path / "first.ckpt")
    model = SAC(data.observation_space, data.action_space, **SMALL | {"network": partial(SMOOTH, hidden_sizes=(3,))})
    weights = clones(dict(model.q.named_parameters()))
    model.load_weights(tmp_path / "first.ckpt", parts=["normalizers"])
    assert same(statistics(model), statistics(first))
    assert same(weights, clones(dict(model.q.named_parameters())))
