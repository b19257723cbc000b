"""Policies that act without their learner do what it does: every learner, observation and action, seed by seed."""

from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from toys import fit, make_trainer

from rl_lightning import (
    A2C,
    DDPG,
    DQN,
    MLP,
    PPO,
    REINFORCE,
    SAC,
    TD3,
    TRPO,
    ActorCritic,
    Algorithm,
    DiscreteSAC,
    Policy,
    ReplayDataModule,
    RolloutDataModule,
    SACv2,
    SoftQ,
    export_policy,
    load_policy,
)
from rl_lightning.data.base import TEST_SEED
from rl_lightning.environments.episodes import play_episodes
from rl_lightning.environments.make import make_vec_env
from rl_lightning.spaces import to_tensor

TINY = partial(MLP, hidden_sizes=(8,))
CONTINUOUS, DISCRETE, ON_POLICY = (SAC, SACv2, TD3, DDPG), (DQN, SoftQ, DiscreteSAC), (REINFORCE, ActorCritic, A2C, PPO, TRPO)


def trained(learner: type[Algorithm], env_id: str, steps: int = 40, **settings: Any) -> tuple[Algorithm, Any]:
    """A learner after a few steps; then its weights are made large, so that actions differ."""
    env_kwargs = settings.pop("env_kwargs", None)
    if issubclass(learner, ON_POLICY):
        length = {} if learner is REINFORCE else {"rollout_steps": 1 if learner is ActorCritic else 4}
        episodes = {"episodes": 1} if learner is REINFORCE else {}
        data = RolloutDataModule(env_id, env_kwargs, total_env_steps=steps, num_envs=2, **length, **episodes)
        if learner in (PPO, TRPO):
            settings["batch_size"] = 8
    else:
        data = ReplayDataModule(env_id, env_kwargs, total_env_steps=steps, learning_starts=8, batch_size=4)
    torch.manual_seed(1)
    model = learner(data.observation_space, data.action_space, network=TINY, compile=False, **settings)
    trainer = fit(model, data)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model, (data, trainer)


@pytest.mark.parametrize("learner", [SAC, PPO, DQN])
def test_thin(learner, tmp_path):
    env = "Pendulum-v1" if learner is SAC else "CartPole-v1"
    model, (data, trainer) = trained(learner, env)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    export_policy(tmp_path / "a.ckpt", tmp_path / "out")
    print((tmp_path / "out/policy.json").read_text(), (tmp_path / "out/README.md").read_text())
    for path in (tmp_path / "a.ckpt", tmp_path / "out"):
        policy = load_policy(path)
        envs = make_vec_env(env, 3)
        def act(obs):
            return model.act(obs, deterministic=True)
        a = play_episodes(act, envs, [1, 2, 3])[0]
        plain = [gym.make(env) for _ in range(3)]
        total = []
        obs = np.stack([e.reset(seed=s)[0] for e, s in zip(plain, [1, 2, 3])])
        out = np.zeros(3)
        live = np.ones(3, bool)
        while live.any():
            actions = policy(obs)
            for i in range(3):
                if live[i]:
                    obs[i], r, te, tr, _ = plain[i].step(actions[i])
                    out[i] += r
                    live[i] = not (te or tr)
        print(a, out)
        assert a.numpy().tolist() == out.astype(np.float32).tolist()
