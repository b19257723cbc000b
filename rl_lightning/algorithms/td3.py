"""Twin delayed deep deterministic policy gradient (arXiv:1802.09477)."""

from collections.abc import Iterator
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
from rl_lightning.functional import mean_td_error, td_target, twin_q_loss
from rl_lightning.networks import MLP, DeterministicPolicy, NetworkCallable, TwinQ
from rl_lightning.optim import FusedAdam
from rl_lightning.schedules import Schedule
from rl_lightning.types import Obs, Transition


class TD3(Algorithm):
    """DDPG with twin Q_θ1 and Q_θ2, a policy μ_φ and targets that step less often, and targets smoothed by noise.

    Args:
        observation_space: see `rl_lightning.encoders.make_encoder`.
        action_space: a Box of vectors in [-1, 1], as `make_env` gives it.
        gamma: the discount γ, in [0, 1].
        tau: weight of the online networks in each update of the targets, in (0, 1]; 1 copies them.
        policy_delay: gradient steps of Q for one of the policy and one update of the targets.
        target_policy_noise: deviation of the noise on the target's actions.
        target_noise_clip: bound on that noise.
        noise_std: of the noise on actions while collecting, in units of [-1, 1]; see `ActionNoise` for all four.
        noise_final_std: at the end of the run; None is the same.
        noise_schedule: between them.
        noise_theta: 1 is independent in time, less an Ornstein-Uhlenbeck process.
        network: the body of every network.
        q_optimizer: steps θ1 and θ2.
        policy_optimizer: steps φ.
        q_scheduler: of the learning rate of Q, stepped at every gradient step.
        policy_scheduler: likewise, stepped at every gradient step of the policy.
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
        policy_delay: int = 2,
        target_policy_noise: float = 0.2,
        target_noise_clip: float = 0.5,
        noise_std: float = 0.1,
        noise_final_std: float | None = None,
        noise_schedule: Schedule = "constant",
        noise_theta: float = 1.0,
        network: NetworkCallable = MLP,
        q_optimizer: OptimizerCallable = lambda params: FusedAdam(params, lr=1e-3),
        policy_optimizer: OptimizerCallable = lambda params: FusedAdam(params, lr=1e-3),
        q_scheduler: LRSchedulerCallable | None = None,
        policy_scheduler: LRSchedulerCallable | None = None,
        init_from: str | Path | None = None,
        compile: bool = True,
    ) -> None:
        super().__init__(observation_space, action_space, compile)
        require(0.0 <= gamma <= 1.0, "gamma", gamma, "give a number in [0, 1]")
        require(policy_delay >= 1, "policy_delay", policy_delay, "give 1 or more")
        require(target_policy_noise >= 0.0, "target_policy_noise", target_policy_noise, "give 0 or more")
        require(target_noise_clip >= 0.0, "target_noise_clip", target_noise_clip, "give 0 or more")
        action_dim = check_box_action_space(action_space, "TD3")
        self.gamma, self.policy_delay = gamma, policy_delay
        self.target_policy_noise, self.target_noise_clip = target_policy_noise, target_noise_clip
        self.noise = ActionNoise(noise_std, noise_final_std, noise_schedule, noise_theta)
        self.q_optimizer, self.q_scheduler = q_optimizer, q_scheduler
        self.policy_optimizer, self.policy_scheduler = policy_optimizer, policy_scheduler
        self.policy_is_due = True

        self.q = TwinQ(observation_space, action_dim, network, "TD3")  # Q_θ1, Q_θ2
        self.target_q = self.target_of(self.q)  # Q_θ̄1, Q_θ̄2
        self.policy = DeterministicPolicy(observation_space, action_dim, network, "TD3")  # μ_φ
        self.target_policy = self.target_of(self.policy)  # μ_φ̄
        self.polyak_averaging = PolyakAveraging(tau, target_update_interval=policy_delay)
        self.configure_optimizers()  # what they refuse is refused here, before anything is created
        if init_from is not None:
            self.load_weights(init_from)

    def act(self, obs: Obs, deterministic: bool = False) -> Tensor:
        """μ_φ(s), with noise or without: observations [B, *obs_shape] to actions [B, A] in [-1, 1]."""
        action: Tensor = self.policy(obs)
        return action if deterministic else self.noise(action, self.progress)

    def episodes_end(self, ended: NDArray[np.bool_]) -> None:
        """Begin new noise."""
        self.noise.reset(ended)

    def minibatches(self, batch: Any) -> Iterator[Transition]:
        """Minibatches of replay; every `policy_delay`-th is for the policy too."""
        for minibatch in super().minibatches(batch):
            self.policy_is_due = (self.gradient_steps + 1) % self.policy_delay == 0
            yield minibatch

    def gradients(self, batch: Transition) -> tuple[Metrics, Gradients]:
        """∇J_Q, and where the policy is due −∇_a Q_θ1(s, a) ∇_φ μ_φ(s), at one minibatch."""
        q1, q2 = self.q(batch.obs, batch.action)  # [B], [B]
        target = td_target(batch.reward, batch.terminated, self.next_value(batch), batch.discount)  # [B]
        q_loss = twin_q_loss(q1, q2, target, batch.weight)
        metrics = {
            "train/q_loss": q_loss,
            "train/q_mean": torch.minimum(q1, q2).mean(),
            "train/td_error": mean_td_error(q1, q2, target),
        }
        gradients: list[tuple[Tensor, ...] | None] = [torch.autograd.grad(q_loss, list(self.q.parameters())), None]
        if self.policy_is_due:
            policy_loss = -self.q.q1(batch.obs, self.policy(batch.obs)).mean()
            metrics["train/policy_loss"] = policy_loss
            gradients[1] = torch.autograd.grad(policy_loss, list(self.policy.parameters()))
        return {name: metric.detach() for name, metric in metrics.items()}, gradients

    @torch.no_grad()
    def next_value(self, batch: Transition) -> Tensor:
        """min Q_θ̄(s', ã), ã = μ_φ̄(s') + clip(noise), in [-1, 1]; [B]."""
        action = self.target_policy(batch.next_obs)  # [B, A]
        noise = self.target_policy_noise * torch.randn_like(action)
        action = (action + noise.clamp(-self.target_noise_clip, self.target_noise_clip)).clamp(-1.0, 1.0)
        return torch.minimum(*self.target_q(batch.next_obs, action))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """One for each of Q and policy, in the order of `gradients`."""
        return (
            configured("q_optimizer", self.q, self.q_optimizer, self.q_scheduler),
            configured("policy_optimizer", self.policy, self.policy_optimizer, self.policy_scheduler),
        )
