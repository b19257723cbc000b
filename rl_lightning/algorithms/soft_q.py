"""Soft Q-learning for discrete actions (arXiv:1702.08165, where the soft value is a sum and needs no sampler)."""

import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from rl_lightning.algorithms.module import Algorithm, Gradients, Metrics, configured, gradients_of
from rl_lightning.callbacks import PolyakAveraging
from rl_lightning.distributions import Categorical
from rl_lightning.envs import check_discrete_action_space
from rl_lightning.errors import require
from rl_lightning.functional import LOSSES, Loss, clipped_to_norm, of_action, soft_maximum, td_target
from rl_lightning.networks import MLP, DiscreteQNetwork, NetworkCallable
from rl_lightning.optim import FusedAdam
from rl_lightning.types import Obs, Transition


class SoftQ(Algorithm):
    """Q_θ towards r + γ V(s') with V(s) = α log Σ_a exp(Q_θ̄(s, a) / α), and the policy π(a|s) ∝ exp(Q_θ(s, a) / α).

    With α → 0 it becomes DQN.

    Args:
        observation_space: see `rl_lightning.encoders.make_encoder`.
        action_space: a Discrete.
        gamma: the discount γ, in [0, 1].
        tau: weight of Q_θ in each update of Q_θ̄, in (0, 1]; 1 copies it.
        target_update_interval: gradient steps from one update of Q_θ̄ to the next.
        ent_coef: the temperature α, above 0.
        loss: of Q_θ − target: half its square, or Huber's, linear beyond 1.
        max_grad_norm: bound on the gradient's norm.
        network: the body of Q.
        q_optimizer: steps θ.
        q_scheduler: of its learning rate, stepped at every gradient step.
        init_from: a checkpoint (file or URL) whose networks to start from, with a fresh optimizer.
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
        ent_coef: float = 0.1,
        loss: Loss = "squared",
        max_grad_norm: float | None = None,
        network: NetworkCallable = MLP,
        q_optimizer: OptimizerCallable = lambda params: FusedAdam(params, lr=3e-4),
        q_scheduler: LRSchedulerCallable | None = None,
        init_from: str | Path | None = None,
        compile: bool = True,
    ) -> None:
        super().__init__(observation_space, action_space, compile)
        require(0.0 <= gamma <= 1.0, "gamma", gamma, "give a number in [0, 1]")
        require(0.0 < ent_coef < math.inf, "ent_coef", ent_coef, "give a number above 0; at 0 it would be DQN")
        require(loss in LOSSES, "loss", loss, f"give one of {tuple(LOSSES)}")
        require(max_grad_norm is None or max_grad_norm > 0.0, "max_grad_norm", max_grad_norm, "give a number above 0")
        num_actions = check_discrete_action_space(action_space, "SoftQ")
        self.gamma, self.ent_coef, self.loss, self.max_grad_norm = gamma, ent_coef, loss, max_grad_norm
        self.q_optimizer, self.q_scheduler = q_optimizer, q_scheduler

        self.q = DiscreteQNetwork(observation_space, num_actions, network, "SoftQ")  # Q_θ
        self.target_q = self.target_of(self.q)  # Q_θ̄
        self.polyak_averaging = PolyakAveraging(tau, target_update_interval)
        self.configure_optimizers()  # what it refuses is refused here, before anything is created
        if init_from is not None:
            self.load_weights(init_from)

    def act(self, obs: Obs, deterministic: bool = False) -> Tensor:
        """a ~ π(·|s), or its mode: observations [B, *obs_shape] to actions [B]."""
        q = self.q(obs)  # [B, A]
        return q.argmax(-1) if deterministic else Categorical(q / self.ent_coef).sample()

    def gradients(self, batch: Transition) -> tuple[Metrics, Gradients]:
        """Of the loss of Q_θ(s, a) − (r + γ V(s')); the target is not differentiated."""
        q = self.q(batch.obs)  # [B, A]
        q_a = of_action(q, batch.action)  # [B]
        target = td_target(batch.reward, batch.terminated, self.next_value(batch), batch.discount)  # [B]
        q_loss = LOSSES[self.loss](q_a, target, batch.weight)
        gradients = gradients_of(q_loss, [self.q])
        return {
            "train/q_loss": q_loss.detach(),
            "train/q_mean": q_a.detach().mean(),
            "train/v_mean": soft_maximum(q.detach(), self.ent_coef).mean(),
            "train/entropy": Categorical(q.detach() / self.ent_coef).entropy().mean(),
            "train/td_error": (q_a.detach() - target).abs(),
        }, [clipped_to_norm(own, self.max_grad_norm) for own in gradients]

    @torch.no_grad()
    def next_value(self, batch: Transition) -> Tensor:
        """V(s') = α log Σ_a exp(Q_θ̄(s', a) / α), [B]."""
        return soft_maximum(self.target_q(batch.next_obs), self.ent_coef)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """One, of Q_θ."""
        return (configured("q_optimizer", self.q, self.q_optimizer, self.q_scheduler),)
