"""Proximal policy optimization with the clipped objective (arXiv:1707.06347)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, get_args

import gymnasium as gym
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from rl_lightning.algorithms.module import Algorithm, Gradients, Metrics, configured, gradients_of
from rl_lightning.data.rollout import RolloutDataModule, RolloutStream
from rl_lightning.errors import UsageError, require
from rl_lightning.functional import clipped_to_norm, explained_variance, half_squared_error, standardized
from rl_lightning.networks import MLP, NetworkCallable
from rl_lightning.optim import FusedAdam
from rl_lightning.policy_and_value import PolicyAndValue
from rl_lightning.schedules import Schedule, scheduled
from rl_lightning.types import Obs, Rollout, flat_in_time, map_obs


class Samples(NamedTuple):
    """Time steps of a rollout, with all that is needed to learn from them in any order."""

    obs: Obs  # [B, *obs_shape]
    action: Tensor  # [B, *action_shape]
    old_log_prob: Tensor  # [B], under the policy that acted
    old_value: Tensor  # [B], before learning from this rollout
    advantage: Tensor  # [B]
    returns: Tensor  # [B], what V is to become


class PPO(Algorithm):
    """Several epochs of minibatches on each rollout, with the probability ratio clipped to 1 ± `clip_range`.

    Args:
        observation_space: see `rl_lightning.encoders.make_encoder`.
        action_space: Discrete, MultiDiscrete, MultiBinary or Box.
        gamma: the discount γ, in [0, 1].
        gae_lambda: λ in [0, 1].
        n_epochs: passes over each rollout.
        batch_size: time steps of a minibatch; it must divide rollout_steps x num_envs. None takes the whole rollout.
        clip_range: how far the probability ratio may leave 1, above 0.
        clip_range_schedule: of `clip_range`, which goes to 0 over the run's environment steps unless `constant`.
        clip_range_vf: how far V may leave what it was before the rollout; None does not clip.
        normalize_advantage: to mean 0 and deviation 1 in each minibatch.
        ent_coef: weight of the policy's entropy in its loss, at least 0.
        vf_coef: weight of the value loss; it matters with a shared trunk and for gradient clipping.
        max_grad_norm: bound on the norm of each optimizer's gradients; None leaves them.
        target_kl: leave a rollout as soon as a minibatch estimates the KL divergence from the policy that acted at more
            than 1.5 times this; None never does.
        normalize_observations: real-valued ones that are no images, with running statistics.
        normalize_returns: scale rewards by the running deviation of returns.
        state_dependent_std: a Gaussian policy's deviation is a function of the observation, not one for all.
        log_std_init: log of the deviation at the start, where it is one for all.
        shared_trunk: one encoder of images for policy and value; it is then stepped by the policy's optimizer.
        network: the body of both networks.
        policy_optimizer: steps the policy.
        value_optimizer: steps the value.
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
        gae_lambda: float = 0.95,
        n_epochs: int = 10,
        batch_size: int | None = 64,
        clip_range: float = 0.2,
        clip_range_schedule: Schedule = "constant",
        clip_range_vf: float | None = None,
        normalize_advantage: bool = True,
        ent_coef: float = 0.0,
        vf_coef: float = 1.0,
        max_grad_norm: float | None = 0.5,
        target_kl: float | None = None,
        normalize_observations: bool = False,
        normalize_returns: bool = False,
        state_dependent_std: bool = False,
        log_std_init: float = 0.0,
        shared_trunk: bool = False,
        network: NetworkCallable = MLP,
        policy_optimizer: OptimizerCallable = lambda params: FusedAdam(params, lr=3e-4, eps=1e-5),
        value_optimizer: OptimizerCallable = lambda params: FusedAdam(params, lr=3e-4, eps=1e-5),
        policy_scheduler: LRSchedulerCallable | None = None,
        value_scheduler: LRSchedulerCallable | None = None,
        init_from: str | Path | None = None,
        compile: bool = True,
    ) -> None:
        super().__init__(observation_space, action_space, compile)
        require(0.0 <= gamma <= 1.0, "gamma", gamma, "give a number in [0, 1]")
        require(0.0 <= gae_lambda <= 1.0, "gae_lambda", gae_lambda, "give a number in [0, 1]")
        require(n_epochs >= 1, "n_epochs", n_epochs, "give 1 or more")
        require(batch_size is None or batch_size >= 1, "batch_size", batch_size, "give 1 or more, or null")
        require(clip_range > 0.0, "clip_range", clip_range, "give a number above 0")
        schedules = get_args(Schedule)
        require(
            clip_range_schedule in schedules, "clip_range_schedule", clip_range_schedule, f"give one of {schedules}"
        )
        require(
            clip_range_vf is None or clip_range_vf > 0.0, "clip_range_vf", clip_range_vf, "give more than 0, or null"
        )
        require(ent_coef >= 0.0, "ent_coef", ent_coef, "give 0 or more")
        require(vf_coef > 0.0, "vf_coef", vf_coef, "give a number above 0")
        require(
            max_grad_norm is None or max_grad_norm > 0.0, "max_grad_norm", max_grad_norm, "give more than 0, or null"
        )
        require(target_kl is None or target_kl > 0.0, "target_kl", target_kl, "give more than 0, or null")
        self.gamma, self.gae_lambda = gamma, gae_lambda
        self.n_epochs, self.batch_size, self.target_kl = n_epochs, batch_size, target_kl
        self.initial_clip_range, self.clip_range_schedule = clip_range, clip_range_schedule
        self.clip_range_vf, self.normalize_advantage = clip_range_vf, normalize_advantage
        self.ent_coef, self.vf_coef, self.max_grad_norm = ent_coef, vf_coef, max_grad_norm
        self.policy_optimizer, self.policy_scheduler = policy_optimizer, policy_scheduler
        self.value_optimizer, self.value_scheduler = value_optimizer, value_scheduler
        self.networks = PolicyAndValue(
            observation_space,
            action_space,
            network,
            "PPO",
            state_dependent_std,
            log_std_init,
            shared_trunk,
            normalize_observations,
            gamma if normalize_returns else None,
        )
        # a tensor, since a compiled graph is made anew for each value of a number
        self.register_buffer("clip_range", torch.tensor(clip_range), persistent=False)
        self.configure_optimizers()  # what they refuse is refused here, before anything is created
        if init_from is not None:
            self.load_weights(init_from)

    def act(self, obs: Obs, deterministic: bool = False) -> Tensor:
        """a ~ π(·|s), or its mode: observations [B, *obs_shape] to actions [B, *action_shape]."""
        return self.networks.act(obs, deterministic)

    def minibatches(self, batch: RolloutStream) -> Iterator[Samples]:
        """Of each rollout `n_epochs` passes, each in a new order; a rollout is left early by `target_kl`."""
        for rollout in batch:
            self._set_clip_range()
            samples = self.with_advantages(rollout)
            yield from self._passes(samples)
            self.networks.take_in(rollout, self.gather)

    def _passes(self, samples: Samples) -> Iterator[Samples]:
        size = len(samples.returns)
        for _ in range(self.n_epochs):
            order = torch.randperm(size, device=self.device)
            shuffled = [map_obs(lambda x, order=order: x[order], field) for field in samples]
            for start in range(0, size, self.batch_size or size):
                end = start + (self.batch_size or size)
                yield Samples(*(map_obs(lambda x, s=start, e=end: x[s:e], field) for field in shuffled))
                if self.target_kl is not None and self._approx_kl() > 1.5 * self.target_kl:
                    return

    def _approx_kl(self) -> float:
        return self._mean_over_processes((self.losses["train/approx_kl"],))[0].item()

    def _set_clip_range(self) -> None:
        clip_range = scheduled(self.clip_range_schedule, self.initial_clip_range, 0.0, self.progress)
        assert isinstance(self.clip_range, Tensor)
        self.clip_range.fill_(max(clip_range, 1e-6))

    @torch.no_grad()
    def with_advantages(self, rollout: Rollout) -> Samples:
        """Advantages by GAE, and what V is to become, of a rollout [T, N, ...]."""
        rollout = self.networks.prepared(rollout, self.gather)
        obs, action = flat_in_time(rollout.obs), rollout.action.flatten(0, 1)
        pi, value = self.networks(obs)  # value: [T N]
        advantage = self.networks.advantages(rollout, value, self.gamma, self.gae_lambda)  # [T N]
        return Samples(obs, action, pi.log_prob(action), value, advantage, returns=advantage + value)

    def gradients(self, batch: Samples) -> tuple[Metrics, Gradients]:
        """Of L^CLIP and the value's loss."""
        pi, value = self.networks(batch.obs)  # value: [B]
        log_ratio = pi.log_prob(batch.action) - batch.old_log_prob  # [B]
        ratio = log_ratio.exp()  # [B]
        advantage = standardized(batch.advantage) if self.normalize_advantage else batch.advantage  # [B]
        assert isinstance(self.clip_range, Tensor)

        entropy = pi.entropy().mean()
        policy_loss = -clipped_surrogate(ratio, advantage, self.clip_range)
        value_loss = half_squared_error(self.clipped_value(value, batch.old_value), batch.returns)
        metrics = {
            "train/policy_loss": policy_loss,
            "train/value_loss": value_loss,
            "train/entropy": entropy,
            "train/approx_kl": (ratio - 1.0 - log_ratio).mean(),
            "train/clip_fraction": ((ratio - 1.0).abs() > self.clip_range).float().mean(),
            "train/v_mean": value.mean(),
            "train/explained_variance": explained_variance(batch.old_value, batch.returns),
        }
        # the policy does not enter the value's loss, nor the value the policy's: only a shared trunk sees both
        loss = policy_loss - self.ent_coef * entropy + self.vf_coef * value_loss
        gradients = gradients_of(loss, [self.networks.policy, self.networks.value])
        return {name: metric.detach() for name, metric in metrics.items()}, [
            clipped_to_norm(own, self.max_grad_norm) for own in gradients
        ]

    def clipped_value(self, value: Tensor, old_value: Tensor) -> Tensor:
        """V within `clip_range_vf` of what it was; all [B]."""
        if self.clip_range_vf is None:
            return value
        return old_value + (value - old_value).clamp(-self.clip_range_vf, self.clip_range_vf)

    def check_data(self, data: object) -> None:
        """Refuse whole episodes, and rollouts that minibatches do not divide."""
        super().check_data(data)
        assert isinstance(data, RolloutDataModule)
        if data.rollout_steps is None:
            raise UsageError(
                "rollout_steps=None is not allowed with PPO: minibatches need rollouts of one size; give 1+"
            )
        size = data.rollout_steps * data.num_envs
        require(
            self.batch_size is None or size % self.batch_size == 0,
            "batch_size",
            self.batch_size,
            f"minibatches must divide a rollout of rollout_steps x num_envs = {size}; give a divisor of it",
        )

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """One for each network, in the order of `gradients`."""
        return (
            configured("policy_optimizer", self.networks.policy, self.policy_optimizer, self.policy_scheduler),
            configured("value_optimizer", self.networks.value, self.value_optimizer, self.value_scheduler),
        )


def clipped_surrogate(ratio: Tensor, advantage: Tensor, clip_range: Tensor) -> Tensor:
    """L^CLIP, Eq. 7: E[min(r A, clip(r, 1 − ε, 1 + ε) A)]. ratio and advantage [B]; clip_range and result scalars."""
    clipped = ratio.clamp(1.0 - clip_range, 1.0 + clip_range)  # [B]
    return torch.minimum(ratio * advantage, clipped * advantage).mean()
