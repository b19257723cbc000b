import numpy as np
import pytest
import torch
from toys import CounterEnv, counter_data, make_trainer, noise_data, tiny_sac

from rl_lightning import make_vec_env
from rl_lightning.data.base import PREDICT_SEED, TEST_SEED, VAL_SEED
from rl_lightning.environments.episodes import play_episodes, record_episode


def stand_still(obs):
    return torch.zeros(len(obs), 2)


def length(seed: int) -> int:
    return CounterEnv.episode_length(CounterEnv.first_episode(seed))


def episode_return(seed: int) -> float:
    return length(seed) * (length(seed) + 1) / 2


SEEDS = [3, 1, 4, 15, 9, 2]


@pytest.mark.parametrize("spare", [0, 3])
@pytest.mark.parametrize("reuse_array", [False, True])
def test_one_whole_episode_is_played_for_each_seed(spare, reuse_array):
    assert len({length(seed) for seed in SEEDS}) > 2, "staggered"
    envs = make_vec_env("toys:Counter-v0", len(SEEDS) + spare, "sync", {"reuse_array": reuse_array})
    returns, lengths = play_episodes(stand_still, envs, SEEDS)
    assert lengths.tolist() == [length(seed) for seed in SEEDS]
    assert returns.tolist() == [episode_return(seed) for seed in SEEDS]
    assert (returns.dtype, lengths.dtype) == (torch.float32, torch.int64)
    assert [env.unwrapped.seeds[0] for env in envs.envs] == SEEDS + [None] * spare


def test_playing_again_in_the_same_environments_gives_the_same():
    envs = make_vec_env("toys:Counter-v0", 6)
    first = play_episodes(stand_still, envs, SEEDS)
    play_episodes(stand_still, envs, [7, 8])
    again = play_episodes(stand_still, envs, SEEDS)
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


def test_the_policy_sees_float32_and_no_finished_episode():
    envs, seen = make_vec_env("toys:Counter-v0", 6), []

    def act(obs):
        seen.append(obs.clone())
        return stand_still(obs)

    play_episodes(act, envs, SEEDS)
    episode, t = torch.stack(seen).unbind(-1)
    assert seen[0].dtype == torch.float32
    assert (t < 2 + episode % 5).all()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("num_envs", [1, 4])
def test_a_recorded_episode_is_whole(seed, num_envs):
    envs = make_vec_env("toys:Counter-v0", num_envs, "sync", {"reuse_array": True})
    number = 0

    def act(obs):
        nonlocal number
        number += 1
        return torch.full((len(obs), 2), number / 100)

    episode = record_episode(act, envs, seed)
    steps, first = length(seed), CounterEnv.first_episode(seed)
    assert episode.obs.tolist() == [[first, t] for t in range(steps + 1)]
    torch.testing.assert_close(episode.action, torch.arange(1, steps + 1)[:, None].expand(-1, 2) / 100)
    assert episode.reward.tolist() == list(range(1, steps + 1))
    assert episode.terminated is (first % 3 != 1)
    assert (episode.obs.dtype, episode.action.dtype, episode.reward.dtype) == (torch.float32,) * 3


def test_both_ways_of_ending_are_among_the_recorded():
    assert {CounterEnv.first_episode(seed) % 3 == 1 for seed in SEEDS} == {False, True}


def model_and_data(eval_episodes=13, test_episodes=23):
    data = counter_data(eval_episodes=eval_episodes, test_episodes=test_episodes)
    return tiny_sac(data.observation_space, data.action_space), data


@pytest.mark.parametrize("episodes", [1, 10, 13])
def test_validation_reports_the_raw_returns_of_its_seeds(episodes):
    model, data = model_and_data(eval_episodes=episodes)
    (metrics,) = make_trainer(validate=True).validate(model, data, verbose=False)
    returns = [episode_return(VAL_SEED + i) for i in range(episodes)]
    assert metrics["val/return_mean"] == pytest.approx(np.mean(returns))
    assert metrics["val/return_std"] == pytest.approx(np.std(returns))
    assert metrics["val/episode_length_mean"] == pytest.approx(np.mean([length(VAL_SEED + i) for i in range(episodes)]))


def test_the_test_has_episodes_of_its_own_and_repeats_exactly():
    model, data = model_and_data()
    trainer = make_trainer()
    (first,) = trainer.test(model, data, verbose=False)
    (again,) = trainer.test(model, data, verbose=False)
    assert first == again
    assert first["test/return_mean"] == pytest.approx(np.mean([episode_return(TEST_SEED + i) for i in range(23)]))


def test_prediction_records_the_episodes_of_its_seeds():
    model, data = model_and_data(eval_episodes=3)
    batches = make_trainer().predict(model, data)
    episodes = [episode for batch in batches for episode in batch]
    assert [len(episode.reward) for episode in episodes] == [length(PREDICT_SEED + i) for i in range(3)]


def test_evaluation_plays_the_deterministic_policy():
    data = noise_data(eval_episodes=2)  # small observations: the policy is far from saturated
    model = tiny_sac(data.observation_space, data.action_space)
    for batch in make_trainer().predict(model, data):
        for episode in batch:
            with torch.no_grad():
                torch.testing.assert_close(model.act(episode.obs[:-1], deterministic=True), episode.action)


def test_evaluation_environments_are_closed_and_never_the_training_ones():
    model, data = model_and_data(eval_episodes=2)
    make_trainer(validate=True).validate(model, data, verbose=False)
    assert all(env.closed for env in CounterEnv.made)
    assert not {id(env) for env in data.eval_envs().envs} & {id(env) for env in data.train_envs().envs}
