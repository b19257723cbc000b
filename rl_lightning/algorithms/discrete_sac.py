"""Soft actor-critic for discrete actions (arXiv:1910.07207): expectations over actions are sums, nothing is sampled."""

import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from rl_lightning.algorithms.module import Algorithm, Gradients, Metrics, configured
from rl_lightning.callbacks import PolyakAveraging
from rl_lightning.distributions import Categorical
from rl_lightning.envs import check_discrete_action_space
from rl_lightning.errors import require
from rl_lightning.functional import mean_td_error, of_action, td_target, twin_q_loss
from rl_lightning.networks import MLP, CategoricalPolicy, DiscreteTwinQ, NetworkCallable, Temperature
from rl_lightning.optim import FusedAdam
from rl_lightning.types import Obs, Transition


class DiscreteSAC(Algorithm):
    """Soft actor-critic with twin Q_θ1 and Q_θ2, a categorical π_φ, and a temperature α that holds its entropy.

    Args:
        observation_space: see `rl_lightning.encoders.make_encoder`.
        action_space: a Discrete.
        gamma: the discount γ, in [0, 1].
        tau: weight of Q_θ in each update of its targets Q_θ̄, in (0, 1]; 1 copies it.
        target_update_interval: gradient steps from one update of Q_θ̄ to the next.
        ent_coef: the temperature α at the start, above 0.
        target_entropy: H̄, nats that the policy's entropy is held at by learning α; None takes 0.98 log A, the paper's.
        network: the body of every network.
        q_optimizer: steps θ1 and θ2.
        policy_optimizer: steps φ.
        ent_coef_optimizer: steps log α; None keeps α as it is.
        q_scheduler: of the learning rate of Q, stepped at every gradient step.
        policy_scheduler: likewise.
        init_from: a checkpoint (file or URL) whose networks to start from, with fresh optimizers.
        compile: run `gradients` as one compiled graph.

    Raises:
        UsageError: a space it cannot handle, a value out of range, or an unusable `init_from`.
    """

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        gamma: float = 0.99,
        tau: float = 0.005,
        target_update_interval: int = 1,
        ent_coef: float = 1.0,
        target_entropy: float | None = None,
        network: NetworkCallable = MLP,
        q_optimizer: OptimizerCallable = lambda params: FusedAdam(params, lr=3e-4),
        policy_optimizer: OptimizerCallable = lambda params: FusedAdam(params, lr=3e-4),
        ent_coef_optimizer: OptimizerCallable | None = lambda params: FusedAdam(params, lr=3e-4),
        q_scheduler: LRSchedulerCallable | None = None,
        policy_scheduler: LRSchedulerCallable | None = None,
        init_from: str | Path | None = None,
        compile: bool = True,
    ) -> None:
        super().__init__(observation_space, action_space, compile)
        require(0.0 <= gamma <= 1.0, "gamma", gamma, "give a number in [0, 1]")
        require(0.0 < ent_coef < math.inf, "ent_coef", ent_coef, "give a number above 0")
        num_actions = check_discrete_action_space(action_space, "DiscreteSAC")
        self.gamma = gamma
        self.target_entropy = 0.98 * math.log(num_actions) if target_entropy is None else target_entropy
        require(
            -math.inf < self.target_entropy <= math.log(num_actions),
            "target_entropy",
            target_entropy,
            f"give at most log {num_actions} = {math.log(num_actions):.2f} nats, which no policy exceeds",
        )
        self.q_optimizer, self.q_scheduler = q_optimizer, q_scheduler
        self.policy_optimizer, self.policy_scheduler = policy_optimizer, policy_scheduler
        self.ent_coef_optimizer = ent_coef_optimizer

        self.q = DiscreteTwinQ(observation_space, num_actions, network, "DiscreteSAC")  # Q_θ1, Q_θ2
        self.target_q = self.target_of(self.q)  # Q_θ̄1, Q_θ̄2
        self.policy = CategoricalPolicy(observation_space, num_actions, network, "DiscreteSAC")  # π_φ
        self.temperature = Temperature(ent_coef)  # α
        self.polyak_averaging = PolyakAveraging(tau, target_update_interval)
        self.configure_optimizers()  # what they refuse is refused here, before anything is created
        if init_from is not None:
            self.load_weights(init_from)

    def act(self, obs: Obs, deterministic: bool = False) -> Tensor:
        """a ~ π_φ(·|s), or its mode: observations [B, *obs_shape] to actions [B]."""
        log_pi = self.policy(obs)  # [B, A]
        return log_pi.argmax(-1) if deterministic else Categorical(log_pi).sample()

    def gradients(self, batch: Transition) -> tuple[Metrics, Gradients]:
        """∇J_Q, ∇J_π and, where α is learned, ∇J(α) at one minibatch."""
        q1, q2 = self.q(batch.obs)  # [B, A], [B, A]
        q1_a, q2_a = of_action(q1, batch.action), of_action(q2, batch.action)  # [B], [B]
        target = td_target(batch.reward, batch.terminated, self.next_value(batch), batch.discount)  # [B]
        q_loss = twin_q_loss(q1_a, q2_a, target, batch.weight)

        log_pi = self.policy(batch.obs)  # [B, A]
        ent_coef = self.temperature()
        policy_loss = -self.state_value(torch.minimum(q1, q2).detach(), log_pi, ent_coef.detach()).mean()
        entropy = -(log_pi.exp() * log_pi).sum(-1).mean()

        metrics = {
            "train/q_loss": q_loss,
            "train/policy_loss": policy_loss,
            "train/entropy": entropy,
            "train/ent_coef": ent_coef,
            "train/q_mean": torch.minimum(q1_a, q2_a).mean(),
            "train/td_error": mean_td_error(q1_a, q2_a, target),
        }
        gradients = [
            torch.autograd.grad(q_loss, list(self.q.parameters())),
            torch.autograd.grad(policy_loss, list(self.policy.parameters())),
        ]
        if self.ent_coef_optimizer is not None:
            ent_coef_loss = self.temperature.log_alpha * (entropy - self.target_entropy).detach()
            gradients.append(torch.autograd.grad(ent_coef_loss, list(self.temperature.parameters())))
        return {name: metric.detach() for name, metric in metrics.items()}, gradients

    @torch.no_grad()
    def next_value(self, batch: Transition) -> Tensor:
        """V(s') = Σ_a π(a|s') (min Q_θ̄(s', a) − α log π(a|s')), [B]."""
        min_q = torch.minimum(*self.target_q(batch.next_obs))  # [B, A]
        return self.state_value(min_q, self.policy(batch.next_obs), self.temperature())

    def state_value(self, q: Tensor, log_pi: Tensor, ent_coef: Tensor) -> Tensor:
        """E_π[Q(s, a) − α log π(a|s)], exactly: [B, A] and [B, A] to [B]."""
        return (log_pi.exp() * (q - ent_coef * log_pi)).sum(-1)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """One for each of J_Q, J_π and J(α), in the order of `gradients`."""
        optimizers = [
            configured("q_optimizer", self.q, self.q_optimizer, self.q_scheduler),
            configured("policy_optimizer", self.policy, self.policy_optimizer, self.policy_scheduler),
        ]
        if self.ent_coef_optimizer is not None:
            optimizers.append(configured("ent_coef_optimizer", self.temperature, self.ent_coef_optimizer, None))
        return tuple(optimizers)
