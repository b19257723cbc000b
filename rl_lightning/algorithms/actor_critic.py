"""One-step actor-critic: Algorithm 3 of the lecture (Sutton and Barto, section 13.5)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from rl_lightning.algorithms.module import Algorithm, Gradients, Metrics, configured, gradients_of
from rl_lightning.data.rollout import RolloutDataModule, RolloutStream
from rl_lightning.errors import UsageError, require
from rl_lightning.functional import td_target
from rl_lightning.networks import MLP, NetworkCallable
from rl_lightning.optim import FusedAdam
from rl_lightning.policy_and_value import PolicyAndValue
from rl_lightning.types import Obs, Transition, map_obs


class ActorCritic(Algorithm):
    """At every environment step: δ = r + γ V(s') − V(s); V moves along δ ∇V(s), and the policy along δ ∇log π(a|s).

    Args:
        observation_space: see `rl_lightning.encoders.make_encoder`.
        action_space: Discrete, MultiDiscrete, MultiBinary or Box.
        gamma: the discount γ, in [0, 1].
        ent_coef: weight of the policy's entropy in its loss, at least 0.
        state_dependent_std: a Gaussian policy's deviation is a function of the observation, not one for all.
        log_std_init: log of the deviation at the start, where it is one for all.
        network: the body of both networks.
        policy_optimizer: steps θ.
        value_optimizer: steps w.
        policy_scheduler: of the policy optimizer's learning rate, stepped at every gradient step.
        value_scheduler: likewise.
        init_from: a checkpoint (file or URL) whose networks to start from, with fresh optimizers.
        compile: run `gradients` as one compiled graph.

    Raises:
        UsageError: a space it cannot handle, a value out of range, or an unusable `init_from`.
    """

    learns_from = RolloutDataModule

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        gamma: float = 0.99,
        ent_coef: float = 0.0,
        state_dependent_std: bool = False,
        log_std_init: float = 0.0,
        network: NetworkCallable = MLP,
        policy_optimizer: OptimizerCallable = lambda params: FusedAdam(params, lr=1e-4),
        value_optimizer: OptimizerCallable = lambda params: FusedAdam(params, lr=1e-3),
        policy_scheduler: LRSchedulerCallable | None = None,
        value_scheduler: LRSchedulerCallable | None = None,
        init_from: str | Path | None = None,
        compile: bool = True,
    ) -> None:
        super().__init__(observation_space, action_space, compile)
        require(0.0 <= gamma <= 1.0, "gamma", gamma, "give a number in [0, 1]")
        require(ent_coef >= 0.0, "ent_coef", ent_coef, "give 0 or more")
        self.gamma, self.ent_coef = gamma, ent_coef
        self.policy_optimizer, self.policy_scheduler = policy_optimizer, policy_scheduler
        self.value_optimizer, self.value_scheduler = value_optimizer, value_scheduler
        self.networks = PolicyAndValue(
            observation_space, action_space, network, "ActorCritic", state_dependent_std, log_std_init
        )
        self.configure_optimizers()  # what they refuse is refused here, before anything is created
        if init_from is not None:
            self.load_weights(init_from)

    def act(self, obs: Obs, deterministic: bool = False) -> Tensor:
        """a ~ π_θ(·|s), or its mode: observations [B, *obs_shape] to actions [B, *action_shape]."""
        return self.networks.act(obs, deterministic)

    def minibatches(self, batch: RolloutStream) -> Iterator[Transition]:
        """Each environment step by itself, of all environments together: [N, ...]."""
        for rollout in batch:
            obs, action, reward, next_obs, terminated = (map_obs(lambda x: x[0], field) for field in rollout[:5])
            weight = torch.ones_like(reward)  # [N]
            yield Transition(obs, action, reward, next_obs, terminated, self.gamma * weight, weight)

    def gradients(self, batch: Transition) -> tuple[Metrics, Gradients]:
        """Of the policy's and the value's loss, whose steps are those of Algorithm 3, averaged over environments."""
        pi, value = self.networks(batch.obs)  # value: [B]
        with torch.no_grad():
            next_value = self.networks.values(batch.next_obs)  # [B]
        delta = td_target(batch.reward, batch.terminated, next_value, batch.discount) - value  # [B]
        entropy = pi.entropy()  # [B]
        policy_loss = -(delta.detach() * pi.log_prob(batch.action) + self.ent_coef * entropy).mean()
        value_loss = 0.5 * delta.square().mean()
        metrics = {
            "train/policy_loss": policy_loss,
            "train/value_loss": value_loss,
            "train/entropy": entropy.mean(),
            "train/v_mean": value.mean(),
        }
        return {name: metric.detach() for name, metric in metrics.items()}, [
            *gradients_of(policy_loss, [self.networks.policy]),
            *gradients_of(value_loss, [self.networks.value]),
        ]

    def check_data(self, data: object) -> None:
        """Refuse rollouts of more than one step."""
        super().check_data(data)
        assert isinstance(data, RolloutDataModule)
        if data.rollout_steps != 1:
            raise UsageError(
                f"rollout_steps={data.rollout_steps} is not allowed with ActorCritic: it learns at every step; "
                "give rollout_steps 1, or choose A2C"
            )

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """One for each network, in the order of `gradients`."""
        return (
            configured("policy_optimizer", self.networks.policy, self.policy_optimizer, self.policy_scheduler),
            configured("value_optimizer", self.networks.value, self.value_optimizer, self.value_scheduler),
        )
