"""Proximal policy optimization with the clipped objective (arXiv:1707.06347)."""

from typing import NamedTuple

import torch
from torch import Tensor

from rl_lightning.algorithms.base import Algorithm, Gradients, check_ranges, grads
from rl_lightning.algorithms.bridge import Control, EstimatorCallable, LikelihoodRatio, Weighed
from rl_lightning.algorithms.off_policy_critic import CriticCallable
from rl_lightning.algorithms.policy_gradient import PolicyGradient, in_standard_units, over_dimensions
from rl_lightning.data import RolloutDataModule, RolloutStream, check_minibatches, shuffled
from rl_lightning.functional import clipped_to_norm, explained_variance, half_squared_error
from rl_lightning.networks import MLP, NetworkCallable, PolicyAndValue
from rl_lightning.optim import FusedAdam, LRSchedulerCallable, OptimizerCallable
from rl_lightning.schedules import Schedule, scheduled
from rl_lightning.types import Obs, Rollout, Space, flat_in_time


class Samples(NamedTuple):
    """Time steps of a rollout, with all that is needed to learn from them in any order."""

    obs: Obs  # [B, *obs_shape]
    action: Tensor  # [B, *action_shape]
    old_log_prob: Tensor  # [B], under the policy that acted; [B, A] where each dimension has an advantage
    old_value: Tensor  # [B], before learning from this rollout
    advantage: Tensor  # [B], less what an estimator takes from it; or [B, A]
    returns: Tensor  # [B], what V is to become
    control: Control  # empty unless an estimator differentiates a critic


class PPO(Algorithm):
    """Several epochs of minibatches on each rollout, with the probability ratio clipped to 1 ± `clip_range`.

    Args:
        observation_space: see `rl_lightning.networks.encoders.make_encoder`.
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
        gradient_variance: measure the variance of the policy gradient, once for each rollout.
        estimator: of the policy gradient (`rl_lightning.algorithms.bridge`); all but the default ask a critic.
        critic: Q_w from replay, for the estimator; data is then a `RolloutReplayDataModule`.
        network: the body of both networks.
        policy_optimizer: steps the policy.
        value_optimizer: steps the value.
        policy_scheduler: of the policy optimizer's learning rate: an `EnvStepsLR`, or any that counts gradient steps.
        value_scheduler: likewise.
        compile: run `gradients` as one compiled graph.

    Raises:
        UsageError: a space it cannot handle, or a value out of range.
    """

    learns_from = RolloutDataModule
    acts_in = "any"
    acts_by = "networks"
    takes_critic = True

    def __init__(
        self,
        observation_space: Space,
        action_space: Space,
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
        gradient_variance: bool = False,
        estimator: EstimatorCallable = LikelihoodRatio,
        critic: CriticCallable | None = None,
        network: NetworkCallable = MLP,
        policy_optimizer: OptimizerCallable = lambda params: FusedAdam(params, lr=3e-4, eps=1e-5),
        value_optimizer: OptimizerCallable = lambda params: FusedAdam(params, lr=3e-4, eps=1e-5),
        policy_scheduler: LRSchedulerCallable | None = None,
        value_scheduler: LRSchedulerCallable | None = None,
        compile: bool = True,
    ) -> None:
        super().__init__(observation_space, action_space, gamma, compile)
        check_ranges(gae_lambda=gae_lambda, n_epochs=n_epochs, clip_range=clip_range, clip_range_vf=clip_range_vf)
        check_ranges(ent_coef=ent_coef, vf_coef=vf_coef, max_grad_norm=max_grad_norm, target_kl=target_kl)
        check_ranges(clip_range_schedule=clip_range_schedule, batch_size=batch_size)
        self.gae_lambda, self.n_epochs, self.batch_size, self.target_kl = gae_lambda, n_epochs, batch_size, target_kl
        self.clip_range, self.clip_range_schedule, self.clip_range_vf = clip_range, clip_range_schedule, clip_range_vf
        self.ent_coef, self.vf_coef, self.max_grad_norm = ent_coef, vf_coef, max_grad_norm
        self.normalize_advantage = normalize_advantage
        self.networks = PolicyAndValue(
            observation_space,
            action_space,
            network,
            state_dependent_std,
            log_std_init,
            shared_trunk,
            normalize_observations,
            gamma if normalize_returns else None,
        )
        self.gradient_variance = gradient_variance
        self.policy_gradient = PolicyGradient(self, estimator, critic)
        self.learned("policy", self.networks.policy, policy_optimizer, policy_scheduler)
        self.learned("value", self.networks.value, value_optimizer, value_scheduler)

    def act(self, obs: Obs, deterministic: bool = False) -> Tensor:
        """a ~ π(·|s), or its mode: observations [B, *obs_shape] to actions [B, *action_shape]."""
        return self.networks.act(obs, deterministic)

    def learn(self, batch: RolloutStream) -> None:
        """Algorithm 1, where N is `num_envs`, T `rollout_steps`, K `n_epochs` and M `batch_size`.

            for each iteration:
                run π_θold in N environments for T steps each
                compute the advantage estimates Â_1, ..., Â_T
                optimize L (Eq. 9) in θ, in K epochs of minibatches of M ≤ N T steps
                θ_old ← θ

        With `target_kl` an iteration ends early, once the policy is too far from the one that acted.
        """
        for rollout in batch:  # [T, N, ...]
            scaled = self.networks.scale_rewards(rollout, self.gather)
            self.policy_gradient.learn_critic(self, self.networks, batch)  # of another estimator than the paper's
            replayed = self.policy_gradient.replayed(batch, rollout.reward.numel())
            samples = self.with_advantages(scaled, replayed)  # [T N, ...]
            clip_range = self.present_clip_range()
            for minibatch in shuffled(samples, self.n_epochs, self.batch_size):
                found = self.compute_gradients(minibatch, clip_range)
                self.step("policy", found)  # up L^CLIP + c_2 S
                self.step("value", found)  # down c_1 L^VF
                self.end_gradient_step(found)
                assert found.approx_kl is not None  # KL(π_old ‖ π) at the minibatch, of all processes
                if self.target_kl is not None and found.approx_kl.item() > 1.5 * self.target_kl:
                    break
            self.networks.observe(rollout, self.gather)

    def present_clip_range(self) -> Tensor:
        """ε at this time of the run, a scalar tensor: a compiled graph is made anew for each value of a number."""
        clip_range = scheduled(self.clip_range_schedule, self.clip_range, 0.0, self.clock.progress)
        return torch.tensor(max(clip_range, 1e-6), device=self.device)

    @torch.no_grad()
    def with_advantages(self, rollout: Rollout, replayed: Obs | None = None) -> Samples:
        """Â_t by GAE and V^targ_t = Â_t + V(s_t), of a rollout [T, N, ...]; old_log_prob is of the policy that acted.

        Â_t = δ_t + γ λ Â_{t+1}, δ_t = r_t + γ V(s_{t+1}) − V(s_t) (Eq. 11 and 12), cut at the ends of episodes.

        Args:
            rollout: with the rewards to learn from.
            replayed: observations of replay [T N, *obs_shape], where the estimator takes them.
        """
        obs, action = flat_in_time(rollout.obs), rollout.action.flatten(0, 1)
        pi, value = self.networks(obs)  # value: [T N]
        advantage = self.networks.advantages(rollout, value, self.gamma, self.gae_lambda)  # [T N]
        weighed = self.policy_gradient.weigh(self.networks, advantage, pi, obs, action, replayed)
        if self.gradient_variance:
            self.metrics.update(self.policy_gradient.metrics(self.networks, obs, action, weighed, advantage))
        log_prob = self.policy_gradient.log_prob(pi, action)
        return Samples(obs, action, log_prob, value, weighed.advantage, advantage + value, weighed.control)

    def gradients(self, batch: Samples, clip_range: Tensor) -> Gradients:
        """Of −L = E[−L^CLIP + c_1 L^VF − c_2 S[π]] (Eq. 9) at one minibatch.

        r = π_θ(a|s) / π_θold(a|s), L^CLIP by Eq. 7; L^VF = ½ (V_θ(s) − V^targ)², where the paper has no ½; c_1 is
        `vf_coef`, c_2 `ent_coef`.

        Args:
            batch: time steps [B, ...].
            clip_range: ε, a scalar.
        """
        pi, value = self.networks(batch.obs)  # value: [B]
        log_ratio = self.policy_gradient.log_prob(pi, batch.action) - batch.old_log_prob  # [B], or [B, A]
        ratio = log_ratio.exp()  # [B], or [B, A]
        weighed = Weighed(batch.advantage, batch.control)
        advantage, control = in_standard_units(weighed) if self.normalize_advantage else weighed

        entropy = pi.entropy().mean()
        approx_kl = over_dimensions(ratio - 1.0 - log_ratio).mean()
        objective = clipped_surrogate(ratio, advantage, clip_range)
        policy_loss = -self.policy_gradient.corrected(objective, self.networks, pi, batch.obs, control)
        value_loss = half_squared_error(self.clipped_value(value, batch.old_value), batch.returns)
        metrics = {
            "train/policy_loss": policy_loss,
            "train/value_loss": value_loss,
            "train/entropy": entropy,
            "train/approx_kl": approx_kl,
            "train/clip_fraction": ((ratio - 1.0).abs() > clip_range).float().mean(),
            "train/v_mean": value.mean(),
            "train/explained_variance": explained_variance(batch.old_value, batch.returns),
        }
        # the policy does not enter the value's loss, nor the value the policy's: only a shared trunk sees both
        loss = policy_loss - self.ent_coef * entropy + self.vf_coef * value_loss
        policy_gradient, value_gradient = grads(loss, [self.networks.policy, self.networks.value])
        gradients = {
            "policy": clipped_to_norm(policy_gradient, self.max_grad_norm),
            "value": clipped_to_norm(value_gradient, self.max_grad_norm),
        }
        return Gradients(gradients, metrics, approx_kl=approx_kl)

    def clipped_value(self, value: Tensor, old_value: Tensor) -> Tensor:
        """V_old + clip(V − V_old, −ε_v, ε_v), ε_v being `clip_range_vf`; all [B].

        The paper does not have it. Its authors' code takes the larger of the two losses, with and without.
        """
        if self.clip_range_vf is None:
            return value
        return old_value + (value - old_value).clamp(-self.clip_range_vf, self.clip_range_vf)

    def check_data(self, data: object) -> None:
        """Refuse whole episodes, rollouts that minibatches do not divide, and replay that nothing learns from."""
        super().check_data(data)
        self.policy_gradient.check_data(data, "PPO", self.gradient_variance)
        check_minibatches(data, self.batch_size, "PPO")


def clipped_surrogate(ratio: Tensor, advantage: Tensor, clip_range: Tensor) -> Tensor:
    """L^CLIP, Eq. 7: E[min(r A, clip(r, 1 − ε, 1 + ε) A)], summed over dimensions where each has its own.

    ratio and advantage [B] or [B, A]; clip_range and result scalars.
    """
    clipped = ratio.clamp(1.0 - clip_range, 1.0 + clip_range)  # [B], or [B, A]
    return over_dimensions(torch.minimum(ratio * advantage, clipped * advantage)).mean()
