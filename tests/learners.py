"""All learners, small: what to make of each, a run of it, and the gradient steps of the run."""

import inspect
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor
from torch.optim import SGD
from toys import fit

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
    OffPolicyCritic,
    QProp,
    RolloutReplayDataModule,
    SACv2,
    SoftQ,
)
from rl_lightning.algorithms.shared.learned import Gradients
from rl_lightning.data.base import EnvironmentDataModule

SMOOTH = partial(MLP, hidden_sizes=(8,), activation="tanh")  # no unit of it is ever dead


class Case(NamedTuple):
    learner: type[Algorithm]
    action: str  # of `SpacesEnv`
    networks: dict[str, str]  # where a learner keeps what it knows by a name
    data: dict[str, Any]
    settings: dict[str, Any]

    @property
    def learned(self) -> dict[str, str]:
        """The networks that an optimizer moves."""
        return {name: where for name, where in self.networks.items() if (self.learner, name) != (TRPO, "policy")}

    @property
    def arguments(self) -> dict[str, inspect.Parameter]:
        return {
            name: argument
            for name, argument in inspect.signature(self.learner).parameters.items()
            if name not in ("observation_space", "action_space")
        }


TWO = {"policy": "networks.policy", "value": "networks.value"}
Q, OF_VALUE, OF_TEMPERATURE = {"q": "q"}, {"value": "value"}, {"ent_coef": "temperature"}
Q_AND_POLICY = {"q": "q", "policy": "policy"}
REPLAY = {"learning_starts": 12, "total_env_steps": 16, "batch_size": 8, "buffer_size": 100}
PAIRS = {"num_envs": 2, "total_env_steps": 40}
EAGER = {"compile": False}
UNCLIPPED = {"max_grad_norm": None, **EAGER}
CASES = [
    Case(REINFORCE, "multi-discrete", TWO, {"rollout_steps": None, "total_env_steps": 20}, {}),
    Case(ActorCritic, "multi-binary", TWO, {"rollout_steps": 1, "total_env_steps": 8, "num_envs": 2}, EAGER),
    Case(A2C, "box", TWO, {"rollout_steps": 5, **PAIRS}, UNCLIPPED),
    Case(PPO, "box", TWO, {"rollout_steps": 10, **PAIRS}, {"n_epochs": 2, "batch_size": 10, **UNCLIPPED}),
    Case(TRPO, "discrete", TWO, {"rollout_steps": 10, **PAIRS}, {"n_critic_updates": 2, "batch_size": 10, **EAGER}),
    Case(SAC, "box", {**OF_VALUE, **Q_AND_POLICY}, REPLAY, EAGER),
    Case(SACv2, "box", {**Q_AND_POLICY, **OF_TEMPERATURE}, REPLAY, EAGER),
    Case(TD3, "box", Q_AND_POLICY, REPLAY, {"policy_delay": 1, **EAGER}),
    Case(DDPG, "box", Q_AND_POLICY, REPLAY, EAGER),
    Case(DQN, "discrete", Q, REPLAY, EAGER),
    Case(SoftQ, "discrete", Q, REPLAY, EAGER),
    Case(DiscreteSAC, "discrete", {**Q_AND_POLICY, **OF_TEMPERATURE}, REPLAY, EAGER),
]

THREE = TWO | {"q": "policy_gradient.critic.q"}
BESIDE_REPLAY = {"rollout_steps": 10, "replay_ratio": 0.2, "replay_batch_size": 8, **PAIRS}
CRITIC = {"estimator": QProp, "critic": partial(OffPolicyCritic, network=SMOOTH), **EAGER}
WITH_CRITIC = [  # that learns from replay
    Case(A2C, "box", THREE, BESIDE_REPLAY, CRITIC),
    Case(PPO, "box", THREE, BESIDE_REPLAY, {"n_epochs": 2, "batch_size": 10, **CRITIC}),
    Case(TRPO, "box", THREE, BESIDE_REPLAY, {"n_critic_updates": 2, "batch_size": 10, **CRITIC}),
]


def called(value: Any) -> str:
    if not isinstance(value, Case):
        return str(value)
    return value.learner.__name__ + ("_with_critic" if "critic" in value.settings else "")


def data_of(case: Case, obs: str = "vector", **settings: Any) -> EnvironmentDataModule:
    env_kwargs = {"obs": obs, "action": case.action}
    episodes = {"eval_episodes": 1, "test_episodes": 2}
    kind = RolloutReplayDataModule if "critic" in case.settings else case.learner.learns_from
    return kind("toys:Spaces-v0", env_kwargs, **{**episodes, **case.data, **settings})


def made(case: Case, data: EnvironmentDataModule | None = None, **settings: Any) -> Any:
    data = data or data_of(case)
    return case.learner(data.observation_space, data.action_space, **{"network": SMOOTH, **case.settings, **settings})


class GradientStep(NamedTuple):
    batch: tuple[Any, ...]  # what `gradients` was called with
    found: Gradients


def recorded(model: Any, data: EnvironmentDataModule, trainer: Trainer | None = None) -> list[GradientStep]:
    """The gradient steps of a run."""
    steps: list[GradientStep] = []
    compute = model.compute_gradients

    def noting(*batch: Any) -> Gradients:
        steps.append(GradientStep(batch, compute(*batch)))
        return steps[-1].found

    model.compute_gradients = noting
    fit(model, data, trainer)
    del model.compute_gradients
    return steps


def example(case: Case, **settings: Any) -> tuple[Any, tuple[Any, ...]]:
    """A learner after a tiny run, and what its latest gradients were taken of."""
    data = data_of(case)
    model = made(case, data, **settings)
    return model, recorded(model, data)[-1].batch


def leaves(nested: Any) -> Iterator[Tensor]:
    if isinstance(nested, Tensor):
        yield nested
    elif isinstance(nested, dict | tuple | list):
        for part in nested.values() if isinstance(nested, dict) else nested:
            yield from leaves(part)


def clones(nested: Any) -> list[Tensor]:
    return [leaf.detach().clone() for leaf in leaves(nested)]


def same(one: Any, other: Any) -> bool:
    """Whether all tensors are bit-equal."""
    return all(torch.equal(a, b) for a, b in zip(leaves(one), leaves(other), strict=True))


def sgd(lr: float) -> Any:
    return lambda params: SGD(params, lr=lr)


class AtTheStart(Callback):
    """Notes what a run starts from, before its first batch."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if not hasattr(self, "weights"):
            self.weights = {name: tensor.clone() for name, tensor in pl_module.state_dict().items()}
            self.moments = clones([optimizer.state_dict()["state"] for optimizer in trainer.optimizers])
            self.counters = (pl_module.env_steps, pl_module.gradient_steps)
