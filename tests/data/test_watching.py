"""Settings that watch environments, in runs: restarts while training and evaluating, limits of evaluation."""

import csv
import warnings

import numpy as np
import pytest
import torch
from faulty import FLAGS, FORMS, OBSERVATIONS, REWARDS
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from lightning.pytorch.loggers import CSVLogger
from toys import LINEAR, counter_data, fit, make_collector, make_trainer, tiny_sac

from rl_lightning import PPO, EnvironmentFault, ReplayDataModule, RolloutDataModule, UsageError
from rl_lightning.cli.main import main
from rl_lightning.data.base import VAL_SEED
from rl_lightning.environments.episodes import play_episodes, record_episode


def faulty_data(**settings):
    kwargs = {"at": 30, "length": 10, **settings.pop("env_kwargs", {})}
    defaults = {"learning_starts": 10, "total_env_steps": 80, "batch_size": 8, "num_envs": 2, "replay_ratio": 0.5}
    return ReplayDataModule("faulty:Faulty-v0", kwargs, **defaults | settings)


def stand_still(obs):
    return torch.zeros(len(obs), 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"env_timeout": 0.0, "vectorization": "async"}, "env_timeout=0.0 .*above 0"),
        ({"env_timeout": 5.0}, "env_timeout=5.0 .*give vectorization=async"),
        ({"max_env_restarts": -1}, "max_env_restarts=-1"),
        ({"eval_max_episode_steps": 0}, "eval_max_episode_steps=0"),
        ({"eval_num_envs": 0}, "eval_num_envs=0"),
    ],
)
@pytest.mark.parametrize("kind", [ReplayDataModule, RolloutDataModule])
def test_settings_that_cannot_hold_are_refused(kind, settings, message):
    with pytest.raises(UsageError, match=message):
        kind("toys:Counter-v0", **settings)


@pytest.mark.parametrize("n_step", [1, 3])
def test_replay_holds_no_transition_across_a_restart_and_ends_the_episode_before_it(tmp_path, n_step):
    data = faulty_data(
        env_kwargs={"fault": "end:raise", "times": str(tmp_path), "at": 24}, max_env_restarts=1, n_step=n_step
    )
    logger = CSVLogger(tmp_path / "logs")
    model = tiny_sac(data.observation_space, data.action_space)
    with pytest.warns(UserWarning, match="restart 1 of 1"):
        fit(model, data, make_trainer(logger=logger, log_every_n_steps=1))
    stored, rows = data.buffer.storage, data.buffer.filled_rows
    obs, next_obs = stored.obs[:rows], stored.next_obs[:rows]
    assert data.clock.env_steps == rows * 2 == 80
    assert torch.equal(next_obs[..., 0], obs[..., 0] + 1), "each is a step of one episode"
    assert torch.equal(next_obs[..., 1], obs[..., 1] + 1), "of one environment"
    truncated = stored.truncated[:rows].nonzero().tolist()
    lost = [(row, env) for row, env in truncated if next_obs[row, env, 0] != 10]
    assert lost == [(22, 0)], "the last step before the 24th, which broke"
    assert obs[23, 0].tolist() == [0, 0], "of the new environment"
    with open(logger.log_dir + "/metrics.csv") as file:
        table = list(csv.DictReader(file))
    assert table[0]["train/env_restarts"] == "0.0"
    assert table[-1]["train/env_restarts"] == "1.0"
    assert {float(row["train/episode_length"]) for row in table if row.get("train/episode_length")} == {10.0}


def test_a_rollout_ends_the_lost_episode_where_it_was_last_seen(tmp_path):
    kwargs = {"fault": "obs:nan", "times": str(tmp_path), "at": 14, "length": 10}
    data = RolloutDataModule(
        "faulty:Faulty-v0", kwargs, num_envs=2, rollout_steps=20, total_env_steps=80, max_env_restarts=1
    )
    model = PPO(data.observation_space, data.action_space, network=LINEAR, compile=False, batch_size=20)
    kept = []
    data.rollout, rollout = lambda: kept.append(rollout()) or kept[-1], data.rollout
    with pytest.warns(UserWarning, match="restart 1 of 1"):
        fit(model, data)
    first = kept[0]
    ends = first.truncated.nonzero().tolist()
    assert ends == [[9, 0], [9, 1], [12, 0], [19, 1]]
    assert torch.equal(first.next_obs[..., 0], first.obs[..., 0] + 1)
    assert first.obs[13, 0].tolist() == [0, 0]


def test_a_whole_episode_is_gathered_anew_after_a_restart(tmp_path):
    kwargs = {"fault": "end:raise", "times": str(tmp_path), "at": 6, "length": 10}
    data = RolloutDataModule("faulty:Faulty-v0", kwargs, rollout_steps=None, total_env_steps=80, max_env_restarts=1)
    collector = make_collector(data)
    collector.actor.act = lambda obs, deterministic=False: stand_still(obs)
    data.attach(collector)
    with pytest.warns(UserWarning, match="restart 1 of 1"):
        rollout = data.rollout()
    assert rollout.obs[:, 0, 0].tolist() == list(range(10))
    assert collector.clock.env_steps == 15, "those of the lost episode count as steps"
    assert collector.finished == [(55.0, 10.0)]


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_an_evaluation_episode_that_was_lost_is_played_again_and_counts_whole(vectorization, tmp_path):
    timeout = {"env_timeout": 60.0} if vectorization == "async" else {}
    kwargs = {"fault": "end:raise", "times": str(tmp_path), "at": 4, "length": 10}
    data = faulty_data(env_kwargs=kwargs, vectorization=vectorization, max_env_restarts=1, eval_episodes=3, **timeout)
    data.val_dataloader()
    seeds = range(VAL_SEED, VAL_SEED + 3)
    with pytest.warns(UserWarning, match="restart 1 of 1"):
        returns, lengths = play_episodes(stand_still, data.eval_envs(), seeds)
    assert (returns.tolist(), lengths.tolist()) == ([55.0] * 3, [10] * 3)
    assert data.restarts.done == 1
    assert record_episode(stand_still, data.eval_envs(), VAL_SEED).reward.sum() == 55.0
    data.teardown("fit")


def test_without_restarts_the_fault_ends_training_and_evaluation():
    data = faulty_data(env_kwargs={"fault": "end:raise", "at": 24})
    with pytest.raises(EnvironmentFault, match=r"environment 0 .* at its step 24 .*data\.max_env_restarts=N"):
        fit(tiny_sac(data.observation_space, data.action_space), data)


def never_ending(**settings):
    return faulty_data(env_kwargs={"length": None}, eval_episodes=2, **settings)


def test_evaluation_in_an_environment_without_a_time_limit_ends_with_one_warning(monkeypatch):
    monkeypatch.setattr("rl_lightning.data.base.EVAL_MAX_STEPS", 40)
    data = never_ending()
    trainer, model = make_trainer(validate=True), tiny_sac(data.observation_space, data.action_space)
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        for _ in range(2):
            (metrics,) = trainer.validate(model, data, verbose=False)
    assert metrics["val/episode_length_mean"] == 40
    assert metrics["val/return_mean"] == 40 * 41 / 2
    assert len([w for w in shown if "data.eval_max_episode_steps=N" in str(w.message)]) == 1


def test_a_limit_of_evaluation_that_was_asked_for_holds_without_a_warning():
    data = never_ending(eval_max_episode_steps=7)
    trainer, model = make_trainer(validate=True), tiny_sac(data.observation_space, data.action_space)
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        (metrics,) = trainer.validate(model, data, verbose=False)
        batches = trainer.predict(model, data)
    assert metrics["val/episode_length_mean"] == 7
    episodes = [episode for batch in batches for episode in batch]
    assert [(len(episode.reward), episode.terminated) for episode in episodes] == [(7, False)] * 2
    assert not any("eval_max_episode_steps" in str(w.message) for w in shown)


@pytest.mark.parametrize(("env_id", "limit"), [("CartPole-v1", None), ("faulty:Faulty-v0", 10_000)])
def test_only_an_environment_without_a_time_limit_of_its_own_gets_one(env_id, limit):
    assert RolloutDataModule(env_id).eval_limit == limit
    assert RolloutDataModule(env_id, eval_max_episode_steps=3).eval_limit == 3


def test_training_logs_how_long_an_episode_is_that_never_ends(tmp_path):
    data, logger = never_ending(), CSVLogger(tmp_path)
    fit(tiny_sac(data.observation_space, data.action_space), data, make_trainer(logger=logger, log_every_n_steps=1))
    with open(logger.log_dir + "/metrics.csv") as file:
        longest = [float(row["train/longest_episode"]) for row in csv.DictReader(file)]
    assert longest[-1] == 40
    assert (np.diff(longest) == 1).all()


@pytest.mark.parametrize(
    ("episodes", "chosen", "made"), [(1, None, 1), (3, None, 3), (25, None, 10), (25, 4, 4), (2, 5, 5)]
)
def test_evaluation_steps_as_many_environments_as_it_plays_episodes_at_once(episodes, chosen, made):
    data = counter_data(eval_episodes=episodes, eval_num_envs=chosen)
    loader = data.val_dataloader()
    assert data.eval_envs().num_envs == made
    assert sum(map(len, loader)) == episodes
    assert max(map(len, loader)) <= made
    data.test_dataloader()
    assert data.eval_envs().num_envs == (chosen or 10)


FAULTS = [
    *(f"obs:{what}" for what in OBSERVATIONS),
    *(f"reward:{what}" for what in REWARDS),
    *(f"terminated:{what}" for what in FLAGS),
    *(f"truncated:{what}" for what in FLAGS),
    *(f"form:{what}" for what in FORMS),
    *("end:raise", "end:exit", "close:raise", "make:key", "make:exit", "space:action_space", "lack:observation_space"),
]


@given(
    fault=st.sampled_from(FAULTS),
    at=st.integers(0, 40),
    obs=st.sampled_from(["real", "image", "discrete", "dict"]),
    info=st.sampled_from(["none", "lengths", "types", "lambda"]),
    restarts=st.integers(0, 2),
    num_envs=st.integers(1, 2),
)
@example(fault="end:kill", at=8, obs="real", info="none", restarts=0, num_envs=2)
@example(fault="end:leave", at=8, obs="real", info="lambda", restarts=1, num_envs=2)
@settings(
    max_examples=8,
    phases=[Phase.explicit, Phase.generate],  # to make a failure smaller takes minutes
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_whatever_an_environment_does_fit_ends_well_or_with_one_line(
    tmp_path_factory, monkeypatch, capsys, fault, at, obs, info, restarts, num_envs
):
    folder = tmp_path_factory.mktemp("run")
    monkeypatch.chdir(folder)
    vectorization = "async" if fault in ("end:kill", "end:leave") else "sync"
    arguments = [
        "fit",
        *(
            ["--model=rl_lightning.REINFORCE"]
            if obs == "dict"
            else ["--model=rl_lightning.PPO", "--model.compile=false", "--model.batch_size=8"]
        ),
        "--data=rl_lightning.RolloutDataModule",
        "--data.env_id=faulty:Faulty-v0",
        f"--data.env_kwargs={{fault: '{fault}', at: {at}, obs: {obs}, info: {info}, times: '{folder}', most: 9}}",
        f"--data.num_envs={1 if obs == 'dict' else num_envs}",
        f"--data.rollout_steps={'null' if obs == 'dict' else 8}",
        f"--data.vectorization={vectorization}",
        f"--data.max_env_restarts={restarts}",
        "--data.total_env_steps=48",
        "--data.env_steps_per_epoch=24",
        "--data.env_steps_per_batch=16",
        "--data.eval_episodes=2",
        "--data.test_episodes=2",
        "--trainer.logger=false",
        "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=false",
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            main(arguments)
        except SystemExit as end:
            message = str(end.code)
            assert message.startswith("error: "), message
            assert "\n" not in message
            assert "environment" in message or "Faulty-v0" in message, message
    assert "Traceback" not in "".join(capsys.readouterr())
