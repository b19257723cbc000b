"""Learners after a few steps, with weights so large that actions differ; and an environment that asks for odd ones."""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary
from lightning.pytorch import LightningDataModule, Trainer
from toys import fit, make_trainer

from rl_lightning import (
    A2C,
    MLP,
    PPO,
    REINFORCE,
    TRPO,
    ActorCritic,
    Algorithm,
    ReplayDataModule,
    RolloutDataModule,
)

TINY = partial(MLP, hidden_sizes=(8,))
ON_POLICY = (REINFORCE, ActorCritic, A2C, PPO, TRPO)


class OddEnv(gym.Env):
    """A Dict of three kinds of observations; the reward is how near each action is to its place within odd bounds."""

    def __init__(self, length: int = 30):
        inner = Dict({"switches": MultiBinary(2), "count": Discrete(4, start=-1)})
        self.observation_space = Dict({"vector": Box(-np.inf, np.inf, (2,), np.float64), "a.b": inner})
        self.action_space = Box(np.array([-1.0, 0.0]), np.array([3.0, 10.0]), dtype=np.float64)
        self.length = length

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._obs(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.t += 1
        aim = [1.0 + self.shown["vector"][0], 5.0 + self.shown["a.b"]["count"]]
        reward = -float(np.abs(action - aim).sum())
        return self._obs(), reward, False, self.t == self.length, {}

    def _obs(self):
        inner = {
            "switches": self.np_random.integers(0, 2, 2, np.int8),
            "count": int(self.np_random.integers(-1, 3)),
        }
        self.shown = {"vector": self.np_random.normal(size=2), "a.b": inner}
        return self.shown


if "Odd-v0" not in gym.registry:
    gym.register("Odd-v0", OddEnv)


class Trained(NamedTuple):
    model: Algorithm
    data: LightningDataModule
    trainer: Trainer

    def save(self, path: Path) -> Path:
        self.trainer.save_checkpoint(path)
        return path


def trained(
    learner: type[Algorithm], env_id: str, env_kwargs: dict[str, Any] | None = None, **settings: Any
) -> Trained:
    settings = {"network": TINY, **({} if learner is REINFORCE else {"compile": False}), **settings}
    if issubclass(learner, ON_POLICY):
        steps, num_envs = {REINFORCE: (None, 1), ActorCritic: (1, 2)}.get(learner, (4, 2))
        data = RolloutDataModule(
            env_id, env_kwargs, num_envs, total_env_steps=16, rollout_steps=steps, test_episodes=20
        )
        if learner in (PPO, TRPO):
            settings["batch_size"] = 8
    else:
        data = ReplayDataModule(
            env_id, env_kwargs, total_env_steps=12, learning_starts=8, batch_size=4, test_episodes=20
        )
    torch.manual_seed(1)
    model = learner(data.observation_space, data.action_space, **settings)
    trainer = fit(model, data, make_trainer())
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn_like(parameter)
            parameter.add_(noise / parameter[0].numel() ** 0.5 if parameter.ndim > 1 else 0.1 * noise)
    return Trained(model.eval(), data, trainer)
