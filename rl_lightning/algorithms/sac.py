"""Soft actor-critic with separate V, twin-Q and policy networks: Algorithm 4 of the lecture, arXiv:1801.01290."""

import math
from pathlib import Path
from typing import Any, Literal, get_args

import gymnasium as gym
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from rl_lightning.algorithms.module import Algorithm, Gradients, Metrics, configured
from rl_lightning.callbacks import PolyakAveraging
from rl_lightning.envs import check_box_action_space
from rl_lightning.errors import require
from rl_lightning.functional import half_squared_error, mean_td_error, soft_value, td_target, twin_q_loss
from rl_lightning.networks import MLP, NetworkCallable, SquashedGaussianPolicy, TwinQ, ValueNetwork
from rl_lightning.optim import FusedAdam
from rl_lightning.types import Obs, Transition

PolicyGradient = Literal["reparameterized", "likelihood_ratio"]


class SAC(Algorithm):
    """Soft actor-critic: V_ψ, a target V_ψ̄ that follows it, twin Q_θ1 and Q_θ2, and a squashed Gaussian π_φ.

    Args:
        observation_space: see `rl_lightning.encoders.make_encoder`.
        action_space: a Box of vectors in [-1, 1], as `make_env` gives it.
        gamma: the discount γ, in [0, 1].
        tau: weight of V_ψ in each update of V_ψ̄, in (0, 1]; 1 copies it.
        target_update_interval: gradient steps from one update of V_ψ̄ to the next.
        ent_coef: the temperature α, at least 0. Dividing it by c is the same as `reward_scale` c, the values
            then being c times smaller.
        reward_scale: factor on rewards in the targets; reported returns stay raw.
        policy_gradient: how ∇J_π is estimated: `reparameterized` through the action (Eq. 10), or `likelihood_ratio`
            from the score alone (section 5.2), with V_ψ as its baseline.
        network: the body of every network.
        value_optimizer: steps ψ.
        q_optimizer: steps θ1 and θ2.
        policy_optimizer: steps φ.
        value_scheduler: of the value optimizer's learning rate, stepped at every gradient step.
        q_scheduler: likewise.
        policy_scheduler: likewise.
        init_from: a checkpoint (file or URL) whose networks to start from, with fresh optimizers.
        compile: run `gradients` as one compiled graph.

    Raises:
        UsageError: a space it has no policy or encoder for, a value out of range, or an unusable `init_from`.
    """

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        gamma: float = 0.99,
        tau: float = 0.005,
        target_update_interval: int = 1,
        ent_coef: float = 0.2,
        reward_scale: float = 1.0,
        policy_gradient: PolicyGradient = "reparameterized",
        network: NetworkCallable = MLP,
        value_optimizer: OptimizerCallable = lambda params: FusedAdam(params, lr=3e-4),
        q_optimizer: OptimizerCallable = lambda params: FusedAdam(params, lr=3e-4),
        policy_optimizer: OptimizerCallable = lambda params: FusedAdam(params, lr=3e-4),
        value_scheduler: LRSchedulerCallable | None = None,
        q_scheduler: LRSchedulerCallable | None = None,
        policy_scheduler: LRSchedulerCallable | None = None,
        init_from: str | Path | None = None,
        compile: bool = True,
    ) -> None:
        super().__init__(observation_space, action_space, compile)
        require(0.0 <= gamma <= 1.0, "gamma", gamma, "give a number in [0, 1]")
        require(0.0 <= ent_coef < math.inf, "ent_coef", ent_coef, "give 0 or more")
        require(0.0 < reward_scale < math.inf, "reward_scale", reward_scale, "give a number above 0")
        estimators = get_args(PolicyGradient)
        require(policy_gradient in estimators, "policy_gradient", policy_gradient, f"give one of {estimators}")
        action_dim = check_box_action_space(action_space, "SAC")
        self.gamma, self.ent_coef, self.reward_scale = gamma, ent_coef, reward_scale
        self.policy_gradient = policy_gradient
        self.value_optimizer, self.value_scheduler = value_optimizer, value_scheduler
        self.q_optimizer, self.q_scheduler = q_optimizer, q_scheduler
        self.policy_optimizer, self.policy_scheduler = policy_optimizer, policy_scheduler

        self.value = ValueNetwork(observation_space, network, "SAC")  # V_ψ
        self.target_value = self.target_of(self.value)  # V_ψ̄
        self.q = TwinQ(observation_space, action_dim, network, "SAC")  # Q_θ1, Q_θ2
        self.policy = SquashedGaussianPolicy(observation_space, action_dim, network, "SAC")  # π_φ
        self.polyak_averaging = PolyakAveraging(tau, target_update_interval)
        self.configure_optimizers()  # what they refuse is refused here, before anything is created
        if init_from is not None:
            self.load_weights(init_from)

    def act(self, obs: Obs, deterministic: bool = False) -> Tensor:
        """a ~ π_φ(·|s), or tanh μ_φ(s): observations [B, *obs_shape] to actions [B, A] in [-1, 1]."""
        u, log_std = self.policy(obs)
        if not deterministic:
            u = u + log_std.exp() * torch.randn_like(u)
        return torch.tanh(u)

    def gradients(self, batch: Transition) -> tuple[Metrics, Gradients]:
        """∇J_V, ∇J_Q and ∇J_π at one minibatch; one fresh action serves both J_V and J_π, as in the paper's code."""
        action, log_prob, u = self.policy.sample(batch.obs)  # [B, A], [B], [B, A]
        min_q = torch.minimum(*self.q(batch.obs, action))  # [B]
        value = self.value(batch.obs)  # [B]
        q1, q2 = self.q(batch.obs, batch.action)  # [B], [B]

        value_loss = self.value_loss(value, min_q, log_prob)
        target_q = self.target_q(batch)  # [B]
        q_loss = twin_q_loss(q1, q2, target_q, batch.weight)
        if self.policy_gradient == "reparameterized":
            policy_loss = self.policy_loss(min_q, log_prob)
        else:
            policy_loss = self.likelihood_ratio_loss(batch.obs, u, min_q, log_prob, value)

        metrics = {
            "train/value_loss": value_loss,
            "train/q_loss": q_loss,
            "train/policy_loss": self.policy_loss(min_q, log_prob),
            "train/entropy": -log_prob.mean(),
            "train/q_mean": torch.minimum(q1, q2).mean(),
            "train/v_mean": value.mean(),
            "train/td_error": mean_td_error(q1, q2, target_q),
        }
        return {name: metric.detach() for name, metric in metrics.items()}, [
            torch.autograd.grad(value_loss, list(self.value.parameters())),
            torch.autograd.grad(q_loss, list(self.q.parameters())),
            torch.autograd.grad(policy_loss, list(self.policy.parameters())),
        ]

    def value_loss(self, value: Tensor, min_q: Tensor, log_prob: Tensor) -> Tensor:
        """J_V(ψ), Eq. 6: V_ψ(s) towards min Q(s, a) − α log π(a|s)."""
        return half_squared_error(value, soft_value(min_q, log_prob, self.ent_coef).detach())

    def target_q(self, batch: Transition) -> Tensor:
        """Q̂ = r + γ V_ψ̄(s'), [B]: what J_Q(θ1) and J_Q(θ2) draw both Q to."""
        next_v = self.target_value(batch.next_obs)  # [B]
        return td_target(self.reward_scale * batch.reward, batch.terminated, next_v, batch.discount)  # [B]

    def policy_loss(self, min_q: Tensor, log_prob: Tensor) -> Tensor:
        """J_π(φ), Eq. 9: E[α log π(a|s) − min Q(s, a)], whose gradient through a = f_φ(ε; s) is Eq. 10."""
        return -soft_value(min_q, log_prob, self.ent_coef).mean()

    def likelihood_ratio_loss(self, obs: Obs, u: Tensor, min_q: Tensor, log_prob: Tensor, value: Tensor) -> Tensor:
        """A loss with the gradient E[∇ log π(a|s) (α log π(a|s) − min Q(s, a) + V(s))] of J_π (Williams, 1992).

        E[∇ log π] = 0, so neither the baseline V(s) nor the gradient of α log π itself changes the expectation.
        """
        advantage = (soft_value(min_q, log_prob, self.ent_coef) - value).detach()  # [B]
        return -(self.policy.log_prob(obs, u.detach()) * advantage).mean()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """One for each of J_V, J_Q and J_π, in the order of `gradients`."""
        return (
            configured("value_optimizer", self.value, self.value_optimizer, self.value_scheduler),
            configured("q_optimizer", self.q, self.q_optimizer, self.q_scheduler),
            configured("policy_optimizer", self.policy, self.policy_optimizer, self.policy_scheduler),
        )
