"""Deep deterministic policy gradient (arXiv:1509.02971): the deterministic limit of the policy gradient."""

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
from rl_lightning.functional import half_squared_error, td_target
from rl_lightning.networks import MLP, DeterministicPolicy, NetworkCallable, QNetwork
from rl_lightning.optim import FusedAdam
from rl_lightning.schedules import Schedule
from rl_lightning.types import Obs, Transition


class DDPG(Algorithm):
    """Q_θ towards r + γ Q_θ̄(s', μ_φ̄(s')), μ_φ up the gradient of Q_θ(s, μ_φ(s)); targets θ̄ and φ̄ follow.

    Args:
        observation_space: see `rl_lightning.encoders.make_encoder`.
        action_space: a Box of vectors in [-1, 1], as `make_env` gives it.
        gamma: the discount γ, in [0, 1].
        tau: weight of the online networks in each update of the targets, in (0, 1]; 1 copies them.
        target_update_interval: gradient steps from one update of the targets to the next.
        noise_std: of the noise on actions while collecting, in units of [-1, 1]; see `ActionNoise` for all four.
        noise_final_std: at the end of the run; None is the same.
        noise_schedule: between them.
        noise_theta: 1 is independent in time, less an Ornstein-Uhlenbeck process (the paper's has 0.15).
        network: the body of every network.
        q_optimizer: steps θ.
        policy_optimizer: steps φ.
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
        action_dim = check_box_action_space(action_space, "DDPG")
        self.gamma = gamma
        self.noise = ActionNoise(noise_std, noise_final_std, noise_schedule, noise_theta)
        self.q_optimizer, self.q_scheduler = q_optimizer, q_scheduler
        self.policy_optimizer, self.policy_scheduler = policy_optimizer, policy_scheduler

        self.q = QNetwork(observation_space, action_dim, network, "DDPG")  # Q_θ
        self.target_q = self.target_of(self.q)  # Q_θ̄
        self.policy = DeterministicPolicy(observation_space, action_dim, network, "DDPG")  # μ_φ
        self.target_policy = self.target_of(self.policy)  # μ_φ̄
        self.polyak_averaging = PolyakAveraging(tau, target_update_interval)
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

    def gradients(self, batch: Transition) -> tuple[Metrics, Gradients]:
        """∇J_Q, and of the policy −∇_a Q(s, a) ∇_φ μ_φ(s) (Eq. 6), at one minibatch."""
        q = self.q(batch.obs, batch.action)  # [B]
        target = td_target(batch.reward, batch.terminated, self.next_value(batch), batch.discount)  # [B]
        q_loss = half_squared_error(q, target, batch.weight)
        policy_loss = -self.q(batch.obs, self.policy(batch.obs)).mean()
        metrics = {
            "train/q_loss": q_loss,
            "train/policy_loss": policy_loss,
            "train/q_mean": q.mean(),
            "train/td_error": (q - target).abs(),
        }
        return {name: metric.detach() for name, metric in metrics.items()}, [
            torch.autograd.grad(q_loss, list(self.q.parameters())),
            torch.autograd.grad(policy_loss, list(self.policy.parameters())),
        ]

    @torch.no_grad()
    def next_value(self, batch: Transition) -> Tensor:
        """Q_θ̄(s', μ_φ̄(s')), [B]."""
        value: Tensor = self.target_q(batch.next_obs, self.target_policy(batch.next_obs))
        return value

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """One for each of Q and policy, in the order of `gradients`."""
        return (
            configured("q_optimizer", self.q, self.q_optimizer, self.q_scheduler),
            configured("policy_optimizer", self.policy, self.policy_optimizer, self.policy_scheduler),
        )
