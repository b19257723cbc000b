"""Short runs of learners, to compare their weights."""

import torch
from toys import TINY, fit

from rl_lightning import A2C, PPO, SAC, ReplayDataModule, RolloutDataModule


def ppo(compile):
    data = RolloutDataModule("toys:Spaces-v0", num_envs=2, rollout_steps=5, total_env_steps=40)
    return PPO(*spaces(data), network=TINY, n_epochs=2, batch_size=5, compile=compile), data


def a2c(compile):
    data = RolloutDataModule("toys:Spaces-v0", num_envs=2, rollout_steps=5, total_env_steps=40)
    return A2C(*spaces(data), network=TINY, compile=compile), data


def sac(compile):
    data = ReplayDataModule(
        "toys:Spaces-v0", {"action": "box"}, learning_starts=10, total_env_steps=30, batch_size=8, buffer_size=100
    )
    return SAC(*spaces(data), network=TINY, tau=0.1, compile=compile), data


def spaces(data):
    return data.observation_space, data.action_space


def weights(make, compile=False):
    """After a short run."""
    torch.manual_seed(2)
    model, data = make(compile)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fit(model, data)
    assert all(not torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    return [*model.state_dict().values()]
