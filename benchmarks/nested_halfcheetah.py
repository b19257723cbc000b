"""HalfCheetah-v5 sampled in a nested way: states, several actions in each, several returns of each action.

A PPO policy acts; MuJoCo's positions and velocities are set back to a state for every return. Rewards are those that
PPO learns from, divided by the running deviation of returns.
"""

from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.optim import Adam

from rl_lightning import MLP, PPO, RolloutDataModule
from rl_lightning.environments.make import make_env
from rl_lightning.estimators import Batch, fit_q
from rl_lightning.functional import gae
from rl_lightning.optim import FusedAdam
from rl_lightning.types import Rollout

ENV_ID, GAMMA, GAE_LAMBDA = "HalfCheetah-v5", 0.99, 0.95
EPISODE = 1_000  # steps; it never terminates

Place = tuple[np.ndarray, np.ndarray]
"""Positions and velocities."""


def train(env_steps: int) -> PPO:
    """PPO with the settings of configs/ppo/halfcheetah.yaml, for a while."""
    optimizer = partial(FusedAdam, lr=3e-4, eps=1e-5)
    data = RolloutDataModule(
        ENV_ID, num_envs=4, rollout_steps=512, total_env_steps=env_steps, env_steps_per_epoch=env_steps
    )
    model = PPO(
        data.observation_space,
        data.action_space,
        gamma=GAMMA,
        gae_lambda=GAE_LAMBDA,
        n_epochs=10,
        batch_size=64,
        normalize_observations=True,
        normalize_returns=True,
        log_std_init=-0.5,
        network=partial(MLP, hidden_sizes=(64, 64), activation="tanh"),
        policy_optimizer=optimizer,
        value_optimizer=optimizer,
    )
    trainer = Trainer(
        max_epochs=-1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    trainer.fit(model, data)
    return model


class Cheetahs:
    """Copies of the environment side by side, without a time limit, that can be put at any place."""

    def __init__(self, copies: int) -> None:
        self.envs = [make_env(ENV_ID).unwrapped for _ in range(copies)]

    def reset(self, seed: int) -> Tensor:
        """Each at a start of its own; observations [N, 17]."""
        return _float32([env.reset(seed=seed + i)[0] for i, env in enumerate(self.envs)])

    def put(self, place: Place) -> None:
        """All at one place."""
        for env in self.envs:
            env.set_state(*place)

    def places(self) -> list[Place]:
        """Where they are."""
        return [(env.data.qpos.copy(), env.data.qvel.copy()) for env in self.envs]

    def step(self, action: Tensor) -> tuple[Tensor, Tensor]:
        """Actions [N, 6] of the policy, which are clipped, to observations and rewards [N]."""
        stepped = [env.step(a) for env, a in zip(self.envs, action.clamp(-1.0, 1.0).numpy(), strict=True)]
        return _float32([one[0] for one in stepped]), _float32([one[1] for one in stepped])


class Signals(NamedTuple):
    """Of every first action: its return, and its generalized advantage estimate."""

    returns: Tensor
    advantages: Tensor


@torch.no_grad()
def follow(
    model: PPO, cheetahs: Cheetahs, obs: Tensor, action: Tensor | None, steps: int
) -> tuple[Rollout, list[list[Place]]]:
    """A rollout [T, N] from where the copies are, first actions given or the policy's; the place before each step."""
    rows, places = [], []
    for t in range(steps):
        acted = model.act(obs) if t > 0 or action is None else action
        places.append(cheetahs.places())
        next_obs, reward = cheetahs.step(acted)
        rows.append((obs, acted, reward, next_obs))
        obs = next_obs
    parts = [torch.stack(part) for part in zip(*rows, strict=True)]
    never = torch.zeros(parts[2].shape, dtype=torch.bool)
    cut = never.clone()
    cut[-1] = True  # there V stands for the rest
    scaled = model.networks.return_normalizer(parts[2])
    return Rollout(parts[0], parts[1], scaled, parts[3], never, cut), places


@torch.no_grad()
def signals(model: PPO, rollout: Rollout) -> Signals:
    """Of every step of a rollout, [T, N]: Σ γ^k r to its end and V from there, and GAE."""
    value = model.networks.values(rollout.obs.flatten(0, 1)).view_as(rollout.reward)
    next_value = model.networks.values(rollout.next_obs.flatten(0, 1)).view_as(rollout.reward)
    rest = (rollout.reward, value, next_value, rollout.terminated, rollout.truncated, GAMMA)
    return Signals(gae(*rest, 1.0) + value, gae(*rest, GAE_LAMBDA))


class Nested(NamedTuple):
    """Samples of the variance's parts, S states, A actions in each, R returns of each."""

    obs: Tensor  # [S A, 17], each state A times
    action: Tensor  # [S A, 6]
    returns: Tensor  # [S, A, R]
    advantages: Tensor  # [S, A, R]


def sample_nested(model: PPO, states: int, actions: int, returns: int, steps: int, seed: int) -> Nested:
    """States of the policy's own episodes, at uniform times."""
    torch.manual_seed(seed)
    walkers = Cheetahs(10)
    rollout, places = follow(model, walkers, walkers.reset(10_000 + seed), None, EPISODE)
    chosen = torch.randperm(EPISODE * 10)[:states]
    copies = actions * returns
    cheetahs = Cheetahs(copies)
    found_actions, found_returns, found_advantages, found_obs = [], [], [], []
    for index in chosen.tolist():
        t, n = divmod(index, 10)
        cheetahs.put(places[t][n])
        obs = rollout.obs[t, n].expand(copies, -1)
        action = model.act(obs[:actions]).repeat_interleave(returns, 0)  # [A R, 6]
        signal = signals(model, follow(model, cheetahs, obs, action, steps)[0])
        found_obs.append(obs[:actions])
        found_actions.append(action[::returns])
        found_returns.append(signal.returns[0].view(actions, returns))
        found_advantages.append(signal.advantages[0].view(actions, returns))
    return Nested(
        torch.cat(found_obs), torch.cat(found_actions), torch.stack(found_returns), torch.stack(found_advantages)
    )


class Regression(nn.Module):
    """An MLP of normalized observations, and of actions where it takes them; both [B, ...] to [B]."""

    def __init__(self, model: PPO, of_action: bool) -> None:
        super().__init__()
        self.normalized, self.of_action = model.networks.normalized, of_action
        self.body = MLP(17 + 6 * of_action, 1, hidden_sizes=(64, 64), activation="tanh")

    def forward(self, obs: Tensor, action: Tensor | None = None) -> Tensor:
        """b(s) or φ(s, a)."""
        x = self.normalized(obs)
        return self.body(torch.cat([x, action], 1) if self.of_action else x).squeeze(1)


class Fitted(NamedTuple):
    """Of one kind of signal: b(s), and ψ(s, a) of what it leaves; with their share of explained variance, held out."""

    b: Regression
    psi: Regression
    b_explains: float
    psi_explains: float


def fit(model: PPO, batch: Batch, epochs: int) -> Fitted:
    """Both by least squares on four fifths of a batch in an order of chance, ψ on what b leaves (FitQ)."""
    order = torch.randperm(len(batch.action))
    train, held = (Batch(*(x[part] for x in batch[:3])) for part in order.split(int(0.8 * len(order))))
    regressions, explained = [], []
    for of_action in [False, True]:
        baseline = regressions[0] if of_action else None
        network = Regression(model, of_action)
        optimizer = Adam(network.parameters(), lr=1e-3, weight_decay=1e-4)
        best, best_loss = {k: v.clone() for k, v in network.state_dict().items()}, float("inf")
        for _ in range(epochs):
            for rows in torch.randperm(len(train.action)).split(256):
                fit_q(Batch(*(x[rows] for x in train[:3])), network, optimizer, baseline)
            loss = float(_residual(held, network, baseline).square().mean())
            if loss < best_loss:
                best, best_loss = {k: v.clone() for k, v in network.state_dict().items()}, loss
        network.load_state_dict(best)
        with torch.no_grad():
            of = held.signal if baseline is None else held.signal - baseline(held.obs)
        explained.append(1.0 - best_loss / float(of.var()))
        regressions.append(network)
    return Fitted(regressions[0], regressions[1], *explained)


@torch.no_grad()
def _residual(batch: Batch, network: Regression, baseline: Regression | None) -> Tensor:
    left = batch.signal if baseline is None else batch.signal - baseline(batch.obs)
    return left - network(batch.obs, batch.action)


def _float32(rows: list) -> Tensor:
    return torch.from_numpy(np.asarray(rows, dtype=np.float32))
