"""Soft actor-critic without V and with a learned temperature (arXiv:1812.05905), SAC as it is mostly known today."""

import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from numpy.typing import NDArray
from torch import Tensor

from rl_lightning.algorithms.module import Algorithm, Gradients, Metrics, configured
from rl_lightning.callbacks import PolyakAveraging
from rl_lightning.envs import check_box_action_space
from rl_lightning.errors import require
from rl_lightning.exploration import ActionNoise
from rl_lightning.functional import mean_td_error, soft_value, td_target, twin_q_loss
from rl_lightning.networks import MLP, NetworkCallable, SquashedGaussianPolicy, Temperature, TwinQ
from rl_lightning.optim import FusedAdam
from rl_lightning.schedules import Schedule
from rl_lightning.types import Obs, Transition


class SACv2(Algorithm):
    """Soft actor-critic: twin Q_θ1 and Q_θ2, a squashed Gaussian π_φ, a temperature α that holds its entropy.

    Args:
        observation_space: see `rl_lightning.encoders.make_encoder`.
        action_space: a Box of vectors in [-1, 1], as `make_env` gives it.
        gamma: the discount γ, in [0, 1].
        tau: weight of Q_θ in each update of its targets Q_θ̄, in (0, 1]; 1 copies it.
        target_update_interval: gradient steps from one update of Q_θ̄ to the next.
        ent_coef: the temperature α at the start, above 0.
        target_entropy: H̄, nats that the policy's entropy is held at by learning α; None takes −A, the paper's.
        noise_std: of noise on actions while collecting, besides the policy's own; see `ActionNoise` for all four.
        noise_final_std: at the end of the run; None is the same.
        noise_schedule: between them.
        noise_theta: 1 is independent in time, less an Ornstein-Uhlenbeck process.
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
        noise_std: float = 0.0,
        noise_final_std: float | None = None,
        noise_schedule: Schedule = "constant",
        noise_theta: float = 1.0,
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
        action_dim = check_box_action_space(action_space, "SACv2")
        self.gamma = gamma
        self.target_entropy = -float(action_dim) if target_entropy is None else target_entropy
        require(math.isfinite(self.target_entropy), "target_entropy", target_entropy, "give a finite number of nats")
        self.noise = ActionNoise(noise_std, noise_final_std, noise_schedule, noise_theta)
        self.q_optimizer, self.q_scheduler = q_optimizer, q_scheduler
        self.policy_optimizer, self.policy_scheduler = policy_optimizer, policy_scheduler
        self.ent_coef_optimizer = ent_coef_optimizer

        self.q = TwinQ(observation_space, action_dim, network, "SACv2")  # Q_θ1, Q_θ2
        self.target_q = self.target_of(self.q)  # Q_θ̄1, Q_θ̄2
        self.policy = SquashedGaussianPolicy(observation_space, action_dim, network, "SACv2")  # π_φ
        self.temperature = Temperature(ent_coef)  # α
        self.polyak_averaging = PolyakAveraging(tau, target_update_interval)
        self.configure_optimizers()  # what they refuse is refused here, before anything is created
        if init_from is not None:
            self.load_weights(init_from)

    def act(self, obs: Obs, deterministic: bool = False) -> Tensor:
        """a ~ π_φ(·|s) (with noise) or tanh μ_φ(s): observations [B, *obs_shape] to actions [B, A] in [-1, 1]."""
        mean: Tensor
        mean, log_std = self.policy(obs)  # [B, A], [B, A]
        if deterministic:
            return mean.tanh()
        action = (mean + log_std.exp() * torch.randn_like(mean)).tanh()
        return self.noise(action, self.progress)

    def episodes_end(self, ended: NDArray[np.bool_]) -> None:
        """Begin new noise."""
        self.noise.reset(ended)

    def gradients(self, batch: Transition) -> tuple[Metrics, Gradients]:
        """∇J_Q (Eq. 5), ∇J_π (Eq. 7) and, where α is learned, ∇J(α) (Eq. 18) at one minibatch."""
        q1, q2 = self.q(batch.obs, batch.action)  # [B], [B]
        target = td_target(batch.reward, batch.terminated, self.next_value(batch), batch.discount)  # [B]
        q_loss = twin_q_loss(q1, q2, target, batch.weight)

        action, log_prob, _ = self.policy.sample(batch.obs)  # [B, A], [B]
        ent_coef = self.temperature()
        min_q = torch.minimum(*self.q(batch.obs, action))  # [B]
        policy_loss = -soft_value(min_q, log_prob, ent_coef.detach()).mean()
        entropy = -log_prob.mean()

        metrics = {
            "train/q_loss": q_loss,
            "train/policy_loss": policy_loss,
            "train/entropy": entropy,
            "train/ent_coef": ent_coef,
            "train/q_mean": torch.minimum(q1, q2).mean(),
            "train/td_error": mean_td_error(q1, q2, target),
        }
        gradients = [
            torch.autograd.grad(q_loss, list(self.q.parameters())),
            torch.autograd.grad(policy_loss, list(self.policy.parameters())),
        ]
        if self.ent_coef_optimizer is not None:
            # log α for α, as the authors' code has it: the same sign, at a rate that does not depend on α
            ent_coef_loss = self.temperature.log_alpha * (entropy - self.target_entropy).detach()
            gradients.append(torch.autograd.grad(ent_coef_loss, list(self.temperature.parameters())))
        return {name: metric.detach() for name, metric in metrics.items()}, gradients

    @torch.no_grad()
    def next_value(self, batch: Transition) -> Tensor:
        """V(s') = min Q_θ̄(s', a') − α log π(a'|s') of a fresh action a' (Eq. 3), [B]."""
        action, log_prob, _ = self.policy.sample(batch.next_obs)  # [B, A], [B]
        min_q = torch.minimum(*self.target_q(batch.next_obs, action))  # [B]
        return soft_value(min_q, log_prob, self.temperature())

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """One for each of J_Q, J_π and J(α), in the order of `gradients`."""
        optimizers = [
            configured("q_optimizer", self.q, self.q_optimizer, self.q_scheduler),
            configured("policy_optimizer", self.policy, self.policy_optimizer, self.policy_scheduler),
        ]
        if self.ent_coef_optimizer is not None:
            optimizers.append(configured("ent_coef_optimizer", self.temperature, self.ent_coef_optimizer, None))
        return tuple(optimizers)
