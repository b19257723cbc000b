"""Whatever layout in memory the backward pass gives a gradient, every entry moves by its own."""

from functools import partial

import pytest
import torch
from lightning.pytorch import seed_everything
from torch import nn
from torch.optim import Adam
from toys import TINY, fit

from rl_lightning import A2C, DQN, PPO, SAC, TRPO, ReplayDataModule, RolloutDataModule
from rl_lightning.optim import FusedAdam

SETTINGS = {"lr": 1e-3, "eps": 1e-2}  # with a tiny eps, Adam makes a step's size of a rounding error
replay = partial(ReplayDataModule, total_env_steps=20, learning_starts=16, batch_size=16, buffer_size=100)
rollouts = partial(RolloutDataModule, total_env_steps=32, rollout_steps=16)
DISCRETE = {"actions": "discrete"}
BOX = {"actions": "box"}


def trained(learner, data, env_kwargs, optimizer, env_id="toys:Images-v0", network=TINY, compile=False):
    """Weights by name, after a few gradient steps."""
    seed_everything(0, verbose=False)
    data = data(env_id, env_kwargs)
    optimizers = {DQN: ["q"], SAC: ["value", "q", "policy"], TRPO: ["value"]}.get(learner, ["policy", "value"])
    given = {f"{name}_optimizer": partial(optimizer, **SETTINGS) for name in optimizers}
    if learner is PPO:
        given["batch_size"] = 8
    if learner is TRPO:
        given |= {"batch_size": 8, "cg_max_steps": 2}
    model = learner(data.observation_space, data.action_space, network=network, compile=compile, **given)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fit(model, data)
    after = model.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in after if not name.startswith("target"))
    return after


def assert_same(weights, others):
    assert weights.keys() == others.keys()
    for name, value in weights.items():
        torch.testing.assert_close(value, others[name], rtol=0, atol=2e-5, msg=lambda text, n=name: f"{n}: {text}")


LEARNERS = [
    pytest.param(DQN, replay, DISCRETE, id="DQN"),
    pytest.param(SAC, replay, BOX, id="SAC"),
    pytest.param(A2C, rollouts, DISCRETE, id="A2C"),
    pytest.param(PPO, rollouts, DISCRETE, id="PPO"),
    pytest.param(TRPO, rollouts, BOX, id="TRPO"),
]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("learner", "data", "actions"), LEARNERS)
def test_images_with_channels_last_and_channels_first_move_the_weights_alike(learner, data, actions, channels):
    last, first = (
        trained(learner, data, {"channels_last": channels_last, "channels": channels, **actions}, FusedAdam)
        for channels_last in (True, False)
    )
    assert_same(last, first)


@pytest.mark.parametrize("compile", [False, True])
def test_our_optimizer_moves_the_weights_of_images_as_plain_adam_does(compile):
    env_kwargs = {"channels_last": True, **DISCRETE}
    ours = trained(DQN, replay, env_kwargs, FusedAdam, compile=compile)
    assert_same(ours, trained(DQN, replay, env_kwargs, partial(Adam, foreach=False, fused=False)))


def test_a_users_fused_optimizer_is_safe_too():
    env_kwargs = {"channels_last": True, **DISCRETE}
    fused = trained(DQN, replay, env_kwargs, partial(Adam, fused=True))
    assert_same(fused, trained(DQN, replay, env_kwargs, partial(Adam, foreach=False, fused=False)))


class Einsum(nn.Module):
    """A linear map whose weight has a transposed gradient, times a scale whose gradient is one entry for all."""

    def __init__(self, in_features, out_features):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(in_features, 7) / 7)
        self.scale = nn.Parameter(torch.ones(5))
        self.head = nn.Linear(7, out_features)

    def forward(self, x):
        return self.head(torch.einsum("bi,io->bo", x, self.weight) * self.scale.sum())


@pytest.mark.parametrize("optimizer", [FusedAdam, partial(Adam, fused=True)])
def test_transposed_and_expanded_gradients_move_their_own_entries(optimizer):
    train = partial(trained, DQN, replay, {"obs": "vector"}, env_id="toys:Spaces-v0", network=Einsum)
    assert_same(train(optimizer), train(partial(Adam, foreach=False, fused=False)))
